"""A grid of experiments that can be killed and started again.

Every finished cell is one row of `results.jsonl`, complete in itself: the report of the run, and
the `setting`, which is everything that decides a run beside the five axes, with its hash. Starting
again does what is missing. Rows of another setting are never mixed in: they are refused, with the
difference.

Cells whose memories have the same lengths train together, as one batch. Several workers (torchrun)
take these groups one after the other; each appends its own rows to the one file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..base.model import Model
from ..base.progress import SILENT, Progress, bars_in_notebooks
from ..data.memory import Memory
from ..errors import RecipeError
from ..training.recipe import Recipe
from ..unit.adapter import base_hash
from ..unit.sites import unit_shapes
from .grid import AXES, Cell, Grid, check_grid, cost_of, make_groups
from .probe import memorize_together
from .report import place_of
from .rows import RESULTS, append_row, hash_of, read_rows
from .saved import ABSENT, HINTS, check_report
from .workers import Workers, lock


def make_setting(model: Model, recipe: Recipe, source: Mapping[str, object]) -> dict[str, Any]:
    """Everything that decides a row beside the axes: base weights, recipe, source of memories."""
    fixed = {k: v for k, v in asdict(recipe).items() if k not in AXES}
    fixed["lr"] = recipe.learning_rate(model)
    base = {"base": base_hash(model), "dtype": place_of(model)["dtype"]}
    # As it will be read again, which makes lists of tuples.
    return dict(json.loads(json.dumps(base | fixed | dict(source))))


# Settings that early rows do not name, as they were then.
EARLIER = {"optimizer": "adamw", "stop_when_recited": False, "stop_when_still": False}


def finished_cells(rows: Sequence[dict], setting: dict[str, Any]) -> dict[Cell, dict[str, Any]]:
    """The cells that `rows` already hold.

    Raises RecipeError, with the difference, if a row was made under another setting.
    """
    done = {}
    for row in rows:
        where, theirs = row["_where"], row.get("setting") or {}
        whole = isinstance(theirs, dict) and {*AXES, "setting_hash"} <= set(row)
        if not whole or row["setting_hash"] != hash_of(theirs):
            raise RecipeError(f"{where}: not a row of a sweep by tinymem; choose another --out")
        try:
            report = {name: row.get(name, ABSENT.get(name)) for name in HINTS}
            check_report({name: without_point(value) for name, value in report.items()})
        except ValueError as error:
            raise RecipeError(f"{where}: {error}; take that line out") from error
        theirs = EARLIER | theirs
        names = [n for n in {**theirs, **setting} if theirs.get(n) != setting.get(n)]
        was = "; ".join(f"{n} was {theirs.get(n)!r}, is {setting.get(n)!r}" for n in names)
        if names:
            raise RecipeError(f"{where}: made under another setting: {was}; choose another --out")
        done[Cell(*(row[axis] for axis in AXES))] = {k: v for k, v in row.items() if k != "_where"}
    return done


def without_point(value: object) -> object:
    """8.0 as 8, because tables that are written as JSON lose the difference."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


@bars_in_notebooks
def run_sweep(
    model: Model,
    grid: Grid,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    source: Mapping[str, object] | None = None,
    held_out: Sequence[Memory] = (),
    workers: Workers | None = None,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """Run the cells that `folder` does not hold yet; returns all rows of the grid, in its order.

    recipe: everything but rank, method and seed, which are the cells'.
    source: what else tells these memories from others (hash of a file, prompt); kept in each row.

    A cell that diverges or runs out of memory is a row with that status. Ctrl-C raises
    KeyboardInterrupt and loses only the cells that are training at that moment.

    Raises RecipeError or DataError before any training: for ranks and memories that do not fit, a
    folder that another sweep writes to, rows made under another setting.
    """
    recipe, workers = recipe or Recipe(), workers or Workers()
    check_grid(grid, held_out, model)
    recipes = {}
    for cell in grid:
        unit_shapes(model, cell.rank, recipe.sites, recipe.layers)
        recipes[cell] = replace(recipe, rank=cell.rank, method=cell.method, seed=cell.seed)
    setting = make_setting(model, recipe, source or {})
    options: Any = {"held_out": held_out, "progress": progress}
    with lock(folder, workers.rank == 0):
        results = folder / RESULTS
        rows, torn = read_rows(results) if results.exists() else ([], [])
        done = finished_cells(rows, setting)
        for message in torn:
            progress.warn(message)
        workers.wait()  # all have read before one writes
        todo = {cell: memories for cell, memories in grid.items() if cell not in done}
        progress.sweep(len(grid) - len(todo), len(grid), sum(map(cost_of, todo.values())))
        for group in workers.take(make_groups(model, todo, recipes, workers.count)):
            cost = sum(cost_of(grid[cell]) for cell in group)
            progress.group(label_of(group), workers.add("cost", 0), cost)
            for cell, report in run_cells(model, group, grid, recipes, **options):
                if report["status"] == "interrupted":
                    raise KeyboardInterrupt
                row = report | {"setting_hash": hash_of(setting), "setting": setting}
                append_row(results, row)
                progress.cell(row, workers.add("cost", cost_of(grid[cell])))
        workers.wait()
        done = finished_cells(read_rows(results)[0], setting) if results.exists() else {}
    return [done[cell] for cell in grid if cell in done]


def label_of(cells: Sequence[Cell]) -> str:
    """A group of cells in a few words, for the progress bar."""
    one = cells[0]
    what = f"rank {one.rank}, {one.method}" if len(cells) == 1 else f"{len(cells)} cells"
    return f"length {one.length}, {what}"


def run_cells(
    model: Model, cells: Sequence[Cell], grid: Grid, recipes: Mapping[Cell, Recipe], **options: Any
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Trains cells as one batch, and yields each cell's report; options: of `memorize_together`.

    Where memory is short, it tries again with half of the cells at a time.
    """
    own, how = [grid[cell] for cell in cells], [recipes[cell] for cell in cells]
    results = memorize_together(model, own, how, **options)
    reports = {cell: result.report for cell, result in zip(cells, results, strict=True)}
    short = [cell for cell in cells if reports[cell]["status"] == "oom"]
    if short and model.device.type == "cuda":
        torch.cuda.empty_cache()
    again = short if len(cells) > 1 else []
    yield from ((cell, reports[cell]) for cell in cells if cell not in again)
    for part in filter(None, (again[::2], again[1::2])):
        yield from run_cells(model, part, grid, recipes, **options)
