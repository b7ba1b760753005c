"""Sweeps: rows that equal runs alone, and kills, interruptions and rivals that lose or repeat nothing.

What needs a process of its own runs in a child of multiprocessing's fork server, which has imported
torch already; a few tests start the command itself, as a user's shell does.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import tinymem as tm
from tests.cli.test_probe import FIELDS
from tests.test_files import wait_for
from tests.toy import toy_memory, toy_model
from tinymem.base.checkpoint import SHIPPED
from tinymem.base.progress import Progress
from tinymem.cli import app as cli
from tinymem.data.memory import Memory, first_tokens, random_memory, text_memory
from tinymem.errors import DataError, RecipeError
from tinymem.experiment import grid as grids, probe, recall, rows as rows_file, sweep
from tinymem.experiment.grid import AXES, Cell, make_grid
from tinymem.experiment.probe import memorize, memorize_together
from tinymem.experiment.report import Result
from tinymem.experiment.rows import RESULTS, read_rows
from tinymem.experiment.sweep import hash_of, run_sweep
from tinymem.experiment.workers import Workers
from tinymem.training.recipe import Recipe

RECIPE = Recipe(steps=12)
SMALL = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "num_kv_heads": 1}
LEFT = [".lock", RESULTS]  # all that a sweep leaves in its folder

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["torch._dynamo", "tests.experiment.test_sweep"]
)  # the former: for optimizers


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One process, one cell after another; the last part of this file is about batches of cells."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(grids, "CPU_WIDTH", 0)


@pytest.fixture(scope="module")
def model():
    return toy_model(**SMALL)


@pytest.fixture
def ran(monkeypatch) -> list[Cell]:
    """The cells that were trained, as they are."""
    cells = []

    def record(model, memories, recipes, **options):
        for own, recipe in zip(memories, recipes, strict=True):
            length = sum(m.length for m in own)
            cells.append(Cell(recipe.rank, length, own[0].ratio, recipe.method, recipe.seed))
        return memorize_together(model, memories, recipes, **options)

    monkeypatch.setattr(sweep, "memorize_together", record)
    return cells


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> list[dict]:
    """The rows of `toy_grid`, by a sweep that nothing befell."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grids, "CPU_WIDTH", 0)
        run_sweep(model, toy_grid(), folder, recipe=RECIPE)
    return in_order(rows_of(folder))


def draw(length: int, ratio: int | None, seed: int) -> list[Memory]:
    return [toy_memory(length, seed=seed)]


def toy_grid(**axes) -> dict[Cell, list[Memory]]:
    return make_grid(draw, **({"ranks": (1, 2), "lengths": (4, 6, 8)} | axes))


def bare(rows: list[dict]) -> list[dict]:
    """Rows without what no second run has again."""
    return [{k: v for k, v in row.items() if k not in ("_where", "wall_seconds")} for row in rows]


def same(rows: list[dict], others: list[dict]) -> bool:
    """Equal but for the last digits: larger matrix products add up in another order."""
    near = [
        {
            k: pytest.approx(v, rel=1e-4, abs=1e-5) if isinstance(v, float) else v
            for k, v in row.items()
        }
        for row in bare(others)
    ]
    return bare(rows) == near


def rows_of(folder: Path) -> list[dict]:
    return bare(read_rows(folder)[0])


