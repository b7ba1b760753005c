"""Pictures, with matplotlib (the extra `plot`). Each plot_… saves a figure and returns it.

A row is a finished cell of a sweep, with the fields of a report. A function that takes `ax` draws one
panel into it; panels whose fields no row has are left out. Colours are safe for colour-blind eyes:
viridis for what has an order, Okabe and Ito's for what has none.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from ..errors import TinymemError
from ..experiment.probe import Result
from ..training.memft import LN2, METHODS
from ..training.record import Training

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
LOOKS = dict(zip(METHODS, ((BLUE, "o"), (RED, "s"), (GREEN, "^")), strict=True))
LINES = 400  # tokens up to which each gets a line of its own
SHARES = ("exact_match", "token_accuracy", "certified_fraction")  # 0 to 1, drawn in percent
LABELS = {
    "rank": "rank r",
    "length": "length ℓ (tokens)",
    "ratio": "random tokens (%)",
    "lr": "learning rate",
    "steps": "steps",
    "method": "method (band: range of seeds)",
    "delta_loss": "ΔL (nats per token)",
    "final_loss": "final loss (nats per token)",
    "exact_match": "memories recited whole (%)",
    "token_accuracy": "tokens right when decoding (%)",
    "certified_fraction": "tokens with p > ½ (%)",
    "bits_per_parameter": "stored bits per parameter",
    "memorized_bits_per_parameter": "memorized bits per parameter",
}
YARDSTICKS = (  # bits per parameter: from, to, what
    (0.7, 1.7, "0.7–1.7  one trained input vector (Kuratov et al. 2025)"),
    (2.0, 2.0, "2  knowledge stored by pretraining (Allen-Zhu & Li 2024)"),
    (3.6, 3.6, "3.6  whole-model memorization (Morris et al. 2025)"),
)
COMPARABLE = (
    "model",
    "layer",
    "site",
    "length",
    "ratio",
    "memories",
)  # what methods are compared on


# --- Rows ----------------------------------------------------------------------------------------


def known(rows: Iterable[dict], *fields: str) -> list[dict]:
    """The rows that have a value in each of the fields."""
    return [row for row in rows if all(row.get(field) is not None for field in fields)]


def group(rows: Iterable[dict], field: str) -> dict:
    """The rows by their value in the field, in its order."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row.get(field), []).append(row)
    return dict(sorted(groups.items(), key=lambda item: (item[0] is not None, item[0])))


