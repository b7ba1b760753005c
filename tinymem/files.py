"""Reads UTF-8 text, writes JSON text, writes whole files atomically, escapes control characters."""

import json
import math
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from . import system
from .errors import DataError

TEXT_LIMIT = 4_000_000  # bytes of a text; its tokens take up to 250 times as much, and 10 s


def read_text(path: Path, most: int = TEXT_LIMIT) -> str:
    """Returns the text of a UTF-8 file, without a byte-order mark.

    Raises DataError if the file cannot be read or has more than `most` bytes, or names the first
    byte that is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            return decode_text(read_limited(file, str(path), most), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_limited(file: BinaryIO, where: str, most: int = TEXT_LIMIT) -> bytes:
    """Reads to the end of a file or stream, but never more than `most` bytes. Raises DataError."""
    content = file.read(most + 1)
    if len(content) > most:
        problem = f"longer than {most:,} bytes, more than can be memorized; cut it into parts"
        raise DataError(f"{where}: {problem}")
    return content


def decode_text(content: bytes, where: str) -> str:
    """Decodes UTF-8 with or without a byte-order mark. A DataError begins with `where`."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def json_text(value: object, indent: int | None = None) -> str:
    """Returns the value as JSON text. JSON has no NaN and no infinity; both are written as null."""
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)


def without_nan(value: object) -> object:
    """Returns a copy in which None replaces every float that is NaN or infinite, at any depth."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces `path` by what `write` puts into a temporary file in the same folder.

    The temporary file is renamed only when it is complete and on disk. If the process is killed or
    `write` fails, `path` stays as it was. Raises OSError, which names `path`.
    """
    temporary = temporary_for(path)
    temporary.open("xb").close()  # has the usual permissions, unlike the files of tempfile
    try:
        write(temporary)
        system.sync(temporary)
        system.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # no one knows the temporary file, and some errors name none
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_for(path: Path) -> Path:
    """A new name beside `path`, by which `clean_temporaries` recognizes it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` by the content, atomically. Raises OSError."""
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces `path` by the text in UTF-8, atomically. Raises OSError."""
    write_bytes_atomically(path, text.encode())


def clean_temporaries(path: Path) -> None:
    """Removes what killed calls of `write_atomically` for this path left behind. Raises OSError.

    Call it only where no other process can be writing `path`, such as under the folder's lock.
    """
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.tmp")
    for other in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.fullmatch(other.name):
            other.unlink(missing_ok=True)


# All control characters but tab and line feed, and those that reverse the direction of writing.
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with control characters as Python would escape them, so that no terminal obeys them.

    Tabs and line feeds stay.
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
