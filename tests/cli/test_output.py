"""Places for results: what cannot be written is refused before anything is computed.

By hand: links, files, folders and names that cannot become what is asked for. Property: a refused
command leaves every file as it was.
"""

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.toy import toy_model
from tinymem import files
from tinymem.cli import output, probe as probe_file, source
from tinymem.cli.output import check_room
from tinymem.show import axes
from tinymem.unit.adapter import save_adapter
from tinymem.unit.lora import Unit

SHORT = ("--steps", "1", "--length", "4", "--rank", "1")
COMMANDS = {  # command -> whether its place is a folder, and how the name of a file must end
    ("probe", *SHORT, "--out"): (True, ""),
    ("sweep", "--ranks", "1", "--lengths", "4", "--steps", "1", "--out"): (True, ""),
    ("merge", "gone", "--out"): (True, ""),
    ("probe", *SHORT, "--plot"): (False, ".png"),
    ("fit", "absent", "--plot"): (False, ".png"),
    ("data", "random", "--length", "4", "--out"): (False, ".jsonl"),
    ("data", "phonebook", "--out"): (False, ".jsonl"),
    ("data", "rule", "--out"): (False, ".jsonl"),
}


def snapshot(folder: Path) -> dict[str, object]:
    paths = sorted(folder.rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else os.path.lexists(p) for p in paths}


def unusable(tmp_path: Path, folder: bool, end: str) -> dict[str, Path]:
    """Places that cannot be written, and a word of the message."""
    (tmp_path / "file").write_text("kept", encoding="utf-8")
    (tmp_path / f"link{end}").symlink_to(tmp_path / "gone" / "away")
    (tmp_path / f"loop{end}").symlink_to(tmp_path / f"loop{end}")
    places = {
        "link to nothing": tmp_path / f"link{end}",
        "link to nothing ": tmp_path / f"loop{end}",
        "write access": tmp_path / "gone" / f"x{end}",
        "write access ": tmp_path / "file" / f"x{end}",
        "too long": tmp_path / ("x" * 300 + end),
    }
    if not folder:  # the file is written under a longer name first
        places["too long "] = tmp_path / ("x" * 245 + end)
    if sys.platform == "linux":
        places["cannot be written"] = Path(f"/proc/x{end}")  # where even root creates nothing
    if folder:
        places["exists and is no folder"] = tmp_path / "file"
    else:
        (tmp_path / f"folder{end}").mkdir(exist_ok=True)
        places["exists and is no file"] = tmp_path / f"folder{end}"
    return places


@pytest.fixture
def untrained(monkeypatch):
    """Fails the test if a model is opened, and so before it is trained."""
    for module in (source, probe_file):
        monkeypatch.setattr(module, "open_checkpoint", lambda *_: pytest.fail("opened the model"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_place_that_cannot_be_written(tinymem, tmp_path, untrained, command):
    pytest.importorskip("matplotlib")
    for words, place in unusable(tmp_path, *COMMANDS[command]).items():
        before = snapshot(tmp_path)
        code, out, err = tinymem(*command, place)
        assert code == 2 and not out and err.count("\n") == 1, (place, err)
        assert words.strip() in err and f"{command[-1]} {str(place)[:200]}" in err
        assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets no one remove a current folder")
def test_a_current_folder_that_was_removed(tinymem, tmp_path, monkeypatch, untrained):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, _, err = tinymem("probe", *SHORT, "--out", "run")
    assert code == 2 and "--out run: cannot be written: No such file" in err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_place_where_nothing_can_be_created(tinymem, tmp_path, monkeypatch, untrained, number):
    """Stand-in for permissions, a file system that is read-only, and one that is full."""

    def refuse(path, mode="r", *args, **more):
        if "x" in mode:
            raise OSError(number, os.strerror(number), str(path))
        return real(path, mode, *args, **more)

    real = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    for place in (tmp_path / "run", tmp_path):
        code, _, err = tinymem("sweep", "--out", place)
        assert code == 2 and f"cannot be written: {os.strerror(number)}" in err


def test_existing_data_is_never_overwritten(tinymem, tmp_path):
    data = ["data", "rule", "--count", "3", "--held-out", "2", "--seed"]
    one, two = tmp_path / "a.jsonl", tmp_path / "a.held-out.jsonl"
    assert tinymem(*data, "0", "--out", one)[0] == 0
    for present, absent in ((one, two), (two, one)):
        absent.unlink()
        before = snapshot(tmp_path)
        code, _, err = tinymem(*data, "1", "--out", one)
        assert code == 2 and f"{present}: exists; choose another name, or delete it" in err
        assert snapshot(tmp_path) == before
        assert tinymem(*data, "0", "--out", tmp_path / "b.jsonl")[0] == 0
        for name in ("", ".held-out"):
            shutil.move(tmp_path / f"b{name}.jsonl", tmp_path / f"a{name}.jsonl")
    (tmp_path / "linked").symlink_to(one)
    before = snapshot(tmp_path)
    assert tinymem("data", "phonebook", "--count", "2", "--out", tmp_path / "linked")[0] == 2
    assert snapshot(tmp_path) == before


def test_a_disk_without_room(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path / "not" / "yet", free // 2)
    with pytest.raises(OSError, match=r"1,000,000,000,000.000 MB are needed, and .* MB are free"):
        check_room(tmp_path / "not" / "yet", 10**18)

    def untold(_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(output.shutil, "disk_usage", untold)
    check_room(tmp_path, 10**18)  # where the system does not tell, the run is tried


# --- A full disk, while results are written ------------------------------------------------------


@pytest.fixture
def full(monkeypatch):
    """From now on, no file that is written keeps its content."""

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(files.system, "sync", fail)


def test_of_two_files_of_data_both_are_there_or_none(tinymem, tmp_path, monkeypatch):
    sync, calls = files.system.sync, []

    def fill_up(path):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(files.system, "sync", fill_up)
    data = ["data", "rule", "--count", "3", "--out", tmp_path / "a.jsonl"]
    code, _, err = tinymem(*data)
    line = err.splitlines()[-1]
    assert code == 1 and f"No space left on device: '{tmp_path / 'a.held-out.jsonl'}'" in line
    assert list(tmp_path.iterdir()) == []
    assert tinymem(*data)[0] == 0 and len(list(tmp_path.iterdir())) == 2


def test_a_picture_is_whole_or_not_there(tmp_path, full):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        axes.draw([lambda ax: ax.plot([1, 2])], 1, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_picture_goes_where_a_link_leads(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "there").mkdir()
    link = tmp_path / "a.svg"
    link.symlink_to(tmp_path / "there" / "b.svg")
    (tmp_path / "there" / "b.svg").touch()
    axes.draw([lambda ax: ax.plot([1, 2])], 1, link)
    assert link.is_symlink() and "<svg" in (tmp_path / "there" / "b.svg").read_text("utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_a_unit_on_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    """Oracle: the kernel's own device that is always full."""
    model, write = toy_model(), Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: write(Path("/dev/full"), data))
    unit = Unit.create(model, 2)
    with pytest.raises(OSError, match="No space left"):
        save_adapter(unit, model, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
