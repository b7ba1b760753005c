"""A sweep: rows equal single runs, old rows are kept, and rows of another setting are refused."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.experiment.sweeps import (
    RECIPE,
    SMALL,
    SWEEP_FILES,
    WIDE,
    cell_of,
    content_of,
    files_in,
    nearly_equal,
    one_memory,
    report_of,
    rows_of,
    sort_rows,
    stable_fields,
    toy_grid,
    two_memories,
)
from tests.experiment.test_report import FIELDS
from tests.toy import toy_memory, toy_model
from tinymem.errors import DataError, RecipeError
from tinymem.experiment import probe, sweep
from tinymem.experiment.grid import AXES, make_grid
from tinymem.experiment.probe import memorize
from tinymem.experiment.rows import RESULTS, hash_of, read_rows
from tinymem.experiment.sweep import run_sweep
from tinymem.training import trainer
from tinymem.training.recipe import METHODS, Recipe

# --- Rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memories", "recipe", "methods"),
    [
        (one_memory, Recipe(steps=12, dropout=0.1), METHODS),
        (
            one_memory,
            Recipe(steps=12, sites=("q_proj",), layers=(0, 1), stop_when_certified=True),
            ("sft",),
        ),
        (two_memories, Recipe(epochs=4, batch_size=1, lr=0.05), ("sft", "memft-sw", "margin")),
    ],
)
def test_a_row_equals_the_report_of_a_single_run(model, tmp_path, memories, recipe, methods):
    """What a sweep does before a cell must not change it, through random state or a unit left."""
    axes = {"ranks": (3, 1), "lengths": (4,), "methods": methods, "seeds": (1, 0)}
    grid, held_out = make_grid(memories, **axes), [toy_memory(5, seed=9)]
    rows = run_sweep(model, grid, tmp_path, recipe=recipe, held_out=held_out)
    assert len(grid) == len(rows) == 4 * len(methods)
    for cell, row in reversed(list(zip(grid, stable_fields(rows), strict=True))):
        one = dataclasses.replace(recipe, rank=cell.rank, method=cell.method, seed=cell.seed)
        alone = memorize(toy_model(**SMALL), grid[cell], recipe=one, held_out=held_out).report
        assert stable_fields([alone]) == [report_of(row)]
    assert rows_of(tmp_path) == stable_fields(rows) and files_in(tmp_path) == SWEEP_FILES


def test_a_row_has_every_field_of_the_contract(model, uninterrupted):
    report = memorize(model, toy_memory(4), steps=1).report
    for row in uninterrupted:
        assert FIELDS <= set(report) == set(row) - {"setting", "setting_hash"} | {"wall_seconds"}
        assert row["setting"]["steps"] == 12 and row["setting"]["lr"] == row["lr"] == 0.1
        assert row["setting_hash"] == hash_of(row["setting"])


def test_rows_come_in_the_order_of_the_grid(model, tmp_path, trained, uninterrupted):
    part = list(toy_grid())[3:5]
    run_sweep(model, {cell: toy_grid()[cell] for cell in part}, tmp_path, recipe=RECIPE)
    run_sweep(model, toy_grid(lengths=(10, 6)), tmp_path, recipe=RECIPE)
    before = list(trained)
    rows = run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert list(map(cell_of, rows)) == list(toy_grid())
    assert sort_rows(stable_fields(rows)) == uninterrupted
    assert [cell_of(row) for row in rows_of(tmp_path)] == trained
    assert set(trained[len(before) :]).isdisjoint(before) and len(set(trained)) == len(trained) == 8
    back = toy_grid(ranks=(2, 1), lengths=(8, 4))
    assert list(map(cell_of, run_sweep(model, back, tmp_path, recipe=RECIPE))) == list(back)
    assert len(trained) == 8


def test_repeated_axis_values_give_one_cell_each(model, tmp_path, trained):
    twice = {"lengths": (4, 4), "methods": ("sft", "sft"), "seeds": (0, 0)}
    rows = run_sweep(model, toy_grid(ranks=(1, 2, 2), **twice), tmp_path, recipe=RECIPE)
    assert len(rows) == len(trained) == len(rows_of(tmp_path)) == 2


def test_every_axis_can_be_extended(model, tmp_path, trained):
    axes = {"ranks": (1,), "lengths": (4,)}
    wider = {"ranks": (2, 1), "lengths": (4, 5), "methods": ("memft-ot", "sft"), "seeds": (0, 3)}
    for more in ({}, *({name: values} for name, values in wider.items())):
        axes |= more
        before = content_of(tmp_path)
        rows = run_sweep(model, toy_grid(**axes), tmp_path, recipe=RECIPE)
        assert content_of(tmp_path).startswith(before)
        assert len(rows) == len(trained) == len(set(trained)) == len(toy_grid(**axes))
    assert len(trained) == 16


# --- Another setting ------------------------------------------------------------------------------

OTHER = {
    "layers": (0,),
    "sites": ("o_proj",),
    "steps": 13,
    "epochs": 2,
    "batch_size": 1,
    "accumulate": 2,
    "boundaries": (1, 2, 3, 4),
    "optimizer": "lbfgs",
    "lr": 0.01,
    "dropout": 0.1,
    "clip": 0.5,
    "zero_active": "zero",
    "stop_when_certified": True,
    "stop_when_recited": True,
}


def assert_refused(folder: Path, model, *parts: str, **how) -> None:
    """A sweep in `folder` is refused for these reasons, and changes nothing there."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RecipeError) as caught:
        run_sweep(model, toy_grid(), folder, **({"recipe": RECIPE} | how))
    message = str(caught.value)
    assert message.startswith(f"{folder / RESULTS}, line 1: ") and "\n" not in message
    assert all(part in message for part in parts), message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture(scope="module")
