"""Text files, atomic writes and JSON text.

By hand: bytes that are no UTF-8, numbers that JSON lacks. Property: a write that fails or is killed
at any point leaves the file as it was.
"""

import ast
import errno
import json
import math
import subprocess
import sys
import unicodedata

import pytest

from tinymem import files
from tinymem.errors import DataError
from tinymem.files import (
    json_text,
    printable,
    read_text,
    write_atomically,
    write_text_atomically,
)

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
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # the user's own permissions
    (tmp_path / "plain").unlink()

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
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # which on Windows ends a process at once, too
def write(place):
    place.write_text("ne")
    if sys.argv[2] == "in the middle":
        os.kill(os.getpid(), KILL)
    place.write_text("new")
if sys.argv[2] == "before the name":
    files.system.os.replace = lambda *names: os.kill(os.getpid(), KILL)
files.write_atomically(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("when", ["in the middle", "before the name"])
def test_a_killed_write_leaves_the_file_as_it_was(tmp_path, when):
    path = tmp_path / "report.json"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), when], capture_output=True)
    assert killed.returncode != 0 and not killed.stderr and path.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {path}
    others = [tmp_path / name for name in (f"a{left.name}", f"{left.name}a", ".report.json.lock")]
    for other in others:
        other.touch()
    files.clean_temporaries(path)  # the temporary file, and nothing else
    assert set(tmp_path.iterdir()) == {path, *others}
    files.clean_temporaries(tmp_path / "absent" / "report.json")


# --- What a terminal would obey -------------------------------------------------------------------


def test_no_control_character_is_left_but_tabs_and_line_feeds():
    """Oracle: the categories of the Unicode database, and its classes of bidirectional controls."""
    controls = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    marks = "\u061c\u200e\u200f"
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        obeyed = unicodedata.category(char) == "Cc" or unicodedata.bidirectional(char) in controls
        shown = printable(char)
        if (obeyed or char in marks) and char not in "\t\n":
            assert (
                shown.isascii() and shown.isprintable() and ast.literal_eval(f"'{shown}'") == char
            )
        else:
            assert shown == char
    assert printable("a\x1b[2J\nb") == "a\\x1b[2J\nb"


# --- JSON ----------------------------------------------------------------------------------------


def test_json_text_writes_null_for_nan_and_infinity_at_any_depth():
    value = {"a": [1, math.nan, (math.inf, {"b": -math.inf})], "c": 0.1, "d": "NaN", "e": True}
    expected = {"a": [1, None, [None, {"b": None}]], "c": 0.1, "d": "NaN", "e": True}
    assert json.loads(json_text(value)) == json.loads(json_text(value, indent=2)) == expected
    assert math.isnan(value["a"][1])  # the value itself is left as it was
    assert json_text({"a": 1}) == '{"a": 1}' and "\n" in json_text({"a": 1}, indent=2)
