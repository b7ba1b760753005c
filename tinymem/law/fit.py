"""From the rows of a sweep to laws: which rows count, which belong together, and what they say.

Rows of one model, layer, site and method make a group, and each group gets its own laws: the power law
over its unsaturated cells, the same with the saturated ones as "at least this much", and the
constant-bits law where the entropy of the tokens is known. A row needs rank, length and delta_loss (or
base_loss and final_loss); rows may be written by hand.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import LawError
from .bits import BitsLaw, fit_bits
from .power import LN2, Law, fit_law

KEY = ("model", "layer", "site", "method")
NUMBERS = (
    "delta_loss",
    "base_loss",
    "final_loss",
    "entropy",
    "trainable_parameters",
    "ratio",
    "seed",
)


@dataclass(frozen=True)
class Fit:
    """The laws of one group of rows. Where there is none, a line says why not."""

    key: dict  # what its rows have in common: model, layer, site, method
    rows: list[dict]  # those that count
    saturated: list[bool]  # of each of them: final loss at most ln 2
    law: Law  # all ratios together
    censored: Law | str
    bits: BitsLaw | str
    by_ratio: dict[int, Law | str]  # where there are several
    skipped: dict[str, int]  # why rows do not count, and how many
    n_unconverged: int  # of the unsaturated
    offset: bool

    def as_dict(self) -> dict:
        """JSON-ready: the power law's constants and measures on top, the rest beneath."""
        axes = {
            f"{axis}s": sorted({row[axis] for row in self.rows if row.get(axis) is not None})
            for axis in ("rank", "length", "ratio", "seed")
        }
        return {
            **self.key,
            **law_dict(self.law),
            "offset": self.offset,
            "n_unconverged": self.n_unconverged,
            "skipped": self.skipped,
            "censored": law_dict(self.censored),
            "constant_bits": law_dict(self.bits),
            "by_ratio": {str(ratio): law_dict(law) for ratio, law in self.by_ratio.items()},
            "grid": axes,
        }


def law_dict(law: Law | BitsLaw | str) -> dict:
    """A law's numbers, without nan and infinity; or the reason why there is none."""
    if isinstance(law, str):
        return {"reason": law}
    fields = {name: getattr(law, name) for name in law.__dataclass_fields__ if name != "draws"}
    return {name: clean(value) for name, value in fields.items()}


