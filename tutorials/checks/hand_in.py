"""Finds the files of a student, and asks their code for answers.

A hand-in may fail to import, lack a function, raise an exception, never return, end the process, or
return a value of the wrong type. None of these stops the grading of the other checks, and each is
reported to the student in one sentence.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import source, values
from .process import Process

NAMES = {"exercises": "exercises", "rungs": "mymem"}  # part: the file that a student edits


class Computer:
    """Runs the code of one student in a process of its own, and starts it again if it ends.

    In the tests of the course, which grade many hand-ins, `shared` keeps one process for all.
    """

    shared: "Process | None" = None
    share = False

    def __init__(self, limit: int, memory: int):
        self.limit, self.memory = limit, memory
        self.process: Process | None = None
        self.loads: dict[str, dict[str, Any]] = {}  # part: the question that loaded it

    def ask(
        self, question: dict[str, Any], call_back: Callable, limit: float | None = None
    ) -> dict[str, Any]:
        """The reply. If the process ended, the reply has `ended`, the reason."""
        if question["ask"] == "load":
            self.loads.pop(question["part"], None)
        if self.process is None or self.process.ended:
            self.start()
            for load in self.loads.values():
                self.process.ask(load, call_back, self.limit)
        reply = self.process.ask(question, call_back, limit or self.limit)
        print(self.process.take_printed(), end="")  # pytest shows it if the check fails
        if reply is None:
            return {"ended": self.process.ended, "function": self.process.function}
        if question["ask"] == "load" and "raised" not in reply:
            self.loads[question["part"]] = question
        return reply

    def start(self) -> None:
        if self.process:
            self.process.stop()
        kept = Computer.shared
        usable = self.share and kept and not kept.ended and self.process is not kept
        self.process = kept if usable else Process(self.memory)
        if self.share:
            Computer.shared = self.process

    def stop(self) -> None:
        if self.process and not self.share:
            self.process.stop()
            self.process = None


class HandIn:
    """One part of a hand-in: the exercises, or the rungs of the ladder."""

    def __init__(self, part: str, answers: Path, computer: Computer, library: tuple[int, ...] = ()):
        """answers: a file that has the answers of every part, or a folder with the usual names."""
        self.part, self.answers, self.computer, self.library = part, answers, computer, library
        self.name, self.source, self.path = NAMES[part], "", answers
        self.functions: list[Callable] = []
        self.stopped: dict[str, str] = {}  # questions that have ended a process, and why

    def load(self) -> str | None:
        """Runs the file. If this fails, returns the reason."""
        try:
            self.path = path = source.find(self.answers, NAMES[self.part])
            self.name, self.source = path.name, source.read(path)
        except source.Refused as refused:
            return str(refused)
        library = list(self.library) if self.part == "rungs" else []
        reply = self.ask("load", path=str(path), text=self.source, library=library)
        if "ended" in reply:
            return f"{self.name} cannot be imported: it {reply['ended']}"
        return (
            self.in_cells(f"{self.name} cannot be imported: {reply['raised']['text']}")
            if "raised" in reply
            else None
        )

    def value(self, name: str) -> object:
        """What the file has under this name, or None."""
        return values.unpack(self.ask("value", name=name).get("value"))

    def call(self, name: str, *args, catch: bool = False) -> Any:
        """What the function `name` returns. With `catch`, an exception is returned as Raised."""
        args = self.pack(args)
        return self.result(f"{name} {args}", name, catch, "call", name=name, args=args)

    def run(self, scenario: Callable, *args, catch: bool = False) -> Any:
        """What a scenario (checks/scenarios*.py) returns. It runs where the student's code runs,
        and its first argument, which is not in `args`, is the student's module.
        """
        where = f"{scenario.__module__}:{scenario.__name__}"
        args = self.pack(args)
        key, who = f"{where} {args}", called_by(scenario)
        return self.result(key, who, catch, "run", scenario=where, args=args)

    # --- Inside -----------------------------------------------------------------------------------

    def ask(self, ask: str, limit: float | None = None, **question) -> dict[str, Any]:
        question |= {"ask": ask, "part": self.part}
        return self.computer.ask(question, self.call_back, limit)

    def has_no(self, name: str) -> str:
        return self.in_cells(f"{self.name} has no function {name}. Do not rename the functions")

    def in_cells(self, message: str) -> str:
        return source.in_cells(message, self.path, self.source)

    def pack(self, args: tuple) -> list:
        self.functions = []
        return [values.pack(one, self.functions) for one in args]

    def call_back(self, index: int, arguments: tuple) -> object:
        """The student's code calls a function that was among the arguments."""
        return self.functions[index](*arguments)

    def result(self, key: str, who: str, catch: bool, ask: str, **question) -> object:
        """The value of the reply; fails with a sentence about the function `who` without one.

        A question that has ended the process is not asked again. After the first one, others get a
        quarter of the time: there may be an endless loop in a function that they all use.
        """
        key = f"{self.library} {key}"
        if key in self.stopped:
            pytest.fail(f"not tried again: {self.stopped[key]}", pytrace=False)
        limit = self.computer.limit / 4 if self.stopped else None
        reply = self.ask(ask, limit, **question)
        if "value" in reply:
            return values.unpack(reply["value"])
        if "ended" in reply:
            self.stopped[key] = self.in_cells(f"{reply['function'] or who} {reply['ended']}")
            pytest.fail(self.stopped[key], pytrace=False)
        raised = reply["raised"]
        if raised["missing"]:
            pytest.fail(self.has_no(raised["missing"]), pytrace=False)
        if raised["todo"]:
            pytest.fail(f"not done yet: {raised['todo']}", pytrace=False)
        if catch:
            return values.Raised(self.in_cells(raised["text"]))
        who = who if ask == "call" else raised["function"] or who
        pytest.fail(self.in_cells(f"{who} raised {raised['text']}"), pytrace=False)


def called_by(scenario: Callable) -> str:
    """The first function of the student that a scenario calls."""
    source = inspect.getsource(scenario)
    student = next(iter(inspect.signature(scenario).parameters))
    return next(iter(re.findall(rf"\b{student}\.(\w+)", source)), "the hand-in")
