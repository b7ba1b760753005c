"""The rows of a sweep: `results.jsonl`, one finished cell a line.

A line is appended by one write and never changed afterwards. A process that is killed therefore
leaves whole lines and at most one torn last line, which is skipped and reported when the file is
read.

A row is a JSON object: the fields of `Report` (report.py), and `setting` with `setting_hash`, which
say what else decided the run (sweep.py).
"""

import errno
import json
import os
import re
from pathlib import Path

from ..errors import DataError, first_line
from ..files import read_text

RESULTS = "results.jsonl"


def read_rows(path: Path) -> tuple[list[dict], list[str]]:
    """The rows of a folder or a file, and a sentence about each line that is torn.

    Raises DataError for a file that is missing, is not text, or has a whole line that is not a row.
    """
    path, rows, torn = path / RESULTS if path.is_dir() else path, [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if is_torn(line):
                torn.append(f"{where}: torn, as by a kill while it was written; skipped")
                continue
            problem = f"not JSON ({first_line(error)}); expected one row a line"
            raise DataError(f"{where}: {problem}") from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, a row of a sweep")
        rows.append(row | {"_where": where})
    return rows, torn


def is_torn(line: str) -> bool:
    """What a killed write leaves: the beginning of an object, in which a brace is still open."""
    bare = re.sub(r'"(\\.|[^"\\])*("|\\?$)', "", line)  # without its strings
    return line.startswith("{") and bare.count("{") > bare.count("}")


def append_row(path: Path, row: dict) -> None:
    """One write, flushed to the disk; a torn line before it is ended first.

    Raises OSError if the disk is full.
    """
    content = (json.dumps(row, allow_nan=False) + "\n").encode()
    with open(path, "ab+", buffering=0) as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            content = content if file.read(1) == b"\n" else b"\n" + content
        if file.write(content) < len(content):  # part of it is no error to the system
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())
