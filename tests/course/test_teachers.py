"""What teachers rely on: hints and what they cost, and what the pages for teachers say."""

import importlib
import json
import math
import re
import shlex
import shutil
import sys
from pathlib import Path

import autograder
import hint
import pytest
from checks.points import KINDS, MARKS

from tests.course.test_exercises import INNER

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "tutorials"

# --- Hints ----------------------------------------------------------------------------------------

HINTS = """# Hints

## rung 4

### 1

Read the sentence on clipping.

### 2

```python
loss.backward()
```

### 3

The last hint.

## exercise 5

### 1

One hint only.
"""


@pytest.fixture
def course(tmp_path) -> Path:
    (tmp_path / "hints.md").write_text(HINTS, encoding="utf-8")
    return tmp_path


def ask(course: Path, capsys, *arguments: str) -> tuple[int, str]:
    return hint.main([*arguments], course), capsys.readouterr().out


def test_each_call_prints_the_next_hint_and_records_it(course, capsys):
    for n, text in enumerate(("Read the sentence", "loss.backward()", "The last hint."), 1):
        code, out = ask(course, capsys, "rung4")
        assert code == 0 and text in out and f"Hint {n} of 3 for rung 4" in out
        assert json.loads((course / "hints-taken.json").read_text()) == {"rung4": n}
    assert "all hints for rung 4" in ask(course, capsys, "rung4")[1]
    assert "Hint 1 of 1 for exercise 5" in ask(course, capsys, "Exercise 5")[1]
    assert hint.taken(course) == {"rung4": 3, "ex5": 1}
    assert ask(course, capsys, "--all")[1].splitlines() == [
        "rung 4: 3 of 3 hints taken",
        "exercise 5: 1 of 1 hints taken",
    ]


def test_a_hint_can_be_read_again_without_taking_another(course, capsys):
    assert "You have not taken a hint" in ask(course, capsys, "rung4", "--again")[1]
    ask(course, capsys, "rung4")
    ask(course, capsys, "rung4")
    out = ask(course, capsys, "rung4", "--again")[1]
    assert "Hint 1 of 3" in out and "Hint 2 of 3" in out and "Hint 3" not in out
    assert hint.taken(course) == {"rung4": 2}


@pytest.mark.parametrize("name", ["rung 99", "rung3", "lesson4", "", "../rung4"])
def test_a_part_without_hints_is_told_in_one_line(course, capsys, name):
    code, out = ask(course, capsys, name)
    assert code == 1 and out.count("\n") == 1 and "rung4, ex5" in out


def test_hints_can_be_left_out_of_the_copy(tmp_path, capsys):
    code, out = ask(tmp_path, capsys, "rung4")
    assert code == 1 and "Your teacher may hand out the hints" in out and out.count("\n") == 1


@pytest.mark.parametrize(
    "record", ['{"rung4": -3, "ex5": 99, "ex7": true, "x": 1, "rung 5": 1}', "[1]", "no JSON", ""]
)
def test_a_forged_record_neither_gives_points_nor_stops_the_grading(tmp_path, record):
    (tmp_path / "hints-taken.json").write_text(record, encoding="utf-8")
    assert hint.taken(tmp_path) == {}


def test_every_part_of_the_course_has_three_hints():
    names = [f"{MARKS[kind]}{n}" for kind in KINDS for n in KINDS[kind]]
    hints = hint.read_hints((TUTORIALS / "hints.md").read_text(encoding="utf-8"))
    assert {name: len(texts) for name, texts in hints.items()} == dict.fromkeys(names, 3)
    assert all(len(text) > 40 for texts in hints.values() for text in texts)


