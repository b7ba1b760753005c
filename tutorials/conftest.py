"""How the exercises are graded: whose answers, which seed, how many points."""

import json
import os
from pathlib import Path

import pytest
import torch
from grading import Answers

EXERCISES = {
    **{
        1: "what to remember",
        2: "a frozen transformer",
        3: "the memory unit",
        4: "writing a memory",
    },
    **{5: "one half is enough", 6: "MemFT", 7: "measuring capacity", 8: "the law"},
    **{9: "bits per parameter", 10: "making it fast", 11: "your own model"},
}
OPTIONS = {  # name: default, type, help
    "answers": (Path(__file__).with_name("exercises.py"), Path, "the file to grade"),
    "seed": (os.environ.get("TINYMEM_SEED", "0"), int, "of every random input (or TINYMEM_SEED)"),
    "grades": (None, Path, "write points and reasons to this file, as JSON"),
    "limit": (120, int, "seconds that one call of an answer may take (not on Windows)"),
}


def pytest_addoption(parser):
    group = parser.getgroup("exercises")
    for name, (default, kind, text) in OPTIONS.items():
        group.addoption(f"--{name}", default=default, type=kind, help=text)


def pytest_configure(config):
    for number, title in EXERCISES.items():
        config.addinivalue_line("markers", f"ex{number}: {title}")
    config.addinivalue_line("markers", "points(n): what a check is worth (default 1)")
    if (
        getattr(config.option, "reportchars", None) == "fE"
    ):  # the default: all failures once more, cut short
        config.option.reportchars = "N"
    config.pluginmanager.register(Grades(config), "grades")


@pytest.fixture
def answers(pytestconfig) -> Answers:
    torch.set_default_dtype(torch.float32)  # a hand-in may have changed these
    torch.set_grad_enabled(True)
    return pytestconfig.pluginmanager.get_plugin("grades").answers


@pytest.fixture
def seed(pytestconfig) -> int:
    return pytestconfig.pluginmanager.get_plugin("grades").seed


class Grades:
    """Points and, of what failed, reasons; written as they come, so that a run that is killed leaves them."""

    def __init__(self, config):
        # With plain `pytest`, this file is found too late to add options: then there are the defaults.
        option = {name: config.getoption(name, default) for name, (default, *_) in OPTIONS.items()}
        self.seed, self.path = int(option["seed"]), option["grades"]
        self.answers = Answers(Path(option["answers"]).resolve(), option["limit"])
        self.checks, self.finished, self.broken = {}, False, None
        if not self.answers.path.is_file():
            raise pytest.UsageError(f"--answers {option['answers']}: no such file")
        if not 0 <= self.seed < 2**31:
            raise pytest.UsageError(
                f"--seed {self.seed}: expected a whole number from 0, below 2^31"
            )
        if self.answers.limit < 1:
            raise pytest.UsageError(f"--limit {self.answers.limit}: expected at least 1 second")
        if hasattr(config, "workerinput"):  # one of pytest-xdist's processes; the first one writes
            self.path = None
        try:
            self.write()
        except OSError as error:
            raise pytest.UsageError(f"--grades {self.path}: {error.strerror}") from error

    def pytest_collection_modifyitems(self, items):
        for item in items:  # JUnit XML carries these to a grading system
            number = next((n for n in EXERCISES if item.get_closest_marker(f"ex{n}")), None)
            worth = item.get_closest_marker("points")
            if number:
                item.user_properties += [
                    ("exercise", number),
                    ("points", worth.args[0] if worth else 1),
                ]

    def pytest_collection_finish(self, session):
        for item in session.items:
            self.note(item, False, "not run")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        """Imports the answers. If that is not possible, nothing is run: every check has that reason."""
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
            self.note(
                report, report.passed, None if report.passed else str(report.longrepr).strip()
            )
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
        """Points, and of how many: in all, and of each exercise."""
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
        self.path.write_text(
            json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    def pytest_terminal_summary(self, terminalreporter):
        """Points of each exercise, below pytest's own lines."""
        if not self.checks:
            return
        terminalreporter.section("points")
        if self.broken:
            terminalreporter.line(self.broken, red=True)
        total, exercises = self.tally()
        for number, one in exercises.items():
            got, of = one.values()
            look = {"green": got == of, "yellow": 0 < got < of, "red": got == 0}
            terminalreporter.line(f"  {number:2}  {EXERCISES[number]:22} {got:3} of {of}", **look)
        terminalreporter.line(f"      {'total':22} {total['points']:3} of {total['of']}", bold=True)
