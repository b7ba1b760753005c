"""`tinymem probe --out` that is killed, interrupted, repeated, or started twice at once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tinymem.experiment import resume

RUN = ["--full", "--steps", "160", "--length", "12", "--rank", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the run without an interruption, in a process of its own as all of these."""
    folder = tmp_path_factory.mktemp("probe") / "whole"
    start(folder).wait(60)
    return folder


def start(folder, every=0.05, pause=0.0):
    """A process that trains; it saves its state after so many seconds, and waits in every step."""
    script = f"""
import sys, time
from tinymem.cli.app import main
from tinymem.experiment import resume
from tinymem.training.trainer import Trainer
resume.EVERY, real = {every}, Trainer.update
Trainer.update = lambda *args: (time.sleep({pause}), real(*args))
sys.argv = ["tinymem", "probe", *{RUN}, "--out", {str(folder)!r}]
main()"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def same_run(one, other):
    """Equal units, byte for byte, and equal reports but for the time."""
    units = [(folder / "unit.safetensors").read_bytes() for folder in (one, other)]
    reports = [json.loads((folder / "report.json").read_text()) for folder in (one, other)]
    times = [report.pop("wall_seconds") for report in reports]
    size = [int.from_bytes(unit[:8], "little") for unit in units]
    tensors = [unit[8 + n :] for unit, n in zip(units, size, strict=True)]
    return reports[0] == reports[1] and tensors[0] == tensors[1] and all(times)


def test_killed_while_another_waits_and_then_finished(tinymem, tmp_path, whole):
    out = tmp_path / "run"
    process = start(out, pause=0.01)
    wait_for(out / resume.STATE)
    code, _, err = tinymem("probe", *RUN, "--out", out)
    assert code == 2 and "another process is writing there" in err and err.count("\n") == 1
    process.kill()
    process.communicate()
    code, _, err = tinymem("recall", out)
    assert code == 2 and "the same probe command goes on" in err and err.count("\n") == 1
    left = out / f".{resume.STATE}.0123abcd.tmp"
    left.write_text("half")
    code, _, err = tinymem("probe", *RUN[:-4], "--rank", "3", "--out", out)
    assert code == 2 and "rank was 4, is 3" in err and "device was 'cpu', is 'auto'" in err
    code, shown, err = tinymem("probe", *RUN, "--out", out)
    assert code == 0 and "Recited" in shown and "going on after" in err
    assert same_run(out, whole)
    assert sorted(os.listdir(out)) == ["report.json", "unit.safetensors"]
    # On a finished folder the report comes again, and nothing is trained.
    code, again, _ = tinymem("probe", *RUN, "--out", out, "--json")
    report = json.loads((out / "report.json").read_text())
    del report["command"]
    assert code == 0 and json.loads(again) == report
    code, _, err = tinymem("probe", "--steps", "9", "--out", out)
    assert code == 2 and "steps was 160, is 9" in err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_signal_saves_and_the_run_goes_on(tinymem, tmp_path, whole):
    out = tmp_path / "run"
    process = start(out, pause=0.01)
    wait_for(out / resume.STATE)
    asked = time.monotonic()
    process.send_signal(signal.SIGHUP)  # a closed terminal; the others take the same way
    shown, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Interrupted" in shown and "Traceback" not in err
    assert time.monotonic() - asked < 20  # 2 s on an idle machine
    assert "the same command goes on" in shown
    report = json.loads((out / "report.json").read_text())
    files = {".lock", "report.json", resume.STATE}
    files |= {"unit.safetensors"} if report["steps"] else set()  # the first state is of step 0
    assert report["status"] == "interrupted" and set(os.listdir(out)) == files
    assert tinymem("probe", *RUN, "--out", out)[0] == 0
    assert same_run(out, whole)
