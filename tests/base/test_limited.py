"""Calls in a child process with limits. The functions here are what it is asked to call."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinymem.base.limited import LimitError, call_limited

LIMITS = {"seconds": 1.0, "megabytes": 512}


def pair(one, two):
    return {"both": [one, two], "pid": os.getpid()}


def fail(kind):
    raise {"two lines": ValueError("first\nsecond"), "empty": KeyError(), "exit": SystemExit(3)}[
        kind
    ]


def endless():
    return 3 ** (3**25)  # one operation, which holds the interpreter's lock


def crash():
    os._exit(9)


def fill():
    return len(b"1" * (1 << 30 if sys.platform == "linux" else 1 << 46))


def interrupt():
    signal.raise_signal(signal.SIGINT)
    return "went on"


def test_arguments_and_results_go_as_json():
    found = call_limited(pair, "ü \ud83d \U0001f600", [1, None], **LIMITS)
    assert found["both"] == ["ü \ud83d \U0001f600", [1, None]]
    assert found["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        (fail, ["two lines"], "^first$"),
        (fail, ["empty"], "^KeyError$"),
        (fail, ["exit"], "^3$"),
        (endless, [], "more than 1 s or 512 MB"),
        (crash, [], "it crashes"),
        (fill, [], "^it needs more than 512 MB$"),
    ],
)
def test_a_failure_is_told_in_one_line(function, arguments, reason, capfd):
    start = time.monotonic()
    with pytest.raises(LimitError, match=reason):
        call_limited(function, *arguments, **LIMITS)
    assert time.monotonic() - start < 5
    assert capfd.readouterr() == ("", "")


def test_an_interrupt_is_for_the_parent():
    assert call_limited(interrupt, **LIMITS) == "went on"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups to look into")
def test_a_child_ends_although_its_parent_was_killed(tmp_path):
    """Its own clock stops it, so that no hostile program stays behind."""
    code = f"""import os, sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.base import test_limited as t
open({str(tmp_path / "ready")!r}, "w").close()
t.call_limited(t.endless, seconds=0.8, megabytes=512)"""
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        try:
            os.killpg(parent.pid, 0)
        except ProcessLookupError:
            return  # nobody of that group is left
        time.sleep(0.05)
    raise AssertionError("the child still runs")
