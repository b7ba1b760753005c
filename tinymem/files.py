"""UTF-8 reading, JSON text, and atomic writing of whole files."""

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .errors import DataError


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


def json_text(value: object, indent: int | None = None) -> str:
    """The value as JSON text. JSON has no NaN and no infinity; null stands in their place."""
    return json.dumps(without_nan(value), indent=indent, allow_nan=False)


def without_nan(value: object) -> object:
    """A copy in which None replaces every float that is NaN or infinite, at any depth."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def write_text_atomically(path: Path, text: str) -> None:
    """The whole text in UTF-8, or no file at all. Raises OSError."""
    content = text.encode()
    write_atomically(path, lambda temporary: write_bytes(temporary, content))


def write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
