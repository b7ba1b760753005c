"""Grades the key with several seeds: `python -m tests.course.seeds 20`, or `… 20 ex5 rung4`.

Prints the points and the seconds of each seed, and the reasons of what failed. The exit code is 1
if a seed did not give all points. It takes minutes, so the test suite itself tries two seeds only.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def grade(seed: int, parts: list[str]) -> dict:
    """The grades of the key."""
    with tempfile.TemporaryDirectory() as folder:
        grades = Path(folder) / "grades.json"
        command = [sys.executable, "-m", "pytest", "tutorials", "-q", "-p", "no:cacheprovider"]
        command += ["--answers=tests/answer_key.py", f"--seed={seed}", f"--grades={grades}"]
        command += ["-m", " or ".join(parts)] if parts else []
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        return json.loads(grades.read_text(encoding="utf-8"))


def main(count: str, *parts: str) -> int:
    complete = True
    for seed in range(1, int(count) + 1):
        start = time.perf_counter()
        grades = grade(seed, list(parts))
        seconds = time.perf_counter() - start
        print(f"seed {seed}: {grades['points']} of {grades['of']}, {seconds:.0f} s", flush=True)
        for check in grades["checks"]:
            if not check["passed"]:
                complete = False
                print(f"  {check['check']}: {check['reason'].splitlines()[0]}", flush=True)
    return 0 if complete else 1


if __name__ == "__main__":
    if len(sys.argv) < 2 or not sys.argv[1].isdigit():
        sys.exit("usage: python -m tests.course.seeds COUNT [PART …], for example 20 ex5")
    sys.exit(main(*sys.argv[1:]))