def cell_of(row: dict) -> Cell:
    return Cell(*(row[axis] for axis in AXES))


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: str(cell_of(row)))


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def tinymem(*args) -> tuple[int, str, str]:
    """Run the command in this process: (exit code, stdout, stderr)."""
    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["tinymem", *map(str, args)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    signal.signal(signal.SIGTERM, before)
    return caught.value.code or 0, out.getvalue(), err.getvalue()


def command(*args: str) -> None:
    """Run the command in a child."""
    torch.set_num_threads(1)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # where the tests run in the background, too
    sys.argv = ["tinymem", *args]
    cli.main()


# --- Rows ----------------------------------------------------------------------------------------


def several(length: int, ratio: int | None, seed: int) -> list[Memory]:
    return [toy_memory(length, seed=seed), toy_memory(3, seed=seed + 100)]


@pytest.mark.parametrize(
    ("memories", "recipe", "methods"),
    [
        (draw, Recipe(steps=12, dropout=0.1), ("sft", "memft-ot", "memft-sw")),
        (
            draw,
            Recipe(steps=12, sites=("q_proj",), layers=(0, 1), stop_when_certified=True),
            ("sft",),
        ),
        (several, Recipe(epochs=4, batch_size=1, lr=0.05), ("sft", "memft-sw")),
    ],
)
def test_a_row_is_the_report_of_the_run_alone(model, tmp_path, memories, recipe, methods):
    """Whatever ran before it in the sweep: random state, or a unit left behind."""
    axes = {"ranks": (3, 1), "lengths": (4,), "methods": methods, "seeds": (1, 0)}
    grid, held_out = make_grid(memories, **axes), [toy_memory(5, seed=9)]
    rows = run_sweep(model, grid, tmp_path, recipe=recipe, held_out=held_out)
    assert len(grid) == len(rows) == 4 * len(methods)
    for cell, row in reversed(list(zip(grid, bare(rows), strict=True))):
        one = dataclasses.replace(recipe, rank=cell.rank, method=cell.method, seed=cell.seed)
        alone = memorize(toy_model(**SMALL), grid[cell], recipe=one, held_out=held_out).report
        assert bare([alone]) == [{k: v for k, v in row.items() if not k.startswith("setting")}]
    assert rows_of(tmp_path) == bare(rows) and left_in(tmp_path) == LEFT


def test_a_row_has_every_field_of_the_contract(model, undisturbed):
    report = memorize(model, toy_memory(4), steps=1).report
    for row in undisturbed:
        assert FIELDS <= set(report) == set(row) - {"setting", "setting_hash"} | {"wall_seconds"}
        assert row["setting"]["steps"] == 12 and row["setting"]["lr"] == row["lr"] == 0.1
        assert row["setting_hash"] == hash_of(row["setting"])


def test_rows_come_in_the_order_of_the_grid(model, tmp_path, ran, undisturbed):
    part = list(toy_grid())[3:5]
    run_sweep(model, {cell: toy_grid()[cell] for cell in part}, tmp_path, recipe=RECIPE)
    run_sweep(model, toy_grid(lengths=(10, 6)), tmp_path, recipe=RECIPE)
    before = list(ran)
    rows = run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert list(map(cell_of, rows)) == list(toy_grid()) and in_order(bare(rows)) == undisturbed
    assert [cell_of(row) for row in rows_of(tmp_path)] == ran
    assert set(ran[len(before) :]).isdisjoint(before) and len(set(ran)) == len(ran) == 8
    back = toy_grid(ranks=(2, 1), lengths=(8, 4))
    assert list(map(cell_of, run_sweep(model, back, tmp_path, recipe=RECIPE))) == list(back)
    assert len(ran) == 8


def test_what_is_asked_for_twice_is_done_once(model, tmp_path, ran):
    twice = {"lengths": (4, 4), "methods": ("sft", "sft"), "seeds": (0, 0)}
    rows = run_sweep(model, toy_grid(ranks=(1, 2, 2), **twice), tmp_path, recipe=RECIPE)
    assert len(rows) == len(ran) == len(rows_of(tmp_path)) == 2


def test_every_axis_can_be_extended(model, tmp_path, ran):
    axes = {"ranks": (1,), "lengths": (4,)}
    wider = {"ranks": (2, 1), "lengths": (4, 5), "methods": ("memft-ot", "sft"), "seeds": (0, 3)}
    for more in ({}, *({name: values} for name, values in wider.items())):
        axes |= more
        before = (tmp_path / RESULTS).read_bytes() if ran else b""
        rows = run_sweep(model, toy_grid(**axes), tmp_path, recipe=RECIPE)
        assert (tmp_path / RESULTS).read_bytes().startswith(before)
        assert len(rows) == len(ran) == len(set(ran)) == len(toy_grid(**axes))
    assert len(ran) == 16


# --- Kills ---------------------------------------------------------------------------------------


class Dies(Progress):
    """Kills this process, as `kill -9` does, at the number-th call of a method."""

    def __init__(self, method: str, number: int):
        self.method, self.number = method, number

    def call(self, method: str) -> None:
        self.number -= method == self.method
        if self.number == 0 and method == self.method:
            os.kill(os.getpid(), signal.SIGKILL)

    def sweep(self, *_) -> None:
        self.call("sweep")

    def training(self, *_) -> None:
        self.call("training")

    def cell(self, *_) -> None:
        self.call("cell")


class Tells(Progress):
    """Sets an event once the sweep begins."""

    def __init__(self, event):
        self.event = event

    def sweep(self, *_) -> None:
        self.event.set()


class Slow(Progress):
    """Takes its time over every cell."""

    def training(self, *_) -> None:
        time.sleep(0.05)


class Waits(Progress):
    """Sets an event in its first cell, and stays there until the folder has so many rows."""

    def __init__(self, event, folder: Path, rows: int):
        self.event, self.folder, self.rows = event, folder, rows

    def training(self, *_) -> None:
        self.event.set()
        wait_for(lambda: count_lines(self.folder / RESULTS) >= self.rows)


def work(
    folder: Path, progress: Progress | None = None, written: int | None = None, environ=()
) -> None:
    """The toy sweep in a child. written: die with so many bytes of the third row on the disk."""
    torch.set_num_threads(1)
    os.environ.update(environ)
    grids.CPU_WIDTH = int(os.environ.get("WIDE", 0))
    if written is not None:
        count, write = itertools.count(1), os.write

        def torn(file: int, content: bytes) -> int:
            if content.lstrip().startswith(b"{") and next(count) == 3:
                write(
                    file,
                    content[:written] if written >= 0 else content[: len(content) + written + 1],
                )
                os.kill(os.getpid(), signal.SIGKILL)
            return write(file, content)

        rows_file.os.write = torn
    if os.environ.get("SLOW", "no") == os.environ.get("RANK"):

        def read_late(path: Path) -> tuple[list[dict], list[str]]:
            """Once another has written a row, or else after half a second."""
            rows, end = count_lines(path), time.monotonic() + 0.5
            while count_lines(path) == rows and time.monotonic() < end:
                time.sleep(0.005)
            return read_rows(path)

        sweep.read_rows = read_late
    run_sweep(toy_model(**SMALL), toy_grid(), folder, recipe=RECIPE, progress=progress)


def child(*args):
    process = processes.Process(target=work, args=args, daemon=True)
    process.start()
    return process


def killed(*args) -> None:
    process = child(*args)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def finish(model, folder: Path, undisturbed: list[dict], torn: int = 0) -> None:
    """Start the sweep again after a kill: what is there stays, and what comes out is complete."""
    before = (folder / RESULTS).read_bytes() if (folder / RESULTS).exists() else b""
    rows = run_sweep(model, toy_grid(), folder, recipe=RECIPE)
    assert (folder / RESULTS).read_bytes().startswith(before)
    assert in_order(bare(rows)) == in_order(rows_of(folder)) == undisturbed  # each once
    assert len(read_rows(folder)[1]) == torn and left_in(folder) == LEFT


@pytest.mark.parametrize(
    ("moment", "done"),
    [
        (("sweep", 1), 0),
        (("training", 1), 0),
        (("training", 4), 1),
        (("cell", 2), 2),
        (("cell", 6), 6),
    ],
)
def test_killed_at_a_moment(model, tmp_path, ran, undisturbed, moment, done):
    killed(tmp_path, Dies(*moment))
    assert (tmp_path / RESULTS).exists() == (done > 0)
    assert not done or len(rows_of(tmp_path)) == done
    finish(model, tmp_path, undisturbed)
    assert len(ran) == 6 - done


@pytest.mark.parametrize(
    ("written", "done", "torn"),
    [(0, 2, 0), (1, 2, 1), (500, 2, 1), (-3, 2, 1), (-2, 3, 0), (-1, 3, 0)],
)
def test_killed_within_the_write(model, tmp_path, ran, undisturbed, written, done, torn):
    """-1: all is written; -2: all but the line's end; -3: all but that and the last brace."""
    killed(tmp_path, None, written)
    assert len(rows_of(tmp_path)) == done and len(read_rows(tmp_path)[1]) == torn
    finish(model, tmp_path, undisturbed, torn)
    assert len(ran) == 6 - done


def test_killed_at_any_moment(model, tmp_path, undisturbed):
    at, started, before = random.Random(0), processes.Event(), b""
    for _ in range(8):
        started.clear()
        process = child(tmp_path, Tells(started))
        assert started.wait(120)
        time.sleep(at.uniform(0, 0.08))
        process.kill()
        process.join(120)
        after = (tmp_path / RESULTS).read_bytes() if (tmp_path / RESULTS).exists() else b""
        assert after.startswith(before)  # nothing that was there is gone or changed
        before = after
    torn = len(read_rows(tmp_path)[1]) if before else 0
    finish(model, tmp_path, undisturbed, torn)


@pytest.mark.parametrize(("rows", "stride"), [(3, 1), (1, 50)])
def test_torn_at_any_byte(model, tmp_path, monkeypatch, undisturbed, rows, stride):
    """The last row cut at each of its bytes: it is done again, unless only its line's end is missing."""
    grid = dict(list(toy_grid().items())[:rows])
    run_sweep(model, grid, tmp_path, recipe=RECIPE)
    reports, calls = {cell_of(row): row for row in undisturbed}, []

    def report(model, memories, recipes, **_):
        (own,), (recipe,) = memories, recipes
        calls.append((recipe.rank, own[0].length))
        row = reports[Cell(recipe.rank, own[0].length, None, recipe.method, recipe.seed)]
        known = {k: v for k, v in row.items() if not k.startswith("setting")}
        return [Result(known | {"wall_seconds": 0.0}, own, None)]

    monkeypatch.setattr(sweep, "memorize_together", report)
    monkeypatch.setattr(rows_file.os, "fsync", lambda file: None)
    path, last = tmp_path / RESULTS, list(grid)[-1]
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1 if rows > 1 else 0
    expected = in_order([row for row in undisturbed if cell_of(row) in grid])
    for end in range(start, len(whole) + 1, stride):
        path.write_bytes(whole[:end])
        calls.clear()
        again = run_sweep(model, grid, tmp_path, recipe=RECIPE)
        assert calls == ([(last.rank, last.length)] if end < len(whole) - 1 else []), end
        assert in_order(bare(again)) == in_order(rows_of(tmp_path)) == expected
        assert len(read_rows(path)[1]) == (start < end < len(whole) - 1)
        assert path.read_bytes().startswith(whole[:end])


def test_a_command_killed_and_interrupted(tmp_path):
    """As a user does it: `kill -9`, then Ctrl-C, far from the end; then to the end of a part."""
    args = ["--ranks", "1,2,3", "--lengths", "4,6", "--steps", "12"]
    grid, path = tmp_path / "grid", tmp_path / "grid" / RESULTS
    more = [*args, "--seeds", ",".join(map(str, range(100))), "--out", str(grid)]
    first = subprocess.Popen(
        [sys.executable, "-m", "tinymem", "sweep", *more], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: count_lines(path) > 0)
    finally:
        first.kill()
    assert first.wait(120) == -signal.SIGKILL
    before = len(rows_of(grid))
    second = processes.Process(target=command, args=["sweep", *more], daemon=True)
    second.start()
    try:
        wait_for(lambda: count_lines(path) > before)
        os.kill(second.pid, signal.SIGINT)
        second.join(120)
    finally:
        second.kill()
    assert second.exitcode == 130
    assert 0 < before < len(rows_of(grid)) < 600 and left_in(grid) == LEFT
    old = path.read_bytes()
    code, out, _ = tinymem("sweep", *args, "--out", grid, "--json")
    assert code == 0 and path.read_bytes().startswith(old) and left_in(grid) == LEFT
    tinymem("sweep", *args, "--out", tmp_path / "undisturbed")
    assert same(json.loads(out), rows_of(tmp_path / "undisturbed"))
    cells = list(map(cell_of, rows_of(grid)))
    assert len(cells) == len(set(cells)) >= 6


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["train", "judge", "append_row"])
def test_interrupted(tmp_path, monkeypatch, how, moment):
    """Ctrl-C or a polite kill in the second cell: exit code 130, and nothing finished is lost."""
    args = [
        "sweep",
        "--ranks",
        "1,2",
        "--lengths",
        "4,6",
        "--steps",
        "2",
        "--out",
        tmp_path / "grid",
    ]
    calls, home = itertools.count(1), {"train": probe, "judge": recall, "append_row": sweep}[moment]
    real = getattr(home, moment)

    def interrupted(*args, **options):
        result = real(*args, **options)
        if next(calls) == 2:
            signal.raise_signal(how)
        return result

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(home, moment, interrupted)
            code, out, err = tinymem(*args)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert code == 130 and out == "" and "Traceback" not in err
    assert len(rows_of(tmp_path / "grid")) == (2 if moment == "append_row" else 1)
    assert left_in(tmp_path / "grid") == LEFT
    old = (tmp_path / "grid" / RESULTS).read_bytes()
    assert tinymem(*args)[0] == 0
    assert (tmp_path / "grid" / RESULTS).read_bytes().startswith(old)
    assert (
        len(rows_of(tmp_path / "grid")) == len(set(map(cell_of, rows_of(tmp_path / "grid")))) == 4
    )
    assert {row["status"] for row in rows_of(tmp_path / "grid")} == {"ok"}


