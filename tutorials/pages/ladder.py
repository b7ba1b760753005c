"""The contracts of the ladder, read from mymem.py, as Markdown."""

import ast
from pathlib import Path

from .lessons import HERE, LESSONS
from .notebooks import HEADING

LADDER = HERE / "mymem.py"


def contracts(path: Path = LADDER) -> str:
    """For each rung a heading, its lesson and commands, and the contract of each function."""
    source = path.read_text(encoding="utf-8")
    lines, parts = source.splitlines(), []
    headings = {source[: m.start()].count("\n") + 1: m[1] for m in HEADING.finditer(source)}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for line in sorted(line for line in headings if line < node.lineno):
            parts.append(introduction(headings.pop(line)))
        parts.append(contract(node, lines))
    return "\n\n".join(parts) + "\n"


def introduction(heading: str) -> str:
    """The heading of a rung with links to its lessons, and its commands."""
    title, _, where = heading.partition(" (")
    text = f"## {title}"
    if title.startswith("Rung "):
        mark = "rung" + title.removeprefix("Rung ").partition(":")[0]
        numbers = [n for n in where.rstrip(")").replace("lessons", "lesson").split() if n.isdigit()]
        names = {path.stem[:2]: path.name for path in LESSONS}
        links = " and ".join(f"[lesson {n}]({names[n.zfill(2)]})" for n in numbers)
        text += f"\n\nAfter {links}. Check it with `pytest tutorials -m {mark}`; "
        text += f"`python tutorials/hint.py {mark}` gives a first hint."
    return text


def contract(node: ast.FunctionDef | ast.ClassDef, lines: list[str]) -> str:
    """The head of a function or class as code, and its docstring as text; methods below it."""
    docstring, inner = ast.get_docstring(node) or "", node.body
    head = "\n".join(lines[node.lineno - 1 : inner[0].lineno - 1]).rstrip()
    indent = " " * node.col_offset
    head = "\n".join(line.removeprefix(indent) for line in head.splitlines()).removesuffix(":")
    methods = [contract(one, lines) for one in inner if isinstance(one, ast.FunctionDef)]
    return "\n\n".join([f"```python\n{head}\n```", docstring, *methods])