def one_row(model, tmp_path_factory) -> Path:
    """The folder of a finished sweep of one cell."""
    folder = tmp_path_factory.mktemp("one_row")
    run_sweep(
        model, toy_grid(ranks=(1,), lengths=(4,)), folder, recipe=RECIPE, source={"text": "abc"}
    )
    return folder


def test_every_field_of_a_recipe_is_tried():
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert set(OTHER) == names - set(AXES) - {"stop_when_still"}  # which goes with lbfgs alone


@pytest.mark.parametrize("name", OTHER)
def test_another_recipe_is_refused_with_the_difference(model, one_row, name):
    was = 0.1 if name == "lr" else getattr(RECIPE, name)
    was, new = (list(v) if isinstance(v, tuple) else v for v in (was, OTHER[name]))
    recipe = dataclasses.replace(RECIPE, **{name: OTHER[name]})
    also = "; lr was 0.1, is None" if name == "optimizer" else ""  # L-BFGS has no rate
    only = f"made under another setting: {name} was {was!r}, is {new!r}{also}; choose another --out"
    assert_refused(one_row, model, only, recipe=recipe, source={"text": "abc"})


def test_another_base_dtype_or_source_is_refused(model, one_row, trained):
    source = {"text": "abc"}
    other = toy_model(seed=1, **SMALL)
    was = rows_of(one_row)[0]["setting"]["base"]
    hashes = f"setting: base was {was!r}, is {sweep.base_hash(other)!r}; choose"
    assert_refused(one_row, other, hashes, source=source)
    half = toy_model(**SMALL).to(torch.bfloat16)
    assert_refused(one_row, half, "dtype was 'float32', is 'bfloat16'", source=source)
    changed = "setting: text was 'abc', is 'abd'; choose"
    assert_refused(one_row, model, changed, source={"text": "abd"})
    assert_refused(one_row, model, "setting: text was 'abc', is None; choose")
    more = {"recipe": Recipe(steps=13, lr=0.2), "source": source | {"prompt": "x"}}
    assert_refused(
        one_row,
        model,
        "steps was 12, is 13; lr was 0.1, is 0.2; prompt was None, is 'x'; choose",
        **more,
    )
    assert not trained


def test_naming_the_default_learning_rate_is_the_same_setting(model, one_row, trained):
    grid, spelled = toy_grid(ranks=(1,), lengths=(4,)), dataclasses.replace(RECIPE, lr=0.1)
    run_sweep(model, grid, one_row, recipe=spelled, source={"text": "abc"})
    assert not trained


def test_old_rows_that_do_not_name_the_optimizer_count_as_adamw(model, tmp_path, trained):
    (row,) = run_sweep(model, toy_grid(ranks=(1,), lengths=(4,)), tmp_path, recipe=RECIPE)
    row.pop("_where", None)
    row["setting"].pop("optimizer")
    row["setting_hash"] = hash_of(row["setting"])
    (tmp_path / RESULTS).write_text(json.dumps(row) + "\n")
    run_sweep(model, toy_grid(ranks=(1, 2), lengths=(4,)), tmp_path, recipe=RECIPE)
    assert [cell.rank for cell in trained] == [1, 2]