# --- Another setting -----------------------------------------------------------------------------

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
}


def refused(folder: Path, model, *parts: str, **how) -> None:
    """A sweep in `folder` is refused for these reasons, and changes nothing there."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RecipeError) as caught:
        run_sweep(model, toy_grid(), folder, **({"recipe": RECIPE} | how))
    message = str(caught.value)
    assert message.startswith(f"{folder / RESULTS}, line 1: ") and "\n" not in message
    assert all(part in message for part in parts), message
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.fixture(scope="module")
def written(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    run_sweep(
        model, toy_grid(ranks=(1,), lengths=(4,)), folder, recipe=RECIPE, source={"text": "abc"}
    )
    return folder


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Recipe) if f.name not in AXES])
def test_another_recipe_is_refused_with_the_difference(model, written, name):
    was = 0.1 if name == "lr" else getattr(RECIPE, name)
    was, new = (list(v) if isinstance(v, tuple) else v for v in (was, OTHER[name]))
    recipe = dataclasses.replace(RECIPE, **{name: OTHER[name]})
    also = "; lr was 0.1, is None" if name == "optimizer" else ""  # L-BFGS has no rate
    only = f"made under another setting: {name} was {was!r}, is {new!r}{also}; choose another --out"
    refused(written, model, only, recipe=recipe, source={"text": "abc"})


def test_another_base_dtype_or_source_is_refused(model, written, ran):
    source = {"text": "abc"}
    other = toy_model(seed=1, **SMALL)
    was = rows_of(written)[0]["setting"]["base"]
    hashes = f"setting: base was {was!r}, is {sweep.base_hash(other)!r}; choose"
    refused(written, other, hashes, source=source)
    half = toy_model(**SMALL).to(torch.bfloat16)
    refused(written, half, "dtype was 'float32', is 'bfloat16'", source=source)
    refused(written, model, "setting: text was 'abc', is 'abd'; choose", source={"text": "abd"})
    refused(written, model, "setting: text was 'abc', is None; choose")
    more = {"recipe": Recipe(steps=13, lr=0.2), "source": source | {"prompt": "x"}}
    refused(
        written,
        model,
        "steps was 12, is 13; lr was 0.1, is 0.2; prompt was None, is 'x'; choose",
        **more,
    )
    assert not ran


def test_the_default_rate_spelled_out_is_no_other_setting(model, written, ran):
    grid, spelled = toy_grid(ranks=(1,), lengths=(4,)), dataclasses.replace(RECIPE, lr=0.1)
    run_sweep(model, grid, written, recipe=spelled, source={"text": "abc"})
    assert not ran


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
def test_rows_that_no_sweep_wrote_are_refused(model, written, tmp_path, damage):
    (row,), _ = read_rows(written)
    del row["_where"]
    (tmp_path / RESULTS).write_text(json.dumps(damage(row)) + "\n")
    (tmp_path / ".lock").touch()
    refused(
        tmp_path,
        model,
        "not a row of a sweep by tinymem; choose another --out",
        source={"text": "abc"},
    )


def test_results_that_cannot_be_read_are_refused(model, tmp_path):
    (tmp_path / RESULTS).write_text("my notes\n")
    with pytest.raises(DataError, match=r"results\.jsonl, line 1: not JSON"):
        run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert (tmp_path / RESULTS).read_text() == "my notes\n"
    path = tmp_path / "other" / RESULTS
    path.mkdir(parents=True)
    with pytest.raises(DataError, match="cannot be read"):
        run_sweep(model, toy_grid(), path.parent, recipe=RECIPE)


FIRST = ["sweep", "--ranks", "1", "--lengths", "4", "--steps", "2"]


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A sweep of the shipped model, with one row."""
    folder = tmp_path_factory.mktemp("begun") / "grid"
    assert tinymem(*FIRST, "--out", folder)[0] == 0
    return folder


