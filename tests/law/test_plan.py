"""The planner. Oracle: a grid made from a planted law, so that the right answers are known."""

import json
import math

import numpy as np
import pytest

from tinymem.errors import LawError
from tinymem.law.fit import fit_rows
from tinymem.law.plan import (
    base_loss_at,
    plan_length,
    plan_rank,
    probability_of,
    reached,
    whole,
)

C, ALPHA, BETA, B, BASE, ENTROPY = 20.0, 0.6, 0.5, 0.5, 12.0, 7.6


def rank_to_certify(length):
    return (length / 13) ** 0.8


def planted_row(rank, length, ratio=100, **fields):
    delta = min(C * rank**ALPHA * length**-BETA + B, BASE - 0.3)
    row = {
        "rank": rank,
        "length": length,
        "ratio": ratio,
        "base_loss": BASE,
        "final_loss": BASE - delta,
    }
    row |= {"trainable_parameters": 512 * rank, "entropy": ENTROPY}
    p = 1 / (1 + (rank_to_certify(length) / rank) ** 6)
    row |= {"min_probability": p, "certified": p > 0.5}
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


@pytest.mark.parametrize(("length", "loss"), [(64, 5.0), (100, 3.0), (512, 8.0)])
def test_the_rank_for_a_length_at_a_loss(planted, length, loss):
    plan = plan_rank(planted, length, loss)
    assert plan.rank == rank_by_hand(length, loss)
    assert plan.interval[0] <= plan.rank <= plan.interval[1]
    assert (plan.parameters, plan.bytes) == (512 * plan.rank, 2048 * plan.rank)
    assert plan.loss == loss and not plan.certificate and not plan.warnings
    assert plan.by_rank[plan.rank] == plan.probability > 0.99
    assert plan.by_rank.get(plan.rank - 1, 0.0) < 0.01
    # the smallest: the law reaches the loss there, and not one rank below
    assert BASE - planted.law.predict(plan.rank, length) <= loss + 1e-6
    assert plan.rank == 1 or BASE - planted.law.predict(plan.rank - 1, length) > loss


@pytest.mark.parametrize(("rank", "loss"), [(2, 5.0), (8, 2.0), (16, 7.0)])
def test_the_length_for_a_rank_at_a_loss(planted, rank, loss):
    plan = plan_length(planted, rank, loss)
    assert plan.length == pytest.approx(length_by_hand(rank, loss), rel=0.02)
    assert plan.interval[0] <= plan.length <= plan.interval[1]


def test_the_two_are_each_others_inverse(planted):
    for length in (40, 90, 200):
        rank = plan_rank(planted, length, 3.0).rank
        assert plan_length(planted, rank, 3.0).length >= length
        assert rank == 1 or plan_length(planted, rank - 1, 3.0).length < length


@pytest.mark.parametrize("length", [20, 60, 150])
def test_the_certificate_begins_where_the_least_certain_token_passes_one_half(planted, length):
    plan = plan_rank(planted, length)
    assert plan.certificate and plan.rank == math.ceil(rank_to_certify(length))
    assert (plan.loss, plan.base_loss, plan.constant_bits) == (None, None, None)
    assert plan.probability == 1.0 == plan.right_left_out and not plan.warnings
    back = plan_length(planted, plan.rank)
    assert back.length == math.floor(13 * plan.rank**1.25) and back.by_rank == {}


def test_without_a_certificate_in_the_rows_the_plan_is_for_ln_2(planted):
    """No run is certified, or the rows do not say so: planned for ln 2, with a warning."""
    unknown = [{k: v for k, v in row.items() if k != "min_probability"} for row in ROWS]
    for rows in (unknown, [row | {"min_probability": 0.4} for row in ROWS]):
        plan = plan_rank(fit_of(rows), 60)
        assert not plan.certificate and plan.loss == math.log(2)
        assert any("which is no certificate" in warning for warning in plan.warnings)
        assert plan.rank == rank_by_hand(60, math.log(2))


# --- Probabilities -------------------------------------------------------------------------------


def scattered_fit(seed, seeds=3):
    """ΔL of the planted law, cells off by 3 % and runs by 2 %."""
    random, rows = np.random.default_rng(seed), []
    for rank in (1, 2, 4, 8):
        for length in (32, 64, 128, 256):
            cell = 0.03 * random.normal()
            for noise in cell + 0.02 * random.normal(size=seeds):
                delta = C * rank**ALPHA * length**-BETA * math.exp(noise)
                rows.append({"rank": rank, "length": length, "delta_loss": delta})
                rows[-1] |= {"base_loss": BASE, "final_loss": BASE - delta}
    (fit,), _ = fit_rows(rows, draws=200, offset=False)
    return fit


def test_what_is_promised_comes_true_as_often():
    """For each plan the probability, by the planted law, that a fresh run gets there."""
    for seeds in (1, 3):
        promised, came_true = [], []
        for seed in range(60):
            fit = scattered_fit(seed, seeds)
            for plan in (plan_rank(fit, 50, 5.0), plan_rank(fit, 200, 7.0), plan_length(fit, 6, 7)):
                margin = math.log(C * plan.rank**ALPHA * plan.length**-BETA / (BASE - plan.loss))
                came_true.append((1 + math.erf(margin / math.hypot(0.03, 0.02) / 2**0.5)) / 2)
                promised.append(plan.probability)
        assert min(promised) >= 0.9
        assert np.mean(came_true) == pytest.approx(np.mean(promised), abs=0.025)


