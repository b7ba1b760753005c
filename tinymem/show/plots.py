"""The pictures: one run, a law, methods side by side, learning rates. axes.py has their parts.

Each plot_… function saves a figure and returns it. Panels whose fields no row has are left out.
Rows of a sweep have the fields of a report; rows may also be written by hand, with fewer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..law.power import LN2
from .axes import (
    BLUE,
    GREEN,
    GREY,
    LABELS,
    ORANGE,
    PERCENT,
    RED,
    Panel,
    Row,
    curves,
    describe,
    dots,
    draw,
    group,
    known,
    largest,
    legend,
    log_axis,
    shades,
    threshold,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..experiment.report import Result
    from ..law.bits import BitsLaw
    from ..law.fit import Fit
    from ..law.power import Law

MOST_LINES = 400  # target tokens up to which each has a line of its own
SAME_TASK = ("model", "layer", "site", "length", "ratio", "memories")  # methods are compared on one
YARDSTICKS = (  # bits per parameter: from, to, what was measured
    (0.7, 1.7, "0.7–1.7  one trained input vector (Kuratov et al. 2025)"),
    (2.0, 2.0, "2  knowledge stored by pretraining (Allen-Zhu & Li 2024)"),
    (3.6, 3.6, "3.6  whole-model memorization (Morris et al. 2025)"),
)


# --- The law -------------------------------------------------------------------------------------


def plot_law(fits: Sequence[Fit], path: Path) -> Figure:
    """The first fit beside its rows; and the methods side by side, if the fits differ in them.

    Of several ratios of random tokens, the panels by rank and length show the one with most rows.
    """
    fit, law = fits[0], fits[0].law
    cells = [row | {"saturated": full} for row, full in zip(fit.rows, fit.saturated, strict=True)]
    ratios = group(cells, "ratio")
    ratio, rows = max(reversed(ratios.items()), key=lambda item: len(item[1]))
    note = f", {ratio} % random" if len(ratios) > 1 and ratio is not None else ""
    own = fit.by_ratio.get(ratio, law)
    lines = law if isinstance(own, str) else own
    panels: list[Panel | None] = [
        partial(against, rows=rows, law=lines, x="rank", series="length", note=note),
        partial(against, rows=rows, law=lines, x="length", series="rank", note=note),
        partial(agreement, rows=cells, law=law, bits=fit.bits),
    ]
    for field in ("final_loss", "token_accuracy"):
        if some := known(rows, field):
            panels.append(partial(heat_map, rows=some, field=field, note=note))
    for field in ("memorized_bits_per_parameter", "bits_per_parameter"):
        if some := known(rows, field):
            panels.append(partial(capacity, rows=some, field=field, note=note))
            break
    if len(ratios.keys() - {None}) > 1:
        some = largest(known(cells, "ratio"), "length")
        title = f"loss reduction by ratio, {describe(some[0], 'length')}"
        panels.append(
            partial(curves, rows=some, x="ratio", y="delta_loss", series="rank", title=title)
        )
    others = [other for other in fits if {**other.key, "method": ""} == {**fit.key, "method": ""}]
    if len(others) > 1:
        some = largest((row for other in others for row in other.rows), *SAME_TASK)
        panels += [*[None] * (-len(panels) % 3), *method_panels(some)]
    columns = 4 if 7 <= len(panels) <= 8 else 3
    return draw(panels, columns, path, law_title(fit, "of all ratios" if note else ""))


def law_title(fit: Fit, which: str) -> str:
    """What was fitted, the formula of the power law, and the number of cells."""
    law = fit.law
    offset = f"{law.b:+.3g}" if law.b else ""
    formula = rf"$ΔL = {law.C:,.4g}\;r^{{{law.alpha:.2f}}}\;ℓ^{{{-law.beta:.2f}}}{offset}$"
    counts = f"fitted to {law.n} cells {which}".rstrip()
    about = describe(fit.key, "model", "layer", "site", "method")
    return f"{about}:   {formula}\n{counts}; {law.n_saturated} saturated ones left out"


def against(ax: Axes, rows: list[Row], law: Law, x: str, series: str, note: str) -> None:
    """ΔL by rank or length, log-log: the cells, and the law's line for each length or rank."""
    dots(ax, rows, x, "delta_loss", series)
    places, deltas = [row[x] for row in rows], [row["delta_loss"] for row in rows]
    reach = np.geomspace(min(places), max(places), 50)
    for value, colour in shades(row[series] for row in rows).items():
        at = {x: reach, series: np.full(50, float(value))}
        line = law.predict(at["rank"], at["length"])
        ax.plot(reach, line, color=colour, lw=1.2, label=f"{value:,}")
    lowest = min(delta for delta in deltas if delta > 0)
    ax.set(xlabel=LABELS[x], ylabel=LABELS["delta_loss"], ylim=(lowest / 1.3, max(deltas) * 1.3))
    ax.set_title(f"loss reduction against {x}{note}", fontsize=10)
    log_axis(ax, "x", places)
    log_axis(ax, "y")
    legend(ax, series)