@pytest.mark.parametrize(
    ("args", "difference"),
    [
        (["--steps", "3"], "steps was 2, is 3"),
        (["--lr", "0.05"], "lr was 0.1, is 0.05"),
        (["--dropout", "0.1"], "dropout was 0.0, is 0.1"),
        (["--layer", "1"], "layers was None, is [1]"),
        (["--site", "c_fc"], "sites was ['mlp'], is ['c_fc']"),
        (["--prompt", "Say:"], "prompt was None, is 'Say:'"),
        (["--no-chat"], "chat was True, is False"),
        (["--zero-active", "zero"], "zero_active was 'sft', is 'zero'"),
        (["--stop-when-certified"], "stop_when_certified was False, is True"),
        (["--epochs", "2"], "epochs was None, is 2"),
        (["--dtype", "bfloat16"], "dtype was 'float32', is 'bfloat16'"),
        (["--ranks", "1,2", "--steps", "3"], "steps was 2, is 3"),
    ],
)
def test_the_command_refuses_another_setting_in_one_line(begun, ran, args, difference):
    before = (begun / RESULTS).read_bytes()
    code, out, err = tinymem(*FIRST, *args, "--out", begun)
    assert (code, out) == (2, "") and err.startswith("tinymem: ") and err.count("\n") == 1
    assert err.endswith(f"made under another setting: {difference}; choose another --out\n")
    assert (begun / RESULTS).read_bytes() == before and not ran and left_in(begun) == LEFT


