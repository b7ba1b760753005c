"""Rows of a sweep: whole lines are read, torn ones are skipped, and appending loses none."""

import errno
import json
import os
import subprocess
import sys

import pytest

from tests.experiment.sweeps import FileOfRows, wait_for
from tinymem.errors import DataError
from tinymem.experiment import rows as rows_file
from tinymem.experiment.rows import RESULTS, append_row, read_rows

# Braces, quotes and backslashes in strings, and objects in objects: a torn line of these is hard
# to tell from a whole one.
NASTY = {
    "a": '}"{',
    "b\\": {"c": [1, {"d": "\\"}], "e": {}},
    "é": "\\\\}",
    "f": -1.5e-3,
    "g": {"h": "}"},
}


def without_lines(rows: list[dict]) -> list[dict]:
    """Rows without the name of the line that each of them was read from."""
    return [{name: value for name, value in row.items() if name != "_where"} for row in rows]


# --- Reading -------------------------------------------------------------------------------------


def test_rows_of_a_folder_or_a_file_with_their_lines(tmp_path):
    path = tmp_path / RESULTS
    path.write_bytes('\ufeff{"a": 1}\n\n   \r\n{"a": "ü\u2028"}\r\n{"a": 3}'.encode())
    for place in (tmp_path, path):
        rows, torn = read_rows(place)
        assert without_lines(rows) == [{"a": 1}, {"a": "ü\u2028"}, {"a": 3}] and torn == []
        assert [row["_where"] for row in rows] == [f"{path}, line {number}" for number in (1, 4, 5)]
    path.write_text("")
    assert read_rows(path) == ([], [])


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_line_torn_anywhere_is_skipped_and_named(tmp_path, ascii_only):
    path, before, after = tmp_path / RESULTS, {"a": 1}, {"a": 2}
    line = json.dumps(NASTY, ensure_ascii=ascii_only)
    for end in range(1, len(line)):
        path.write_text(f"{json.dumps(before)}\n{line[:end]}", encoding="utf-8")
        rows, torn = read_rows(path)
        assert without_lines(rows) == [before]
        assert torn == [f"{path}, line 2: torn, as by a kill while it was written; skipped"]
        append_row(path, after)
        append_row(path, NASTY)
        assert (
            without_lines(read_rows(path)[0]) == [before, after, NASTY]
            and read_rows(path)[1] == torn
        )
    # A line that lacks only its line end is whole.
    path.write_text(f"{json.dumps(before)}\n{line}", encoding="utf-8")
    append_row(path, after)
    assert (without_lines(read_rows(path)[0]), read_rows(path)[1]) == ([before, NASTY, after], [])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "not JSON"),
        ("rank 1, length 2 {", "not JSON"),
        ('{"a" 1}', "not JSON"),
        ('{"a": 1}}', "not JSON"),
        ('{"a": "{"} {"b": 1}', "not JSON"),
        ("\0\0\0", "not JSON"),
        ("[1, 2]", "expected a JSON object"),
        ("[" * 100_000, "not JSON"),
        ("3", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ('"{"', "expected a JSON object"),
    ],
)
def test_a_whole_line_that_is_not_a_row_is_refused(tmp_path, line, message):
    path = tmp_path / RESULTS
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path)
    found = str(caught.value)
    assert found.startswith(f"{path}, line 2: {message}") and "\n" not in found


def test_a_file_that_is_missing_or_not_text_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "absent", tmp_path / "absent" / "deeper"):
        with pytest.raises(DataError, match=r"absent|results\.jsonl") as caught:
            read_rows(place)
        assert "cannot be read (No such file" in str(caught.value)
    (tmp_path / RESULTS).mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path)
    (tmp_path / "picture").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8 at byte 7"):
        read_rows(tmp_path / "picture")


# --- Appending -----------------------------------------------------------------------------------


def test_a_row_is_written_as_one_line_by_one_write_and_flushed(tmp_path, monkeypatch):
    calls, path, fsync = [], tmp_path / RESULTS, os.fsync

    class Noted(FileOfRows):
        def write(self, content: bytes) -> int:
            calls.append("write")
            return super().write(content)

    monkeypatch.setattr(rows_file, "open", Noted.open, raising=False)
    monkeypatch.setattr(rows_file.os, "fsync", lambda file: calls.append("fsync") or fsync(file))
    append_row(path, {"a": "two\nlines"})
    assert calls == ["write", "fsync"]
    before = path.read_bytes()
    assert before == b'{"a": "two\\nlines"}\n'
    append_row(path, NASTY)
    assert calls == ["write", "fsync"] * 2
    assert path.read_bytes() == before + json.dumps(NASTY).encode() + b"\n"
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # the user's own permissions


def test_a_row_that_is_not_json_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / RESULTS
    with pytest.raises(ValueError, match="JSON"):
        append_row(path, {"a": float("nan")})
    assert not path.exists()


def test_a_full_disk_is_an_error_and_leaves_a_torn_line(tmp_path, monkeypatch):
    """The system writes what fits, and that is no error to it."""

    class Full(FileOfRows):
        def write(self, content: bytes) -> int:
            return super().write(content[:3])

    path = tmp_path / RESULTS
    append_row(path, {"a": 1})
    monkeypatch.setattr(rows_file, "open", Full.open, raising=False)
    with pytest.raises(OSError, match="No space left") as caught:
        append_row(path, {"a": 2})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    append_row(path, {"a": 2})
    assert (
        without_lines(read_rows(path)[0]) == [{"a": 1}, {"a": 2}] and len(read_rows(path)[1]) == 1
    )


APPENDER = """
import os, sys, time
from pathlib import Path
from tinymem.experiment.rows import append_row
path, me = Path(sys.argv[1]), int(sys.argv[2])
os.close(os.open(f"{path}.{me}", os.O_CREAT))
while not os.path.exists(f"{path}.go"):
    time.sleep(0.001)
for number in range(60):
    append_row(path, {"who": me, "number": number, "what": str(me) * (37 * number * (me + 1))})
"""


def test_rows_of_several_processes_never_interleave(tmp_path):
    path, count = tmp_path / RESULTS, 4
    processes = [
        subprocess.Popen([sys.executable, "-c", APPENDER, str(path), str(me)])
        for me in range(count)
    ]
    try:
        wait_for(lambda: all((tmp_path / f"{RESULTS}.{me}").exists() for me in range(count)))
        (tmp_path / f"{RESULTS}.go").touch()
        assert [process.wait(timeout=120) for process in processes] == [0] * count
    finally:
        for process in processes:
            process.kill()
    rows, torn = read_rows(path)
    assert torn == [] and len(rows) == count * 60
    for me in range(count):  # every row whole, and each process's in its own order
        mine = [(row["number"], row["what"]) for row in rows if row["who"] == me]
        assert mine == [(number, str(me) * (37 * number * (me + 1))) for number in range(60)]
