"""Files that lose nothing: text with its faults named, whole files or none, rows appended one by one.

A sweep's `results.jsonl` holds one finished cell a line. A line is appended by one write and never
changed again, so a process that is killed leaves whole lines and at most a torn last one, which is
skipped and reported from then on.
"""

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import DataError, first_line

RESULTS = "results.jsonl"


def read_text(path: Path) -> str:
    """A UTF-8 file, without its byte-order mark. Raises DataError, with the offset of a bad byte."""
    try:
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def decode_text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """`write` to a temporary file beside `path`, then rename: `path` is whole or it is not there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~current_umask())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def results_path(path: Path) -> Path:
    """The results of a sweep's folder, or the file itself."""
    return path / RESULTS if path.is_dir() else path


def read_rows(path: Path) -> tuple[list[dict], list[str]]:
    """The rows of a folder or a file, and a sentence about each line that is torn.

    Raises DataError for a file that is missing, is not text, or has a whole line that is not a row.
    """
    path, rows, torn = results_path(path), [], []
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if is_torn(line):
                torn.append(f"{where}: torn, as by a kill while it was written; skipped")
                continue
            raise DataError(f"{where}: not JSON ({first_line(error)}); expected one row a line") from error
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
    line = json.dumps(row, allow_nan=False) + "\n"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(file).st_size
        torn = size and os.pread(file, 1, size - 1) != b"\n"
        content = (("\n" if torn else "") + line).encode()
        if os.write(file, content) < len(content):  # part of it is no error to the system
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file)
    finally:
        os.close(file)
