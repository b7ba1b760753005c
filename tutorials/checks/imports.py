"""Reads the source of a hand-in: what do its functions use, above all of tinymem?"""

import ast
from collections.abc import Collection, Iterable, Iterator

ALLOWED = {"tinymem.load", "tinymem.Model"}
OWNED = {"tinymem", "checks", "tests"}  # the packages that have the answers


def taken_from_tinymem(source: str, names: Collection[str], others: Collection[str]) -> list[str]:
    """What the definitions of `names` take from tinymem, with all that they use.

    `tinymem.load` and `tinymem.Model` are allowed. Definitions of `others` are not followed.
    """
    bound = bindings(source)
    imports = imported([node for nodes in bound.values() for node in nodes])
    taken = {imports["*"]: None} if is_taken(imports.get("*", "")) else {}
    known, waiting = {*others, *names}, list(names)
    while waiting:
        name = waiting.pop()
        for node in bound.get(name, ()):
            used = [imports.get(name, name), *paths(node, imports | imported(ast.walk(node)))]
            taken |= dict.fromkeys(path for path in used if is_taken(path))
            new = {path for path in used if path not in known}
            known |= new
            waiting += sorted(new)
    return list(taken)


def bindings(source: str) -> dict[str, list[ast.stmt]]:
    """For each name, the statements that give a value to it."""
    bound: dict[str, list[ast.stmt]] = {}
    for node in statements(ast.parse(source).body):
        for name in names_of(node):
            bound.setdefault(name, []).append(node)
    return bound


def statements(body: list) -> Iterator[ast.stmt]:
    """The statements outside of functions and classes, also those inside of `if` and the like."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody", "handlers"):
                yield from statements(getattr(node, block, []))


def names_of(node: ast.AST) -> list[str]:
    """The names that a statement gives a value to."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return list(imported([node]))
    stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return [n.id for n in stored if isinstance(n.ctx, ast.Store)]


def imported(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """{"tm": "tinymem", "judge": "tinymem.judge", …}: what imports give to names."""
    found = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for a in node.names:
                first = a.name.partition(".")[0]
                found[a.asname or first] = a.name if a.asname else first
        elif isinstance(node, ast.ImportFrom):
            for a in node.names:
                found[a.asname or a.name] = f"{node.module}.{a.name}"
    return found


def paths(node: ast.AST, imports: dict[str, str]) -> Iterator[str]:
    """The names that a statement uses. A name of tinymem is given in full."""
    inside = set()
    for part in ast.walk(node):  # an attribute comes before the name that it belongs to
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            path = imports.get(part.value.id, "")
            if is_owned(path):
                inside.add(part.value)
                yield f"{path}.{part.attr}"
        elif isinstance(part, ast.Name) and part not in inside:
            path = imports.get(part.id, "")
            yield path if is_owned(path) else part.id
        elif isinstance(part, ast.Constant) and "." in str(part.value) and is_owned(part.value):
            yield str(part.value)  # as in importlib.import_module("tinymem.training")


def is_owned(path: object) -> bool:
    return str(path).partition(".")[0] in OWNED


def is_taken(path: str) -> bool:
    return is_owned(path) and path not in ALLOWED


def names_used(source: str, name: str) -> set[str]:
    """All names and attributes in the definition of `name`, and in the definitions it uses."""
    bound, used, waiting = bindings(source), {name}, [name]
    while waiting:
        for part in (p for node in bound.get(waiting.pop(), ()) for p in ast.walk(node)):
            for field in ("id", "attr", "name"):  # of names, attributes and imports
                new = {str(getattr(part, field, name))} - used
                used |= new
                waiting += sorted(new)
    return used
