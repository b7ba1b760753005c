"""How a hand-in is graded: the options, the fixtures of the checks, and the points."""

import contextlib
import copy
import json
import math
import os
import re
from pathlib import Path

import pytest
import torch
from checks.drawn import NUMBERS
from checks.hand_in import Computer, HandIn
from checks.points import KINDS, MARKS, PARTS, RUNGS, checked, failed_checks, kind_in, tally
from checks.server import load_shipped
from hint import taken


def rungs(text: str) -> tuple[int, ...]:
    """`1-3,5` -> (1, 2, 3, 5)"""
    numbers = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise pytest.UsageError(f"--from-library {text}: expected rungs such as 1-3 or 1,2,5")
        numbers += range(int(first), int(last or first) + 1)
    if not set(numbers) <= set(RUNGS):
        raise pytest.UsageError(f"--from-library {text}: the rungs are 1 to {max(RUNGS)}")
    return tuple(sorted(set(numbers)))


OPTIONS = {  # name: (default, type, help)
    "answers": (Path(__file__).parent, Path, "the file or folder to grade"),
    "seed": (os.environ.get("TINYMEM_SEED", "0"), int, "seed of all random inputs (TINYMEM_SEED)"),
    "student": (None, int, "the number of the student, which draws the text of exercise 12"),
    "grades": (None, Path, "write the points and the reasons to this file, as JSON"),
    "limit": (120, int, "seconds that one call of an answer may compute"),
    "memory": (2048, int, "megabytes that a hand-in may use beside torch (Linux only)"),
    "from-library": ("", str, "take these rungs from tinymem, for example 1-3"),
    "hint-cost": (0.0, float, "points that each hint takes off its rung or exercise"),
}


def pytest_addoption(parser):
    group = parser.getgroup("exercises")
    for name, (default, kind, text) in OPTIONS.items():
        group.addoption(f"--{name}", default=default, type=kind, help=text)


def pytest_configure(config):
    for kind, titles in KINDS.items():
        for number, title in titles.items():
            config.addinivalue_line("markers", f"{MARKS[kind]}{number}: {title}")
    config.addinivalue_line("markers", "points(n): the points of a check (default 1)")
    require_known_marks(config)
    # By default pytest repeats every failure in a shortened form, which hides the reasons.
    if getattr(config.option, "reportchars", None) == "fE":
        config.option.reportchars = "N"
    config.option.durations = None  # the points stand last
    config.pluginmanager.register(Grades(config), "grades")


def require_known_marks(config) -> None:
    """A mistake such as `-m "rung1 or rug2"` would leave out a part without a word."""
    known = {re.split(r"\W", line)[0] for line in config.getini("markers")}
    words = set(re.findall(r"\w+", config.option.markexpr or "")) - {"and", "or", "not"}
    if unknown := sorted(words - known):
        parts = [f"{MARKS[kind]}{number}" for kind, titles in KINDS.items() for number in titles]
        message = f"No check has the mark {unknown[0]}. There are: {', '.join(parts)}"
        raise pytest.UsageError(message)


@pytest.fixture
def answers(pytestconfig) -> HandIn:
    """The student's exercises.py."""
    return pytestconfig.pluginmanager.get_plugin("grades").hand_in("exercises")


@pytest.fixture
def mymem(pytestconfig) -> HandIn:
    """The student's mymem.py."""
    return pytestconfig.pluginmanager.get_plugin("grades").hand_in("rungs")


@pytest.fixture
def seed(pytestconfig) -> int:
    """Draws all inputs. The code of the student gets what was drawn, but never the seed."""
    return pytestconfig.pluginmanager.get_plugin("grades").seed


@pytest.fixture
def student(pytestconfig) -> int | None:
    """The number given with --student."""
    number = pytestconfig.pluginmanager.get_plugin("grades").student
    if number == 0:
        message = "The grader has no number for you, so this gets no points. Ask your teacher"
        pytest.fail(message, pytrace=False)
    return number


@pytest.fixture
def generator(seed) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tiny():
    """The shipped model and its tokenizer. The model is a copy, so a check may change it."""
    model, tokenizer = load_shipped()
    return copy.deepcopy(model), tokenizer


