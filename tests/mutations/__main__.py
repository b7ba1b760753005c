"""Damages every kind of file at random: each must be read, or refused in one line, in time.

    python -m tests.mutations --inputs 5000 --seed 0        all kinds, in two worker processes
    python -m tests.mutations --seed 0 --number 17          one input again, with its traceback

An input is a file of one kind with one to three mutations (bytes flipped, cut, doubled, inserted;
JSON values of other types, huge numbers, deletions, depth), which follow from seed and number. The
command line that reads such a file runs on it. It is a failure if

- it ends in an exception, in the death of the process, or takes longer than 10 s;
- bad input (exit code 2) is not said in a line that begins with "tinymem: ";
- a control character reaches stdout or stderr, or the memory of the process grows by 1 GB;
- a changed value of a unit or of a saved state is not noticed.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter, deque
from multiprocessing.connection import wait
from pathlib import Path

from tests.mutations.kinds import KINDS, ORDER, check_homes, input_of, make_homes, try_input, work

LIMIT, WORKERS = 10.0, 2  # seconds that an input may take; processes


class Worker:
    """A process that tries inputs, and is replaced when it hangs or dies."""

    def __init__(self, context, seed: int, bases: Path):
        self.start = lambda: self.spawn(context, seed, bases)
        self.number: int | None = None
        self.start()

    def spawn(self, context, seed: int, bases: Path) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, seed, bases), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()  # None, when it has imported torch

    def send(self, number: int) -> None:
        self.number, self.since = number, time.monotonic()
        self.pipe.send(number)

    def result(self, ready: bool) -> tuple[str, int, str] | None:
        """What it found; None while it works."""
        late = time.monotonic() - self.since > LIMIT + (20 if not ready else 0)
        name, problem = ORDER[self.number % len(ORDER)], ""
        if ready:
            try:
                found = self.pipe.recv()
                late &= not found[2]
                return (*found[:2], f"takes more than {LIMIT:.0f} s") if late else found
            except (EOFError, OSError):
                problem = "the process died"
        elif late:
            problem = "hangs"
        if not problem:
            return None
        self.process.kill()
        self.process.join()
        self.start()
        return name, -1, problem


def try_all(inputs: int, seed: int, bases: Path) -> tuple[Counter, list[str]]:
    """How often each kind ended with each exit code, and a line for each failure."""
    context = multiprocessing.get_context("spawn")
    workers = [Worker(context, seed, bases) for _ in range(WORKERS)]
    waiting, counts, failures = deque(range(inputs)), Counter(), []
    while waiting or any(worker.number is not None for worker in workers):
        for worker in workers:
            if worker.number is None and waiting:
                worker.send(waiting.popleft())
        busy = [worker for worker in workers if worker.number is not None]
        ready = wait([worker.pipe for worker in busy], timeout=1)
        for worker in busy:
            found = worker.result(worker.pipe in ready)
            if found is not None:
                counts[found[:2]] += 1
                if found[2]:
                    failures.append(f"{found[0]}, number {worker.number}: {found[2]}")
                worker.number = None
    for worker in workers:
        worker.process.kill()
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=None)
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_HOME"] = str(Path(folder, "hub"))
        bases = Path(folder, "bases")
        bases.mkdir()
        make_homes(bases)
        check_homes(bases)
        if options.number is not None:
            name, data, command = input_of(options.seed, options.number, bases)
            print(name, " ".join(command), data[:2000])
            print(try_input(options.seed, options.number, bases))
            return 0
        start = time.monotonic()
        counts, failures = try_all(options.inputs, options.seed, bases)
    for name in KINDS:
        codes = {code: n for (kind, code), n in sorted(counts.items()) if kind == name}
        print(f"{name:28} {sum(codes.values()):5} inputs; exit codes {codes}")
    for line in failures:
        print(f"FAILED {line}")
    took = time.monotonic() - start
    print(f"{options.inputs} inputs, {len(failures)} failures, {took:.0f} s, seed {options.seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
