"""Makes the laws, tables and pictures of this folder from the recorded rows.

    python tutorials/reproduction/draw.py

The rows (rows/*.jsonl) were written by `tinymem sweep`, with the commands in README.md; this script
trains nothing. It writes the laws to laws.json, the tables into README.md below a mark, and the
pictures beside it.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from tinymem.experiment.rows import read_rows
from tinymem.files import json_text
from tinymem.law.bits import BitsLaw
from tinymem.law.fit import Fit, fit_rows
from tinymem.law.power import CONSTANTS, Law
from tinymem.show import axes
from tinymem.show.plots import plot_law, plot_methods

HERE = Path(__file__).parent
MARK = "<!-- Below this line, draw.py writes. -->"
GRIDS = ("tiny", "tiny-from-64", "tiny-lbfgs", "tiny-ratios", "smollm2")
NO_OFFSET = ("tiny-lbfgs", "smollm2")  # their few unsaturated cells do not determine b
METHODS = ("tiny-methods", "tiny-phonebook", "smollm2-phonebook")
RULES = ("tiny-rule", "smollm2-rule")
RATES = ("tiny-rates", "smollm2-rates")
# The learning rates that --lr auto chooses, for widths of 256 and 576.
DEFAULTS = {"tiny": 0.1, "SmolLM2-135M-Instruct": 1e-2 * 4096 / 576}


def rows_of(name: str) -> list[dict]:
    """The rows of a record. "tiny-from-64" is the part of "tiny" with at least 64 tokens."""
    path = HERE / "rows" / f"{name.removesuffix('-from-64')}.jsonl"
    rows = read_rows(path)[0]
    return [row for row in rows if name != "tiny-from-64" or row["length"] >= 64]


def fit_all() -> dict[str, list[Fit]]:
    return {name: fit_rows(rows_of(name), offset=name not in NO_OFFSET)[0] for name in GRIDS}


# --- Tables, as Markdown -------------------------------------------------------------------------


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def with_interval(symbol: str, value: float, ends: tuple[float, float], digits: int = 2) -> str:
    return f"{symbol} {value:.{digits}f} ({ends[0]:.2f} to {ends[1]:.2f})"


def power_constants(law: Law) -> str:
    symbols = zip(CONSTANTS, ("C", "α", "β", "b"), law.constants, strict=True)
    return "; ".join(with_interval(symbol, value, law.ci[name]) for name, symbol, value in symbols)


def law_table(fit: Fit) -> str:
    """The laws of a grid side by side."""
    laws: list[tuple[str, str, Law | BitsLaw]] = [
        ("power law", power_constants(fit.law), fit.law),
        *(
            (f"power law, {ratio} % random tokens", power_constants(law), law)
            for ratio, law in fit.by_ratio.items()
            if not isinstance(law, str)
        ),
    ]
    if not isinstance(fit.bits, str):
        kappa = with_interval("κ", fit.bits.kappa, fit.bits.ci, digits=3)
        laws.append(("constant bits", kappa, fit.bits))
    lines = []
    for name, constants, law in laws:
        left_out = law.leave_one_rank_out
        line = [name, constants, f"{law.n} ({law.n_cells})", f"{law.r2:.3f}", f"{law.r2_log:.3f}"]
        lines.append([*line, f"{law.mape:.1f} %", "–" if left_out is None else f"{left_out:.1f} %"])
    head = ["law", "constants (95 % intervals)", "runs (cells)", "R² of ΔL", "R² of ln ΔL"]
    return table([*head, "mean error of ΔL", "of a rank left out"], lines)


def grid_table(rows: list[dict], field: str) -> str:
    """The mean over the seeds of each rank and length."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["rank"], row["length"]].append(row)
    lengths, lines = sorted({length for _, length in cells}), []
    for rank in sorted({rank for rank, _ in cells}):
        line = [str(rank)]
        for length in lengths:
            some = cells.get((rank, length), [])
            text = f"{sum(row[field] for row in some) / len(some):.2f}" if some else "–"
            text += "" if all(row["converged"] for row in some) else "\\*"
            line.append(f"**{text}**" if some and all(row["certified"] for row in some) else text)
        lines.append(line)
    return table(["rank \\ length", *map(str, lengths)], lines)


