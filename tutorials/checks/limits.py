"""What the process of a hand-in may do: no network, no other programs, no writing elsewhere.

An audit hook sees what Python's own functions open, connect to and start, on every system. Linux
adds a namespace without a network, where users may make one, and limits on memory. This stops what
happens by accident or by a simple attempt. It does not stop code that calls C through a loaded
library or opens files with functions of torch, nor code that searches the memory of its own
process. What must hold against an attack needs a container.

Memory is limited on Linux only: macOS ignores the limit, and Windows has none of this kind. Time
and output are limited by the grader, on every system (process.py).
"""

import os
import sys
import tempfile
from pathlib import Path

MEGABYTE = 2**20
FILE_SIZE = 200 * MEGABYTE  # the largest file that a hand-in may write
NO_PROGRAMS = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile")
NO_PROGRAMS += ("os.system", "os.kill", "os.killpg", "pty.spawn", "_winapi.CreateProcess")
NO_C = ("ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function")
NO_MEMORY = ("gc.get_objects", "gc.get_referrers", "gc.get_referents")
CHANGES = {  # event: which of its arguments are paths that it changes
    **{f"os.{name}": (0,) for name in ("chmod", "chown", "mkdir", "remove", "rmdir", "truncate")},
    **{f"os.{name}": (0,) for name in ("chflags", "lockf", "setxattr", "removexattr", "utime")},
    **{f"os.{name}": (0, 1) for name in ("link", "rename", "symlink")},
    "shutil.rmtree": (0,),
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


class Guard:
    """Decides whether a path may be opened. Folders are added before the hand-in runs."""

    def __init__(self, folder: Path):
        self.writable = [real(folder)]
        self.hidden = [real(Path(__file__).parent)]  # the checks, which have been imported
        system = ["/usr", "/lib", "/lib64", "/etc", "/opt", "/dev", "/sys", "/System", "/Library"]
        system += [os.environ.get("SYSTEMROOT", "/usr"), "/proc/self", "/proc/cpuinfo"]
        system += ["/proc/meminfo", f"/proc/{os.getpid()}", sys.prefix, sys.base_prefix]
        packages = [path for path in sys.path if "-packages" in path or "lib-dynload" in path]
        self.readable = [real(path) for path in (*system, *packages)]

    def allow(self, path: str | Path, write: bool = False) -> None:
        """The file or folder may be read and, if asked for, written."""
        (self.writable if write else self.readable).append(real(path))

    def check(self, path: object, write: bool) -> None:
        if isinstance(path, int) or path is None:
            return  # a file that is open already
        name = real(os.fsdecode(path))
        if name == os.devnull or inside(name, self.writable):
            return
        if write:
            raise PermissionError(f"a hand-in may not change {name}; it may write where it runs")
        if not inside(name, self.readable) or inside(name, self.hidden):
            raise PermissionError(f"a hand-in may not read {name}")

    def hook(self, event: str, args: tuple) -> None:
        if event == "open":
            path, mode, flags = args
            write = bool(flags & WRITES) or any(letter in (mode or "") for letter in "wax+")
            self.check(path, write)
        elif event.startswith("socket.") and event != "socket.gethostname":
            raise PermissionError("hand-ins run without a network")
        elif event.startswith(NO_PROGRAMS):
            raise PermissionError("a hand-in may not start or stop other programs")
        elif event in NO_C:
            raise PermissionError("a hand-in may not call functions of C")
        elif event in NO_MEMORY:
            raise PermissionError("a hand-in may not search the memory of its process")
        elif event in CHANGES:
            for index in CHANGES[event]:
                self.check(args[index], True)


def real(path: str | Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def inside(name: str, folders: list[str]) -> bool:
    return any(name == one or name.startswith(one.rstrip(os.sep) + os.sep) for one in folders)


def leave_network() -> bool:
    """Moves this process to a namespace without a network. Linux, and only with one thread."""
    if sys.platform != "linux":
        return False
    import ctypes

    new_user, new_network = 0x10000000, 0x40000000
    return ctypes.CDLL(None).unshare(new_user | new_network) == 0


def limit_memory(megabytes: int) -> bool:
    """Limits what this process may allocate, beyond what torch holds already. Linux only."""
    if sys.platform != "linux":
        return False
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    held = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    most = held * 1024 + megabytes * MEGABYTE
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    return True


def guard() -> Guard:
    """Installs the audit hook; the working directory and the temporary folder may be written."""
    made = Guard(Path.cwd())
    made.allow(tempfile.gettempdir(), write=True)
    sys.addaudithook(made.hook)
    return made
