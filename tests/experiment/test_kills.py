"""A sweep that is killed or interrupted loses at most the cells in flight, and repeats no other."""

import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.experiment.sweeps import (
    RECIPE,
    SWEEP_FILES,
    FileOfRows,
    KillsItself,
    SetsEvent,
    cell_of,
    command_in_child,
    content_of,
    count_lines,
    files_in,
    finish_sweep,
    nearly_equal,
    processes,
    report_of,
    rows_of,
    run_command,
    run_until_killed,
    sort_rows,
    stable_fields,
    start_child,
    toy_grid,
    wait_for,
)
from tinymem.base.progress import Progress
from tinymem.experiment import probe, recall, rows as rows_file, sweep
from tinymem.experiment.grid import Cell
from tinymem.experiment.report import Result
from tinymem.experiment.rows import RESULTS, read_rows
from tinymem.experiment.sweep import run_sweep


@pytest.fixture
def known(monkeypatch, uninterrupted) -> list[Cell]:
    """Cells are not trained, but have the reports of the uninterrupted sweep; lists these cells."""
    reports, calls = {cell_of(row): row for row in uninterrupted}, []

    def known_result(model, memories, recipes, **_):
        (own,), (recipe,) = memories, recipes
        calls.append(Cell(recipe.rank, own[0].length, None, recipe.method, recipe.seed))
        return [Result(report_of(reports[calls[-1]]) | {"wall_seconds": 0.0}, own, None)]

    monkeypatch.setattr(sweep, "memorize_together", known_result)
    return calls


@pytest.mark.parametrize(
    ("moment", "done"),
    [
        (("sweep", 1), 0),
        (("training", 1), 0),
        (("training", 13), 1),  # 11 a cell
        (("cell", 2), 2),
        (("cell", 6), 6),
    ],
)
def test_killed_at_a_moment(model, tmp_path, trained, uninterrupted, moment, done):
    run_until_killed(tmp_path, KillsItself(*moment))
    assert (tmp_path / RESULTS).exists() == (done > 0)
    assert not done or len(rows_of(tmp_path)) == done
    finish_sweep(model, tmp_path, uninterrupted)
    assert len(trained) == 6 - done


@pytest.mark.parametrize(
    ("end", "done", "torn"),
    [(0, 2, 0), (1, 2, 1), (500, 2, 1), (-2, 2, 1), (-1, 3, 0), (10**6, 3, 0)],
)
def test_killed_while_a_row_is_written(model, tmp_path, trained, uninterrupted, end, done, torn):
    """Only row[:end] is on the disk: without its line end (-1), also without its brace (-2), …"""
    run_until_killed(tmp_path, killed_at=end)
    assert len(rows_of(tmp_path)) == done and len(read_rows(tmp_path)[1]) == torn
    finish_sweep(model, tmp_path, uninterrupted, torn)
    assert len(trained) == 6 - done


def test_killed_at_any_moment(model, tmp_path, uninterrupted):
    at, started, before = random.Random(0), processes.Event(), b""
    for _ in range(8):
        started.clear()
        process = start_child(tmp_path, SetsEvent(started))
        assert started.wait(120)
        time.sleep(at.uniform(0, 0.08))
        process.kill()
        process.join(120)
        after = content_of(tmp_path)
        assert after.startswith(before)  # no line that was there is gone or changed
        before = after
    torn = len(read_rows(tmp_path)[1]) if before else 0
    finish_sweep(model, tmp_path, uninterrupted, torn)


