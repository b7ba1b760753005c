"""Makes notebooks of the lessons and of the files that a student edits, and executes them."""

import ast
import hashlib
import json
import os
import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import jupytext
import nbclient
import nbformat
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from .lessons import CourseError

LONGEST = 900  # seconds that one cell may take
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
HEADING = re.compile(r"^# --- (.*?) -+$", re.MULTILINE)
HAND_IN = """
You may hand in this notebook instead of the file. The cells with the tag `answer` are graded, as if
they stood one below the other in the file; other cells are for your own experiments. If a graded
cell needs a new cell, give it the tag, too: JupyterLab shows tags in its property inspector. The
commands above check the file. To check this notebook, save it and add its path to them:

    pytest tutorials -m {mark} --answers=PATH/{name}.ipynb
"""
MARKS = {"mymem": "rung1", "exercises": "ex2"}  # an example for each


def digest(notebook: NotebookNode) -> str:
    cells = [[one.cell_type, one.source, one.metadata.get("tags")] for one in notebook.cells]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def write(notebook: NotebookNode, path: Path) -> None:
    """Writes the notebook, with a record of its cells that shows later whether they were edited."""
    notebook.metadata["tinymem"] = {"cells": digest(notebook)}
    nbformat.write(notebook, path)


def is_edited(path: Path) -> bool:
    """Whether there is a notebook that is not as it was written: it holds somebody's work."""
    if not path.is_file():
        return False
    try:
        there = nbformat.read(path, as_version=4)
        return there.metadata["tinymem"]["cells"] != digest(there)
    except (ValueError, KeyError, TypeError, AttributeError):  # of another origin
        return True


def lesson_notebook(lesson: Path) -> NotebookNode:
    """The lesson as a notebook, not executed."""
    notebook = jupytext.reads(lesson.read_text(encoding="utf-8"), fmt="py:percent")
    return finished(notebook.cells, lesson.stem)


def portable(notebook: NotebookNode) -> NotebookNode:
    """A copy whose links lead to the other notebooks; links to other files become plain text."""
    copy = deepcopy(notebook)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            linked = re.sub(r"\]\((\d\d_\w+)\.py(#[^)]*)?\)", r"](\1.ipynb)", cell.source)
            elsewhere = r"(?<!!)\[([^]]*)\]\((?!\w+:|#|\w+\.ipynb)[^)]*\)"
            cell.source = re.sub(elsewhere, r"\1", linked)
    return copy


def finished(cells: list[NotebookNode], name: str) -> NotebookNode:
    """A valid notebook of these cells, whose ids are the same in every build."""
    for index, cell in enumerate(cells):
        tags = cell.metadata.get("tags")
        cell.id, cell.metadata = f"{name[:40]}-{index}", {"tags": tags} if tags else {}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata=KERNEL)
    nbformat.validate(notebook)
    return notebook


def answer_notebook(path: Path) -> NotebookNode:
    """exercises.py or mymem.py as a notebook: a tagged cell for each function."""
    text = path.read_text(encoding="utf-8")
    lines, tree = text.splitlines(), ast.parse(text)
    docstring, *nodes = tree.body
    cells = [nbformat.v4.new_markdown_cell(introduction(ast.get_docstring(tree), path.stem))]
    before = docstring.end_lineno
    for node, following in zip(nodes, [*nodes[1:], None], strict=True):
        own = isinstance(node, ast.FunctionDef | ast.ClassDef)
        joined = following and not own and not isinstance(following, ast.FunctionDef | ast.ClassDef)
        if joined:
            continue
        source = "\n".join(lines[before : node.end_lineno]).strip()
        for heading in HEADING.findall(source):
            cells.append(nbformat.v4.new_markdown_cell(f"## {heading}"))
        source = HEADING.sub("", source).strip()
        cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["answer"]}))
        before = node.end_lineno
    return finished(cells, path.stem)


def introduction(docstring: str, name: str) -> str:
    """The docstring of the file as Markdown, with its first line as the title."""
    title, _, rest = docstring.partition("\n")
    return f"# {title}\n{rest}\n{HAND_IN.format(name=name, mark=MARKS[name])}".strip()


def execute(
    notebook: NotebookNode, name: str, folder: Path, fast: bool, done: Callable[[float], None]
) -> None:
    """Runs the notebook in `folder` and keeps the outputs. `done` gets the share that is finished.

    Raises CourseError with the lesson, the cell and the error in one line.
    """
    settings = {key: value for key, value in os.environ.items() if key != "TINYMEM_FAST"}
    settings |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    settings |= {"TINYMEM_FAST": "1"} if fast else {}
    at = 0

    def note(cell: NotebookNode, cell_index: int, **_: object) -> None:
        nonlocal at
        at = cell_index
        done(cell_index / len(notebook.cells))

    client = nbclient.NotebookClient(
        notebook,
        timeout=LONGEST,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_start=note,
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no notes of the kernel on stderr
    )
    try:
        client.execute(env=settings)
    except CellExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".splitlines()[0]
        raise CourseError(f"{name}, {place(notebook, at)}: {reason}") from error
    except CellTimeoutError as error:
        raise CourseError(f"{name}, {place(notebook, at)}: longer than {LONGEST} s") from error
    except DeadKernelError as error:
        raise CourseError(f"{name}, {place(notebook, at)}: the Python process died") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    done(1.0)


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Without the bars of progress, which are empty in the end, and with prints in one piece."""
    kept: list[NotebookNode] = []
    for output in outputs:
        if output.get("data", {}).get("text/html") == "":
            continue
        before = kept[-1] if kept else None
        if before and before.get("name", "") == output.get("name"):
            before.text += output.text
        else:
            kept.append(output)
    return kept


def place(notebook: NotebookNode, at: int) -> str:
    """`cell 7 (Run)`: the number of the cell, and the heading above it."""
    prose = "\n".join(cell.source for cell in notebook.cells[:at] if cell.cell_type == "markdown")
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return f"cell {at + 1}" + (f" ({headings[-1]})" if headings else "")