@pytest.fixture
def grade(tmp_path, monkeypatch):
    """Grades a folder with the key in it, in this process, as a teacher would."""
    monkeypatch.setattr(sys, "path", list(sys.path))  # pytest.main adds entries
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    folder = tmp_path / "hand-in"
    folder.mkdir()
    for name in ("exercises.py", "mymem.py"):
        shutil.copy(ROOT / "tests" / "answer_key.py", folder / name)

    def run(*options: str, hints: dict | None = None) -> dict:
        (folder / "hints-taken.json").write_text(json.dumps(hints or {}), encoding="utf-8")
        grades = tmp_path / "grades.json"
        grades.unlink(missing_ok=True)
        where = ["-c", str(tmp_path / "pytest.ini"), f"--rootdir={TUTORIALS}"]
        where += [f"--basetemp={tmp_path / 'inner'}", f"--grades={grades}"]
        run.code = pytest.main([str(TUTORIALS), *INNER, *where, f"--answers={folder}", *options])
        return json.loads(grades.read_text(encoding="utf-8")) if grades.exists() else {}

    return run


def test_a_hint_costs_points_if_the_teacher_says_so(grade):
    free = grade("-m", "rung1", hints={"rung1": 2})
    of = free["of"]
    assert free["points"] == free["rungs"]["1"]["points"] == of > 1
    charged = grade("-m", "rung1", "--hint-cost=0.5", hints={"rung1": 2, "rung4": 3})
    assert charged["points"] == charged["rungs"]["1"]["points"] == of - 1
    assert charged["hints"] == {"cost": 0.5, "taken": {"rung1": 2, "rung4": 3}}
    assert all(check["passed"] for check in charged["checks"])
    assert grade("-m", "rung1", "--hint-cost=9", hints={"rung1": 1})["points"] == 0


@pytest.mark.parametrize(
    ("option", "says"),
    [
        *[(f"--hint-cost={cost}", "--hint-cost") for cost in (-1, math.inf, math.nan)],
        ("--student=10000", "--student 10000: expected a number from 1 to 9999"),
        ("-m rung1 or rug2", "No check has the mark rug2. There are: ex2, ex5"),
    ],
)
def test_an_impossible_option_is_refused(grade, capsys, option, says):
    assert grade("-m", "rung1", option) == {}
    assert says in capsys.readouterr().err


def test_a_student_without_a_number_gets_no_points_for_the_capstone(grade):
    grades = grade("-m", "ex12", "--student=0")
    assert (grades["points"], grades["of"], grades["finished"]) == (0, 8, True)
    assert all("no number for you" in check["reason"] for check in grades["checks"])


# --- The pages ------------------------------------------------------------------------------------

PAGES = {
    name: (TUTORIALS / name).read_text(encoding="utf-8")
    for name in ("for-teachers.md", "problem-sets.md")
}
SETS = PAGES["problem-sets.md"].split("\n## ")[1:]
PART = r"(rung|exercise) (\d+)"


def table_rows(text: str) -> list[list[str]]:
    rows = re.findall(r"^\| *(.*?) *\|$", text, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows if not row.startswith("---")]


def points_in(text: str) -> dict[str, float]:
    """Part: points, from the rows of a table that have a part in the second column."""
    rows = [row for row in table_rows(text) if len(row) > 3 and re.fullmatch(PART, row[1])]
    column = 3 if "what the student writes" in text else 2
    return {row[1]: float(row[column]) for row in rows}


