"""The rows of a sweep: `results.jsonl`, one finished cell a line.

A line is appended by one write and never changed afterwards. A process that is killed therefore
leaves whole lines and at most one torn last line. A power failure or a faulty disk can also leave
zeros or other bytes in place of a line. A torn line is skipped, and reported when the file is read.

A row is a JSON object: the fields of `Report` (report.py), `setting` with `setting_hash`, which say
what else decided the run (sweep.py), and a `checksum` of all of them.
"""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError, first_line
from ..system import last_byte

RESULTS = "results.jsonl"
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # how "surrogateescape" decodes bytes that are not UTF-8
MOST = 1 << 28  # bytes of a file: 100,000 rows
EXPECTED = "expected one JSON object a line, or the JSON array that sweep --json prints; not CSV"


def read_rows(path: str | Path) -> tuple[list[dict], list[str]]:
    """The rows of a folder or a file, without their checksums, and a sentence about each torn line.

    A row may lack the checksum, and the file may be one JSON array of rows.
    Raises DataError for a file that cannot be read, and for a line that is not a row and not torn
    either. A file whose rows have checksums was written by a sweep; there every such line is torn.
    """
    path, rows, torn = Path(path), [], []
    path = path / RESULTS if path.is_dir() else path
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MOST:
        raise DataError(f"{path}: longer than {MOST:,} bytes; expected the rows of a sweep")
    if content.startswith((b"\xff\xfe{\0", b"\xff\xfe[\0")):  # as some shells redirect output
        raise DataError(f"{path}: is UTF-16; save it as UTF-8")
    text = content.decode("utf-8-sig", "surrogateescape")
    by_sweep, last = '"checksum":' in text, text.rstrip("\n").count("\n") + 1
    for number, line in lines_of(text):
        where = f"{path}, line {number}"
        try:
            rows.append(parse_row(line) | {"_where": where})
        except ValueError as error:
            cut, garbage = is_cut(line), number == last and NOT_UTF8.search(line)
            if not (cut or garbage or by_sweep):
                raise DataError(f"{where}: {error}; {EXPECTED}") from error
            why = "as by a kill or a power failure while it was written" if cut else error
            torn.append(f"{where}: torn, {why}; skipped")
    return rows, torn


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, or the elements of an array; and the line each begins in."""
    number, at = 1, 0
    if text.lstrip().startswith("["):
        at = text.index("[") + 1
        while element := re.compile(r"[\s,]*[^\s,\]]").match(text, at):
            start = element.end() - 1
            number, at = number + text.count("\n", at, start), start
            try:
                end = json.JSONDecoder().raw_decode(text, at)[1]
            except (ValueError, RecursionError):
                end = len(text)
            yield number, text[at:end]
            number, at = number + text.count("\n", at, end), end
        at = text.find("]", at) + 1 or len(text)
    for line in text[at:].split("\n"):
        if line.strip():
            yield number, line
        number += 1


def parse_row(line: str) -> dict:
    """The row of a line, without its checksum. Raises ValueError, which says what is wrong."""
    if found := NOT_UTF8.search(line):
        raise ValueError(f"not UTF-8 at its byte {len(line[: found.start()].encode())}")
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not a JSON object")
        if row.pop("checksum", None) not in (None, checksum_of(row)):
            raise ValueError("changed since it was written, as its checksum shows")
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"not JSON ({first_line(error)})") from error
    return row


def is_cut(line: str) -> bool:
    """What a kill leaves, the beginning of an object, in which a brace is still open; or zeros."""
    bare = re.sub(r'"[^"]*("|$)', "", re.sub(r"\\.", "", line))  # without its strings
    return "\0" in line or (line.startswith("{") and bare.count("{") > bare.count("}"))


def hash_of(value: object) -> str:
    """The beginning of the SHA-256 of its JSON, in which the order of keys does not count."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def checksum_of(row: dict) -> str:
    """The hash of what the row says, however JSON is spaced and ordered: 1 and 1.0 are the same."""
    return hash_of(json.loads(json.dumps(row), parse_int=float))


def append_row(path: Path, row: dict) -> None:
    """One write, flushed to the disk; a torn line before it is ended first.

    Raises OSError, such as for a full disk; the rows before this one are as they were.
    """
    text = json.dumps(row | {"checksum": checksum_of(row)}, allow_nan=False) + "\n"
    try:
        with open(path, "ab+", buffering=0) as file:
            content = (text if last_byte(file) in (b"", b"\n") else "\n" + text).encode()
            if file.write(content) < len(content):  # part of it is no error to the system
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # which names the file
