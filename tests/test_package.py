"""The installed package: what it declares, what it ships, and where it can be imported.

Oracles: the imports that the source files contain, the metadata of the installation, and a fresh
Python process that is started in a folder where a clone of the project lies.
"""

import ast
import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import tinymem as tm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinymem"
INIT = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs `code` in a new process in `folder`, which sees only what is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def is_editable() -> bool:
    """Whether tinymem is installed with `pip install -e`, from this very clone."""
    try:
        origin = metadata.distribution("tinymem").read_text("direct_url.json") or "{}"
    except metadata.PackageNotFoundError:
        return False
    source = json.loads(origin)
    editable = source.get("dir_info", {}).get("editable", False)
    return editable and source["url"] == ROOT.as_uri()


def third_parties() -> set[str]:
    """Top-level modules that tinymem imports and that neither Python nor tinymem brings."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def declared(extra: str | None = None) -> set[str]:
    """Packages that pyproject.toml names, in `dependencies` or in one of the extras."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    pattern = rf"^{extra or 'dependencies'} = \[(.*?)\]$"
    (block,) = re.findall(pattern, text, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'"([\w-]+)', block))


def test_what_is_imported_is_declared_and_the_other_way_round():
    assert third_parties() == declared() | declared("plot")


def test_the_package_never_imports_its_oracles():
    assert not third_parties() & {"transformers", "peft"}


@pytest.mark.skipif(not is_editable(), reason="tinymem is not installed with `pip install -e`")
def test_import_works_from_the_folder_that_holds_the_clone(tmp_path):
    """A folder named tinymem in the working directory must not hide the installed package."""
    (tmp_path / "tinymem").symlink_to(ROOT, target_is_directory=True)
    done = run_python("import tinymem as tm; print(tm.__file__, tm.fit_law.__name__)", tmp_path)
    assert done.stdout.split() == [str(PACKAGE / "__init__.py"), "fit_law"], done.stderr
    files = [str(path) for path in metadata.files("tinymem") or []]
    assert any(name.endswith(".pth") for name in files)
    assert not any(name.endswith(".py") for name in files)  # an import hook would come too late


def test_importing_tinymem_and_its_help_do_not_load_torch(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import tinymem, tinymem.cli.app"
    done = run_python(f"{code}; print('torch' in sys.modules)", tmp_path)
    assert done.stdout.strip() == "False", done.stderr


def test_the_package_ships_its_model_and_says_that_it_is_typed():
    shipped = {path.name for path in (PACKAGE / "tiny").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= shipped
    assert (PACKAGE / "py.typed").is_file()


# --- The public names ------------------------------------------------------------------------


def names_for_type_checkers() -> dict[str, str]:
    """Public name -> module, from the imports under `if TYPE_CHECKING:` in `__init__.py`."""
    (block,) = (node for node in INIT.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    for node in imports:  # `as` with the same name is what exports a name (PEP 484)
        assert all(alias.name == alias.asname for alias in node.names), ast.unparse(node)
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_names_for_editors_are_the_names_that_are_imported_on_first_use():
    assert names_for_type_checkers() == tm._HOME


def test_every_public_name_is_found_and_others_are_refused():
    for name, module in tm._HOME.items():
        assert getattr(tm, name).__module__ == f"tinymem.{module}", name
    assert dir(tm) == sorted(tm.__all__)
    with pytest.raises(AttributeError, match="module 'tinymem' has no attribute 'nonsense'"):
        tm.nonsense  # noqa: B018


def test_python_m_tinymem_is_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tinymem", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "probe" in done.stdout and not done.stderr