def test_a_higher_probability_needs_more_rank_or_less_length():
    fit = scattered_fit(0)
    ranks = [plan_rank(fit, 200, 5.0, probability=p) for p in (0.05, 0.5, 0.9, 0.999)]
    assert [plan.rank for plan in ranks] == sorted({plan.rank for plan in ranks})
    assert all(plan.interval == ranks[0].interval for plan in ranks)
    assert ranks[0].interval[0] <= ranks[1].rank <= ranks[0].interval[1]
    assert ranks[1].by_rank[ranks[1].rank + 1] == ranks[2].by_rank[ranks[1].rank + 1]
    lengths = [plan_length(fit, 4, 5.0, probability=p).length for p in (0.05, 0.5, 0.9, 0.999)]
    assert lengths == sorted(set(lengths), reverse=True)
    for bad in (0, 1, -0.5, math.nan):
        with pytest.raises(LawError, match="expected a number between 0 and 1"):
            plan_rank(fit, 200, 5.0, probability=bad)


def test_quantiles_by_hand():
    runs = np.array([1.5, 2.5, 3.5, math.inf])
    assert [reached("rank", runs, p) for p in (0.25, 0.26, 0.75, 0.76)] == [1.5, 2.5, 3.5, math.inf]
    assert [reached("length", runs, p) for p in (0.25, 0.26, 1)] == [math.inf, 3.5, 1.5]
    assert [probability_of("rank", runs, n) for n in (1, 2, 4, None)] == [0, 0.25, 0.75, 0.75]
    assert [probability_of("length", runs, n) for n in (1, 2, 4, None)] == [1, 0.75, 0.25, 0.25]
    assert probability_of("rank", np.array([3 + 1e-12]), 3) == 1


def test_right_left_out_by_hand():
    """ΔL = 8 √(r / ℓ), and one run with 3.6 nats instead of 4: the others say it reaches 3.8."""
    rows = [
        {"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5, "base_loss": BASE}
        for r in (1, 4, 16)
        for n in (16, 64, 256)
    ]
    rows[7]["delta_loss"] = 3.6
    (fit,), _ = fit_rows(rows, draws=20, offset=False)
    assert plan_rank(fit, 64, BASE - 3.8).right_left_out == 8 / 9
    assert plan_rank(fit, 64, BASE - 3.2).right_left_out == 1.0


def test_extrapolation_is_warned_of(planted):
    plan = plan_rank(planted, 5000, 5.0)
    assert any(
        "length 5,000 is outside the measured 16 to 512" in warning for warning in plan.warnings
    )
    assert any(f"rank {plan.rank:,} is outside" in warning for warning in plan.warnings)
    assert not plan_rank(planted, 64, 5.0).warnings


@pytest.mark.parametrize(("length", "loss"), [(64, 0.2), (200, 0.5), (64, 11.2)])
def test_a_loss_that_none_of_the_fitted_runs_reached_is_planned_by_the_law(planted, length, loss):
    """Or one that all of them reached; only unsaturated runs are fitted."""
    plan = plan_rank(planted, length, loss)
    assert plan.rank == rank_by_hand(length, loss) and plan.probability == 1.0
    assert any("planned by the power law" in warning for warning in plan.warnings)
    back = plan_length(planted, plan.rank, loss)
    assert abs(back.length - length_by_hand(plan.rank, loss)) <= 1


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


@pytest.mark.parametrize("number", [0, -3, 8.5, "8", None, True, 10**13, 10**400, math.nan, [8]])
def test_a_rank_or_a_length_that_is_none(planted, number):
    for plan, name in ((plan_rank, "length"), (plan_length, "rank")):
        with pytest.raises(LawError, match=rf"^{name} is .*; expected a whole number from 1 to"):
            plan(planted, number, 3.0)
    assert plan_rank(planted, 64.0, 5.0) == plan_rank(planted, 64, 5.0)


@pytest.mark.parametrize("base_loss", [math.nan, math.inf, -math.inf])
def test_a_base_loss_that_is_not_finite(planted, base_loss):
    with pytest.raises(LawError, match=r"base_loss is .*; expected nats per token"):
        plan_rank(planted, 64, 3.0, base_loss=base_loss)


def test_a_loss_that_the_base_model_has_already_needs_the_smallest_rank(planted):
    for loss in (BASE, 50.0, 1e300):
        assert plan_rank(planted, 64, loss).rank == 1


@pytest.mark.parametrize("less", [0, 1])
def test_constant_bits_that_hold_nothing_give_no_answer(less):
    """ΔL = L₀ − H in every cell, or less: no parameter holds a bit. All numbers are exact."""
    rows = []
    for rank, length in ((r, n) for r in (1, 2, 4, 8) for n in (16, 32, 64)):
        losses = {"delta_loss": 4 + rank / length, "base_loss": 11.5 + rank / length + less}
        rows.append(planted_row(rank, length, entropy=7.5, final_loss=7.5 + less, **losses))
    fit = fit_of(rows)
    assert fit.bits.kappa < 0 if less else fit.bits.kappa == 0
    assert plan_rank(fit, 20, 7.0).constant_bits is None
