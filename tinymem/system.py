"""What differs between Linux, macOS and Windows: files on disk, signals, streams.

Nothing else in tinymem calls what only some systems have.
"""

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import BinaryIO

WINDOWS = os.name == "nt"
STOP_SIGNALS = tuple(  # what asks a program to stop: Ctrl-C, kill, a closed terminal, Ctrl-Break
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
ATTEMPTS, PAUSE = 20, 0.05  # seconds; a virus scanner has a file open for less than one second


def sync(path: Path) -> None:
    """Returns when the file's content is on the disk. Raises OSError.

    The file is opened for writing, because Windows syncs no other.
    """
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def replace(source: Path, target: Path) -> None:
    """Renames a file, over another one if there is one. Raises OSError.

    On Windows that fails while any program has one of them open, so it is tried for a second.
    """
    for _ in range(ATTEMPTS if WINDOWS else 0):
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(PAUSE)
    os.replace(source, target)


def last_byte(file: BinaryIO) -> bytes:
    """The last byte of a file that is open for reading, b"" if it is empty; moves to its end."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def limit_memory(size: int) -> None:
    """Gives this process at most `size` bytes; without effect where the system has no such limit.

    Windows has no module for it, and macOS refuses it.
    """
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))
