"""The planner: inverts a law, to find the rank for a length or the length for a rank.

A plan is made for a final loss L*, that is, for the loss reduction ΔL = L₀ − L*. The default goal
is the certificate, p > ½ for every token, and L* is then the loss below which every cell of the
grid was certified. Such cells are saturated, and the law was not fitted to them. So a plan also
says for how many of the grid's own cells the law is right, and what the constant-bits law gives.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import LawError
from .fit import Fit, column, distinct
from .power import LN2, Law, PowerLaw, middle_95


@dataclass(frozen=True)
class Plan:
    """The smallest whole rank for a length, or the largest whole length for a rank.

    None stands for "no rank is enough" or "no limit to the length". `interval` is the 95 % interval
    of the number that was asked for.
    """

    asked: str  # "rank" or "length"
    rank: int | None
    length: int | None
    interval: tuple[int | None, int | None]
    parameters: int | None  # of a unit of that rank
    bytes: int | None
    base_loss: float  # L₀, in nats per token
    loss: float  # L*, in nats per token
    certificate: bool  # whether the goal is the certificate
    constant_bits: int | None  # the answer of the constant-bits law
    right: float | None  # share of the grid's own cells for which the law's answer is right
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def plan_rank(
    fit: Fit,
    length: int,
    loss: float | None = None,
    *,
    ratio: int | None = None,
    base_loss: float | None = None,
) -> Plan:
    """The smallest rank that brings `length` tokens to `loss` (default: to the certificate).

    ratio: use the law of that percentage of random tokens, if there is one.
    base_loss: L₀ of the memory; default: as in the grid.
    Raises LawError if the rows do not have what the answer needs.
    """
    return make_plan(fit, "rank", length, loss, ratio, base_loss)


def plan_length(
    fit: Fit, rank: int, loss: float | None = None, *, ratio: int | None = None
) -> Plan:
    """The largest length that a rank brings to `loss` (default: to the certificate)."""
    return make_plan(fit, "length", rank, loss, ratio, base_loss=None)


def make_plan(
    fit: Fit, asked: str, given: int, loss: float | None, ratio: int | None, base_loss: float | None
) -> Plan:
    """The plan for the number that is asked for, "rank" or "length", where the other is given."""
    law, rows, unknown_ratio = law_of_ratio(fit, ratio)
    target, no_certificate = target_loss(rows, loss)
    warnings = [*unknown_ratio, *no_certificate]
    inverse = PowerLaw.rank_for if asked == "rank" else PowerLaw.length_for
    at_length = given if asked == "rank" else float(np.median(column(rows, "length")))
    for _ in range(50):  # L₀ depends slightly on the length: iterate until the two agree
        base = base_loss_at(rows, at_length) if base_loss is None else base_loss
        real = float(inverse(law, given, base - target))
        if asked == "rank" or not math.isfinite(real):
            break
        at_length = real
    drawn = [inverse(PowerLaw(*constants), given, base - target) for constants in law.draws]
    ends = middle_95(np.array(drawn))
    answer = whole(asked, real)
    rank, length = (answer, given) if asked == "rank" else (given, answer)
    for name, value in (("rank", rank), ("length", length)):
        low, high = min(column(rows, name)), max(column(rows, name))
        if value is None or not low <= value <= high:
            what = f"no {name}" if value is None else f"{name} {value:,}"
            warnings.append(f"{what} is outside the measured {low:,} to {high:,}: an extrapolation")
    per_rank = parameters_per_rank(rows)
    parameters = rank * per_rank if rank and per_rank else None
    held = tokens_per_rank(fit, rows, target)
    return Plan(
        asked=asked,
        rank=rank,
        length=length,
        interval=(whole(asked, ends[0]), whole(asked, ends[1])),
        parameters=parameters,
        bytes=4 * parameters if parameters else None,  # float32
        base_loss=base,
        loss=target,
        certificate=loss is None,
        constant_bits=whole(asked, given / held if asked == "rank" else given * held),
        right=share_right(law, rows, loss, target),
        warnings=warnings,
    )


def whole(asked: str, value: float) -> int | None:
    """A rank rounded up to at least 1, or a length rounded down; None above 1e12.

    Within 1e-9 of an integer counts as that integer.
    """
    if not value <= 1e12:  # also NaN
        return None
    nearest = round(value)
    if not math.isclose(value, nearest, rel_tol=1e-9):
        nearest = math.ceil(value) if asked == "rank" else math.floor(value)
    return max(nearest, 1 if asked == "rank" else 0)


def law_of_ratio(fit: Fit, ratio: int | None) -> tuple[Law, list[dict], list[str]]:
    """The law and rows of a ratio, or those of all ratios with a warning where it has no law."""
    if isinstance(fit.law, str):
        raise LawError(fit.law)
    ratios = distinct(fit.rows, "ratio")
    if ratio is None or ratios == [ratio]:
        return fit.law, fit.rows, []
    law = fit.by_ratio.get(ratio)
    if isinstance(law, Law):
        return law, [row for row in fit.rows if row.get("ratio") == ratio], []
    known = ", ".join(f"{r} %" for r in ratios) or "an unknown share of"
    return fit.law, fit.rows, [f"the grid was measured on {known} random tokens, not on {ratio} %"]


def target_loss(rows: list[dict], loss: float | None) -> tuple[float, list[str]]:
    """The final loss L* to plan for, and warnings about it."""
    if loss is not None:
        if not 0 <= loss < math.inf:
            raise LawError(f"loss is {loss}; expected nats per token, 0 or more")
        return loss, [] if loss > LN2 else [f"loss {loss:g} is below ln 2, where no cell is fitted"]
    judged = with_fields(rows, "final_loss", "certified")
    lowest = min((row["final_loss"] for row in judged if not row["certified"]), default=math.inf)
    sure = [row["final_loss"] for row in judged if row["certified"] and row["final_loss"] < lowest]
    if sure:
        return max(sure), []
    return LN2, [
        "the grid shows no loss below which all cells are certified; "
        "planned for a mean loss of ln 2, which is no certificate"
    ]


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
    found = {row["trainable_parameters"] / row["rank"] for row in known}
    return int(found.pop()) if len(found) == 1 else None


def tokens_per_rank(fit: Fit, rows: list[dict], target: float) -> float:
    """By the constant-bits law, how many tokens one rank brings to the target; NaN if not known."""
    per_rank, entropies = parameters_per_rank(rows), column(rows, "entropy")
    if isinstance(fit.bits, str) or not per_rank or None in entropies:
        return math.nan
    bits_per_token = max(float(np.mean(entropies)) - target, 1e-12) / LN2
    return fit.bits.kappa * per_rank / bits_per_token


def share_right(law: Law, rows: list[dict], loss: float | None, target: float) -> float | None:
    """The share of measured cells that reached the target, or did not, as the law predicts."""
    goal = "final_loss" if loss is not None else "certified"
    right = [
        (law.rank_for(row["length"], row["base_loss"] - target) <= row["rank"])
        == (row["certified"] if loss is None else row["final_loss"] <= target)
        for row in with_fields(rows, "base_loss", "final_loss", goal)
    ]
    return float(np.mean(right)) if right else None


def with_fields(rows: list[dict], *names: str) -> list[dict]:
    """The rows that have all of these fields."""
    return [row for row in rows if all(row.get(name) is not None for name in names)]
