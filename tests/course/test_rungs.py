"""The grading of the ladder: stubs get nothing, the key everything, wrong answers are told why.

The checks run in this process, and the hand-ins in one other process (conftest.py).
"""

import importlib
import inspect
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from checks import ladder
from checks.hand_in import Computer, HandIn
from checks.imports import taken_from_tinymem
from checks.library import RUNGS
from checks.points import checked, failed_checks

from tests.course.conftest import TUTORIALS
from tests.course.wrong import BETWEEN, KEY, Wrong
from tests.course.wrong_rungs_1_to_3 import WRONG as WRONG_1_TO_3
from tests.course.wrong_rungs_4_and_5 import WRONG as WRONG_4_AND_5
from tests.course.wrong_rungs_6_to_9 import WRONG as WRONG_6_TO_9

WRONG: dict[str, Wrong] = {**WRONG_1_TO_3, **WRONG_4_AND_5, **WRONG_6_TO_9}
POINTS = {1: 4, 2: 6, 3: 5, 4: 6, 5: 6, 6: 6, 7: 8, 8: 6, 9: 6}
STUBS = (TUTORIALS / "mymem.py").read_text(encoding="utf-8")
ANSWERS = KEY.read_text(encoding="utf-8")


def all_checks() -> dict[str, list]:
    """The checks of each rung and stretch task: {"rung1": [function, …], …}."""
    found: dict[str, list] = {}
    for path in sorted((TUTORIALS / "checks").glob("test_*.py")):
        for name, check in vars(importlib.import_module(f"checks.{path.stem}")).items():
            part = re.match(r"test_((?:rung|stretch)\d)_", name)
            if part:
                assert part[1] in (mark.name for mark in check.pytestmark)
                found.setdefault(part[1], []).append(check)
    return found


with warnings.catch_warnings():
    warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)  # the course registers them
    CHECKS = all_checks()
PARTS = sorted({wrong.part for wrong in WRONG.values()})
PLANTED = [n for n in RUNGS if f"rung{n}" in PARTS]


class Result(NamedTuple):
    check: str
    points: float
    of: float
    reason: str | None


@pytest.fixture
def grade(tmp_path):
    """A function that runs the checks of some parts on a mymem.py."""
    computer = Computer(limit=60, memory=1000)
    runs = 0

    def run(
        text: str, parts: list[str], seed: int = 0, library: tuple[int, ...] = ()
    ) -> list[Result]:
        nonlocal runs
        runs += 1
        folder = tmp_path / str(runs)
        folder.mkdir()
        (folder / "mymem.py").write_text(text, encoding="utf-8")
        hand_in = HandIn("rungs", folder, computer, library)
        broken = hand_in.load()
        assert broken is None, broken
        return [one(check, hand_in, seed, folder) for part in parts for check in CHECKS[part]]

    return run


def one(check, hand_in: HandIn, seed: int, folder: Path) -> Result:
    """Runs a check as pytest would. (A pytest session for each wrong answer would take minutes.)"""
    name = check.__name__
    of = next((mark.args[0] for mark in check.pytestmark if mark.name == "points"), 1)
    fixtures = {"mymem": hand_in, "seed": seed, "tmp_path": folder / name}
    fixtures = {key: fixtures[key] for key in inspect.signature(check).parameters}
    (folder / name).mkdir()
    try:
        check(**fixtures)
    except pytest.fail.Exception as failed:
        reason = str(failed)
        assert "Traceback" not in reason and "scenarios" not in reason
        return Result(name, getattr(failed, "keeps", 0.0) * of, of, reason)
    return Result(name, of, of, None)


def reached(results: list[Result]) -> tuple[float, float]:
    """Points reached and points possible."""
    return sum(r.points for r in results), sum(r.of for r in results)


def reasons(results: list[Result]) -> list[str]:
    return [r.reason for r in results if r.reason]


def test_the_points_of_each_rung():
    points = {
        n: sum(
            next((mark.args[0] for mark in check.pytestmark if mark.name == "points"), 1)
            for check in CHECKS[f"rung{n}"]
        )
        for n in RUNGS
    }
    assert points == {n: POINTS[n] for n in RUNGS}


