"""What differs between systems, with stand-ins for what Windows lacks or refuses."""

import errno
import os
import subprocess
import sys

import pytest

from tinymem import system
from tinymem.files import write_text_atomically

WINDOWS_LACKS = ("pread", "fchmod", "chown", "getuid", "geteuid", "mkfifo", "kill")


@pytest.fixture
def windows(monkeypatch):
    """Calls that Windows lacks are gone; fsync refuses a handle that was opened for reading."""
    fcntl, sync = pytest.importorskip("fcntl"), os.fsync

    def fsync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    for name in WINDOWS_LACKS:
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(system, "WINDOWS", True)


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
    monkeypatch.setattr(system, "PAUSE", 0)
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
