"""The grading of the ladder: stubs get nothing, the key everything, wrong answers are told why.

The checks run in this process, and the hand-ins in one other process (conftest.py).
"""

import json
import re
import sys

import pytest
from checks import ladder
from checks.library import RUNGS

from tests.course.conftest import TUTORIALS
from tests.course.wrong import BETWEEN, KEY, Wrong
from tests.course.wrong_rungs_1_to_5 import WRONG as WRONG_1_TO_5

WRONG: dict[str, Wrong] = {**WRONG_1_TO_5}
POINTS = {1: 4, 2: 6, 3: 5, 4: 6, 5: 6, 6: 6, 7: 8, 8: 6, 9: 6}
STUBS = (TUTORIALS / "mymem.py").read_text(encoding="utf-8")
ANSWERS = KEY.read_text(encoding="utf-8")
ALL = " or ".join(f"rung{n}" for n in RUNGS)
# The inner pytest does without capturing and without plugins that can run once per process only.
PLUGINS = ("cacheprovider", "faulthandler", "unraisableexception")
INNER = ["-s", *(f"-pno:{name}" for name in PLUGINS)]


@pytest.fixture
def grade(tmp_path, monkeypatch):
    """A function that grades a mymem.py, and returns the checks by name: points, of and reason."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # pytest.main adds entries
    config = tmp_path / "pytest.ini"
    config.write_text("[pytest]\n")
    files = sorted(str(path) for path in (TUTORIALS / "checks").glob("test_*rung*.py"))

    def run(text: str, marks: str, *options: str) -> dict[str, dict]:
        (tmp_path / "mymem.py").write_text(text, encoding="utf-8")
        grades = tmp_path / "grades.json"
        grades.unlink(missing_ok=True)
        where = ["-c", str(config), f"--rootdir={TUTORIALS}", f"--basetemp={tmp_path / 'inner'}"]
        hand_in = [f"--answers={tmp_path}", f"--grades={grades}", "-m", marks]
        pytest.main([*files, *INNER, *where, *hand_in, *options])
        checks = json.loads(grades.read_text(encoding="utf-8"))["checks"]
        for check in checks:
            assert "Traceback" not in str(check["reason"]) and "test_r" not in str(check["reason"])
        return {check["check"]: check for check in checks}

    return run


def reached(checks: dict[str, dict]) -> tuple[float, float]:
    """Points reached and points possible."""
    return sum(c["points"] for c in checks.values()), sum(c["of"] for c in checks.values())


def reasons(checks: dict[str, dict]) -> list[str]:
    return [c["reason"] for c in checks.values() if not c["passed"]]


def test_the_points_of_each_rung(grade):
    checks = grade("1 / 0", ALL)  # lists all checks without running any
    points = {n: 0 for n in RUNGS}
    for check in checks.values():
        points[check["rung"]] += check["of"]
        assert check["check"].startswith(f"test_rung{check['rung']}_")
    assert points == {n: POINTS[n] for n in RUNGS}


def test_the_library_has_the_names_of_the_stubs():
    parts = re.split(r"^# --- Rung (\d)", STUBS, flags=re.MULTILINE)[1:]
    for n, text in zip(parts[::2], parts[1::2], strict=True):
        text = text.partition("# --- Stretch")[0]
        if int(n) in RUNGS:
            assert list(RUNGS[int(n)]) == re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE)


def test_stubs_get_nothing(grade):
    checks = grade(STUBS, ALL)
    assert reached(checks)[0] == 0
    for check in checks.values():
        assert check["reason"].startswith(f"not done yet: Rung {check['rung']}: ")


@pytest.mark.parametrize("seed", [0, 7, 4711])
def test_the_key_gets_everything(grade, seed):
    checks = grade(ANSWERS, ALL, f"--seed={seed}")
    assert not reasons(checks) and reached(checks)[0] == reached(checks)[1] > 0


@pytest.mark.parametrize("number", [n for n in RUNGS if n > 1])
def test_a_rung_alone_with_the_library_below_it(grade, number):
    """The functions of all other rungs are missing."""
    others = [name for n, names in RUNGS.items() if n != number for name in names]
    text = f"{ANSWERS}{BETWEEN}\ndel {', '.join(others)}\n"
    checks = grade(text, f"rung{number}", "--from-library", f"1-{number - 1}")
    assert not reasons(checks) and reached(checks)[0] == POINTS[number]


def graded(grade, name: str, known: dict[str, dict] = {}) -> dict:  # noqa: B006, a cache
    if name not in known:
        known[name] = grade(WRONG[name].hand_in, WRONG[name].part)
    return known[name]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_told_why_and_keeps_what_works(grade, name):
    checks = graded(grade, name)
    points, of = reached(checks)
    assert any(WRONG[name].says in reason for reason in reasons(checks)), reasons(checks)
    assert 0 < points < of


def test_every_check_is_failed_by_a_wrong_answer(grade):
    failed = {c["check"] for name in WRONG for c in graded(grade, name).values() if c["reason"]}
    assert failed == set(grade("1 / 0", ALL))


def test_each_rung_has_three_wrong_answers_and_every_function_one():
    parts = [wrong.part for wrong in WRONG.values()]
    assert all(parts.count(f"rung{n}") >= 3 for n in RUNGS)
    assert {wrong.name for wrong in WRONG.values()} >= ladder.OF_RUNGS


@pytest.mark.parametrize(
    "value",
    [
        *("None", "(None, None, None)", "[]", "[1.5, 'a']", "'text'"),
        *("torch.tensor(0.5)", "torch.tensor([[2j]])", "1e999", "{'loss': 'low'}"),
    ],
)
def test_an_answer_of_the_wrong_kind_gets_a_sentence(grade, value):
    stubs = "".join(f"def {name}(*_):\n    return {value}\n" for name in ladder.OF_RUNGS)
    checks = grade(f"import torch\n{stubs}", ALL)
    assert len(reasons(checks)) == len(checks)