def test_a_part_of_the_points_is_explained():
    shares = {"nothing": 0, "a_part": 0.5, "no_loss": 1}
    checks = [checked("rung", 4, f"test_rung4_{n}", 2, s, "wrong") for n, s in shares.items()]
    assert [line.strip() for line in failed_checks(checks, "rung", 4)] == [
        "nothing: 0 of 2",
        "a part: 1 of 2, for what was right before the failure",
        "no loss: 2 of 2, no loss: the fault is in a lower rung",
    ]


def test_the_library_has_the_names_of_the_stubs():
    parts = re.split(r"^# --- Rung (\d)", STUBS, flags=re.MULTILINE)[1:]
    for n, text in zip(parts[::2], parts[1::2], strict=True):
        text = text.partition("# --- Stretch")[0]
        if int(n) in RUNGS:
            assert list(RUNGS[int(n)]) == re.findall(r"^(?:def|class) (\w+)", text, re.MULTILINE)


def test_stubs_get_nothing(grade):
    for part in PARTS:
        results = grade(STUBS, [part])
        assert reached(results)[0] == 0
        title = re.sub(r"(\d)", r" \1", part).capitalize()
        assert all(reason.startswith(f"not done yet: {title}: ") for reason in reasons(results))


@pytest.mark.parametrize("seed", [0, 4711])
def test_the_key_gets_everything(grade, seed):
    parts = [part for part in PARTS if seed == 0 or part.startswith("rung")]
    assert not reasons(grade(ANSWERS, parts, seed))


@pytest.mark.parametrize("number", [n for n in PLANTED if n > 1])
def test_a_rung_alone_with_the_library_below_it(grade, number):
    """All other rungs are not written. One of them may be the default of an argument."""
    parts, right = (re.split(r"^(?=# --- )", text, flags=re.M) for text in (STUBS, ANSWERS))
    text = "".join([right[0], *parts[1:number], right[number], *parts[number + 1 :]])
    assert not reasons(grade(text, [f"rung{number}"], library=tuple(range(1, number))))
    assert reached(grade(text, ["rung1" if number > 1 else "rung2"]))[0] == 0


def test_the_rungs_of_the_library_do_what_the_contracts_say(grade, monkeypatch):
    monkeypatch.setattr(ladder.Rung, "require_own_work", lambda *_: None)
    text = (TUTORIALS / "checks" / "library.py").read_text(encoding="utf-8")
    results = grade(text, [f"rung{n}" for n in RUNGS])
    assert {r.check for r in results if r.reason} == {
        "test_rung2_a_new_unit_changes_nothing_and_can_learn",  # A and B belong to a LoRA inside
        "test_rung3_the_loss_of_each_token",  # by torch's cross_entropy, which students may not use
        "test_rung5_greedy_reads_what_it_has_written",  # tinymem does not call the planned model,
        "test_rung5_no_gradient_is_stored",  # but its parts
        "test_rung5_judge_measures",
        "test_rung5_judge_proves",
        "test_rung5_judge_decodes",
        "test_rung9_separable_rows",  # tinymem's fit ends a little below the largest s
    }
    points = {r.check: r.points for r in results}
    assert points["test_rung5_greedy_reads_what_it_has_written"] == 0.5  # right on `tiny`
    assert points["test_rung5_judge_measures"] == 0.5


OTHER_FORMS = """
def least_squares(X, y):  # the name of a function of scipy
    return np.linalg.solve(X.T @ X, X.T @ y).tolist()


def memft_ot(logits, targets, progress):  # without memft_ot_weights
    losses = token_losses(logits, targets)
    return losses[losses > LN2].mean()


def margin(logits, targets, progress):  # without temperature
    return 0.01 ** (progress**2) * token_losses(logits / 0.01 ** (progress**2), targets).mean()


def plan_rank(rows, length, chance=0.9):  # without recall_curve, and not an int of Python
    half, s = key.recall_curve(rows)
    load = half * (1 / chance - 1) ** (1 / s)
    return np.ceil(length / load / (rows[0]["parameters"] / rows[0]["rank"])).astype(int)


def sweep(path, *grid_and_run):  # the rows are written beside the file, which they then replace
    path = Path(path)
    beside = path.with_name("beside")
    beside.write_bytes(path.read_bytes() if path.exists() else b"")
    beside.replace(path)
    return key.sweep(path, *grid_and_run)


def greedy(model, prompt, count):  # calls model.forward
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(count):
            ids.append(model.forward(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]
"""


