"""The laws of a sweep as data for its page, in the words and numbers in which `fit` prints them.

page/laws.js draws them. Each choice of rows, which is a fit over all its ratios of random tokens or
one of these ratios, has its power law, its recall law, and what the planner needs.
"""

from __future__ import annotations

from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np

from ..law.bits import BitsLaw
from ..law.fit import BITS, POWER, Fit, or_reason
from ..law.power import Law
from ..law.recall import RecallLaw, is_recited, recall_of
from . import tables
from .axes import group
from .planner import planner
from .report import Row

POINTS = 81  # of a curve


def laws(fit: Fit) -> list[dict[str, Any]]:
    """The laws of a fit over all ratios, and of each ratio if there are several."""
    name = tables.words(fit) or "all runs"
    choices = {f"{name}, all ratios" if fit.by_ratio else name: (fit, None)}
    for ratio in fit.by_ratio:
        choices[f"{name}, {ratio} % random tokens"] = (of_ratio(fit, ratio), ratio)
    return [
        {
            "name": text,
            "about": name,
            "power": power(one),
            "measures": measures(fit),
            "recall": recall(one),
            "plan": planner(fit, ratio),
        }
        for text, (one, ratio) in choices.items()
    ]


def of_ratio(fit: Fit, ratio: int) -> Fit:
    """The part of a fit with that ratio; the constant-bits law is of all ratios, and left out."""
    pairs = zip(fit.rows, fit.saturated, strict=True)
    some = [(row, full) for row, full in pairs if row.get("ratio") == ratio]
    rows = [row for row, _ in some]
    return replace(
        fit,
        rows=rows,
        saturated=[full for _, full in some],
        law=fit.by_ratio[ratio],
        bits="fitted to all ratios together",
        recall=or_reason(recall_of, rows),
        by_ratio={},
        skipped={},
        n_unconverged=sum(row.get("converged") is False and not full for row, full in some),
    )


def power(fit: Fit) -> dict[str, Any]:
    """The power law, and its rows: rank, length, seed, measured and predicted ΔL, saturated.

    The predictions are those of the power law and of the constant-bits law; null without one.
    """
    law = fit.law
    if isinstance(law, str):
        return {"reason": law}
    both = predict(law, fit.rows, POWER), predict(fit.bits, fit.rows, BITS)
    moving = f", {fit.n_unconverged} of them not converged" if fit.n_unconverged else ""
    return {
        "formula": tables.formula(law, fit.offset),
        "constants": [
            (symbol, f"{value:.4g}", ends)
            for (symbol, ends), value in zip(
                tables.intervals(law, fit.offset).items(), law.constants, strict=False
            )
        ],
        "runs": f"{tables.runs(law)} fitted{moving}",
        "left_out": tables.left_out(fit, law),
        "warnings": [f"These cells do not fix b: {tables.UNFIXED}"] if law.at_bound else [],
        "r2": law.r2,
        "mape": law.mape,
        "points": [
            [row["rank"], row["length"], row.get("seed"), row["delta_loss"], ours, bits, full]
            for row, ours, bits, full in zip(fit.rows, *both, fit.saturated, strict=True)
        ],
    }


def predict(law: Law | BitsLaw | str, rows: list[Row], columns: tuple[str, ...]) -> list:
    """ΔL of each row by a law that takes all of these columns but the last; None without it."""
    if isinstance(law, str):
        return [None] * len(rows)
    given: list[Any] = [[row.get(name) for name in columns[:-1]] for row in rows]
    return [None if None in one else float(law.predict(*one)) for one in given]


def measures(fit: Fit) -> dict[str, Any]:
    """The table of measures that `fit` prints, and why a law is missing in it."""
    found: dict[str, Law | BitsLaw | str] = {"power law": fit.law}
    found |= {f"{ratio} % random": law for ratio, law in fit.by_ratio.items()}
    found |= {"constant bits": fit.bits}
    return {
        "head": tables.MEASURED,
        "rows": [
            [name, *tables.measured(law, fit.offset)]
            for name, law in found.items()
            if not isinstance(law, str)
        ],
        "reasons": [f"No law for {n}: {law}" for n, law in found.items() if isinstance(law, str)],
    }


def recall(fit: Fit) -> dict[str, Any]:
    """The recall law: a curve for each rank, the measured cells, and what `fit` prints of it.

    The load is in bits per parameter if the entropy is known, and else in tokens per parameter.
    """
    law = fit.recall
    if isinstance(law, str):
        return {"reason": law}
    factor, rows = law.bits_per_token or 1.0, [r for r in fit.rows if is_recited(r) is not None]
    cells = group(rows, itemgetter("rank", "length"))
    loads = {cell: cell[1] / some[0]["trainable_parameters"] for cell, some in cells.items()}
    sizes = {row["rank"]: row["trainable_parameters"] for row in rows}
    halves = law.half(list(sizes.values()))
    low, high = min(*loads.values(), *halves) / 2, max(*loads.values(), *halves) * 2
    reach = np.geomspace(max(low, halves.min() / 16), min(high, halves.max() * 16), POINTS)
    lines = [
        {"rank": rank, "points": np.column_stack([reach * factor, law.predict(reach, P)]).tolist()}
        for rank, P in sorted(sizes.items())
    ]
    return {
        "unit": "bits per parameter" if law.bits_per_token else "tokens per parameter",
        "lines": lines,
        "cells": [
            [*cell, loads[cell] * factor, sum(map(bool, map(is_recited, some))), len(some)]
            for cell, some in sorted(cells.items())
        ],
        "halves": halves_table(law),
        "facts": facts(law),
    }


def halves_table(law: RecallLaw) -> list[list[str]]:
    """By rank, the length that half of the runs recite, and its bits per parameter if known."""
    known = law.as_dict()
    lengths, bits = known["length_50"], known["bits_per_parameter"]
    last = {rank: [] if one is None else [f"{one:.2f}"] for rank, one in bits.items()}
    return [[rank, f"{length:,.0f}", *last[rank]] for rank, length in lengths.items()]


def facts(law: RecallLaw) -> list[tuple[str, str, str]]:
    """What the recall law says beside its curve, each with the 95 % interval if it has one."""
    narrow, wide = (tables.width_of(s) for s in reversed(law.ci["s"]))
    found = [("runs recited", f"{law.n_recited:,} of {law.n:,}", "")]
    if law.rank_exponent is not None:
        ends = tables.span(*law.ci["rank_exponent"], 2)
        found.append(("the length grows as", f"rank^{law.rank_exponent:.2g}", f"95 %: {ends}"))
    return [*found, ("width", f"{law.width:.2g}", f"95 %: {tables.span(narrow, wide, 2)}")]
