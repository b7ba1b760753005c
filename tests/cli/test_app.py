"""The command line as a whole: help, completion, exit codes, signals, and a start without torch."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tinymem import __version__
from tinymem.cli import app as cli
from tinymem.errors import DataError

COMMANDS = ("probe", "sweep", "fit", "plan", "recall", "merge", "data")


def run_script(code, **environment):
    """stdout of a Python program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize("args", [[], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help(tinymem, args):
    code, out, _ = tinymem(*args)
    assert code == 0 and "Usage" in out
    assert args in ([], ["--help"], ["data", "--help"]) or f"Example: tinymem {args[0]}" in out


def test_every_command_and_the_completion_are_listed(tinymem):
    _, out, _ = tinymem("--help")
    assert all(f" {name} " in out for name in COMMANDS)
    assert "--install-completion" in out and "--show-completion" in out


def test_help_shows_the_choices_and_groups_the_options(tinymem, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = tinymem("probe", "--help")
    for choices in ("sft|memft-ot|memft-sw", "adamw|lbfgs", "sft|zero", "auto|cpu|cuda"):
        assert choices in out
    assert "auto|float32|bfloat16" in out
    for heading in ("Base model", "What to memorize", "Unit and training", "Output"):
        assert f"─ {heading} ─" in out


def test_version(tinymem):
    assert tinymem("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("tinymem pro", ["probe"]),
        ("tinymem probe --method memft", ["memft-ot", "memft-sw"]),
        ("tinymem sweep --opt", ["--optimizer"]),
        ("tinymem probe --text RE", []),  # nothing, so that the shell completes file names
    ],
)
def test_completion_in_bash(words, completed):
    code = "import sys; sys.argv = ['tinymem']; from tinymem.cli.app import main; main()"
    asked = {"_TINYMEM_COMPLETE": "complete_bash", "COMP_WORDS": words}
    out = run_script(code, **asked, COMP_CWORD=str(len(words.split()) - 1))
    assert out.split() == completed


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a line\n  in two parts"), 2, "tinymem: a line in two parts\n"),
        (OSError(28, "No space left", "x"), 1, "tinymem: [Errno 28] No space left: 'x'\n"),
        (RuntimeError("CUDA out of memory"), 1, "tinymem: out of memory; use a smaller base"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_end_in_an_exit_code_and_one_line(tinymem, monkeypatch, error, code, line):
    def fail(**options):
        raise error

    monkeypatch.setattr(cli, "app", fail)
    found, out, err = tinymem()
    assert found == code and out == "" and err.startswith(line) and err.count("\n") == bool(line)


def test_a_mistake_of_tinymem_is_not_hidden(tinymem, monkeypatch):
    monkeypatch.setattr(cli, "app", lambda **options: [].pop())
    with pytest.raises(IndexError):
        cli.main()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["prob"], "No such command 'prob'"),
        (["--nonsense"], "No such option"),
        (["probe", "--method", "memft"], "'memft' is not one of 'sft', 'memft-ot',"),
        (["recall"], "Missing argument"),
        (["sweep"], "Missing option '--out'."),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tinymem, args, words):
    code, out, err = tinymem(*args)
    assert code == 2 and not out and words in err and err.count("\n") == 1


def test_a_request_to_stop_is_an_interruption(tinymem, monkeypatch):
    monkeypatch.setattr(cli, "app", lambda **options: signal.raise_signal(signal.SIGTERM))
    assert tinymem() == (130, "", "")


def test_ctrl_c_writes_what_there_is_and_exits_130(tmp_path):
    """On a terminal of its own, so that the progress bar tells when the training is under way."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tinymem", "probe", "--full", "--steps", "1000000"]
    command += ["--out", str(out)]
    pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        command,
        stderr=terminal,
        stdout=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
        # A test run that a script starts in its background hands down "ignore SIGINT".
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(terminal)
    seen = b""
    while b"p > " not in seen:  # "p > ½ for … of the tokens": training has begun
        seen += os.read(screen, 4096)
    process.send_signal(signal.SIGINT)
    reader = threading.Thread(target=drain, args=(screen,), daemon=True)
    reader.start()
    try:
        shown, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert b"Interrupted" in shown and b"Traceback" not in seen
    report = json.loads((out / "report.json").read_text())
    assert report["status"] == "interrupted" and report["steps"] < 1_000_000
    assert (out / "unit.safetensors").exists() == (report["steps"] > 0)


def drain(screen: int) -> None:
    with contextlib.suppress(OSError):  # the other end closes
        while os.read(screen, 4096):
            pass


def test_help_does_not_wait_for_torch():
    code = """
import sys
sys.argv = ["tinymem", "probe", "--help"]
from tinymem.cli.app import main
try:
    main()
finally:
    print("loaded:", [name for name in ("torch", "numpy", "safetensors") if name in sys.modules])
"""
    assert "loaded: []" in run_script(code)
