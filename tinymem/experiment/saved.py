"""Runs on disk: a folder with report.json and the unit, whose header carries the report too.

A unit may come from a stranger, so what its header says is checked against the types of `Report`.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from unicodedata import category

from ..base.checkpoint import DTYPES
from ..base.model import Model
from ..data.memory import Memory
from ..errors import AdapterError, first_line
from ..files import json_text, write_text_atomically
from ..training.recipe import METHODS, OPTIMIZERS, Recipe
from ..training.record import ENDS
from ..unit.adapter import is_finite, read_header, save_adapter
from .report import Report, Result

REPORT = "report.json"
HINTS = get_type_hints(Report)
POSITIVE = ("rank", "length", "memories", "trainable_parameters")
ABSENT = {"optimizer": "adamw", "held_out_memories": 0}  # in reports from before there was a choice
CHOICES = {
    **{"status": ("ok", "diverged", "oom", "interrupted"), "dtype": tuple(DTYPES)},
    **{"method": METHODS, "optimizer": OPTIMIZERS, "ended": (*ENDS, None)},
}


def save_run(
    result: Result,
    model: Model,
    recipe: Recipe,
    folder: Path,
    command: Mapping[str, object] | None = None,
) -> bool:
    """Write the unit and then report.json, which is thus the sign that the run is complete.

    command: what the user asked for, to be compared when it is asked for again (resume.py).
    Returns whether there was a unit to write, one that was trained and is finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    usable = result.training.steps > 0 and is_finite(result.unit)
    if usable:
        memories = [asdict(m) for m in result.memories]
        about = {"memories": memories, "recipe": asdict(recipe), "report": result.report}
        save_adapter(result.unit, model, folder, **about)
    report = result.report if command is None else {**result.report, "command": command}
    write_text_atomically(folder / REPORT, json_text(report, indent=2) + "\n")
    return usable


def read_run(folder: Path) -> tuple[list[Memory], dict[str, Any]]:
    """The memories and the report of a saved run; fields that its version did not have are None.

    Raises AdapterError if the folder holds none, or if its header is not one that tinymem writes.
    """
    about = read_header(folder)
    recipe = about.get("recipe", {})
    try:
        memories, report = [Memory(**fields) for fields in about["memories"]], about["report"]
        if not memories or not isinstance(report, dict):
            raise KeyError("memories")
        check_report(report := {name: report.get(name, ABSENT.get(name)) for name in HINTS})
        Recipe(**{f.name: recipe[f.name] for f in fields(Recipe) if f.name in recipe})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        problem = "the unit carries no memory to recall; was it saved by tinymem?"
        if isinstance(error, ValueError):
            problem = f"its header is damaged ({first_line(error):.200}); do not trust this unit"
        raise AdapterError(f"{folder}: {problem}") from error
    return memories, report


def check_report(report: Mapping[str, Any]) -> None:
    """Raises ValueError with the first field that no run of tinymem could have written."""
    for entry in fields(Report):
        value, unit = report[entry.name], entry.metadata["unit"]
        valid = fits(value, HINTS[entry.name]) and value in CHOICES.get(entry.name, (value,))
        valid = valid and not (entry.name in POSITIVE and value < 1)
        valid = valid and not (unit == "0 to 1" and value is not None and not 0 <= value <= 1)
        if not valid:
            raise ValueError(f"the report's {entry.name} is {value!r:.60}")
    if not re.fullmatch(r"[\w.,]+", report["site"]):
        raise ValueError(f"the report's site is {report['site']!r:.60}")
    if report["held_out_memories"] and report["held_out_exact_match"] is None:
        raise ValueError("the report's held_out_exact_match is None")


def fits(value: object, kind: object) -> bool:
    """Whether a value from a file is of this type, one of those in `Report`, and not absurd."""
    if get_origin(kind) is list:
        (part,) = get_args(kind)
        return isinstance(value, list) and len(value) < 1000 and all(fits(v, part) for v in value)
    if parts := get_args(kind):  # of a union
        return any(fits(value, part) for part in parts)
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e30  # type: ignore[arg-type]
    if kind is int:
        return type(value) is int and 0 <= value < 2**63
    if kind is str and isinstance(value, str):
        return len(value) < 5000 and not any(category(letter)[0] == "C" for letter in value)
    return type(value) is kind
