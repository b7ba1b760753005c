"""Holds the code of a student, and answers what the grader asks: load, call, run.

It knows neither the seed nor the expected answers. Each question is a dict with the key `ask`;
each reply has `value`, or `raised` with what the student's code raised in one sentence.

The modules of the checks are not in sys.modules when the hand-in runs: it is not to import them,
and may not change what they do by accident or with one line.
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


def load_scenarios() -> dict[str, types.ModuleType]:
    """What the checks need on this side, imported first: a hand-in may not read their files."""
    names = [path.stem for path in sorted(Path(__file__).parent.glob("scenarios*.py"))]
    modules = {name: importlib.import_module(f"checks.{name}") for name in (*names, "library")}
    for name in [name for name in sys.modules if name.partition(".")[0] == "checks"]:
        del sys.modules[name]
    return modules


class Server:
    """The hand-in of one student: a module for each part, exercises or rungs."""

    def __init__(
        self,
        callback: Callable[[int, tuple], object],  # (index, arguments): calls one of the grader
        guard: Guard,
        ours: dict[str, types.ModuleType],  # of load_scenarios
    ):
        self.callback, self.guard, self.ours = callback, guard, ours
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
        for n in library:
            put_in(module, self.ours["library"].RUNGS[n])

    def ask_call(self, part: str, name: str, args: list) -> object:
        function = getattr(self.modules[part], name, None)
        if not callable(function):
            raise AttributeError(name=name, obj=self.modules[part])
        return function(*self.unpack(args))

    def ask_value(self, part: str, name: str) -> object:
        return getattr(self.modules[part], name, None)

    def ask_run(self, part: str, scenario: str, args: list) -> object:
        """Runs a function of checks/scenarios*.py on the module of the student."""
        module, _, name = scenario.removeprefix("checks.").partition(":")
        function = getattr(self.ours[module], name)
        return function(self.modules[part], *self.unpack(args))

    def unpack(self, args: list) -> list:
        torch.set_default_dtype(torch.float32)  # the hand-in may have changed these two settings
        torch.set_grad_enabled(True)

        def function(index: int) -> Callable:
            return lambda *arguments: self.callback(index, arguments)

        arguments = [values.unpack(one, function, shipped) for one in args]
        for one in arguments:
            if isinstance(one, Path):  # a place that the check has made for the answer
                folder = one if one.is_dir() else one.parent  # also for a file beside a file
                self.guard.allow(folder, write=True)
        return arguments

    def explain(self, error: BaseException, part: str | None) -> dict[str, Any]:
        """The exception and the line of the hand-in that raised it, without the grader's lines."""
        module = self.modules.get(part or "")
        path = getattr(module, "__file__", "")
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
            "missing": getattr(error, "obj", error) is module and getattr(error, "name", None),
        }

    def place(self, thread: int) -> dict[str, Any]:
        """The innermost line of the hand-in that a thread is running."""
        paths = {module.__file__ for module in self.modules.values()}
        frame = sys._current_frames().get(thread)
        while frame and frame.f_code.co_filename not in paths:
            frame = frame.f_back
        if frame is None:
            return {}
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        return {"function": frame.f_code.co_name, "line": frame.f_lineno, "text": line}


def put_in(module: types.ModuleType, functions: dict[str, object]) -> None:
    """Replaces functions of the module, also where they are the default of an argument."""
    new = {getattr(module, name, None): value for name, value in functions.items()}
    vars(module).update(functions)
    for one in vars(module).values():
        if isinstance(one, types.FunctionType):
            one.__defaults__ = tuple(renew(v, new) for v in one.__defaults__ or ()) or None
            given = one.__kwdefaults__ or {}
            one.__kwdefaults__ = {key: renew(v, new) for key, v in given.items()} or None


def renew(value: object, new: dict[object, object]) -> object:
    return new.get(value, value) if callable(value) else value
