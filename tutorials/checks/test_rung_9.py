"""The checks of rung 9: plans by the law and by a recall curve. All rows are drawn from --seed."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest

from checks import scenarios_rungs_6_to_9 as scenarios
from checks.grading import first_of, kind_of, near, number, require, several
from checks.ladder import rung
from checks.made_up import planted, row, rows_of, saturated

points = pytest.mark.points


@rung(9)
@points(2)
def test_rung9_the_rank_for_a_loss(mymem, seed):
    random = np.random.default_rng(seed)
    C, alpha, beta = constants = planted(random)
    rows = rows_of(constants, random)
    full = saturated(random)
    for extra, length, loss in (([], 300, None), (full, 80, 3.3), (full, 500, 1.7)):
        every = rows + extra
        base, counted = (float(np.mean([r["base_loss"] for r in some])) for some in (every, rows))
        target = 0.6931 if loss is None else loss

        def solved(delta, size=length):
            return (delta / C * size**beta) ** (1 / alpha)

        args = [every, length] + ([] if loss is None else [loss])
        got = number(mymem.call("rank_for_loss", *args), "The rank")
        right = solved(base - target)
        hints = {
            "Also the rows that the law leaves out count for L₀": (
                near(got / solved(counted - target), 1, 2e-3)
            ),
            "Solve for ΔL = L₀ − L, not for L": near(got / solved(target), 1, 2e-3),
            "That is r^α: take the α-th root": near(got / right**alpha, 1, 2e-3),
            "The law divides by ℓ^β, so the rank grows with the length": (
                near(got / solved(base - target, 1 / length), 1, 2e-3)
            ),
            "The loss that was asked for is not used": (near(got / solved(base - 0.6931), 1, 2e-3)),
        }
        message = f"With C, α, β = {C:.3f}, {alpha:.3f}, {beta:.3f} and a mean base loss of"
        message += f" {base:.3f}, a final loss of {target} for {length} tokens needs the rank"
        message += f" {right:.4g}, not {got:.4g}{first_of(hints)}"
        require(near(got / right, 1, 2e-3), message, keeps=0.0 if loss is None else 0.5)


def chances(load, half: float, s: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip(s * np.log(np.asarray(load) / half), -700, 700)))


def log_likelihood(rows: list[dict], half: float, s: float) -> float:
    loads = np.array([r["length"] / r["parameters"] for r in rows])
    signs = np.where([r["recited"] for r in rows], 1, -1)
    return float(-np.logaddexp(0, signs * s * np.log(loads / half)).sum())


def recitals(random: np.random.Generator) -> tuple[list[dict], float]:
    """Rows of a recall curve, and the number of parameters for each rank."""
    half, s = math.exp(random.uniform(-5, -3)), random.uniform(3, 9)
    each = int(random.integers(300, 3000))
    rows = []
    for rank, step, seed in itertools.product((1, 2, 4), np.linspace(-0.7, 0.7, 7), range(3)):
        length = max(1, round(math.exp(step) * half * each * rank))
        one = row(rank, length, seed, 12.0, 9.0) | {"parameters": each * rank}
        chance = chances(length / (each * rank), half, s)
        rows.append(one | {"recited": bool(random.uniform() < chance)})
    loads = {
        hit: [r["length"] / r["parameters"] for r in rows if r["recited"] == hit] for hit in (0, 1)
    }
    fits = loads[0] and loads[1] and min(loads[0]) < 0.9 * max(loads[1])
    return (rows, each) if fits else recitals(random)


def curve_of(value: object) -> tuple[float, float]:
    half, s = several(value, 2, "(load_50, s)")
    half, s = number(half, "load_50"), number(s, "s")
    hint = ". That is its logarithm" if half < 0 else ""
    require(half > 0, f"load_50 should be positive, not {half:.4g}{hint}")
    message = f"s should be between 0.5 and 20, but it is {s:.4g}"
    require(0.499 < s < 20.01, message)
    return half, s


def best_curve(rows: list[dict]) -> tuple[float, float, float]:
    """The highest log-likelihood on a fine grid, with its load_50 and s."""
    loads = np.log([r["length"] / r["parameters"] for r in rows])
    signs = np.where([r["recited"] for r in rows], 1, -1)
    middles, steepness = np.linspace(loads.min(), loads.max(), 600), np.geomspace(0.5, 20, 120)
    z = signs * (loads - middles[:, None])
    values = np.array([-np.logaddexp(0, s * z).sum(1) for s in steepness])  # [s, middles]
    i, j = np.unravel_index(values.argmax(), values.shape)
    return float(values[i, j]), math.exp(middles[j]), float(steepness[i])


@rung(9)
def test_rung9_the_likeliest_curve(mymem, seed):
    rows, _ = recitals(np.random.default_rng(seed))
    half, s = curve_of(mymem.call("recall_curve", rows))
    best, right, steepness = best_curve(rows)
    got = log_likelihood(rows, half, s)
    ranks = np.mean([r["rank"] / r["parameters"] for r in rows])
    hints = {
        "The load is length / parameters, not length / rank": near(half * ranks / right, 1, 0.1),
        "The load is length / parameters, not the other way round": half > 1,
        "The best s is at its lower end: does your curve fall with the load?": s < 0.51,
    }
    message = f"Your curve has load_50 = {half:.4g} and s = {s:.3g}. The logarithm of its"
    message += f" likelihood is {got:.3f}, but {best:.3f} is possible, with load_50 ="
    message += f" {right:.4g} and s = {steepness:.3g}{first_of(hints)}"
    require(got > best - 0.011, message)


@rung(9)
def test_rung9_separable_rows(mymem, seed):
    random = np.random.default_rng(seed)
    border, each = math.exp(random.uniform(-5, -3)), int(random.integers(300, 3000))
    rows = []
    for rank, times, number_of in itertools.product((1, 3), (0.4, 0.6, 0.75, 1.35, 1.8), (0, 1)):
        length = round(times * border * each * rank)
        one = row(rank, length, number_of, 12.0, 9.0) | {"parameters": each * rank}
        rows.append(one | {"recited": times < 1})
    half, s = curve_of(mymem.call("recall_curve", rows))
    what = "Every run below a load was recited and none above it"
    message = f"{what}, so the likelihood rises with s to the end of its range: s should be 20"
    require(s > 19, f"{message}, not {s:.3g}")
    inside = 0.75 * border < half < 1.35 * border
    message = f"{what}, so load_50 should be near {border:.4g}, not {half:.4g}"
    require(inside and log_likelihood(rows, half, s) > best_curve(rows)[0] - 0.02, message)


class Plan(NamedTuple):
    """An answer of plan_rank, the right answer, and the curve."""

    length: int
    chance: float
    rank: int
    each: int  # parameters of a rank
    curve: tuple[float, float]

    def chance_of(self, rank: int) -> float:
        return float(chances(self.length / (rank * self.each), *self.curve))

    def right(self, odds: float = 0.0, each: int = 0) -> int:
        """The smallest rank that is enough, or what a mistake makes of it."""
        half, s = self.curve
        load = half * (odds or self.chance / (1 - self.chance)) ** (-1 / s)
        return math.ceil(self.length / load / (each or self.each))

    def hint(self) -> str:
        curve = "load_50 = {:.4g}, s = {:.3g}, {} parameters for each rank"
        mistakes = {
            "Is `chance` that of a failure?": self.right((1 - self.chance) / self.chance),
            "The chance that was asked for is not used": self.right(1.0),
            "Take the parameters of a rank from the rows": self.right(each=512),
            "Round up": self.right() - 1,
        }
        hints = {text: self.rank == rank for text, rank in mistakes.items()}
        return f" ({curve.format(*self.curve, self.each)}){first_of(hints)}"


def planned(mymem, seed: int) -> list[Plan]:
    """The plans for drawn lengths and chances, by a drawn curve."""
    random = np.random.default_rng(seed)
    rows, each = recitals(random)
    loads = [r["length"] / r["parameters"] for r in rows]
    curve = float(np.median(loads) * random.uniform(0.8, 1.25)), float(random.uniform(3, 9))
    times = [*random.uniform(1, 20, size=4).tolist(), float(random.uniform(80, 120)), 0]
    lengths = [max(1, round(one * curve[0] * each)) for one in times]
    asked = list(zip(lengths, (0.9, 0.3, 0.97, 0.5, 0.9, 0.9), strict=True))
    found = mymem.run(scenarios.plans, rows, asked, curve)
    # If plan_rank does not call recall_curve, this is the student's, which has checks of its own.
    curve = curve_of(found["curve"])
    message = f"load_50 is {curve[0]:.4g}, but the loads of the rows are from {min(loads):.4g} to"
    require(min(loads) / 2 < curve[0] < 2 * max(loads), f"{message} {max(loads):.4g}")
    plans = []
    for (length, chance), rank in zip(asked, found["ranks"], strict=True):
        rank = rank.item() if getattr(rank, "ndim", None) == 0 else rank
        whole = isinstance(rank, int) and not isinstance(rank, bool)
        require(whole, f"plan_rank should return a whole number (an int), not {kind_of(rank)}")
        plans.append(Plan(length, chance, rank, each, curve))
    return plans


def require_same_size(plans: list[Plan]) -> None:
    """One rank for all plans is no plan, although it may be small enough or large enough."""
    for plan in plans:
        right = plan.right()
        message = f"For {plan.length} tokens with a probability of {plan.chance}, plan_rank gave"
        message += f" {plan.rank}, but rank {right} is the smallest one that is enough"
        require(right / 4 - 1 <= plan.rank <= 4 * right, message + plan.hint())


@rung(9)
def test_rung9_a_plan_is_enough(mymem, seed):
    plans = planned(mymem, seed)
    for plan in plans:
        what = f"for {plan.length} tokens with a probability of {plan.chance}"
        require(plan.rank >= 1, f"The smallest rank is 1, not {plan.rank} ({what})")
        got = plan.chance_of(plan.rank)
        message = f"By the curve, rank {plan.rank} recites {plan.length} tokens with a probability"
        message += f" of {got:.3f}, but {plan.chance} was asked for{plan.hint()}"
        require(got > plan.chance - 1e-6, message)
    require_same_size(plans)


@rung(9)
def test_rung9_a_plan_is_the_smallest_rank(mymem, seed):
    plans = planned(mymem, seed)
    for plan in plans:
        got = plan.chance_of(max(plan.rank - 1, 1))
        message = f"For {plan.length} tokens with a probability of {plan.chance}, plan_rank gave"
        message += f" {plan.rank}. By the curve, rank {plan.rank - 1} recites them with a"
        message += f" probability of {got:.3f}, so it is enough{plan.hint()}"
        require(plan.rank <= 1 or got < plan.chance + 1e-6, message)
    require_same_size(plans)
