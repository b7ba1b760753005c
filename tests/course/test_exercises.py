"""The grading of the exercises: stubs get nothing, the key everything, wrong answers a reason.

The grader runs in this process through `pytest.main`, so that torch and the model are loaded once,
and what it trains for one hand-in is there for the next one.
"""

import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from checks.points import EXERCISES

from tests.course.conftest import TUTORIALS
from tests.course.wrong import BETWEEN, KEY
from tests.course.wrong_exercises import NOTHING, WRONG

CHECKS = TUTORIALS / "checks"
STUBS = (TUTORIALS / "exercises.py").read_text(encoding="utf-8")
ANSWERS = KEY.read_text(encoding="utf-8")
NO_WORK = Path(__file__).with_name("no_work.py")
NAMES = re.findall(r"^def (\w+)", STUBS, re.MULTILINE)
VALUES = re.findall(r"^(MY_\w+) = ", STUBS, re.MULTILINE)
POINTS = {2: 4, 5: 4, 7: 6, 9: 3, 11: 3, 12: 8}
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
        checks = map(str, sorted(CHECKS.glob("test_exercise*.py")))
        run.code = pytest.main([*checks, *INNER, *where, *hand_in, *options])
        return json.loads(grades.read_text(encoding="utf-8")) if grades.exists() else {}

    return run


def reasons(grades: dict) -> list[str]:
    """The reasons of the failed checks. None of them may contain a traceback."""
    found = [check["reason"] for check in grades["checks"] if not check["passed"]]
    for reason in found:
        assert "test_exercise" not in reason and "Traceback" not in reason, reason
    return found


def name_of(check: dict) -> str:
    """Without the parameter."""
    return check["check"].partition("[")[0]


def test_stubs_score_nothing(grade):
    grades = grade(TUTORIALS)
    assert {int(n): one["of"] for n, one in grades["exercises"].items()} == POINTS
    assert grades["points"] == 0 and grades["of"] == sum(POINTS.values()) == 28
    assert all(reason.startswith("not done yet: ") for reason in reasons(grades))


def test_answers_without_any_work_earn_nearly_nothing(grade):
    """Exercises 5 and 12 need trainings and are left out."""
    grades = grade(NO_WORK, "-m", "ex2 or ex7 or ex9 or ex11")
    assert {n: one["points"] for n, one in grades["exercises"].items()} == {
        **{"2": 1, "7": 0, "9": 0},
        "11": 1,  # for the layers that are computed
    }


def test_the_key_gets_everything(grade):
    grades = grade(KEY, "--seed=2026")
    assert not reasons(grades)
    assert grades["points"] == grades["of"] == 28 and grades["finished"] and grades["seed"] == 2026


@pytest.mark.parametrize("number", EXERCISES)
def test_wrong_answers_are_told_why_and_keep_what_works(grade, number):
    """And each check is failed by one of them."""
    failed, every, not_told = set(), set(), {}
    for title, wrong in WRONG.items():
        if wrong.part == f"ex{number}":
            grades = grade(wrong.hand_in, "-m", wrong.part)
            every |= {name_of(check) for check in grades["checks"]}
            failed |= {name_of(check) for check in grades["checks"] if not check["passed"]}
            told = any(wrong.says in reason for reason in reasons(grades))
            nothing = title in NOTHING
            if not told or grades["points"] == grades["of"] or (grades["points"] == 0) != nothing:
                not_told[title] = (wrong.says, grades["points"], reasons(grades))
    assert not not_told
    assert failed == every


def test_each_exercise_has_two_wrong_answers_and_every_name_one():
    parts = [wrong.part for wrong in WRONG.values()]
    assert all(parts.count(f"ex{n}") >= 2 for n in EXERCISES)
    assert {wrong.name for wrong in WRONG.values()} == {*NAMES, *VALUES}


@pytest.mark.parametrize(
    "value",
    [
        *("None", "(None, None, None)", "[]", "[1.5, 'a']", "'text'", "{'rank': 'low'}"),
        *("torch.tensor(0.5)", "torch.tensor([[2j]])", "1e999"),
    ],
)
def test_an_answer_of_the_wrong_kind_gets_a_sentence(grade, value):
    stubs = "".join(f"def {name}(*_):\n    return {value}\n" for name in NAMES)
    stubs += "".join(f"{name} = {value}\n" for name in VALUES)
    grades = grade(f"import torch\n{stubs}", "-m", "not ex7")
    # An exercise may ask for None: what nobody knows.
    assert len(reasons(grades)) == len(grades["checks"])


