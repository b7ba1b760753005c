"""The values that pass between the grader and the code of a student, as JSON and never as a pickle.

Numbers, texts, lists, tuples, dicts, tensors, arrays, random generators, paths and functions pass
and arrive as copies. MODEL and TOKENIZER stand for the shipped model: the other side makes its own
copy. Whatever else a student returns arrives as `Other`, which only says what it was.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Shipped:
    """Stands for a fresh copy of the shipped model, or for its tokenizer."""

    what: str


MODEL, TOKENIZER = Shipped("model"), Shipped("tokenizer")


@dataclass(frozen=True)
class Other:
    """A value that does not pass: the name of its type, and the beginning of its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Raised:
    """An exception of the student's code, in one sentence."""

    text: str


def pack(value: object, functions: list[Callable] | None = None) -> Any:
    """A value as JSON. Functions are appended to `functions`, and pass as their index in it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, range)):
        return ["list", [pack(v, functions) for v in value]]
    if isinstance(value, tuple):
        return ["tuple", [pack(v, functions) for v in value]]
    if isinstance(value, dict):
        return ["dict", [[pack(k, functions), pack(v, functions)] for k, v in value.items()]]
    if isinstance(value, torch.Tensor) and value.layout == torch.strided:
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return ["tensor", str(value.dtype).removeprefix("torch."), [*value.shape], text_of(data)]
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufc":
        array = np.asarray(value)
        return ["array", array.dtype.str, [*array.shape], text_of(array.tobytes())]
    if isinstance(value, torch.Generator):
        return ["generator", text_of(value.get_state().numpy().tobytes())]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, Shipped):
        return ["shipped", value.what]
    if callable(value) and functions is not None:
        functions.append(value)
        return ["function", len(functions) - 1]
    return ["other", type(value).__name__, str(value)[:60]]


def unpack(
    packed: Any,
    function: Callable[[int], object] | None = None,
    shipped: Callable[[str], object] = Shipped,
) -> Any:
    """The value again. `function` turns an index into a function, `shipped` a name into a copy."""
    if not isinstance(packed, list):
        return packed
    kind, *rest = packed
    if kind in ("list", "tuple"):
        values = [unpack(v, function, shipped) for v in rest[0]]
        return values if kind == "list" else tuple(values)
    if kind == "dict":
        pairs = ([unpack(one, function, shipped) for one in pair] for pair in rest[0])
        return {as_key(key): value for key, value in pairs}
    if kind == "tensor":
        dtype, shape, data = rest
        flat = torch.frombuffer(bytearray(bytes_of(data)) or bytearray(1), dtype=torch.uint8)
        kind_of = getattr(torch, dtype, None)
        if not isinstance(kind_of, torch.dtype):
            return Other("Tensor", dtype)
        return flat.view(kind_of).reshape(shape) if data else torch.empty(shape, dtype=kind_of)
    if kind == "array":
        dtype, shape, data = rest
        return np.frombuffer(bytes_of(data), np.dtype(dtype)).reshape(shape).copy()
    if kind == "generator":
        generator = torch.Generator()
        generator.set_state(torch.frombuffer(bytearray(bytes_of(rest[0])), dtype=torch.uint8))
        return generator
    if kind == "path":
        return Path(rest[0])
    if kind == "shipped":
        return shipped(rest[0])
    if kind == "function" and function is not None:
        return function(rest[0])
    return Other(*rest)


def as_key(value: object) -> object:
    """A key of a dict; a value that cannot be one becomes a text."""
    return value if isinstance(value, (str, int, float, tuple, type(None))) else str(value)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def bytes_of(text: str) -> bytes:
    return base64.b64decode(text)
