"""Fixtures of the tests of sweeps: a small model, cells one at a time or in batches, known rows."""

import pytest

from tests.experiment.sweeps import RECIPE, SMALL, rows_of, sort_rows, toy_grid
from tests.toy import toy_model
from tinymem.experiment import grid as grids, sweep
from tinymem.experiment.grid import Cell
from tinymem.experiment.probe import memorize_together
from tinymem.experiment.sweep import run_sweep


@pytest.fixture(autouse=True)
def one_cell_at_a_time(monkeypatch):
    """One process, and each cell a batch of its own, so that rows equal those of single runs."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(grids, "CPU_WIDTH", 0)


@pytest.fixture
def cells_in_batches(one_cell_at_a_time, monkeypatch):
    monkeypatch.setattr(grids, "CPU_WIDTH", 1 << 18)


@pytest.fixture(scope="session")
def model():
    return toy_model(**SMALL)


@pytest.fixture
def trained(monkeypatch) -> list[Cell]:
    """The cells that are trained, in order; they are added while the test runs."""
    cells = []

    def record(model, memories, recipes, **options):
        for own, recipe in zip(memories, recipes, strict=True):
            length = sum(m.length for m in own)
            cells.append(Cell(recipe.rank, length, own[0].ratio, recipe.method, recipe.seed))
        return memorize_together(model, memories, recipes, **options)

    monkeypatch.setattr(sweep, "memorize_together", record)
    return cells


@pytest.fixture(scope="session")
def uninterrupted(model, tmp_path_factory) -> list[dict]:
    """The rows of `toy_grid` after a sweep without any interruption."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setattr(grids, "CPU_WIDTH", 0)
        run_sweep(model, toy_grid(), folder, recipe=RECIPE)
    return sort_rows(rows_of(folder))