def test_the_command_refuses_other_weights(begun, ran, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    copy = Path(shutil.copytree(SHIPPED["tiny"], tmp_path / "tiny"))
    code, _, err = tinymem(*FIRST, "--out", begun, "--model", copy)
    assert code == 0 and not ran  # the same weights in another place
    with safe_open(copy / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = file.metadata()
    next(iter(tensors.values())).view(-1)[0] += 1e-3
    save_file(tensors, copy / "model.safetensors", about)
    before = (begun / RESULTS).read_bytes()
    code, _, err = tinymem(*FIRST, "--out", begun, "--model", copy)
    assert (
        code == 2 and re.search(r"setting: base was '\w{64}', is '\w{64}'; choose", err) and not ran
    )
    assert (begun / RESULTS).read_bytes() == before


@pytest.mark.parametrize("flag", ["--text", "--data", "--held-out"])
def test_the_command_refuses_a_changed_file(tmp_path, ran, flag):
    path = tmp_path / "input"
    line = {"prompt": "a", "completion": "Mary had a little lamb"}
    for number, content in enumerate(["one", "one", "two"]):
        text = f"Mary had a little lamb, number {content}"
        path.write_text(
            text if flag == "--text" else json.dumps(line | {"completion": text}) + "\n"
        )
        before = (tmp_path / "grid" / RESULTS).read_bytes() if number else b""
        code, _, err = tinymem(*FIRST, flag, path, "--out", tmp_path / "grid")
        assert code == (2 if number == 2 else 0) and len(ran) == 1
    name = flag[2:].replace("-", "_")
    assert (
        re.search(rf"setting: {name} was '\w{{16}}', is '\w{{16}}'; choose", err)
        and err.count("\n") == 1
    )
    assert (tmp_path / "grid" / RESULTS).read_bytes() == before


# --- One sweep a folder --------------------------------------------------------------------------


def test_a_second_process_is_refused_and_a_kill_frees_the_folder(model, tmp_path, ran, undisturbed):
    begun = processes.Event()
    first = child(tmp_path, Waits(begun, tmp_path, rows=99))
    try:
        assert begun.wait(120)
        start = time.monotonic()
        with pytest.raises(RecipeError, match="another sweep is writing there"):
            run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
        assert time.monotonic() - start < 5
        code, out, err = tinymem(*FIRST, "--out", tmp_path)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"--out {tmp_path}: another sweep is writing there" in err
        assert not ran and first.is_alive()
        first.kill()
        first.join(120)
        finish(model, tmp_path, undisturbed)
    finally:
        first.kill()


def test_the_folder_is_free_after_a_refusal_and_after_an_error(
    model, tmp_path, monkeypatch, undisturbed
):
    def fail(*_, **__):
        raise RuntimeError("not of memory")

    with monkeypatch.context() as patch:
        patch.setattr(probe, "train", fail)
        with pytest.raises(RuntimeError, match="not of memory"):
            run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    run_sweep(model, toy_grid(ranks=(1,)), tmp_path, recipe=RECIPE)
    with pytest.raises(RecipeError, match="steps"):
        run_sweep(model, toy_grid(), tmp_path, recipe=Recipe(steps=13))
    finish(model, tmp_path, undisturbed)


# --- Cells that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_cell_out_of_memory_is_a_row_and_the_sweep_goes_on(tmp_path, monkeypatch, ran, error):
    real = probe.train

    def train(model, units, *args, **options):
        if units[0].rank == 1:
            raise error
        return real(model, units, *args, **options)

    monkeypatch.setattr(probe, "train", train)
    args = ["sweep", "--ranks", "1,2", "--lengths", "4,6", "--steps", "2", "--out", tmp_path]
    for _ in range(2):  # the second time, nothing is repeated
        code, shown, _ = tinymem(*args)
        assert code == 0 and "final loss" in shown
        assert [row["status"] for row in rows_of(tmp_path)] == ["oom", "ok", "oom", "ok"]
        assert len(ran) == 4
    monkeypatch.undo()
    (row, _, _, _), _ = read_rows(tmp_path)
    assert row["final_loss"] is None and row["rank"] == 1 and row["setting"]["steps"] == 2
    only = [
        "sweep",
        "--ranks",
        "1",
        "--lengths",
        "4,6",
        "--steps",
        "2",
        "--out",
        tmp_path,
        "--json",
    ]
    code, out, _ = tinymem(*only)
    assert code == 1 and [row["status"] for row in json.loads(out)] == ["oom", "oom"]


def test_a_diverged_cell_is_a_row_and_the_sweep_goes_on(tmp_path, ran, monkeypatch):
    wild = [
        "sweep",
        "--ranks",
        "1,2",
        "--lengths",
        "4,6",
        "--steps",
        "12",
        "--lr",
        "1e5",
        "--out",
        tmp_path,
    ]
    for _ in range(2):
        code, out, err = tinymem(*wild, "--json")
        assert code == 1 and len(ran) == 4 and "Traceback" not in err
        assert [row["status"] for row in json.loads(out)] == ["diverged"] * 4
    real = probe.train

    def train(*args, lrs, **options):  # the other cells get a rate that they can bear
        return real(*args, lrs=[0.05] * len(lrs), **options)

    monkeypatch.setattr(probe, "train", train)
    code, shown, _ = tinymem(*wild, "--seeds", "0,1")
    assert code == 0 and len(ran) == 8 and "!" in shown
    assert [row["status"] for row in rows_of(tmp_path)] == ["diverged"] * 4 + ["ok"] * 4


def test_a_loss_that_is_not_a_number_is_a_row(model, tmp_path, monkeypatch):
    real = probe.train

    def train(model, units, *args, **options):
        with torch.no_grad():
            units[0].parameters()[1].fill_(float("nan"))
        return real(model, units, *args, **options)

    monkeypatch.setattr(probe, "train", train)
    rows = run_sweep(model, toy_grid(ranks=(1,)), tmp_path, recipe=RECIPE)
    assert [row["status"] for row in rows] == ["diverged"] * 3
    assert rows[0]["final_loss"] is None and rows_of(tmp_path) == bare(rows)


# --- What cannot work is refused before it costs anything -------------------------------------------


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--lengths", ""], "--lengths is ''"),
        (["--ratios", ""], "--ratios is ''"),
        (["--lengths", "4,2000"], "2000"),
        (["--lengths", "4,1020"], "1020 target tokens = 10"),
        (["--lengths", "4,0"], "--length is 0"),
        (["--lengths", "-4"], "--length is -4"),
        (["--lengths", "4;5"], "--lengths is '4;5'"),
        (["--lengths", "4,,5"], "--lengths is '4,,5'"),
        (["--lengths", "4.5"], "--lengths is '4.5'"),
        (["--ranks", "1,300"], "rank is 300; at layers.2.mlp it can be 1 to 256"),
        (["--ranks", "1,0"], "rank is 0"),
        (["--ranks", "two"], "--ranks is 'two'"),
        (["--ranks", ""], "--ranks is ''"),
        (["--seeds", ""], "--seeds is ''"),
        (["--seeds", "0,-1"], "seed is -1"),
        (["--seeds", "0,x"], "--seeds is '0,x'"),
        (["--methods", ""], "method is ''"),
        (["--methods", "sft,memft"], "memft-ot"),
        (["--ratios", "0,100"], "needs a natural text"),
        (["--ratios", "100,101"], "percentage"),
        (["--ratios", "half"], "--ratios is 'half'"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "x"], "--steps"),
        (["--lr", "fast"], "--lr is 'fast'"),
        (["--lr", "nan"], "lr is nan"),
        (["--dropout", "1"], "dropout is 1.0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--boundaries", "4,3,2,1"], "rising"),
        (["--layer", "9"], "layers 0 to 3"),
        (["--site", "q_proj"], "it has mlp"),
        (["--prompt", ""], "prompt is empty"),
        (["--text", "absent"], "absent: cannot be read"),
        (["--data", "absent"], "absent: cannot be read"),
        (["--held-out", "absent"], "absent: cannot be read"),
        (["--data", "a", "--ratios", "0"], "exclude each other"),
        (["--device", "abacus"], "'auto', 'cpu', 'cuda'"),
        (["--model", "no/such/folder"], "does not exist"),
        (["--out", "absent/grid"], "not a folder"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, ran, args, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = tinymem("sweep", "--out", "grid", *args)
    assert (code, out) == (2, "") and not ran
    assert err.startswith("tinymem: ") and err.count("\n") == 1 and message in err
    assert list(tmp_path.iterdir()) == []  # no folder, no lock


def test_more_bad_input(tmp_path, ran):
    short, memories = tmp_path / "short.txt", tmp_path / "memories.jsonl"
    short.write_text("Mary had a little lamb")
    memories.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "", "completion": "b"}\n')
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt_ids": [1], "target_ids": [2] * 2000}) + "\n")
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.iterdir())
    for args, message in (
        (["--text", short, "--lengths", "4,400"], "length 400 was asked for, but the text has"),
        (["--data", memories], "memories.jsonl, line 2: "),
        (["--data", long], "2000 target tokens = 2001 exceed"),
        (["--held-out", long], "2000 target tokens = 2001 exceed"),
        (["--data", long, "--lengths", "4,1500"], "1500 target tokens = 1501 exceed"),
        (["--out", tmp_path / "file"], "file"),
    ):
        code, out, err = tinymem("sweep", "--steps", "2", "--out", tmp_path / "grid", *args)
        assert (code, out) == (2, "") and not ran
        assert err.startswith("tinymem: ") and err.count("\n") == 1 and message in err
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "mine"
    assert tinymem("sweep")[0] == 2  # no --out