def method_table(rows: list[dict], fields: dict[str, str]) -> str:
    """For each rank and method the mean over the seeds, with the range where seeds differ."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["rank"], row["method"]].append(row)
    lines = []
    for rank, method in sorted(cells, key=lambda cell: (cell[0], -ord(cell[1][0]), cell[1])):
        line = [str(rank), method]
        for field in fields.values():
            factor, form = (1, "{:.2f}") if "loss" in field else (100, "{:.0f}")
            values = [row[field] * factor for row in cells[rank, method]]
            mean, low, high = (
                form.format(value)
                for value in (sum(values) / len(values), min(values), max(values))
            )
            line.append(mean if low == high else f"{mean} ({low} to {high})")
        lines.append(line)
    return table(["rank", "method", *fields], lines)


def rate_table(rows: list[dict]) -> str:
    """The final loss for each rank, number of steps and learning rate."""
    cells = {(row["rank"], row["steps"], round(row["lr"], 3)): row["final_loss"] for row in rows}
    rates, lines = sorted({rate for _, _, rate in cells}), []
    for rank, steps in sorted({cell[:2] for cell in cells}):
        losses = [cells.get((rank, steps, rate)) for rate in rates]
        lines.append([str(rank), f"{steps:,}", *("–" if x is None else f"{x:.3f}" for x in losses)])
    return table(["rank", "steps", *(f"lr {rate:g}" for rate in rates)], lines)


# --- Sections of the page ------------------------------------------------------------------------


def law_section(name: str, fit: Fit) -> str:
    rows, law = rows_of(name), fit.law
    parts = [
        f"## {name}: the law on {fit.key['model']}, layer {fit.key['layer']}, {fit.key['method']}",
        f"{len(rows)} runs of {rows[0]['steps']:,} steps. {law.n} are fitted, "
        f"{law.n_saturated} are saturated (final loss at most ln 2) and left out. "
        f"In {fit.n_unconverged} of the fitted runs the loss was still falling at the end.",
        law_table(fit),
    ]
    if not fit.by_ratio:
        parts += [
            "Final loss in nats per token, mean over the seeds. Bold: every seed is certified. "
            "\\*: in at least one seed the loss was still falling.",
            grid_table(rows, "final_loss"),
            "Memorized bits per parameter:",
            grid_table(rows, "memorized_bits_per_parameter"),
        ]
    return "\n\n".join([*parts, f"![{name}]({name}.png)"])


def method_section(name: str) -> str:
    rows = rows_of(name)
    memories, length, steps = (rows[0][field] for field in ("memories", "length", "steps"))
    fields = {"tokens right when decoding, %": "token_accuracy", "p > ½, %": "certified_fraction"}
    what = f"one memory of {length} tokens"
    if memories > 1:
        what = f"{memories} memories of {length} tokens together"
        fields = {"memories recited whole, %": "exact_match"} | fields
    return "\n\n".join(
        [
            f"## {name}: the methods on {rows[0]['model']}, {what}, {steps:,} steps",
            method_table(rows, fields | {"final loss": "final_loss"}),
            f"![{name}]({name}.png)",
        ]
    )


def rule_section(name: str) -> str:
    rows = rows_of(name)
    learned, held_out = rows[0]["memories"], rows[0]["held_out_memories"]
    fields = {
        "learned pairs right, %": "exact_match",
        "held-out pairs right, %": "held_out_exact_match",
        "final loss": "final_loss",
        "held-out loss": "held_out_loss",
    }
    title = (
        f"## {name}: the rule on {rows[0]['model']}, {learned} pairs learned, {held_out} held out"
    )
    return f"{title}\n\n{method_table(rows, fields)}"


def rate_section(name: str) -> str:
    rows = rows_of(name)
    about = f"{rows[0]['model']}, {rows[0]['length']} random tokens, seed 0"
    return f"## {name}: final loss by learning rate on {about}\n\n{rate_table(rows)}"


# --- The picture of learning rates ---------------------------------------------------------------


def plot_rates(rows: list[dict], path: Path, marks: dict[str, float] = DEFAULTS) -> axes.Figure:
    """Final loss by learning rate. marks: for each model a rate to point out, its default."""
    known = axes.known(rows, "lr", "steps")
    groups = axes.group(known, lambda row: axes.describe(row, "model", "rank", "length"))
    panels = [
        partial(rates, rows=some, title=title, mark=marks.get(some[0]["model"]))
        for title, some in groups.items()
    ]
    return axes.draw(panels, 2 if len(panels) == 4 else 3, path)


def rates(ax: axes.Axes, rows: list[dict], title: str, mark: float | None) -> None:
    """A line for each number of steps; a cross at the top marks a run that diverged."""
    bad = [row["lr"] for row in rows if row["status"] == "diverged"]
    good = [row for row in axes.known(rows, "final_loss") if row["status"] != "diverged"]
    axes.curves(ax, good, "lr", "final_loss", "steps", title)
    ax.set_xlabel("learning rate")
    if bad:
        look: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(bad, [1] * len(bad), "x", color=axes.RED, label="diverged", **look)
        axes.log_axis(ax, "x", (row["lr"] for row in rows))
    if mark:
        ax.axvline(mark, color=axes.GREY, lw=1, ls=":", label=f"default: {mark:.3g}")
    axes.legend(ax, "steps")


def main() -> None:
    fits = fit_all()
    laws = {name: [fit.as_dict() for fit in group] for name, group in fits.items()}
    (HERE / "laws.json").write_text(json_text(laws, indent=1) + "\n", encoding="utf-8")
    sections = [law_section(name, fit) for name, group in fits.items() for fit in group]
    for section, names in ((method_section, METHODS), (rule_section, RULES), (rate_section, RATES)):
        sections += [section(name) for name in names]
    page = HERE / "README.md"
    prose = page.read_text(encoding="utf-8").split(MARK)[0]
    text = "\n\n".join([prose + MARK, *sections, "![rates](rates.png)\n"])
    page.write_text(text, encoding="utf-8")
    for name, group in fits.items():
        plot_law(group, HERE / f"{name}.png")
    for name in METHODS:
        plot_methods(rows_of(name), HERE / f"{name}.png")
    plot_rates([row for name in RATES for row in rows_of(name)], HERE / "rates.png")


if __name__ == "__main__":
    main()
