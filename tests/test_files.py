"""Text files, atomic writes and JSON text.

By hand: bytes that are no UTF-8, numbers that JSON lacks. Property: a write that fails or is killed
at any point leaves the file as it was.
"""

import errno
import json
import math
import signal
import stat
import subprocess
import sys

import pytest

from tinymem import files
from tinymem.errors import DataError
from tinymem.files import json_text, read_text, write_atomically, write_text_atomically

# --- Reading -----------------------------------------------------------------------------------


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        read_text(tmp_path / "latin")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path)


def test_text_is_read_as_it_was_written_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "text"
    text = "é\u2028\r\n\n½ \U0001f600\n"  # line ends stay as they are, on every system
    write_text_atomically(path, text)
    assert path.read_bytes() == text.encode() and read_text(path) == text
    path.write_bytes(b"\xef\xbb\xbfa")
    assert read_text(path) == "a"


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


# --- JSON ----------------------------------------------------------------------------------------


def test_json_text_writes_null_for_nan_and_infinity_at_any_depth():
    value = {"a": [1, math.nan, (math.inf, {"b": -math.inf})], "c": 0.1, "d": "NaN", "e": True}
    expected = {"a": [1, None, [None, {"b": None}]], "c": 0.1, "d": "NaN", "e": True}
    assert json.loads(json_text(value)) == json.loads(json_text(value, indent=2)) == expected
    assert math.isnan(value["a"][1])  # the value itself is left as it was
    assert json_text({"a": 1}) == '{"a": 1}' and "\n" in json_text({"a": 1}, indent=2)
