"""Runs the checks on one hand-in, and says how that ended."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from autograder_class import PARTS, Graded, Refused

HERE = Path(__file__).resolve().parent
PYTEST = (sys.executable, "-m", "pytest")


def read_grades(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def done(grades: dict | None) -> str:
    """How far the grading has come, for a line of progress."""
    checks = (grades or {}).get("checks", [])
    count = sum(check["reason"] != "not run" for check in checks)
    return f"{count} of {len(checks)} checks" if checks else "starting"


def grade(
    hand_in: Path,
    path: Path,
    options: list[str],
    timeout: float = 1800,
    progress: Callable[[str], None] = lambda text: None,
) -> Graded:
    """Runs pytest on one hand-in, in a process of its own. The grades are written to `path`.

    Python looks for modules in the current folder, where those of a student might be. So pytest
    runs in an empty one.
    """
    command = [*PYTEST, str(HERE), "-p", "no:cacheprovider", f"--answers={hand_in.absolute()}"]
    command += [f"--grades={path.absolute()}", *options]
    places = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, places))}
    environment |= {"PYTHONSAFEPATH": "1"}  # from Python 3.11
    path.unlink(missing_ok=True)
    start = time.monotonic()
    empty = tempfile.TemporaryDirectory(prefix="grader-", ignore_cleanup_errors=True)
    with tempfile.TemporaryFile() as log, empty as cwd:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=cwd
        )
        try:
            while process.poll() is None and time.monotonic() - start < timeout:
                time.sleep(0.1)
                progress(done(read_grades(path)))
            late = process.poll() is None
        finally:
            stop(process)
        log.seek(0)
        output = log.read().decode("utf-8", "replace").strip()
    if process.returncode in (4, 5):  # of pytest: a wrong option, or no check is selected
        errors = re.findall(r"^(?:ERROR|.*: error): (.*)", output, re.MULTILINE)
        raise Refused(errors[-1] if errors else f"no check is selected: {' '.join(options)}")
    grades, seconds = read_grades(path), time.monotonic() - start
    if late:
        return Graded(grades, f"stopped after {timeout:g} seconds", seconds)
    if process.returncode not in (0, 1):  # the points so far say nothing about the student
        return Graded(None, f"not graded: an error in the grader: {reason(output)}", seconds)
    if grades is None:
        return Graded(None, f"not graded: {reason(output)}", seconds)
    return Graded(grades, "" if grades["finished"] else "the grading ended early", seconds)


def reason(output: str) -> str:
    """The last line of what pytest has said; of an error in the grader, the exception."""
    lines = output.splitlines() or ["pytest said nothing"]
    internal = re.findall(r"^INTERNALERROR> (\S.*)", output, re.MULTILINE)
    return (internal or lines)[-1].rstrip(": ")


def stop(process: subprocess.Popen) -> None:
    """Ends pytest, and where the system has such a signal lets it end the hand-in first."""
    if os.name == "posix" and process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    process.kill()
    process.wait()


def points_of(options: list[str]) -> dict[str, dict[str, float]]:
    """The points of each selected part, without running a check: {"rungs": {"1": 4}, …}."""
    with tempfile.TemporaryDirectory() as folder:
        graded = grade(HERE, Path(folder) / "grades.json", ["--collect-only", *options])
    if graded.grades is None:
        raise Refused(graded.note)
    return {key: {number: one["of"] for number, one in graded.grades[key].items()} for key in PARTS}
