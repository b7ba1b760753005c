"""What both kinds of plan share (plan.py, recite.py): their fields, and which runs they rest on."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..errors import LawError
from ..shown import Shown
from .fit import Fit, column, distinct
from .power import Law
from .recall import RecallLaw

AnyLaw = TypeVar("AnyLaw", Law, RecallLaw)


@dataclass(frozen=True, repr=False)
class Answer(Shown):
    """The smallest whole rank for a length, or the largest whole length for a rank.

    None stands for "no rank is enough" or "no limit to the length".
    """

    asked: str  # "rank" or "length"
    rank: int | None
    length: int | None
    probability: float | None  # that a fresh run of this rank and length reaches the goal
    by_rank: dict[int, float]  # the probability at that rank and its neighbours, if asked for
    interval: tuple[int | None, int | None]  # the ranks that 95 % of fresh runs need, or lengths
    parameters: int | None  # of a unit of that rank
    bytes: int | None  # in float32

    def as_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def answer(
    asked: str,
    given: int,
    probability: float,
    per_rank: float | None,
    solve: Callable[[float], int | None],
    chance: Callable[[int | None], float | None],
) -> dict[str, Any]:
    """The fields of an `Answer`.

    per_rank: parameters of a unit of rank 1. solve: the rank or the length for a probability, and
    chance: the other way round.
    """
    number, *ends = map(solve, (probability, 0.025, 0.975))
    low, high = ends if asked == "rank" else reversed(ends)
    rank, length = (number, given) if asked == "rank" else (given, number)
    near = range(max(1, number - 2), number + 3) if asked == "rank" and number else ()
    parameters = int(rank * per_rank) if rank and per_rank else None
    return {
        **{"asked": asked, "rank": rank, "length": length, "probability": chance(number)},
        **{"by_rank": {one: chance(one) for one in near}, "interval": (low, high)},
        **{"parameters": parameters, "bytes": None if parameters is None else 4 * parameters},
    }


def of_ratio(
    fit: Fit, ratio: int | None, law: AnyLaw | str, part: Callable[[list[dict]], Any], warning: str
) -> tuple[AnyLaw, list[dict], list[str]]:
    """The law and rows of a ratio; those of all ratios, with a warning, where it has no law.

    law: of all ratios. part: from the rows of a ratio, its law; no law is a string or None.
    """
    if isinstance(law, str):
        raise LawError(law)
    ratios = distinct(fit.rows, "ratio")
    if ratio is None or ratios == [ratio]:
        return law, fit.rows, []
    rows = [row for row in fit.rows if row.get("ratio") == ratio]
    if not isinstance(own := part(rows), str | None):
        return own, rows, []
    known = ", ".join(f"{r} %" for r in ratios) or "an unknown share of"
    return law, fit.rows, [warning.format(known=known, ratio=ratio)]


def extrapolations(rows: list[dict], rank: int | None, length: int | None) -> list[str]:
    """A warning for a rank or length outside the measured ones."""
    warnings = []
    for name, value in (("rank", rank), ("length", length)):
        low, high = min(column(rows, name)), max(column(rows, name))
        if value is None or not low <= value <= high:
            what = f"no {name}" if value is None else f"{name} {value:,}"
            warnings.append(f"{what} is outside the measured {low:,} to {high:,}: an extrapolation")
    return warnings
