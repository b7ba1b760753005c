"""What every picture needs: choosing rows, figures, colours, axes, legends, curves and points.

Colours can be told apart by colour-blind eyes: viridis for what has an order, those of Okabe and
Ito for what has none. matplotlib (the extra `plot`) is imported when the first figure is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..errors import TinymemError
from ..files import write_atomically
from ..law.power import LN2
from .report import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes"], None]  # draws one part of a picture

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
PURPLE = "#CC79A7"
FONTS: dict[Any, Any] = {"axes.titlesize": 10, "legend.fontsize": 8, "legend.title_fontsize": 8}
METHOD_LOOKS = {
    **{"sft": (BLUE, "o"), "memft-ot": (RED, "s"), "memft-sw": (GREEN, "^")},
    "margin": (PURPLE, "D"),
}
PERCENT = (
    *("exact_match", "token_accuracy", "certified_fraction", "held_out_exact_match"),
    "argmax_accuracy",
)
LABELS = {
    "rank": "rank r",
    "length": "length ℓ (tokens)",
    "ratio": "random tokens (%)",
    "method": "method (band: range of seeds)",
    "delta_loss": "ΔL (nats per token)",
    "final_loss": "final loss (nats per token)",
    "exact_match": "memories recited whole (%)",
    "token_accuracy": "tokens right when decoding (%)",
    "argmax_accuracy": "tokens with a margin above 0 (%)",
    "certified_fraction": "tokens with p > ½ (%)",
    "held_out_exact_match": "held-out memories recited whole (%)",
    "bits_per_parameter": "stored bits per parameter",
    "memorized_bits_per_parameter": "memorized bits per parameter",
}

YARDSTICKS = (  # bits per parameter: from, to, what was measured
    (0.7, 1.7, "0.7–1.7  one trained input vector (Kuratov et al. 2025)"),
    (2.0, 2.0, "2  knowledge stored by pretraining (Allen-Zhu & Li 2024)"),
    (3.6, 3.6, "3.6  whole-model memorization (Morris et al. 2025)"),
)


def group(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """The rows by their key, in the order in which the keys first occur."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def known(rows: Iterable[Row], *fields: str) -> list[Row]:
    """The rows that have a value in each of the fields."""
    return [row for row in rows if all(row.get(field) is not None for field in fields)]


