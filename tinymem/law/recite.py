"""Plans by the recall law: the rank that recites a length, or the length that a rank recites.

A plan speaks about one run, with a memory and a seed of its own. Its probability is the mean over
the curves that the measured runs allow (`RecallLaw.chance`), so that few runs promise less than
many. `kept` says how far such promises can be trusted: curves without the runs of one rank promise
something about these runs, and it counts how many of those promises come true.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import LawError
from .cells import whole_number
from .fit import Fit, distinct
from .plan import extrapolations
from .recall import RecallLaw, is_recited, recall_of

LARGEST = 10**9  # a rank or a length above it counts as infinite


@dataclass(frozen=True)
class RecitePlan:
    """The smallest rank that recites a length, or the largest length that a rank recites.

    None stands for "no rank is enough" or "no limit to the length"; a length of 0 for "not even one
    token that often".
    """

    asked: str  # "rank" or "length"
    rank: int | None
    length: int | None
    recite: float  # the probability that was asked for
    probability: float | None  # that a fresh run of this rank recites the whole length
    by_rank: dict[int, float]  # the probability at that rank and its neighbours, if asked for
    interval: tuple[int | None, int | None]  # the ranks that 95 % of runs need, or lengths
    parameters: int | None  # of a unit of that rank
    bytes: int | None
    kept: tuple[int, int] | None  # runs of which other ranks promise so much: recited, and all
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        return asdict(self)


def recite_rank(
    fit: Fit, length: int, recite: float = 0.9, *, ratio: int | None = None
) -> RecitePlan:
    """The smallest rank at which a run recites `length` tokens with the probability `recite`.

    ratio: use the runs of that percentage of random tokens, if they give a curve.
    Raises LawError if the rows give no curve.
    """
    length = whole_number("length", length, LARGEST)
    law, rows, warnings = curve_of(fit, recite, ratio)
    rank, low, high = (smallest_rank(law, length, share) for share in (recite, 0.025, 0.975))
    near = range(max(1, rank - 2), rank + 3) if rank else ()
    per_rank = int(law.parameters_per_rank or 0)
    return RecitePlan(
        asked="rank",
        rank=rank,
        length=length,
        recite=recite,
        probability=chance(law, rank, length) if rank else None,
        by_rank={one: chance(law, one, length) for one in near},
        interval=(low, high),
        parameters=rank * per_rank if rank else None,
        bytes=4 * rank * per_rank if rank else None,  # float32
        kept=promises(rows, recite),
        warnings=[*warnings, *extrapolations(rows, rank, length)],
    )


def recite_length(
    fit: Fit, rank: int, recite: float = 0.9, *, ratio: int | None = None
) -> RecitePlan:
    """The largest length that a run of this rank recites with the probability `recite`."""
    rank = whole_number("rank", rank, LARGEST)
    law, rows, warnings = curve_of(fit, recite, ratio)
    length, low, high = (largest_length(law, rank, share) for share in (recite, 0.975, 0.025))
    parameters = int(rank * (law.parameters_per_rank or 0))
    return RecitePlan(
        asked="length",
        rank=rank,
        length=length,
        recite=recite,
        probability=chance(law, rank, length) if length else None,
        by_rank={},
        interval=(low, high),
        parameters=parameters,
        bytes=4 * parameters,
        kept=promises(rows, recite),
        warnings=[*warnings, *extrapolations(rows, rank, length)],
    )


def curve_of(fit: Fit, recite: float, ratio: int | None) -> tuple[RecallLaw, list[dict], list[str]]:
    """The curve and the rows of a ratio, or of all ratios, with a warning where it has none."""
    if not 0 < recite < 1:
        raise LawError(f"the probability to recite is {recite}; expected one between 0 and 1")
    if isinstance(fit.recall, str):
        raise LawError(fit.recall)
    rows, law, ratios = fit.rows, fit.recall, distinct(fit.rows, "ratio")
    warnings = []
    if ratio is not None and ratios != [ratio]:
        try:
            rows = [row for row in fit.rows if row.get("ratio") == ratio]
            law = recall_of(rows)
        except LawError:
            rows, known = fit.rows, ", ".join(f"{r} %" for r in ratios) or "an unknown share of"
            warnings = [f"the runs recited {known} random tokens, not {ratio} %"]
    if not law.parameters_per_rank:
        raise LawError("ranks have different numbers of parameters each; fit one site at a time")
    return law, [row for row in rows if is_recited(row) is not None], warnings


def chance(law: RecallLaw, rank: int, length: int) -> float:
    parameters = rank * (law.parameters_per_rank or 1)
    return float(law.chance(length / parameters, parameters))


def smallest_rank(law: RecallLaw, length: int, recite: float) -> int | None:
    """The chance grows with the rank."""
    too_small = largest(lambda rank: chance(law, rank, length) < recite)
    return None if too_small is None else too_small + 1


def largest_length(law: RecallLaw, rank: int, recite: float) -> int | None:
    """The chance falls with the length."""
    return largest(lambda length: chance(law, rank, length) >= recite)


def largest(holds: Callable[[int], bool]) -> int | None:
    """The number up to which it holds, by bisection; 0 if not for 1, None beyond LARGEST."""
    low, high = 0, 1
    while holds(high):
        low, high = high, 2 * high
        if high > LARGEST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def promises(rows: Sequence[dict], recite: float) -> tuple[int, int] | None:
    """Of the runs of each rank to which curves of the other ranks give this chance: how many were
    recited, and how many there are. None if there are none, or no such curves.
    """
    outcomes = []
    for rank in distinct(rows, "rank"):
        try:
            law = recall_of([row for row in rows if row["rank"] != rank])
        except LawError:
            continue
        for row in rows:
            parameters = row["trainable_parameters"]
            promised = law.chance(row["length"] / parameters, parameters) >= recite
            if row["rank"] == rank and promised:
                outcomes.append(is_recited(row))
    return (sum(map(bool, outcomes)), len(outcomes)) if outcomes else None
