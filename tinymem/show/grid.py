"""The page of a sweep and of its laws: heat maps, the laws, the recall curve, a planner.

`sweep_page` writes it. The functions below it turn rows into the data of the heat maps, which
page/maps.js draws; laws.py and planner.py do the same for the other parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import LawError
from ..law.fit import Fit, complete_row, fit_rows
from ..law.recall import is_recited
from .axes import LABELS, PERCENT, group, known
from .laws import laws
from .page import write_page
from .report import Row
from .tables import MEASURES as LEGEND

SCRIPTS = "common.js", "maps.js", "laws.js", "planner.js", "sweep.js"
OWN = ("model", "layer", "site", "method", "ratio")  # rows that agree in these share a heat map
HIDDEN = ("_where", "setting", "setting_hash", "checksum")  # not for the eye
SHARES = {  # of the runs of a cell, by a field of a run that is true or false
    "recited": "runs that recite the whole memory (%)",
    "converged": "runs whose training converged (%)",
}
MEASURES = (
    *("final_loss", "delta_loss", "memorized_bits_per_parameter", "bits_per_parameter"),
    *("recited", "exact_match", "held_out_exact_match", "token_accuracy", "certified_fraction"),
    "converged",
)


def sweep_page(
    path: Path,
    rows: Sequence[Row],
    fits: Sequence[Fit] | None = None,
    refused: Mapping[str, str] | None = None,
    *,
    cells: Iterable[Row] = (),
    offset: bool = True,
) -> None:
    """Writes the page of these rows.

    fits, refused: of these rows, as from `fit_rows`; they are fitted here if not given, and where
    that fails, the page says why. cells: what was asked for: rank, length, ratio, method and seed
    of each run; the map shows which of them are missing.
    """
    reason = ""
    if fits is None:
        try:
            fits, refused = fit_rows(rows, offset=offset)
        except LawError as error:
            fits, refused, reason = [], {}, str(error)
    complete = [complete_row(row, number) for number, row in enumerate(rows, start=1)]
    complete += missing(complete, cells)
    done = sum(row.get("status") != "missing" for row in complete)
    left = f", {len(complete) - done:,} missing" if done < len(complete) else ""
    data = {
        "about": f"{done:,} runs{left}",
        **maps(complete),
        "laws": [one for fit in fits for one in laws(fit)],
        "refused": refused,
        "reason": reason,
        "legend": LEGEND.replace("\n", " "),
    }
    title = f"Sweep: {common_words(complete)}" if common_words(complete) else "Sweep"
    write_page(path, title, SCRIPTS, data)


# --- The rows ------------------------------------------------------------------------------------


def missing(rows: Sequence[Row], cells: Iterable[Row]) -> list[Row]:
    """The cells that no row has, as rows with the status "missing"."""

    def place(row: Row) -> str:
        return repr([row.get(name) for name in ("rank", "length", "ratio", "method", "seed")])

    done = {place(row) for row in rows}
    fixed = {name: rows[0].get(name) for name in ("model", "layer", "site")} if rows else {}
    return [fixed | cell | {"status": "missing"} for cell in cells if place(cell) not in done]


def common_words(rows: Sequence[Row]) -> str:
    """What all rows have in common: `tiny, layer 2, site mlp`."""
    form = {"model": "{}", "layer": "layer {}", "site": "site {}"}
    values = {name: [row.get(name) for row in rows] for name in form}
    same = {n: v[0] for n, v in values.items() if v and all(one == v[0] for one in v)}
    return ", ".join(form[n].format(value) for n, value in same.items() if value is not None)


def maps(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows by column, what they have in common, the measures, and a heat map for each group."""
    rows = [one | {"recited": is_recited(one)} for one in rows]
    fields = list(dict.fromkeys(name for row in rows for name in row if name not in HIDDEN))
    columns = {name: [row.get(name) for row in rows] for name in fields}
    same = {n: v[0] for n, v in columns.items() if all(value == v[0] for value in v)}
    numbered = [row | {"number": number} for number, row in enumerate(rows)]
    groups = group(numbered, lambda row: repr([row.get(name) for name in OWN]))
    return {
        "common": {name: value for name, value in same.items() if value is not None},
        "columns": {name: value for name, value in columns.items() if name not in same},
        "measures": [
            {
                "field": name,
                "label": SHARES.get(name) or LABELS[name],
                "percent": name in PERCENT or name in SHARES,
            }
            for name in measures(rows)
        ],
        "maps": [
            {"name": map_name(some[0], rows), "rows": [row["number"] for row in some]}
            for some in groups.values()
        ],
    }


def measures(rows: Sequence[Row]) -> list[str]:
    """The measures that rows have; bits of random tokens are memorized, of others stored ones."""
    good = [row for row in rows if (row.get("status") or "ok") == "ok"]
    names = [name for name in MEASURES if known(good, name)]
    if len(known(good, "memorized_bits_per_parameter")) == len(good):
        names = [name for name in names if name != "bits_per_parameter"]
    if all(row.get("memories") in (None, 1) for row in good):
        names = [name for name in names if name != "exact_match"]
    return names


def map_name(row: Row, rows: Sequence[Row]) -> str:
    """What distinguishes the rows of a map from others: `margin, 100 % random tokens`."""
    form = {"model": "{}", "layer": "layer {}", "site": "site {}", "method": "{}"}
    form |= {"ratio": "{} % random tokens"}
    always = ("method", "ratio")
    names = [n for n in form if n in always or any(one.get(n) != row.get(n) for one in rows)]
    return ", ".join(form[n].format(row[n]) for n in names if row.get(n) is not None) or "all runs"
