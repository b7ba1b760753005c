"""From the rows of a sweep to laws: which rows count, which belong together, and what they say.

Rows of one model, layer, site and method make a group, and each group gets its own laws: the power law
over its unsaturated cells, the same with the saturated ones as "at least this much", and the
constant-bits law where the entropy of the tokens is known. A row needs rank, length and delta_loss (or
base_loss and final_loss); rows may be written by hand.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import LawError
from .law import LN2, BitsLaw, Law, fit_bits, fit_law

KEY = ("model", "layer", "site", "method")


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
    groups: dict[tuple, list[dict]] = {}
    for number, row in enumerate(rows, start=1):
        row = checked(row, row.get("_where", f"row {number}"))
        key = tuple(tuple(v) if isinstance(v := row.get(name), list) else v for name in KEY)
        groups.setdefault(key, []).append(row)
    fits, refused = [], {}
    for key in sorted(groups, key=lambda key: (-len(groups[key]), key[3] != "sft", str(key))):
        name = ", ".join(str(value) for value in key if value is not None) or "the rows"
        try:
            fits.append(fit_group(dict(zip(KEY, key, strict=True)), groups[key], offset, draws, seed))
        except LawError as error:
            refused[name] = str(error)
    if not fits:
        name, reason = next(iter(refused.items()))
        raise LawError(f"{name}: {reason}")
    return fits, refused


def checked(row: dict, where: str) -> dict:
    """The row with delta_loss filled in. Raises LawError for what is missing, or no number."""
    for name in ("rank", "length"):
        value = row.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise LawError(f"{where}: {name} is {value!r}; expected a whole number, 1 or more")
    for name in ("delta_loss", "base_loss", "final_loss", "entropy", "trainable_parameters"):
        value = row.get(name)
        if value is not None and (not isinstance(value, (int, float)) or isinstance(value, bool)):
            raise LawError(f"{where}: {name} is {value!r}; expected a number")
    if row.get("delta_loss") is None and None not in (row.get("base_loss"), row.get("final_loss")):
        row = row | {"delta_loss": row["base_loss"] - row["final_loss"]}
    if row.get("delta_loss") is None and row.get("status", "ok") == "ok":
        raise LawError(f"{where}: has no delta_loss; give it, or base_loss and final_loss")
    return row


def fit_group(key: dict, rows: Sequence[dict], offset: bool, draws: int, seed: int) -> Fit:
    """Raises LawError if the power law cannot be fitted."""
    skipped, good = Counter(), []
    for row in rows:
        if row.get("status", "ok") != "ok":
            skipped[row["status"]] += 1
        elif not (math.isfinite(row["delta_loss"]) and row["delta_loss"] > 0):
            skipped["no loss reduction"] += 1
        else:
            good.append(row)
    if not good:
        raise LawError("no row counts (" + ", ".join(f"{n} {why}" for why, n in skipped.items()) + ")")
    saturated = [row.get("final_loss") is not None and row["final_loss"] <= LN2 for row in good]
    options = {"offset": offset, "draws": draws, "seed": seed}
    ratios = sorted({row.get("ratio") for row in good} - {None})
    by_ratio = {}
    for ratio in ratios if len(ratios) > 1 else ():
        chosen = [n for n, row in enumerate(good) if row.get("ratio") == ratio]
        by_ratio[ratio] = attempt(power, [good[n] for n in chosen], [saturated[n] for n in chosen], **options)
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
            row.get("converged") is False and not full for row, full in zip(good, saturated, strict=True)
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


def power(rows: Sequence[dict], saturated: Sequence[bool], **options) -> Law:
    cells = (column(rows, name) for name in ("rank", "length", "delta_loss"))
    return fit_law(*cells, saturated=saturated, **options)


def constant_bits(rows: Sequence[dict], saturated: Sequence[bool], **options) -> BitsLaw:
    names = ("trainable_parameters", "length", "base_loss", "entropy", "delta_loss")
    cells = [column(rows, name) for name in names]
    for name, values in zip(names, cells, strict=True):
        if None in values:
            raise LawError(f"{values.count(None)} of {len(values)} rows have no {name}")
    return fit_bits(*cells, saturated=saturated, ranks=column(rows, "rank"), **options)
