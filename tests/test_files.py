"""Files that lose nothing: what a killed write leaves, what is refused, and writes that happen wholly."""

import errno
import json
import math
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from tinymem import files
from tinymem.errors import DataError
from tinymem.experiment.rows import RESULTS, append_row, read_rows
from tinymem.files import json_text, write_atomically

# What could fool a reader of torn lines: braces, quotes and backslashes in strings, objects in objects.
NASTY = {
    "a": '}"{',
    "b\\": {"c": [1, {"d": "\\"}], "e": {}},
    "é": "\\\\}",
    "f": -1.5e-3,
    "g": {"h": "}"},
}


def bare(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "_where"} for row in rows]


# --- Reading -------------------------------------------------------------------------------------


def test_rows_of_a_folder_or_a_file_with_their_lines(tmp_path):
    path = tmp_path / RESULTS
    path.write_bytes('\ufeff{"a": 1}\n\n   \r\n{"a": "ü\u2028"}\r\n{"a": 3}'.encode())
    for place in (tmp_path, path):
        rows, torn = read_rows(place)
        assert bare(rows) == [{"a": 1}, {"a": "ü\u2028"}, {"a": 3}] and torn == []
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
        assert bare(rows) == [before]
        assert torn == [f"{path}, line 2: torn, as by a kill while it was written; skipped"]
        append_row(path, after)
        append_row(path, NASTY)
        assert bare(read_rows(path)[0]) == [before, after, NASTY] and read_rows(path)[1] == torn
    path.write_text(
        f"{json.dumps(before)}\n{line}", encoding="utf-8"
    )  # only the line's end is missing
    append_row(path, after)
    assert (bare(read_rows(path)[0]), read_rows(path)[1]) == ([before, NASTY, after], [])


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
def test_a_whole_line_that_is_no_row_is_refused(tmp_path, line, message):
    path = tmp_path / RESULTS
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(DataError) as caught:
        read_rows(tmp_path)
    assert str(caught.value).startswith(f"{path}, line 2: {message}") and "\n" not in str(
        caught.value
    )


def test_what_is_not_there_or_not_text_is_refused(tmp_path):
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


def test_a_row_is_one_line_written_at_once_and_flushed(tmp_path, monkeypatch):
    calls, path = [], tmp_path / RESULTS
    for name in ("write", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *a, n=name, real=real: calls.append(n) or real(*a)
        )
    append_row(path, {"a": "two\nlines"})
    assert calls == ["write", "fsync"]
    before = path.read_bytes()
    assert before == b'{"a": "two\\nlines"}\n'
    append_row(path, NASTY)
    assert calls == ["write", "fsync"] * 2
    assert path.read_bytes() == before + json.dumps(NASTY).encode() + b"\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~files.current_umask()


def test_a_row_that_is_not_json_leaves_the_file_alone(tmp_path):
    path = tmp_path / RESULTS
    with pytest.raises(ValueError, match="JSON"):
        append_row(path, {"a": float("nan")})
    assert not path.exists()


def test_a_full_disk_is_an_error_not_a_lost_row(tmp_path, monkeypatch):
    path, write = tmp_path / RESULTS, os.write
    append_row(path, {"a": 1})
    monkeypatch.setattr(files.os, "write", lambda file, content: write(file, content[:3]))
    with pytest.raises(OSError, match="No space left") as caught:
        append_row(path, {"a": 2})
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    append_row(path, {"a": 2})
    assert bare(read_rows(path)[0]) == [{"a": 1}, {"a": 2}] and len(read_rows(path)[1]) == 1


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


# --- Whole files ---------------------------------------------------------------------------------


def test_a_file_is_whole_or_what_it_was(tmp_path):
    path = tmp_path / "report.json"
    write_atomically(path, lambda place: place.write_text("old"))
    assert path.read_text() == "old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~files.current_umask()

    def fail(place):
        place.write_text("ne")
        assert path.read_text() == "old" and place.parent == path.parent
        raise OSError(errno.ENOSPC, "No space left")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, lambda place: place.write_text("new"))
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys
from pathlib import Path
from tinymem import files
def write(place):
    place.write_text("ne")
    if sys.argv[2] == "in the middle":
        os.kill(os.getpid(), signal.SIGKILL)
    place.write_text("new")
if sys.argv[2] == "before the name":
    files.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomically(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("when", ["in the middle", "before the name"])
def test_a_killed_write_leaves_the_file_as_it_was(tmp_path, when):
    path = tmp_path / "report.json"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), when])
    assert killed.returncode == -signal.SIGKILL and path.read_text() == "old"


def wait_for(what, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


# --- JSON ----------------------------------------------------------------------------------------


def test_json_text_writes_null_for_nan_and_infinity_at_any_depth():
    value = {"a": [1, math.nan, (math.inf, {"b": -math.inf})], "c": 0.1, "d": "NaN", "e": True}
    expected = {"a": [1, None, [None, {"b": None}]], "c": 0.1, "d": "NaN", "e": True}
    assert json.loads(json_text(value)) == json.loads(json_text(value, indent=2)) == expected
    assert math.isnan(value["a"][1])  # the value itself is left as it was
    assert json_text({"a": 1}) == '{"a": 1}' and "\n" in json_text({"a": 1}, indent=2)
