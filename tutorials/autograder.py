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

Exit codes: 0 if everything was graded or written, 1 if a hand-in was not graded to its end, and 2
for a wrong option or a file that cannot be read or written. (`actions`: 1 if points are missing.)
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import autograder_files as files
from autograder_files import PARTS, Graded, Refused

HERE = Path(__file__).resolve().parent
PYTEST = (sys.executable, "-m", "pytest")
STUDENT_FILES = ("exercises.py", "mymem.py", "exercises.ipynb", "mymem.ipynb")


# --- Grading one hand-in --------------------------------------------------------------------------


def read_grades(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def done(grades: dict | None) -> str:
    """How far the grading has come, for a line of progress."""
    checks = (grades or {}).get("checks", [])
    count = sum(check["reason"] != "not run" for check in checks)
    return f"{count} of {len(checks)} checks" if checks else "starting"


def grade(
    hand_in: Path,
    path: Path,
    options: list[str],
    timeout: float = 1800,
    progress: Callable[[str], None] = lambda text: None,
) -> Graded:
    """Runs pytest on one hand-in, in a process of its own. The grades are written to `path`."""
    command = [*PYTEST, str(HERE), "-p", "no:cacheprovider", f"--answers={hand_in}"]
    command += [f"--grades={path}", *options]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    path.unlink(missing_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            while process.poll() is None and time.monotonic() - start < timeout:
                time.sleep(0.1)
                progress(done(read_grades(path)))
            late = process.poll() is None
        finally:
            stop(process)
        log.seek(0)
        output = log.read().decode("utf-8", "replace").strip()
    if process.returncode in (4, 5):  # of pytest: a wrong option, or no check is selected
        errors = re.findall(r"^(?:ERROR|.*: error): (.*)", output, re.MULTILINE)
        raise Refused(errors[-1] if errors else f"no check is selected: {' '.join(options)}")
    grades, seconds = read_grades(path), time.monotonic() - start
    if late:
        note = f"stopped after {timeout:g} seconds"
    elif grades is None:
        note = f"not graded: {output.splitlines()[-1] if output else 'pytest said nothing'}"
    else:
        note = "" if grades["finished"] else "the grading ended early"
    return Graded(grades, note, seconds)


def stop(process: subprocess.Popen) -> None:
    """Ends pytest, and where the system has such a signal lets it end the hand-in first."""
    if os.name == "posix" and process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    process.kill()
    process.wait()


def points_of(options: list[str]) -> dict[str, dict[str, float]]:
    """The points of each selected part, without running a check: {"rungs": {"1": 4}, …}."""
    with tempfile.TemporaryDirectory() as folder:
        graded = grade(HERE, Path(folder) / "grades.json", ["--collect-only", *options])
    if graded.grades is None:
        raise Refused(graded.note)
    return {key: {number: one["of"] for number, one in graded.grades[key].items()} for key in PARTS}


# --- A class --------------------------------------------------------------------------------------


def hand_ins(folder: Path) -> dict[str, Path]:
    """What each student handed in: a folder with the usual files, or one file with everything.

    The files may also be in a folder `tutorials` inside, as in a copy of the course.
    """
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        is_file = entry.is_file() and entry.suffix in (".py", ".ipynb")
        if entry.name.startswith((".", "__")) or not (entry.is_dir() or is_file):
            continue
        inside = entry / "tutorials"
        if entry.is_dir() and any((inside / name).is_file() for name in STUDENT_FILES):
            found[entry.name] = inside
        else:
            name = entry.stem if is_file else entry.name
            if name in found:
                raise Refused(f"{folder}: two hand-ins have the name {name}")
            found[name] = entry
    if not found:
        raise Refused(f"{folder}: no hand-ins; expected a folder or a .py file for each student")
    return found


def grade_class(options: argparse.Namespace, others: list[str]) -> int:
    found, roster = hand_ins(options.hand_ins), files.read_roster(options.roster)
    folder = options.out.with_suffix("")
    inside = options.hand_ins.resolve() in (folder.resolve(), folder.resolve().parent)
    if options.out == folder or inside:
        raise Refused("--out: expected a name such as grades.csv, outside the folder of hand-ins")
    folder.mkdir(exist_ok=True)
    rows: dict[str, Graded] = {}
    numbers: dict[str, str] = {}
    live, complete = sys.stderr.isatty(), True
    for n, (student, hand_in) in enumerate(found.items(), 1):
        number, missing = files.as_student(roster, student)
        numbers[student] = "".join(number).partition("=")[2]
        label = f"{n} of {len(found)}  {student}"

        def progress(text: str, label: str = label) -> None:
            print(f"\r{label}  {text:30}", end="", file=sys.stderr, flush=True)

        others_of = [f"--seed={options.seed}", *number, *others]
        shown = progress if live else lambda text: None
        graded = grade(hand_in, folder / f"{student}.json", others_of, options.timeout, shown)
        complete = complete and not graded.note
        notes = "; ".join(filter(None, (graded.note, missing)))
        rows[student] = graded._replace(note=notes)
        points = "{points:g} of {of:g} points".format(**graded.grades) if graded.grades else "–"
        line = f"{label}  {points}  {graded.seconds:.0f} s  {notes}".rstrip()
        print(f"\r{line:60}" if live else line, file=sys.stderr, flush=True)
        options.out.write_text(files.table(rows, numbers), encoding="utf-8-sig")
    print(f"Wrote {options.out} and {folder}{os.sep}*.json")
    return 0 if complete else 1


# --- Where the grader runs ------------------------------------------------------------------------


def run(root: Path) -> int:
    """Grades the hand-in of a Gradescope container and writes results/results.json."""
    source = root / "source"
    settings = json.loads((source / "settings.json").read_text(encoding="utf-8"))
    roster = files.read_roster(source / "roster.csv" if (source / "roster.csv").is_file() else None)
    about = read_grades(root / "submission_metadata.json") or {}
    users = [user for user in about.get("users", []) if isinstance(user, dict)]
    names = [str(user[key]) for key in ("email", "name") for user in users if user.get(key)]
    number, missing = files.as_student(roster, *names)
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--seed={settings['seed']}", *number, *settings["options"]]
        path = Path(folder) / "grades.json"
        graded = grade(root / "submission", path, options, settings["timeout"])
    if graded.grades is None:
        raise Refused(graded.note)
    notes = "; ".join(filter(None, (graded.note, missing)))
    document = files.results(graded.grades, graded.seconds, notes, settings["visibility"])
    (root / "results").mkdir(exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
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
        with open(path, "a", encoding="utf-8") as file:
            file.write(files.summary(graded.grades))
    return int(graded.grades["points"] < graded.grades["of"] or graded.note != "")


# --- What a teacher calls -------------------------------------------------------------------------


def gradescope(options: argparse.Namespace, others: list[str]) -> int:
    files.read_roster(options.roster)  # its mistakes should be seen here and not on Gradescope
    points_of([f"--seed={options.seed}", *others])  # and those of the options
    settings = {"seed": options.seed, "options": others}
    settings |= {"visibility": options.visibility, "timeout": options.timeout}
    roster = options.roster.read_bytes() if options.roster else None
    options.out.write_bytes(files.gradescope_zip(settings, roster))
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


def parse(arguments: list[str]) -> argparse.Namespace:
    about, _, rest = (__doc__ or "").partition("\n")
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="autograder.py", description=about, epilog=rest, formatter_class=form
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("grade", help="grade all hand-ins in a folder")
    one.add_argument("hand_ins", type=Path, help="a folder with a folder for each student")
    two = commands.add_parser("gradescope", help="write the zip file for Gradescope")
    shown = ("visible", "hidden", "after_due_date", "after_published")
    two.add_argument("--visibility", choices=shown, default="visible", help="of all checks")
    for command, out in ((one, "grades.csv"), (two, "autograder.zip")):
        command.add_argument("--seed", type=int, required=True, help="seed of all random inputs")
        command.add_argument("--roster", type=Path, help="CSV file: name, number, email")
        command.add_argument("--timeout", type=float, default=1800, help="seconds for a hand-in")
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
    except OSError as error:
        print(f"autograder.py: {error.filename}: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
