"""Texts of strangers on the terminal: escapes, controls, reversed writing and markup are shown.

Property: nothing but rich's own colours and cursor movements reaches the terminal.
"""

import json
import os
import re
import sys
from io import StringIO

import pytest

from tests.show.test_report import FAILED, REPORT, Words, verdict
from tinymem.cli import app
from tinymem.data.memory import Memory
from tinymem.errors import DataError
from tinymem.files import printable
from tinymem.show import report as screen
from tinymem.show.progress import Bars
from tinymem.show.report import Terminal, note, show_recall, show_report, show_tokens

# A title, a cleared screen, C1's own escape, a link, reversed writing, a line that is overwritten,
# markup that is well-formed and markup that is not, an emoji's name, the end of a line.
HOSTILE = [
    *("\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "\x1b]8;;http://evil\x1b\\", "\u202egpj", "a\rb\bc"),
    *("[red]x", "[/]", "[link=http://evil]x[/link]", "\\", ":smile:", "x\n\nCertified"),
]
OWN = re.compile(r"\x1b\[(\?25[lh]|1A|2K|[\d;]*m)|\r")  # rich's cursor and colours


def obeyed(text: str) -> str:
    """What a terminal would obey; rich's own sequences are no part of it."""
    rest = OWN.sub("", text)
    return "".join(char for char in rest if printable(char) != char)


@pytest.mark.parametrize("text", HOSTILE)
def test_progress_bars_and_messages(text):
    console = Terminal(file=StringIO(), force_terminal=True, width=80, highlight=False)
    with Bars(console=console) as bars:
        list(bars.track([1, 2], text))
        bars.sweep(1, 2, 2.0)
        bars.group(text, 0, 1.0)
        list(bars.track([1], text))
        bars.bars.refresh()
        bars.warn(text)
    found = console.file.getvalue()
    assert not obeyed(found) and "\x1b[2J" not in found


@pytest.mark.parametrize("text", HOSTILE)
def test_every_text_of_a_report_and_every_token(capsys, monkeypatch, text):
    monkeypatch.setattr(screen.stdout, "_width", 1000)  # no line is broken
    strings = {name: text for name, value in REPORT.items() if isinstance(value, str)}
    hostile = REPORT | FAILED | strings | {"agrees": False}
    words = Words(_0=text, _1=text * 2)
    report = hostile | {"status": "ok"}
    for method in ("ok", "diverged", "interrupted", text):
        show_report(report | {"status": method})
    show_tokens(verdict([0.4, 0.9, 0.9], {0: 1}), words)
    show_recall(report, Memory([0, 1], [2, 0]), verdict([0.4, 0.9], {0: 1}), words)
    out = capsys.readouterr().out
    assert out and not obeyed(out) and "\r" not in out
    assert "\nCertified" not in out  # no text of the report begins a line of its own


@pytest.mark.parametrize("text", HOSTILE)
def test_messages_on_stderr(capsys, text):
    note(text)
    err = capsys.readouterr().err
    assert not obeyed(err) and err.count("\n") == 1 + text.count("\n")
    assert set(text) - set("\r\b\x07") <= set(err) | set("\x1b\x9b\u202e")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such file names")
@pytest.mark.parametrize("text", ["".join(HOSTILE[:6]), "[/]", "".join(HOSTILE[6:])])
def test_file_names_and_rows_on_the_command_line(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*args):
        monkeypatch.setattr("sys.argv", ["tinymem", *map(str, args)])
        with pytest.raises(SystemExit):
            app.main()
        out, err = capsys.readouterr()
        assert not obeyed(out) and not obeyed(err) and "\r" not in out + err and (out or err)
        return out, err

    place = tmp_path / text.replace("/", "_")
    place.mkdir()
    rows = place / "results.jsonl"
    lines = []
    for rank in (1, 2, 4):
        for length in (8, 16, 32):
            row = {"rank": rank, "length": length, "delta_loss": 9 * rank**0.5 * length**-0.4}
            names = {"model": text, "method": text, "site": text, "status": "ok", "layer": text}
            lines.append(json.dumps(row | names) + "\n")
    rows.write_text("".join(lines), encoding="utf-8")
    out, _ = run("fit", place)
    assert "\nCertified" not in out
    run("plan", place, "--length", "10")
    _, err = run("plan", place, "--length", "10", "--method", f"{text}!")
    assert err.count("\n") == 1
    rows.write_text("".join(lines) + '{"rank": 1, "' + text.replace("\n", ""), encoding="utf-8")
    run("fit", place)
    _, err = run("data", "phonebook", "--count", "1", "--out", place / "results.jsonl")
    assert err.count("\n") == 1 and "exists" in err
    _, err = run("probe", "--model", f"./{text}", "--steps", "1")
    assert err.count("\n") == 1


def test_an_error_of_several_lines_is_one_line(capsys):
    assert app.fail(DataError("a\x1b[2J\u2028b\n  c")) == 2
    assert capsys.readouterr().err == "tinymem: a\\x1b[2J b c\n"
    assert app.explain(OSError(28, "No space left", "a\nb"))[0] == 1


def test_a_traceback_is_printed_without_escapes(capsys, monkeypatch):
    def fail(**_):
        raise IndexError("a\x1b[2J")

    monkeypatch.setattr(app, "app", fail)
    with pytest.raises(IndexError) as caught:
        app.main()
    sys.excepthook(caught.type, caught.value, caught.tb)
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.endswith("IndexError: a\\x1b[2J\n")


def test_colours_of_our_own_are_kept():
    console = Terminal(file=StringIO(), force_terminal=True, color_system="standard", width=80)
    console.print("[bold red]x[/]")
    assert console.file.getvalue() == "\x1b[1;31mx\x1b[0m\n"
    assert isinstance(screen.stdout, Terminal) and isinstance(screen.stderr, Terminal)
