"""The checks of exercise 7: the student's test of a sweep is tried on sweeps with planted bugs."""

import functools
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from checks import scenarios_exercises as scenarios
from checks.grading import require
from checks.hand_in import HandIn
from checks.sweeps import BUGS, Sweeps
from checks.values import Raised

DRAWN = 6
# The sweeps run in the grader's process, so what they may be asked for is limited.
CELLS, RANK, LENGTH = 300, 32, 64
OUTSIDE = "check_sweep may use folders inside of `folder` only, not"
GRIDS = f"the ranks should be from 1 to {RANK}, the lengths from 1 to {LENGTH}, and all grids of"
GRIDS += f" one test together should have at most {CELLS} cells"


def guarded(sweep: Callable, folder: Path, generator: np.random.Generator) -> Callable:
    """The sweep as check_sweep gets it. It returns its rows in another order each time."""
    cells = 0

    def run(where, *grid):
        nonlocal cells
        if not Path(where).resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{OUTSIDE} {where}")
        ranks, lengths, seeds = grid = [[int(one) for one in values] for values in grid]
        cells += max(1, math.prod(map(len, grid)))
        fits = all(1 <= rank <= RANK for rank in ranks)
        if cells > CELLS or not fits or not all(1 <= length <= LENGTH for length in lengths):
            raise ValueError(GRIDS)
        rows = sweep(where, ranks, lengths, seeds)
        return [rows[i] for i in generator.permutation(len(rows))]

    return run


def complaint(answers: HandIn, sweep: Callable, generator: np.random.Generator) -> str | None:
    """What the student's test raises for this sweep: any exception, as in pytest."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given = guarded(sweep, Path(folder), generator), Path(folder)
        out = answers.run(scenarios.check_of_a_sweep, *given, catch=True)
    return out.text if isinstance(out, Raised) else None


def drawn_bugs(seed: int) -> list[str]:
    return np.random.default_rng(seed).permutation(BUGS)[:DRAWN].tolist()


@functools.lru_cache(maxsize=1)  # for all checks of a hand-in
def complaints(answers: HandIn, seed: int) -> dict[str, str | None] | pytest.fail.Exception:
    """What the student's test raises for each of the drawn bugs, and for a sweep that works.

    The latter is called as often as all the others, in a drawn order: a test that guesses, or that
    counts its calls, fails for it sooner or later.
    """
    generator = np.random.default_rng([seed, DRAWN])
    found: dict[str, str | None] = {}
    try:
        for name in generator.permutation(drawn_bugs(seed) + ["good"] * DRAWN).tolist():
            found[name] = found.get(name) or complaint(answers, getattr(Sweeps(), name), generator)
    except pytest.fail.Exception as failed:  # not written yet, or stopped
        return failed
    return found


@pytest.mark.ex7
@pytest.mark.parametrize("bug", range(DRAWN))
def test_ex7_a_bug_is_caught(answers, seed, bug):
    """A test that fails for every sweep would catch every bug, so the good one has to pass."""
    found, name = complaints(answers, seed), drawn_bugs(seed)[bug]
    if isinstance(found, pytest.fail.Exception):
        raise found
    message = f"Your test fails for a sweep that works, so no bug counts: {found['good']}"
    require(not found["good"], message)
    require(found[name], f"Your test passes for a sweep that {getattr(Sweeps, name).__doc__}")
