"""Holds the code of a student, and answers what the grader asks: load, call, run.

It knows neither the seed nor the expected answers. Each question is a dict with the key `ask`;
each reply has `value`, or `raised` with what the student's code raised in one sentence.
"""

import copy
import functools
import importlib
import linecache
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tinymem as tm

from . import values
from .limits import Guard


@functools.cache
def load_shipped() -> tuple[tm.Model, tm.Tokenizer]:
    """The shipped model and its tokenizer, loaded once.

    The model is so small that a second thread makes it slower, and much slower on a busy machine.
    """
    torch.set_num_threads(1)
    return tm.load("tiny", device="cpu", dtype="float32")


def shipped(what: str) -> object:
    model, tokenizer = load_shipped()
    if what != "model":
        return tokenizer
    copied = copy.deepcopy(model)
    copied.register_forward_pre_hook(require_batch)
    return copied


def require_batch(model: tm.Model, args: tuple) -> None:
    """Explains what a model without this hook would answer with a wrong shape much later."""
    if args and isinstance(args[0], torch.Tensor) and args[0].dim() == 1:
        shape = list(args[0].shape)
        message = f"the model got ids of shape {shape}; it reads [1, T]: torch.tensor([ids])"
        raise ValueError(message)


def warm_up() -> None:
    """Loads what torch imports late, before the limits of the process hold."""
    load_shipped()
    x = torch.zeros(1, requires_grad=True)
    x.sum().backward()
    torch.optim.AdamW([x]).step()


def load_scenarios() -> None:
    """Imports what the checks need on this side, because a hand-in may not read their files."""
    for path in sorted(Path(__file__).parent.glob("scenarios*.py")):
        importlib.import_module(f"checks.{path.stem}")
    importlib.import_module("checks.library")


class Server:
    """The hand-in of one student: a module for each part, exercises or rungs."""

    def __init__(self, callback: Callable[[int, tuple], object], guard: Guard):
        self.callback = callback  # (index, arguments): calls a function of the grader
        self.guard = guard
        self.modules: dict[str, types.ModuleType] = {}

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        ask = question.pop("ask")
        try:
            value = getattr(self, f"ask_{ask}")(**question)
            return {"value": values.pack(value)}
        except BaseException as error:
            return {"raised": self.explain(error, question.get("part"))}

    def ask_load(self, part: str, path: str, text: str, library: list[int]) -> None:
        """Runs the text of a hand-in. Rungs in `library` are then those of tinymem."""
        module = types.ModuleType(part)
        module.__file__ = path
        linecache.cache[path] = (len(text), None, text.splitlines(True), path)
        folder = str(Path(path).parent)
        self.guard.allow(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # at the end, so that no file there hides another module
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

        arguments = [values.unpack(one, function, shipped) for one in args]
        for one in arguments:
            if isinstance(one, Path):  # a place that the check has made for the answer
                self.guard.allow(one, write=True)
        return arguments

    def explain(self, error: BaseException, part: str | None) -> dict[str, Any]:
        """The exception and the line of the hand-in that raised it, without the grader's lines."""
        path = getattr(self.modules.get(part or ""), "__file__", "")
        lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
        text = lines[-1][:400]
        if isinstance(error, MemoryError) or "can't allocate memory" in text:
            text = "MemoryError: more memory than a hand-in may use"
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        if isinstance(error, SyntaxError) and error.filename == path:
            text = f"{text} (line {error.lineno}: {(error.text or '').strip()})"
        elif frames:
            text = f"{text} (line {frames[-1].lineno}: {frames[-1].line})"
        todo = isinstance(error, NotImplementedError) and str(error).startswith(
            ("Exercise", "Rung", "Stretch")
        )
        return {
            "text": text,
            "todo": str(error) if todo else None,
            "function": frames[-1].name if frames else None,
        }
