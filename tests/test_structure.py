"""The shape of the project: reading order, direction of imports, and what the README promises of it."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import tinymem as tm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinymem"
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = re.findall(r"^\| `(\w+)\.py` \|", README, re.MULTILINE)  # modules, in reading order


def imported(path: Path) -> set[str]:
    """Modules of the package that a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= {node.module} if node.module else {alias.name for alias in node.names}
    return found - {"__version__"}


def test_the_readme_lists_every_file_once():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert sorted(TABLE) == sorted(files)


def test_imports_go_up_the_reading_order_only():
    for number, name in enumerate(TABLE):
        later = imported(PACKAGE / f"{name}.py") - set(TABLE[:number])
        assert not later, f"{name}.py imports {later}, which the README's table lists after it"


def test_the_package_never_imports_its_oracles():
    for path in PACKAGE.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(import|from)\s+(transformers|peft)\b", text, re.MULTILINE), path


@pytest.mark.parametrize("name", ["memory", "lora", "memft", "loss", "train", "recall", "law"])
def test_files_that_carry_the_idea_begin_with_a_glossary(name):
    text = (PACKAGE / f"{name}.py").read_text(encoding="utf-8")
    assert re.search(r"^Glossary.*\n    \S", ast.get_docstring(ast.parse(text)), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(tm.__all__) - {"__version__"}))
def test_public_names_say_what_they_are(name):
    doc = inspect.getdoc(getattr(tm, name))
    assert doc and not doc.startswith(f"{name}(")  # not the one that a dataclass makes by itself


def test_two_set_up_lines_on_the_first_screen():
    lines = [n for n, line in enumerate(README.splitlines()) if line.startswith("pip install -e ")]
    assert len(lines) == 2 and max(lines) < 30


def test_the_readme_names_every_field_of_a_report_and_every_option():
    from typer.main import get_command

    from tests.cli.test_cli import FIELDS
    from tinymem.cli.app import app

    words = set(re.findall(r"`([\w-]+)`?", README))
    assert not FIELDS - words
    commands = dict(get_command(app).commands)
    commands |= {f"data {name}": command for name, command in commands.pop("data").commands.items()}
    for name, command in commands.items():
        for option in command.params:
            for flag in option.opts:
                if flag.startswith("--") and flag != "--help":
                    assert re.search(rf"[` ]{flag}\b", README), f"{name} {flag}"


def test_the_readmes_python_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert capsys.readouterr().out.startswith("True 0.")  # certified, and bits per parameter
    assert names["ids"][0].tolist() == list(names["memory"].target_ids)
