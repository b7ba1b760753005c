"""A run that can be killed and started again: the same command goes on where it was.

While a run trains, `state.safetensors` in its folder holds its state (training/state.py). It is
replaced every ten seconds and when the run is interrupted, and its header says which command and
base it is of. `report.json` is written last, with the command; then the state is deleted.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..base.model import Model
from ..base.progress import SILENT, Progress
from ..data.memory import Memory
from ..errors import DataError, RecipeError
from ..files import clean_temporaries, read_text, write_bytes_atomically
from ..training.lbfgs import HISTORY
from ..training.recipe import Recipe
from ..training.record import SNAPSHOTS, Record
from ..training.state import Keeper, State
from ..unit.adapter import OWN_FILE, PEFT_CONFIG, PEFT_FILE, base_hash, tensors_hash
from ..unit.sites import unit_shapes
from .report import Result, place_of
from .saved import REPORT, check_report, save_run
from .workers import LOCK

STATE = "state.safetensors"
EVERY = 10.0  # seconds between two saved states
OVERHEAD = 2**16  # bytes of headers and reports
FINISHED = ("ok", "diverged")  # a run that was interrupted or out of memory is tried again
FILES = {STATE, REPORT, OWN_FILE, PEFT_FILE, PEFT_CONFIG}


def finished_report(folder: Path, command: Mapping[str, object]) -> dict[str, Any] | None:
    """The report of the run that is finished in this folder; None if there is one to do.

    command: what decides the run, by the names of its options. Raises RecipeError, with the
    difference, if the folder belongs to another command, and DataError if it holds anything else.
    """
    found = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names = {name for name in found if not name.startswith(".")}  # but lock and temporary files
    report = read_report(folder / REPORT) if REPORT in names else {}
    before = report.pop("command", None)
    if before is None and STATE in names:
        before = read_state(folder / STATE)[1].get("command")
    if names and (before is None or not names <= FILES):
        raise DataError(f"--out {folder}: exists and is not empty; choose a new folder")
    if before is not None:
        compare(folder, before, command)
    if report.get("status") not in FINISHED:
        return None
    (folder / STATE).unlink(missing_ok=True)  # after a kill between the two
    return report


def bytes_needed(shapes: Model, recipe: Recipe, memories: Sequence[Memory]) -> int:
    """About the most that a run has on the disk at a time: unit, report, and two states."""
    sizes = unit_shapes(shapes, recipe.rank, recipe.sites, recipe.layers).values()
    parameters = recipe.rank * sum(d_in + d_out for d_in, d_out in sizes)
    copies = 2 * HISTORY if recipe.optimizer == "lbfgs" else 3  # gradients, or A and B, m and v
    tokens = sum(memory.length for memory in memories)
    steps = recipe.steps
    if recipe.epochs is not None:
        steps = recipe.epochs * recipe.steps_per_epoch(len(memories))
    state = 4 * (copies * parameters + 4 * steps + 2 * SNAPSHOTS * tokens)
    return 2 * state + 4 * parameters + 16 * tokens + OVERHEAD


def read_report(path: Path) -> dict[str, Any]:
    try:
        report = dict(json.loads(read_text(path)))
        check_report(report)
        dict(report.get("command", {}))
        return report
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path}: not a report; choose a new folder, or delete it") from error


def compare(folder: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Raises RecipeError, with the difference, if these are not the same."""
    now = json.loads(json.dumps(now))  # as it was read, which makes lists of tuples
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        was = "; ".join(f"{n} was {before.get(n)!r}, is {now.get(n)!r}" for n in names)
        raise RecipeError(f"--out {folder}: is of another run: {was}; choose a new folder")


def read_state(path: Path) -> tuple[State, dict[str, Any]]:
    """The state in a file, and its header. Raises DataError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, because Windows replaces no file of which a part is mapped into memory.
            state = {name: file.get_tensor(name).clone() for name in file.keys()}
        if metadata["sha256"] != hash_of(metadata["tinymem"], state):
            raise ValueError("its bytes have changed")
        return state, dict(json.loads(metadata["tinymem"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); delete it to begin again") from error


def hash_of(header: str, state: State) -> str:
    return hashlib.sha256(f"{header} {tensors_hash(state)}".encode()).hexdigest()


class StateFile(Keeper):
    """Keeps the state of the run in a folder, and has the state to go on from.

    Raises DataError or RecipeError, as `finished_report` does, also for another base or device.
    """

    def __init__(
        self,
        folder: Path,
        command: Mapping[str, object],
        model: Model,
        progress: Progress = SILENT,
    ):
        super().__init__()
        self.path, self.progress = folder / STATE, progress
        self.about = {"command": dict(command), "base": base_hash(model), **place_of(model)}
        clean_temporaries(self.path)
        if self.path.exists():
            self.state, before = read_state(self.path)
            self.seconds = before.pop("seconds")
            compare(folder, before, self.about)
            progress.warn(f"going on after {self.state['metrics'].shape[1]:,} steps")
        self.start = self.saved = time.monotonic()
        self.latest: tuple[State, Record, int] | None = None  # all that a save needs, at any moment
        self.warned = False

    def keep(self, record: Record, now: Callable[[], State]) -> None:
        self.latest = now(), record, record.count
        if time.monotonic() - self.saved >= EVERY:
            try:
                self.save()
            except OSError as error:
                if not self.warned:
                    self.progress.warn(f"the state cannot be saved ({error}); the run goes on")
                self.warned, self.saved = True, time.monotonic()

    def save(self) -> None:
        """Write the latest state, if there is one. Raises OSError."""
        if self.latest is None:
            return
        values, record, count = self.latest
        state = {**values, **record.until(count)}
        state = {name: value.cpu().contiguous() for name, value in state.items()}
        seconds = self.seconds + time.monotonic() - self.start
        header = json.dumps({**self.about, "seconds": seconds})
        metadata = {"tinymem": header, "sha256": hash_of(header, state)}
        write_bytes_atomically(self.path, save(state, metadata))
        self.saved = time.monotonic()

    def end(self, result: Result, model: Model, recipe: Recipe) -> bool:
        """Save the run; an interrupted one keeps its state. Returns whether there is a unit.

        Raises OSError, which names what is on the disk, if it is full.
        """
        folder, interrupted = self.path.parent, result.report["status"] == "interrupted"
        for name in FILES:
            clean_temporaries(folder / name)
        try:
            self.save()  # whatever is killed from here on, the same command goes on
            has_unit = save_run(result, model, recipe, folder, self.about["command"])
        except OSError as error:
            there = ", ".join(sorted(name for name in FILES if (folder / name).exists()))
            problem = f"the result could not be saved ({error.strerror or error})"
            advice = "free some space and run the same command again"
            raise OSError(
                f"{folder}: {problem}; on the disk: {there or 'nothing'}; {advice}"
            ) from error
        if not interrupted:
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # where Windows has it open
                (folder / LOCK).unlink(missing_ok=True)
        return has_unit