@pytest.mark.parametrize(("rows", "stride"), [(3, 5), (1, 50)])
def test_a_row_torn_at_any_byte(model, tmp_path, monkeypatch, known, uninterrupted, rows, stride):
    """The last row, cut at any byte, is run again unless only its line end is missing."""
    grid = dict(list(toy_grid().items())[:rows])
    run_sweep(model, grid, tmp_path, recipe=RECIPE)
    monkeypatch.setattr(rows_file.os, "fsync", lambda file: None)
    path, last = tmp_path / RESULTS, list(grid)[-1]
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1 if rows > 1 else 0
    expected = sort_rows([row for row in uninterrupted if cell_of(row) in grid])
    for end in (*range(start, len(whole) - 3, stride), *range(len(whole) - 3, len(whole) + 1)):
        path.write_bytes(whole[:end])
        known.clear()
        again = run_sweep(model, grid, tmp_path, recipe=RECIPE)
        assert known == ([last] if end < len(whole) - 1 else []), end
        assert sort_rows(stable_fields(again)) == sort_rows(rows_of(tmp_path)) == expected
        assert len(read_rows(path)[1]) == (start < end < len(whole) - 1)
        assert path.read_bytes().startswith(whole[:end])


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no Ctrl-C to one process alone")
def test_a_command_that_is_killed_and_then_interrupted(tmp_path):
    """`kill -9`, then Ctrl-C, both far from the end; then a part of the grid to its end."""
    args = ["--ranks", "1,2,3", "--lengths", "4,6", "--steps", "4"]
    grid = tmp_path / "grid"
    more = [*args, "--seeds", ",".join(map(str, range(100))), "--out", str(grid)]
    first = subprocess.Popen(
        [sys.executable, "-m", "tinymem", "sweep", *more], stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: count_lines(grid) > 0)
    finally:
        first.kill()
    assert first.wait(120) != 0
    before = len(rows_of(grid))
    second = processes.Process(target=command_in_child, args=["sweep", *more], daemon=True)
    second.start()
    try:
        wait_for(lambda: count_lines(grid) > before)
        os.kill(second.pid, signal.SIGINT)
        second.join(120)
    finally:
        second.kill()
    assert second.exitcode == 130
    assert 0 < before < len(rows_of(grid)) < 600 and files_in(grid) == SWEEP_FILES
    old = content_of(grid)
    code, out, _ = run_command("sweep", *args, "--out", grid, "--json")
    assert code == 0 and content_of(grid).startswith(old) and files_in(grid) == SWEEP_FILES
    run_command("sweep", *args, "--out", tmp_path / "uninterrupted")
    assert nearly_equal(json.loads(out), rows_of(tmp_path / "uninterrupted"))
    cells = list(map(cell_of, rows_of(grid)))
    assert len(cells) == len(set(cells)) >= 6


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["train", "judge_groups", "append_row"])
def test_interrupted_in_the_second_cell(tmp_path, monkeypatch, how, moment):
    """SIGINT (Ctrl-C) or SIGTERM: exit code 130, and every finished row is kept."""
    folder = tmp_path / "grid"
    args = ["sweep", "--ranks", "1,2", "--lengths", "4,6", "--steps", "2", "--out", folder]
    calls, home = (
        itertools.count(1),
        {
            "train": probe,
            "judge_groups": recall,
            "append_row": sweep,
        }[moment],
    )
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
            code, out, err = run_command(*args)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert code == 130 and out == "" and "Traceback" not in err
    assert len(rows_of(folder)) == (2 if moment == "append_row" else 1)
    assert files_in(folder) == SWEEP_FILES
    old = content_of(folder)
    assert run_command(*args)[0] == 0
    assert content_of(folder).startswith(old)
    assert len(rows_of(folder)) == len(set(map(cell_of, rows_of(folder)))) == 4
    assert {row["status"] for row in rows_of(folder)} == {"ok"}


def test_a_batch_that_is_killed_or_interrupted_is_run_again(
    model, tmp_path, cells_in_batches, uninterrupted
):
    run_until_killed(tmp_path, KillsItself("training", 12), batch_width=1 << 18)
    assert len(rows_of(tmp_path)) == 2
    before = content_of(tmp_path)

    class Interrupts(Progress):
        def cell(self, *_) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE, progress=Interrupts())
    rows = run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert content_of(tmp_path).startswith(before)
    assert nearly_equal(sort_rows(rows), uninterrupted) and len(rows_of(tmp_path)) == 6


# --- Faults at every write and fsync --------------------------------------------------------------


