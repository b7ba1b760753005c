"""What the tests of sweeps share: a small grid, comparison of rows, and sweeps in child processes.

What needs a process of its own runs in a child of multiprocessing's fork server, which has imported
torch already. A few tests start the command itself, as a user's shell does.
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.base.progress import SILENT, Progress
from tinymem.cli import app as cli
from tinymem.data.memory import Memory
from tinymem.experiment import grid as grids, rows as rows_file, sweep
from tinymem.experiment.grid import AXES, Cell, make_grid
from tinymem.experiment.rows import RESULTS, read_rows
from tinymem.experiment.sweep import run_sweep
from tinymem.system import STOP_SIGNALS
from tinymem.training.recipe import Recipe

RECIPE = Recipe(steps=12)
SMALL = {"layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "num_kv_heads": 1}
WIDE = {"ranks": (1, 2, 3), "lengths": (4, 6), "methods": ("sft", "memft-ot"), "seeds": (0, 1)}
SWEEP_FILES = [".lock", RESULTS]  # all that a sweep leaves in its folder

# --- The grid ------------------------------------------------------------------------------------


def one_memory(length: int, ratio: int | None, seed: int) -> list[Memory]:
    return [toy_memory(length, seed=seed)]


def two_memories(length: int, ratio: int | None, seed: int) -> list[Memory]:
    return [toy_memory(length, seed=seed), toy_memory(3, seed=seed + 100)]


def toy_grid(**axes) -> dict[Cell, list[Memory]]:
    """Six cells, ranks 1 and 2 by lengths 4, 6 and 8, unless `axes` say otherwise."""
    return make_grid(one_memory, **({"ranks": (1, 2), "lengths": (4, 6, 8)} | axes))


# --- Rows ----------------------------------------------------------------------------------------


def stable_fields(rows: list[dict]) -> list[dict]:
    """Rows without the fields that differ when the same cell is run again."""
    return [{k: v for k, v in row.items() if k not in ("_where", "wall_seconds")} for row in rows]


def report_of(row: dict) -> dict:
    """The row without its setting, which a report does not have."""
    return {k: v for k, v in row.items() if not k.startswith("setting")}


def nearly_equal(rows: list[dict], others: list[dict]) -> bool:
    """Equal up to the last digits: larger matrix products add up in another order."""
    near = [
        {
            k: pytest.approx(v, rel=1e-4, abs=1e-5) if isinstance(v, float) else v
            for k, v in row.items()
        }
        for row in stable_fields(others)
    ]
    return stable_fields(rows) == near


def rows_of(folder: Path) -> list[dict]:
    return stable_fields(read_rows(folder)[0])


def cell_of(row: dict) -> Cell:
    return Cell(*(row[axis] for axis in AXES))


def sort_rows(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: str(cell_of(row)))


# --- Files ---------------------------------------------------------------------------------------


def content_of(folder: Path) -> bytes:
    """What `results.jsonl` holds; nothing if it is not there."""
    path = folder / RESULTS
    return path.read_bytes() if path.exists() else b""


def count_lines(folder: Path) -> int:
    """Finished lines of `results.jsonl`."""
    return content_of(folder).count(b"\n")


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- The command ---------------------------------------------------------------------------------

ONE_CELL = ["sweep", "--ranks", "1", "--lengths", "4", "--steps", "2"]


def run_command(*args) -> tuple[int, str, str]:
    """Run the command in this process: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["tinymem", *map(str, args)])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    for number, handler in before.items():
        signal.signal(number, handler)
    return caught.value.code or 0, out.getvalue(), err.getvalue()


def command_in_child(*args: str) -> None:
    """The command, as the target of a child process."""
    torch.set_num_threads(1)
    # A test run in a script's background hands down "ignore SIGINT".
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["tinymem", *args]
    cli.main()


def command_killed_at_rename(number: int, *args: str) -> None:
    """The command, as the target of a child process that is killed at its number-th rename."""
    calls, real = itertools.count(1), os.replace

    def replace(*names):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*names)

    os.replace = replace
    command_in_child(*args)


# --- Child processes -----------------------------------------------------------------------------

processes = multiprocessing.get_context("spawn" if os.name == "nt" else "forkserver")
if os.name != "nt":
    processes.set_forkserver_preload(["tests.experiment.sweeps", "tinymem.cli.probe"])
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # which on Windows ends a process at once, too


