"""Medians of peers that take turns, what a measurement says, and on what machine it was taken."""

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

BURST = 0.05  # seconds that one timing lasts at least
SLOW = 5.0  # seconds; calls that take longer on average need no warm-up


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
    """Median seconds of one call of each, and of how many timings.

    The calls take turns, and the order turns round every time, so that a machine that slows down does so
    for all. After a warm-up (on a GPU several calls: graphs are recorded there), three rounds at least,
    `most` at most, and no more than begin within `budget` seconds. Fast calls are timed several at once;
    of slow ones there are two rounds, the first calls being one.
    """
    gc.collect()  # what an earlier measurement left
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
            times[name].append(
                seconds(lambda c=call, n=count: [c() for _ in range(n)], device) / count
            )
    return {name: statistics.median(t) for name, t in times.items()}, done


@dataclass
class Row:
    """One measurement. `value` is what the target is about: a ratio, gigabytes or a difference."""

    work: str
    model: str
    case: str
    against: str = ""  # the peer
    ours: float | None = None  # in `unit`; a median of `rounds` timings
    theirs: float | None = None
    unit: str = "s"
    value: float | None = None
    target: float | None = None
    at_most: bool = False  # else at least
    rounds: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None or self.value is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target


class Rows(list):
    """All rows so far; each is told on stderr as it comes."""

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
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
        cpu = names[0] if names else cpu
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
