"""The pictures: one run, a law, methods side by side. axes.py has their parts.

Each plot_… function saves a figure and returns it. Panels whose fields no row has are left out.
Rows of a sweep have the fields of a report; rows may also be written by hand, with fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..law.fit import BITS, POWER, Fit
from ..law.power import LN2, Law
from . import axes
from .recall import recall_panels, siblings

if TYPE_CHECKING:
    from ..experiment.report import Result

MOST_LINES = 400  # target tokens up to which each has a line of its own
SAME_TASK = ("model", "layer", "site", "length", "ratio", "memories")  # methods are compared on one


# --- The law -------------------------------------------------------------------------------------


def plot_law(fits: Sequence[Fit], path: Path) -> axes.Figure:
    """The first fit beside its rows; and the methods side by side, if the fits differ in them.

    Of several ratios of random tokens, the panels by rank and length show the one with most rows.
    """
    fit = fits[0]
    cells, rows, note = cells_of(fit)
    panels: list[axes.Panel | None] = [*law_panels(fit)]
    if panels:
        panels.append(partial(agreement, rows=cells, fit=fit))
    memorized = axes.known(rows, "memorized_bits_per_parameter")
    bits = "memorized_bits_per_parameter" if memorized else "bits_per_parameter"
    for field, kind in (("final_loss", heat_map), ("token_accuracy", heat_map), (bits, capacity)):
        if some := axes.known(rows, field):
            panels.append(partial(kind, rows=some, field=field, note=note))
    if len({row.get("ratio") for row in cells} - {None}) > 1:
        some = axes.largest(axes.known(cells, "ratio"), "length")
        title = f"loss reduction by ratio, {axes.describe(some[0], 'length')}"
        by_ratio = partial(axes.curves, x="ratio", y="delta_loss", series="rank", title=title)
        panels.append(partial(by_ratio, rows=some))
    others = siblings(fits)
    panels += recall_panels(others)
    if len(others) > 1:
        some = axes.largest((row for other in others for row in other.rows), *SAME_TASK)
        panels += [*[None] * (-len(panels) % 3), *method_panels(some)]
    columns = 4 if 7 <= len(panels) <= 8 else 3
    return axes.draw(panels, columns, path, law_title(fit, several=bool(note)))


def plot_fit(fit: Fit, path: Path) -> axes.Figure:
    """A fit in one row: its law by rank and by length, and its recall curve."""
    panels = [*law_panels(fit), *recall_panels([fit])[:1]]
    return axes.draw(panels, 3, path, law_title(fit, several=bool(cells_of(fit)[2])))


def cells_of(fit: Fit) -> tuple[list[axes.Row], list[axes.Row], str]:
    """All rows of a fit; those of the ratio that has most of them; and a note that names it."""
    cells = [row | {"saturated": full} for row, full in zip(fit.rows, fit.saturated, strict=True)]
    ratios = axes.group(cells, lambda row: row.get("ratio"))
    ratio, rows = max(ratios.items(), key=lambda item: (len(item[1]), item[0] or 0))
    return cells, rows, f", {ratio} % random" if len(ratios) > 1 and ratio is not None else ""


def law_panels(fit: Fit) -> list[axes.Panel]:
    """ΔL by rank and by length; none if there is no power law."""
    _, rows, note = cells_of(fit)
    own = fit.by_ratio.get(rows[0].get("ratio"), fit.law)
    law = fit.law if isinstance(own, str) else own
    if isinstance(law, str):
        return []
    axes_of_law = ("rank", "length"), ("length", "rank")
    return [partial(against, rows=rows, law=law, x=x, series=s, note=note) for x, s in axes_of_law]


def law_title(fit: Fit, several: bool) -> str:
    """What was fitted, the formula, and the number of runs; several: of several ratios."""
    law, about = fit.law, axes.describe(fit.key, "model", "layer", "site", "method")
    about += ":" * bool(about)
    if isinstance(law, str):
        return f"{about} no power law".strip()
    offset = f"{law.b:+.3g}" if law.b else ""
    formula = rf"$ΔL = {law.C:,.4g}\;r^{{{law.alpha:.2f}}}\;ℓ^{{{-law.beta:.2f}}}{offset}$"
    runs = f"{law.n} runs of all ratios" if several else f"{law.n} runs"
    return f"{about}   {formula}\nfitted to {runs}; {law.n_saturated} saturated ones left out"


def against(ax: axes.Axes, rows: list[axes.Row], law: Law, x: str, series: str, note: str) -> None:
    """ΔL by rank or length, log-log: the cells, and the law's line for each length or rank."""
    axes.dots(ax, rows, x, "delta_loss", series)
    places, deltas = [row[x] for row in rows], [row["delta_loss"] for row in rows]
    reach = np.geomspace(min(places), max(places), 50)
    for value, colour in axes.shades(row[series] for row in rows).items():
        predicted = law.predict(**{x: reach, series: value})
        ax.plot(reach, predicted, color=colour, lw=1.2, label=f"{value:,}")
    lowest = min(delta for delta in deltas if delta > 0)
    ax.set(xlabel=axes.LABELS[x], ylabel=axes.LABELS["delta_loss"])
    ax.set(title=f"loss reduction against {x}{note}", ylim=(lowest / 1.3, max(deltas) * 1.3))
    axes.log_axis(ax, "x", places)
    axes.log_axis(ax, "y")
    axes.legend(ax, series)


