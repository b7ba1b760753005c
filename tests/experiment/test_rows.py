"""Rows of a sweep: whole lines are read, torn ones are skipped, and appending loses none."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
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


def by_hand(row: dict) -> bytes:
    """The checksum: of JSON with sorted keys, in which all numbers are floats."""
    text = json.dumps(json.loads(json.dumps(row), parse_int=float), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16].encode()


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
        assert torn == [
            f"{path}, line 2: torn, as by a kill or a power failure while it was written; skipped"
        ]
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
        ("[1, 2]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ("3", "not a JSON object"),
        ("null", "not a JSON object"),
        ('"{"', "not a JSON object"),
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
    (tmp_path / "picture").write_bytes(b'{"a": "\xff"}\n{"b": 2}\n')
    with pytest.raises(DataError, match="line 1: not UTF-8 at its byte 7"):
        read_rows(tmp_path / "picture")
    (tmp_path / "by powershell").write_text('{"a": 1}\n', encoding="utf-16")
    with pytest.raises(DataError, match="is UTF-16; save it as UTF-8"):
        read_rows(tmp_path / "by powershell")


def test_an_array_as_sweep_prints_it(tmp_path):
    path, rows = tmp_path / "rows.json", [{"a": "]"}, NASTY, {"a": [1, {"b": []}]}]
    for text in (json.dumps(rows, indent=2) + "\n", json.dumps(rows), f"\n {json.dumps(rows)}"):
        path.write_text(text)
        assert (without_lines(read_rows(path)[0]), read_rows(path)[1]) == (rows, [])
    path.write_text(json.dumps(rows, indent=2))
    assert [row["_where"] for row in read_rows(path)[0]] == [
        f"{path}, line {number}" for number in (2, 5, 22)
    ]
    append_row(path, {"a": 4})  # a line after the array
    assert without_lines(read_rows(path)[0]) == [*rows, {"a": 4}]
    path.write_text("[]")
    assert read_rows(path) == ([], [])
    path.write_text(json.dumps(rows, indent=2)[:-30])  # cut
    assert (
        without_lines(read_rows(path)[0]) == rows[:2] and "line 22: torn" in read_rows(path)[1][0]
    )
    path.write_text('[\n{"a": 1},\n{"a" 2}]')
    with pytest.raises(DataError, match=r"line 3: not JSON .*expected one JSON object a line, or"):
        read_rows(path)


def test_a_file_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_file, "MOST", 20)
    (tmp_path / "rows").write_text('{"a": 1}\n' * 2)
    assert len(read_rows(tmp_path / "rows")[0]) == 2
    (tmp_path / "rows").write_text('{"a": 1}\n' * 3)
    with pytest.raises(DataError, match="longer than 20 bytes"):
        read_rows(tmp_path / "rows")


# --- Checksums, and what a power failure leaves ---------------------------------------------------


def test_a_row_that_is_written_in_another_way_is_the_same(tmp_path):
    """Another order of keys, other spaces, escapes or none, 1 for 1.0: as jq and others write."""
    path, row = tmp_path / RESULTS, NASTY | {"x": 1.0, "y": 0.1 + 0.2, "z": 1e-7, "i": 3, "n": None}
    append_row(path, row)
    stored = json.loads(path.read_text())
    back = dict(sorted(stored.items(), reverse=True))
    as_jq = {k: int(v) if v == 1.0 else v for k, v in stored.items()}
    for other in (back, as_jq, stored | {"i": 3.0}):
        path.write_text(
            json.dumps(other, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
        )
        assert (without_lines(read_rows(path)[0]), read_rows(path)[1]) == ([row], [])
    for change in ({"y": 0.3}, {"n": 0}, {"x": "1.0"}, {"more": 1}, {"checksum": "0" * 16}):
        path.write_text(json.dumps(stored | change))
        rows, torn = read_rows(path)
        assert rows == [] and "line 1: torn, changed since it was written" in torn[0]


def test_no_changed_byte_goes_unnoticed(tmp_path):
    """The row in the middle of three, with each byte replaced: it is torn, or says the same."""
    path, random = tmp_path / RESULTS, np.random.default_rng(0)
    for number in range(3):
        append_row(path, {"rank": number, "final_loss": 0.1 * number, "s": "é}", "t": [True, None]})
    whole, known = path.read_bytes(), without_lines(read_rows(path)[0])
    start = whole.index(b"\n") + 1
    for at in range(start, whole.index(b"\n", start) + 1):
        values = {0, 10, 34, 48, 255, *random.integers(256, size=2).tolist()}
        for value in values - {whole[at]}:
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            rows, torn = read_rows(path)
            rows = [{k: v for k, v in row.items() if k in known[0]} for row in rows]
            assert all(row in known for row in rows) and known[0] in rows, (at, value)
            assert len(rows) == 3 or torn, (at, value)
            assert len(rows) >= 2 - (at == whole.index(b"\n", start)), (at, value)


ROW = b'{"a": 1}'
LEFT = {"zeros": b"\0" * 900, "bytes": b"\xff\x80\x01\xfe", "half zeros": ROW[:5] + b"\0" * 4}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
@pytest.mark.parametrize("before", [0, 1, 2])
def test_what_a_power_failure_leaves_is_torn_at_the_end_and_later_in_the_middle(
    tmp_path, before, left
):
    path = tmp_path / RESULTS
    path.write_bytes((ROW + b"\n") * before + left)  # rows without checksums, as early ones
    for more in range(3):
        rows, torn = read_rows(path)
        assert without_lines(rows) == [{"a": 1}] * before + [{"a": 2}] * more
        assert len(torn) == 1 and f"{path}, line {before + 1}: torn" in torn[0]
        append_row(path, {"a": 2})
    path.write_bytes(path.read_bytes().replace(left, b"notes of the user"))
    assert len(read_rows(path)[1]) == 1  # among rows with checksums


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
    assert before == b'{"a": "two\\nlines", "checksum": "%s"}\n' % by_hand({"a": "two\nlines"})
    append_row(path, NASTY)
    assert calls == ["write", "fsync"] * 2
    end = b', "checksum": "%s"}\n' % by_hand(NASTY)
    assert path.read_bytes() == before + json.dumps(NASTY).encode()[:-1] + end
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
