"""The law turned round: the rank that a length needs, the length that a rank holds.

What is asked for is a final loss L*, and so ΔL = L₀ − L*. Without a loss it is the certificate, every token
with p > ½: L* is then the loss below which every cell of the grid was certified. That is beyond the
cells the law is fitted to (these are not saturated), so a plan also says how often it is right about
the grid's own cells, and what the constant-bits law says instead.
"""

import math
from dataclasses import asdict, dataclass, field

import numpy as np

from ..errors import LawError
from .bits import BitsLaw
from .fit import Fit
from .power import LN2, Law, length_at, rank_at

FLOAT_BYTES = 4  # units are float32
FEW_RIGHT = 0.8  # of the grid's cells


@dataclass(frozen=True)
class Plan:
    """The smallest whole rank for a length, or the longest whole length for a rank.

    `interval` is the 95 % one of whichever was asked for; None stands for "no such rank" or no limit.
    """

    asked: str  # "rank" or "length"
    rank: int | None
    length: int | None
    interval: tuple[int | None, int | None]
    parameters: int | None  # of a unit of that rank
    bytes: int | None
    base_loss: float  # L₀ and L*, nats per token
    loss: float
    certificate: bool  # was it asked for?
    constant_bits: int | None  # the answer of the constant-bits law
    right: float | None  # share of the grid's own cells that the plan calls right
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """JSON-ready."""
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

    ratio: use the law of that share of random tokens, where there is one.
    base_loss: L₀ of what is to be remembered; default: as in the grid.
    Raises LawError if the rows cannot answer.
    """
    law, rows, warnings = choose(fit, ratio)
    base = base_loss_at(rows, length) if base_loss is None else base_loss
    target, warned = target_loss(rows, loss)
    delta = base - target
    rank = whole(math.ceil, law.rank_for(length, delta), least=1)
    ends = law.interval(lambda *constants: rank_at(*constants, length, delta))
    bits = None
    if (known := bits_per_rank(fit, rows)) is not None:
        per_rank, entropy = known
        bits = whole(math.ceil, (delta - (base - entropy)) * length / (per_rank * LN2), least=1)
    return Plan(
        asked="rank",
        rank=rank,
        length=length,
        interval=tuple(whole(math.ceil, end, least=1) for end in ends),
        constant_bits=bits,
        base_loss=base,
        **both_plans(law, rows, rank, length, loss, target, warnings + warned),
    )


def plan_length(
    fit: Fit, rank: int, loss: float | None = None, *, ratio: int | None = None
) -> Plan:
    """The longest text that a rank brings to `loss` (default: to the certificate)."""
    law, rows, warnings = choose(fit, ratio)
    target, warned = target_loss(rows, loss)
    real = float(np.median([row["length"] for row in rows]))
    for _ in range(50):  # L₀ depends on the length a little, so go back and forth between the two
        base = base_loss_at(rows, real)
        real = float(law.length_for(rank, base - target))
        if not math.isfinite(real):
            break
    length = whole(math.floor, real, least=0)
    ends = law.interval(lambda *constants: length_at(*constants, rank, base - target))
    bits = None
    if (known := bits_per_rank(fit, rows)) is not None:
        per_rank, entropy = known
        bits = whole(math.floor, per_rank * rank * LN2 / (entropy - target), least=0)
    return Plan(
        asked="length",
        rank=rank,
        length=length,
        interval=tuple(whole(math.floor, end, least=0) for end in ends),
        constant_bits=bits,
        base_loss=base,
        **both_plans(law, rows, rank, length, loss, target, warnings + warned),
    )


def both_plans(
    law: Law, rows: list[dict], rank, length, loss, target: float, warnings: list[str]
) -> dict:
    """What the two kinds of plan say alike."""
    each = parameters_per_rank(rows)
    parameters = rank * each if rank is not None and each else None
    return {
        "parameters": parameters,
        "bytes": None if parameters is None else parameters * FLOAT_BYTES,
        "loss": target,
        "certificate": loss is None,
        "right": share_right(law, rows, loss, target),
        "warnings": warnings + outside(rows, rank=rank, length=length),
    }


def bits_per_rank(fit: Fit, rows: list[dict]) -> tuple[float, float] | None:
    """(bits that a rank holds by the constant-bits law, entropy in nats per token), where both are known."""
    each, entropy = parameters_per_rank(rows), mean_of(rows, "entropy")
    if not isinstance(fit.bits, BitsLaw) or not each or entropy is None:
        return None
    return fit.bits.kappa * each, entropy


def choose(fit: Fit, ratio: int | None) -> tuple[Law, list[dict], list[str]]:
    """The law and the rows of a ratio; where there is none, of all ratios, with a warning."""
    ratios = sorted({row.get("ratio") for row in fit.rows} - {None})
    if ratio is None or ratios == [ratio]:
        return fit.law, fit.rows, []
    law = fit.by_ratio.get(ratio)
    if isinstance(law, Law):
        return law, [row for row in fit.rows if row.get("ratio") == ratio], []
    known = ", ".join(f"{r} %" for r in ratios) or "an unknown share of"
    return fit.law, fit.rows, [f"the grid was measured on {known} random tokens, not on {ratio} %"]


def target_loss(rows: list[dict], loss: float | None) -> tuple[float, list[str]]:
    """L*, and what is to be said about it."""
    if loss is not None:
        if not (math.isfinite(loss) and loss >= 0):
            raise LawError(f"loss is {loss}; expected nats per token, 0 or more")
        return loss, [] if loss > LN2 else [f"loss {loss:g} is below ln 2, where no cell is fitted"]
    judged = [
        row
        for row in rows
        if row.get("final_loss") is not None and row.get("certified") is not None
    ]
    not_yet = min((row["final_loss"] for row in judged if not row["certified"]), default=math.inf)
    sure = [row["final_loss"] for row in judged if row["certified"] and row["final_loss"] < not_yet]
    if sure:
        return max(sure), []
    return LN2, [
        "the grid shows no loss below which all is certified; planned for a mean loss of ln 2, which is no "
        "certificate"
    ]


def base_loss_at(rows: list[dict], length: float) -> float:
    """L₀ at a length, between the lengths that were measured. Raises LawError if the rows do not tell."""
    known = [row for row in rows if row.get("base_loss") is not None]
    if not known:
        raise LawError(
            "the rows have no base_loss, so that a loss cannot be planned; give rows that have"
        )
    lengths = sorted({row["length"] for row in known})
    means = [np.mean([row["base_loss"] for row in known if row["length"] == n]) for n in lengths]
    return float(np.interp(math.log(length), np.log(lengths), means))


def parameters_per_rank(rows: list[dict]) -> int | None:
    each = {
        row["trainable_parameters"] / row["rank"] for row in rows if row.get("trainable_parameters")
    }
    return int(each.pop()) if len(each) == 1 else None


def mean_of(rows: list[dict], name: str) -> float | None:
    values = [row.get(name) for row in rows]
    return None if None in values else float(np.mean(values))


def share_right(law: Law, rows: list[dict], loss: float | None, target: float) -> float | None:
    """Of the measured cells, the share that reached the target (or did not) as the law says."""
    judged = [
        row
        for row in rows
        if row.get("base_loss") is not None and row.get("final_loss") is not None
    ]
    if loss is None:
        judged = [row for row in judged if row.get("certified") is not None]
    if not judged:
        return None
    said = [law.rank_for(row["length"], row["base_loss"] - target) <= row["rank"] for row in judged]
    was = [row["certified"] if loss is None else row["final_loss"] <= target for row in judged]
    return float(np.mean(np.equal(said, was)))


def outside(rows: list[dict], **values: int | None) -> list[str]:
    """A warning for each value beyond the measured grid."""
    warnings = []
    for name, value in values.items():
        measured = [row[name] for row in rows]
        if value is None or not min(measured) <= value <= max(measured):
            what = f"no {name}" if value is None else f"{name} {value:,}"
            warnings.append(
                f"{what} is outside the measured {min(measured):,} to {max(measured):,}: an extrapolation"
            )
    return warnings


def whole(rounding, value: float, least: int) -> int | None:
    """Rounded, at least `least`; None for infinity. A hair's breadth does not count."""
    if not math.isfinite(value) or value > 1e12:
        return None
    nearest = round(value)
    return max(least, nearest if math.isclose(value, nearest, rel_tol=1e-9) else rounding(value))
