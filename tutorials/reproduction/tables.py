"""Reads the recorded rows, and turns rows and laws into Markdown tables."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from tinymem.experiment.rows import read_rows
from tinymem.law.bits import BitsLaw
from tinymem.law.fit import Fit
from tinymem.law.power import CONSTANTS, Law

HERE = Path(__file__).parent


def rows_of(name: str) -> list[dict]:
    """The rows of a record. "tiny-from-64" is the part of "tiny" with at least 64 tokens."""
    path = HERE / "rows" / f"{name.removesuffix('-from-64')}.jsonl"
    rows = read_rows(path)[0]
    return [row for row in rows if name != "tiny-from-64" or row["length"] >= 64]


def table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def with_interval(symbol: str, value: float, ends: tuple[float, float], digits: int = 2) -> str:
    return f"{symbol} {value:.{digits}f} ({ends[0]:.2f} to {ends[1]:.2f})"


def power_constants(law: Law) -> str:
    """The constants with their intervals. A b that is fixed at 0 is left out."""
    symbols = zip(CONSTANTS, ("C", "α", "β", "b"), law.constants, strict=True)
    return "; ".join(
        with_interval(symbol, value, law.ci[name])
        for name, symbol, value in symbols
        if law.ci[name] != (0, 0)
    )


def law_table(fit: Fit, with_b: Law | None) -> str:
    """The laws of a grid side by side: those of the fit, and one with an offset b."""
    laws: list[tuple[str, str, Law | BitsLaw]] = [
        ("power law", power_constants(fit.law), fit.law),
        *([("power law with b", power_constants(with_b), with_b)] if with_b else []),
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
