"""Output in any encoding, onto streams that are closed, full or gone; signals; terminal escapes.

Oracles: Python's own codecs, the shell's redirections, and the JSON parser.
"""

import ast
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tinymem import system
from tinymem.cli import app as cli
from tinymem.system import PLAIN, SHOW_CURSOR

ENCODINGS = ["cp1252", "cp437", "gbk", "cp932", "ascii"]
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="uses a Unix shell or Unix signals")
SHORT = ("--length", "8", "--rank", "1", "--steps", "2")


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Path:
    """Rows of ΔL = 14 √r ℓ^−0.4, some of them recited."""
    folder, lines = tmp_path_factory.mktemp("grid"), []
    fixed = {"ratio": 100, "method": "sft", "model": "tiny", "status": "ok", "converged": True}
    for rank, length in product((1, 2, 4, 8), (16, 32, 64)):
        delta = min(14 * rank**0.5 * length**-0.4, 11.8)
        row = fixed | {"rank": rank, "length": length, "delta_loss": delta, "base_loss": 12.0}
        row |= {"final_loss": 12.0 - delta, "certified": delta > 11.4, "verbatim": delta > 11}
        row |= {"trainable_parameters": 512 * rank, "entropy": 7.6}
        lines.append(json.dumps(row) + "\n")
    (folder / "results.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def encoded(monkeypatch, tinymem):
    """A function from an encoding and a command to (exit code, stdout, stderr)."""

    def run(encoding, *args):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        code, _, _ = tinymem(*args)
        sys.stderr.flush()
        return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)

    return run


# --- Encodings -----------------------------------------------------------------------------------


def check_commands(encoded, encoding, commands):
    for args, words in commands.items():
        code, out, err = encoded(encoding, *args)
        assert code == 0 and words in out and "Traceback" not in err, (args, err)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_table_fails_for_a_character(encoded, encoding, grid):
    commands = {("--help",): "Usage", ("probe", "--help"): "Usage", ("fit", grid): "nats per token"}
    check_commands(encoded, encoding, commands | {("plan", grid, "--length", "40"): "fresh runs"})
    code, out, err = encoded(encoding, "probe", "--model", "/nowhere/Δ漢")
    assert code == 2 and not out and "nowhere" in err
    prompt = ["--prompt", "½ 漢字"]
    (line,) = encoded(encoding, "data", "random", "--length", "4", *prompt)[1].splitlines()
    assert len(json.loads(line)["target_ids"]) == 4


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_no_command_fails_for_a_character(encoded, encoding, grid, tmp_path):
    text = tmp_path / "text"
    text.write_text("Δ→½ “naïve” 漢字 \U0001f600 It was a dark night.", encoding="utf-8")
    probe = ("probe", "--text", text, "--rank", "1", "--steps", "2", "--out", tmp_path / "a")
    sweep = ("sweep", "--ranks", "1", "--lengths", "4", "--steps", "1", "--out", tmp_path / "b")
    recall = ("recall", tmp_path / "a")
    judge = ("judge", "--adapter", tmp_path / "a", "--text", text)
    audit = (*judge, "--context", "4", "--window", "4", "--stride", "1")
    answers = {recall: "As reported", judge: "recited", audit: "recited", sweep: "Saved"}
    check_commands(encoded, encoding, {probe: "Saved", **answers})
    for args in (["probe", *SHORT, "--json"], ["fit", grid, "--json"]):
        assert json.loads(encoded(encoding, *args)[1])


def test_in_ascii_the_law_can_still_be_read(encoded, grid):
    _, out, _ = encoded("ascii", "fit", grid)
    assert "\ndL = 14 * r^0.500 * l^-0.400 " in out and "saturated (final loss <= ln 2)" in out
    assert "?" not in out