@pytest.mark.parametrize(
    "damage",
    [
        lambda row: row | {"setting_hash": "0" * 16},
        lambda row: row | {"setting": row["setting"] | {"steps": 13}},
        lambda row: {k: v for k, v in row.items() if k != "setting"},
        lambda row: row | {"setting": 3},
        lambda row: {k: v for k, v in row.items() if k != "length"},
        lambda row: {"a": 1},
    ],
)
def test_rows_that_no_sweep_wrote_are_refused(model, one_row, tmp_path, damage):
    (row,), _ = read_rows(one_row)
    del row["_where"]
    (tmp_path / RESULTS).write_text(json.dumps(damage(row)) + "\n")
    (tmp_path / ".lock").touch()
    assert_refused(
        tmp_path,
        model,
        "not a row of a sweep by tinymem; choose another --out",
        source={"text": "abc"},
    )


@pytest.mark.parametrize(
    "change",
    [{"final_loss": "low"}, {"status": []}, {"rank": {}}, {"converged": 3}, {"memories": 0}],
)
def test_rows_with_fields_that_no_run_has_are_refused(model, one_row, tmp_path, change):
    (row,), _ = read_rows(one_row)
    (tmp_path / RESULTS).write_text(json.dumps(row | change) + "\n")
    (tmp_path / ".lock").touch()
    (name,) = change
    words = f"line 1: the report's {name} is "
    assert_refused(tmp_path, model, words, source={"text": "abc"})


def test_a_row_that_went_through_a_table_is_still_done(model, one_row, tmp_path, trained):
    """Numbers with a point, and another order of fields."""
    row = json.loads((one_row / RESULTS).read_text())
    row |= {"rank": 1.0, "length": 4.0, "seed": 0.0}
    (tmp_path / RESULTS).write_text(json.dumps(dict(reversed(row.items()))))
    grid = toy_grid(ranks=(1,), lengths=(4,))
    rows = run_sweep(model, grid, tmp_path, recipe=RECIPE, source={"text": "abc"})
    assert len(rows) == 1 and not trained


def test_results_that_cannot_be_read_are_refused(model, tmp_path):
    (tmp_path / RESULTS).write_text("my notes\n")
    with pytest.raises(DataError, match=r"results\.jsonl, line 1: not JSON"):
        run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert (tmp_path / RESULTS).read_text() == "my notes\n"
    path = tmp_path / "other" / RESULTS
    path.mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read"):
        run_sweep(model, toy_grid(), path.parent, recipe=RECIPE)


# --- Cells that fail, and cells in batches --------------------------------------------------------


def test_a_cell_whose_loss_is_nan_is_a_row(model, tmp_path, monkeypatch):
    real = probe.train

    def train(model, units, *args, **options):
        with torch.no_grad():
            units[0].parameters()[1].fill_(float("nan"))
        return real(model, units, *args, **options)

    monkeypatch.setattr(probe, "train", train)
    rows = run_sweep(model, toy_grid(ranks=(1,)), tmp_path, recipe=RECIPE)
    assert [row["status"] for row in rows] == ["diverged"] * 3
    assert rows[0]["final_loss"] is None and rows_of(tmp_path) == stable_fields(rows)


def test_cells_trained_as_a_batch_give_the_rows_of_single_runs(
    model, tmp_path, cells_in_batches, trained
):
    rows = run_sweep(
        model, toy_grid(**WIDE), tmp_path, recipe=dataclasses.replace(RECIPE, steps=50)
    )
    assert len(rows) == len(trained) == 24
    for row in rows:
        one = dataclasses.replace(
            RECIPE, steps=50, rank=row["rank"], method=row["method"], seed=row["seed"]
        )
        alone = memorize(model, one_memory(row["length"], None, row["seed"]), recipe=one).report
        assert nearly_equal([report_of(row)], [alone])


def test_a_batch_that_does_not_fit_in_memory_is_halved(
    model, tmp_path, cells_in_batches, monkeypatch
):
    """The units are attached already when the optimizer finds no memory."""
    real, sizes = trainer.AdamW, []

    def adamw(parameters):
        runs, _, rank = parameters[0].shape
        sizes.append(runs)
        if runs > 2 or (runs == 1 and rank == 3):
            raise MemoryError
        return real(parameters)

    monkeypatch.setattr(trainer, "AdamW", adamw)
    rows = run_sweep(model, toy_grid(ranks=(1, 2, 3, 4, 5), lengths=(4,)), tmp_path, recipe=RECIPE)
    assert [row["status"] for row in rows] == ["ok", "ok", "oom", "ok", "ok"]
    assert sizes[0] == 5 and len(rows_of(tmp_path)) == 5
