"""Grading a class, and the files for Gradescope and GitHub, against the formats they publish."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import autograder
import autograder_class as classes
import autograder_files as files
import autograder_run
import hint
import pytest
import yaml
from checks.drawn import NUMBERS

ROOT = Path(__file__).parents[2]
TUTORIALS, KEY = ROOT / "tutorials", ROOT / "tests" / "answer_key.py"

# A grades file with everything that can be in one: a part, a share of the points, a stretch task.
GRADES = {
    **{"points": 3.5, "of": 8, "seed": 4711, "student": 7, "finished": True},
    "hints": {"cost": 0.5, "taken": {"rung4": 1}},
    "exercises": {"5": {"points": 1, "of": 2}},
    "rungs": {"4": {"points": 2.5, "of": 6}},
    "stretch": {"1": {"points": 2, "of": 2}},
    "checks": [
        {
            **{"exercise": 5, "check": "test_ex5_all_of_them", "points": 1, "of": 2},
            **{"passed": False, "reason": "p <= ½ for token 3"},
        },
        {
            **{"rung": 4, "check": "test_rung4_the_loss_falls", "points": 3, "of": 3},
            **{"passed": True, "reason": None},
        },
        {
            **{"rung": 4, "check": "test_rung4_clipping", "points": 0, "of": 3},
            **{"passed": False, "reason": "not done yet: Rung 4: write"},
        },
        {
            **{"stretch": 1, "check": "test_stretch1_it_is_small", "points": 2, "of": 2},
            **{"passed": True, "reason": None},
        },
    ],
}

# --- Gradescope -----------------------------------------------------------------------------------

# As published at gradescope-autograders.readthedocs.io/en/latest/specs: key: types.
SHOWN = {"hidden", "after_due_date", "after_published", "visible"}
FORMATS = {"text", "html", "simple_format", "md", "ansi"}
TOP = {
    **{"score": (int, float), "execution_time": (int, float), "output": str, "tests": list},
    **{"output_format": str, "test_output_format": str, "test_name_format": str},
    **{"visibility": str, "stdout_visibility": str, "extra_data": dict, "leaderboard": list},
}
TEST = {
    **{"score": (int, float), "max_score": (int, float), "status": str, "name": str},
    **{"name_format": str, "number": str, "output": str, "output_format": str},
    **{"tags": list, "visibility": str, "extra_data": dict},
}


def check_results(document: dict) -> None:
    """Fails unless Gradescope takes the document."""
    for one, known in ((document, TOP), *((test, TEST) for test in document["tests"])):
        assert {*one} <= {*known}
        for key, value in one.items():
            assert isinstance(value, known[key]) and not isinstance(value, bool), key
            assert not key.endswith("visibility") or value in SHOWN
            assert not key.endswith("format") or value in FORMATS
            assert key != "status" or value in {"passed", "failed"}
    assert "score" in document or all("score" in test for test in document["tests"])


def test_results_have_the_format_of_gradescope():
    document = files.results(GRADES, 12.4)
    check_results(document)
    assert (document["score"], document["execution_time"]) == (3.5, 12)
    first, second, third, stretch = document["tests"]
    assert first == {
        **{"name": "exercise 5: all of them", "number": "E5.1", "status": "failed"},
        **{"output": "p <= ½ for token 3", "visibility": "visible", "score": 1, "max_score": 2},
    }
    assert (second["number"], third["number"]) == ("R4.1", "R4.2")
    assert second["status"] == "passed" and "score" not in stretch
    assert "Hints taken, at 0.5 points each: rung4 (1)" in document["output"]
    hidden = files.results(GRADES, 1, note="the grading ended early", visibility="after_published")
    check_results(hidden)
    assert {test["visibility"] for test in hidden["tests"]} == {"after_published"}
    assert hidden["output"] == "the grading ended early\nHints taken, at 0.5 points each: rung4 (1)"
    with pytest.raises(AssertionError):
        check_results(files.results(GRADES, 1, visibility="shown"))


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("packed")
    roster, out = folder / "roster.csv", folder / "autograder.zip"
    roster.write_text("name,number,email\nAnna,7,Anna@uni.example\n", encoding="utf-8")
    command = ["gradescope", "--seed=4711", f"--roster={roster}", f"--out={out}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autograder, "points_of", lambda options: {"exercises": {}})
        assert autograder.main([*command, "--", "-m", "rung1"]) == 0
    return zipfile.ZipFile(out)


def test_the_zip_file_has_the_grader_and_neither_key_nor_answers(packed):
    names = packed.namelist()
    assert {"setup.sh", "run_autograder", "settings.json", "requirements.txt"} < {*names}
    assert {"tinymem/tiny/model.safetensors", "tutorials/conftest.py"} < {*names}
    for script in ("setup.sh", "run_autograder"):
        assert packed.getinfo(script).external_attr >> 16 & 0o111 == 0o111
        text = packed.read(script)
        assert text.startswith(b"#!/usr/bin/env bash\n") and b"\r" not in text
    students = ("exercises.py", "mymem.py", "hints-taken.json")
    assert not {"answer_key.py", *students} & {name.rpartition("/")[2] for name in names}
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    needs = packed.read("requirements.txt").decode().split()
    assert {"pytest", "matplotlib"} < {*needs} and any(one.startswith("torch>=") for one in needs)
    assert not any(one.startswith("tinymem") for one in needs)  # the index has another project
    # Gradescope stops a grader after ten minutes, and then a hand-in gets no points at all.
    assert json.loads(packed.read("settings.json"))["timeout"] <= 500


def test_the_requirements_of_an_installed_tinymem_have_no_extras(tmp_path, monkeypatch):
    """Where only the folder tutorials/ was copied, there is no pyproject.toml to read."""
    monkeypatch.setattr(files, "package", lambda: tmp_path / "tinymem")
    needs = ["torch>=2.4", "numpy>=1.23.5", "matplotlib; extra == 'plot'"]
    monkeypatch.setattr(files.metadata, "requires", lambda name: needs)
    assert files.requirements() == needs[:2]


@pytest.mark.skipif(os.name != "posix", reason="Gradescope runs on Linux")
def test_setup_installs_torch_without_cuda_and_the_requirements(packed, tmp_path):
    """`python3` only writes down here what it is asked to do."""
    packed.extractall(tmp_path / "source")
    fake, log = tmp_path / "bin" / "python3", tmp_path / "log"
    for path in (fake, tmp_path / "venv" / "bin" / "python"):
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
        path.chmod(0o755)
    path = f"{fake.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "AUTOGRADER_ROOT": str(tmp_path)}
    subprocess.run(["bash", str(tmp_path / "source" / "setup.sh")], env=environment, check=True)
    asked = log.read_text().splitlines()
    assert asked[-3:] == [
        f"-m venv {tmp_path / 'venv'}",
        "-m pip install torch --index-url https://download.pytorch.org/whl/cpu",
        f"-m pip install -r {tmp_path / 'source' / 'requirements.txt'}",
    ]


def test_the_unpacked_autograder_grades_a_hand_in(packed, tmp_path):
    packed.extractall(tmp_path / "source")
    (tmp_path / "submission").mkdir()
    shutil.copy(KEY, tmp_path / "submission" / "mymem.py")
    about = {"users": [{"email": "anna@uni.example", "id": 1, "name": "A. Muster"}]}
    (tmp_path / "submission_metadata.json").write_text(json.dumps(about), encoding="utf-8")
    command = [sys.executable, str(tmp_path / "source" / "tutorials" / "autograder.py"), "run"]
    command.append(str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "source")}
    if os.name == "posix":  # with the script that Gradescope calls
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        python = tmp_path / "venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
        command = ["bash", str(tmp_path / "source" / "run_autograder")]
        environment |= {"AUTOGRADER_ROOT": str(tmp_path), "PYTHONPATH": "nowhere"}
    subprocess.run(command, env=environment, check=True, cwd=tmp_path)
    text = (tmp_path / "results" / "results.json").read_text(encoding="utf-8")
    document = json.loads(text)
    check_results(document)
    assert document["score"] > 0 and "4711" not in text
    assert all(test["status"] == "passed" for test in document["tests"])
    assert document["score"] == sum(test["max_score"] for test in document["tests"])
    assert "no number for you" not in document["output"]


def test_on_gradescope_a_failed_grader_gives_no_score_and_a_student_without_a_number_is_told(
    tmp_path, monkeypatch, capsys
):
    for path in ("source", "submission"):
        (tmp_path / path).mkdir()
    settings = {"seed": 4711, "options": [], "timeout": 500, "visibility": "hidden"}
    (tmp_path / "source" / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "source" / "roster.csv").write_text("name,number\nAnna,7\n", encoding="utf-8")
    capstone = {"12": {"points": 0, "of": 8}}
    surrogate = {**GRADES["checks"][0], "reason": "raised \ud800", "check": "test_ex5_all[0]"}
    graded = {**GRADES, "exercises": capstone, "checks": [surrogate]}
    answers = [classes.Graded(None, "not graded: no memory", 1.0), classes.Graded(graded, "", 1.0)]
    asked = []
    monkeypatch.setattr(autograder, "grade", lambda *all: asked.append(all[2]) or answers.pop(0))
    assert autograder.main(["run", str(tmp_path)]) == 2
    assert not (tmp_path / "results").exists() and "no memory" in capsys.readouterr().err
    assert autograder.main(["run", str(tmp_path)]) == 0
    assert asked == [["--seed=4711", "--student=0"]] * 2
    document = json.loads((tmp_path / "results" / "results.json").read_text(encoding="utf-8"))
    assert document["output"].startswith("Your teacher's list has no number for you: exercise 12")
    assert "of 8" not in document["output"]  # the tests are hidden, and so is the score
    assert document["tests"][0]["name"] == "exercise 5: all (0)"


# --- GitHub ---------------------------------------------------------------------------------------


def test_the_files_for_github_have_its_published_format(tmp_path, monkeypatch, capsys):
    points = {"exercises": {"5": 4}, "rungs": {"1": 4, "4": 6}, "stretch": {"1": 2}}
    monkeypatch.setattr(autograder, "points_of", lambda options: points)
    command = ["classroom", f"--out={tmp_path}", "--", "-m", "rung1 or rung4 or ex5"]
    assert autograder.main(command) == 0
    workflow = yaml.safe_load((tmp_path / ".github/workflows/classroom.yml").read_text())
    assert workflow["name"] == "Autograding Tests"  # GitHub Classroom took no other name, nor job
    (job,) = workflow["jobs"].values()
    assert list(workflow["jobs"]) == ["run-autograding-tests"] and job["runs-on"]
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    grade = job["steps"][-1]
    assert grade["run"].endswith("autograder.py actions -- -m 'rung1 or rung4 or ex5'")
    assert "secrets.TINYMEM_SEED" in grade["env"]["TINYMEM_SEED"]
    tests = json.loads((tmp_path / ".github/classroom/autograding.json").read_text())["tests"]
    kinds = {**dict.fromkeys(("name", "setup", "run", "input", "output", "comparison"), str)}
    kinds |= {"timeout": int, "points": int}
    for test in tests:
        assert {*test} == {*kinds} and all(isinstance(test[key], kinds[key]) for key in kinds)
        assert test["comparison"] in {"exact", "included", "regex"}
    assert [(test["name"], test["points"]) for test in tests] == [
        *[("rung 1", 4), ("rung 4", 6), ("exercise 5", 4)]
    ]
    assert tests[-1]["run"].endswith("-m 'rung1 or rung4 or ex5' -m ex5")
    assert autograder.main(command) == 2 and "exists already" in capsys.readouterr().err


def test_a_push_is_reported_in_the_words_of_github_classroom(tmp_path, monkeypatch, capsys):
    asked = []

    def grade(hand_in, path, options):
        asked.append((hand_in, options, os.environ["TINYMEM_SEED"]))
        return classes.Graded(GRADES, "", 3.0)

    monkeypatch.setattr(autograder, "grade", grade)
    monkeypatch.setenv("TINYMEM_SEED", "")  # as GitHub sets it where there is no such secret
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert autograder.main(["actions", "--", "-m", "rung4"]) == 1
    assert asked == [(TUTORIALS, ["-m", "rung4"], "0")]
    assert capsys.readouterr().out.splitlines() == [
        "::notice title=Autograding complete::Points 3.5/8",
        '::notice title=Autograding report::{"totalPoints": 3.5, "maxPoints": 8}',
    ]
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| rung 4 | 2.5 | 6 |" in summary and "p &lt;= ½ for token 3" in summary


# --- A class --------------------------------------------------------------------------------------


@pytest.fixture
def handed_in(tmp_path) -> Path:
    folder = tmp_path / "hand-ins"
    for name in ("anna", "bob", "cy/tutorials", ".git", "__MACOSX"):
        (folder / name).mkdir(parents=True)
    for path in ("anna/mymem.py", "cy/tutorials/exercises.ipynb", "dee.py", "read.me"):
        (folder / path).touch()
    return folder


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(out.read_text(encoding="utf-8-sig")))
    return {row["student"]: row for row in rows}


def test_each_student_is_graded_and_the_table_has_a_row_for_each(
    handed_in, tmp_path, monkeypatch, capsys
):
    asked = {}

    def grade(hand_in, path, options, timeout, progress):
        asked[path.name] = (hand_in, options)
        if hand_in.name == "bob":
            return classes.Graded(None, "not graded: out of memory", 2.0)
        return classes.Graded(GRADES, "", 65.2)

    monkeypatch.setattr(autograder, "grade", grade)
    roster, out = tmp_path / "roster.csv", tmp_path / "grades.csv"
    roster.write_text("\ufeffnumber,name\n7, Anna \n8,bob\n9,dee\n10,Eve\n", encoding="utf-8")
    command = ["grade", str(handed_in), "--seed=4711", f"--roster={roster}", f"--out={out}"]
    assert autograder.main([*command, "--", "-m", "rung4"]) == 1  # because of bob
    assert asked["anna.json"] == (handed_in / "anna", ["--seed=4711", "--student=7", "-m", "rung4"])
    # Whoever is not in the roster has no number, and gets no points for the capstone.
    unknown = ["--seed=4711", "--student=0", "-m", "rung4"]
    assert asked["cy.json"] == (handed_in / "cy" / "tutorials", unknown)
    assert asked["dee.json"][0] == handed_in / "dee.py"
    rows = rows_of(out)
    assert list(rows) == ["anna", "bob", "cy", "dee", "Eve"]
    assert rows["anna"] == {
        **{"student": "anna", "number": "7", "points": "3.5", "of": "8", "rung 4": "2.5"},
        **{"exercise 5": "1", "stretch 1": "2", "hints": "1", "note": ""},
    }
    assert rows["bob"]["points"] == "" and rows["bob"]["note"] == "not graded: out of memory"
    assert rows["cy"]["note"] == "not in the roster" and rows["cy"]["number"] == ""
    assert (rows["Eve"]["points"], rows["Eve"]["number"]) == ("", "10")
    assert rows["Eve"]["note"] == "no hand-in"
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "1 of 4  anna  3.5 of 8 points  65 s"
    assert len(told) == 5 and told[-1] == "no hand-in: Eve"
    assert autograder.main(command) == 2 and "grades.csv exists already" in capsys.readouterr().err


def test_an_interrupted_class_keeps_its_rows(handed_in, tmp_path, monkeypatch, capsys):
    asked = []

    def grade(hand_in, path, options, timeout, progress):
        asked.append(path.stem)
        if asked == ["anna", "bob"]:
            raise KeyboardInterrupt
        grades = {**GRADES, "student": None, "finished": hand_in.name != "bob"}
        path.write_text(json.dumps(grades), encoding="utf-8")
        return classes.Graded(grades, "", 65.2)

    monkeypatch.setattr(autograder, "grade", grade)
    out = tmp_path / "grades.csv"
    command = ["grade", str(handed_in), "--seed=1", f"--out={out}"]
    old = tmp_path / "grades" / "cy.json"  # of a table that the teacher has deleted
    old.parent.mkdir()
    old.write_text(json.dumps({**GRADES, "student": None}), encoding="utf-8")
    os.utime(old, (1e9, 1e9))
    assert autograder.main(command) == 130
    assert list(rows_of(out)) == ["anna"]
    told = capsys.readouterr()
    assert told.out.startswith(f"Wrote {out}")
    assert told.err.splitlines()[-1] == "interrupted: 1 of 4 hand-ins were graded"
    # What is graded to the end with the same settings is not graded again.
    assert autograder.main([*command, "--resume", "--", "-m", "rung4"]) == 2
    assert "no grades with this seed and these options" in capsys.readouterr().err
    for again in (["bob", "cy", "dee"], ["bob"]):
        del asked[:]
        assert autograder.main([*command, "--resume"]) == 0
        assert list(rows_of(out)) == ["anna", "bob", "cy", "dee"]
        assert rows_of(out)["anna"]["points"] == "3.5"
        assert asked == again


def test_a_note_says_why_a_file_was_not_graded_and_that_hints_cannot_be_read(tmp_path):
    reason = "mymem.py cannot be imported: SyntaxError: invalid syntax (line 3: x =)"
    check = {"check": "test_rung1_a", "passed": False, "points": 0, "of": 1}
    checks = [{**check, "rung": 1, "reason": reason}, {**check, "stretch": 1, "reason": reason}]
    todo = [{**check, "exercise": 5, "reason": "not done yet: Exercise 5"}] * 2
    assert classes.failed_parts({"checks": checks + todo}) == [reason]
    other = {**check, "rung": 2, "reason": "another"}
    assert classes.failed_parts({"checks": [*checks, other, *todo]}) == []
    (tmp_path / hint.RECORD).write_text('\ufeff{"rung1": 2}', encoding="utf-8")
    assert classes.unreadable_hints(tmp_path) == [] and hint.taken(tmp_path) == {"rung1": 2}
    (tmp_path / hint.RECORD).write_text("{'rung1': 2}", encoding="utf-8")
    assert classes.unreadable_hints(tmp_path) == ["hints-taken.json cannot be read"]


def test_files_may_be_in_a_folder_inside(tmp_path):
    for path in (
        "anna/upload/mymem.py",
        "bob/repo/tutorials/mymem.py",
        "cy/1/x.py",
        "dee/mymem.py",
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    for path in ("dee/old/mymem.py", "eve/1/mymem.py", "eve/2/mymem.py", "anna/__MACOSX/mymem.py"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    found = {
        name: str(path.relative_to(tmp_path)) for name, path in classes.hand_ins(tmp_path).items()
    }
    where = {"anna": "anna/upload", "bob": "bob/repo/tutorials", "cy": "cy", "dee": "dee"}
    assert found == {name: str(Path(path)) for name, path in {**where, "eve": "eve"}.items()}


def test_a_roster_from_excel_and_names_from_a_mac(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("\ufeffname;number;email\nZoë Löw;7;Z@uni.example\n;;\n", encoding="utf-8")
    roster = classes.read_roster(path)
    assert classes.number_of(roster, "Zoe\u0308 Lo\u0308w") == 7  # as macOS writes file names
    assert classes.number_of(roster, "somebody", "z@UNI.example") == 7
    assert classes.number_of(roster, "Anna") == 0 and roster.names == {7: "Zoë Löw"}
    assert classes.number_of(classes.read_roster(None), "Anna") is None
    assert classes.NUMBERS == NUMBERS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["grade", "missing"], "no such folder"),
        (["grade", "empty"], "no hand-ins"),
        (["grade", "twice"], "two hand-ins have the name anna"),
        (["grade", "one", "--out=table"], "a file with an ending, such as grades.csv"),
        (["grade", "one", "--out=there.csv"], "there.csv exists already"),
        (["grade", "one", "--out=one/table.csv"], "outside the folder"),
        (["grade", "one", "--out=one.csv"], "outside the folder"),
        (["grade", "one", "--out=missing/g.csv"], "missing"),
        (["grade", "one", "--roster=missing.csv"], "missing.csv: No such file"),
        (["grade", "one", "--roster=no-number.csv"], "the columns name and number"),
        (["grade", "one", "--roster=nobody.csv"], "nobody.csv: no student is in it"),
        *[
            (["grade", "one", f"--roster={name}.csv"], f"{name}.csv, line 3: {says}")
            for name, says in {
                "words": "'x' is no whole number from 1 to 9999",
                "power": "'²' is no whole number from 1 to 9999",
                "large": "'2023117' is no whole number from 1 to 9999",
                "numbers": "the number 1 is there twice",
                "names": "the name Anna is there twice",
            }.items()
        ],
        (["grade", "one", "--roster=latin.csv"], "latin.csv: not a text in UTF-8; Excel can save"),
        (["gradescope", "--roster=missing.csv"], "missing.csv: No such file"),
    ],
)
def test_mistakes_of_a_teacher_are_told_in_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in ("empty", "twice/anna", "one/anna"):
        Path(path).mkdir(parents=True)
    Path("twice/anna.py").touch()
    Path("no-number.csv").write_text("name,email\n")
    Path("there.csv").mkdir()
    Path("nobody.csv").write_text("name,number\n\n,\n")
    Path("latin.csv").write_bytes("name,number\nZoë,1\n".encode("latin-1"))
    second = {"words": "bob,x", "power": "bob,²", "large": "bob,2023117", "numbers": "bob,1"}
    for name, row in {**second, "names": "Anna,2"}.items():
        Path(f"{name}.csv").write_text(f"name,number\nanna,1\n{row}\n", encoding="utf-8")
    assert autograder.main([arguments[0], "--seed=1", *arguments[1:]]) == 2
    told = capsys.readouterr().err
    assert says in told and told.count("\n") == 1


@pytest.mark.parametrize("seconds", ["nan", "inf", "-3", "0"])
def test_an_impossible_timeout_is_refused(seconds, capsys):
    with pytest.raises(SystemExit) as ended:
        autograder.parse(["grade", "hand-ins", "--seed=1", f"--timeout={seconds}"])
    assert ended.value.code == 2 and "seconds above 0" in capsys.readouterr().err


FAKE = """import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background
path = next(one for one in sys.argv if one.startswith("--grades=")).partition("=")[2]
def write(finished):
    open(path, "w").write(json.dumps({"finished": finished}))
