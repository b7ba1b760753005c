"""Makes the laws, tables and pictures of this folder from the recorded rows.

    python tutorials/reproduction/draw.py

The rows (rows/*.jsonl) were written by `tinymem sweep`, with the commands in README.md; this script
trains nothing. It writes the laws to laws.json, the tables (tables.py) into README.md below a mark,
paper.md and the map of the paper in ../README.md from their templates (paper.py), and the pictures
beside them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from paper import page as paper_page, with_map
from plans import section as plan_section
from tables import HERE, grid_table, law_table, method_table, rate_table, rows_of

from tinymem.files import json_text
from tinymem.law.fit import Fit, fit_rows
from tinymem.show import axes
from tinymem.show.plots import plot_law, plot_methods

MARK = "<!-- Below this line, draw.py writes. -->"
GRIDS = ("tiny", "tiny-from-64", "tiny-lbfgs", "tiny-ratios", "tiny-book-law", "smollm2")
WITH_B = (
    "tiny",
    "tiny-from-64",
    "tiny-book-law",
)  # enough cells to try a law with b beside the one without
METHODS = ("tiny-methods", "tiny-phonebook", "smollm2-phonebook")
RULES = ("tiny-rule", "smollm2-rule")
RATES = ("tiny-rates", "smollm2-rates")
# The learning rates that --lr auto chooses, for widths of 256 and 576.
DEFAULTS = {"tiny": 0.1, "SmolLM2-135M-Instruct": 1e-2 * 4096 / 576}


def fit_all() -> dict[str, list[Fit]]:
    """The laws of each grid, all with b = 0: no grid of random tokens determines b."""
    return {name: fit_rows(rows_of(name), offset=False)[0] for name in GRIDS}


# --- Sections of the page ------------------------------------------------------------------------


def law_section(name: str, fit: Fit) -> str:
    rows, law = rows_of(name), fit.law
    steps = [f"{count:,}" for count in sorted({row["steps"] for row in rows})]
    with_b = fit_rows(rows)[0][0].law if name in WITH_B else None
    parts = [
        f"## {name}: the law on {fit.key['model']}, layer {fit.key['layer']}, {fit.key['method']}",
        f"{len(rows)} runs of {' or '.join(steps)} steps. {law.n} are fitted; "
        f"{law.n_saturated} with a final loss of at most ln 2 (saturated) are left out. "
        f"In {fit.n_unconverged} of the fitted runs the loss was still falling at the end.",
        law_table(fit, with_b),
    ]
    if fit.by_ratio:
        parts.append("A law of one ratio fits three constants to few cells: a high R² says little.")
    else:
        parts += [
            "Final loss in nats per token, mean over the seeds. Bold: every seed is certified. "
            "\\*: in at least one seed the loss was still falling.",
            grid_table(rows, "final_loss"),
        ]
    if not fit.by_ratio and rows[0]["entropy"] is not None:
        bits = grid_table(rows, "memorized_bits_per_parameter")
        parts += ["Memorized bits per parameter:", bits]
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
    sections.append(plan_section())
    page = HERE / "README.md"
    prose = page.read_text(encoding="utf-8").split(MARK)[0]
    text = "\n\n".join([prose + MARK, *sections, "![rates](rates.png)\n"])
    page.write_text(text, encoding="utf-8")
    (HERE / "paper.md").write_text(paper_page(), encoding="utf-8")
    course = HERE.parent / "README.md"
    course.write_text(with_map(course.read_text(encoding="utf-8")), encoding="utf-8")
    for name, group in fits.items():
        plot_law(group, HERE / f"{name}.png")
    for name in METHODS:
        plot_methods(rows_of(name), HERE / f"{name}.png")
    plot_rates([row for name in RATES for row in rows_of(name)], HERE / "rates.png")


if __name__ == "__main__":
    main()