class Grades:
    """Collects points, and reasons for failures, and writes the grades file.

    The file is written after each check, so it is there even if the run is killed.
    """

    def __init__(self, config):
        # With plain `pytest`, this file is found too late to add options. The defaults apply then.
        option = {
            name: config.getoption(name.replace("-", "_"), default)
            for name, (default, *_) in OPTIONS.items()
        }
        self.seed, self.student = int(option["seed"]), option["student"]
        self.path, self.hint_cost = option["grades"], option["hint-cost"]
        self.answers = Path(option["answers"]).resolve()
        self.computer = Computer(option["limit"], option["memory"])
        self.library = rungs(option["from-library"])
        self.parts: dict[str, HandIn] = {}
        self.broken: dict[str, str | None] = {}
        self.checks, self.finished = {}, False
        if not self.answers.exists():
            raise pytest.UsageError(f"--answers {option['answers']}: no such file")
        if not 0 <= self.seed < 2**31:
            raise pytest.UsageError(f"--seed {self.seed}: expected an integer from 0 to 2^31 − 1")
        if self.student not in (None, 0, *NUMBERS):  # 0: the teacher's list has no number
            message = f"expected a number from {NUMBERS[0]} to {NUMBERS[-1]}"
            raise pytest.UsageError(f"--student {self.student}: {message}")
        if option["limit"] < 1:
            raise pytest.UsageError(f"--limit {option['limit']}: expected at least 1 second")
        if option["memory"] < 64:
            raise pytest.UsageError(f"--memory {option['memory']}: expected at least 64 megabytes")
        if not (math.isfinite(self.hint_cost) and self.hint_cost >= 0):
            raise pytest.UsageError(f"--hint-cost {self.hint_cost}: expected at least 0 points")
        beside = self.answers if self.answers.is_dir() else self.answers.parent
        self.hints = taken(beside)
        if hasattr(config, "workerinput"):  # a worker of pytest-xdist; only the controller writes
            self.path = None
        try:
            self.write()
        except OSError as error:
            raise pytest.UsageError(f"--grades {self.path}: {error.strerror}") from error

    def hand_in(self, part: str) -> HandIn:
        """The part of the hand-in, loaded when it is first needed."""
        if part not in self.parts:
            self.parts[part] = HandIn(part, self.answers, self.computer, self.library)
            self.broken[part] = self.parts[part].load()
        if self.broken[part]:
            pytest.fail(self.broken[part], pytrace=False)
        return self.parts[part]

    def pytest_collection_modifyitems(self, items):
        """Adds number and points to each check, and puts the checks in the order of the course.

        pytest writes both to the JUnit XML file.
        """
        for item in items:
            for kind, titles in KINDS.items():
                marked = (n for n in titles if item.get_closest_marker(f"{MARKS[kind]}{n}"))
                if number := next(marked, None):
                    mark = item.get_closest_marker("points")
                    points = mark.args[0] if mark else 1
                    item.user_properties += [(kind, number), ("points", points)]
        order = {kind: place for place, kind in enumerate(("rung", "exercise", "stretch"))}
        first = {item: item.user_properties[:1] or [("", 0)] for item in items}
        items.sort(key=lambda item: (order.get(first[item][0][0], 9), first[item][0][1]))

    def pytest_collection_finish(self, session):
        for item in session.items:
            self.note(item, 0.0, "not run")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session):
        """Loads the hand-in. Of a part that cannot be loaded no check runs, and the reason is said
        once. (A worker of pytest-xdist counts its checks, so there each of them says the reason.)
        """
        lost = 0
        if not session.config.option.collectonly and not hasattr(session.config, "workerinput"):
            lost = self.leave_out_broken_parts(session)
        result = yield
        session.testsfailed += lost
        return result

    def leave_out_broken_parts(self, session) -> int:
        """Takes checks whose part cannot be loaded out of the session; the number of these."""
        for part in {PARTS[kind_in(check)] for check in self.checks.values()}:
            with contextlib.suppress(pytest.fail.Exception):
                self.hand_in(part)
        before = len(session.items)
        for item in list(session.items):
            kind = kind_in(dict(item.user_properties))
            if reason := kind and self.broken[PARTS[kind]]:
                self.note(item, 0.0, reason)
                session.items.remove(item)
        self.write()
        return before - len(session.items)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        error = call.excinfo and call.excinfo.value
        report.keeps = 1.0 if report.passed else getattr(error, "keeps", 0.0)
        report.reason = None if report.passed else str(report.longrepr).strip()
        if not report.passed and not isinstance(error, pytest.fail.Exception):
            # The traceback, which pytest prints, shows the seed. The student may see the reason.
            report.reason = f"an error in the check: {type(error).__name__}. Tell your teacher"
        return report

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            self.note(report, report.keeps, report.reason)
            self.write()

    def pytest_sessionfinish(self):
        self.computer.stop()
        self.finished = all(check["reason"] != "not run" for check in self.checks.values())
        self.write()

    def note(self, item, share: float, reason: str | None) -> None:
        about = dict(item.user_properties)
        if kind := kind_in(about):
            name = item.nodeid.rpartition("::")[2]
            check = checked(kind, about[kind], name, about["points"], share, reason)
            self.checks[item.nodeid] = check

    def tally(self):
        return tally(list(self.checks.values()), self.hints, self.hint_cost)

    def write(self) -> None:
        if self.path is None:
            return
        total, parts = self.tally()
        document = {**total, "seed": self.seed, "student": self.student, "finished": self.finished}
        document["hints"] = {"cost": self.hint_cost, "taken": self.hints}
        document |= {"exercises": parts["exercise"], "rungs": parts["rung"]}
        document |= {"stretch": parts["stretch"], "checks": list(self.checks.values())}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        self.path.write_text(text, encoding="utf-8", errors="backslashreplace")

    def pytest_terminal_summary(self, terminalreporter):
        """Prints the points of each exercise and rung below pytest's own output."""
        if not self.checks:
            return
        terminalreporter.section("points")
        for reason in sorted({*filter(None, self.broken.values())}):
            terminalreporter.line(reason, red=True)
        total, parts = self.tally()
        for kind, numbers in parts.items():
            for number, one in numbers.items():
                got, of = one.values()
                style = {"green": got == of, "yellow": 0 < got < of, "red": got == 0}
                name = f"{kind} {number}"
                title = f"{name:12} {KINDS[kind][number]:29}"
                terminalreporter.line(f"  {title} {got:4g} of {of:g}", **style)
                for line in failed_checks(list(self.checks.values()), kind, number):
                    terminalreporter.line(line)
        if self.library and "rung" in {kind for kind, numbers in parts.items() if numbers}:
            taken_from = ", ".join(map(str, self.library))
            terminalreporter.line(f"  taken from tinymem: the functions of rung {taken_from}")
        if self.hints and self.hint_cost:
            names = ", ".join(f"{name} ({count})" for name, count in self.hints.items())
            line = f"  hints taken, at {self.hint_cost:g} points each: {names}"
            terminalreporter.line(line)
        line = f"  {'total':42} {total['points']:4g} of {total['of']:g}"
        terminalreporter.line(line, bold=True)
