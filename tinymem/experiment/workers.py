"""The processes that share a sweep (torchrun), and the lock that keeps other sweeps out."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout

from ..errors import RecipeError

T = TypeVar("T")
LOCK = ".lock"  # a file in the folder of a run or a sweep


class Workers:
    """This process among those that share a sweep: alone, or one of torchrun's."""

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self.store: Any = None  # torch.distributed's, which all workers see; None if alone
        self.sums: Counter[str] = Counter()
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            self.store, self.rank, self.count = next(torch.distributed.rendezvous("env://"))
            shared = {"store": self.store, "rank": self.rank, "world_size": self.count}
            long = timedelta(days=365)  # `wait` lasts as long as the others' last cells
            torch.distributed.init_process_group("gloo", timeout=long, **shared)

    def device(self, name: str) -> str:
        """For "auto" or "cuda": this worker's own GPU, where there are any."""
        number = int(os.environ.get("LOCAL_RANK", 0))
        return f"cuda:{number}" if torch.cuda.is_available() else name

    def take(self, groups: Sequence[T]) -> Iterator[T]:
        """The groups in order, each of them to the worker that is free first."""
        self.sums["sweeps"] += 1  # each sweep has a counter of its own
        while (number := self.add(f"taken {self.sums['sweeps']}", 1) - 1) < len(groups):
            yield groups[number]

    def add(self, name: str, amount: int) -> int:
        """Adds to a number that all workers share, and returns the sum."""
        if self.store is not None:
            return int(self.store.add(name, amount))
        self.sums[name] += amount
        return self.sums[name]

    def wait(self) -> None:
        """Until all workers are here."""
        if self.store is not None:
            torch.distributed.barrier()


@contextmanager
def lock(folder: Path, first: bool = True) -> Iterator[None]:
    """Creates the folder and keeps other runs and sweeps out.

    The lock ends with the process, even if killed. first: of the workers of a sweep, the first one
    holds it for all. Raises RecipeError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise RecipeError(f"--out {folder}: is a file, or within one; choose a folder") from error
    file = FileLock(folder / LOCK)
    try:
        with file.acquire(blocking=False) if first else nullcontext():
            yield
    except Timeout:
        problem = "another process is writing there; wait for it"
        raise RecipeError(f"--out {folder}: {problem}") from None