class KillsItself(Progress):
    """Kills this process, as `kill -9` does, at the number-th call of a method."""

    def __init__(self, method: str, number: int):
        self.method, self.number = method, number

    def call(self, method: str) -> None:
        self.number -= method == self.method
        if self.number == 0 and method == self.method:
            os.kill(os.getpid(), KILL)

    def sweep(self, *_) -> None:
        self.call("sweep")

    def training(self, *_) -> None:
        self.call("training")

    def cell(self, *_) -> None:
        self.call("cell")


class SetsEvent(Progress):
    """Sets an event when the sweep begins."""

    def __init__(self, event):
        self.event = event

    def sweep(self, *_) -> None:
        self.event.set()


class SlowCells(Progress):
    """Makes each cell take some time."""

    def training(self, *_) -> None:
        time.sleep(0.05)


class WaitsForRows(Progress):
    """Sets an event in its first cell, and stays there until the folder has so many rows."""

    def __init__(self, event, folder: Path, rows: int):
        self.event, self.folder, self.rows = event, folder, rows

    def training(self, *_) -> None:
        self.event.set()
        wait_for(lambda: count_lines(self.folder) >= self.rows)


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


class FileOfRows(io.FileIO):
    """An unbuffered file, as `append_row` opens it, of which a test says what its writes do.

    A test puts such a class in the place of `open` by `rows_file.open = FileOfRows.open`.
    """

    @classmethod
    def open(cls, path: Path, mode: str, buffering: int) -> io.FileIO:
        assert buffering == 0 and "b" in mode  # else a write could be cut into several
        return cls(path, mode)


def kill_within_third_row(end: int) -> None:
    """Kill this process after it has written `content[:end]` of the third row."""
    count = itertools.count(1)

    class Dies(FileOfRows):
        def write(self, content: bytes) -> int:
            if next(count) == 3:
                super().write(content[:end])
                os.kill(os.getpid(), KILL)
            return super().write(content)

    rows_file.open = Dies.open


def read_late(path: Path) -> tuple[list[dict], list[str]]:
    """`read_rows`, once another process has written a row, or else after half a second."""
    rows, end = count_lines(path.parent), time.monotonic() + 0.5
    while count_lines(path.parent) == rows and time.monotonic() < end:
        time.sleep(0.005)
    return read_rows(path)


def sweep_in_child(
    folder: Path,
    progress: Progress = SILENT,
    *,
    killed_at: int | None = None,
    slow_to_read: bool = False,
    batch_width: int = 0,
    environ=(),
) -> None:
    """The sweep of `toy_grid`, as the target of a child process.

    killed_at: die with so many bytes of the third row on the disk (see `kill_within_third_row`).
    slow_to_read: see `read_late`. batch_width: cells train in batches of so many values.
    environ: environment variables, as torchrun sets them.
    """
    torch.set_num_threads(1)
    os.environ.update(environ)
    grids.CPU_WIDTH = batch_width
    if killed_at is not None:
        kill_within_third_row(killed_at)
    if slow_to_read:
        sweep.read_rows = read_late
    run_sweep(toy_model(**SMALL), toy_grid(), folder, recipe=RECIPE, progress=progress)


def start_child(*args, **options):
    """Start `sweep_in_child` in a process of its own."""
    process = processes.Process(target=sweep_in_child, args=args, kwargs=options, daemon=True)
    process.start()
    return process


def run_until_killed(*args, **options) -> None:
    """A sweep in a child, which kills itself."""
    process = start_child(*args, **options)
    process.join(120)
    assert process.exitcode in (-KILL, KILL)


def finish_sweep(model, folder: Path, expected: list[dict], torn: int = 0) -> None:
    """Start the sweep again after a kill: old lines stay, and every cell has one row in the end.

    expected: the rows of an uninterrupted sweep. torn: lines that are torn in the end.
    """
    before = content_of(folder)
    rows = run_sweep(model, toy_grid(), folder, recipe=RECIPE)
    assert content_of(folder).startswith(before)
    assert sort_rows(stable_fields(rows)) == sort_rows(rows_of(folder)) == expected
    assert len(read_rows(folder)[1]) == torn and files_in(folder) == SWEEP_FILES
