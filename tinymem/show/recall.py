"""The picture of the recall law: how large a load each method recites, and how long a memory.

`recall_panels` are the two panels, of which `plots.plot_law` takes what it can; `plot_recall` saves
them as a picture of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..law.fit import Fit
from ..law.recall import RecallLaw, is_recited
from . import axes

APART = 2.5  # percent between the dots of two methods, which would cover each other otherwise
STYLES = "-", "--", "-.", ":"  # curves of two methods may lie on each other
Laws = Sequence[tuple[Fit, RecallLaw]]


def plot_recall(fits: Sequence[Fit], path: Path) -> axes.Figure:
    """Which load and which length each method recites; of several models or sites, the first's."""
    fits = siblings(fits)
    title = axes.describe(fits[0].key, "model", "layer", "site") if fits else ""
    return axes.draw(recall_panels(fits), 2, path, title)


def siblings(fits: Sequence[Fit]) -> list[Fit]:
    """The first fit, and those that differ from it in nothing but the method."""
    same = [fit for fit in fits if {**fit.key, "method": ""} == {**fits[0].key, "method": ""}]
    known = list(axes.METHOD_LOOKS)
    return sorted(same, key=lambda fit: [*known, fit.key["method"]].index(fit.key["method"]))


def recall_panels(fits: Sequence[Fit]) -> list[axes.Panel]:
    """A panel by load and one by rank, for the fits that have a recall law."""
    laws = [(fit, fit.recall) for fit in fits if isinstance(fit.recall, RecallLaw)]
    return [partial(by_load, laws=laws), partial(by_rank, laws=laws)] if laws else []


def by_load(ax: axes.Axes, laws: Laws) -> None:
    """The share of runs that are recited: cells as dots, curves, intervals of the 50 % points.

    The load is in bits per parameter if the entropy is known. Loads of different ranks are made
    comparable by the law's rank exponent: each is shown as a unit of middle size would have it.
    """
    bits = all(law.bits_per_token for _, law in laws)
    unit = "bits per parameter" if bits else "tokens per parameter"
    ends = []
    for number, (fit, law) in enumerate(laws):
        factor = law.bits_per_token if bits and law.bits_per_token else 1.0
        colour, marker = axes.METHOD_LOOKS.get(fit.key["method"], (axes.GREY, "o"))
        sizes, loads, shares, runs = np.array(shares_of(fit.rows)).T
        loads = loads * law.load_50 / law.half(sizes)
        apart = APART * (number - (len(laws) - 1) / 2)
        dots: dict[str, Any] = {"color": colour, "marker": marker, "alpha": 0.5, "lw": 0}
        ax.scatter(loads * factor, 100 * shares + apart, s=12 + 8 * runs, **dots)
        interval = np.clip(law.ci["load_50"], law.load_50 / 8, 8 * law.load_50)
        reach = law.load_50 * np.geomspace(1 / 8, 8, 300)
        label = f"{fit.key['method'] or 'runs'}: {law.load_50 * factor:.2g}"
        style: dict[str, Any] = {"color": colour, "ls": STYLES[number % len(STYLES)]}
        p = law.predict(reach, math.sqrt(law.measured[0] * law.measured[-1]))
        ax.plot(reach * factor, 100 * p, lw=1.8, label=label, **style)
        ax.plot(interval * factor, [50 + apart] * 2, color=colour, lw=6, alpha=0.4)
        ends += [law.load_50 * factor / 4, law.load_50 * factor * 4]
    ax.set(xscale="log", xlim=(min(ends), max(ends)), ylim=(-10, 110))
    ax.set(xlabel=f"load at middle rank ({unit})", ylabel="runs that recite everything (%)")
    axes.log_axis(ax, "x")
    ax.legend(title=f"half of the runs at …\n{unit}\n(bars: 95 %)", loc="upper right")


def shares_of(rows: Sequence[axes.Row]) -> list[tuple[int, float, float, int]]:
    """Of each rank and length: parameters, tokens per parameter, share recited, number of runs."""
    judged = [row for row in rows if is_recited(row) is not None]
    cells = axes.group(judged, itemgetter("trainable_parameters", "length"))
    return [
        (parameters, length / parameters, fmean(bool(is_recited(row)) for row in some), len(some))
        for (parameters, length), some in cells.items()
    ]


def by_rank(ax: axes.Axes, laws: Laws) -> None:
    """How long a memory each rank recites: measured, and by the law.

    A bar begins at the longest length that all runs of the rank recite, and ends at the shortest
    one that none recites; a triangle points to where the other end must be.
    """
    ranks = sorted({row["rank"] for fit, _ in laws for row in fit.rows})
    for number, (fit, law) in enumerate(laws):
        colour, _ = axes.METHOD_LOOKS.get(fit.key["method"], (axes.GREY, "o"))
        beside = 1.04 ** (number - (len(laws) - 1) / 2)
        for rank, rows in axes.group(fit.rows, itemgetter("rank")).items():
            low, high = ends_of(rows)
            ends = [end for end in (low, high) if end]
            marker = "_" if len(ends) == 2 else "^" if low else "v"
            look: dict[str, Any] = {"color": colour, "marker": marker, "lw": 4, "alpha": 0.6}
            ax.plot([rank * beside] * len(ends), ends, solid_capstyle="butt", **look)
        if law.parameters_per_rank:
            sizes = law.parameters_per_rank * np.array(ranks)
            power = "" if law.rank_exponent is None else f": rank^{law.rank_exponent:.2g}"
            label = f"{fit.key['method'] or 'runs'}{power}"
            style: dict[str, Any] = {"color": colour, "ls": STYLES[number % len(STYLES)]}
            ax.plot(ranks, law.half(sizes) * sizes, lw=1.2, label=label, **style)
    title = "bars: from all runs recited to none\nlines: half of the runs, by the law"
    ax.set(title=title, xlabel=axes.LABELS["rank"], ylabel="length that is recited (tokens)")
    axes.log_axis(ax, "x", ranks)
    axes.log_axis(ax, "y")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(title="grows as …", loc="upper left")


def ends_of(rows: Sequence[axes.Row]) -> tuple[int | None, int | None]:
    """The longest length that all runs recite, and the shortest one that none recites."""
    judged = [row for row in rows if is_recited(row) is not None]
    lengths = axes.group(judged, itemgetter("length"))
    recited = {length: [is_recited(row) for row in some] for length, some in lengths.items()}
    longest = max((length for length, all_of in recited.items() if all(all_of)), default=None)
    return longest, min((n for n, some in recited.items() if not any(some)), default=None)
