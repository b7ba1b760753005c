"""A grid of experiments that can be killed and started again: ranks × lengths × ratios × methods × seeds.

Every finished cell is one row of `results.jsonl`, complete in itself: the report of the run, and the
`setting`, everything that decides a run beside the five axes, with its hash. Starting again does what
is missing. Rows of another setting are never mixed in: they are refused, with the difference.

Cells whose memories have the same lengths train together, as one batch (train.py). Several workers
(torchrun) take these groups from one counter, so that each does the next as soon as it is free; every one
appends its own rows to the one file.
"""

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from ..base.model import Model
from ..data.memory import Memory, check_fits
from ..errors import DataError, RecipeError
from ..training.prefix import activations, room
from ..training.recipe import Recipe
from ..unit.adapter import base_hash
from ..unit.sites import layer_of, plan_unit
from .probe import Result, memorize_together
from .rows import RESULTS, append_row, read_rows

WIDE = 1 << 18  # numbers in the hidden states: a CPU's matrix products get no faster beyond that
AXES = ("rank", "length", "ratio", "method", "seed")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One experiment of the grid. ratio is None where the memories do not say theirs."""

    rank: int
    length: int
    ratio: int | None
    method: str
    seed: int


class Silent:
    """Follows a sweep and says nothing; show.GridBars has the same methods and shows something."""

    def start(self, done: int, todo: int, cost: int) -> None: ...
    def torn(self, note: str) -> None: ...
    def metrics(self, cells: Sequence[Cell], cost: float, loss: float, share: float) -> None: ...
    def row(self, row: dict, cost: int) -> None: ...


def make_grid(
    memories: Callable[[int | None, int | None, int], list[Memory]],
    *,
    ranks: Sequence[int],
    lengths: Sequence[int | None],
    ratios: Sequence[int | None] = (None,),
    methods: Sequence[str] = ("sft",),
    seeds: Sequence[int] = (0,),
) -> dict[Cell, list[Memory]]:
    """The cells and what each is to remember; a cell that comes twice is there once.

    memories: from (length, ratio, seed), the memories of that many target tokens.
    """
    axes = {
        "ranks": ranks,
        "lengths": lengths,
        "ratios": ratios,
        "methods": methods,
        "seeds": seeds,
    }
    for name, values in axes.items():
        if not values:
            raise RecipeError(f"{name} is empty; name at least one")
    grid = {}
    for seed, ratio, length in itertools.product(seeds, ratios, lengths):
        targets = memories(length, ratio, seed)
        share = {m.ratio for m in targets}
        share = share.pop() if len(share) == 1 else None
        for method, rank in itertools.product(methods, ranks):
            grid[Cell(rank, sum(m.length for m in targets), share, method, seed)] = targets
    return grid


def make_setting(model: Model, recipe: Recipe, source: Mapping[str, object]) -> dict:
    """Everything that decides a row beside the axes: base weights, recipe, and where memories come from."""
    fixed = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in AXES}
    fixed["lr"] = recipe.learning_rate(model)
    setting = (
        {"base": base_hash(model), "dtype": str(model.dtype).removeprefix("torch.")}
        | fixed
        | dict(source)
    )
    return json.loads(json.dumps(setting))  # as it will be read again: tuples are lists


def hash_of(setting: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:16]


def finished_cells(rows: Sequence[dict], setting: dict) -> dict[Cell, dict]:
    """The cells that `rows` hold already.

    Raises RecipeError, with the difference, if a row was made under another setting.
    """
    done = {}
    for row in rows:
        theirs = row.get("setting")
        known = isinstance(theirs, dict) and row.get("setting_hash") == hash_of(theirs)
        theirs = {"optimizer": "adamw"} | theirs if known else theirs  # the only one, once
        if not known or not set(AXES) <= set(row):
            raise RecipeError(
                f"{row['_where']}: not a row of a sweep by tinymem; choose another --out"
            )
        if theirs != setting:
            names = [
                name for name in {**theirs, **setting} if theirs.get(name) != setting.get(name)
            ]
            was = "; ".join(f"{n} was {theirs.get(n)!r}, is {setting.get(n)!r}" for n in names)
            raise RecipeError(
                f"{row['_where']}: made under another setting: {was}; choose another --out"
            )
        done[Cell(*(row[axis] for axis in AXES))] = row
    return done


def make_groups(
    model: Model,
    grid: Mapping[Cell, Sequence[Memory]],
    recipes: Mapping[Cell, Recipe],
    workers: int = 1,
) -> list[list[Cell]]:
    """The grid's cells, those together that train together: as many as memory allows, and as gain by it.

    On a CPU a wider batch soon gains nothing, and would only be lost by a kill.
    """
    kinds: dict[object, list[Cell]] = {}
    for cell, memories in grid.items():
        kinds.setdefault(recipes[cell].companions(memories) or cell, []).append(cell)
    groups = []
    for cells in kinds.values():
        memories, recipe = grid[cells[0]], recipes[cells[0]]
        positions = len(memories) * max(len(m.prompt_ids) + m.length - 1 for m in memories)
        start = min(map(layer_of, plan_unit(model, recipe.rank, recipe.sites, recipe.layers)))
        width = room(model.device) // activations(model, start, positions)
        if model.device.type == "cpu":
            width = min(width, WIDE // (positions * model.config.hidden_size))
        count = max(
            -(-len(cells) // max(width, 1)), min(workers, len(cells))
        )  # groups, of equal size
        groups += [
            cells[len(cells) * n // count : len(cells) * (n + 1) // count] for n in range(count)
        ]
    return groups


class Workers:
    """This process among those that share a sweep: alone, or one of torchrun's."""

    def __init__(self):
        self.rank, self.count, self.store, self.sweeps = 0, 1, None, 0
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            self.store, self.rank, self.count = next(torch.distributed.rendezvous("env://"))
            options = {"store": self.store, "rank": self.rank, "world_size": self.count}
            options["timeout"] = timedelta(days=365)  # `wait` is as long as the others' last cells
            torch.distributed.init_process_group("gloo", **options)

    def device(self, name: str) -> str:
        """For "auto" or "cuda": this worker's own GPU, where there are any."""
        number = int(os.environ.get("LOCAL_RANK", 0))
        return f"cuda:{number}" if torch.cuda.is_available() else name

    def take(self, groups: Sequence[Sequence[Cell]]) -> Iterator[Sequence[Cell]]:
        """The groups in order, each to the worker that is free first."""
        if self.store is None:
            yield from groups
            return
        self.sweeps += 1  # each has a counter of its own
        while (number := self.store.add(f"taken {self.sweeps}", 1) - 1) < len(groups):
            yield groups[number]

    def add_cost(self, cost: int) -> int:
        """Adds to the cost that all workers have done, and returns it."""
        if self.store is None:
            self.cost = getattr(self, "cost", 0) + cost
            return self.cost
        return self.store.add("cost", cost)

    def wait(self) -> None:
        """Until all workers are here."""
        if self.store is not None:
            torch.distributed.barrier()


