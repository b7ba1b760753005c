"""Times several calls in turns, and records the measurements and the machine."""

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import torch

BURST = 0.05  # the shortest time of one timing, seconds
SLOW = 5.0  # calls that take longer than this on average (seconds) have no separate warm-up


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def alternate(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    most: int = 9,
    budget: float = 15.0,
) -> tuple[dict[str, float], int]:
    """The median time of each call in seconds, and the number of rounds.

    The calls take turns, in an order that is reversed each time, so that a change in the speed of
    the machine affects all of them. After a warm-up there are at least three rounds and at most
    `most`; after `budget` seconds no further round begins. The warm-up is one call, or several on a
    GPU, where graphs are recorded. Fast calls are repeated within one timing. Slow calls have two
    rounds, and their warm-up is the first one.
    """
    gc.collect()  # frees what an earlier measurement has left
    if device.type == "cuda":
        torch.cuda.empty_cache()
    counts, times = {}, {}
    for name, call in calls.items():
        for _ in range(6 if device.type == "cuda" else 1):
            once = seconds(call, device)
        counts[name] = min(50, 1 + int(BURST / once))
        times[name] = [once]
    least = 2
    if sum(once for (once,) in times.values()) < SLOW * len(calls):
        least, times = 3, {name: [] for name in calls}
    start = time.perf_counter()
    while (done := len(times[name])) < most and (
        done < least or time.perf_counter() - start < budget
    ):
        for name in list(calls)[:: -1 if done % 2 else 1]:
            call, count = calls[name], counts[name]
            taken = seconds(lambda c=call, n=count: [c() for _ in range(n)], device)
            times[name].append(taken / count)
    return {name: statistics.median(t) for name, t in times.items()}, done


@dataclass
class Row:
    """One measurement. The target applies to `value`: a ratio, gigabytes or a difference."""

    work: str
    model: str
    case: str
    against: str = ""  # the peer
    ours: float | None = None  # in `unit`; the median over `rounds` rounds
    theirs: float | None = None
    unit: str = "s"
    value: float | None = None
    target: float | None = None
    at_most: bool = False  # whether the target is an upper bound
    rounds: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None or self.value is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


class Rows(list):
    """All rows so far. Each new row is printed on stderr."""

    def add(self, *args, **fields) -> Row:
        row = Row(*args, **fields)
        if row.value is None and row.ours and row.theirs:
            row.value = row.ours / row.theirs if row.at_most else row.theirs / row.ours
        self.append(row)
        value = row.note if row.value is None else f"{row.against} {row.value:.3g}"
        print(f"{row.work}, {row.model}, {row.case}: {value}", file=sys.stderr, flush=True)
        return row

    def find(self, *key: str) -> Row | None:
        """The row of this work, model, case and peer, if it has been measured."""
        found = (row for row in self if (row.work, row.model, row.case, row.against) == key)
        return next(found, None)

    def skip(self, work: str, model: str, case: str, why: str, **fields) -> None:
        self.add(work, model, case, note=f"not measured: {why}", **fields)


def about_machine() -> dict:
    cpu = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
        cpu = names[0].strip() if names else cpu
    return {
        "system": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def versions() -> dict:
    packages = ("tinymem", "torch", "transformers", "peft", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
