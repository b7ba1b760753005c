"""The files that autograder.py writes for Gradescope and for GitHub.

Gradescope publishes its format at https://gradescope-autograders.readthedocs.io/en/latest/specs.
GitHub Classroom was retired on 28 August 2026. Its two files are still of use: the workflow is one
of plain GitHub Actions and needs no other service, and autograding.json can be read by what has
taken Classroom's place.
"""

import io
import json
import re
import shlex
import zipfile
from importlib import metadata, util
from pathlib import Path

from autograder_class import PARTS

HERE = Path(__file__).resolve().parent
TORCH = "torch --index-url https://download.pytorch.org/whl/cpu"
BESIDE = ("matplotlib", "pytest")  # what students have installed beside tinymem, as README.md says


# --- Gradescope -----------------------------------------------------------------------------------

SETUP = f"""#!/usr/bin/env bash
# Runs once, while the image is built, with a network.
set -euo pipefail
root="${{AUTOGRADER_ROOT:-/autograder}}"
if ! python3 -c 'import ensurepip, venv'; then
    apt-get update
    apt-get install -y python3 python3-venv
fi
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed")'
python3 -m venv "$root/venv"
"$root/venv/bin/python" -m pip install {TORCH}
"$root/venv/bin/python" -m pip install -r "$root/source/requirements.txt"
"""

RUN = """#!/usr/bin/env bash
# Grades the hand-in in submission/ and writes results/results.json.
set -euo pipefail
root="${AUTOGRADER_ROOT:-/autograder}"
export PYTHONPATH="$root/source"
exec "$root/venv/bin/python" "$root/source/tutorials/autograder.py" run "$root"
"""


def spoken(check: str) -> str:
    """ "test_rung4_the_loss_falls[2]" -> "the loss falls (2)" """
    name = re.sub(r"^test_(rung|ex|stretch)\d+_", "", check).replace("_", " ")
    return re.sub(r"\[(.*)\]$", r" (\1)", name)


def results(grades: dict, seconds: float, note: str = "", visibility: str = "visible") -> dict:
    """The grades of one hand-in, in Gradescope's format for results.json.

    Every check is a test. A stretch task has a status but no score, because its points are not part
    of the total. The score at the top counts instead of the sum of the tests: it is lower where
    hints cost points. Students read the text at the top even where the tests are hidden, so it then
    says no points.
    """
    tests, counts = [], dict[tuple[str, int], int]()
    for check in grades["checks"]:
        kind = next(kind for kind in PARTS.values() if kind in check)
        part = (kind, check[kind])
        counts[part] = counts.get(part, 0) + 1
        test = {
            "name": f"{kind} {check[kind]}: {spoken(check['check'])}",
            "number": f"{kind[0].upper()}{check[kind]}.{counts[part]}",
            "status": "passed" if check["passed"] else "failed",
            "output": check["reason"] or "",
            "visibility": visibility,
        }
        if kind != "stretch":
            test |= {"score": check["points"], "max_score": check["of"]}
        tests.append(test)
    points = f"{grades['points']:g} of {grades['of']:g} points"
    lines = [points] * (visibility == "visible") + [note] * bool(note)
    if (taken := grades["hints"]["taken"]) and grades["hints"]["cost"]:
        names = ", ".join(f"{name} ({count})" for name, count in taken.items())
        lines.append(f"Hints taken, at {grades['hints']['cost']:g} points each: {names}")
    return {
        "score": grades["points"],
        "execution_time": round(seconds),
        "output": "\n".join(lines),
        "output_format": "text",
        "tests": tests,
    }


def requirements() -> list[str]:
    """What tinymem needs to run, from its pyproject.toml or from the installed package."""
    project = package().parent / "pyproject.toml"
    if project.is_file():
        text = project.read_text(encoding="utf-8")
        found = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
        return re.findall(r'"([^"]+)"', found[1]) if found else []
    return [one for one in metadata.requires("tinymem") or [] if "extra ==" not in one]


def package() -> Path:
    """The folder of the package tinymem that this Python imports."""
    found = util.find_spec("tinymem")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("tinymem is not installed here, and the grader needs it")
    return Path(found.origin).parent


