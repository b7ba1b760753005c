"""Turns the rows of a sweep into laws: drops unusable rows, groups the rest, and fits each group.

Rows with the same model, layer, site and method form a group. A group gets the power law over its
unsaturated runs, one more for each ratio of random tokens if there are several, the constant-bits
law if the entropy of the tokens is known, and the recall law if rows say what was recited. A row
needs rank, length and delta_loss (or base_loss and final_loss), and may be written by hand.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NoReturn, TypeVar

import numpy as np

from ..errors import LawError
from ..shown import Shown
from .bits import BitsLaw, fit_bits
from .cells import LARGEST, check_draws, is_number, shown, whole_number
from .power import LN2, Law, fit_law
from .recall import RecallLaw, compare_loads, is_recited, recall_of

KEY = ("model", "layer", "site", "method")
LOSSES = ("base_loss", "final_loss", "delta_loss")
NUMBERS = (*LOSSES, "entropy", "trainable_parameters", "min_probability", "ratio", "seed")
POWER = ("rank", "length", "delta_loss")  # the columns that fit_law takes
BITS = ("trainable_parameters", "length", "base_loss", "entropy", "delta_loss")  # fit_bits
T = TypeVar("T")


@dataclass(frozen=True, repr=False)
class Fit(Shown):
    """The laws of one group of rows. A string instead of a law says why there is none."""

    key: dict[str, Any]  # what the rows have in common: model, layer, site, method
    rows: list[dict]  # the usable rows
    saturated: list[bool]  # for each of them, whether its final loss is at most ln 2
    law: Law | str  # over all ratios together
    bits: BitsLaw | str
    recall: RecallLaw | str  # over all ratios together
    loads: dict[str, float]  # deviance of the recall law by load, if the entropy differs in rows
    by_ratio: dict[Any, Law | str]  # empty unless there are several ratios
    skipped: dict[str, int]  # reason -> number of rows that are not usable
    n_unconverged: int  # of the unsaturated rows
    offset: bool

    def as_dict(self) -> dict[str, Any]:
        """The constants and measures of `law` on top, everything else below; floats may be NaN."""
        axes = ("rank", "length", "ratio", "seed")
        return {
            **self.key,
            **law_dict(self.law),
            "offset": self.offset,
            "n_unconverged": self.n_unconverged,
            "skipped": self.skipped,
            "constant_bits": law_dict(self.bits),
            "recall": law_dict(self.recall),
            "recall_deviances": self.loads,
            "by_ratio": {str(ratio): law_dict(law) for ratio, law in self.by_ratio.items()},
            "grid": {f"{name}s": distinct(self.rows, name) for name in axes},
        }


def law_dict(law: Law | BitsLaw | RecallLaw | str) -> dict[str, Any]:
    """A law's fields without its arrays, or the reason why there is no law."""
    if isinstance(law, str):
        return {"reason": law}
    if isinstance(law, RecallLaw):
        return law.as_dict()
    return {name: value for name, value in vars(law).items() if not isinstance(value, np.ndarray)}


def fit_rows(
    rows: Sequence[dict], *, offset: bool = True, draws: int = 1000, seed: int = 0
) -> tuple[list[Fit], dict[str, str]]:
    """Fit each group of rows. Returns the fits, and why other groups have none.

    Groups with a power law come before those that only have a recall law, and larger groups first.
    Raises LawError for a row that is not valid, and if no group at all can be fitted.
    """
    check_draws(draws, seed)
    groups: dict[str, list[dict]] = {}
    for number, row in enumerate(rows, start=1):
        row = complete_row(row, number)
        groups.setdefault(json.dumps([row.get(name) for name in KEY], default=str), []).append(row)
    keys = {text: dict(zip(KEY, json.loads(text), strict=True)) for text in groups}
    fits, refused = [], {}
    for text in sorted(groups, key=lambda g: (-len(groups[g]), keys[g]["method"] != "sft", g)):
        try:
            fits.append(fit_group(keys[text], groups[text], offset, draws=draws, seed=seed))
        except LawError as error:
            name = ", ".join(str(part) for part in keys[text].values() if part is not None)
            refused[name or "the rows"] = str(error)
    if not fits:
        reasons = [f"{name}: {reason}" for name, reason in refused.items()]
        raise LawError("; ".join(reasons) or "no rows to fit")
    return sorted(fits, key=lambda fit: isinstance(fit.law, str)), refused


