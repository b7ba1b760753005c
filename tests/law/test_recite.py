"""Plans by the recall law. Oracles: planted limits, the chance itself, fresh planted runs."""

import json
import math
from functools import partial

import numpy as np
import pytest

from tinymem.errors import LawError
from tinymem.law.fit import fit_rows
from tinymem.law.recall import recall_of
from tinymem.law.recite import (
    chance,
    largest_length,
    promises,
    recite_length,
    recite_rank,
    smallest_rank,
)

LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)


def rows_of(per_rank=20.0, exponent=1.0, s=12.0, ranks=(2, 3, 4, 6), seeds=3, seed=0, **fields):
    """Rows in which half of the runs recite per_rank · 4 · (rank / 4)^exponent tokens."""
    random, rows = np.random.default_rng(seed), []
    for rank, length in ((r, n) for r in ranks for n in LENGTHS for _ in range(seeds)):
        p = planted(rank, length, per_rank, exponent, s)
        row = {"rank": rank, "length": length, "recall_exact": bool(random.random() < p)}
        row |= {"trainable_parameters": 512 * rank, "entropy": 7.6, "delta_loss": 5.0}
        rows.append(row | {"method": "sft", "ratio": 100} | fields)
    return rows


def planted(rank, length, per_rank=20.0, exponent=1.0, s=12.0):
    return 1 / (1 + (length / (4 * per_rank * (rank / 4) ** exponent)) ** s)


def fit_of(rows):
    return fit_rows(rows, draws=5)[0][0]


@pytest.fixture(scope="module")
def fit():
    return fit_of(rows_of())


@pytest.mark.parametrize("length", [40, 60, 90])
def test_the_smallest_rank(fit, length):
    plan = recite_rank(fit, length)
    assert plan.probability == chance(fit.recall, plan.rank, length) >= 0.9
    assert chance(fit.recall, plan.rank - 1, length) < 0.9
    truth = length / 20 * 9 ** (1 / 12)  # where the planted curve is at 90 %
    assert truth <= plan.rank <= 1.25 * truth + 1
    assert plan.interval[0] <= plan.rank <= plan.interval[1]
    assert (plan.parameters, plan.bytes) == (512 * plan.rank, 2048 * plan.rank)
    assert list(plan.by_rank) == list(range(max(1, plan.rank - 2), plan.rank + 3))
    assert plan.by_rank[plan.rank] == plan.probability
    json.dumps(plan.as_dict(), allow_nan=False)


def test_the_largest_length_is_its_inverse(fit):
    for rank in (2, 5):
        plan = recite_length(fit, rank)
        assert plan.probability >= 0.9 > chance(fit.recall, rank, plan.length + 1)
        assert recite_rank(fit, plan.length).rank == rank
        assert plan.interval[0] < plan.length < plan.interval[1] and plan.by_rank == {}


def test_more_certainty_needs_a_larger_rank(fit):
    ranks = [smallest_rank(fit.recall, 150, share) for share in (0.1, 0.5, 0.9, 0.99)]
    assert ranks == sorted(ranks) and ranks[0] < ranks[-1]


def test_ranks_that_hold_more_per_parameter():
    """Half of the runs of rank r recite 80 (r / 4)^1.7 tokens: rank 2 recites 25, rank 6 159."""
    fit = fit_of(rows_of(exponent=1.7))
    low, high = fit.recall.ci["rank_exponent"]
    assert 1 < low < 1.7 < high and 1.4 < fit.recall.rank_exponent < 2.1
    length_of = partial(largest_length, fit.recall, recite=0.9)
    for rank in (2, 6):
        limit = 80 * (rank / 4) ** 1.7
        assert 0.65 * limit < length_of(rank) < limit
    # beyond the largest measured rank, no more per parameter is promised than there
    assert length_of(60) <= 10.1 * length_of(6)
    # and below the smallest one, less
    assert length_of(1) < 0.5 * length_of(2)


def test_one_rank_says_less_about_another_one():
    fit = fit_of(rows_of(ranks=(4,), seeds=9))
    assert fit.recall.rank_exponent is None and "rank_exponent" not in fit.recall.ci
    assert largest_length(fit.recall, 2, 0.9) < 0.5 * largest_length(fit.recall, 4, 0.9)


@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_what_is_promised_comes_true(exponent):
    """Of 20 sweeps of 36 runs: fresh runs at the lengths planned for 90 % recite that often or
    more, because the grid of lengths is coarse and the prior allows flat curves.
    """
    shares = []
    for seed in range(20):
        law = recall_of(rows_of(exponent=exponent, seeds=1, seed=seed))
        for rank in (2, 3, 5):
            shares.append(planted(rank, largest_length(law, rank, 0.9), exponent=exponent))
    assert 0.88 < np.mean(shares) < 0.99


def test_promises_by_hand():
    """Each of two ranks recites 8 tokens per rank and not 40: the other one promises just that."""

    def row(rank, per_rank, recited):
        fields = {"rank": rank, "length": rank * per_rank, "recall_exact": recited}
        return fields | {"trainable_parameters": 512 * rank}

    loads = (4, 5, 6, 8, 40, 50, 60, 80)
    good = [row(rank, load, load < 20) for rank in (2, 4) for load in loads for _ in range(4)]
    assert promises(good, 0.8) == (32, 32)
    weak = [one | {"recall_exact": one["recall_exact"] and one["rank"] == 2} for one in good]
    assert promises(weak, 0.8) == (0, 16)  # rank 2 promises what rank 4 does not recite
    assert promises(good[:32], 0.8) is None  # there is no other rank


def test_warnings(fit):
    assert not recite_rank(fit, 64).warnings
    assert "length 2,000 is outside the measured 16 to 256" in recite_rank(fit, 2000).warnings[1]
    (warning,) = recite_rank(fit, 64, ratio=0).warnings
    assert warning == "the runs recited 100 % random tokens, not 0 %"


def test_a_ratio_has_a_curve_of_its_own():
    text = rows_of(per_rank=40, ratio=0, entropy=None)
    fit = fit_of([*rows_of(), *text])
    plans = [recite_length(fit, 4, ratio=ratio) for ratio in (0, 100)]
    assert plans[0].length > 1.5 * plans[1].length and not plans[0].warnings
    assert plans[1].length == recite_length(fit_of(rows_of()), 4).length


def test_no_rank_is_enough():
    """A length that does not grow with the rank."""
    fit = fit_of(rows_of(exponent=0.0))
    plan = recite_rank(fit, 3000)
    assert plan.rank is None and plan.probability is None and plan.by_rank == {}
    assert any("no rank is outside" in warning for warning in plan.warnings)


def test_plans_that_cannot_be_made(fit):
    for share in (0, 1, 1.5, math.nan):
        with pytest.raises(LawError, match="between 0 and 1"):
            recite_rank(fit, 9, share)
    rows = [row | {"recall_exact": True} for row in rows_of()]
    rows = [row | {"delta_loss": 8 * (row["rank"] / row["length"]) ** 0.5} for row in rows]
    with pytest.raises(LawError, match="all 108 runs are recited"):
        recite_rank(fit_of(rows), 9)
    mixed = [*rows_of(ranks=(2,)), *rows_of(ranks=(4,), trainable_parameters=999)]
    with pytest.raises(LawError, match="different numbers of parameters"):
        recite_rank(fit_of(mixed), 9)