def largest(rows: Iterable[dict], *fields: str) -> list[dict]:
    """The most rows that agree in the fields; of equally many, those of the middle length."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(repr([row.get(field) for field in fields]), []).append(row)
    tied = [group for group in groups.values() if len(group) == max(map(len, groups.values()))]
    return (
        sorted(tied, key=lambda group: group[0].get("length") or 0)[len(tied) // 2] if tied else []
    )


def describe(row: dict, *fields: str) -> str:
    """`tiny, rank 8, 128 tokens, 100 % random`: of the fields that the row has. A $ starts no formula."""
    words = {
        "rank": "rank {}",
        "layer": "layer {}",
        "length": "{:,} tokens",
        "ratio": "{} % random",
    }
    words["memories"] = "{:,} memories" if row.get("memories") != 1 else "one memory"
    parts = [
        words.get(field, "{}").format(row[field]) for field in fields if row.get(field) is not None
    ]
    return ", ".join(parts).replace("$", r"\$")


# --- Figures and axes ----------------------------------------------------------------------------


def figure(columns: int, rows: int = 1) -> "Figure":
    """An empty figure, drawn without a screen. Raises TinymemError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TinymemError("pictures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(5.5 * columns, 4.2 * rows), layout="constrained")


def draw(panels: Sequence[Callable | None], columns: int, path: Path, title: str = "") -> "Figure":
    """The panels row by row, None for an empty place; below them what hollow points and triangles are."""
    if not panels:
        raise TinymemError("nothing to draw: no row has the fields that this picture shows")
    columns = min(columns, len(panels))
    fig = figure(columns, rows := -(-len(panels) // columns))
    for place, panel in enumerate(panels, start=1):
        if panel is not None:
            panel(fig.add_subplot(rows, columns, place))
    fig.suptitle(title)
    key = {line.get_gid(): line for ax in fig.axes for line in ax.lines if line.get_gid()}
    if key:
        fig.legend(key.values(), key, loc="outside lower center", ncols=len(key), frameon=False)
    fig.savefig(path, dpi=130, format=Path(path).suffix.removeprefix(".") or "png")
    return fig


def shades(values: Iterable) -> dict:
    """A colour of viridis, short of its palest, for each of the values by their order."""
    from matplotlib import colormaps

    values = sorted(set(values))
    return {
        value: colormaps["viridis"](0.9 * i / max(1, len(values) - 1))
        for i, value in enumerate(values)
    }


def log_axis(ax: "Axes", which: str, values: Iterable[float] = ()) -> None:
    """Log, in ordinary numbers: the values themselves, as many as have room, or else 1, 2, 5, 10, …"""
    from matplotlib import ticker

    ax.set(**{f"{which}scale": "log"})
    values, shown = sorted(set(values)), []
    for value in values:
        if not shown or value / shown[-1] >= (values[-1] / values[0]) ** (1 / 12):
            shown.append(value)
    if len(values) == 1:
        ax.set(**{f"{which}lim": (values[0] / 2, 2 * values[0])})
    low, high = getattr(ax, f"get_{which}lim")()
    free = ticker.MaxNLocator(6) if high < 5 * low else ticker.LogLocator(subs=(1, 2, 5))
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(ticker.FixedLocator(shown) if shown else free)
    axis.set_major_formatter(
        ticker.FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:.3g}")
    )
    axis.set_minor_locator(ticker.NullLocator())


def legend(ax: "Axes", field: str) -> None:
    """To the right of the panel, where it covers nothing; three methods find room in the panel."""
    handles, _ = ax.get_legend_handles_labels()
    place = {
        "loc": "upper left",
        "bbox_to_anchor": (1, 1),
        "frameon": False,
        "ncols": -(-len(handles) // 16),
    }
    place = {"title": LABELS[field].replace(" (", "\n(")} | (place if field != "method" else {})
    if handles:
        ax.legend(fontsize=8, title_fontsize=8, **place)


def threshold(ax: "Axes", value: float, text: str) -> None:
    """A dashed line across the panel, and what it is."""
    ax.axhline(value, color="black", lw=0.9, ls="--", zorder=3)
    place = {"xycoords": ax.get_yaxis_transform(), "xytext": (0, 2), "textcoords": "offset points"}
    ax.annotate(text, (0.99, value), ha="right", fontsize=8, **place)


def curves(
    ax: "Axes", rows: list[dict], x: str, y: str, series: str, title: str, band: bool = True
) -> None:
    """For each value of `series` the mean of y at each x, in a band from the lowest to the highest."""
    colours, scale = shades(row[series] for row in rows), 100 if y in SHARES else 1
    for value, members in group(rows, series).items():
        colour, marker = LOOKS.get(value, (colours[value], "o"))
        places = {at: [scale * row[y] for row in here] for at, here in group(members, x).items()}
        means, label = (
            [fmean(ys) for ys in places.values()],
            value if series == "method" else f"{value:,}",
        )
        ax.plot(list(places), means, color=colour, marker=marker if band else "", ms=4, label=label)
        if band:
            low, high = zip(*((min(ys), max(ys)) for ys in places.values()), strict=True)
            ax.fill_between(list(places), low, high, color=colour, alpha=0.15, lw=0)
    ax.set(xlabel=LABELS[x], ylabel=LABELS[y])
    ax.set_title(title, fontsize=10)
    if y == "final_loss" and any(
        row[y] < 2 * LN2 for row in rows
    ):  # else it is far below the picture
        threshold(ax, LN2, "ln 2")
    if y in SHARES:
        ax.set_ylim(-4, 104)
    else:
        log_axis(ax, "y")
    if rows and x != "ratio":
        log_axis(ax, "x", (row[x] for row in rows))
    legend(ax, series)


def dots(ax: "Axes", rows: list[dict], x: str, y: str, series: str) -> None:
    """A point a row: hollow where saturated, a triangle where training had not converged."""
    colours, alike = shades(row[series] for row in rows), {}
    for row in rows:
        alike.setdefault((row[series], row["saturated"], row.get("converged") is False), []).append(
            row
        )
    for (value, hollow, moving), some in alike.items():
        look = {
            "color": colours[value],
            "mfc": "none" if hollow else colours[value],
            "ms": 4.5,
            "alpha": 0.8,
        }
        ax.plot([row[x] for row in some], [row[y] for row in some], "^" if moving else "o", **look)
        if hollow:
            ax.plot([], [], "o", color=GREY, mfc="none", gid="saturated: left out of the fit")
        if moving:
            ax.plot([], [], "^", color=GREY, gid="training had not converged")


# --- The law -------------------------------------------------------------------------------------


def plot_law(fits: list, path: Path) -> "Figure":
    """The first of the fits beside its rows; the methods side by side where the fits differ in them."""
    fit, law = fits[0], fits[0].law
    cells = [
        row | {"saturated": hollow} for row, hollow in zip(fit.rows, fit.saturated, strict=True)
    ]
    ratios = group(cells, "ratio")
    ratio, rows = max(reversed(ratios.items()), key=lambda item: len(item[1]))
    note = f", {ratio} % random" if len(ratios) > 1 and ratio is not None else ""
    own = fit.by_ratio.get(ratio, law)
    own = law if isinstance(own, str) else own
    panels = [
        partial(against, rows=rows, law=own, x="rank", series="length", note=note),
        partial(against, rows=rows, law=own, x="length", series="rank", note=note),
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
        some = largest((row for other in others for row in other.rows), *COMPARABLE)
        panels += [None] * (-len(panels) % 3) + method_panels(some)
    offset = f"{law.b:+.3g}" if law.b else ""
    formula = rf"$ΔL = {law.C:,.4g}\;r^{{{law.alpha:.2f}}}\;ℓ^{{{-law.beta:.2f}}}{offset}$"
    counts = f"fitted to {law.n} cells; {law.n_saturated} saturated ones left out"
    title = f"{describe(fit.key, 'model', 'layer', 'site', 'method')}:   {formula}\n{counts}"
    return draw(panels, 3, path, title)


def against(ax: "Axes", rows: list[dict], law: object, x: str, series: str, note: str) -> None:
    """ΔL over rank or length, log-log: the cells, and the law's line for each length or rank."""
    dots(ax, rows, x, "delta_loss", series)
    places, gains = (
        [row[x] for row in rows],
        [row["delta_loss"] for row in rows if row["delta_loss"] > 0],
    )
    reach = np.geomspace(min(places), max(places), 50)
    for value, colour in shades(row[series] for row in rows).items():
        at = {x: reach, series: np.full(50, float(value))}
        ax.plot(
            reach, law.predict(at["rank"], at["length"]), color=colour, lw=1.2, label=f"{value:,}"
        )
    ax.set(xlabel=LABELS[x], ylabel=LABELS["delta_loss"], ylim=(min(gains) / 1.3, max(gains) * 1.3))
    ax.set_title(f"loss reduction against {x}{note}", fontsize=10)
    log_axis(ax, "x", places)
    log_axis(ax, "y")
    legend(ax, series)


def agreement(ax: "Axes", rows: list[dict], law: object, bits: object) -> None:
    """Predicted against measured ΔL of the cells that are not saturated."""
    laws = [("power law", law, ("rank", "length"), {"marker": "o", "color": BLUE})]
    if not isinstance(bits, str):
        needs = ("trainable_parameters", "length", "base_loss", "entropy")
        laws.append(("constant bits", bits, needs, {"marker": "s", "color": RED, "mfc": "none"}))
    for name, model, needs, look in laws:
        some = [row for row in known(rows, *needs) if not row["saturated"]]
        predicted = model.predict(*(np.array([float(row[need]) for row in some]) for need in needs))
        label = f"{name}: R² {model.r2:.3f}, MAPE {model.mape:.1f} %"
        ax.plot(
            [row["delta_loss"] for row in some],
            predicted,
            ls="",
            ms=4.5,
            alpha=0.7,
            label=label,
            **look,
        )
    ends = (0, 1.05 * max(ax.get_xlim()[1], ax.get_ylim()[1]))
    ax.plot(ends, ends, color=GREY, lw=0.8, zorder=0)
    what = LABELS["delta_loss"]
    ax.set(xlabel=f"measured {what}", ylabel=f"predicted {what}", xlim=ends, ylim=ends)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=9, frameon=False)


def heat_map(ax: "Axes", rows: list[dict], field: str, note: str) -> None:
    """Final loss or token accuracy, mean over the seeds of each rank (upwards) and length."""
    loss, scale = field == "final_loss", 100 if field in SHARES else 1
    ranks, lengths = list(group(rows, "rank")), list(group(rows, "length"))
    values = np.full((len(ranks), len(lengths)), np.nan)
    small = {"fontsize": min(9, 80 / len(lengths), 130 / len(ranks))}
    image = ax.imshow(
        values, origin="lower", aspect="auto", cmap="viridis_r" if loss else "viridis"
    )
    image.set_clim(0, max(row[field] for row in rows) if loss else 100)
    for y, x in np.ndindex(values.shape):
        seeds = [row for row in rows if (row["rank"], row["length"]) == (ranks[y], lengths[x])]
        if not seeds:
            continue
        values[y, x] = mean = scale * fmean(row[field] for row in seeds)
        text = f"{mean:.2f}" if loss else f"{mean if mean == 100 else min(mean, 99):.0f}"
        dark = np.dot(image.to_rgba(mean)[:3], (0.3, 0.59, 0.11)) < 0.5
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


def capacity(ax: "Axes", rows: list[dict], field: str, note: str) -> None:
    """Bits per parameter over length, beside what others have measured. What is below 0.01 is cut off."""
    dots(ax, rows, "length", field, "rank")
    curves(ax, rows, "length", field, "rank", f"{LABELS[field]}{note}", band=False)
    for low, high, what in YARDSTICKS:
        ax.axhspan(low, high, fc=GREY, ec=GREY, alpha=0.2, zorder=0)
        place = {"transform": ax.get_yaxis_transform(), "va": "top" if high > low else "bottom"}
        ax.text(0.02, high, what, fontsize=7, color="0.3", **place)
    ax.set_ylim(
        max(0.01, min([row[field] for row in rows if row[field] > 0], default=0) / 1.3), 5.5
    )


# --- Methods, learning rates, one run --------------------------------------------------------------


def plot_methods(rows: list[dict], path: Path) -> "Figure":
    """The methods side by side, on the base, data and length with the most rows; no law need fit."""
    rows = largest(known(rows, "method", "rank"), *COMPARABLE)
    panels = method_panels(rows)
    return draw(
        panels, len(panels), path, describe(rows[0], "model", "layer", "site") if rows else ""
    )


def method_panels(rows: list[dict]) -> list[Callable]:
    """What each method reaches at each rank."""
    many = any((row.get("memories") or 1) > 1 for row in rows)
    common = {
        "x": "rank",
        "series": "method",
        "title": describe(rows[0], *COMPARABLE[-3:]) if rows else "",
    }
    fields = (*SHARES[not many :], "final_loss")
    return [
        partial(curves, rows=some, y=field, **common)
        for field in fields
        if (some := known(rows, field))
    ]


def plot_convergence(
    rows: list[dict], path: Path, marks: dict[str, float] | None = None
) -> "Figure":
    """Final loss against learning rate. marks: a rate to point out for each model, its default."""
    panels: dict = {}
    for row in known(rows, "lr", "steps"):
        panels.setdefault(describe(row, "model", "rank", "length"), []).append(row)
    parts = [
        partial(rates, rows=some, title=title, marks=marks or {}) for title, some in panels.items()
    ]
    return draw(parts, 2 if len(parts) == 4 else 3, path)


def rates(ax: "Axes", rows: list[dict], title: str, marks: dict[str, float]) -> None:
    """A line for each number of steps; a cross at the top where a run diverged."""
    bad = [row["lr"] for row in rows if row.get("status") == "diverged"]
    well = [row for row in known(rows, "final_loss") if row.get("status") != "diverged"]
    curves(ax, well, "lr", "final_loss", "steps", title)
    if bad:
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(bad, [1] * len(bad), "x", color=RED, label="diverged", **edge)
        log_axis(ax, "x", (row["lr"] for row in rows))
    if mark := marks.get(rows[0].get("model")):
        ax.axvline(mark, color=GREY, lw=1, ls=":", label=f"default: {mark:.3g}")
    legend(ax, "steps")


def plot_run(result: Result, path: Path) -> "Figure":
    """Loss over the steps; p of every target token over the steps; p of every token at the end."""
    panels = [partial(progress, training=result.training)]
    if result.training.trace:
        panels.append(partial(transition, trace=result.training.trace))
    if result.verdict:
        panels.append(partial(final, p=np.array(result.verdict.probabilities)))
    return draw(panels, 3, path, describe(result.report, "model", "rank", "length", "method"))


def progress(ax: "Axes", training: Training) -> None:
    """Mean loss, and the share of certified tokens."""
    ax.plot(training.losses, color=BLUE, lw=1.2)
    ax.set(xlabel="step", ylabel="mean loss (nats per token)", ylim=(0, None))
    ax.yaxis.label.set_color(BLUE)
    share = ax.twinx()
    share.plot([100 * s for s in training.certified], color=GREEN, lw=1.2)
    share.set(ylabel=LABELS["certified_fraction"], ylim=(0, 105))
    share.yaxis.label.set_color(GREEN)


def transition(ax: "Axes", trace: list[tuple[int, list[float]]]) -> None:
    """Mean loss falls smoothly, but each token crosses one half for itself, and the last one decides."""
    from matplotlib.collections import LineCollection

    steps, p = (
        np.array([step for step, _ in trace]),
        np.array([p for _, p in trace]),
    )  # [looks, tokens]
    if p.shape[1] <= LINES:
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


def final(ax: "Axes", p: np.ndarray) -> None:
    """p of every token in the verdict."""
    for colour, low, high in ((BLUE, 0.5, 2), (ORANGE, 0.1, 0.5), (RED, -1, 0.1)):
        inside = (p > low) & (p <= high)
        if len(p) <= LINES:
            ax.stairs(np.where(inside, p, 0), np.arange(len(p) + 1) - 0.5, fill=True, color=colour)
        else:
            ax.plot(np.flatnonzero(inside), p[inside], ".", color=colour, ms=2)
    threshold(ax, 0.5, "")
    ax.set(xlabel="position in the target", ylabel="p of the token", ylim=(0, 1))
    ax.set_title(f"{(p > 0.5).sum():,} of {len(p):,} tokens above ½ (dashed)", fontsize=10)
