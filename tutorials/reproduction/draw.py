"""From the recorded rows to the laws, tables and pictures of this folder.

    python tutorials/reproduction/draw.py

The rows (rows/*.jsonl) are what `tinymem sweep` wrote, with the commands of README.md; nothing here trains.
Laws go to laws.json, tables into README.md below the mark, pictures beside it.
"""

import json
from collections import defaultdict
from pathlib import Path

from tinymem.experiment.rows import read_rows
from tinymem.law.fit import Fit, fit_rows
from tinymem.show.plots import plot_convergence, plot_law, plot_methods

HERE = Path(__file__).parent
MARK = "<!-- Below this line, draw.py writes. -->"
GRIDS = ("tiny", "tiny-from-64", "tiny-lbfgs", "tiny-ratios", "smollm2")
NO_OFFSET = ("tiny-lbfgs", "smollm2")
METHODS = ("tiny-methods", "tiny-phonebook", "smollm2-phonebook")
RULES = ("tiny-rule", "smollm2-rule")
RATES = ("tiny-rates", "smollm2-rates")
DEFAULTS = {
    "tiny": 0.1,
    "SmolLM2-135M-Instruct": 1e-2 * 4096 / 576,
}  # of --lr auto, at widths 256 and 576


def rows_of(name: str) -> list[dict]:
    """The rows of a record; of "tiny-from-64", those of "tiny" with at least 64 tokens."""
    path = HERE / "rows" / f"{name.removesuffix('-from-64')}.jsonl"
    rows = read_rows(path)[0]
    return [row for row in rows if name != "tiny-from-64" or row["length"] >= 64]


def fit_all() -> dict[str, list[Fit]]:
    """With the offset b, but for grids whose few unsaturated cells do not fix it at all."""
    return {name: fit_rows(rows_of(name), offset=name not in NO_OFFSET)[0] for name in GRIDS}


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def law_table(fit: Fit) -> str:
    """The laws of a grid side by side."""

    def interval(low: float, high: float) -> str:
        return f"{low:.2f} to {high:.2f}"

    def line(name, constants, law):
        left = "–" if law.leave_one_rank_out is None else f"{law.leave_one_rank_out:.1f} %"
        return [
            name,
            constants,
            str(law.n),
            f"{law.r2:.3f}",
            f"{law.r2_log:.3f}",
            f"{law.mape:.1f} %",
            left,
        ]

    def power(law):
        parts = [
            f"{n} {getattr(law, n):.2f} ({interval(*law.ci[n])})"
            for n in ("C", "alpha", "beta", "b")
        ]
        return "; ".join(parts).replace("alpha", "α").replace("beta", "β")

    lines = [line("power law", power(fit.law), fit.law)]
    lines += [
        line(f"… {ratio} % random", power(law), law)
        for ratio, law in fit.by_ratio.items()
        if not isinstance(law, str)
    ]
    if not isinstance(fit.bits, str):
        lines.append(
            line("constant bits", f"κ {fit.bits.kappa:.3f} ({interval(*fit.bits.ci)})", fit.bits)
        )
    head = [
        "law",
        "constants (95 %)",
        "cells",
        "R²",
        "R² of ln ΔL",
        "mean error of ΔL",
        "rank left out",
    ]
    return table(head, lines)