def test_right_answers_of_other_forms(grade):
    solved = "np.linalg.solve(X.T @ X, X.T @ y).tolist()"
    text = ANSWERS.replace(solved, "least_squares(X, y)") + BETWEEN + OTHER_FORMS
    assert not reasons(grade(text, [f"rung{n}" for n in range(5, 10)], seed=1))


@pytest.mark.parametrize("part", PARTS)
def test_wrong_answers_are_told_why_and_keep_what_works(grade, part):
    """And each check is failed by one of them."""
    failed, not_told = set(), {}
    for name, wrong in WRONG.items():
        if wrong.part == part:
            results = grade(wrong.hand_in, [part])
            failed |= {r.check for r in results if r.reason}
            points, of = reached(results)
            told = any(wrong.says in reason for reason in reasons(results))
            if not (told and 0 < points < of):
                not_told[name] = (wrong.says, points, reasons(results))
    assert not not_told
    assert failed == {check.__name__ for check in CHECKS[part]}


def test_answers_without_any_work_earn_nearly_nothing(grade):
    text = Path(__file__).with_name("no_work.py").read_text(encoding="utf-8")
    points, of = reached(grade(text, [f"rung{n}" for n in RUNGS], seed=4711))
    assert of == sum(POINTS.values()) and points <= 3


def test_each_rung_has_three_wrong_answers_and_every_function_one():
    parts = [wrong.part for wrong in WRONG.values()]
    assert all(parts.count(f"rung{n}") >= 3 for n in PLANTED)
    names = {name for n in PLANTED for name in RUNGS[n]}
    assert {wrong.name for wrong in WRONG.values()} >= names


@pytest.mark.parametrize(
    "value",
    [
        *("None", "(None, None, None)", "[]", "[1.5, 'a']", "'text'"),
        *("torch.tensor(0.5)", "torch.tensor([[2j]])", "1e999", "{'loss': 'low'}"),
    ],
)
def test_an_answer_of_the_wrong_kind_gets_a_sentence(grade, value):
    names = [*ladder.OF_RUNGS, *(name for names in ladder.STRETCH.values() for name in names)]
    stubs = "".join(f"def {name}(*_):\n    return {value}\n" for name in names)
    results = grade(f"import torch\n{stubs}", PARTS)
    assert len(reasons(results)) == len(results)


# --- Lower rungs, and what is taken from tinymem --------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part", "lower"),
    [
        ("one_row_too_early", "rung3", 1),
        ("one_row_too_early", "rung4", 1),
        ("bits", "rung4", 3),
        ("logits_unshifted", "rung5", 3),
        ("of_probabilities", "rung5", None),
    ],
)
def test_a_faulty_lower_rung_is_named_and_costs_no_points(grade, name, part, lower):
    results = grade(WRONG[name].hand_in, [part])
    points, of = reached(results)
    if lower is None:  # the fault is of the rung itself
        assert points < of and not any("--from-library" in reason for reason in reasons(results))
        return
    assert points == of and reasons(results)
    says = f"{part[:4].capitalize()} {part[4:]} passes with the library's rung {lower}, but not"
    for reason in reasons(results):
        assert reason.startswith(says) and reason.endswith(f"try --from-library {lower}")
    assert not reasons(grade(WRONG[name].hand_in, [part], library=(lower,)))


def test_a_lower_rung_that_is_not_written_is_named(grade):
    text = f"{ANSWERS}\ndef token_losses(logits, targets):\n"
    text += '    raise NotImplementedError("Rung 3: token_losses")\n'
    (reason,) = set(reasons(grade(text, ["rung4"])))
    assert "not done yet: Rung 3: token_losses. Mend yours first, or try --from-library 3" in reason


def test_a_rung_that_is_taken_from_the_library_has_no_points(grade):
    results = grade(STUBS, ["rung2", "rung3"], library=(1, 2, 3))
    assert reached(results)[0] == 0
    assert all("is taken from the library (--from-library)" in r for r in reasons(results))


