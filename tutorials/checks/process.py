"""Starts the process of a hand-in, asks it, and stops it when it takes too long or says too much.

Both work on every system: the process watches its own time (serve.py) and the grader waits with a
deadline, too; the grader reads what the process prints. What the process may do is limited in
limits.py.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import values

START = 120  # seconds until the process must be ready; importing torch can be slow
GRACE = 6  # the grader waits this many times the limit, if the process cannot tell the time
PRINTED = 2**20  # bytes that a hand-in may print
ENDLESS = "Is there an endless loop? If it is only slow, allow more time with --limit"
SHOWN = 4000  # characters of them that are shown
REPLY = 2**27  # bytes of the longest reply
KEEP = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME")
KEEP += ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "NUMBER_OF_PROCESSORS")


class Process:
    """A process that holds the hand-in. `ended` says why it is not there any more, or is None.

    `function` is then the function of the hand-in that was running, if that is known.
    """

    def __init__(self, memory: int):
        """memory: megabytes beside torch and the model."""
        self.ended, self.function = None, None
        self.folder = tempfile.TemporaryDirectory(prefix="hand-in-", ignore_cleanup_errors=True)
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        kept = {name: os.environ[name] for name in KEEP if name in os.environ}
        kept |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
        kept |= dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP", "USERPROFILE"), self.folder.name)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "checks.serve", str(memory)],
            cwd=self.folder.name,
            env=kept | {"PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.printed, self.too_much = bytearray(), False
        self.marks = threading.Semaphore(0)  # the byte 0 that is printed with each reply
        for reader in (self.read_replies, self.read_printed):
            threading.Thread(target=reader, daemon=True).start()
        first = self.hear(time.monotonic() + START)
        if first is None:
            raise RuntimeError(f"the process of the hand-in did not start: {self.take_printed()}")
        self.holds: list[str] = first["ready"]

    def ask(
        self,
        question: dict[str, Any],
        call_back: Callable[[int, tuple], object],
        limit: float,  # seconds of computing
    ) -> dict[str, Any] | None:
        """The reply; None if the process has ended, and then `ended` says why."""
        self.say({**question, "limit": limit})
        deadline = time.monotonic() + GRACE * limit + 1
        while reply := self.hear(deadline):
            if "callback" in reply:
                start = time.monotonic()
                self.say(answer(reply, call_back))
                deadline += time.monotonic() - start  # the time of the grader does not count
            elif "late" not in reply:
                return reply
            else:
                self.end(f"was stopped after {limit:g} s{at(reply['late'])}. {ENDLESS}")
                self.function = reply["late"].get("function")
                return None
        self.ended = self.ended or f"was stopped after {limit:g} s. {ENDLESS}"
        return None

    def take_printed(self) -> str:
        """What the code has printed since the last call, shortened."""
        text = bytes(self.printed).decode("utf-8", "replace")
        self.printed.clear()
        return text if len(text) <= SHOWN else f"{text[:SHOWN]} … (shortened)\n"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        self.folder.cleanup()

    # --- Inside -----------------------------------------------------------------------------------

    def end(self, why: str | None) -> None:
        self.ended = why
        self.process.kill()

    def say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the process is gone, and `hear` says so
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def hear(self, deadline: float) -> dict[str, Any] | None:
        """The next reply; None after the deadline, or if the process has ended."""
        try:
            line = self.replies.get(timeout=max(0.01, deadline - time.monotonic()))
            reply = json.loads(line) if line else None
        except queue.Empty:
            return self.end(None)
        except (ValueError, RecursionError):
            return self.end("gave an answer that cannot be read")
        if isinstance(reply, dict):
            self.marks.acquire(timeout=1)  # then all that was printed before it has been read
            return reply
        if self.too_much:
            return self.end(f"was stopped because it printed more than {PRINTED // 2**20} MB")
        return self.end(f"ended the process (exit code {self.process.wait()})")

    def read_replies(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := self.process.stdout.readline(REPLY):
                self.replies.put(line)
        self.replies.put(b"")

    def read_printed(self) -> None:
        total = 0
        with contextlib.suppress(OSError, ValueError):
            while some := self.process.stderr.read1(2**16):
                total += len(some)
                text = some.replace(b"\0", b"")
                self.printed += text[: max(0, 2 * SHOWN - len(self.printed))]
                for _ in range(len(some) - len(text)):
                    self.marks.release()
                if total > PRINTED:
                    self.too_much = True
                    self.process.kill()
                    return


def at(late: dict[str, Any]) -> str:
    return f" in line {late['line']}: {late['text']}" if late else ""


def answer(reply: dict[str, Any], call_back: Callable[[int, tuple], object]) -> dict[str, Any]:
    """What a function of the grader returned, or the exception that it raised."""
    arguments = tuple(values.unpack(one) for one in reply["args"])
    try:
        return {"value": values.pack(call_back(reply["callback"], arguments))}
    except BaseException as error:
        return {"raises": type(error).__name__, "text": str(error)}