def grid_table(rows: list[dict], field: str, form: str) -> str:
    """By rank and length, means over seeds; bold: all certified, *: one had not converged."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["rank"], row["length"]].append(row)
    lengths, lines = sorted({length for _, length in cells}), []
    for rank in sorted({rank for rank, _ in cells}):
        line = [str(rank)]
        for length in lengths:
            some = cells.get((rank, length), [])
            text = form.format(sum(row[field] for row in some) / len(some)) if some else "–"
            text += "" if all(row["converged"] for row in some) else "\\*"
            line.append(f"**{text}**" if some and all(row["certified"] for row in some) else text)
        lines.append(line)
    return table(["rank \\ length", *map(str, lengths)], lines)


def method_table(rows: list[dict], fields: dict[str, str]) -> str:
    """By rank and method: the mean over seeds, and the lowest to the highest where there are several."""
    cells = defaultdict(list)
    for row in rows:
        cells[row["rank"], row["method"]].append(row)
    lines = []
    for rank, method in sorted(cells, key=lambda cell: (cell[0], -ord(cell[1][0]), cell[1])):
        some, line = cells[rank, method], [str(rank), method]
        for field in fields.values():
            values = [row[field] * (1 if "loss" in field else 100) for row in some]
            form = "{:.2f}" if "loss" in field else "{:.0f}"
            text = form.format(sum(values) / len(values))
            spread = form.format(min(values)), form.format(max(values))
            line.append(text if spread[0] == spread[1] else f"{text} ({spread[0]} to {spread[1]})")
        lines.append(line)
    return table(["rank", "method", *fields], lines)


def rate_table(rows: list[dict]) -> str:
    cells = {(row["rank"], row["steps"], round(row["lr"], 3)): row["final_loss"] for row in rows}
    rates, lines = sorted({rate for _, _, rate in cells}), []
    for rank, steps in sorted({cell[:2] for cell in cells}):
        values = [cells.get((rank, steps, rate)) for rate in rates]
        lines.append([str(rank), f"{steps:,}", *("–" if v is None else f"{v:.3f}" for v in values)])
    return table(["rank", "steps", *(f"lr {rate:g}" for rate in rates)], lines)


def summary(fits: dict[str, list[Fit]]) -> str:
    """All tables, as Markdown."""
    shares = {"tokens right when decoding, %": "token_accuracy", "p > ½, %": "certified_fraction"}
    whole, parts = {"recited whole, %": "exact_match"}, []
    for name, group in fits.items():
        for fit in group:
            rows, law = rows_of(name), fit.law
            parts.append(
                f"## {name}: {fit.key['model']}, layer {fit.key['layer']}, {fit.key['method']}"
            )
            parts.append(
                f"{len(rows)} cells, {law.n} fitted, {law.n_saturated} saturated (final loss ≤ ln 2), "
                f"{fit.n_unconverged} of the fitted had not converged; {rows[0]['steps']:,} steps.\n"
            )
            parts.append(law_table(fit))
            if not fit.by_ratio:
                parts.append(
                    "\nFinal loss, nats per token:\n\n" + grid_table(rows, "final_loss", "{:.2f}")
                )
                bits = grid_table(rows, "memorized_bits_per_parameter", "{:.2f}")
                parts.append("\nMemorized bits per parameter:\n\n" + bits)
            parts.append(f"\n![{name}]({name}.png)\n")
    for name in METHODS:
        rows = rows_of(name)
        some = f"{rows[0]['length']} tokens in {rows[0]['memories']} memories, {rows[0]['steps']:,} steps"
        fields = (whole if rows[0]["memories"] > 1 else {}) | shares | {"final loss": "final_loss"}
        parts.append(f"## {name}: {rows[0]['model']}, {some}\n\n" + method_table(rows, fields))
        parts.append(f"\n![{name}]({name}.png)\n")
    for name in RULES:
        rows = rows_of(name)
        fields = {
            "learned pairs right, %": "exact_match",
            "held-out pairs right, %": "held_out_exact_match",
        }
        fields |= {"final loss": "final_loss", "held-out loss": "held_out_loss"}
        some = f"{rows[0]['memories']} pairs learned, {rows[0]['held_out_memories']} held out"
        parts.append(
            f"## {name}: {rows[0]['model']}, {some}\n\n" + method_table(rows, fields) + "\n"
        )
    for name in RATES:
        rows = rows_of(name)
        some = f"{rows[0]['model']}, {rows[0]['length']} random tokens, seed 0"
        parts.append(
            f"## {name}: {some}; final loss by learning rate\n\n" + rate_table(rows) + "\n"
        )
    return "\n".join([*parts, "![rates](rates.png)", ""])


def main() -> None:
    fits = fit_all()
    laws = {name: [fit.as_dict() for fit in group] for name, group in fits.items()}
    (HERE / "laws.json").write_text(json.dumps(laws, indent=1) + "\n", encoding="utf-8")
    page = HERE / "README.md"
    text = page.read_text(encoding="utf-8").split(MARK)[0]
    page.write_text(f"{text}{MARK}\n\n{summary(fits)}", encoding="utf-8")
    for name, group in fits.items():
        plot_law(group, HERE / f"{name}.png")
    for name in METHODS:
        plot_methods(rows_of(name), HERE / f"{name}.png")
    plot_convergence([row for name in RATES for row in rows_of(name)], HERE / "rates.png", DEFAULTS)


if __name__ == "__main__":
    main()