def test_answers_from_the_library_are_refused(grade):
    body = "from tinymem.training.margin import margins as theirs\nmargins = theirs"
    results = grade(f"{ANSWERS}\n{body}\n", ["rung5"])
    (reason,) = reasons(results)
    begin = "margins takes tinymem.training.margin.margins from the library. Write it yourself"
    assert reason.startswith(begin)
    assert reached(results) == (5, 6)  # judge uses margins, and is the student's own


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("import tinymem as tm\ndef f(): return tm.load('tiny')", []),
        ("from tinymem import load, Model\ndef f(m: Model): return load('tiny')", []),
        ("import tinymem as tm\ndef g(): tm.judge\ndef f(): return 1", []),
        ("import tinymem as tm\ndef g(): tm.judge\ndef f(): return g()", ["tinymem.judge"]),
        ("import tinymem as tm\ndef other(): tm.judge\ndef f(): return other()", []),
        ("import tinymem as tm\nf = tm.greedy", ["tinymem.greedy"]),
        ("import tinymem as tm\nlib = tm\ndef f(): lib.judge", ["tinymem.*"]),
        ("import tinymem\ndef f(): tinymem.unit.lora", ["tinymem.unit"]),
        ("from tinymem.unit import lora as x\ndef f(): x.LoRA", ["tinymem.unit.lora.LoRA"]),
        ("def f():\n from tinymem import judge\n return judge", ["tinymem.judge"]),
        ("import importlib\ndef f(): importlib.import_module('tinymem')", ["import_module"]),
        ("if 1:\n from tinymem.law.power import fit_law as f", ["tinymem.law.power.fit_law"]),
        ("from tinymem.law.power import *\ndef f(): fit_law", ["tinymem.law.power.*"]),
        ("from tinymem.unit.lora import LoRA\nclass f(LoRA): pass", ["tinymem.unit.lora.LoRA"]),
        ("from checks.library import RUNGS\nf = RUNGS[1]", ["checks.library.RUNGS"]),
        ("import tinymem as tm\ndef f(t: tm.Unit) -> tm.Verdict: return t", []),
        ("def f():\n 'tinymem.law has the same formula.'\n return 1", []),
        ("import tinymem as tm\ndef f(): return 1\nprint(f(), tm.judge)", []),
        ("import tinymem as tm\ndef f(x): return x\nif __name__ == 'a': x = tm.judge", []),
        ("import tinymem as tm\ndef f(x): return x\nx = tm.judge", []),
        ("import tinymem as tm\ndef f(): y = 1; return y\ny = tm.judge", []),
        ("import tinymem as tm\ndef f(): return y\nif 1: y = tm.judge", ["tinymem.judge"]),
        ("import tinymem as tm\ndef f(): return y\nfor y in [tm.judge]: pass", ["tinymem.judge"]),
        ("import tinymem as tm\ndef f(): return y\nfor y in [1]: tm.judge", ["tinymem.judge"]),
        ("import tinymem as tm\ndef f(): getattr(tm, 'judge')", ["tinymem.*"]),
        ("import importlib as i\ndef f(): i.import_module('tiny' + 'mem')", ["import_module"]),
        ("def f(): __import__('tinymem').judge", ["__import__"]),
        ("import sys\ndef f(): sys.modules['tinymem'].judge", ["sys.modules"]),
        ("import tinymem as tm\ndef f(): globals()['tm'].judge", ["globals"]),
        ("def f(model): model.eval(); return list(model.modules())", []),
        ("from tinymem import load\ndef f(): load.__globals__['judge']", ["__globals__"]),
        ("class K:\n from tinymem import judge\ndef f(): K.judge", ["tinymem.judge"]),
        ("match 1:\n case 1:\n  from tinymem import judge as f", ["tinymem.judge"]),
        ("def g():\n global f\n from tinymem import judge as f\ng()", ["tinymem.judge"]),
        ("import tinymem as tm\nD = {}\nD['a'] = tm.judge\ndef f(): D['a']", ["tinymem.judge"]),
        ("import tinymem as tm\nD = []\nD.append(tm.judge)\ndef f(): D[0]", ["tinymem.judge"]),
        ("from tests.answer_key import f", ["tests.answer_key.f"]),
    ],
)
def test_what_a_function_takes_from_tinymem(source, taken):
    assert taken_from_tinymem(source, ["f"], ["other"]) == taken
