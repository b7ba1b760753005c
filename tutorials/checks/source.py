"""Reads the text of a hand-in: a Python file, or the cells of a notebook with the tag `answer`."""

import json
from pathlib import Path

SIZE = 2**20  # bytes; a hand-in is much shorter
TAG = "answer"


class Refused(Exception):
    """A file that cannot be graded, with the reason in one sentence."""


def find(answers: Path, name: str) -> Path:
    """The file of one part: `answers` itself, or the file or notebook of this name in a folder."""
    if not answers.is_dir():
        return answers
    found = [path for path in (answers / f"{name}.py", answers / f"{name}.ipynb") if path.is_file()]
    if len(found) == 1:
        return found[0]
    both = f"{name}.py and {name}.ipynb"
    raise Refused(f"{both} are both there. Hand in one of them" if found else f"{both} are missing")


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
    return from_notebook(path.name, text) if path.suffix == ".ipynb" else text


def from_notebook(name: str, text: str) -> str:
    """The code of the tagged cells, in order."""
    try:
        notebook = json.loads(text)
        cells = notebook["cells"]
        tagged = [
            (number, cell["source"])
            for number, cell in enumerate(cells, start=1)
            if cell["cell_type"] == "code" and TAG in cell.get("metadata", {}).get("tags", [])
        ]
        codes = [(n, code if isinstance(code, str) else "".join(code)) for n, code in tagged]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"{name} is not a notebook (version 4)") from error
    if not codes:
        message = f"{name} has no code cell with the tag `{TAG}`. Tag the cells that hold your"
        raise Refused(f"{message} answers, or hand in a .py file")
    for number, code in codes:
        for line in code.splitlines():
            if line.lstrip().startswith(("%", "!")):
                message = f"Cell {number} of {name} has a line for the notebook only"
                raise Refused(f"{message}: {line.strip()[:60]}. Remove it")
    return "\n\n".join(f"# Cell {number}\n{code}" for number, code in codes) + "\n"
