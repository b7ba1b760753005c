"""The grading of the exercises: stubs get no points, the key all points, wrong answers a reason.

The checks run in this process through `pytest.main`, so that torch and the model are loaded once.
"""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from tests.course.wrong_exercises import WRONG

ROOT = Path(__file__).parents[2]
TUTORIALS, KEY = ROOT / "tutorials", ROOT / "tests" / "answer_key.py"
STUBS = (TUTORIALS / "exercises.py").read_text(encoding="utf-8")
NAMES = re.findall(r"^def (\w+)", STUBS, re.MULTILINE)
# The inner pytest does without capturing and without plugins that can run once per process only.
PLUGINS = ("cacheprovider", "faulthandler", "unraisableexception")
INNER = ["-s", *(f"-pno:{name}" for name in PLUGINS)]


@pytest.fixture
def grade(tmp_path, monkeypatch):
    """A function that grades an answers file as a teacher would and returns the grades file."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # pytest.main adds entries
    config = tmp_path / "pytest.ini"
    config.write_text("[pytest]\n")

    def run(answers: Path | str, *options: str) -> dict:
        if isinstance(answers, str):
            (tmp_path / "handin.py").write_text(answers, encoding="utf-8")
            answers = tmp_path / "handin.py"
        grades = tmp_path / "grades.json"
        grades.unlink(missing_ok=True)
        where = ["-c", str(config), f"--rootdir={TUTORIALS}", f"--basetemp={tmp_path / 'inner'}"]
        hand_in = [f"--answers={answers}", f"--grades={grades}"]
        run.code = pytest.main([str(TUTORIALS), *INNER, *where, *hand_in, *options])
        return json.loads(grades.read_text(encoding="utf-8")) if grades.exists() else {}

    return run


def reasons(grades: dict) -> list[str]:
    """The reasons of the failed checks. None of them may contain a traceback."""
    found = [check["reason"] for check in grades["checks"] if not check["passed"]]
    for reason in found:
        assert "test_exercises" not in reason and "Traceback" not in reason, reason
    return found


def key_but(**changes: str) -> str:
    """A hand-in: the key, with other values for some names."""
    lines = ["from tests.answer_key import *", "from tests.course import wrong_exercises"]
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in changes.items()), ""])


def test_stubs_score_nothing(grade):
    grades = grade(TUTORIALS / "exercises.py")
    assert list(grades["exercises"]) == [str(n) for n in range(1, 12)]
    assert grades["points"] == 0 and all(one["of"] >= 3 for one in grades["exercises"].values())
    assert all(reason.startswith("not done yet: ") for reason in reasons(grades))


@pytest.mark.parametrize("seed", [0, 2026])
def test_the_key_gets_everything(grade, seed):
    part = ["-m", "not ex11"] if seed else []  # exercise 11 has no random inputs
    grades = grade(KEY, f"--seed={seed}", *part)
    assert grades["points"] == grades["of"] > 0 and grades["finished"] and grades["seed"] == seed
    assert not reasons(grades)


def graded(grade, name: str, known: dict[str, dict] = {}) -> dict:  # noqa: B006, a cache
    """The grades, in one exercise, of the key with one wrong answer in it."""
    if name not in known:
        hand_in = key_but(**{WRONG[name].name: f"wrong_exercises.{name}"})
        known[name] = grade(hand_in, "-m", f"ex{WRONG[name].exercise}")
    return known[name]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_told_why(grade, name):
    grades = graded(grade, name)
    assert grades["points"] < grades["of"]
    assert any(WRONG[name].says in reason for reason in reasons(grades)), reasons(grades)


def test_every_check_is_failed_by_a_wrong_answer(grade):
    checks = [check for name in WRONG for check in graded(grade, name)["checks"]]
    cannot_be_imported = grade("1 / 0")  # lists all checks without running any
    every = {check["check"] for check in cannot_be_imported["checks"]}
    assert every == {check["check"] for check in checks if not check["passed"]}


def test_each_exercise_has_two_wrong_answers_and_every_name_of_the_stubs_one():
    exercises = [wrong.exercise for wrong in WRONG.values()]
    assert all(exercises.count(n) >= 2 for n in range(1, 12))
    assert {wrong.name for wrong in WRONG.values()} == {*NAMES, "MY_TEXT", "MY_RANK"}


@pytest.mark.parametrize(
    "value",
    [
        *("None", "(None, None, None)", "[]", "[1.5, 'a']", "'text'"),
        *("torch.tensor(0.5)", "torch.tensor([[2j]])", "1e999"),
    ],
)
def test_an_answer_of_the_wrong_kind_gets_a_sentence(grade, value):
    names = [name for name in NAMES if name != "check_sweep"]
    stubs = "".join(f"def {name}(*_):\n    return {value}\n" for name in names)
    grades = grade(f"import torch\nMY_TEXT = MY_RANK = {value}\n{stubs}", "-m", "not ex7")
    assert len(reasons(grades)) == len(grades["checks"])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return rotate(x, positions, theta)", "RecursionError: maximum recursion depth exceeded"),
        (
            "return x.nothing",
            "AttributeError: 'Tensor' object has no attribute 'nothing' (line 2: return x.nothing)",
        ),
        ("raise SystemExit", "SystemExit (line 2: raise SystemExit)"),
        ("import pytest; pytest.skip('later')", "rotate raised Skipped: later"),
        ("raise NotImplementedError", "rotate raised NotImplementedError"),
        ("while True: pass", "rotate was stopped after 1 s. Is there an endless loop?"),
    ],
)
def test_an_answer_that_raises_or_never_ends(grade, body, says):
    grades = grade(f"def rotate(x, positions, theta):\n    {body}\n", "-m", "ex2", "--limit", "1")
    assert len(reasons(grades)) == 3 and all(says in reason for reason in reasons(grades))
    assert grades["finished"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "def rotate(x)\n",
            "handin.py cannot be imported: SyntaxError: expected ':' (line 1: def rotate(x))",
        ),
        (
            "import torch\n1 / 0\n",
            "handin.py cannot be imported: ZeroDivisionError: division by zero (line 2: 1 / 0)",
        ),
        (
            "import no_such_module\n",
            "ModuleNotFoundError: No module named 'no_such_module' (line 1",
        ),
        ("exit()\n", "SystemExit"),
        (
            "while True: pass\n",
            "handin.py cannot be imported: the import did not end within 1 s",
        ),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_a_file_that_cannot_be_imported(grade, capsys, text, says):
    grades = grade(text, "--limit", "1")
    assert grade.code == 1 and grades["points"] == 0 and grades["of"] == 48 and grades["finished"]
    assert all(says in reason for reason in reasons(grades)) and len(grades["checks"]) == 34
    shown = capsys.readouterr().out
    assert shown.count(says) == 1 and "0 of 48" in shown


def test_a_missing_function_and_a_changed_world(grade):
    text = "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
    grades = grade(text + key_but(new_unit="None"), "-m", "ex3 or ex6 or ex8")
    assert set(reasons(grades)) == {
        "handin.py has no function new_unit. Do not rename the functions"
    }
    points = {number: (one["points"], one["of"]) for number, one in grades["exercises"].items()}
    assert points == {"3": (3, 5), "6": (4, 4), "8": (4, 4)}


def test_what_is_wrong_with_the_options_is_one_line(grade, tmp_path, capsys):
    missing = str(tmp_path / "no" / "grades.json")
    for options, says in (
        (["--grades", missing], "no/grades.json: No such file or directory"),
        (["--grades", str(tmp_path)], "Is a directory"),
        (["--answers", "nobody.py"], "--answers nobody.py: no such file"),
        (["--seed", "-1"], "--seed -1: expected an integer from 0 to 2^31 − 1"),
    ):
        grade(KEY, "-m", "ex1", *options)
        captured = capsys.readouterr()
        assert grade.code == 4 and says in captured.err
        assert len((captured.out + captured.err).strip().splitlines()) == 1


def test_the_junit_file_carries_exercise_and_points(grade, tmp_path):
    grade(KEY, "-k", "ex3_never or ex9_stored", "--junitxml", str(tmp_path / "grade.xml"))
    cases = xml.etree.ElementTree.parse(tmp_path / "grade.xml").getroot().iter("testcase")
    found = [{p.get("name"): p.get("value") for p in case.iter("property")} for case in cases]
    assert found == [{"exercise": "3", "points": "2"}, {"exercise": "9", "points": "1"}]


def test_the_teachers_table_has_the_points(grade):
    text = (TUTORIALS / "for-teachers.md").read_text(encoding="utf-8")
    table = {n: int(of) for n, of in re.findall(r"^\| (\d+) \|.* (\d+) \|$", text, re.MULTILINE)}
    grades = grade("1 / 0")  # lists all checks without running any
    assert table == {n: one["of"] for n, one in grades["exercises"].items()}


def test_a_copy_of_the_folder_works_alone(tmp_path):
    """What a student has: the folder, pytest and the installed package. No marker is unknown."""
    others = shutil.ignore_patterns("__pycache__", "*.png", "reproduction")
    shutil.copytree(TUTORIALS, tmp_path / "tutorials", ignore=others)
    stub = 'raise NotImplementedError("Exercise 1: inputs_and_targets")'
    answer = "ids = prompt_ids + target_ids[:-1]\n"
    answer += "    return ids, range(len(ids))[-len(target_ids):], target_ids"
    text = STUBS.replace(stub, answer)
    stub = 'raise NotImplementedError("Exercise 2: rotate")'
    text = text.replace(stub, "import os; os._exit(0)")
    (tmp_path / "tutorials" / "exercises.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "tutorials", "-W", "error", "--strict-markers"]
    command.append("--grades=g.json")
    done = subprocess.run([*command, "-m", "ex1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"what to remember +3 of 3", done.stdout) and "2 passed" in done.stdout
    # The process ends in exercise 2. The points of exercise 1 must be in the file.
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    grades = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    assert (grades["points"], grades["of"], grades["finished"]) == (3, 48, False)