@contextmanager
def lock(folder: Path, workers: Workers) -> Iterator[None]:
    """The folder is this sweep's alone; the lock goes with the process, even when it is killed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RecipeError(f"--out {folder}: is a file, or within one; choose a folder") from error
    if workers.rank > 0:  # the first one holds it for all
        yield
        return
    held = FileLock(folder / ".lock")
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise RecipeError(
            f"--out {folder}: another sweep is writing there; wait for it, or stop it"
        ) from None
    try:
        yield
    finally:
        held.release()


def cost_of(memories: Sequence[Memory]) -> int:
    """Positions a step computes, and a constant: what the time of a step goes by."""
    return 30 + sum(len(m.prompt_ids) + m.length for m in memories)


def run_sweep(
    model: Model,
    grid: Mapping[Cell, Sequence[Memory]],
    folder: Path,
    *,
    recipe: Recipe | None = None,
    source: Mapping[str, object] | None = None,
    held_out: Sequence[Memory] = (),
    workers: Workers | None = None,
    progress: Silent | None = None,
) -> list[dict]:
    """Run the cells that `folder` does not hold yet; returns the rows of the whole grid, in its order.

    recipe: all but rank, method and seed, which are the cells'.
    source: what else tells these memories from others (a file's hash, the prompt); kept in each row.

    A cell that diverges or runs out of memory is a row with that status. Ctrl-C raises
    KeyboardInterrupt and loses the cells in flight alone: those that train together now.

    Raises RecipeError or DataError before anything is trained: ranks and memories that do not fit, a
    folder another sweep writes to, rows made under another setting.
    """
    recipe, workers = recipe or Recipe(), workers or Workers()
    progress = progress or Silent()
    check_room(grid, model)
    recipes = {}
    for cell in grid:
        plan_unit(model, cell.rank, recipe.sites, recipe.layers)
        recipes[cell] = dataclasses.replace(
            recipe, rank=cell.rank, method=cell.method, seed=cell.seed
        )
    if held_out:
        check_fits(held_out, model.config)
    setting = make_setting(model, recipe, source or {})
    with lock(folder, workers):
        results = folder / RESULTS
        rows, torn = read_rows(results) if results.exists() else ([], [])
        done = finished_cells(rows, setting)
        for note in torn:
            progress.torn(note)
        workers.wait()  # all have read before one writes
        todo = {cell: memories for cell, memories in grid.items() if cell not in done}
        progress.start(len(grid) - len(todo), len(todo), sum(map(cost_of, todo.values())))

        def on_metrics(cells: Sequence[Cell], part: float, loss: float, share: float) -> None:
            cost = part * sum(cost_of(grid[cell]) for cell in cells)
            progress.metrics(cells, workers.add_cost(0) + cost, loss, share)

        for group in workers.take(make_groups(model, todo, recipes, workers.count)):
            for cell, result in run_cells(model, group, grid, recipes, held_out, on_metrics):
                if result.report["status"] == "interrupted":
                    raise KeyboardInterrupt
                row = result.report | {"setting_hash": hash_of(setting), "setting": setting}
                append_row(results, row)
                progress.row(row, workers.add_cost(cost_of(grid[cell])))
        workers.wait()
        rows = finished_cells(read_rows(results)[0], setting) if results.exists() else {}
        return [rows[cell] for cell in grid if cell in rows]


def run_cells(
    model: Model,
    cells: Sequence[Cell],
    grid: Mapping[Cell, Sequence[Memory]],
    recipes: Mapping[Cell, Recipe],
    held_out: Sequence[Memory],
    on_metrics: Callable[[Sequence[Cell], float, float, float], None],
) -> Iterator[tuple[Cell, Result]]:
    """Cells that train together, and the result of each; where memory is short, half of them at a time."""
    results = memorize_together(
        model,
        [grid[cell] for cell in cells],
        [recipes[cell] for cell in cells],
        held_out=held_out,
        on_metrics=lambda *metrics: on_metrics(cells, *metrics),
    )
    short = [cell for cell, r in zip(cells, results, strict=True) if r.report["status"] == "oom"]
    for cell, result in zip(cells, results, strict=True):
        if cell not in short or len(cells) == 1:
            yield cell, result
    if short and model.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(cells) > 1:
        half = -(-len(short) // 2)
        for part in (short[:half], short[half:]):
            if part:
                yield from run_cells(model, part, grid, recipes, held_out, on_metrics)


def check_room(grid: Mapping[Cell, Sequence[Memory]], shapes: Model) -> None:
    """Raises DataError if a cell's memories do not fit the model, of which shapes are enough."""
    for cell, memories in grid.items():
        try:
            check_fits(memories, shapes.config)
        except DataError as error:
            raise DataError(f"length {cell.length}: {error}") from error
