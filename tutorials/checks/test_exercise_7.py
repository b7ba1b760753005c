"""The checks of exercise 7: the student's test of a sweep is tried on sweeps with planted bugs."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from checks.grading import require
from checks.hand_in import HandIn
from checks.sweeps import BUGS, Sweeps
from checks.values import Raised

DRAWN = 5


def complaint(answers: HandIn, sweep: Callable) -> Raised | None:
    """What the student's test raises for this sweep: any exception, as in pytest."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # An anonymous function, so that its name says nothing about the bug.
        out = answers.call("check_sweep", lambda *grid: sweep(*grid), Path(folder), catch=True)
    return out if isinstance(out, Raised) else None


def require_that_good_passes(error: Raised | None) -> None:
    require(error is None, f"Your test fails for a sweep that works: {error and error.text}")


@pytest.mark.ex7
def test_ex7_a_sweep_that_works_passes(answers):
    require_that_good_passes(complaint(answers, Sweeps().good))


@pytest.mark.ex7
@pytest.mark.parametrize("bug", range(DRAWN))
def test_ex7_a_bug_is_caught(answers, seed, bug):
    broken = getattr(Sweeps(), np.random.default_rng(seed).permutation(BUGS)[bug])
    # A test that fails for every sweep would catch every bug, so it has to pass for a good one. The
    # order is drawn, so that counting the calls does not tell which of the two it is.
    order = np.random.default_rng([seed, bug]).permutation(2)
    error, caught = None, None
    for place in order:
        if place:
            caught = complaint(answers, broken)
        else:
            error = complaint(answers, Sweeps().good)
    require_that_good_passes(error)
    require(caught, f"Your test passes for a sweep that {broken.__doc__}")
