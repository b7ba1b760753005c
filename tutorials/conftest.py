"""How the exercises are graded: the options, the fixtures of the checks, and the points."""

import copy
import json
import os
from pathlib import Path

import pytest
import torch
from grading import Answers, shipped

TITLES = (
    *("what to remember", "a frozen transformer", "the memory unit", "writing a memory"),
    *("one half is enough", "MemFT", "measuring capacity", "the law"),
    *("bits per parameter", "making it fast", "your own model"),
)
EXERCISES = dict(enumerate(TITLES, start=1))
OPTIONS = {  # name: (default, type, help)
    "answers": (Path(__file__).with_name("exercises.py"), Path, "the file to grade"),
    "seed": (os.environ.get("TINYMEM_SEED", "0"), int, "seed of all random inputs (TINYMEM_SEED)"),
    "grades": (None, Path, "write the points and the reasons to this file, as JSON"),
    "limit": (120, int, "seconds that one call of an answer may take (no limit on Windows)"),
}


def pytest_addoption(parser):
    group = parser.getgroup("exercises")
    for name, (default, kind, text) in OPTIONS.items():
        group.addoption(f"--{name}", default=default, type=kind, help=text)


def pytest_configure(config):
    for number, title in EXERCISES.items():
        config.addinivalue_line("markers", f"ex{number}: {title}")
    config.addinivalue_line("markers", "points(n): the points of a check (default 1)")
    # By default pytest repeats every failure in a shortened form, which hides the reasons.
    if getattr(config.option, "reportchars", None) == "fE":
        config.option.reportchars = "N"
    config.pluginmanager.register(Grades(config), "grades")


@pytest.fixture
def answers(pytestconfig) -> Answers:
    torch.set_default_dtype(torch.float32)  # a hand-in may have changed these two settings
    torch.set_grad_enabled(True)
    return pytestconfig.pluginmanager.get_plugin("grades").answers


@pytest.fixture
def seed(pytestconfig) -> int:
    return pytestconfig.pluginmanager.get_plugin("grades").seed


@pytest.fixture
def generator(seed) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def tiny():
    """The shipped model and its tokenizer. The model is a copy, so a check may change it."""
    model, tokenizer = shipped()
    return copy.deepcopy(model), tokenizer


class Grades:
    """Collects points, and reasons for failures, and writes the grades file.

    The file is written after each check, so it is there even if the run is killed.
    """

    def __init__(self, config):
        # With plain `pytest`, this file is found too late to add options. The defaults apply then.
        option = {name: config.getoption(name, default) for name, (default, *_) in OPTIONS.items()}
        self.seed, self.path = int(option["seed"]), option["grades"]
        self.answers = Answers(Path(option["answers"]).resolve(), option["limit"])
        self.checks, self.finished, self.broken = {}, False, None
        if not self.answers.path.is_file():
            raise pytest.UsageError(f"--answers {option['answers']}: no such file")
        if not 0 <= self.seed < 2**31:
            raise pytest.UsageError(f"--seed {self.seed}: expected an integer from 0 to 2^31 − 1")
        if self.answers.limit < 1:
            raise pytest.UsageError(f"--limit {self.answers.limit}: expected at least 1 second")
        if hasattr(config, "workerinput"):  # a worker of pytest-xdist; only the controller writes
            self.path = None
        try:
            self.write()
        except OSError as error:
            raise pytest.UsageError(f"--grades {self.path}: {error.strerror}") from error

    def pytest_collection_modifyitems(self, items):
        """Adds exercise and points to each check; pytest writes them to the JUnit XML file."""
        for item in items:
            number = next((n for n in EXERCISES if item.get_closest_marker(f"ex{n}")), None)
            mark = item.get_closest_marker("points")
            if number:
                points = mark.args[0] if mark else 1
                item.user_properties += [("exercise", number), ("points", points)]

    def pytest_collection_finish(self, session):
        for item in session.items:
            self.note(item, False, "not run")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        """Imports the answers. If this fails, no check runs, and all checks get the same reason."""
        if session.config.option.collectonly or not self.checks:
            return None
        self.broken = self.answers.load()
        if self.broken is None:
            return None
        for check in self.checks.values():
            check["reason"] = self.broken
        session.testsfailed = len(self.checks)
        return True

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            reason = None if report.passed else str(report.longrepr).strip()
            self.note(report, report.passed, reason)
            self.write()

    def pytest_sessionfinish(self):
        self.finished = True
        self.write()

    def note(self, item, passed: bool, reason: str | None) -> None:
        about = dict(item.user_properties)
        if "exercise" in about:
            check = {"exercise": about["exercise"], "check": item.nodeid.rpartition("::")[2]}
            check |= {"points": about["points"], "passed": passed, "reason": reason}
            self.checks[item.nodeid] = check

    def tally(self) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
        """Points reached and points possible: in total, and for each exercise."""
        exercises = {check["exercise"]: {"points": 0, "of": 0} for check in self.checks.values()}
        for check in self.checks.values():
            exercises[check["exercise"]]["points"] += check["points"] * check["passed"]
            exercises[check["exercise"]]["of"] += check["points"]
        total = {key: sum(one[key] for one in exercises.values()) for key in ("points", "of")}
        return total, dict(sorted(exercises.items()))

    def write(self) -> None:
        if self.path is None:
            return
        total, exercises = self.tally()
        document = {**total, "seed": self.seed, "finished": self.finished, "exercises": exercises}
        document |= {"checks": list(self.checks.values())}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        self.path.write_text(text, encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter):
        """Prints the points of each exercise below pytest's own output."""
        if not self.checks:
            return
        terminalreporter.section("points")
        if self.broken:
            terminalreporter.line(self.broken, red=True)
        total, exercises = self.tally()
        for number, one in exercises.items():
            got, of = one.values()
            style = {"green": got == of, "yellow": 0 < got < of, "red": got == 0}
            terminalreporter.line(f"  {number:2}  {EXERCISES[number]:22} {got:3} of {of}", **style)
        terminalreporter.line(f"      {'total':22} {total['points']:3} of {total['of']}", bold=True)