def test_a_grid_that_cannot_be_is_refused_before_its_first_cell(model, tmp_path, ran):
    for axis in ("ranks", "lengths", "ratios", "methods", "seeds"):
        with pytest.raises(RecipeError, match=f"{axis} is empty"):
            toy_grid(**{axis: ()})
    for grid, message in (
        (toy_grid(ranks=(1, 33)), "rank is 33; at layers.1.mlp it can be 1 to 32"),
        (toy_grid(ranks=(1, 0)), "rank is 0"),
        (toy_grid(lengths=(4, 126)), "3 prompt tokens"),
        (toy_grid(methods=("sft", "sgd")), "method is 'sgd'"),
        (toy_grid() | {Cell(1, 4, None, "sft", -1): draw(4, None, 0)}, "seed is -1"),
    ):
        with pytest.raises((RecipeError, DataError), match=message):
            run_sweep(model, grid, tmp_path / "grid", recipe=RECIPE)
    with pytest.raises(DataError, match="exceed the model's context"):
        run_sweep(model, toy_grid(), tmp_path / "grid", recipe=RECIPE, held_out=[toy_memory(126)])
    assert not ran and list(tmp_path.iterdir()) == []


# --- Several workers -----------------------------------------------------------------------------


def pair(folder: Path, *progress: Progress | None, slow: str = ""):
    """Two workers with the environment that torchrun gives them. slow: the one that is slow to read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "SLOW": slow}
    environs = [shared | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(2)]
    return [child(folder, p, None, e) for p, e in zip(progress, environs, strict=True)]


@pytest.mark.parametrize("slow", [0, 1])
def test_the_worker_that_is_free_takes_the_next_cell(tmp_path, undisturbed, slow):
    """One of two stays in its first cell until the other has done all the rest."""
    progress = [None, None]
    progress[slow] = Waits(processes.Event(), tmp_path, rows=5)
    workers = pair(tmp_path, *progress)
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert in_order(rows_of(tmp_path)) == undisturbed and left_in(tmp_path) == LEFT


def test_no_worker_writes_before_all_have_read(model, tmp_path, undisturbed):
    """Else they would count through different lists, and leave cells out."""
    run_sweep(model, toy_grid(ranks=(2,), lengths=(6,)), tmp_path, recipe=RECIPE)
    for worker in (workers := pair(tmp_path, Slow(), Slow(), slow="1")):
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert in_order(rows_of(tmp_path)) == undisturbed


def test_a_killed_worker_loses_its_cell_alone(model, tmp_path, ran, undisturbed):
    begun = processes.Event()
    workers = pair(tmp_path, None, Waits(begun, tmp_path, rows=99))
    assert begun.wait(120)
    wait_for(lambda: count_lines(tmp_path / RESULTS) == 5)
    workers[1].kill()
    for worker in workers:
        worker.join(120)
    assert workers[0].exitcode == 1  # it waits for the other no longer
    finish(model, tmp_path, undisturbed)
    assert len(ran) == 1


def test_workers_wait_for_long_cells_and_count_anew_in_every_sweep(monkeypatch):
    store, asked = torch.distributed.HashStore(), {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(store, 1, 2)]))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda kind, **how: asked.update(how)
    )
    workers = Workers()
    assert (workers.rank, workers.count) == (1, 2) and asked["timeout"].days > 30
    for _ in range(2):
        assert list(workers.take("abc")) == ["a", "b", "c"]


def test_torchrun_gives_the_rows_of_one_process(tmp_path):
    args = ["--ranks", "1,2", "--lengths", "4,6,8", "--steps", "3"]
    pool = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    tinymem("sweep", *args, "--out", tmp_path / "one")
    tinymem("sweep", *args, "--ranks", "1", "--lengths", "6", "--out", tmp_path / "two")
    start = (tmp_path / "two" / RESULTS).read_bytes()

    def run(*more):
        command = [*pool, "-m", "tinymem", "sweep", *args, "--out", tmp_path / "two", *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    ended = run("--json")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)  # one document, by one of them
    assert same(rows, rows_of(tmp_path / "one"))  # in the grid's order
    assert in_order(rows_of(tmp_path / "two")) == in_order(bare(rows))  # each cell once
    path = tmp_path / "two" / RESULTS
    whole = path.read_bytes()
    assert whole.startswith(start) and left_in(tmp_path / "two") == LEFT
    ended = run("--steps", "4")  # ends within the time limit
    assert ended.returncode != 0 and ended.stdout == "" and path.read_bytes() == whole
    assert "made under another setting: steps was 3, is 4; choose another --out" in ended.stderr


# --- Cells that train together -------------------------------------------------------------------


def grid_and_recipes(**axes) -> tuple[dict, dict]:
    grid = toy_grid(**axes)
    fields = ("rank", "method", "seed")
    recipes = {c: dataclasses.replace(RECIPE, **{f: getattr(c, f) for f in fields}) for c in grid}
    return grid, recipes


WIDE = {"ranks": (1, 2, 3), "lengths": (4, 6), "methods": ("sft", "memft-ot"), "seeds": (0, 1)}


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(grids, "CPU_WIDTH", 1 << 18)


def test_what_trains_together_has_the_same_lengths(model, wide):
    grid, recipes = grid_and_recipes(**WIDE)
    groups = grids.make_groups(model, grid, recipes)
    assert [len(group) for group in groups] == [12, 12]
    assert [{cell.length for cell in group} for group in groups] == [{4}, {6}]
    for options in ({"optimizer": "lbfgs"}, {"batch_size": 1}):
        alone = {cell: dataclasses.replace(recipe, **options) for cell, recipe in recipes.items()}
        assert [len(group) for group in grids.make_groups(model, grid, alone)] == [1] * 24


@pytest.mark.parametrize(("limit", "width"), [("memory", 5), ("gain", 3)])
def test_memory_and_gain_decide_how_many(model, wide, monkeypatch, limit, width):
    grid, recipes = grid_and_recipes(**WIDE)
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
    assert [len(group) for group in one] == [1, 1]  # nobody is left without work


def test_a_batch_gives_the_rows_of_runs_alone(model, tmp_path, wide, ran):
    rows = run_sweep(
        model, toy_grid(**WIDE), tmp_path, recipe=dataclasses.replace(RECIPE, steps=50)
    )
    assert len(rows) == len(ran) == 24
    for row in rows:
        one = dataclasses.replace(
            RECIPE, steps=50, rank=row["rank"], method=row["method"], seed=row["seed"]
        )
        alone = memorize(model, draw(row["length"], None, row["seed"]), recipe=one).report
        assert same([{k: v for k, v in row.items() if not k.startswith("setting")}], [alone])


def test_a_batch_that_is_short_of_memory_is_halved(model, tmp_path, wide, monkeypatch):
    real, sizes = probe.train, []

    def train(model, units, *args, **options):
        sizes.append(len(units))
        if len(units) > 2 or any(unit.rank == 3 for unit in units):
            raise MemoryError
        return real(model, units, *args, **options)

    monkeypatch.setattr(probe, "train", train)
    rows = run_sweep(model, toy_grid(ranks=(1, 2, 3, 4, 5), lengths=(4,)), tmp_path, recipe=RECIPE)
    assert [row["status"] for row in rows] == ["ok", "ok", "oom", "ok", "ok"]
    assert sizes[0] == 5 and len(rows_of(tmp_path)) == 5


def test_a_batch_that_is_killed_or_interrupted_is_done_again(model, tmp_path, wide, undisturbed):
    process = processes.Process(
        target=work, args=(tmp_path, Dies("training", 3), None, {"WIDE": "262144"})
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL and len(rows_of(tmp_path)) == 2
    before = (tmp_path / RESULTS).read_bytes()

    class Interrupts(Progress):
        def cell(self, *_) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE, progress=Interrupts())
    rows = run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert (tmp_path / RESULTS).read_bytes().startswith(before)
    assert same(in_order(rows), undisturbed) and len(rows_of(tmp_path)) == 6


def test_rows_from_before_there_was_a_choice_of_optimizer(model, tmp_path, ran):
    (row,) = run_sweep(model, toy_grid(ranks=(1,), lengths=(4,)), tmp_path, recipe=RECIPE)
    row.pop("_where", None)
    row["setting"].pop("optimizer")
    row["setting_hash"] = hash_of(row["setting"])
    (tmp_path / RESULTS).write_text(json.dumps(row) + "\n")
    run_sweep(model, toy_grid(ranks=(1, 2), lengths=(4,)), tmp_path, recipe=RECIPE)
    assert [cell.rank for cell in ran] == [1, 2]


# --- The command ---------------------------------------------------------------------------------


def test_json_is_one_document_and_the_rest_goes_to_stderr(tmp_path):
    args = ["sweep", "--ranks", "2,1", "--lengths", "6,4", "--steps", "2", "--out", tmp_path]
    code, out, err = tinymem(*args, "--json")
    rows = json.loads(out)
    assert code == 0 and [(row["length"], row["rank"]) for row in rows] == [
        (6, 2),
        (6, 1),
        (4, 2),
        (4, 1),
    ]
    assert bare(rows) == rows_of(tmp_path) and "_where" not in rows[0]
    assert [line.split(":")[0] for line in err.splitlines()] == [
        f"rank   {rank}, length    {length}, sft, seed 0" for length in (6, 4) for rank in (2, 1)
    ]
    code, again, err = tinymem(*args, "--json")
    assert code == 0 and json.loads(again) == rows and "4 of 4 cells are there already" in err
    code, shown, err = tinymem(*args)
    assert code == 0 and "final loss" in shown and "final loss" not in err


def test_a_cell_of_the_command_is_what_probe_reports(tmp_path):
    base, tokenizer = tm.load("tiny")
    common = [
        "--steps",
        "3",
        "--layer",
        "1",
        "--lr",
        "0.03",
        "--dropout",
        "0.1",
        "--prompt",
        "Say it:",
    ]
    axes = ["--ranks", "2,3", "--lengths", "5", "--methods", "sft, memft-ot", "--seeds", "0,7"]
    _, out, _ = tinymem("sweep", *common, *axes, "--out", tmp_path, "--json")
    rows = json.loads(out)
    assert len(rows) == 8
    row = next(
        row for row in rows if (row["rank"], row["method"], row["seed"]) == (3, "memft-ot", 7)
    )
    one = ["--rank", "3", "--length", "5", "--method", "memft-ot", "--seed", "7"]
    alone = json.loads(tinymem("probe", *common, *one, "--json")[1])
    assert bare([alone]) == bare([{k: v for k, v in row.items() if not k.startswith("setting")}])
    memory = random_memory(tokenizer, 5, seed=7, prompt="Say it:")
    recipe = Recipe(rank=3, layers=(1,), method="memft-ot", steps=3, lr=0.03, seed=7, dropout=0.1)
    assert bare([memorize(base, memory, recipe=recipe).report]) == bare([alone])


def test_first_tokens():
    memories = [toy_memory(length, seed=length) for length in (3, 4, 5)]
    for length, expected in ((3, 1), (6, 1), (7, 2), (11, 2), (12, 3), (100, 3)):
        assert first_tokens(memories, length) == memories[:expected], length
    (cut,) = first_tokens(memories, 2)
    assert cut.prompt_ids == memories[0].prompt_ids and cut.target_ids == memories[0].target_ids[:2]


def test_memories_from_a_file_by_length_with_held_out_ones(tmp_path):
    lines = [{"prompt_ids": [n], "target_ids": [n + 20, *range(n)]} for n in (2, 3, 4)]
    held = [{"prompt_ids": [9], "target_ids": [8, 7]}]
    for name, part in (("data", lines), ("held", held)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in part))
    args = ["sweep", "--data", tmp_path / "data", "--held-out", tmp_path / "held"]
    args += ["--ranks", "2", "--steps", "3"]
    lengths = ["--lengths", "2,3,6,7,11,12,99"]
    code, out, _ = tinymem(*args, *lengths, "--out", tmp_path / "grid", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["length"], row["memories"]) for row in rows] == [(2, 1), (3, 1), (7, 2), (12, 3)]
    base, _ = tm.load("tiny")
    memories = [Memory(line["prompt_ids"], line["target_ids"]) for line in lines]
    other = [Memory(line["prompt_ids"], line["target_ids"]) for line in held]
    for row, part in zip(rows[1:], (memories[:1], memories[:2], memories), strict=True):
        report = memorize(base, part, rank=2, steps=3, held_out=other).report
        assert bare([report]) == bare(
            [{k: v for k, v in row.items() if not k.startswith("setting")}]
        )
        assert row["held_out_memories"] == 1 and row["held_out_loss"] > 0 and row["ratio"] is None
    code, out, _ = tinymem(*args, "--out", tmp_path / "all", "--json")  # all there is
    assert bare(json.loads(out)) == bare(rows[-1:])


def test_a_text_by_ratio(tmp_path):
    text = "The miller's daughter counted the sacks twice, and wrote both numbers on the door."
    (tmp_path / "text").write_text(text)
    args = [
        "sweep",
        "--text",
        tmp_path / "text",
        "--ratios",
        "100,0,50",
        "--ranks",
        "2",
        "--steps",
        "3",
    ]
    _, out, _ = tinymem(
        *args, "--lengths", "6,8", "--seeds", "3", "--out", tmp_path / "grid", "--json"
    )
    rows, (base, tokenizer) = json.loads(out), tm.load("tiny")
    assert [(row["ratio"], row["length"]) for row in rows] == list(
        itertools.product((100, 0, 50), (6, 8))
    )
    for row in rows:
        memory = text_memory(tokenizer, text, length=row["length"], ratio=row["ratio"], seed=3)
        report = memorize(base, memory, rank=2, steps=3, seed=3).report
        assert bare([report]) == bare(
            [{k: v for k, v in row.items() if not k.startswith("setting")}]
        )
        assert (row["memorized_bits"] is None) == (row["ratio"] < 100)
    whole = ["sweep", "--text", tmp_path / "text", "--ranks", "1", "--steps", "1", "--json"]
    _, out, _ = tinymem(*whole, "--out", tmp_path / "all")
    (row,) = json.loads(out)
    assert row["ratio"] == 0 and row["length"] == len(tokenizer.encode(text))


def test_a_torn_line_is_reported(tmp_path):
    args = ["sweep", "--ranks", "1,2", "--lengths", "4", "--steps", "2", "--out", tmp_path / "grid"]
    tinymem(*args)
    path = tmp_path / "grid" / RESULTS
    path.write_bytes(path.read_bytes()[:-9])
    code, _, err = tinymem(*args)
    assert code == 0 and "line 2: torn" in err and len(read_rows(path)[0]) == 2
