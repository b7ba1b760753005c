"""What differs between Linux, macOS and Windows: files on disk, signals, streams.

Nothing else in tinymem calls what only some systems have.
"""

import codecs
import contextlib
import errno
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

WINDOWS = os.name == "nt"
STOP_SIGNALS = tuple(  # what asks a program to stop: Ctrl-C, kill, a closed terminal, Ctrl-Break
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if hasattr(signal, name)
)
# Seconds within which two signals are one request: `timeout` sends SIGTERM to a process and then to
# its group, and of a terminal that is closed both the shell and the system tell.
TWICE = 0.2
SHOW_CURSOR = b"\x1b[?25h"
ATTEMPTS, PAUSE = 20, 0.05  # seconds; a virus scanner has a file open for less than one second
PLAIN = {  # what tinymem prints, for terminals and files that do not have the character
    **{"½": "1/2", "²": "2", "₀": "0", "·": "*", "−": "-", "–": "-", "≤": "<=", "→": "->"},
    **{"Δ": "d", "ℓ": "l", "α": "alpha", "β": "beta", "κ": "kappa", "∞": "inf"},
    **{"…": "...", "‹": "<", "›": ">", "␣": "_", "▁": "_", "⏎": "\\n", "⇥": "\\t"},
}


# --- Files --------------------------------------------------------------------------------------


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


def quote(path: str) -> str:
    """The path as one word of a command line, for the system's own shell."""
    if not WINDOWS:
        return shlex.quote(path)
    from subprocess import list2cmdline

    return list2cmdline([path])


def limit_memory(size: int) -> None:
    """Gives this process at most `size` bytes; without effect where the system has no such limit.

    Windows has no module for it, and macOS refuses it.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


# --- Signals ------------------------------------------------------------------------------------


def stop_on_signals() -> list[float]:
    """Turns the first of STOP_SIGNALS into KeyboardInterrupt; the second ends with exit code 130.

    Returns a list that is empty until the first one. Signals that are ignored (nohup, a job in the
    background of a script) stay so.
    """
    first: list[float] = []

    def stop(number: int, frame: object) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            raise KeyboardInterrupt
        if now > first[0] + TWICE:
            if not WINDOWS and os.isatty(2):
                os.write(2, SHOW_CURSOR)  # which a progress bar hides
            os._exit(130)

    for number in STOP_SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, stop)
    return first


# --- Streams ------------------------------------------------------------------------------------


class Messages:
    """stderr, but what cannot be written is lost: no message is worth the end of a computation."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.stream.flush()


def plain(error: UnicodeError) -> tuple[str, int]:
    """Replaces the characters that an encoding lacks by those of PLAIN, or by question marks."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(char, "?") for char in lacking), error.end


def open_streams() -> None:
    """Prepares stdout and stderr, so that neither fails for a character or because it is closed."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # otherwise the next file would get the number of a closed stream, and its output
    os.close(handle)
    codecs.register_error("tinymem.plain", plain)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="tinymem.plain")
    if not isinstance(sys.stderr, Messages):
        sys.stderr = Messages(sys.stderr)


def flush_stdout() -> OSError | None:
    """Writes what is left of stdout. Returns the error if that fails; the rest is then dropped."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes again when it ends, and would report the same error in its own words.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of our output has gone, which on Windows is an invalid argument."""
    invalid = WINDOWS and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or invalid


def in_notebook() -> bool:
    """Whether this program is the kernel of a notebook. It does not import IPython to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