def complete_row(row: dict, number: int) -> dict:
    """Validates a row, and derives its delta or final loss where the other two losses give it.

    NaN, which tables use for it, counts as missing. Raises LawError, with the row's number or its
    place in a file, for a field that is missing or is not what it should be.
    """
    if not isinstance(row, dict):
        raise LawError(f"row {number}: expected a dict with rank, length and delta_loss")
    where = row.get("_where", f"row {number}")

    def refuse(name: str, expected: str) -> NoReturn:
        raise LawError(f"{where}: {name} is {shown(row.get(name))}; expected {expected}")

    row = row | {name: whole_number(f"{where}: {name}", row.get(name)) for name in POWER[:2]}
    for name in NUMBERS:
        if (value := row.get(name)) is not None:
            if not is_number(value) or (math.isinf(value) and name not in LOSSES):
                refuse(name, "a number")
            row[name] = int(value) if isinstance(value, Integral) else float(value)
    for name in KEY:
        parts = row[name] if isinstance(row.get(name), list) else [row.get(name)]
        if not all(part is None or isinstance(part, str | int) for part in parts):
            refuse(name, "text or a number, or a list of them")
    if not isinstance(row.get("status"), str | None):
        refuse("status", "text")
    if not isinstance(recited := is_recited(row), bool | None):
        raise LawError(f"{where}: recall_exact is {shown(recited)}; expected true or false")
    if row.get("delta_loss") is None and None not in (row.get("base_loss"), row.get("final_loss")):
        row["delta_loss"] = row["base_loss"] - row["final_loss"]
    row |= {n: None for n in NUMBERS if n != "delta_loss" and math.isnan(row.get(n) or 0)}
    base, final, delta = (row.get(name) for name in LOSSES)
    if base is not None and delta is not None and final is None:
        row["final_loss"] = base - delta
    if row.get("delta_loss") is None and status_of(row) == "ok":
        raise LawError(f"{where}: has no delta_loss; give it, or base_loss and final_loss")
    if not reason_to_skip(row):
        for name in NUMBERS[:-1]:
            if abs(row.get(name) or 0) > LARGEST:
                refuse(name, f"a number up to {LARGEST:g}")
    return row


def status_of(row: dict) -> str:
    return str(row.get("status") or "ok")


def reason_to_skip(row: dict) -> str:
    """Why a row cannot be used in a fit; empty if it can."""
    if status_of(row) != "ok":
        return status_of(row)
    if not math.isfinite(row["delta_loss"]):
        return "loss not finite"
    return "no loss reduction" if row["delta_loss"] <= 0 else ""


def is_saturated(row: dict) -> bool:
    return row.get("final_loss") is not None and row["final_loss"] <= LN2


def fit_group(key: dict, rows: Sequence[dict], offset: bool, **options: int) -> Fit:
    """The laws of rows that belong together.

    Raises LawError if neither the power law nor the recall law can be fitted.
    """
    reasons = [reason_to_skip(row) for row in rows]
    skipped = Counter(filter(None, reasons))
    usable = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    if not usable:
        found = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise LawError(f"no row can be used ({found})")

    def power_law(rows: Sequence[dict]) -> Law | str:
        saturated = [is_saturated(row) for row in rows]
        power = {"saturated": saturated, "offset": offset, **options}
        return or_reason(fit_law, *(column(rows, name) for name in POWER), **power)

    law, recall = power_law(usable), or_reason(recall_of, usable)
    if isinstance(law, str) and isinstance(recall, str):
        judged = any(is_recited(row) is not None for row in usable)
        raise LawError(f"{law}; {recall}" if judged else law)
    ratios = distinct(usable, "ratio")
    parts = {r: [row for row in usable if row.get("ratio") == r] for r in ratios if len(ratios) > 1}
    saturated = [is_saturated(row) for row in usable]
    bits = {"saturated": saturated, "ranks": column(usable, "rank"), **options}
    return Fit(
        key=key,
        rows=usable,
        saturated=saturated,
        law=law,
        recall=recall,
        loads={} if isinstance(recall, str) else deviances(usable),
        bits=or_reason(fit_bits, *(column(usable, name) for name in BITS), **bits),
        by_ratio={ratio: power_law(part) for ratio, part in parts.items()},
        skipped=dict(skipped),
        n_unconverged=sum(row.get("converged") is False for row in usable if not is_saturated(row)),
        offset=offset,
    )


def or_reason(fit: Callable[..., T], *columns: Any, **options: Any) -> T | str:
    """What `fit` finds, or why there is no law."""
    try:
        return fit(*columns, **options)
    except LawError as error:
        return str(error)


def deviances(rows: Sequence[dict]) -> dict[str, float]:
    """How well recall follows tokens and bits per parameter, where the entropy of rows differs.

    Nothing if all rows with an entropy are recited, or none is.
    """
    same = len({round(entropy, 6) for entropy in distinct(rows, "entropy")}) < 2
    laws = {} if same else or_reason(compare_loads, rows)
    return {} if isinstance(laws, str) else {load: law.deviance for load, law in laws.items()}


def column(rows: Sequence[dict], name: str) -> list:
    return [row.get(name) for row in rows]


def distinct(rows: Sequence[dict], name: str) -> list:
    """The different values of a field, in order, without None."""
    return sorted({row[name] for row in rows if row.get(name) is not None})