def largest(rows: Iterable[Row], *fields: str) -> list[Row]:
    """The largest set of rows that agree in the fields; of several, the one of middle length."""
    groups = group(rows, lambda row: repr([row.get(field) for field in fields]))
    sets = sorted(groups.values(), key=lambda some: (len(some), some[0].get("length") or 0))
    tied = [some for some in sets if len(some) == len(sets[-1])]
    return tied[len(tied) // 2] if tied else []


def describe(row: Row, *fields: str) -> str:
    """The fields that the row has, in words: `tiny, rank 8, 128 tokens, 100 % random`.

    Escapes $, which matplotlib would read as mathematics.
    """
    form = {"rank": "rank {}", "layer": "layer {}", "length": "{:,} tokens", "ratio": "{} % random"}
    form["memories"] = "one memory" if row.get("memories") == 1 else "{:,} memories"
    parts = [form.get(name, "{}").format(row[name]) for name in fields if known([row], name)]
    return ", ".join(parts).replace("$", r"\$")


def figure(columns: int, rows: int = 1) -> Figure:
    """An empty figure that needs no screen. Raises TinymemError if matplotlib is not installed."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise TinymemError("pictures need matplotlib: pip install matplotlib") from error
    return matplotlib.figure.Figure(figsize=(5.5 * columns, 4.2 * rows), layout="constrained")


def draw(panels: Sequence[Panel | None], columns: int, path: Path, title: str = "") -> Figure:
    """Saves a picture of the panels, row by row; None leaves a place empty.

    One legend for the whole picture, below it, explains the lines that have a gid (see `dots`).
    """
    if not panels:
        raise TinymemError("nothing to draw: no row has the fields that this picture shows")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    fig = figure(columns, rows)
    fig.suptitle(title)
    from matplotlib import rc_context

    with rc_context(FONTS):
        for place, panel in enumerate(panels, start=1):
            if panel is not None:
                panel(fig.add_subplot(rows, columns, place))
    if key := {gid: line for ax in fig.axes for line in ax.lines if (gid := line.get_gid())}:
        fig.legend(key.values(), key, loc="outside lower center", ncols=len(key), frameon=False)
    look: dict[str, Any] = {"dpi": 130, "format": Path(path).suffix.removeprefix(".") or "png"}
    write_atomically(Path(path).resolve(), lambda file: fig.savefig(file, **look))
    return fig


def shades(values: Iterable[Any]) -> dict[Any, Any]:
    """For each different value a colour of viridis, in their order; its palest end is left out."""
    from matplotlib import colormaps

    ordered = sorted(set(values))
    step = 0.9 / max(1, len(ordered) - 1)
    return {value: colormaps["viridis"](step * n) for n, value in enumerate(ordered)}


def log_axis(ax: Axes, which: str, values: Iterable[float] = ()) -> None:
    """A logarithmic axis in ordinary numbers: the values given, as many as fit, or round ones."""
    from matplotlib import ticker

    ax.set(**{f"{which}scale": "log"})
    ordered = sorted(set(values))
    shown: list[float] = []
    for value in ordered:
        if not shown or value / shown[-1] >= (ordered[-1] / ordered[0]) ** (1 / 12):
            shown.append(value)
    if len(ordered) == 1:
        ax.set(**{f"{which}lim": (ordered[0] / 2, 2 * ordered[0])})
    axis = ax.xaxis if which == "x" else ax.yaxis
    low, high = axis.get_view_interval()
    subs = (1, 2, 3, 4, 6, 8) if high < 20 * low else (1, 2, 5)
    free = ticker.MaxNLocator(6) if high < 5 * low else ticker.LogLocator(subs=subs)
    axis.set_major_locator(ticker.FixedLocator(shown) if shown else free)
    axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 100 else f"{x:.3g}")
    axis.set_minor_locator(ticker.NullLocator())


def legend(ax: Axes, field: str) -> None:
    """Names the lines: to the right of the panel, but inside it for the few methods."""
    count = len(ax.get_legend_handles_labels()[0])
    beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    look = {} if field == "method" else beside | {"ncols": -(-count // 16)}
    if count:
        ax.legend(title=LABELS.get(field, field).replace(" (", "\n("), **look)


def threshold(ax: Axes, value: float, text: str) -> None:
    """A dashed line across the panel, and what it is."""
    ax.axhline(value, color="black", lw=0.9, ls="--", zorder=3)
    place: dict[str, Any] = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points"}
    ax.annotate(text, (0.99, value), xytext=(0, 2), ha="right", fontsize=8, **place)


def curves(ax: Axes, rows: list[Row], x: str, y: str, series: str, title: str) -> None:
    """For each value of `series` a line through the means of y at each x.

    The means are marked, over a shade from the lowest to the highest y; on a panel that shows each
    row as a dot already, there is only the line.
    """
    band, scale = not ax.lines, 100 if y in PERCENT else 1
    colours = shades(row[series] for row in rows)
    for value, members in sorted(group(rows, itemgetter(series)).items()):
        colour, marker = METHOD_LOOKS.get(value, (colours[value], "o"))
        places = sorted({row[x] for row in members})
        ys = [[scale * row[y] for row in members if row[x] == place] for place in places]
        label = value if series == "method" else f"{value:,}"
        look = {"color": colour, "marker": marker if band else "", "ms": 4, "label": label}
        ax.plot(places, [fmean(some) for some in ys], **look)
        if band:
            ends = [min(some) for some in ys], [max(some) for some in ys]
            ax.fill_between(places, *ends, color=colour, alpha=0.15, lw=0)
    ax.set(xlabel=LABELS.get(x, x), ylabel=LABELS[y], title=title)
    if y == "final_loss" and any(row[y] < 2 * LN2 for row in rows):
        threshold(ax, LN2, "ln 2")  # otherwise it lies far below the picture
    if y in PERCENT:
        ax.set_ylim(-4, 104)
    else:
        log_axis(ax, "y")
    if rows and x != "ratio":
        log_axis(ax, "x", (row[x] for row in rows))
    legend(ax, series)


def dots(ax: Axes, rows: list[Row], x: str, y: str, series: str) -> None:
    """A point for each row: hollow if saturated, a triangle if training had not converged."""
    colours = shades(row[series] for row in rows)
    kinds = group(rows, lambda r: (r[series], r["saturated"], r.get("converged") is False))
    for (value, hollow, moving), some in sorted(kinds.items()):
        colour, marker = colours[value], "^" if moving else "o"
        look = {"color": colour, "mfc": "none" if hollow else colour, "ms": 4.5, "alpha": 0.8}
        ax.plot([row[x] for row in some], [row[y] for row in some], marker, **look)
        if hollow:
            ax.plot([], [], "o", color=GREY, mfc="none", gid="saturated: left out of the fit")
        if moving:
            ax.plot([], [], "^", color=GREY, gid="training had not converged")
