"""What differs between systems, with stand-ins for what Windows lacks or refuses."""

import ast
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiment.sweeps import run_command
from tinymem import system
from tinymem.experiment import resume
from tinymem.files import write_text_atomically

WINDOWS_LACKS = {
    os: "chown fchmod fork geteuid getpgid killpg mkfifo nice pread pwrite setsid uname",
    signal: "SIGALRM SIGHUP SIGKILL SIGPIPE SIGUSR1 alarm pthread_kill setitimer",
}
WINDOWS_FORBIDS = re.compile(
    r'[<>:"/\\|?*\0-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.I
)


@pytest.fixture
def windows(monkeypatch):
    """As on Windows: calls that it lacks are gone. fsync needs a handle that may write. No file is
    replaced while a part of it is mapped into memory (as Linux lists in /proc), and no folder."""
    fcntl, sync, rename = pytest.importorskip("fcntl"), os.fsync, os.replace

    def fsync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        sync(handle)

    def replace(source, target):
        mapped = Path("/proc/self/maps")
        if mapped.exists() and f"{target}\n" in mapped.read_text(encoding="utf-8"):
            raise PermissionError(errno.EACCES, "a section of it is mapped", str(target))
        if os.path.isdir(target):
            raise PermissionError(errno.EACCES, "Access is denied", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    for module, names in WINDOWS_LACKS.items():
        for name in names.split():
            monkeypatch.delattr(module, name, raising=False)
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(system, "WINDOWS", True)
    monkeypatch.setattr(system, "PAUSE", 0)


# --- Files ---------------------------------------------------------------------------------------


def test_a_file_is_written_and_replaced(windows, tmp_path):
    for text in ("old", "new"):
        write_text_atomically(tmp_path / "a", text)
        assert (tmp_path / "a").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(("refusals", "written"), [(3, True), (10**6, False)])
def test_a_file_that_a_virus_scanner_reads_is_replaced_later(
    windows, tmp_path, monkeypatch, refusals, written
):
    path, real, left = tmp_path / "a", os.replace, [refusals]
    path.write_text("old", encoding="utf-8")

    def refuse(source, target):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "used by another process", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    if written:
        write_text_atomically(path, "new")
    else:
        with pytest.raises(PermissionError, match="another process"):
            write_text_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == ("new" if written else "old")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("content", "last"), [(b"", b""), (b"a", b"a"), (b"ab\n", b"\n")])
def test_the_last_byte_of_a_file(tmp_path, content, last):
    (tmp_path / "a").write_bytes(content)
    with open(tmp_path / "a", "rb") as file:
        assert system.last_byte(file) == last and file.tell() == len(content)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process")
def test_a_process_can_limit_its_memory():
    code = "from tinymem.system import limit_memory; limit_memory(1 << 29); b'1' * (1 << 30)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 1 and "MemoryError" in child.stderr
    absent = "import sys; sys.modules['resource'] = None; " + code.replace("1 << 30", "1")
    assert subprocess.run([sys.executable, "-c", absent]).returncode == 0  # as on Windows


# --- Commands ------------------------------------------------------------------------------------


def test_commands_as_on_windows(windows, tmp_path, monkeypatch):
    """A run that is killed and goes on, a unit, merged weights, a sweep, data, a law."""
    run, grid, short = tmp_path / "run", tmp_path / "grid", ["--length", "8", "--rank", "1"]
    probe = ["probe", *short, "--steps", "30", "--out", run]
    monkeypatch.setattr(resume, "EVERY", 0)
    with monkeypatch.context() as killed:
        killed.setattr(resume.StateFile, "end", lambda *_: sys.exit(9))
        assert run_command(*probe)[0] == 9 and (run / resume.STATE).exists()
    code, out, err = run_command(*probe)
    assert code == 0 and "going on after" in err and "cannot be saved" not in err
    assert f"tinymem recall {run}" in out and run_command("recall", run)[0] == 0
    linear, merged = tmp_path / "linear", tmp_path / "merged"
    merged.mkdir()
    assert run_command(*probe[:-3], "2", "--site", "c_attn", "--out", linear)[0] == 0
    assert run_command("merge", linear, "--out", merged)[0] == 0 and any(merged.iterdir())
    sweep = ["sweep", "--lengths", "8,12,16", "--steps", "2", "--out", grid, "--ranks"]
    assert run_command(*sweep, "1,2")[0] == run_command(*sweep, "1,2,3")[0] == 0
    assert run_command("fit", grid)[0] == 0
    assert run_command("data", "rule", "--out", tmp_path / "rule.jsonl")[0] == 0
    names = [path.name for path in tmp_path.rglob("*")]
    assert len(names) >= 6 and not any(map(WINDOWS_FORBIDS.search, names))


def test_the_saved_path_is_quoted_for_the_systems_own_shell(windows, monkeypatch):
    assert system.quote("C:\\my run") == '"C:\\my run"'  # cmd.exe knows no single quotes
    monkeypatch.setattr(system, "WINDOWS", False)
    assert system.quote("my run") == "'my run'"


# --- Encodings -----------------------------------------------------------------------------------

ROOT = Path(__file__).parents[1]
CODE = [*sorted((ROOT / "tinymem").rglob("*.py")), *sorted((ROOT / "tutorials").rglob("*.py"))]


def opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file in text mode: open(), .open(), .read_text(), .write_text()."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    home = getattr(getattr(call.func, "value", None), "id", "")
    if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
        return True
    modes = [node.value for node in call.args if isinstance(node, ast.Constant)]
    binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
    return name == "open" and home not in ("os", "tarfile") and not binary


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.stem)
def test_every_text_file_is_opened_as_utf_8(path):
    """Windows' own encoding is another one."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and opens_text(call):
            given = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert given.get("encoding") in ("'utf-8'", "'utf-8-sig'"), f"{path}:{call.lineno}"
