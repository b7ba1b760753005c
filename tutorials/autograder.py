"""Grades a whole class, and packs the grader for Gradescope and for GitHub.

    python tutorials/autograder.py grade HAND_INS --seed 4711 --out grades.csv
    python tutorials/autograder.py gradescope --seed 4711 --out autograder.zip
    python tutorials/autograder.py classroom --out .

`grade` takes a folder that holds a folder (or a file) for each student, and grades one after the
other. It writes a table and, beside it, a folder with the grades of each student as JSON.
`gradescope` writes the zip file that Gradescope takes. `classroom` writes a workflow of GitHub
Actions, and the autograding.json of GitHub Classroom. Options after `--` go to pytest, for example
`-- -m "rung1 or rung2" --hint-cost=0.5`.

A roster is a CSV file with the columns `name` and `number`, and perhaps `email`. The number goes to
--student. The name is that of the student's folder, or the one that Gradescope knows.

Exit codes: 0 if everything was graded or written, 1 if a hand-in was not graded to its end, 2 for a
wrong option or a file that cannot be read or written, and 130 if it was interrupted. (`actions`: 1
if points are missing.)
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import autograder_files as files
from autograder_class import (
    Graded,
    Refused,
    Roster,
    failed_parts,
    hand_ins,
    number_of,
    read_roster,
    table,
    unreadable_hints,
)
from autograder_run import HERE, grade, points_of, read_grades

# --- A class --------------------------------------------------------------------------------------


def grade_class(options: argparse.Namespace, others: list[str]) -> int:
    found, roster = hand_ins(options.hand_ins), read_roster(options.roster)
    folder, place = options.out.with_suffix(""), options.hand_ins.resolve()
    if options.out == folder:
        raise Refused(f"--out {options.out}: expected a file with an ending, such as grades.csv")
    if place in (folder.resolve(), folder.resolve().parent):
        raise Refused(f"--out {options.out}: choose a place outside the folder of hand-ins")
    if options.out.exists() and not (options.resume and options.out.is_file()):
        raise Refused(
            f"{options.out} exists already; use --resume, delete it or choose another --out"
        )
    folder.mkdir(exist_ok=True)
    began = begin(folder / "settings.txt", json.dumps([options.seed, others]), options.resume)
    numbers = {student: number_of(roster, student) for student in found}
    absent = {name: n for n, name in roster.names.items() if n not in numbers.values()}
    numbers |= absent
    rows: dict[str, Graded] = {}
    live, code = sys.stderr.isatty(), 0
    try:
        for n, (student, hand_in) in enumerate(found.items(), 1):
            label = f"{n} of {len(found)}  {student}"

            def progress(text: str, label: str = label) -> None:
                print(f"\r{label}  {text:30}", end="", file=sys.stderr, flush=True)

            path, number = folder / f"{student}.json", numbers[student]
            others_of = [f"--seed={options.seed}", *as_option(number), *others]
            shown = progress if live else lambda text: None
            graded = earlier(path, number, began) if options.resume else None
            graded = graded or grade(hand_in, path, others_of, options.timeout, shown)
            code = 1 if graded.note else code
            missing = ["not in the roster"] * (number == 0)
            about = [*failed_parts(graded.grades), *unreadable_hints(hand_in), *missing]
            notes = "; ".join(filter(None, (graded.note, *about)))
            rows[student] = graded._replace(note=notes)
            points = "{points:g} of {of:g} points".format(**graded.grades) if graded.grades else "–"
            line = f"{label}  {points}  {graded.seconds:.0f} s  {notes}".rstrip()
            print(f"\r{line:60}" if live else line, file=sys.stderr, flush=True)
            write_table(options.out, rows, numbers, absent)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {len(rows)} of {len(found)} hand-ins were graded", file=sys.stderr)
        code = 130
    if absent:
        print(f"no hand-in: {', '.join(absent)}", file=sys.stderr)
    if any("12" in (graded.grades or {}).get("exercises", {}) for graded in rows.values()):
        say_if_no_roster(roster)
    if rows:
        print(f"Wrote {options.out} and {folder}{os.sep}*.json")
    return code


def begin(path: Path, settings: str, resume: bool) -> float:
    """When grading with these settings began. They are kept, so that --resume mixes no others."""
    if not resume:
        path.write_text(settings, encoding="utf-8")
    elif not (path.is_file() and path.read_text(encoding="utf-8") == settings):
        raise Refused(f"--resume: {path.parent} has no grades with this seed and these options")
    return path.stat().st_mtime


def earlier(path: Path, number: int | None, began: float) -> Graded | None:
    """The grades of a hand-in that was graded to the end before the command was interrupted."""
    grades = read_grades(path)
    done = grades and grades["finished"] and grades["student"] == number
    return Graded(grades, "", 0.0) if done and path.stat().st_mtime >= began else None


def as_option(number: int | None) -> list[str]:
    return [] if number is None else [f"--student={number}"]


def write_table(path: Path, rows: dict[str, Graded], numbers: dict, absent: dict) -> None:
    """The rows so far, and one for each student of the roster who has handed in nothing."""
    rows = rows | {name: Graded(None, "no hand-in", 0.0) for name in absent}
    text = table(rows, numbers)
    path.write_text(text, encoding="utf-8-sig", errors="backslashreplace")


def say_if_no_roster(roster: Roster) -> None:
    if not roster.numbers:
        line = "without --roster, exercise 12 takes any number, also that of another student"
        print(line, file=sys.stderr)


# --- Where the grader runs ------------------------------------------------------------------------


def run(root: Path) -> int:
    """Grades the hand-in of a Gradescope container and writes results/results.json."""
    source = root / "source"
    settings = json.loads((source / "settings.json").read_text(encoding="utf-8"))
    roster = read_roster(source / "roster.csv" if (source / "roster.csv").is_file() else None)
    about = read_grades(root / "submission_metadata.json") or {}
    users = [user for user in about.get("users", []) if isinstance(user, dict)]
    names = [str(user[key]) for key in ("email", "name") for user in users if user.get(key)]
    number = number_of(roster, *names)
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--seed={settings['seed']}", *as_option(number), *settings["options"]]
        path = Path(folder) / "grades.json"
        graded = grade(root / "submission", path, options, settings["timeout"])
    if graded.grades is None:
        raise Refused(graded.note)
    notes = list(filter(None, [graded.note, *unreadable_hints(root / "submission")]))
    if number == 0 and "12" in graded.grades["exercises"]:
        notes.append("Your teacher's list has no number for you: exercise 12 gets no points")
    note, visibility = "\n".join(notes), settings["visibility"]
    document = files.results(graded.grades, graded.seconds, note, visibility)
    (root / "results").mkdir(exist_ok=True)
    text = json.dumps(document, indent=1) + "\n"
    (root / "results" / "results.json").write_text(text, encoding="utf-8")
    return 0


def actions(options: list[str]) -> int:
    """Grades the course that this file is in, and reports to GitHub Actions."""
    if not os.environ.get("TINYMEM_SEED"):  # GitHub sets it to "" if there is no such secret
        os.environ["TINYMEM_SEED"] = "0"
    with tempfile.TemporaryDirectory() as folder:
        graded = grade(HERE, Path(folder) / "grades.json", options)
    if graded.grades is None:
        raise Refused(graded.note)
    print(*files.notices(graded.grades), sep="\n")
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(files.summary(graded.grades))
    return int(graded.grades["points"] < graded.grades["of"] or graded.note != "")


# --- What a teacher calls -------------------------------------------------------------------------


def gradescope(options: argparse.Namespace, others: list[str]) -> int:
    roster = read_roster(options.roster)  # its mistakes should be seen here and not on Gradescope
    points = points_of([f"--seed={options.seed}", *others])  # and those of the options
    if "12" in points["exercises"]:
        say_if_no_roster(roster)
    settings = {"seed": options.seed, "options": others}
    settings |= {"visibility": options.visibility, "timeout": options.timeout}
    known = options.roster.read_bytes() if options.roster else None
    options.out.write_bytes(files.gradescope_zip(settings, known))
    print(f"Wrote {options.out}. Upload it on Gradescope as the autograder of an assignment.")
    return 0


def classroom(options: argparse.Namespace, others: list[str]) -> int:
    points = points_of(others)
    document = files.autograding(points, options.install, others)
    texts = {
        ".github/classroom/autograding.json": json.dumps(document, indent=2) + "\n",
        ".github/workflows/classroom.yml": files.workflow(options.install, others),
    }
    for name in texts:
        if (options.out / name).exists():
            raise Refused(f"{options.out / name} exists already; delete it first")
    for name, text in texts.items():
        path = options.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"Wrote {path}")
    return 0


def timeout(text: str) -> float:
    """The value of --timeout."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError("expected a number of seconds above 0")
    return float(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    about, _, rest = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="autograder.py", description=about, epilog=rest, formatter_class=form
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("grade", help="grade all hand-ins in a folder")
    one.add_argument("hand_ins", type=Path, help="a folder with a folder for each student")
    one.add_argument("--resume", action="store_true", help="go on where this was interrupted")
    two = commands.add_parser("gradescope", help="write the zip file for Gradescope")
    shown = ("visible", "hidden", "after_due_date", "after_published")
    two.add_argument("--visibility", choices=shown, default="visible", help="of all checks")
    for command, out, seconds in ((one, "grades.csv", 1800), (two, "autograder.zip", 500)):
        command.add_argument("--seed", type=int, required=True, help="seed of all random inputs")
        command.add_argument("--roster", type=Path, help="CSV file: name, number, email")
        about = f"seconds for a hand-in; default: {seconds}"
        command.add_argument("--timeout", type=timeout, default=seconds, help=about)
        command.add_argument("--out", type=Path, default=Path(out), help=f"default: {out}")
    three = commands.add_parser("classroom", help="write the files for GitHub")
    three.add_argument("--out", type=Path, default=Path("."), help="the top of the repository")
    three.add_argument("--install", default=".", help="what pip installs as tinymem; default: .")
    four = commands.add_parser("run", help="what run_autograder calls on Gradescope")
    four.add_argument("root", type=Path)
    commands.add_parser("actions", help="what the workflow calls on GitHub")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    where = arguments.index("--") if "--" in arguments else len(arguments)
    options, others = parse(arguments[:where]), arguments[where + 1 :]
    try:
        if options.command == "run":
            return run(options.root)
        if options.command == "actions":
            return actions(others)
        call = {"grade": grade_class, "gradescope": gradescope, "classroom": classroom}
        return call[options.command](options, others)
    except (Refused, ModuleNotFoundError) as error:
        print(f"autograder.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"autograder.py: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
