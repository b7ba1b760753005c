"""The shape of the project: which package may import which, and how long things may get.

Oracle: Python's own parser, which finds every import and every parameter, also inside functions.
"""

import ast
import inspect
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinymem as tm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinymem"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py"))
COURSE = sorted({*(ROOT / "tutorials").rglob("*.py")} - {ROOT / "tutorials" / "reference.py"})

# The packages in reading order. `tools` is for what surrounds the core; it need not exist.
ORDER = ["base", "data", "unit", "training", "experiment", "law", "show", "tools", "cli"]
LOOSE = {"errors", "files", "shown", "system"}  # modules at the top that every package may import
MAY_IMPORT = {package: set(ORDER[:number]) | LOOSE for number, package in enumerate(ORDER)}
MAY_IMPORT["experiment"] -= {"law"}
MAY_IMPORT["law"] = {"errors", "shown"}
MAY_IMPORT |= {"errors": set(), "shown": set(), "system": set(), "files": {"errors", "system"}}
MAY_IMPORT |= {"__main__": {"cli"}, "__init__": set(ORDER)}
MAY_IMPORT["__init__"] |= {"errors"}

CORE = [
    *("base/model", "data/memory", "data/batch", "unit/lora"),
    *("training/recipe", "training/memft", "training/loss", "training/trainer", "training/train"),
    *("experiment/recall", "experiment/probe", "law/power"),
]
IDEAS = [
    *("data/memory", "unit/lora", "training/memft", "training/loss", "training/trainer"),
    *("experiment/recall", "law/power"),
]


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    """`tinymem/law/power.py` -> "law.power"; a package is named by its `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {module_name(path): path for path in FILES}


def imports(name: str) -> set[str]:
    """Modules of tinymem that a module imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(tree(MODULES[name])):
        if isinstance(node, ast.Import):
            absolute = [alias.name for alias in node.names if alias.name.startswith("tinymem")]
            assert not absolute, f"{name}: {absolute}; imports inside the package are relative"
        if not isinstance(node, ast.ImportFrom):
            continue
        assert not (node.module or "").startswith("tinymem"), f"{name}: use a relative import"
        if node.level == 0:
            continue
        start = name.split(".")[: -node.level] + (node.module.split(".") if node.module else [])
        for alias in node.names:  # `from . import x` may name a module, or something in __init__
            candidates = [[*start, alias.name], start, [*start, "__init__"]]
            module = next(c for c in map(".".join, candidates) if c in MODULES)
            if module == "__init__":  # the other names there would hide which package they are of
                assert alias.name == "__version__", f"{name}: import {alias.name} from its module"
            found.add(module)
    return found - {name}


def count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def functions(path: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef)]


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


# --- Imports ---------------------------------------------------------------------------------


def test_the_packages_are_those_of_the_reading_order():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages | {"tools"} == set(ORDER)
    assert {path.stem for path in PACKAGE.glob("*.py")} == LOOSE | {"__init__", "__main__"}
    assert all(len(name.split(".")) <= 2 for name in MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_a_package_imports_only_what_stands_before_it(name):
    own = name.split(".")[0]
    allowed = MAY_IMPORT[own] | ({own} if own in ORDER else set()) | {"__init__"}
    wrong = {other for other in imports(name) if other.split(".")[0] not in allowed}
    assert not wrong, f"{name} imports {wrong}; allowed are {sorted(allowed)}"


def test_what_shows_objects_is_reached_from_below_in_two_places_only():
    """`show_module` imports by name, which the parser cannot see."""
    users = {n for n, path in MODULES.items() if "show_module" in path.read_text(encoding="utf-8")}
    assert users == {"shown", "base.progress"}


def test_no_circle_between_files():
    graph = {name: imports(name) - {"__init__"} for name in MODULES}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_parameter_has_a_type(path):
    """Without one, a function could call an object of a later package unseen."""
    core = path.parent.name in ORDER[: ORDER.index("law")]
    for function in functions(path):
        a = function.args
        for p in [*a.posonlyargs, *a.args, *a.kwonlyargs]:
            known = p.annotation or p.arg in ("self", "cls")
            loose = core and known and p.annotation and ast.unparse(p.annotation) == "Any"
            place = f"{where(path, function)} {function.name}({p.arg})"
            assert known and not (loose and p.arg != "ctx"), place  # ctx: of an autograd function
        assert all(p.annotation for p in (a.vararg, a.kwarg) if p), where(path, function)


# --- Sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_short(path):
    assert count_lines(path) <= 300
    for function in functions(path):
        length = function.end_lineno - function.lineno + 1
        assert length <= 60, f"{where(path, function)} {function.name} has {length} lines"


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_files_and_functions_of_the_course_are_short(path):
    assert count_lines(path) <= 300
    for function in functions(path):
        length = function.end_lineno - function.lineno + 1
        assert length <= 70, f"{where(path, function)} {function.name} has {length} lines"


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_test_files_are_short(path):
    assert count_lines(path) <= 500


def test_the_core_can_be_read_in_an_afternoon():
    paths = [PACKAGE / f"{name}.py" for name in CORE]
    assert sum(map(count_lines, paths)) <= 2000


# --- Explanations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "package", sorted(PACKAGE.glob("*/__init__.py")), ids=lambda p: p.parent.name
)
def test_a_package_says_what_it_holds_and_imports_nothing(package):
    assert len(tree(package).body) == 1  # the docstring, and no statement beside it
    text = ast.get_docstring(tree(package))
    assert text.count(".") >= 3
    for path in package.parent.glob("*.py"):
        if path != package:
            assert re.search(rf"\b{path.stem}\b", text), (
                f"{package.parent.name}: no word of {path.stem}"
            )


@pytest.mark.parametrize("name", IDEAS)
def test_files_that_carry_the_idea_begin_with_a_glossary(name):
    text = ast.get_docstring(tree(PACKAGE / f"{name}.py"))
    assert re.search(r"^Glossary.*\n    \S", text, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_module_says_what_it_holds(path):
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("name", sorted(set(tm.__all__) - {"__version__"}))
def test_public_names_say_what_they_are(name):
    doc = inspect.getdoc(getattr(tm, name))
    assert doc and not doc.startswith(f"{name}(")  # not the one that a dataclass makes by itself


# --- The README ------------------------------------------------------------------------------

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_the_packages_in_reading_order():
    listed = re.findall(r"^\| `(\w+)/` \|", README, re.MULTILINE)
    assert listed == [package for package in ORDER if (PACKAGE / package).is_dir()]


def test_two_set_up_lines_on_the_first_screen():
    lines = [n for n, line in enumerate(README.splitlines()) if line.startswith("pip install -e ")]
    assert len(lines) == 2 and max(lines) < 30


def test_the_readmes_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README):
        assert (ROOT / target).exists(), target


def test_the_readmes_python_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out.startswith("True 0.")  # certified, and bits per parameter
    assert names["ids"][0].tolist() == list(names["memory"].target_ids)