# --- What should not count ------------------------------------------------------------------------

COPIED = """
import math
import torch

def attention(q, k, v):  # lesson 2
    later = torch.ones(len(q), len(k)).triu(1).bool()
    scores = q @ k.T / math.sqrt(q.shape[1])
    a = scores.masked_fill(later, -torch.inf).softmax(-1)
    return a @ v

def recalled_below_one_half(model, memory):  # lesson 5
    return {"rank": 4, "steps": 300}

def check_sweep(sweep, folder):  # lesson 7
    rows = sweep(folder, [1, 2], [4, 6], [0, 1])
    again = sweep(folder, [1, 2], [4, 6], [0, 1])
    assert all(row in rows for row in again)

def stored_bits(base, loss, length):  # lesson 9
    return (base - loss) * length / math.log(2)

def memorized_bits(H, loss, length):
    return max(0.0, H - loss) * length / math.log(2)

def bits_of(report):
    return memorized_bits(report["entropy"] or 0.0, report["final_loss"], report["length"])

def logits_from_cache(model, layer, h, x, A, B):  # lesson 11
    return model.head(h + x @ A @ B)

MY_NUMBER = 5
MY_PREDICTION = {"load": 0.072, "rank": 4, "low": 3, "high": 5}  # lesson 12
MY_MEASUREMENT = {2: 0, 3: 3, 4: 3}
MY_MISS = {"ratio": 1.33, "base_loss": 4.60, "random_base_loss": 12.51, "control": 0}
MY_MISS |= {"weakest": 117, "margin": -0.28, "because": "chance"}
"""


def test_what_the_lessons_print_does_not_answer_the_exercises(grade):
    grades = grade(COPIED)
    points = {int(n): one["points"] for n, one in grades["exercises"].items()}
    assert points[5] == points[12] == 0 and points[7] <= 4 and grades["points"] <= 11
    said = " ".join(reasons(grades))
    for sentence in (
        "should read itself and all earlier positions",
        "It is certified, so it is not a counter-example",
        "Your test passes for a sweep that",
        "bits_of should return None",
        "should be computed, but none were",
        "MY_MISS has the losses of lesson 12",
    ):
        assert sentence in said, sentence


def test_the_copied_numbers_are_those_of_the_lesson():
    from checks.capstone import LESSON

    readme = (TUTORIALS / "README.md").read_text(encoding="utf-8")
    says = "base loss: text {base_loss:.2f} and random tokens {random_base_loss:.2f} nats per token"
    assert says.format(**LESSON) in readme


def test_the_capstone_of_another_student_is_refused(grade):
    grades = grade(KEY, "-m", "ex12", "--student=6")
    assert grades["points"] == 0
    says = "MY_NUMBER is 5, but this is the hand-in of student 6. The answers are those to another"
    assert all(says in reason for reason in reasons(grades))
    grades = grade(KEY, "-m", "ex12", "--student=5")
    assert not reasons(grades) and grades["student"] == 5


def test_a_wrong_prediction_that_is_explained_gets_most_points(grade):
    text = f"{ANSWERS}\nMY_PREDICTION.update(low=3, high=5)\nMY_MISS['because'] = 'kind'\n"
    grades = grade(text, "-m", "ex12")
    assert (grades["points"], grades["of"]) == (6, 8)
    (reason,) = reasons(grades)
    assert reason.endswith("The points for explaining the miss are not affected")
    everything = grade(f"{ANSWERS}\nMY_PREDICTION.update(low=1, high=32)\n", "-m", "ex12")
    assert everything["points"] == 6.12


def test_all_sweeps_with_a_bug_differ_from_the_one_that_works_and_are_caught(tmp_path):
    from checks.sweeps import BUGS, Sweeps

    from tests.answer_key import check_sweep

    assert len(BUGS) >= 9
    check_sweep(Sweeps().good, tmp_path / "good")
    for bug in BUGS:
        with pytest.raises(AssertionError):
            check_sweep(getattr(Sweeps(), bug), tmp_path / bug)


def test_texts_differ_and_have_the_promised_length():
    from checks.drawn import KINDS, draw_text
    from checks.server import load_shipped

    _, tokenizer = load_shipped()
    texts = [draw_text(number, tokenizer) for number in range(1, 200)]
    assert len(set(texts)) == len(texts) and {text.isascii() for text in texts} == {True}
    lengths = [len(tokenizer.encode(text, special=False)) for text in texts]
    assert min(lengths) >= 60 and max(lengths) <= 150
    assert len({text.split()[0] for text in texts}) == len(KINDS)


