"""Reads the source of a hand-in: what do its functions use, above all of tinymem?

This reminds a student of the rule. Code that wants to hide what it takes can do so.
"""

import ast
from collections.abc import Collection, Iterable, Iterator

ALLOWED = {"tinymem", "tinymem.load", "tinymem.Model", "tinymem.Tokenizer", "tinymem.Memory"}
OWNED = {"tinymem", "checks", "tests"}  # the packages that have the answers
BY_NAME = {"exec", "eval", "globals", "vars", "__import__", "import_module"}  # reach anything
BY_NAME |= {"sys.modules", "__globals__", "__builtins__"}
ATTRIBUTES = {"__globals__", "import_module"}  # of any object; model.eval() and .modules() are fine


def taken_from_tinymem(source: str, names: Collection[str], others: Collection[str]) -> list[str]:
    """What the definitions of `names` take from tinymem, with all that they use.

    ALLOWED is allowed, and so is everything in annotations and docstrings. Definitions of `others`
    are not followed.
    """
    bound = bindings(source)
    imports = imported([node for nodes in bound.values() for node in nodes])
    taken = {imports["*"]: None} if is_taken(imports.get("*", "")) else {}
    known, waiting = {*others, *names}, list(names)
    while waiting:
        name = waiting.pop()
        for node in bound.get(name, ()):
            inside = imported(ast.walk(node))
            local = local_names(node)
            used = [path for path in paths(node, imports | inside) if path not in local]
            used += inside.values()
            taken |= dict.fromkeys(path for path in used if is_taken(path))
            new = {path for path in used if path not in known}
            known |= new
            waiting += sorted(new)
    return list(taken)


def bindings(source: str) -> dict[str, list[ast.stmt]]:
    """For each name, the statements that may give a value to it or change its value."""
    bound: dict[str, list[ast.stmt]] = {}
    for node in statements(ast.parse(source).body):
        for name in names_of(node):
            bound.setdefault(name, []).append(node)
    return bound


def statements(body: list) -> Iterator[ast.stmt]:
    """The statements outside of functions and classes, also those inside of `if` and the like."""
    for node in body:
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            continue  # if __name__ == "__main__": is never run by the grader
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from statements(getattr(node, block, []))


def names_of(node: ast.AST) -> list[str]:
    """The names that a statement gives a value to or changes, as `found` in found.append(1)."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        declared = [n.names for n in ast.walk(node) if isinstance(n, ast.Global)]
        return [node.name, *(name for names in declared for name in names)]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return list(imported([node]))
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.func
    head = (n for n in ast.iter_child_nodes(node) if not isinstance(n, ast.stmt))
    parts = (n for one in head for n in ast.walk(one))  # a statement inside counts for itself
    stored = (n for n in parts if isinstance(getattr(n, "ctx", None), ast.Store))
    roots = map(root_of, [*stored, call])
    return [root.id for root in roots if isinstance(root, ast.Name)]


def local_names(node: ast.AST) -> set[str]:
    """The arguments and variables of a function, or of the functions of a class."""
    if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return set()
    parts = list(ast.walk(node))
    stored = {n.id for n in parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    stored |= {n.arg for n in parts if isinstance(n, ast.arg)}
    return stored - {name for n in parts if isinstance(n, ast.Global) for name in n.names}


def root_of(node: object) -> object:
    """`a` of a.b[0].c"""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node


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
    for part in code_of(node):  # an attribute comes before the name that it belongs to
        if isinstance(part, ast.Attribute) and part.attr in ATTRIBUTES:
            yield part.attr
        elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            path = imports.get(part.value.id, "")
            if is_owned(path) or f"{path}.{part.attr}" in BY_NAME:
                inside.add(part.value)
                yield f"{path}.{part.attr}"
        elif isinstance(part, ast.Name) and part not in inside:
            path = imports.get(part.id, "")
            # A module that is passed on, as in getattr(tm, "fit_law"), may give anything.
            yield f"{path}.*" if is_owned(path) and path in OWNED else path or part.id


def code_of(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement without its annotations."""
    waiting = [node]
    while waiting:
        part = waiting.pop(0)
        yield part
        for field, value in ast.iter_fields(part):
            if field not in ("annotation", "returns"):
                values = value if isinstance(value, list) else [value]
                waiting += [one for one in values if isinstance(one, ast.AST)]


def is_owned(path: object) -> bool:
    return str(path).partition(".")[0] in OWNED


def is_taken(path: str) -> bool:
    return path in BY_NAME or (is_owned(path) and path not in ALLOWED)


def names_used(source: str, name: str) -> set[str]:
    """The names that the definition of `name`, with all that it uses, takes from modules.

    What the hand-in defines does not count: it may be called like a function of a library.
    """
    bound, known, waiting, used = bindings(source), {name}, [name], set[str]()
    imports = imported([node for nodes in bound.values() for node in nodes])
    while waiting:
        for node in bound.get(waiting.pop(), ()):
            all_imports = imports | imported(ast.walk(node))
            for part in ast.walk(node):
                root = root_of(part)
                path = all_imports.get(root.id) if isinstance(root, ast.Name) else None
                if path and isinstance(part, ast.Attribute):
                    used.add(part.attr)
                elif path:
                    used.add(path.rpartition(".")[2])
            new = {*paths(node, all_imports)} - known - local_names(node)
            known |= new
            waiting += sorted(new)
    return used
