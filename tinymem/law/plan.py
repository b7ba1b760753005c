"""The planner: the rank for a length, or the length for a rank.

A plan speaks about a run: it gives the rank at which a fresh run, with a memory and a seed of its
own, reaches the goal with at least a given probability. Runs differ in the rank that they need, for
three reasons: the constants of the fit are uncertain (the draws of the bootstrap), a cell deviates
from the fit, and so do its runs (`deviations`). Every draw is combined with every deviation, which
gives the ranks that fresh runs need, and the plan is a quantile of them.

The goal is a final loss, or without one the certificate, p > ½ for every token. The fit is the
plane through the runs near the goal (threshold.py). Where runs on both sides of the goal are
missing, a loss is planned by the power law instead, which extrapolates.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from ..errors import LawError
from .answer import Answer, answer, extrapolations, of_ratio
from .cells import LARGEST, whole_number
from .fit import Fit, column, distinct, is_saturated
from .power import LN2, Law, PowerLaw
from .recall import the_one
from .threshold import Threshold, fit_threshold

PROBABILITY = 0.9
NEAR_ODDS = 2.0  # log-odds: p from 0.12 to 0.88
NEAR_DELTA = 0.1  # ln ΔL: 10 % of ΔL
NO_CERTIFICATE = (
    "the runs do not determine where the certificate begins; "
    "planned for a mean loss of ln 2, which is no certificate"
)
BY_LAW = "too few runs on both sides of that loss; planned by the power law"


@dataclass(frozen=True, repr=False)
class Plan(Answer):
    """An answer for a final loss, or for the certificate."""

    probability: float
    certificate: bool  # whether the goal is the certificate
    base_loss: float | None  # L₀, in nats per token; a plan for the certificate needs none
    loss: float | None  # L*, in nats per token; None for the certificate
    constant_bits: int | None  # the answer of the constant-bits law; None for the certificate
    right_left_out: float | None  # share of runs that a law without their cell judges correctly
    warnings: list[str] = field(default_factory=list)


def plan_rank(
    fit: Fit,
    length: int,
    loss: float | None = None,
    *,
    probability: float = PROBABILITY,
    ratio: int | None = None,
    base_loss: float | None = None,
) -> Plan:
    """The smallest rank at which `length` tokens reach `loss` (default: the certificate).

    probability: that a fresh run gets there, at least.
    ratio: use the law of that percentage of random tokens, if there is one.
    base_loss: L₀ of the memory, for a plan with a loss; default: as in the grid.
    Raises LawError if the rows do not have what the answer needs.
    """
    return make_plan(fit, "rank", length, loss, probability, ratio, base_loss)


def plan_length(
    fit: Fit,
    rank: int,
    loss: float | None = None,
    *,
    probability: float = PROBABILITY,
    ratio: int | None = None,
) -> Plan:
    """The largest length that a rank brings to `loss` (default: to the certificate)."""
    return make_plan(fit, "length", rank, loss, probability, ratio, base_loss=None)


def make_plan(
    fit: Fit,
    asked: str,
    given: int,
    loss: float | None,
    probability: float,
    ratio: int | None,
    base_loss: float | None,
) -> Plan:
    """The plan for the number that is asked for, "rank" or "length", where the other is given."""
    if not 0 < probability < 1:
        raise LawError(f"probability is {probability}; expected a number between 0 and 1")
    if loss is not None and not 0 <= loss < math.inf:
        raise LawError(f"loss is {loss}; expected nats per token, 0 or more")
    if not math.isfinite(base_loss or 0):
        raise LawError(f"base_loss is {base_loss}; expected nats per token")
    given = whole_number("length" if asked == "rank" else "rank", given)
    law, rows, warnings = law_of(fit, ratio)
    plane = threshold_of(rows, loss, base_loss)
    certificate = loss is None and plane is not None
    if plane is not None:
        runs = plane.ranks(given) if asked == "rank" else plane.lengths(given)
        right: float | None = plane.right_left_out
    else:
        loss, why = (LN2, NO_CERTIFICATE) if loss is None else (loss, BY_LAW)
        runs = runs_by_law(law, rows, asked, given, loss, base_loss)
        right, warnings = share_right(law, rows, loss), [*warnings, why]
    found = answer(
        *(asked, given, probability, parameters_per_rank(rows)),
        solve=lambda share: whole(asked, reached(asked, runs, share)),
        chance=lambda number: probability_of(asked, runs, number),
    )
    if base_loss is None and loss is not None:
        base_loss = base_loss_at(rows, found["length"] or max(column(rows, "length")))
    return Plan(
        **found,
        certificate=certificate,
        base_loss=base_loss,
        loss=loss,
        constant_bits=None if loss is None else answer_of_bits(fit, rows, asked, given, loss),
        right_left_out=right,
        warnings=[*warnings, *extrapolations(rows, found["rank"], found["length"])],
    )


def law_of(fit: Fit, ratio: int | None) -> tuple[Law, list[dict], list[str]]:
    """The power law that a plan uses, the rows behind it, and warnings. Raises LawError."""
    return of_ratio(
        *(fit, ratio, fit.law, lambda rows: fit.by_ratio.get(ratio)),
        "the grid was measured on {known} random tokens, not on {ratio} %",
    )


def threshold_of(rows: list[dict], loss: float | None, base_loss: float | None) -> Threshold | None:
    """The plane through the runs near the goal: the loss, or without one the certificate.

    ΔL counts from the mean L₀ of the length and ratio: a plan knows no more of a memory, and the
    final losses of different memories differ less than their L₀. Saturated runs are left out.
    base_loss: L₀ of the memory that is planned for.
    """
    if loss is None:
        judged, near = with_fields(rows, "min_probability"), NEAR_ODDS
        p = np.clip(column(judged, "min_probability"), 1e-12, 1 - 1e-9)
        z = np.log(p / (1 - p))
    else:
        judged, near = with_fields(rows, "final_loss", "base_loss"), NEAR_DELTA
        judged = [row for row in judged if not is_saturated(row)]
        alike = defaultdict(list)
        for row in with_fields(rows, "base_loss"):
            alike[row["length"], row.get("ratio")].append(row["base_loss"])
        base = np.array([np.mean(alike[row["length"], row.get("ratio")]) for row in judged])
        wanted = (base if base_loss is None else base_loss) - loss
        if np.min(wanted, initial=1) <= 0:
            return None
        z = np.log(np.maximum(base - column(judged, "final_loss"), 1e-6) / wanted)
    return fit_threshold(column(judged, "rank"), column(judged, "length"), z, near)


def runs_by_law(
    law: Law, rows: list[dict], asked: str, given: int, loss: float, base_loss: float | None
) -> np.ndarray:
    """By the power law, the ranks that fresh runs need for this loss, or the lengths they hold.

    A run that deviates by e has ΔL = law · exp(e), so the law itself has to reach ΔL · exp(−e).
    """
    length = given if asked == "rank" else float(np.median(column(rows, "length")))
    base = base_loss_at(rows, length) if base_loss is None else base_loss
    for _ in range(50 if asked == "length" else 0):  # L₀ depends slightly on the length
        length = float(law.length_for(given, base - loss))
        if not math.isfinite(length):
            break
        base = base_loss_at(rows, length)
    drawn = PowerLaw(*law.draws.T[:, :, None])
    inverse = drawn.rank_for if asked == "rank" else drawn.length_for
    return np.ravel(inverse(given, (base - loss) * np.exp(-law.deviations)))


def reached(asked: str, runs: np.ndarray, probability: float) -> float:
    """The smallest rank, or the largest length, with which that share of the runs gets there."""
    sign = 1 if asked == "rank" else -1
    return sign * float(np.quantile(sign * runs, probability, method="inverted_cdf"))


def probability_of(asked: str, runs: np.ndarray, number: int | None) -> float:
    """The share of the runs that need no more than this rank, or hold this length."""
    number = LARGEST if number is None else number
    margin = 1e-9 * number
    return float(np.mean(runs <= number + margin if asked == "rank" else runs >= number - margin))


def whole(asked: str, value: float) -> int | None:
    """A rank rounded up to at least 1, or a length rounded down; None above LARGEST.

    Within 1e-9 of an integer counts as that integer.
    """
    if not value <= LARGEST:  # also NaN
        return None
    nearest = round(value)
    if not math.isclose(value, nearest, rel_tol=1e-9):
        nearest = math.ceil(value) if asked == "rank" else math.floor(value)
    return max(nearest, 1 if asked == "rank" else 0)


def base_loss_at(rows: list[dict], length: float) -> float:
    """L₀ at a length, interpolated between the measured lengths. Raises LawError if it has none."""
    known = with_fields(rows, "base_loss")
    if not known:
        raise LawError("the rows have no base_loss, which a plan for a loss needs; add base_loss")
    lengths = distinct(known, "length")
    means = [np.mean([row["base_loss"] for row in known if row["length"] == n]) for n in lengths]
    return float(np.interp(math.log(length), np.log(lengths), means))


def parameters_per_rank(rows: list[dict]) -> int | None:
    """Trainable parameters of a unit of rank 1; None if the rows do not say, or do not agree."""
    known = with_fields(rows, "trainable_parameters")
    each = the_one([row["trainable_parameters"] / row["rank"] for row in known])
    return None if each is None else int(each)


def answer_of_bits(fit: Fit, rows: list[dict], asked: str, given: int, loss: float) -> int | None:
    """The rank or the length by the constant-bits law; None if that is not known."""
    per_rank, entropies = parameters_per_rank(rows), column(rows, "entropy")
    if isinstance(fit.bits, str) or fit.bits.kappa <= 0 or not per_rank or None in entropies:
        return None
    bits_per_token = max(float(np.mean(entropies)) - loss, 1e-12) / LN2
    held = fit.bits.kappa * per_rank / bits_per_token  # tokens, by each rank
    return whole(asked, given / held if asked == "rank" else given * held)


def share_right(law: Law, rows: list[dict], target: float) -> float | None:
    """The share of runs about which the law is right: whether their loss reached the target.

    Each unsaturated run is judged by a law without its cell; saturated ones were not fitted.
    """
    without = np.array([law.predict(row["rank"], row["length"]) for row in rows])
    seen = np.array([not is_saturated(row) for row in rows])
    without[seen] = law.without_cell
    right = [
        (row["base_loss"] - delta <= target) == (row["final_loss"] <= target)
        for row, delta in zip(rows, without, strict=True)
        if row.get("base_loss") is not None and row.get("final_loss") is not None
    ]
    return float(np.mean(right)) if right else None


def with_fields(rows: list[dict], *names: str) -> list[dict]:
    """The rows that have all of these fields."""
    return [row for row in rows if all(row.get(name) is not None for name in names)]
