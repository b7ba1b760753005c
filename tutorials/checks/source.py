"""Reads the text of a hand-in: a Python file, or the cells of a notebook with the tag `answer`."""

import ast
import json
import re
from pathlib import Path

from .imports import bindings

SIZE = 2**20  # bytes; a hand-in is much shorter
TAG = "answer"
MARK = "# Cell "  # above the code of each cell


class Refused(Exception):
    """A file that cannot be graded, with the reason in one sentence."""


def find(answers: Path, name: str) -> Path:
    """The file of one part: `answers` itself, or the file or notebook of this name in a folder."""
    if not answers.is_dir():
        return answers
    found = [path for path in (answers / f"{name}.py", answers / f"{name}.ipynb") if path.is_file()]
    if len(found) == 2 and is_published(found[0]):
        return found[1]
    if len(found) == 2:
        raise Refused(f"{name}.py and {name}.ipynb are both there. Hand in one of them")
    if not found:
        raise Refused(f"neither {name}.py nor {name}.ipynb is there")
    return found[0]


def is_published(path: Path) -> bool:
    """Whether this is a copy of the course's own file, in which nothing was written."""
    own = Path(__file__).parents[1] / path.name
    copied = own.is_file() and not own.samefile(path)
    return copied and own.read_bytes().split() == path.read_bytes().split()


def read(path: Path) -> str:
    """The Python code of a hand-in. Raises Refused."""
    try:
        if path.stat().st_size > SIZE:
            raise Refused(f"{path.name} has more than {SIZE // 2**20} MB. Were outputs left in it?")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Refused(f"{path.name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{path.name} is not a text in UTF-8") from error
    if not text.strip():
        raise Refused(f"{path.name} is empty")
    return from_notebook(path.name, text) if path.suffix == ".ipynb" else text


def code_cells(notebook: dict) -> list[tuple[int, bool, str]]:
    """Of each cell of code its number, whether it has the tag, and its code."""
    return [
        (number, TAG in cell.get("metadata", {}).get("tags", []), "".join(cell["source"]))
        for number, cell in enumerate(notebook["cells"], start=1)
        if cell["cell_type"] == "code"
    ]


def from_notebook(name: str, text: str) -> str:
    """The code of the tagged cells, in order."""
    try:
        codes = [(number, code) for number, tag, code in code_cells(json.loads(text)) if tag]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{name} is not a notebook (version 4)") from error
    if not codes:
        message = f"{name} has no code cell with the tag `{TAG}`. Tag the cells that hold your"
        raise Refused(f"{message} answers, or hand in a .py file")
    for number, code in codes:
        lines = [] if is_python(code) else code.splitlines()  # Python has the operator %, too
        for line in lines:
            if line.lstrip().startswith(("%", "!")):
                message = f"Cell {number} of {name} has a line for the notebook only"
                raise Refused(f"{message}: {line.strip()[:60]}. Remove it")
    return "\n\n".join(f"{MARK}{number}\n{code}" for number, code in codes) + "\n"


def is_python(code: str) -> bool:
    try:
        return bool(ast.parse(code))
    except (SyntaxError, ValueError, RecursionError):
        return False


def names_in(cell: str) -> set[str]:
    """The names that a cell gives a value to."""
    lines = [line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        return {*bindings("\n".join(lines))}
    except (SyntaxError, ValueError, RecursionError):
        return set()


def in_cells(message: str, path: Path, code: str) -> str:
    """A message about a notebook: with cells in place of lines of the code, and with the cell
    without a tag that binds the missing name, if that is the mistake.
    """
    if path.suffix != ".ipynb":
        return message

    def cell(match: re.Match) -> str:
        before = code.splitlines()[: int(match[1])]
        starts = [n for n, line in enumerate(before) if line.startswith(MARK)] or [0]
        number = before[starts[-1]].removeprefix(MARK)
        return f"cell {number}, line {len(before) - 1 - starts[-1]}: "

    message = re.sub(r"(?:(?<=\()|(?<= in ))line (\d+): ", cell, message)
    missing = re.search(r"name '(\w+)' is not defined|has no function (\w+)", message)
    for number, tag, text in code_cells(json.loads(path.read_text(encoding="utf-8-sig"))):
        if missing and not tag and (name := missing[1] or missing[2]) in names_in(text):
            where = f"`{name}` is in cell {number}, which is not graded: it has no tag `{TAG}`"
            return f"{message} ({where})"
    return message