def agreement(ax: Axes, rows: list[Row], law: Law, bits: BitsLaw | str) -> None:
    """Predicted against measured ΔL of the cells that are not saturated."""
    laws: list[tuple[str, Any, tuple[str, ...], dict[str, Any]]] = [
        ("power law", law, ("rank", "length"), {"marker": "o", "color": BLUE})
    ]
    if not isinstance(bits, str):
        needs = ("trainable_parameters", "length", "base_loss", "entropy")
        laws.append(("constant bits", bits, needs, {"marker": "s", "color": RED, "mfc": "none"}))
    for name, model, columns, look in laws:
        some = [row for row in known(rows, *columns) if not row["saturated"]]
        cells = (np.array([float(row[name]) for row in some]) for name in columns)
        look |= {"label": f"{name}: R² {model.r2:.3f}, mean error {model.mape:.1f} %"}
        measured = [row["delta_loss"] for row in some]
        ax.plot(measured, model.predict(*cells), ls="", ms=4.5, alpha=0.7, **look)
    ends = (0, 1.05 * max(ax.get_xlim()[1], ax.get_ylim()[1]))
    ax.plot(ends, ends, color=GREY, lw=0.8, zorder=0)
    what = LABELS["delta_loss"]
    ax.set(xlabel=f"measured {what}", ylabel=f"predicted {what}", xlim=ends, ylim=ends)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9, frameon=False)


def heat_map(ax: Axes, rows: list[Row], field: str, note: str) -> None:
    """Final loss or token accuracy by rank (upwards) and length: means over the seeds."""
    loss, scale = field == "final_loss", 100 if field in PERCENT else 1
    ranks, lengths = list(group(rows, "rank")), list(group(rows, "length"))
    values = np.full((len(ranks), len(lengths)), np.nan)
    small: dict[str, Any] = {"fontsize": min(9, 80 / len(lengths), 130 / len(ranks))}
    colours = "viridis_r" if loss else "viridis"
    image = ax.imshow(values, origin="lower", aspect="auto", cmap=colours)
    image.set_clim(0, max(row[field] for row in rows) if loss else 100)
    for y, x in np.ndindex(values.shape):
        seeds = [row for row in rows if (row["rank"], row["length"]) == (ranks[y], lengths[x])]
        if not seeds:
            continue
        values[y, x] = mean = scale * fmean(row[field] for row in seeds)
        text = f"{mean:.2f}" if loss else f"{mean if mean == 100 else min(mean, 99):.0f}"
        dark = np.dot(image.to_rgba(np.array(mean))[:3], (0.3, 0.59, 0.11)) < 0.5
        ax.text(x, y, text, ha="center", va="center", color="white" if dark else "black", **small)
        if mean <= LN2 if loss else all(row.get("certified") for row in seeds):
            frame = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)]) * 0.43 + (x, y)
            ax.plot(*frame.T, color=RED, lw=1.6)
    image.set_data(values)
    ax.set_facecolor("0.9")
    ax.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths], **small)
    ax.set_yticks(range(len(ranks)), [f"{n:,}" for n in ranks], **small)
    ax.set(xlabel=LABELS["length"], ylabel=LABELS["rank"])
    framed = "ln 2 or less" if loss else "certified, all p > ½"
    ax.set_title(f"{LABELS[field]}{note}\nframed: {framed}", fontsize=10)


def capacity(ax: Axes, rows: list[Row], field: str, note: str) -> None:
    """Bits per parameter by length, beside what others measured; values below 0.01 are cut off."""
    lowest = min((row[field] for row in rows if row[field] > 0), default=0)
    ax.set_ylim(max(0.01, lowest / 1.3), 5.5)
    dots(ax, rows, "length", field, "rank")
    curves(ax, rows, "length", field, "rank", f"{LABELS[field]}{note}", band=False)
    for low, high, what in YARDSTICKS:
        ax.axhspan(low, high, fc=GREY, ec=GREY, alpha=0.2, zorder=0)
        edge, side = ax.get_yaxis_transform(), "top" if high > low else "bottom"
        ax.text(0.02, high, what, fontsize=7, color="0.3", transform=edge, va=side)


# --- Methods and learning rates ------------------------------------------------------------------


def plot_methods(rows: Iterable[Row], path: Path) -> Figure:
    """What each method reaches at each rank, on the task with most rows. Needs no fitted law."""
    rows = largest(known(rows, "method", "rank"), *SAME_TASK)
    title = describe(rows[0], "model", "layer", "site") if rows else ""
    return draw(panels := method_panels(rows), len(panels), path, title)


def method_panels(rows: list[Row]) -> list[Panel]:
    """A panel for each measure: recall, tokens above one half, final loss."""
    many = any((row.get("memories") or 1) > 1 for row in rows)
    title = describe(rows[0], *SAME_TASK[-3:]) if rows else ""
    panel = partial(curves, x="rank", series="method", title=title)
    fields = (*PERCENT[not many :], "final_loss")
    return [partial(panel, rows=some, y=y) for y in fields if (some := known(rows, y))]


