"""What autograder.py knows about a class: the roster, the hand-ins, and the table of the grades."""

import csv
import io
import unicodedata
from pathlib import Path
from typing import NamedTuple

from hint import RECORD, read_record

PARTS = {"rungs": "rung", "exercises": "exercise", "stretch": "stretch"}  # key in the grades: name
STUDENT_FILES = ("exercises.py", "mymem.py", "exercises.ipynb", "mymem.ipynb")
NUMBERS = range(1, 10_000)  # of students, as in checks/drawn.py, which imports torch


class Refused(Exception):
    """A mistake of whoever called, in one line."""


class Graded(NamedTuple):
    grades: dict | None  # the grades file, or None if nothing was graded
    note: str  # why there is none, or why it is not complete; empty if all is well
    seconds: float


class Roster(NamedTuple):
    numbers: dict[str, int]  # by name and by email, as `plain` writes them
    names: dict[int, str]  # number: the name in the roster


# --- The roster -----------------------------------------------------------------------------------


def plain(name: str) -> str:
    """The name in lower case. An umlaut has two forms in Unicode, and macOS uses the longer one."""
    return unicodedata.normalize("NFC", name).strip().lower()


def read_roster(path: Path | None) -> Roster:
    """The number of each student. The columns are separated by commas or by semicolons."""
    roster = Roster({}, {})
    if path is None:
        return roster
    try:
        text = path.read_bytes().decode("utf-8-sig")
        head = text.partition("\n")[0]
        delimiter = ";" if ";" in head and "," not in head else ","
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        if not {"name", "number"} <= {*(rows.fieldnames or ())}:
            raise Refused(f"{path}: expected the columns name and number, and perhaps email")
        for row in rows:
            if any(row.get(column) for column in ("name", "number", "email")):
                enter(roster, row, f"{path}, line {rows.line_num}")
    except UnicodeDecodeError as error:
        raise Refused(f"{path}: not a text in UTF-8; Excel can save it as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise Refused(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not roster.names:
        raise Refused(f"{path}: no student is in it")
    return roster


def enter(roster: Roster, row: dict, where: str) -> None:
    """Adds a row of the file. No two students may have the same name, email or number."""
    given = (row["number"] or "").strip()
    if not (given.isdecimal() and len(given) < 10 and int(given) in NUMBERS):
        raise Refused(f"{where}: {row['number']!r} is no whole number from 1 to {NUMBERS[-1]}")
    number, names = int(given), [one for one in (row["name"], row.get("email")) if one]
    twice = [f"the number {number}"] * (number in roster.names)
    twice += [f"the name {one}" for one in names if plain(one) in roster.numbers]
    if twice:
        raise Refused(f"{where}: {twice[0]} is there twice")
    roster.names[number] = (row["name"] or names[0] if names else "").strip()
    roster.numbers.update({plain(one): number for one in names})


def number_of(roster: Roster, *names: str) -> int | None:
    """The number of whoever has one of the names; None without a roster; 0 if nobody has one."""
    found = (roster.numbers.get(plain(one)) for one in names)
    return next(filter(None, found), 0 if roster.numbers else None)


# --- The hand-ins ---------------------------------------------------------------------------------


def has_answers(folder: Path) -> bool:
    return any((folder / name).is_file() for name in STUDENT_FILES)


def inside(folder: Path) -> Path:
    """Where the files of a student are: in the folder, in its folder `tutorials` as in a copy of
    the course, or in another folder inside, as platforms unzip it, if there is only one such.
    """
    if has_answers(folder / "tutorials"):
        return folder / "tutorials"
    if has_answers(folder):
        return folder
    others = [one for one in folder.iterdir() if one.is_dir() and visible(one)]
    found = [place for one in others for place in (one / "tutorials", one) if has_answers(place)]
    return found[0] if len(found) == 1 else folder


def visible(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def hand_ins(folder: Path) -> dict[str, Path]:
    """What each student handed in: a folder with the usual files, or one file with everything."""
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        is_file = entry.is_file() and entry.suffix in (".py", ".ipynb")
        if visible(entry) and (is_file or entry.is_dir()):
            name = entry.stem if is_file else entry.name
            if name in found:
                raise Refused(f"{folder}: two hand-ins have the name {name}")
            found[name] = entry if is_file else inside(entry)
    if not found:
        raise Refused(f"{folder}: no hand-ins; expected a folder or a .py file for each student")
    return found


def unreadable_hints(hand_in: Path) -> list[str]:
    """A note if hints were taken, but the record of them is damaged."""
    folder = hand_in if hand_in.is_dir() else hand_in.parent
    return [f"{RECORD} cannot be read"] if read_record(folder) is None else []


def failed_parts(grades: dict | None) -> list[str]:
    """Why no check of a file could be run, such as a missing file or a syntax error."""
    notes = []
    for kinds in ({"exercise"}, {"rung", "stretch"}):
        checks = [check for check in (grades or {}).get("checks", []) if kinds & {*check}]
        reasons = {check["reason"] for check in checks}
        reason = reasons.pop() if len(reasons) == 1 and len(checks) > 1 else None
        if reason and not reason.startswith("not "):  # "not done yet", "not run"
            notes.append(" ".join(reason.split())[:300])
    return [*dict.fromkeys(notes)]


# --- The table ------------------------------------------------------------------------------------


def table(rows: dict[str, Graded], numbers: dict[str, int | None]) -> str:
    """The grades of a class as CSV: a row for each student, and a column for each part."""
    parts = {
        (key, int(number)): f"{kind} {number}"
        for key, kind in PARTS.items()
        for graded in rows.values()
        for number in (graded.grades or {}).get(key, {})
    }
    parts = dict(sorted(parts.items(), key=lambda item: ([*PARTS].index(item[0][0]), item[0][1])))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["student", "number", "points", "of", *parts.values(), "hints", "note"])
    for student, (grades, note, _) in rows.items():
        known = grades or {"points": "", "of": "", "hints": {"taken": {}}}
        scores = [known.get(k, {}).get(str(n), {}).get("points", "") for k, n in parts]
        hints = sum(known["hints"]["taken"].values()) if grades else ""
        total = (known["points"], known["of"])
        writer.writerow([student, numbers.get(student) or "", *total, *scores, hints, note])
    return text.getvalue()
