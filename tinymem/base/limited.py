"""Calls a function in a child process that has little time and memory.

What a download brings along can be a program (a chat template), or make a library run without end
(a tokenizer, a regular expression). None of these can be bounded inside the process: one operation
of C code, such as 2 ** (2 ** 33), runs for hours and holds the interpreter's lock. A child that is
stopped can be any code on any system, at the price of about 0.06 s a call.

Only Linux limits the child's memory; on macOS and Windows the child ends with its time.
"""

import faulthandler
import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..system import limit_memory

# -I and -S skip the site packages, whose start-up files are slow; the parent's path replaces them.
CHILD = f"""import json, sys; request = json.load(sys.stdin); sys.path[:] = request.pop(0)
from {__name__} import answer; answer(*request)"""


class LimitError(Exception):
    """The function failed in the child, or the child was stopped."""


def call_limited(
    function: Callable[..., Any], *arguments: object, seconds: float, megabytes: int
) -> Any:
    """What a function at the top of a module returns; arguments and result go as JSON.

    seconds: of wall-clock time. Raises LimitError with the reason in one line.
    """
    limits = [seconds, megabytes << 20]
    path = [*map(str, sys.path), str(Path(__file__).parents[2])]
    request = [path, *limits, function.__module__, function.__name__, arguments]
    command = [sys.executable or "python", "-I", "-S", "-c", CHILD]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:  # the child stops itself in time; the second limit is for one that cannot even do that
        text = json.dumps(request).encode()
        child = subprocess.run(command, input=text, **pipes, timeout=seconds + 10)
        reply = json.loads(child.stdout)
    except OSError as error:
        raise LimitError(f"no process can be started for it ({error})") from error
    except (subprocess.TimeoutExpired, ValueError) as error:
        problem = f"it crashes, or needs more than {seconds:.0f} s or {megabytes} MB"
        raise LimitError(problem) from error
    if "error" in reply:
        raise LimitError(reply["error"])
    return reply["value"]


def answer(seconds: float, size: int, module: str, name: str, arguments: list[object]) -> None:
    """In the child: calls the function, and writes its result or its error to stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    faulthandler.dump_traceback_later(seconds, exit=True)  # a thread that needs no lock of Python's
    limit_memory(size)
    try:
        reply = {"value": getattr(importlib.import_module(module), name)(*arguments)}
    except MemoryError:
        reply = {"error": f"it needs more than {size >> 20} MB"}
    except BaseException as error:  # a panic of Rust code is no Exception
        reason = str(error).strip() or type(error).__name__
        reply = {"error": reason.splitlines()[0][:300]}
    sys.stdout.write(json.dumps(reply))
    sys.stdout.flush()


def matches(patterns: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """The names that each regular expression matches as a whole; to be called in a child."""
    return [[name for name in names if re.fullmatch(pattern, name)] for pattern in patterns]