def course_files() -> dict[str, Path]:
    """What the grader needs: the package and the course, without anything that a student edits."""
    left_out = {"exercises.py", "mymem.py", "hints-taken.json"}
    files = {}
    for name, folder in (("tinymem", package()), ("tutorials", HERE)):
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
            extra = name == "tutorials" and (
                path.suffix not in (".py", ".md") or inside.parts[0] in ("site", "reproduction")
            )
            if path.is_file() and not hidden and not extra and inside.name not in left_out:
                files[f"{name}/{inside.as_posix()}"] = path
    return files


def gradescope_zip(settings: dict, roster: bytes | None) -> bytes:
    """The autograder as a zip file: setup.sh and run_autograder at the top, and the course."""
    texts = {
        "setup.sh": SETUP,
        "run_autograder": RUN,
        "requirements.txt": "\n".join([*requirements(), *BESIDE]) + "\n",
        "settings.json": json.dumps(settings, indent=1) + "\n",
    }
    files = {name: text.encode("utf-8") for name, text in texts.items()}
    files |= {"roster.csv": roster} if roster else {}
    files |= {name: path.read_bytes() for name, path in course_files().items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980, so that the same course gives the same file
            entry.compress_type = zipfile.ZIP_DEFLATED
            script = name in ("setup.sh", "run_autograder")
            entry.create_system, entry.external_attr = 3, (0o755 if script else 0o644) << 16
            packed.writestr(entry, data)
    return buffer.getvalue()


# --- GitHub ---------------------------------------------------------------------------------------

WORKFLOW = """# Grades each push. Written by tutorials/autograder.py.
# Students who may push to the repository can change this file and the checks, so the result is
# feedback for them. For marks, clone the repositories and call autograder.py grade.
name: Autograding Tests
on: [push, workflow_dispatch]
permissions:
  contents: read
jobs:
  run-autograding-tests:
    runs-on: ubuntu-latest
    timeout-minutes: 60
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "3.12"
      - name: Install
        run: {install}
      - name: Grade
        run: {grade}
        env:
          TINYMEM_SEED: ${{{{ secrets.TINYMEM_SEED }}}}
"""


def install(source: str) -> str:
    return f"pip install {TORCH} && pip install {shlex.quote(source)} {' '.join(BESIDE)}"


def workflow(source: str, options: list[str]) -> str:
    """The workflow. `source` is what pip installs as tinymem: `.`, or a pinned git address."""
    grade = "python tutorials/autograder.py actions"
    grade += f" -- {shlex.join(options)}" if options else ""
    # A JSON text is a YAML text as well, whatever is in it.
    return WORKFLOW.format(install=json.dumps(install(source)), grade=json.dumps(grade))


def autograding(points: dict[str, dict[str, float]], source: str, options: list[str]) -> dict:
    """The content of autograding.json: a test for each part, which gives all its points or none."""
    marks = {"rungs": "rung", "exercises": "ex"}
    grade = shlex.join(["python", "-m", "pytest", "tutorials", *options])
    return {
        "tests": [
            {
                "name": f"{PARTS[key]} {number}",
                "setup": install(source),
                "run": f"{grade} -m {marks[key]}{number}",  # the last -m counts
                "input": "",
                "output": "",
                "comparison": "included",
                "timeout": 10,
                "points": of,
            }
            for key in marks
            for number, of in points[key].items()
        ]
    }


def notices(grades: dict) -> list[str]:
    """The points as annotations of a workflow, in the words of GitHub Classroom's reporter."""
    report = {"totalPoints": grades["points"], "maxPoints": grades["of"]}
    return [
        f"::notice title=Autograding complete::Points {grades['points']:g}/{grades['of']:g}",
        f"::notice title=Autograding report::{json.dumps(report)}",
    ]


def summary(grades: dict) -> str:
    """The points of each part and the reasons, as Markdown for the page of a workflow run."""
    lines = ["| part | points | of |", "|---|---|---|"]
    for key, name in PARTS.items():
        for number, one in grades[key].items():
            lines.append(f"| {name} {number} | {one['points']:g} | {one['of']:g} |")
    lines += [f"| **total** | **{grades['points']:g}** | **{grades['of']:g}** |", ""]
    for check in grades["checks"]:
        if not check["passed"]:
            reason = " ".join(check["reason"].split()).replace("<", "&lt;")
            lines.append(f"- {spoken(check['check'])}: {reason}")
    return "\n".join(lines) + "\n"