"""


@pytest.mark.parametrize(
    ("pytest_does", "says"),
    [
        ("print('ERROR: --seed -1: too low'); sys.exit(4)", "Refused: --seed -1: too low"),
        ("print('python -m pytest: error: no --foo'); sys.exit(4)", "Refused: no --foo"),
        ("sys.exit(5)", "Refused: no check is selected: --foo"),
        ("print('no memory'); sys.exit(1)", "not graded: no memory"),
        ("write(True); sys.exit(3)", "not graded: an error in the grader: pytest said nothing"),
        (
            "write(True); print('INTERNALERROR> E: busy\\n\\nno tests ran'); sys.exit(3)",
            "not graded: an error in the grader: E: busy",
        ),
        ("write(False); sys.exit(1)", "the grading ended early"),
        ("write(False); time.sleep(60)", "stopped after 0.5 seconds"),
        ("write(True); sys.exit(1)", ""),
    ],
)
def test_how_pytest_ended_is_told(pytest_does, says, tmp_path, monkeypatch):
    monkeypatch.setattr(autograder_run, "PYTEST", (sys.executable, "-c", FAKE + pytest_does))
    seconds = 0.5 if "sleep" in pytest_does else 60
    try:
        note = autograder.grade(tmp_path, tmp_path / "grades.json", ["--foo"], seconds).note
    except classes.Refused as error:
        note = f"Refused: {error}"
    assert note == says


def test_a_module_of_the_current_folder_does_not_run_in_the_grader(tmp_path, monkeypatch):
    """A teacher may stand in the folder of hand-ins, where a student's file may be json.py."""
    (tmp_path / "json.py").write_text("raise RuntimeError('this is not the module json')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    options = ["--collect-only", "-m", "rung1"]
    graded = autograder.grade(Path("."), Path("grades.json"), options)
    assert graded.grades["of"] == 4
    assert graded.note == "the grading ended early"  # since no check was run