def plot_convergence(
    rows: Iterable[Row], path: Path, marks: dict[str, float] | None = None
) -> Figure:
    """Final loss by learning rate. marks: for each model a rate to point out, its default."""
    groups: dict[str, list[Row]] = {}
    for row in known(rows, "lr", "steps"):
        groups.setdefault(describe(row, "model", "rank", "length"), []).append(row)
    panels = [
        partial(rates, rows=some, title=title, mark=(marks or {}).get(some[0].get("model", "")))
        for title, some in groups.items()
    ]
    return draw(panels, 2 if len(panels) == 4 else 3, path)


def rates(ax: Axes, rows: list[Row], title: str, mark: float | None) -> None:
    """A line for each number of steps; a cross at the top marks a run that diverged."""
    bad = [row["lr"] for row in rows if row.get("status") == "diverged"]
    good = [row for row in known(rows, "final_loss") if row.get("status") != "diverged"]
    curves(ax, good, "lr", "final_loss", "steps", title)
    if bad:
        edge = ax.get_xaxis_transform()
        crosses = ax.plot(bad, [1] * len(bad), "x", color=RED, label="diverged", transform=edge)
        crosses[0].set_clip_on(False)
        log_axis(ax, "x", (row["lr"] for row in rows))
    if mark:
        ax.axvline(mark, color=GREY, lw=1, ls=":", label=f"default: {mark:.3g}")
    legend(ax, "steps")


# --- One run -------------------------------------------------------------------------------------


def plot_run(result: Result, path: Path) -> Figure:
    """Loss by step; p of every target token by step; p of every token in the verdict."""
    training, panels = result.training, list[Panel]()
    if training is not None:
        panels.append(partial(losses, mean=training.losses, certified=training.certified))
        if training.trace:
            panels.append(partial(token_paths, trace=training.trace))
    if result.verdict is not None:
        panels.append(partial(final_tokens, p=np.array(result.verdict.probabilities)))
    return draw(panels, 3, path, describe(result.report, "model", "rank", "length", "method"))


def losses(ax: Axes, mean: list[float], certified: list[float]) -> None:
    """The mean loss, and the share of tokens with p > ½ on a scale of its own."""
    ax.plot(mean, color=BLUE, lw=1.2)
    ax.set(xlabel="step", ylabel="mean loss (nats per token)", ylim=(0, None))
    ax.yaxis.label.set_color(BLUE)
    right = ax.twinx()
    right.plot([100 * share for share in certified], color=GREEN, lw=1.2)
    right.set(ylabel=LABELS["certified_fraction"], ylim=(0, 105))
    right.yaxis.label.set_color(GREEN)


def token_paths(ax: Axes, trace: list[tuple[int, list[float]]]) -> None:
    """The mean loss falls smoothly, but each token crosses one half on its own, some very late."""
    from matplotlib.collections import LineCollection

    steps, p = np.array([step for step, _ in trace]), np.array([p for _, p in trace])
    if p.shape[1] <= MOST_LINES:  # p is [steps, tokens]
        paths = [np.column_stack([steps, token]) for token in p.T]
        colours = [BLUE if last > 0.5 else RED for last in p[-1]]
        ax.add_collection(LineCollection(paths, colors=colours, lw=0.7, alpha=0.4))
    else:
        for low, colour in ((1, "#CCE3F0"), (10, "#99C7E1"), (25, "#66ABD1")):
            ends = np.percentile(p, (low, 100 - low), axis=1)
            ax.fill_between(steps, *ends, color=colour, lw=0, label=f"{100 - 2 * low} % of tokens")
    ax.plot(steps, np.median(p, axis=1), color="black", lw=1.8, label="median")
    ax.plot(steps, p[:, p[-1].argmin()], color=ORANGE, lw=1.8, label="lowest at the end")
    threshold(ax, 0.5, "p = ½")
    ax.margins(x=0)
    ax.set(xlabel="step", ylabel="p of each target token", ylim=(0, 1))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, fontsize=8, frameon=False)


def final_tokens(ax: Axes, p: np.ndarray) -> None:
    """p of every target token in the verdict, in the colours of above ½, 0.1 to ½, below 0.1."""
    for colour, low, high in ((BLUE, 0.5, 2), (ORANGE, 0.1, 0.5), (RED, -1, 0.1)):
        inside = (p > low) & (p <= high)
        if len(p) <= MOST_LINES:
            ax.stairs(np.where(inside, p, 0), np.arange(len(p) + 1) - 0.5, fill=True, color=colour)
        else:
            ax.plot(np.flatnonzero(inside), p[inside], ".", color=colour, ms=2)
    threshold(ax, 0.5, "")
    ax.set(xlabel="position in the target", ylabel="p of the token", ylim=(0, 1))
    ax.set_title(f"{(p > 0.5).sum():,} of {len(p):,} tokens above ½ (dashed)", fontsize=10)
