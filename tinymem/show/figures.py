"""The numbers of a report that a page shows large, and the table of all its fields."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..experiment.report import Report
from .report import Row, kinds_of_bits, number

Figures = list[list[str]]  # name, value and note of each, as text
NOTHING = {"unit": "", "meaning": ""}  # what is said about a field that is not of a run


def run_figures(report: Row) -> Figures:
    """Those of a run."""
    return [
        ["steps", f"{report['steps']:,}", f"{report['wall_seconds']:,.1f} s"],
        loss_figure(report, "unit"),
        *verdict_figures(report),
        *bits_figures(report),
        *memories_figure(report),
        *held_out_figure(report),
    ]


def loss_figure(report: Row, without: str) -> list[str]:
    """The loss, and that without the unit or the adapter, where it is known."""
    before = report["base_loss"]
    if report["final_loss"] is None:  # not judged
        return ["loss", number(before), f"nats per token without the {without}"]
    start = "" if before is None else f", from {number(before)} without the {without}"
    return ["loss", number(report["final_loss"]), f"nats per token{start}"]


def verdict_figures(report: Row) -> Figures:
    """How many tokens are recited, certified, and right when decoding; none without a verdict."""
    if report["certified_fraction"] is None:
        return []
    error, length = report["first_error"], report["length"]
    recall = "recall is exact" if error is None else f"first error at position {error}"
    shares = {
        "margin > 0": ("argmax_accuracy", f"lowest {number(report['min_margin'])} logits"),
        "p > ½": ("certified_fraction", f"lowest p {number(report['min_probability'])}"),
        "right when decoding": ("token_accuracy", recall),
    }
    rows = []
    for name, (field, note) in shares.items():
        tokens = "token" if length == 1 else "tokens"
        rows.append([name, f"{round(report[field] * length):,} of {length:,} {tokens}", note])
    return rows


def bits_figures(report: Row) -> Figures:
    """Bits of each kind that is known."""
    kinds = kinds_of_bits(report)
    return [[name, f"{bits:.2f}", f"bits per parameter, {total}"] for name, bits, total in kinds]


def memories_figure(report: Row) -> Figures:
    """How many memories are recited whole, where there are several."""
    if (count := report["memories"]) is None or count < 2 or report["exact_match"] is None:
        return []
    whole = round(count * report["exact_match"])
    return [["memories", f"{whole:,} of {count:,}", "recited whole"]]


def held_out_figure(report: Row) -> Figures:
    """How many memories are recited that were not trained on, if there are any."""
    if (count := report["held_out_memories"]) == 0:
        return []
    whole = round(count * report["held_out_exact_match"])
    right = f"{100 * report['held_out_token_accuracy']:.0f} % of their tokens are decoded right"
    note = f"recited whole; {right}; loss {number(report['held_out_loss'])} nats per token"
    return [["held out", f"{whole:,} of {count:,}", note]]


def report_fields(report: Row) -> list[list[Any]]:
    """Name, value, unit and meaning of every field that is one value or a list of numbers."""
    about = {one.name: one.metadata for one in fields(Report)}
    rows = []
    for name, value in report.items():
        nested = isinstance(value, dict) or (isinstance(value, list) and name != "layer")
        if not nested:
            rows.append([name, value, *(about.get(name, NOTHING)[key] for key in NOTHING)])
    return rows
