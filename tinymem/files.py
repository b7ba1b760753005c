"""Reads UTF-8 text, writes JSON text, and writes whole files atomically."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import DataError


def read_text(path: Path) -> str:
    """Returns the text of a UTF-8 file, without a byte-order mark.

    Raises DataError if the file cannot be read, or names the first byte that is not UTF-8.
    """
    try:
        return decode_text(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


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
    `write` fails, `path` stays as it was. Raises OSError.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(Path(name))
        with open(name, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~current_umask())  # mkstemp makes files that only their owner reads
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Replaces `path` by the text in UTF-8, atomically. Raises OSError."""
    content = text.encode()
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def current_umask() -> int:
    """Returns the process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
