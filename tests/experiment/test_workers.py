"""Processes and one folder: other sweeps are locked out, workers of one sweep share its cells."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.experiment.sweeps import (
    ONE_CELL,
    RECIPE,
    SWEEP_FILES,
    SlowCells,
    WaitsForRows,
    content_of,
    count_lines,
    files_in,
    finish_sweep,
    nearly_equal,
    processes,
    rows_of,
    run_command,
    sort_rows,
    stable_fields,
    start_child,
    toy_grid,
    wait_for,
)
from tinymem.base.progress import SILENT, Progress
from tinymem.errors import RecipeError
from tinymem.experiment import probe
from tinymem.experiment.sweep import run_sweep
from tinymem.experiment.workers import Workers
from tinymem.training.recipe import Recipe

# --- The lock ------------------------------------------------------------------------------------


def test_a_second_sweep_is_refused_until_the_first_is_killed(
    model, tmp_path, trained, uninterrupted
):
    begun = processes.Event()
    first = start_child(tmp_path, WaitsForRows(begun, tmp_path, rows=99))
    try:
        assert begun.wait(120)
        start = time.monotonic()
        with pytest.raises(RecipeError, match="another process is writing there"):
            run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
        assert time.monotonic() - start < 5
        code, out, err = run_command(*ONE_CELL, "--out", tmp_path)
        assert (code, out) == (2, "") and err.count("\n") == 1
        assert f"--out {tmp_path}: another process is writing there" in err
        assert not trained and first.is_alive()
        first.kill()
        first.join(120)
        finish_sweep(model, tmp_path, uninterrupted)
    finally:
        first.kill()


def test_the_folder_is_free_after_a_refusal_and_after_an_error(
    model, tmp_path, monkeypatch, uninterrupted
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
    finish_sweep(model, tmp_path, uninterrupted)


# --- Several workers -----------------------------------------------------------------------------


def start_two_workers(folder: Path, *progress: Progress, slow_to_read: int | None = None):
    """Two workers with the environment that torchrun gives them; one may be slow to read rows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start_child(
            folder,
            each,
            slow_to_read=n == slow_to_read,
            environ=shared | {"RANK": str(n), "LOCAL_RANK": str(n)},
        )
        for n, each in enumerate(progress)
    ]


@pytest.mark.parametrize("slow", [0, 1])
def test_the_worker_that_is_free_takes_the_next_cell(tmp_path, uninterrupted, slow):
    """One of two stays in its first cell until the other has finished the five others."""
    progress = [SILENT, SILENT]
    progress[slow] = WaitsForRows(processes.Event(), tmp_path, rows=5)
    workers = start_two_workers(tmp_path, *progress)
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sort_rows(rows_of(tmp_path)) == uninterrupted and files_in(tmp_path) == SWEEP_FILES


def test_no_worker_writes_before_all_have_read(model, tmp_path, uninterrupted):
    """Otherwise the workers would count through different lists of cells, and leave cells out."""
    run_sweep(model, toy_grid(ranks=(2,), lengths=(6,)), tmp_path, recipe=RECIPE)
    workers = start_two_workers(tmp_path, SlowCells(), SlowCells(), slow_to_read=1)
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert sort_rows(rows_of(tmp_path)) == uninterrupted


def test_a_killed_worker_loses_only_its_cell(model, tmp_path, trained, uninterrupted):
    begun = processes.Event()
    workers = start_two_workers(tmp_path, SILENT, WaitsForRows(begun, tmp_path, rows=99))
    assert begun.wait(120)
    wait_for(lambda: count_lines(tmp_path) == 5)
    workers[1].kill()
    for worker in workers:
        worker.join(120)
    assert workers[0].exitcode == 1  # it does not wait for the killed one for ever
    finish_sweep(model, tmp_path, uninterrupted)
    assert len(trained) == 1


def test_workers_wait_for_long_cells_and_count_anew_in_every_sweep(monkeypatch):
    store, options = torch.distributed.HashStore(), {}
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(store, 1, 2)]))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda kind, **how: options.update(how)
    )
    workers = Workers()
    assert (workers.rank, workers.count) == (1, 2) and options["timeout"].days > 30
    for _ in range(2):
        assert list(workers.take("abc")) == ["a", "b", "c"]


def test_torchrun_gives_the_rows_of_one_process(tmp_path):
    args = ["--ranks", "1,2", "--lengths", "4,6,8", "--steps", "3"]
    pool = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    one, two = tmp_path / "one", tmp_path / "two"
    run_command("sweep", *args, "--out", one)
    run_command("sweep", *args, "--ranks", "1", "--lengths", "6", "--out", two)
    start = content_of(two)

    def run(*more):
        command = [*pool, "-m", "tinymem", "sweep", *args, "--out", two, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    ended = run("--json")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout)  # one document, printed by one of the workers
    assert nearly_equal(rows, rows_of(one))  # in the grid's order
    assert sort_rows(rows_of(two)) == sort_rows(stable_fields(rows))  # each cell once
    whole = content_of(two)
    assert whole.startswith(start) and files_in(two) == SWEEP_FILES
    ended = run("--steps", "4")  # ends within the time limit
    assert ended.returncode != 0 and ended.stdout == "" and content_of(two) == whole
    assert "made under another setting: steps was 3, is 4; choose another --out" in ended.stderr
