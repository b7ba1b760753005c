"""Where results go: a check of the places before anything is computed, and what is printed."""

import contextlib
import os
import shutil
from pathlib import Path

from .. import system
from ..errors import DataError
from ..files import json_text, temporary_for
from ..show.axes import figure
from ..show.report import stdout


def check_output(
    out: Path | None = None, plot: Path | None = None, html: Path | None = None
) -> None:
    """Checks a folder of results, and the files of a picture and a page, which may exist already.

    Raises DataError if one of them could not be written, or no picture could be drawn.
    """
    if out:
        check_place("--out", out, folder=True)
    if plot:
        if plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise DataError(f"--plot {plot}: expected a name that ends in .png, .pdf or .svg")
        check_place("--plot", plot, folder=False)
        figure(1)
    if html:
        if html.suffix.lower() != ".html":
            raise DataError(f"--html {html}: expected a name that ends in .html")
        check_place("--html", html, folder=False)


def check_new_file(out: Path | None) -> None:
    """Raises DataError if a file of results exists already, or could not be written."""
    if out:
        check_place("--out", out, folder=False)
    if out and out.exists():
        raise DataError(f"--out {out}: exists; choose another name, or delete it")


def check_new_folder(out: Path) -> None:
    """Raises DataError if a folder of results holds something already, or could not be written."""
    check_place("--out", out, folder=True)
    if os.path.isdir(out):
        if os.listdir(out):
            raise DataError(f"--out {out}: holds files already; choose another name, or delete it")
        parent = Path(os.path.realpath(out)).parent  # where the new folder is before it is renamed
        check_place("--out", parent, folder=True)


def check_place(flag: str, path: Path, folder: bool) -> None:
    """Raises DataError if the path can become no folder, or no file, of results.

    It creates a file where results would be and removes it again, because permissions do not tell
    of a file system that is read-only or full, nor what root may do.
    """
    kind = "folder" if folder else "file"
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(f"{flag} {path}: a link to nothing; delete it, or choose another {kind}")
    if os.path.exists(path) and not (os.path.isdir if folder else os.path.isfile)(path):
        raise DataError(f"{flag} {path}: exists and is no {kind}; choose another {kind}")
    parent = path if os.path.isdir(path) else path.parent
    try:
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # fails for a name that no file can have
        if os.path.isfile(path):
            path.open("ab").close()
        tried = temporary_for(parent / ("report.json" if folder else path.name))
        tried.open("xb").close()
        tried.unlink()
    except OSError as error:
        is_there = os.path.isdir(parent)
        reason = error.strerror if is_there else f"{parent} is not a folder with write access"
        raise DataError(f"{flag} {path}: cannot be written: {reason}") from error


def check_room(place: Path, needed: int) -> None:
    """Raises OSError if the disk has less room than so many bytes.

    place: the folder of the results, or one that is still to be created there.
    """
    while not os.path.isdir(place) and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:  # a file system that does not tell
        return
    if usage.total and usage.free < needed:
        room = f"{needed / 1e6:,.3f} MB are needed, and {usage.free / 1e6:,.3f} MB are free"
        raise OSError(f"--out {place}: {room}; free some space, or choose another disk")


def print_json(value: object) -> None:
    print(json_text(value, indent=2))


def show_saved(out: Path, command: str) -> None:
    """Prints where a run or a sweep is, and a command that takes it: `… with: tinymem …`."""
    hint = command or "the report only, without a unit"
    hint += f" {system.quote(str(out))}" if "tinymem" in command else ""
    stdout.print(f"\nSaved in {out}; {hint}", soft_wrap=True, markup=False)
