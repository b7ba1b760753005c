"""The cells of a sweep, what each of them is to remember, and which of them train together."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..base.model import Model
from ..data.memory import Memory, check_fits
from ..errors import RecipeError
from ..training.prefix import activation_budget, activation_bytes
from ..training.recipe import Recipe
from ..unit.sites import layer_of, unit_shapes

AXES = ("rank", "length", "ratio", "method", "seed")
CPU_WIDTH = 1 << 18  # values of hidden states: beyond, a CPU's matrix products get no faster


@dataclass(frozen=True)
class Cell:
    """One experiment of the grid. ratio is None where the memories do not state theirs."""

    rank: int
    length: int
    ratio: int | None
    method: str
    seed: int


Grid = Mapping[Cell, Sequence[Memory]]


def make_grid(
    memories: Callable[[int | None, int | None, int], list[Memory]],
    *,
    ranks: Sequence[int],
    lengths: Sequence[int | None],
    ratios: Sequence[int | None] = (None,),
    methods: Sequence[str] = ("sft",),
    seeds: Sequence[int] = (0,),
) -> dict[Cell, list[Memory]]:
    """The cells of ranks × lengths × ratios × methods × seeds, each with its memories.

    memories: from (length, ratio, seed), the memories of that many target tokens.
    """
    axes = dict(ranks=ranks, lengths=lengths, ratios=ratios, methods=methods, seeds=seeds)
    for name, values in axes.items():
        if not values:
            raise RecipeError(f"{name} is empty; name at least one")
    grid = {}
    for seed, asked, length in itertools.product(seeds, ratios, lengths):
        targets = memories(length, asked, seed)
        shares = {m.ratio for m in targets}
        ratio = shares.pop() if len(shares) == 1 else None
        for method, rank in itertools.product(methods, ranks):
            grid[Cell(rank, sum(m.length for m in targets), ratio, method, seed)] = targets
    return grid


def check_grid(grid: Grid, held_out: Sequence[Memory], shapes: Model) -> None:
    """Raises DataError if memories do not fit the model, whose shapes are enough."""
    for memories in (*grid.values(), *filter(None, [held_out])):
        check_fits(memories, shapes.config)


def make_groups(
    model: Model, grid: Grid, recipes: Mapping[Cell, Recipe], workers: int = 1
) -> list[list[Cell]]:
    """Groups cells that can train as one batch: as many as fit in memory and still speed it up.

    There are at least as many groups of a kind as there are workers (or cells).
    """
    kinds: dict[object, list[Cell]] = {}
    for cell, memories in grid.items():
        kinds.setdefault(recipes[cell].batch_key(memories) or cell, []).append(cell)
    groups: list[list[Cell]] = []
    for cells in kinds.values():
        memories, recipe = grid[cells[0]], recipes[cells[0]]
        positions = len(memories) * max(len(m.prompt_ids) + m.length - 1 for m in memories)
        paths = unit_shapes(model, recipe.rank, recipe.sites, recipe.layers)
        needed = activation_bytes(model, min(map(layer_of, paths)), positions)
        width = activation_budget(model.device) // needed
        if model.device.type == "cpu":  # a kill would also lose more cells at once
            width = min(width, CPU_WIDTH // (positions * model.config.hidden_size))
        count = max(-(-len(cells) // max(width, 1)), min(workers, len(cells)))
        ends = [len(cells) * n // count for n in range(count + 1)]
        groups += [cells[start:end] for start, end in itertools.pairwise(ends)]
    return groups


def cost_of(memories: Sequence[Memory]) -> int:
    """What the time of a step is about proportional to: its positions, and a constant."""
    return 30 + sum(len(m.prompt_ids) + m.length for m in memories)
