"""Holds the code of a student, and answers what the grader asks: load, call, run.

It knows neither the seed nor the expected answers. Each question is a dict with the key `ask`;
each reply has `value`, or `raised` with what the student's code raised in one sentence.
"""

import copy
import functools
import importlib
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tinymem as tm

from . import values


@functools.cache
def load_shipped() -> tuple[tm.Model, tm.Tokenizer]:
    """The shipped model and its tokenizer, loaded once."""
    return tm.load("tiny", device="cpu", dtype="float32")


def shipped(what: str) -> object:
    model, tokenizer = load_shipped()
    return copy.deepcopy(model) if what == "model" else tokenizer


class Server:
    """The hand-in of one student: a module for each part, exercises or rungs."""

    def __init__(self, callback: Callable[[int, tuple], object]):
        self.callback = callback  # (index, arguments): calls a function of the grader
        self.modules: dict[str, types.ModuleType] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        ask = question.pop("ask")
        try:
            value = getattr(self, f"ask_{ask}")(**question)
            return {"value": values.pack(value)}
        except (KeyboardInterrupt, MemoryError):
            raise
        except BaseException as error:
            return {"raised": self.explain(error, question.get("part"))}

    def ask_load(self, part: str, path: str, text: str, library: list[int]) -> None:
        """Runs the text of a hand-in. Rungs in `library` are then those of tinymem."""
        module = types.ModuleType(part)
        module.__file__ = path
        sys.modules[part] = self.modules[part] = module
        exec(compile(text, path, "exec"), vars(module))
        if library:
            rungs = importlib.import_module("checks.library").RUNGS
            vars(module).update({name: rungs[n][name] for n in library for name in rungs[n]})

    def ask_call(self, part: str, name: str, args: list) -> object:
        return getattr(self.modules[part], name)(*self.unpack(args))

    def ask_has(self, part: str, name: str) -> bool:
        return callable(getattr(self.modules[part], name, None))

    def ask_value(self, part: str, name: str) -> object:
        return getattr(self.modules[part], name, None)

    def ask_run(self, part: str, scenario: str, args: list) -> object:
        """Runs a function of checks/scenarios*.py on the module of the student."""
        module, _, name = scenario.partition(":")
        if not module.startswith("checks.scenarios"):
            raise ValueError(f"{module} holds no scenarios")
        function = getattr(importlib.import_module(module), name)
        return function(self.modules[part], *self.unpack(args))

    def unpack(self, args: list) -> list:
        torch.set_default_dtype(torch.float32)  # the hand-in may have changed these two settings
        torch.set_grad_enabled(True)

        def function(index: int) -> Callable:
            return lambda *arguments: self.callback(index, arguments)

        return [values.unpack(one, function, shipped) for one in args]

    def explain(self, error: BaseException, part: str | None) -> dict[str, Any]:
        """The exception and the line of the hand-in that raised it, without the grader's lines."""
        path = getattr(self.modules.get(part or ""), "__file__", "")
        lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
        text = lines[-1][:400]
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        if isinstance(error, SyntaxError) and error.filename == path:
            text = f"{text} (line {error.lineno}: {(error.text or '').strip()})"
        elif frames:
            line = source_line(path, frames[-1])
            text = f"{text} (line {frames[-1].lineno}: {line})"
        todo = isinstance(error, NotImplementedError) and str(error).startswith(
            ("Exercise", "Rung", "Stretch")
        )
        return {
            "text": text,
            "todo": str(error) if todo else None,
            "function": frames[-1].name if frames else None,
        }


def source_line(path: str, frame: traceback.FrameSummary) -> str:
    return frame.line or Path(path).name
