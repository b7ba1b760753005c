"""What a page needs to plan by itself: the constants and draws behind `tinymem plan`, as data.

The script of the page, page/planner.js, computes the answers of law/recite.py and law/plan.py from
them, with the same arithmetic, for any rank, length and probability that the reader chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..errors import LawError
from ..law.answer import AnyLaw
from ..law.fit import Fit, column, distinct
from ..law.plan import (
    NO_CERTIFICATE,
    base_loss_at,
    law_of,
    parameters_per_rank,
    share_right,
    threshold_of,
    with_fields,
)
from ..law.power import LN2, Law
from ..law.recall import RecallLaw
from ..law.recite import curve_of, promised_chances

Found = tuple[AnyLaw, list[dict], list[str]]  # a law, the rows behind it, warnings
T = TypeVar("T")


def planner(fit: Fit, ratio: int | None) -> dict[str, Any]:
    """What a plan of this fit and ratio rests on; a part is `{"reason": …}` where there is none."""
    return {
        "recite": part(curve_of, fit, ratio, curve),
        "certify": part(law_of, fit, ratio, threshold),
        "loss": part(law_of, fit, ratio, loss),
    }


def part(
    find: Callable[[Fit, int | None], T], fit: Fit, ratio: int | None, build: Callable[[T], dict]
) -> dict[str, Any]:
    """What `build` makes of the law that `find` finds, or the reason why there is none."""
    try:
        return build(find(fit, ratio))
    except LawError as error:
        return {"reason": str(error)}


def curve(found: Found[RecallLaw]) -> dict[str, Any]:
    """The recall law: its curves, each with how often it was drawn, and the promises it kept."""
    law, rows, warnings = found
    draws, times = np.unique(law.draws, axis=0, return_counts=True)
    return {
        "draws": draws.T.tolist(),  # ln load_50, s, γ of each curve
        "times": times.tolist(),
        "measured": list(law.measured),
        "per_rank": law.parameters_per_rank,
        "promised": promised_chances(rows),
        "warnings": warnings,
        "ranges": ranges(rows),
    }


def threshold(found: Found[Law]) -> dict[str, Any]:
    """The certificate: the plane through the runs near it, or without one the power law at ln 2."""
    law, rows, warnings = found
    shared = {"per_rank": parameters_per_rank(rows), "ranges": ranges(rows)}
    if (plane := threshold_of(rows, None, None)) is not None:
        return shared | {
            "draws": plane.draws.T.tolist(),  # a and γ
            "deviations": plane.deviations.tolist(),
            "right": plane.right_left_out,
            "warnings": warnings,
            "base": None,
        }
    return shared | {
        "draws": law.draws.T.tolist(),  # C, α, β, b
        "constants": list(law.constants),
        "deviations": law.deviations.tolist(),
        "right": share_right(law, rows, LN2),
        "warnings": [*warnings, NO_CERTIFICATE],
        "base": base_losses(rows),
    }


def loss(found: Found[Law]) -> dict[str, Any]:
    """The power law, which predicts a final loss."""
    law, rows, warnings = found
    return {
        "constants": list(law.constants),
        "mape": law.mape,
        "base": base_losses(rows),
        "warnings": warnings,
        "ranges": ranges(rows),
    }


def base_losses(rows: list[dict]) -> dict[str, Any]:
    """L₀ at the measured lengths, between which it is interpolated. Raises LawError."""
    lengths = distinct(with_fields(rows, "base_loss"), "length") or [1]
    return {
        "lengths": lengths,
        "losses": [base_loss_at(rows, n) for n in lengths],
        "middle": float(np.median(column(rows, "length"))),
    }


def ranges(rows: list[dict]) -> dict[str, tuple[int, int]]:
    """The measured ranks and lengths, outside of which a plan extrapolates."""
    pairs = ((name, column(rows, name)) for name in ("rank", "length"))
    return {name: (min(values), max(values)) for name, values in pairs}
