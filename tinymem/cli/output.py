"""Where results go: a check of the places before anything is computed, and what is printed."""

import os
import shlex
from pathlib import Path

from ..errors import DataError
from ..files import json_text
from ..show.axes import figure
from ..show.report import stdout


def check_output(out: Path | None = None, plot: Path | None = None) -> None:
    """Raises DataError if one of the two could not be written, or no picture could be drawn."""
    for path in (out, plot):
        if path and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            problem = f"cannot be written; {path.parent} is not a folder with write access"
            raise DataError(f"{path}: {problem}")
    if plot:
        if plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise DataError(f"--plot {plot}: expected a name that ends in .png, .pdf or .svg")
        figure(1)


def print_json(value: object) -> None:
    print(json_text(value, indent=2))


def show_saved(out: Path, command: str) -> None:
    """Prints where a run or a sweep is, and a command that takes it: `… with: tinymem …`."""
    hint = command or "the report only, without a unit"
    hint += f" {shlex.quote(str(out))}" if "tinymem" in command else ""
    stdout.print(f"\nSaved in {out}; {hint}", soft_wrap=True, markup=False)