@pytest.fixture(scope="module")
def points(tmp_path_factory) -> dict[str, float]:
    """Part: points, as the grader counts them."""
    folder = tmp_path_factory.mktemp("points")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    where = ["-c", str(folder / "pytest.ini"), f"--rootdir={TUTORIALS}", "--collect-only", "-qqq"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        pytest.main([str(TUTORIALS), *INNER, *where, f"--grades={folder / 'grades.json'}"])
    grades = json.loads((folder / "grades.json").read_text(encoding="utf-8"))
    assert not grades["finished"]  # because no check was run
    return {
        f"{kind} {number}": one["of"]
        for key, kind in (("rungs", "rung"), ("exercises", "exercise"))
        for number, one in grades[key].items()
    }


def test_the_table_of_the_course_has_the_points_of_the_grader(points):
    page = PAGES["for-teachers.md"]
    assert points_in(page) == points
    rungs = sum(of for part, of in points.items() if part.startswith("rung"))
    total = sum(points.values())
    assert f"There are {total} points: {rungs} for the rungs and {total - rungs} for" in page


def test_the_table_of_the_course_names_the_lessons():
    named = re.findall(r"^\| (\d+)\. ([^|]+?) \|", PAGES["for-teachers.md"], re.MULTILINE)
    assert len(named) == 12
    for number, title in named:
        (path,) = TUTORIALS.glob(f"{int(number):02}_*.py")
        assert path.read_text(encoding="utf-8").startswith(
            f"# %% [markdown]\n# # {number}. {title}"
        )


@pytest.mark.parametrize("text", SETS, ids=["set 1", "set 2"])
def test_a_problem_set_has_the_points_that_its_command_grades(text, points):
    (selected,) = re.findall(r'-- -m "(.+)"', text)
    parts = [
        mark.replace("ex", "exercise ").replace("rung", "rung ") for mark in selected.split(" or ")
    ]
    assert points_in(text) == {part: points[part] for part in parts}
    graded = sum(points[part] for part in parts)
    (by_hand,) = re.findall(r"^\*\*7\. .+ \((\d+) points\)", text, re.MULTILINE)
    rubric = re.findall(r"^\| [^|]+, (\d+) \|", text.partition("rubric")[2], re.MULTILINE)
    assert sum(map(int, rubric)) == int(by_hand)
    rows = table_rows(PAGES["problem-sets.md"])
    overview = next(row for row in rows if row[0].startswith(f"[{text[4]}. "))  # "Set 1: …"
    assert overview[2:5] == [f"{graded:g}", by_hand, f"{graded + int(by_hand):g}"]
    hours = sum(float(row[3]) for row in table_rows(text) if re.fullmatch(PART, row[1]))
    assert hours <= float(overview[5]) <= hours + 2


@pytest.mark.parametrize("text", SETS, ids=["set 1", "set 2"])
def test_a_wrong_answer_that_is_listed_is_a_planted_one(text):
    says = {(wrong_part(wrong), wrong.says) for wrong in planted()}
    listed = [row for row in table_rows(text) if len(row) == 3 and re.fullmatch(PART, row[0])]
    assert len(listed) >= 10 and {row[0] for row in listed} == {*points_in(text)}
    assert [row for row in listed if (row[0], row[2].rstrip(" …")) not in says] == []


def planted() -> list:
    """The planted wrong answers to all rungs and exercises."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("wrong_*.py"))
    modules = [importlib.import_module(f"tests.course.{name}") for name in names]
    return [wrong for module in modules for wrong in module.WRONG.values()]


def wrong_part(wrong) -> str:
    return wrong.part.replace("ex", "exercise ").replace("rung", "rung ")


def test_all_options_and_fields_are_explained(grade):
    page = PAGES["for-teachers.md"]
    from tutorials.conftest import OPTIONS

    assert [name for name in OPTIONS if f"| `--{name}=" not in page] == []
    fields = {*grade("-m", "rung1"), *grade("-m", "rung1")["checks"][0]}
    explained = re.findall(r"`(\w+)`", page)
    sample = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1]
    assert fields <= {*json.loads(sample), *json.loads(sample)["checks"][0]}
    assert [name for name in json.loads(sample) if name not in explained] == []


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_on_a_page_are_understood(page):
    text = PAGES[page].replace("\\\n", "")
    commands = re.findall(r"^(?: {4})?(python tutorials/autograder.+)$", text, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        words = shlex.split(command)[2:]
        autograder.parse(words[: words.index("--")] if "--" in words else words)


@pytest.mark.parametrize("page", PAGES)
def test_the_links_on_a_page_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", PAGES[page]):
        path = TUTORIALS / (target or page)
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            plain = [re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles]
            assert anchor in plain, anchor
