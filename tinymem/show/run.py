"""The page of a run: its verdict, its tokens, how they were learned, its numbers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ..experiment.report import Report
from .page import write_page
from .report import Row, describe_run, headline, number
from .tokens import Likeliest, course_data, token_data, trace_data

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..experiment.report import Result

SCRIPTS = ("common.js", "tokens.js", "run.js")


def run_page(path: Path, result: Result, tokenizer: Tokenizer, likeliest: Likeliest = ()) -> None:
    """Writes the page of a run, also of one that was interrupted. Raises OSError.

    likeliest: for each target token, as tools/likeliest.py finds them, or empty.
    """
    report, training = result.report, result.training
    title, *more = Text.from_markup(headline(report)).plain.strip().splitlines()
    data = {
        "lines": more,
        "about": Text.from_markup(describe_run(report)).plain.splitlines(),
        "figures": figures(report),
        "fields": report_fields(report),
        "steps": report["steps"],
        "optimizer": report["optimizer"],
        "final_loss": report["final_loss"],
        "tokens": token_data(tokenizer, result.memories, result.verdict, likeliest),
        "trace": trace_data(training),
        "course": course_data(training),
    }
    write_page(path, title, SCRIPTS, data)


def figures(report: Row) -> list[list[str]]:
    """The numbers that matter most: name, value and a note, each as text."""
    length = report["length"]
    rows = [["steps", f"{report['steps']:,}", f"{report['wall_seconds']:,.1f} s"]]
    before, after = report["base_loss"], report["final_loss"]
    note = f"nats per token, from {number(before)} without the unit"
    rows.append(["loss", number(after), note])
    if report["certified_fraction"] is None:
        return rows
    error = report["first_error"]
    shares = {
        "margin > 0": ("argmax_accuracy", f"lowest {number(report['min_margin'])} logits"),
        "p > ½": ("certified_fraction", f"lowest p {number(report['min_probability'])}"),
        "right when decoding": (
            "token_accuracy",
            "recall is exact" if error is None else f"first error at position {error}",
        ),
    }
    for name, (field, note) in shares.items():
        rows.append([name, f"{round(report[field] * length):,} of {length:,} tokens", note])
    prefixes = {"stored": "", "memorized": "memorized_", "recited": "calibrated_"}
    if report["readout_temperature"] is not None:
        del prefixes["recited"]
    for name, prefix in prefixes.items():
        if (bits := report[f"{prefix}bits_per_parameter"]) is not None:
            total = f"{bits * report['trainable_parameters']:,.0f} bits"
            rows.append([name, f"{bits:.2f}", f"bits per parameter, {total}"])
    for name, prefix, least in (("memories", "", 2), ("held out", "held_out_", 1)):
        if (count := report[f"{prefix}memories"]) >= least:
            whole = round(count * report[f"{prefix}exact_match"])
            loss = number(report[f"{prefix}loss"]) if prefix else ""
            note = f"recited whole, loss {loss} nats per token" if loss else "recited whole"
            rows.append([name, f"{whole:,} of {count:,}", note])
    return rows


def report_fields(report: Row) -> list[list[Any]]:
    """Every field of the report: name, value, unit and meaning."""
    about = {one.name: one.metadata for one in fields(Report)}
    return [
        [name, value, *(about[name].get(what, "") for what in ("unit", "meaning"))]
        for name, value in report.items()
    ]
