"""Calls the functions of a hand-in and checks what they return.

A hand-in is one file. It may fail to import, lack a function, raise an exception, never return, or
return a value of the wrong type. None of these stops the grading of the other checks, and each is
reported to the student in one sentence.
"""

import contextlib
import functools
import importlib.util
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tinymem as tm

# What a hand-in may raise that is not a subclass of Exception.
UNUSUAL = (SystemExit, pytest.fail.Exception, pytest.skip.Exception)


class TooLong(BaseException):
    """Raised when the time is up. An answer that catches Exception does not catch it."""


@contextlib.contextmanager
def limited(seconds: int):
    """Raises TooLong after this many seconds. Has no effect on Windows, which lacks SIGALRM."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Answers:
    """The file with the answers of one student."""

    def __init__(self, path: Path, limit: int):
        self.path, self.limit, self.endless = path, limit, set()

    def load(self) -> str | None:
        """Imports the file. If this fails, returns the reason."""
        spec = importlib.util.spec_from_file_location("answers", self.path)
        self.module = sys.modules["answers"] = importlib.util.module_from_spec(spec)
        try:
            with limited(self.limit):
                spec.loader.exec_module(self.module)
        except TooLong:
            reason = f"the import did not end within {self.limit} s. Is there an endless loop?"
            return f"{self.path.name} cannot be imported: {reason}"
        except (Exception, *UNUSUAL) as error:
            return f"{self.path.name} cannot be imported: {self.explain(error)}"

    def explain(self, error: BaseException) -> str:
        """The exception and the line of the hand-in that raised it, without the grader's lines."""
        lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
        what = lines[-1][:400]
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return f"{what} (line {error.lineno}: {(error.text or '').strip()})"
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        return f"{what} (line {own[-1].lineno}: {own[-1].line})" if own else what

    def call(self, name: str, *args, catch: bool = False):
        """What the function `name` returns. With `catch`, its exception is returned instead."""
        function, file = getattr(self.module, name, None), self.path.name
        require(callable(function), f"{file} has no function {name}. Do not rename the functions")
        try:
            if name in self.endless:
                raise TooLong
            with limited(self.limit):
                return function(*map(own_copy, args))
        except TooLong:
            self.endless.add(name)
            message = f"{name} was stopped after {self.limit} s. Is there an endless loop?"
        except (Exception, *UNUSUAL) as error:
            if isinstance(error, NotImplementedError) and str(error).startswith("Exercise"):
                message = f"not done yet: {error}"
            elif catch:
                return error
            else:
                message = f"{name} raised {self.explain(error)}"
        pytest.fail(message, pytrace=False)


def own_copy(value: object) -> object:
    """A copy of an argument, so that an answer may change it."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value.copy() if isinstance(value, (list, np.ndarray)) else value


# --- Checking a returned value --------------------------------------------------------------------


def require(condition: object, message: str) -> None:
    if not condition:
        pytest.fail(message, pytrace=False)


def first_of(hints: dict[str, bool]) -> str:
    """The first mistake that applies, as a sentence to add to a message."""
    return next((f". {hint}" for hint, applies in hints.items() if applies), "")


def kind_of(value: object) -> str:
    if value is None:
        return "None (is a `return` missing?)"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {str(value)[:60]!r}"


def several(value: object, count: int, what: str) -> Sequence:
    """A tuple, a list or an array of `count` values."""
    fits = isinstance(value, (tuple, list, np.ndarray)) and len(value) == count
    require(fits, f"Expected {what}, a tuple of {count} values, but got {kind_of(value)}")
    return value


def tensor(value: object, shape: Sequence[int], what: str) -> torch.Tensor:
    require(isinstance(value, torch.Tensor), f"{what} should be a tensor, not {kind_of(value)}")
    seen = list(value.shape)
    require(seen == list(shape), f"{what} should have the shape {list(shape)}, not {seen}")
    require(not value.is_complex(), f"{what} should have real numbers, not complex ones")
    return value


def whole_numbers(value: object, what: str) -> list[int]:
    listed = value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value
    listed = list(listed) if isinstance(listed, (list, tuple, range)) else [None]
    fits = all(isinstance(i, (int, np.integer)) for i in listed)
    require(fits, f"{what} should be a list of integers, not {kind_of(value)}")
    return [int(i) for i in listed]


def number(value: object, what: str) -> float:
    single = isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0
    fits = single or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
    require(fits, f"{what} should be a number, not {kind_of(value)}")
    return float(value)


def truth(value: object, what: str) -> bool:
    single = isinstance(value, torch.Tensor) and value.ndim == 0
    fits = single or isinstance(value, (bool, np.bool_))
    require(fits, f"{what} should return True or False, not {kind_of(value)}")
    return bool(value)


def near(value: float, expected: float, within: float = 1e-6) -> bool:
    """Relative to the expected value if that is above 1; never true for nan."""
    return abs(value - expected) <= within * max(1.0, abs(expected))


def apart(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference."""
    return (value.detach().double() - expected.double()).abs().max().item()


def require_close(
    value: torch.Tensor, expected: torch.Tensor, message: str, within: float = 1e-5
) -> None:
    far = apart(value, expected)
    require(far <= within, f"{message} (largest difference {far:.3g}, allowed {within:g})")


def rounded(values: torch.Tensor) -> list[float]:
    """The values as they appear in a message."""
    return [round(v, 4) for v in values.tolist()]


# --- What the checks need -------------------------------------------------------------------------


@functools.cache
def shipped():
    """The shipped model and its tokenizer, loaded once."""
    return tm.load("tiny", device="cpu")


class Watch(TorchDispatchMode):
    """Records the names of torch's operations and the size of the largest tensor they create."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return out
