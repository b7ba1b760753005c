"""What the checks use to judge an answer: conditions with a message, and the kinds of values.

A check that shows two things gives points for the first if the second fails: `keeps` is the share
of its points that a hand-in has earned by then.
"""

import contextlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from .values import Other


class Failed(pytest.fail.Exception):
    """A condition that does not hold. `keeps` is the share of the points that is kept."""

    keeps = 0.0


def require(condition: object, message: str, keeps: float = 0.0) -> None:
    """Fails with the message unless the condition holds."""
    if not condition:
        failed = Failed(message, pytrace=False)
        failed.keeps = keeps
        raise failed


def first_of(hints: dict[str, bool]) -> str:
    """The first mistake that applies, as a sentence to add to a message."""
    return next((f". {hint}" for hint, applies in hints.items() if applies), "")


def kind_of(value: object) -> str:
    if value is None:
        return "None (is a `return` missing?)"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Other):
        return f"{value.kind} {value.text!r}"
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
    listed = [i.item() if getattr(i, "ndim", None) == 0 else i for i in listed]
    fits = all(isinstance(i, (int, np.integer)) for i in listed)
    require(fits, f"{what} should be a list of integers, not {kind_of(value)}")
    return [int(i) for i in listed]


def number(value: object, what: str) -> float:
    single = isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0
    fits = single or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
    converted = None
    with contextlib.suppress(OverflowError, TypeError, RuntimeError):  # 10**400, 2j
        converted = float(value) if fits else None
    require(converted is not None, f"{what} should be a number, not {kind_of(value)}")
    return converted


def truth(value: object, what: str) -> bool:
    single = isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim == 0
    fits = single or isinstance(value, bool)
    require(fits, f"{what} should return True or False, not {kind_of(value)}")
    return bool(value)


def not_plain(value: object, kinds: tuple[type, ...]) -> str:
    """What is wrong with the type of a value, or nothing. A list is one of integers."""
    if type(value) not in kinds:
        return f"is {kind_of(value)}, not {kinds[0].__name__}"
    inside = [one for one in value if type(one) is not int] if kinds == (list,) else []
    return f"is a list with {kind_of(inside[0])}, not a list of int" if inside else ""


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
