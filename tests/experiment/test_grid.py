"""The grid: which cells there are, which of them train as one batch, and what is refused."""

import dataclasses
import itertools

import pytest

from tests.experiment.sweeps import RECIPE, WIDE, one_memory, toy_grid
from tests.toy import toy_memory
from tinymem.errors import DataError, RecipeError
from tinymem.experiment import grid as grids
from tinymem.experiment.grid import Cell
from tinymem.experiment.sweep import run_sweep


def grid_and_recipes() -> tuple[dict, dict]:
    grid = toy_grid(**WIDE)
    fields = ("rank", "method", "seed")
    recipes = {c: dataclasses.replace(RECIPE, **{f: getattr(c, f) for f in fields}) for c in grid}
    return grid, recipes


def test_cells_that_train_together_have_the_same_lengths(model, cells_in_batches):
    grid, recipes = grid_and_recipes()
    groups = grids.make_groups(model, grid, recipes)
    assert [len(group) for group in groups] == [12, 12]
    assert [{cell.length for cell in group} for group in groups] == [{4}, {6}]
    for options in ({"optimizer": "lbfgs"}, {"batch_size": 1}):
        alone = {cell: dataclasses.replace(recipe, **options) for cell, recipe in recipes.items()}
        assert [len(group) for group in grids.make_groups(model, grid, alone)] == [1] * 24


@pytest.mark.parametrize(("limit", "width"), [("memory", 5), ("speed", 3)])
def test_memory_and_speed_limit_the_size_of_a_group(
    model, cells_in_batches, monkeypatch, limit, width
):
    grid, recipes = grid_and_recipes()
    positions = 3 + 4 - 1
    if limit == "memory":
        each = grids.activation_bytes(model, 1, positions)
        monkeypatch.setattr(grids, "activation_budget", lambda device: width * each + each // 2)
    else:
        monkeypatch.setattr(grids, "CPU_WIDTH", width * positions * 32)
    groups = grids.make_groups(model, grid, recipes)
    assert max(map(len, groups)) <= width < 12 and len(groups[0]) >= width - 1
    assert sorted(map(str, itertools.chain(*groups))) == sorted(map(str, grid))
    one = grids.make_groups(model, dict(list(grid.items())[:2]), recipes, workers=2)
    assert [len(group) for group in one] == [1, 1]  # a group for each of two workers


def test_a_grid_that_cannot_run_is_refused_before_its_first_cell(model, tmp_path, trained):
    for axis in ("ranks", "lengths", "ratios", "methods", "seeds"):
        with pytest.raises(RecipeError, match=f"{axis} is empty"):
            toy_grid(**{axis: ()})
    for grid, message in (
        (toy_grid(ranks=(1, 33)), "rank is 33; at layers.1.mlp it can be 1 to 32"),
        (toy_grid(ranks=(1, 0)), "rank is 0"),
        (toy_grid(lengths=(4, 126)), "3 prompt tokens"),
        ({Cell(1, 0, None, "sft", 0): []}, "at least one"),
        (toy_grid(methods=("sft", "sgd")), "method is 'sgd'"),
        (toy_grid() | {Cell(1, 4, None, "sft", -1): one_memory(4, None, 0)}, "seed is -1"),
    ):
        with pytest.raises((RecipeError, DataError), match=message):
            run_sweep(model, grid, tmp_path / "grid", recipe=RECIPE)
    with pytest.raises(DataError, match="exceed the model's context"):
        run_sweep(model, toy_grid(), tmp_path / "grid", recipe=RECIPE, held_out=[toy_memory(126)])
    assert not trained and list(tmp_path.iterdir()) == []
