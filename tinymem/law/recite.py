"""Plans by the recall law: the rank that recites a length, or the length that a rank recites.

A plan speaks about one run, with a memory and a seed of its own. Its probability is the mean over
the curves that the measured runs allow (`RecallLaw.chance`), so that few runs promise less than
many. `kept` says how far such promises can be trusted: curves without the runs of one rank promise
something about these runs, and it counts how many of those promises come true.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ..errors import LawError
from .answer import Answer, answer, extrapolations, of_ratio
from .cells import whole_number
from .fit import Fit, distinct, or_reason
from .recall import RecallLaw, is_recited, recall_of

LARGEST = 10**9  # a rank or a length above it counts as infinite


@dataclass(frozen=True, repr=False)
class RecitePlan(Answer):
    """An answer for a memory that is recited whole.

    A length of 0 stands for "not even one token that often".
    """

    recite: float  # the probability that was asked for
    kept: tuple[int, int] | None  # runs of which other ranks promise so much: recited, and all
    warnings: list[str] = field(default_factory=list)


def recite_rank(
    fit: Fit, length: int, recite: float = 0.9, *, ratio: int | None = None
) -> RecitePlan:
    """The smallest rank at which a run recites `length` tokens with the probability `recite`.

    ratio: use the runs of that percentage of random tokens, if they give a curve.
    Raises LawError if the rows give no curve.
    """
    return make_recital(fit, "rank", length, recite, ratio)


def recite_length(
    fit: Fit, rank: int, recite: float = 0.9, *, ratio: int | None = None
) -> RecitePlan:
    """The largest length that a run of this rank recites with the probability `recite`."""
    return make_recital(fit, "length", rank, recite, ratio)


def make_recital(fit: Fit, asked: str, given: int, recite: float, ratio: int | None) -> RecitePlan:
    """The plan for the number that is asked for, "rank" or "length", where the other is given."""
    given = whole_number("length" if asked == "rank" else "rank", given)
    if not 0 < recite < 1:
        raise LawError(f"the probability to recite is {recite}; expected one between 0 and 1")
    law, rows, warnings = curve_of(fit, ratio)
    for_rank = asked == "rank"
    found = answer(
        *(asked, given, recite, law.parameters_per_rank),
        solve=partial(smallest_rank if for_rank else largest_length, law, given),
        chance=lambda n: chance(law, *((n, given) if for_rank else (given, n))) if n else None,
    )
    warnings = [*warnings, *extrapolations(rows, found["rank"], found["length"])]
    return RecitePlan(**found, recite=recite, kept=promises(rows, recite), warnings=warnings)


def curve_of(fit: Fit, ratio: int | None) -> tuple[RecallLaw, list[dict], list[str]]:
    """The recall law that a plan uses, the rows behind it, and warnings. Raises LawError."""
    law, rows, warnings = of_ratio(
        *(fit, ratio, fit.recall, partial(or_reason, recall_of)),
        "the runs recited {known} random tokens, not {ratio} %",
    )
    if not law.parameters_per_rank:
        raise LawError("ranks have different numbers of parameters each; fit one site at a time")
    return law, [row for row in rows if is_recited(row) is not None], warnings


def chance(law: RecallLaw, rank: int, length: int) -> float:
    """That a run of this rank recites so many tokens."""
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
    outcomes = [recited for promised, recited in promised_chances(rows) if promised >= recite]
    return (sum(outcomes), len(outcomes)) if outcomes else None


def promised_chances(rows: Sequence[dict]) -> list[tuple[float, bool]]:
    """Of each run: the chance that curves of the other ranks give it, and whether it was recited.

    Runs of a rank without which the rows give no curve are left out.
    """
    outcomes = []
    for rank in distinct(rows, "rank"):
        law = or_reason(recall_of, [row for row in rows if row["rank"] != rank])
        if isinstance(law, str):
            continue
        for row in rows:
            if row["rank"] == rank:
                parameters = row["trainable_parameters"]
                promised = law.chance(row["length"] / parameters, parameters)
                outcomes.append((float(promised), bool(is_recited(row))))
    return outcomes