class Killed(BaseException):
    """Ends a sweep where no code of it can go on."""


def faulty(at: int, fault) -> tuple[type, Callable[[int], None]]:
    """A file and an fsync of which the at-th call, of both together, goes wrong."""
    count, real = itertools.count(), os.fsync

    class Faulty(FileOfRows):
        def write(self, content: bytes) -> int:
            if next(count) != at:
                return super().write(content)
            return fault(super().write, content)

    def fsync(file: int) -> None:
        if next(count) == at:
            fault(lambda content: None, b"")
        real(file)

    return Faulty, fsync


def full_disk(write, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def short_write(write, content):
    return write(content[: len(content) // 2])


def full_in_the_middle(write, content):
    write(content[: len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed_before(write, content):
    raise Killed


def killed_within(write, content):
    write(content[:-9])
    raise Killed


def killed_after(write, content):
    write(content)
    raise Killed


def interrupted(write, content):
    write(content)
    raise KeyboardInterrupt


def power_failure(write, content):
    """The file has its new length, but not its new content."""
    write(b"\0" * len(content))
    raise Killed


def power_failure_with_other_bytes(write, content):
    write(b"\xff\xfe\0\n\x80{" + content[: len(content) // 3])
    raise Killed


FAULTS = [full_disk, short_write, full_in_the_middle, killed_before, killed_within, killed_after]
FAULTS += [interrupted, power_failure, power_failure_with_other_bytes]


@pytest.mark.parametrize("fault", FAULTS)
def test_no_row_is_lost_by_a_fault_at_any_write_or_fsync(
    model, tmp_path, monkeypatch, known, uninterrupted, fault
):
    """Six rows are six writes and six calls of fsync; after each fault the sweep starts again."""
    expected = sort_rows(uninterrupted)
    for at in range(0, 12, 2 if fault is short_write else 1):  # an fsync cannot be short
        folder = tmp_path / str(at)
        with monkeypatch.context() as patch:
            file, fsync = faulty(at, fault)
            patch.setattr(rows_file, "open", file.open, raising=False)
            patch.setattr(rows_file.os, "fsync", fsync)
            with pytest.raises((OSError, Killed, KeyboardInterrupt)) as caught:
                run_sweep(model, toy_grid(), folder, recipe=RECIPE)
        assert not isinstance(caught.value, OSError) or RESULTS in str(caught.value)
        safe = [line for line in content_of(folder).split(b"\n") if line][: at // 2]
        assert len(rows_of(folder)) >= at // 2  # all rows whose fsync came back
        known.clear()
        again = run_sweep(model, toy_grid(), folder, recipe=RECIPE)
        assert len(known) <= 6 - at // 2 and content_of(folder).split(b"\n")[: at // 2] == safe
        assert sort_rows(stable_fields(again)) == sort_rows(rows_of(folder)) == expected
        known.clear()
        run_sweep(model, toy_grid(), folder, recipe=RECIPE)
        assert known == []


def test_a_row_that_was_changed_is_trained_again(model, tmp_path, known, uninterrupted):
    """The rows after it count; its cell gets a second row, which wins whatever the order."""
    run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    path = tmp_path / RESULTS
    lines = path.read_text().splitlines()
    loss = json.loads(lines[1])["final_loss"]
    lines[1] = lines[1].replace(f'"final_loss": {loss}', '"final_loss": 0.001')
    path.write_text("\n".join(lines) + "\n")
    known.clear()
    rows = run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert known == [cell_of(json.loads(lines[1]))]
    assert sort_rows(stable_fields(rows)) == sort_rows(uninterrupted)
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole[2:], *whole[:2], whole[3], ""]))  # and a second copy of one
    known.clear()
    assert len(read_rows(path)[0]) == 7 and len(read_rows(path)[1]) == 1
    rows = run_sweep(model, toy_grid(), tmp_path, recipe=RECIPE)
    assert not known and sort_rows(stable_fields(rows)) == sort_rows(uninterrupted)
