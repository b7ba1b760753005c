"""The page of a run: its verdict, its tokens, how they were learned, its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from .figures import report_fields, run_figures
from .page import write_page
from .report import describe_run, headline
from .tokens import Likeliest, course_data, token_data, trace_data

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..experiment.report import Result

SCRIPTS = "common.js", "tokens.js", "memories.js", "run.js"


def run_page(path: Path, result: Result, tokenizer: Tokenizer, likeliest: Likeliest = ()) -> None:
    """Writes the page of a run, also of one that was interrupted. Raises OSError.

    likeliest: for each target token, as tools/likeliest.py finds them, or empty.
    """
    report, training = result.report, result.training
    title, *more = Text.from_markup(headline(report)).plain.strip().splitlines()
    data = {
        "lines": more,
        "about": Text.from_markup(describe_run(report)).plain.splitlines(),
        "figures": run_figures(report),
        "fields": report_fields(report),
        "steps": report["steps"],
        "optimizer": report["optimizer"],
        "final_loss": report["final_loss"],
        "tokens": token_data(tokenizer, result.memories, result.verdict, likeliest),
        "trace": trace_data(training),
        "course": course_data(training),
    }
    write_page(path, title, SCRIPTS, data)