def agreement(ax: axes.Axes, rows: list[axes.Row], fit: Fit) -> None:
    """Predicted against measured ΔL of the cells that are not saturated."""
    power = "power law", fit.law, POWER, "o", axes.BLUE, axes.BLUE
    bits = "constant bits", fit.bits, BITS, "s", axes.RED, "none"
    for name, law, columns, marker, colour, fill in (power, bits):
        if isinstance(law, str):  # the reason why there is no such law
            continue
        some = [row for row in axes.known(rows, *columns) if not row["saturated"]]
        *given, measured = (np.array([float(row[field]) for row in some]) for field in columns)
        label = f"{name}: R² {law.r2:.3f}, mean error {law.mape:.1f} %"
        look: dict[str, Any] = {"color": colour, "mfc": fill, "ms": 4.5, "alpha": 0.7}
        ax.plot(measured, law.predict(*given), marker, label=label, **look)
    ends = (0, 1.05 * max(ax.get_xlim()[1], ax.get_ylim()[1]))
    ax.plot(ends, ends, color=axes.GREY, lw=0.8, zorder=0)
    what = axes.LABELS["delta_loss"]
    ax.set(xlabel=f"measured {what}", ylabel=f"predicted {what}", xlim=ends, ylim=ends)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def heat_map(ax: axes.Axes, rows: list[axes.Row], field: str, note: str) -> None:
    """Final loss or token accuracy by rank (upwards) and length: means over the seeds."""
    loss, scale = field == "final_loss", 100 if field in axes.PERCENT else 1
    ranks, lengths = (sorted({row[axis] for row in rows}) for axis in ("rank", "length"))
    values = np.full((len(ranks), len(lengths)), np.nan)
    small: dict[str, Any] = {"fontsize": min(9, 80 / len(lengths), 130 / len(ranks))}
    colours = "viridis_r" if loss else "viridis"
    image = ax.imshow(values, origin="lower", aspect="auto", cmap=colours)
    image.set_clim(0, max(row[field] for row in rows) if loss else 100)
    for (rank, length), seeds in axes.group(rows, itemgetter("rank", "length")).items():
        y, x = ranks.index(rank), lengths.index(length)
        values[y, x] = mean = scale * fmean(row[field] for row in seeds)
        text = f"{mean:.2f}" if loss else f"{mean if mean == 100 else min(mean, 99):.0f}"
        dark = np.dot(image.to_rgba(np.array(mean))[:3], (0.3, 0.59, 0.11)) < 0.5
        ax.text(x, y, text, ha="center", va="center", color="white" if dark else "black", **small)
        if mean <= LN2 if loss else all(row.get("certified") for row in seeds):
            frame = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * 0.43 + (x, y)
            ax.plot(*frame.T, color=axes.RED, lw=1.6)
    image.set_data(values)
    ax.set_facecolor("0.9")
    ax.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], **small)
    ax.set_yticks(range(len(ranks)), [f"{n:,}" for n in ranks], **small)
    framed = "ln 2 or less" if loss else "certified, all p > ½"
    title = f"{axes.LABELS[field]}{note}\nframed: {framed}"
    ax.set(xlabel=axes.LABELS["length"], ylabel=axes.LABELS["rank"], title=title)


def capacity(ax: axes.Axes, rows: list[axes.Row], field: str, note: str) -> None:
    """Bits per parameter by length, beside what others measured; values below 0.01 are cut off."""
    lowest = min((row[field] for row in rows if row[field] > 0), default=0)
    ax.set_ylim(max(0.01, lowest / 1.3), 5.5)
    axes.dots(ax, rows, "length", field, "rank")
    axes.curves(ax, rows, "length", field, "rank", f"{axes.LABELS[field]}{note}")
    for low, high, what in axes.YARDSTICKS:
        ax.axhspan(low, high, fc=axes.GREY, ec=axes.GREY, alpha=0.2, zorder=0)
        edge, side = ax.get_yaxis_transform(), "top" if high > low else "bottom"
        ax.text(0.02, high, what, fontsize=7, color="0.3", transform=edge, va=side)


# --- Methods side by side ------------------------------------------------------------------------


