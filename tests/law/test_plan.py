"""The planner. Oracle: a grid made from a planted law, so that the right answers are known."""

import json
import math

import pytest

from tinymem.errors import LawError
from tinymem.law.fit import fit_rows
from tinymem.law.plan import base_loss_at, plan_length, plan_rank, target_loss, whole

C, ALPHA, BETA, B, BASE, ENTROPY = 20.0, 0.6, 0.5, 0.5, 12.0, 7.6


def planted_row(rank, length, ratio=100, **fields):
    delta = min(C * rank**ALPHA * length**-BETA + B, BASE - 0.3)
    row = {
        "rank": rank,
        "length": length,
        "ratio": ratio,
        "base_loss": BASE,
        "final_loss": BASE - delta,
    }
    row |= {"trainable_parameters": 512 * rank, "entropy": ENTROPY, "certified": BASE - delta < 0.6}
    return row | {"delta_loss": delta, "model": "planted", "method": "sft"} | fields


ROWS = [
    planted_row(rank, length) for rank in (1, 2, 4, 8, 16) for length in (16, 32, 64, 128, 256, 512)
]


def fit_of(rows):
    (fit,), _ = fit_rows(rows, draws=200)
    return fit


@pytest.fixture(scope="module")
def planted():
    return fit_of(ROWS)


def rank_by_hand(length, loss):
    return math.ceil(((BASE - loss - B) / C * length**BETA) ** (1 / ALPHA))


def length_by_hand(rank, loss):
    return math.floor((C * rank**ALPHA / (BASE - loss - B)) ** (1 / BETA))


@pytest.mark.parametrize(("length", "loss"), [(64, 5.0), (100, 2.0), (512, 8.0)])
def test_the_rank_for_a_length_at_a_loss(planted, length, loss):
    plan = plan_rank(planted, length, loss)
    assert plan.rank == rank_by_hand(length, loss)
    assert plan.interval[0] <= plan.rank <= plan.interval[1]
    assert (plan.parameters, plan.bytes) == (512 * plan.rank, 2048 * plan.rank)
    assert plan.loss == loss and not plan.certificate and plan.right == 1.0 and not plan.warnings
    # the smallest: the law reaches the loss there, and not one rank below
    assert BASE - planted.law.predict(plan.rank, length) <= loss + 1e-6
    assert plan.rank == 1 or BASE - planted.law.predict(plan.rank - 1, length) > loss


@pytest.mark.parametrize(("rank", "loss"), [(2, 5.0), (8, 2.0), (16, 7.0)])
def test_the_length_for_a_rank_at_a_loss(planted, rank, loss):
    plan = plan_length(planted, rank, loss)
    assert plan.length == length_by_hand(rank, loss)
    assert plan.interval[0] <= plan.length <= plan.interval[1]


def test_the_two_are_each_others_inverse(planted):
    for length in (40, 90, 200):
        rank = plan_rank(planted, length, 3.0).rank
        assert plan_length(planted, rank, 3.0).length >= length
        assert rank == 1 or plan_length(planted, rank - 1, 3.0).length < length


def test_the_certificate_is_the_loss_below_which_all_cells_are_certified(planted):
    sure = max(row["final_loss"] for row in ROWS if row["certified"])
    plan = plan_rank(planted, 60)
    assert plan.certificate and plan.loss == sure == target_loss(ROWS, None)[0]
    assert plan.rank == rank_by_hand(60, sure)


def test_one_uncertified_cell_lowers_what_counts_as_certified():
    losses = {0.3: True, 0.4: True, 0.45: False, 0.5: True, 3.0: False}
    rows = [{"final_loss": loss, "certified": sure} for loss, sure in losses.items()]
    assert target_loss(rows, None) == (0.4, [])
    loss, (warning,) = target_loss(rows[2:], None)  # none certified below the first that is not
    assert loss == math.log(2) and "no certificate" in warning


def test_extrapolation_is_warned_of(planted):
    plan = plan_rank(planted, 5000, 5.0)
    assert any(
        "length 5,000 is outside the measured 16 to 512" in warning for warning in plan.warnings
    )
    assert any(f"rank {plan.rank:,} is outside" in warning for warning in plan.warnings)
    assert any("below ln 2" in warning for warning in plan_rank(planted, 64, 0.1).warnings)
    assert not plan_rank(planted, 64, 5.0).warnings


def test_the_base_loss_is_that_of_the_length():
    rows = [{"length": 10, "base_loss": 8.0}, {"length": 10, "base_loss": 10.0}]
    rows.append({"length": 1000, "base_loss": 11.0})
    assert base_loss_at(rows, 5) == 9.0 and base_loss_at(rows, 2000) == 11.0
    assert base_loss_at(rows, 100) == pytest.approx(10.0)  # half way, on a log scale
    with pytest.raises(LawError, match="no base_loss"):
        base_loss_at([{"length": 10}], 10)


def test_a_text_with_a_base_loss_of_its_own(planted):
    assert plan_rank(planted, 100, 2.0, base_loss=4.0).rank < plan_rank(planted, 100, 2.0).rank


def test_a_ratio_has_its_own_law_and_another_is_warned_of():
    rows = ROWS + [
        planted_row(row["rank"], row["length"], 0, delta_loss=row["delta_loss"] / 2) for row in ROWS
    ]
    rows = [row | {"final_loss": row["base_loss"] - row["delta_loss"]} for row in rows]
    fit = fit_of(rows)
    assert plan_rank(fit, 60, 8.0, ratio=0).rank > plan_rank(fit, 60, 8.0, ratio=100).rank
    assert plan_rank(fit, 60, 8.0, ratio=100).rank == rank_by_hand(60, 8.0)
    (warning,) = plan_rank(fit, 60, 8.0, ratio=50).warnings
    assert "0 %, 100 %" in warning and "50 %" in warning


def test_the_constant_bits_answer_by_hand():
    """κ = 0.5: rank 1 holds 512 · 0.5 = 256 bits. From 7.6 down to 3 nats, 60 tokens need
    60 · 4.6 / ln 2 = 398 bits, so rank 2.
    """
    rows = []
    for rank in (1, 2, 4):
        for length in (64, 128, 256):
            delta = min(BASE - ENTROPY + 0.5 * 512 * rank * math.log(2) / length, BASE - 0.3)
            rows.append(planted_row(rank, length, delta_loss=delta, final_loss=BASE - delta))
    fit = fit_of(rows)
    plan = plan_rank(fit, 60, 3.0)
    assert plan.constant_bits == math.ceil(60 * (ENTROPY - 3) / math.log(2) / 256) == 2
    assert plan_length(fit, 2, 3.0).constant_bits == math.floor(2 * 256 * math.log(2) / 4.6) == 77
    assert plan_length(fit, 2, ENTROPY).constant_bits is None  # nothing is left to be learned


def test_json_has_no_infinity(planted):
    json.dumps(plan_rank(planted, 100).as_dict(), allow_nan=False)
    assert whole("rank", math.inf) is None and whole("rank", 3.0000000001) == 3
    assert whole("rank", 3.1) == 4 and whole("rank", 0.0) == 1
    assert whole("length", 0.2) == 0 and whole("length", math.nan) is None


@pytest.mark.parametrize("loss", [-1.0, math.nan, math.inf])
def test_a_loss_that_is_not_valid(planted, loss):
    with pytest.raises(LawError, match="nats per token"):
        plan_rank(planted, 10, loss)
