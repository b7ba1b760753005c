"""Calling an answer, and making sure of what it gave: whatever is wrong is told in a sentence.

A hand-in is one file. It may be impossible to import, lack a function, raise, never end or return something
of the wrong kind; none of that may stop the grading of the rest, or look like a mistake of the checks.
"""

import contextlib
import importlib.util
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

UNUSUAL = (
    SystemExit,
    pytest.fail.Exception,
    pytest.skip.Exception,
)  # what is raised but no Exception


class TooLong(BaseException):
    """No Exception either: an answer that catches those should not catch this one."""


@contextlib.contextmanager
def limited(seconds: int):
    """Raises TooLong after so many seconds, where the system has alarms (not on Windows)."""
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
    """The file with the answers."""

    def __init__(self, path: Path, limit: int):
        self.path, self.limit, self.endless = path, limit, set()

    def load(self) -> str | None:
        """Imports the file; returns why that is not possible."""
        spec = importlib.util.spec_from_file_location("answers", self.path)
        self.module = sys.modules["answers"] = importlib.util.module_from_spec(spec)
        try:
            with limited(self.limit):
                spec.loader.exec_module(self.module)
        except TooLong:
            return f"{self.path.name} was still being imported after {self.limit} seconds: an endless loop?"
        except (Exception, *UNUSUAL) as error:
            return f"{self.path.name} cannot be imported: {self.explain(error)}"

    def explain(self, error: BaseException) -> str:
        """What was raised, and by which line of the file; without the grader's own lines."""
        what = (
            "".join(traceback.format_exception_only(type(error), error))
            .strip()
            .splitlines()[-1][:400]
        )
        if isinstance(error, SyntaxError) and error.filename == str(self.path):
            return f"{what} (line {error.lineno}: {(error.text or '').strip()})"
        own = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(self.path)]
        return f"{what} (line {own[-1].lineno}: {own[-1].line})" if own else what

    def call(self, name: str, *args, catch: bool = False):
        """What the function `name` of the file returns; with `catch`, or the exception that it raises."""
        function = getattr(self.module, name, None)
        require(
            callable(function),
            f"{self.path.name} has no function {name}; keep the names as they are",
        )
        try:
            if name in self.endless:
                raise TooLong
            with limited(self.limit):
                return function(*map(own_copy, args))
        except TooLong:
            self.endless.add(name)
            message = f"{name} was stopped after {self.limit} seconds: an endless loop?"
        except (Exception, *UNUSUAL) as error:
            if isinstance(error, NotImplementedError) and str(error).startswith("Exercise"):
                message = f"not done yet: {error}"
            elif catch:
                return error
            else:
                message = f"{name} raised {self.explain(error)}"
        pytest.fail(message, pytrace=False)


def own_copy(value: object) -> object:
    """For an answer to change as it likes."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value.copy() if isinstance(value, (list, np.ndarray)) else value


# --- What came back --------------------------------------------------------------------------------


def require(condition: object, message: str) -> None:
    if not condition:
        pytest.fail(message, pytrace=False)


def first_of(hints: dict[str, bool]) -> str:
    """The first mistake that was seen, to be said after a message."""
    return next((f". {hint}" for hint, seen in hints.items() if seen), "")


def kind_of(value: object) -> str:
    if value is None:
        return "None (is a `return` missing?)"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{type(value).__name__} {str(value)[:60]!r}"


def several(value: object, count: int, what: str) -> Sequence:
    """So many values, in a tuple, a list or an array."""
    fits = isinstance(value, (tuple, list, np.ndarray)) and len(value) == count
    require(fits, f"expected {what}, a tuple of {count}; it is {kind_of(value)}")
    return value


def tensor(value: object, shape: Sequence[int], what: str) -> torch.Tensor:
    require(isinstance(value, torch.Tensor), f"{what} should be a tensor; it is {kind_of(value)}")
    seen = list(value.shape)
    require(seen == list(shape), f"{what} should have the shape {list(shape)}, it has {seen}")
    require(not value.is_complex(), f"{what} should be real numbers, they are complex")
    return value


def whole_numbers(value: object, what: str) -> list[int]:
    listed = value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value
    listed = list(listed) if isinstance(listed, (list, tuple, range)) else [None]
    fits = all(isinstance(i, (int, np.integer)) for i in listed)
    require(fits, f"{what} should be a list of whole numbers; it is {kind_of(value)}")
    return [int(i) for i in listed]


def number(value: object, what: str) -> float:
    single = isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0
    fits = single or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
    require(fits, f"{what} should be a number; it is {kind_of(value)}")
    return float(value)


def truth(value: object, what: str) -> bool:
    fits = isinstance(value, (bool, np.bool_)) or (
        isinstance(value, torch.Tensor) and value.ndim == 0
    )
    require(fits, f"{what} should say True or False, not {kind_of(value)}")
    return bool(value)


def near(value: float, expected: float, within: float = 1e-6) -> bool:
    """Relative to the expected value if that is above 1; never for nan."""
    return abs(value - expected) <= within * max(1.0, abs(expected))


def apart(value: torch.Tensor, expected: torch.Tensor) -> float:
    return (value.detach().double() - expected.double()).abs().max().item()


def require_close(
    value: torch.Tensor, expected: torch.Tensor, message: str, within: float = 1e-5
) -> None:
    far = apart(value, expected)
    require(far <= within, f"{message} (largest difference {far:.3g}, allowed {within:g})")