def plot_methods(rows: Iterable[axes.Row], path: Path) -> axes.Figure:
    """What each method reaches at each rank, on the task with most rows. Needs no fitted law."""
    rows = axes.largest(axes.known(rows, "method", "rank"), *SAME_TASK)
    title = axes.describe(rows[0], "model", "layer", "site") if rows else ""
    return axes.draw(panels := method_panels(rows), len(panels), path, title)


def method_panels(rows: list[axes.Row]) -> list[axes.Panel]:
    """A panel for each measure: recall, tokens above one half, final loss."""
    many = any((row.get("memories") or 1) > 1 for row in rows)
    title = axes.describe(rows[0], *SAME_TASK[-3:]) if rows else ""
    panel = partial(axes.curves, x="rank", series="method", title=title)
    fields = (*axes.PERCENT[not many : 3], "final_loss")
    return [partial(panel, rows=some, y=y) for y in fields if (some := axes.known(rows, y))]


# --- One run -------------------------------------------------------------------------------------


def plot_run(result: Result, path: Path) -> axes.Figure:
    """Loss by step; p of every target token by step; margin of every token in the verdict."""
    training, verdict = result.training, result.verdict
    shares = {"p > ½": training.certified, "margin > 0": training.recited}
    panels = [partial(losses, mean=training.losses, shares=shares)]
    if training.trace:
        panels.append(partial(token_paths, trace=training.trace))
    if verdict is not None:
        arrays = np.array(verdict.margins), np.array(verdict.probabilities)
        panels.append(partial(final_tokens, margins=arrays[0], p=arrays[1]))
    about = axes.describe(result.report, "model", "rank", "length", "method")
    return axes.draw(panels, 3, path, about)


def losses(ax: axes.Axes, mean: list[float], shares: dict[str, list[float]]) -> None:
    """The mean loss, and the shares of tokens on a scale of its own; NaN: not measured."""
    ax.plot(mean, color=axes.BLUE, lw=1.2)
    ax.set(xlabel="step", ylabel="mean loss (nats per token)", ylim=(0, None))
    ax.yaxis.label.set_color(axes.BLUE)
    right = ax.twinx()
    for (name, values), line in zip(shares.items(), ("-", "--"), strict=True):
        if not np.isnan(values).all():  # also true of no values
            percent = 100 * np.array(values)
            right.plot(percent, color=axes.GREEN, ls=line, lw=1.2, label=name)
    right.set(ylabel="share of the tokens (%)", ylim=(0, 105))
    right.yaxis.label.set_color(axes.GREEN)
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)


def token_paths(ax: axes.Axes, trace: list[tuple[int, list[float]]]) -> None:
    """The mean loss falls smoothly, but each token crosses one half on its own, some very late."""
    from matplotlib.collections import LineCollection

    steps, p = np.array([step for step, _ in trace]), np.array([p for _, p in trace])
    if p.shape[1] <= MOST_LINES:  # p is [steps, tokens]
        paths = [np.column_stack([steps, token]) for token in p.T]
        colours = [axes.BLUE if last > 0.5 else axes.ORANGE for last in p[-1]]
        ax.add_collection(LineCollection(paths, colors=colours, lw=0.7, alpha=0.4))
    else:
        for low, colour in ((1, "#CCE3F0"), (10, "#99C7E1"), (25, "#66ABD1")):
            ends = np.percentile(p, (low, 100 - low), axis=1)
            ax.fill_between(steps, *ends, color=colour, lw=0, label=f"{100 - 2 * low} % of tokens")
    ax.plot(steps, np.median(p, axis=1), color="black", lw=1.8, label="median")
    ax.plot(steps, p[:, p[-1].argmin()], color=axes.RED, lw=1.8, label="lowest at the end")
    axes.threshold(ax, 0.5, "p = ½")
    ax.set(xlabel="step", ylabel="p of each target token", ylim=(0, 1), xmargin=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)


def final_tokens(ax: axes.Axes, margins: np.ndarray, p: np.ndarray) -> None:
    """Margin of every target token in the verdict; by colour: p > ½, likeliest, and wrong."""
    right = margins > 0
    kinds = {
        "p > ½": (axes.BLUE, right & (p > 0.5)),
        "likeliest, p ≤ ½": (axes.ORANGE, right & ~(p > 0.5)),
        "another is likelier": (axes.RED, ~right),
    }
    for name, (colour, some) in kinds.items():
        if len(p) <= MOST_LINES:
            values, edges = np.where(some, margins, 0), np.arange(len(p) + 1) - 0.5
            ax.stairs(values, edges, fill=True, color=colour, label=name)
        else:
            ax.plot(np.flatnonzero(some), margins[some], ".", color=colour, ms=2, label=name)
    ax.axhline(0, color="black", lw=0.8)
    lowest = f"{margins.min():.3g}".replace("-", "−")
    title = f"{right.sum():,} of {len(p):,} margins above 0, lowest {lowest}"
    ax.set(xlabel="position in the target", ylabel="margin (logits)", title=title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)
