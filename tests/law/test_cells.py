"""Cells that cannot be used: each message says what is wrong and what to do."""

import math

import numpy as np
import pytest

from tests.law.planted import LENGTHS, RANKS
from tinymem.errors import LawError
from tinymem.law.power import PowerLaw, fit_law

GRID = PowerLaw(20, 0.6, 0.7, 0.5).predict(RANKS, LENGTHS)


@pytest.mark.parametrize(
    ("ranks", "lengths", "deltas", "options", "words"),
    [
        (
            RANKS[RANKS < 4],
            LENGTHS[RANKS < 4],
            GRID[RANKS < 4],
            {},
            "3 different ranks, found 1 and 2; add ranks",
        ),
        (RANKS[:5], LENGTHS[:5], GRID[:5], {}, "3 different lengths, found 32; add lengths"),
        (
            [1, 2, 4, 8],
            [9, 8, 4, 6],
            [1, 2, 4, 3],
            {},
            r"4 constants need at least 5 cells, found 4.*no-offset",
        ),
        (
            [1, 2, 4],
            [9, 8, 4],
            [1, 2, 4],
            {"offset": False},
            "3 constants need at least 4 cells, found 3",
        ),
        (RANKS, LENGTHS, GRID, {"saturated": [True] * 25}, "none of 25 runs is unsaturated"),
        ([], [], [], {}, "none of 0 runs"),
        (
            RANKS,
            LENGTHS,
            GRID,
            {"saturated": RANKS > 2},
            r"found 1 and 2; add ranks \(15 saturated runs",
        ),
        (
            RANKS,
            LENGTHS,
            np.r_[0, -1, math.nan, math.inf, GRID[4:]],
            {},
            "found 25 ranks.*26 delta_losses",
        ),
        (
            RANKS,
            LENGTHS,
            np.r_[0, -1, math.nan, math.inf, GRID[4:25]],
            {},
            "4 of 25 delta_losses are missing, infinite or not above 0; leave those runs out",
        ),
        (RANKS, LENGTHS, 1e200 * GRID, {}, r"delta_losses are from .*e\+20.; expected from 1e-12"),
        (RANKS, LENGTHS, 1e-15 * GRID, {}, r"delta_losses are from .* to .*; expected from 1e-12"),
        ([10**400] * 25, LENGTHS, GRID, {}, "must be numbers"),
        (RANKS, [[1], [1, 2]], GRID, {}, "must be numbers"),
        (RANKS, LENGTHS[1:], GRID, {}, "found 25 ranks, 24 lengths, 25 delta_losses; every run"),
        (RANKS, LENGTHS, GRID, {"saturated": [True]}, "1 saturated"),
        (RANKS - 1, LENGTHS, GRID, {}, "5 of 25 ranks are missing, infinite or not above 0"),
        (RANKS, np.r_[math.nan, LENGTHS[1:]], GRID, {}, "1 of 25 lengths are missing"),
        (["one"] * 25, LENGTHS, GRID, {}, "must be numbers"),
        (RANKS[:5].repeat(5), 8 * RANKS[:5].repeat(5), GRID, {}, "change together"),
    ],
)
def test_refusals(ranks, lengths, deltas, options, words):
    if words.startswith("found 25 ranks.*26"):
        deltas = np.r_[deltas, 1.0]
    with pytest.raises(LawError, match=words) as error:
        fit_law(ranks, lengths, deltas, **options)
    assert "\n" not in str(error.value)


def test_the_smallest_grids_that_are_enough():
    law = fit_law([1, 2, 4, 1], [9, 8, 4, 20], [1, 2, 4, 0.5], offset=False)
    assert law.n == 4 and law.leave_one_rank_out is None
    assert law.ci["alpha"][0] < law.alpha < law.ci["alpha"][1]
    law = fit_law([1, 2, 4, 1, 8], [9, 8, 4, 20, 7], [1, 2, 4, 0.5, 4.2])
    assert law.n == 5 and all(math.isfinite(end) for pair in law.ci.values() for end in pair)


def test_a_saturated_cell_that_is_left_out_may_be_anything():
    deltas, full = GRID.copy(), RANKS == 16
    deltas[full] = [math.nan, -1, 0, math.inf, 5]
    law = fit_law(RANKS, LENGTHS, deltas, saturated=full, draws=2)
    assert law.constants == pytest.approx((20, 0.6, 0.7, 0.5), rel=1e-6)
    with pytest.raises(LawError, match="4 of 25 delta_losses"):
        fit_law(RANKS, LENGTHS, deltas)
