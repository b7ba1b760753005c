"""The planner: inverts a law, to find the rank for a length or the length for a rank.

A plan is made for a final loss L*, that is, for the loss reduction ΔL = L₀ − L*. The default goal
is the certificate, p > ½ for every token, and L* is then the loss below which every cell of the
grid was certified. Such cells are saturated, and the law was not fitted to them. So a plan also
says for how many of the grid's own cells the law is right, and what the constant-bits law gives.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import LawError
from .bits import BitsLaw
from .fit import Fit, column
from .power import LN2, Law, length_at, rank_at

FLOAT_BYTES = 4  # units are float32


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
    law, rows, warnings = law_of_ratio(fit, ratio)
    target, warned = target_loss(rows, loss)
    base = base_loss_at(rows, length) if base_loss is None else base_loss
    delta = base - target
    rank = whole_rank(law.rank_for(length, delta))
    low, high = law.interval(lambda C, alpha, beta, b: rank_at(C, alpha, beta, b, length, delta))
    bits = None
    if (known := bits_per_rank(fit, rows)) is not None:
        per_rank, entropy = known
        bits = whole_rank((delta - (base - entropy)) * length / (per_rank * LN2))
    return Plan(
        asked="rank",
        rank=rank,
        length=length,
        interval=(whole_rank(low), whole_rank(high)),
        constant_bits=bits,
        base_loss=base,
        **common_fields(law, rows, rank, length, loss, target, warnings + warned),
    )


def plan_length(
    fit: Fit, rank: int, loss: float | None = None, *, ratio: int | None = None
) -> Plan:
    """The largest length that a rank brings to `loss` (default: to the certificate)."""
    law, rows, warnings = law_of_ratio(fit, ratio)
    target, warned = target_loss(rows, loss)
    real = float(np.median(column(rows, "length")))
    for _ in range(50):  # L₀ depends slightly on the length: iterate until the two agree
        base = base_loss_at(rows, real)
        real = float(law.length_for(rank, base - target))
        if not math.isfinite(real):
            break
    delta = base - target
    low, high = law.interval(lambda C, alpha, beta, b: length_at(C, alpha, beta, b, rank, delta))
    bits = None
    if (known := bits_per_rank(fit, rows)) is not None:
        per_rank, entropy = known
        bits = whole_length(per_rank * rank * LN2 / (entropy - target))
    length = whole_length(real)
    return Plan(
        asked="length",
        rank=rank,
        length=length,
        interval=(whole_length(low), whole_length(high)),
        constant_bits=bits,
        base_loss=base,
        **common_fields(law, rows, rank, length, loss, target, warnings + warned),
    )


def common_fields(
    law: Law,
    rows: list[dict],
    rank: int | None,
    length: int | None,
    loss: float | None,
    target: float,
    warnings: list[str],
) -> dict[str, Any]:
    """Fields common to both kinds of plan."""
    per_rank = parameters_per_rank(rows)
    parameters = rank * per_rank if rank is not None and per_rank else None
    return {
        "parameters": parameters,
        "bytes": None if parameters is None else parameters * FLOAT_BYTES,
        "loss": target,
        "certificate": loss is None,
        "right": share_right(law, rows, loss, target),
        "warnings": warnings + extrapolations(rows, rank=rank, length=length),
    }


def law_of_ratio(fit: Fit, ratio: int | None) -> tuple[Law, list[dict], list[str]]:
    """The law and rows of a ratio, or those of all ratios with a warning where it has no law."""
    ratios = sorted({row["ratio"] for row in fit.rows if row.get("ratio") is not None})
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
        if not (math.isfinite(loss) and loss >= 0):
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
    lengths = sorted({row["length"] for row in known})
    means = [np.mean([row["base_loss"] for row in known if row["length"] == n]) for n in lengths]
    return float(np.interp(math.log(length), np.log(lengths), means))


def bits_per_rank(fit: Fit, rows: list[dict]) -> tuple[float, float] | None:
    """By the constant-bits law, what one rank holds in bits; and the entropy in nats per token.

    None where the rows do not give both.
    """
    per_rank, entropies = parameters_per_rank(rows), column(rows, "entropy")
    if not isinstance(fit.bits, BitsLaw) or not per_rank or None in entropies:
        return None
    return fit.bits.kappa * per_rank, float(np.mean(entropies))


def parameters_per_rank(rows: list[dict]) -> int | None:
    known = (row for row in rows if row.get("trainable_parameters"))
    found = {row["trainable_parameters"] / row["rank"] for row in known}
    return int(found.pop()) if len(found) == 1 else None


def share_right(law: Law, rows: list[dict], loss: float | None, target: float) -> float | None:
    """The share of measured cells that reached the target, or did not, as the law predicts."""
    goal = ("certified",) if loss is None else ()
    judged = with_fields(rows, "base_loss", "final_loss", *goal)
    if not judged:
        return None
    deltas = np.array(column(judged, "base_loss")) - target
    needed = law.rank_for(column(judged, "length"), deltas)
    predicted = np.less_equal(needed, column(judged, "rank"))
    reached = [row["certified"] if loss is None else row["final_loss"] <= target for row in judged]
    return float(np.mean(np.equal(predicted, reached)))


def extrapolations(rows: list[dict], **values: int | None) -> list[str]:
    """A warning for each value beyond the measured grid."""
    warnings = []
    for name, value in values.items():
        low, high = min(column(rows, name)), max(column(rows, name))
        if value is None or not low <= value <= high:
            what = f"no {name}" if value is None else f"{name} {value:,}"
            measured = f"the measured {low:,} to {high:,}"
            warnings.append(f"{what} is outside {measured}: an extrapolation")
    return warnings


def with_fields(rows: list[dict], *names: str) -> list[dict]:
    """The rows that have all of these fields."""
    return [row for row in rows if all(row.get(name) is not None for name in names)]


def whole_rank(value: Any) -> int | None:
    """The rank, rounded up to a whole number of at least 1; None for infinity."""
    return whole(math.ceil, value, least=1)


def whole_length(value: Any) -> int | None:
    """The length, rounded down to a whole number; None for infinity."""
    return whole(math.floor, value, least=0)


def whole(rounding: Callable[[float], int], value: Any, least: int) -> int | None:
    """Within 1e-9 of an integer counts as that integer. Above 1e12 counts as infinity."""
    if not math.isfinite(value) or value > 1e12:
        return None
    nearest = round(value)
    return max(least, nearest if math.isclose(value, nearest, rel_tol=1e-9) else rounding(value))
