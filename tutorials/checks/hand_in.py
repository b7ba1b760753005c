"""Finds the files of a student, and asks their code for answers.

A hand-in may fail to import, lack a function, raise an exception, never return, or return a value
of the wrong type. None of these stops the grading of the other checks, and each is reported to the
student in one sentence.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from . import values
from .grading import require
from .server import Server

FILES = {"exercises": "exercises.py", "rungs": "mymem.py"}  # part: the file that a student edits


class HandIn:
    """One part of a hand-in: the exercises, or the rungs of the ladder."""

    def __init__(self, part: str, answers: Path, limit: int, library: tuple[int, ...] = ()):
        """answers: a file that has the answers of every part, or a folder with the usual names."""
        self.part, self.limit, self.library = part, limit, library
        self.path = answers / FILES[part] if answers.is_dir() else answers
        self.server = Server(self.call_back)
        self.functions: list[Callable] = []

    @property
    def source(self) -> str:
        """The text of the file."""
        return self.path.read_text(encoding="utf-8")

    def load(self) -> str | None:
        """Runs the file. If this fails, returns the reason."""
        name = self.path.name
        if not self.path.is_file():
            return f"{name} is missing in {self.path.parent}"
        library = list(self.library) if self.part == "rungs" else []
        reply = self.ask("load", path=str(self.path), text=self.source, library=library)
        return (
            f"{name} cannot be imported: {reply['raised']['text']}" if "raised" in reply else None
        )

    def value(self, name: str) -> object:
        """What the file has under this name, or None."""
        return values.unpack(self.ask("value", name=name).get("value"))

    def call(self, name: str, *args, catch: bool = False) -> Any:
        """What the function `name` returns. With `catch`, an exception is returned as Raised."""
        has = self.ask("has", name=name).get("value")
        require(has, f"{self.path.name} has no function {name}. Do not rename the functions")
        return self.result(self.ask("call", name=name, args=self.pack(args)), name, catch)

    def run(self, scenario: Callable, *args, catch: bool = False) -> Any:
        """What a scenario (checks/scenarios*.py) returns. It runs where the student's code runs,
        and its first argument, which is not in `args`, is the student's module.
        """
        where = f"{scenario.__module__}:{scenario.__name__}"
        return self.result(self.ask("run", scenario=where, args=self.pack(args)), None, catch)

    # --- Inside -----------------------------------------------------------------------------------

    def ask(self, ask: str, **question) -> dict[str, Any]:
        return self.server.answer({"ask": ask, "part": self.part, **question})

    def pack(self, args: tuple) -> list:
        self.functions = []
        return [values.pack(one, self.functions) for one in args]

    def call_back(self, index: int, arguments: tuple) -> object:
        """The student's code calls a function that was among the arguments."""
        return self.functions[index](*arguments)

    def result(self, reply: dict[str, Any], name: str | None, catch: bool) -> object:
        if "value" in reply:
            return values.unpack(reply["value"])
        raised = reply["raised"]
        if raised["todo"]:
            pytest.fail(f"not done yet: {raised['todo']}", pytrace=False)
        if catch:
            return values.Raised(raised["text"])
        who = name or raised["function"] or self.path.name
        pytest.fail(f"{who} raised {raised['text']}", pytrace=False)
