"""Measures tinymem, its peers and the floor; prints a table and writes JSON.

python -m tests.benchmarks --model FOLDER --json results.json    14 minutes on two cores
python -m tests.benchmarks --model FOLDER --device cuda          all work and checks for a GPU
python -m tests.benchmarks --quick                               a short test; figures mean nothing

FOLDER is a checkpoint of SmolLM2-135M. Without it only the small models are measured.
"""

import argparse
import gc
import json
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import transformers
from rich.console import Console
from rich.table import Table

from .measure import Row, Rows, about_machine, versions
from .plans import QUICK, WORKS, Sizes, on_the_cpu, on_the_gpu


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    works = ", ".join(WORKS)
    parser.add_argument("--only", default=",".join(WORKS), help=f"a comma list of {works}")
    parser.add_argument("--model", metavar="FOLDER", help="a checkpoint of SmolLM2-135M")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--json", metavar="FILE", type=Path)
    parser.add_argument("--quick", action="store_true", help="small sizes, few repetitions")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(WORKS):
        parser.error(f"--only: unknown work {', '.join(sorted(unknown))}; choose from {works}")
    return options


def write(rows: Rows, options: argparse.Namespace) -> None:
    if options.json is None:
        return
    settings = {"device": options.device, "quick": options.quick, "only": options.only}
    document = {"machine": about_machine(), "versions": versions(), "settings": settings}
    document["rows"] = [asdict(row) | {"met": row.met} for row in rows]
    options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    if unit == "s" and value < 1:
        return f"{1000 * value:,.3g} ms"
    return f"{value:,.4g} {unit}"


def show(rows: list[Row], console: Console) -> None:
    """A table with one line for each measurement, grouped by work, and numbered notes below it."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("work", "model", "case", "against"):
        table.add_column(name)
    for name in ("tinymem", "other", "value", "target", "met", "note"):
        table.add_column(name, justify="right", no_wrap=True)
    notes: list[str] = []
    for row in rows:
        goal = "" if row.target is None else f"{'≤' if row.at_most else '≥'} {row.target:.3g}"
        met = {None: "", True: "[green]yes[/]", False: "[bold red]NO[/]"}[row.met]
        value = "–" if row.value is None else f"{row.value:.3g}"
        if row.note and row.note not in notes:
            notes.append(row.note)
        mark = str(notes.index(row.note) + 1) if row.note else ""
        numbers = amount(row.ours, row.unit), amount(row.theirs, row.unit)
        table.add_row(row.work, row.model, row.case, row.against, *numbers, value, goal, met, mark)
    console.print(table)
    for number, note in enumerate(notes, start=1):
        console.print(f"{number}  {note}", markup=False, highlight=False)
    judged = [row.met for row in rows if row.met is not None]
    unmeasured = sum(row.value is None for row in rows)
    met = f"{sum(judged)} of {len(judged)} measured targets are met"
    console.print(f"{met}; {unmeasured} lines were not measured")


def main() -> int:
    options = parse()
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows, failed = Rows(), False
    plan = on_the_gpu if options.device == "cuda" else on_the_cpu
    for work, model, do in plan(rows, options.model, QUICK if options.quick else Sizes()):
        if work not in options.only:
            continue
        try:
            do()
        except Exception as error:  # the other works can still be measured
            rows.skip(work, model, "", f"failed, {type(error).__name__}: {error}")
            failed = True
        del do
        gc.collect()
        write(rows, options)
    rows.sort(key=lambda row: WORKS.index(row.work))
    write(rows, options)
    console = Console(width=None if sys.stdout.isatty() else 140)
    machine = about_machine()
    about = f"{machine['gpu'] or machine['cpu']}, {machine['threads']} threads; {versions()}"
    console.print(about, style="dim")
    if options.quick:
        console.print("--quick: sizes and repetitions are too small to quote", style="yellow")
    show(rows, console)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