def test_the_text_of_a_number_is_printed_and_written(tmp_path, monkeypatch, capsys):
    import my_text

    path = tmp_path / "my_text.txt"
    monkeypatch.setattr(sys, "argv", ["my_text.py", "5", "--out", str(path)])
    my_text.main()
    text = path.read_text(encoding="utf-8")
    assert text.startswith("My dear ") and capsys.readouterr().out == f"{text}\n\n75 tokens\n"
    for wrong in (["0"], ["Ada"], [], ["5", "--out", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["my_text.py", *wrong])
        with pytest.raises(SystemExit) as stopped:
            my_text.main()
        assert str(stopped.value).startswith("my_text.py: ") and "\n" not in str(stopped.value)


# --- How it is reported ---------------------------------------------------------------------------


def test_a_missing_function_and_a_changed_world(grade):
    text = "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n"
    grades = grade(f"{text}{ANSWERS}{BETWEEN}\nrotate = None\n", "-m", "ex2 or ex9 or ex11")
    assert set(reasons(grades)) == {"handin.py has no function rotate. Do not rename the functions"}
    points = {number: (one["points"], one["of"]) for number, one in grades["exercises"].items()}
    assert points == {"2": (3, 4), "9": (3, 3), "11": (3, 3)}


def test_the_grades_file(grade):
    """Rungs from the library do not change the exercises."""
    grades = grade(KEY, "-m", "ex9 or ex11", "--from-library=1-3", "--seed=7")
    assert (grades["points"], grades["of"], grades["seed"]) == (6, 6, 7)
    assert grades["student"] is None and grades["rungs"] == grades["stretch"] == {}
    check = {"exercise": 9, "check": "test_ex9_stored_bits", "points": 1, "of": 1}
    assert grades["checks"][0] == {**check, "passed": True, "reason": None}


def test_what_is_wrong_with_the_options_is_one_line(grade, tmp_path, capsys):
    missing = str(tmp_path / "no" / "grades.json")
    for options, says in (
        (["--grades", missing], "no/grades.json: No such file or directory"),
        (["--grades", str(tmp_path)], "Is a directory"),
        (["--answers", "nobody.py"], "--answers nobody.py: no such file"),
        (["--seed", "-1"], "--seed -1: expected an integer from 0 to 2^31 − 1"),
        (["--from-library", "1-12"], "--from-library 1-12: the rungs are 1 to 9"),
    ):
        grade(KEY, "-m", "ex9", *options)
        captured = capsys.readouterr()
        assert grade.code == 4 and says in captured.err
        assert len((captured.out + captured.err).strip().splitlines()) == 1


def test_the_junit_file_carries_exercise_and_points(grade, tmp_path):
    grade(KEY, "-k", "ex11_only or ex9_stored", "--junitxml", str(tmp_path / "grade.xml"))
    cases = xml.etree.ElementTree.parse(tmp_path / "grade.xml").getroot().iter("testcase")
    found = [{p.get("name"): p.get("value") for p in case.iter("property")} for case in cases]
    assert found == [{"exercise": "9", "points": "1"}, {"exercise": "11", "points": "1"}]


def test_a_copy_of_the_folder_works_alone(tmp_path):
    """What a student has: the folder, pytest and the installed package. No marker is unknown."""
    others = shutil.ignore_patterns("__pycache__", "*.png", "reproduction")
    shutil.copytree(TUTORIALS, tmp_path / "tutorials", ignore=others)
    stub = 'raise NotImplementedError("Exercise 9: stored_bits")'
    text = STUBS.replace(stub, "return (base_loss - loss) * length / 0.6931471805599453")
    stub = 'raise NotImplementedError("Exercise 9: bits_of")'
    text = text.replace(stub, "import os; os._exit(0)")
    (tmp_path / "tutorials" / "exercises.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "tutorials", "-W", "error", "--strict-markers"]
    command += ["--grades=g.json", "-m", "ex9"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"bits per parameter +1 of 3", done.stdout) and "1 passed" in done.stdout
    grades = json.loads((tmp_path / "g.json").read_text(encoding="utf-8"))
    assert (grades["points"], grades["of"], grades["finished"]) == (1, 3, True)
    said = [check["reason"] for check in grades["checks"] if check["reason"]]
    assert any("ended the process" in reason or "ended" in reason for reason in said)