def test_every_character_of_our_own_is_spelled_out():
    """Those in the strings of the packages that print, but not in their docstrings."""
    package, found = Path(cli.__file__).parents[1], set()
    for path in [*package.glob("cli/*.py"), *package.glob("show/*.py"), *package.glob("law/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in docs
            ):
                found |= set(node.value)
    assert {char for char in found if not char.isascii()} <= set(PLAIN)
    assert all(word.isascii() and word for word in PLAIN.values())


# --- Streams -------------------------------------------------------------------------------------


def run_in_shell(redirection, *args):
    """The command under bash, with its output redirected: (exit code, what is still visible)."""
    words = " ".join(map(str, (sys.executable, "-m", "tinymem", *args)))
    script = f"({words}; echo code $? >&3) {redirection}"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    command = ["bash", "-c", f"exec 3>&1; {script}"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    shown, _, code = done.stdout.rpartition("code ")
    return int(code), shown + done.stderr


@UNIX
@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [
        (">&-", 0, ""),
        ("2>&-", 0, "nats per token"),
        ("<&- >&- 2>&-", 0, ""),
        ("2>/dev/full", 0, "nats per token"),
        (">/dev/full", 1, "tinymem: [Errno 28] No space left on device\n"),
        ("| true", 1, ""),
    ],
)
def test_a_stream_that_is_closed_full_or_gone(grid, redirection, code, words):
    if "full" in redirection and not os.path.exists("/dev/full"):
        pytest.skip("Linux alone has a device that is always full")
    torn = grid / "torn.jsonl"  # it is named on stderr
    rows = (grid / "results.jsonl").read_text(encoding="utf-8")
    torn.write_text(rows + '{"rank": 1, "len', encoding="utf-8")
    found, shown = run_in_shell(redirection, "fit", torn)
    assert found == code and words in shown
    assert "Traceback" not in shown and "ignored" not in shown
    assert code == 0 or shown.count("\n") == 1 + bool(words)  # the torn line, and the error


@UNIX
def test_what_was_computed_is_saved_whatever_becomes_of_the_streams(tmp_path):
    out = tmp_path / "run"
    assert run_in_shell("2>&1 | true", "probe", *SHORT, "--out", out) == (1, "")
    assert (out / "report.json").exists() and (out / "unit.safetensors").exists()
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["status"] == "ok"


@UNIX
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """Otherwise what a library writes to stderr would end up in that file."""
    code = "import os, sys; from tinymem import system; system.open_streams(); "
    code += "number = os.open(os.devnull, os.O_RDONLY); open(sys.argv[1], 'w').write(str(number))"
    command = f"{sys.executable} -c {shlex.quote(code)} {tmp_path}/number <&- >&- 2>&-"
    subprocess.run(["bash", "-c", command], check=True)
    assert int((tmp_path / "number").read_text(encoding="utf-8")) > 2


# --- Signals -------------------------------------------------------------------------------------

WAITS = """
import sys, time
from tinymem import system
from tinymem.cli import app as cli
system.TWICE = float(sys.argv[2])
def app(**_):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("handling", flush=True)
        time.sleep(float(sys.argv[1]))
        print("handled", flush=True)
cli.app = app
cli.main()
"""


def interrupt(signals: list[str], handling: float, twice: float, stderr: Any = subprocess.PIPE):
    """A process that got the signals one after another, as soon as it deals with the one before.

    It deals with the first for `handling` seconds, and `twice` takes the place of system.TWICE, so
    that no result depends on how fast this machine is.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(handling), str(twice)],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for name, line in zip(signals, ("ready\n", "handling\n"), strict=False):
        assert process.stdout.readline() == line
        process.send_signal(getattr(signal, name))
    return process


@UNIX
@pytest.mark.parametrize(
    ("signals", "handled"),
    [
        (["SIGINT"], True),
        (["SIGHUP", "SIGHUP"], True),  # a closed terminal: both the shell and the system tell
        (["SIGTERM", "SIGTERM"], True),  # `timeout` tells the process, and then its group
        (["SIGINT", "SIGINT"], False),
        (["SIGHUP", "SIGTERM"], False),
    ],
)
def test_the_first_signal_interrupts_and_the_second_ends_at_once(signals, handled):
    process = interrupt(signals, *((0.5, 60) if handled else (60, 0)))
    out, err = process.communicate(timeout=50)  # less than 60 seconds: it did not wait
    assert ("handled" in out) == handled
    assert process.returncode == 130 and err == ""


def test_how_long_two_signals_are_one_request():
    """Longer than a system takes to send both, shorter than a person takes to press a key twice."""
    assert 0.1 <= system.TWICE <= 0.5


@UNIX
def test_the_cursor_is_back_after_the_second_signal():
    pty = pytest.importorskip("pty")
    screen, terminal = pty.openpty()
    process = interrupt(["SIGTERM", "SIGTERM"], 60, 0, stderr=terminal)
    process.communicate(timeout=50)
    assert process.returncode == 130 and os.read(screen, 100) == SHOW_CURSOR
    os.close(screen)
    os.close(terminal)


@UNIX
def test_a_signal_that_is_ignored_stays_ignored(tinymem, monkeypatch):
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(cli, "app", lambda **_: os.kill(os.getpid(), signal.SIGHUP))
        assert tinymem() == (0, "", "")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_during_the_first_imports(monkeypatch):
    code = """
import sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupts())
from tinymem.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_import_that_turns_an_interruption_into_another_error(tinymem, monkeypatch):
    def app(**_):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("cannot import name") from None

    monkeypatch.setattr(cli, "app", app)
    assert tinymem() == (130, "", "")