def clean(value: object) -> object:
    if isinstance(value, dict):
        return {name: clean(one) for name, one in value.items()}
    if isinstance(value, tuple):
        return [clean(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fit_rows(
    rows: Sequence[dict], *, offset: bool = True, draws: int = 1000, seed: int = 0
) -> tuple[list[Fit], dict[str, str]]:
    """The laws of each group, the largest first; and for each group without one, the reason.

    Raises LawError for a row that is none, and if no group at all can be fitted.
    """
    groups: dict[str, list[dict]] = {}
    for number, row in enumerate(rows, start=1):
        row = checked(row, number)
        groups.setdefault(json.dumps([row.get(name) for name in KEY], default=str), []).append(row)
    if not groups:
        raise LawError("no rows to fit")
    keys = {text: dict(zip(KEY, json.loads(text), strict=True)) for text in groups}
    fits, refused = [], {}
    for text in sorted(
        groups, key=lambda text: (-len(groups[text]), keys[text]["method"] != "sft", text)
    ):
        try:
            fits.append(fit_group(keys[text], groups[text], offset, draws, seed))
        except LawError as error:
            name = (
                ", ".join(str(value) for value in keys[text].values() if value is not None)
                or "the rows"
            )
            refused[name] = str(error)
    if not fits:
        name, reason = next(iter(refused.items()))
        raise LawError(f"{name}: {reason}")
    return fits, refused


def checked(row: dict, number: int) -> dict:
    """The row, with the third of base, final and delta loss where it has two of them.

    Raises LawError for what is missing, or is no number.
    """
    if not isinstance(row, dict):
        raise LawError(f"row {number}: expected a dict, with rank, length and delta_loss")
    where = row.get("_where", f"row {number}")
    for name in ("rank", "length"):
        value = row.get(name)
        if not is_number(value) or not isinstance(value, int) or value < 1:
            raise LawError(f"{where}: {name} is {value!r}; expected a whole number, 1 or more")
    for name in NUMBERS:
        if row.get(name) is not None and not is_number(row[name]):
            raise LawError(f"{where}: {name} is {row[name]!r}; expected a number")
    base, final, delta = (row.get(name) for name in ("base_loss", "final_loss", "delta_loss"))
    if delta is None and None not in (base, final):
        row = row | {"delta_loss": base - final}
    elif final is None and None not in (base, delta):
        row = row | {"final_loss": base - delta}
    if row.get("delta_loss") is None and status_of(row) == "ok":
        raise LawError(f"{where}: has no delta_loss; give it, or base_loss and final_loss")
    return row


def is_number(value: object) -> bool:
    """Not a bool, and not beyond what a float holds."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 63)


def status_of(row: dict) -> str:
    return str(row.get("status") or "ok")


def fit_group(key: dict, rows: Sequence[dict], offset: bool, draws: int, seed: int) -> Fit:
    """Raises LawError if the power law cannot be fitted."""
    skipped, good = Counter(), []
    for row in rows:
        if status_of(row) != "ok":
            skipped[status_of(row)] += 1
        elif not math.isfinite(row["delta_loss"]):
            skipped["loss not finite"] += 1
        elif row["delta_loss"] <= 0:
            skipped["no loss reduction"] += 1
        else:
            good.append(row)
    if not good:
        raise LawError(
            "no row counts (" + ", ".join(f"{n} {why}" for why, n in skipped.items()) + ")"
        )
    saturated = [row.get("final_loss") is not None and row["final_loss"] <= LN2 for row in good]
    options = {"offset": offset, "draws": draws, "seed": seed}
    ratios = sorted({row.get("ratio") for row in good} - {None})
    by_ratio = {}
    for ratio in ratios if len(ratios) > 1 else ():
        chosen = [n for n, row in enumerate(good) if row.get("ratio") == ratio]
        by_ratio[ratio] = attempt(
            power, [good[n] for n in chosen], [saturated[n] for n in chosen], **options
        )
    return Fit(
        key=key,
        rows=good,
        saturated=saturated,
        law=power(good, saturated, **options),
        censored=attempt(power, good, saturated, censored=True, **options),
        bits=attempt(constant_bits, good, saturated, draws=draws, seed=seed),
        by_ratio=by_ratio,
        skipped=dict(skipped),
        n_unconverged=sum(
            row.get("converged") is False and not full
            for row, full in zip(good, saturated, strict=True)
        ),
        offset=offset,
    )


def attempt(fit, *args, **options):
    try:
        return fit(*args, **options)
    except LawError as error:
        return str(error)


def column(rows: Sequence[dict], name: str) -> list:
    return [row.get(name) for row in rows]


def power(
    rows: Sequence[dict], saturated: Sequence[bool], censored: bool = False, **options
) -> Law:
    """censored: saturated rows count as "at least L₀ − ln 2"; without L₀, "at least their own ΔL"."""
    if censored and not any(saturated):
        raise LawError("no cell is saturated")
    deltas = column(rows, "delta_loss")
    for n, row in enumerate(rows):
        if censored and saturated[n] and (row.get("base_loss") or 0) > LN2:
            deltas[n] = row["base_loss"] - LN2
    cells = column(rows, "rank"), column(rows, "length"), deltas
    return fit_law(*cells, saturated=saturated, censored=censored, **options)


def constant_bits(rows: Sequence[dict], saturated: Sequence[bool], **options) -> BitsLaw:
    names = ("trainable_parameters", "length", "base_loss", "entropy", "delta_loss")
    rows = [
        row for row, full in zip(rows, saturated, strict=True) if not full
    ]  # the others may lack some
    cells = [column(rows, name) for name in names]
    for name, values in zip(names, cells, strict=True):
        if None in values:
            raise LawError(f"{values.count(None)} of {len(values)} unsaturated rows have no {name}")
    law = fit_bits(*cells, ranks=column(rows, "rank"), **options)
    return replace(law, n_saturated=sum(saturated))
