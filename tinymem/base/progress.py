"""What a long computation reports while it runs, and a sink that ignores it.

Every function that may take long has a parameter `progress`. Its default is `SILENT`, which shows
nothing; in a notebook, the functions of the public interface show bars unless they are given
another `progress`. A script asks for bars: `with tm.bars() as bars: …, progress=bars`. They are in
show/progress.py. A program may pass a subclass of its own, for example to log losses, or to raise
KeyboardInterrupt and so end a run early.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from ..shown import show_module
from ..system import in_notebook

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Progress:
    """Ignores every event. Subclasses override the events that they show."""

    def track(self, items: Iterable[T], what: str) -> Iterable[T]:
        """Passes the items on one by one; `what` names the work, such as "loading weights"."""
        return items

    def training(
        self, step: int, steps: int, loss: float, certified: float, recited: float
    ) -> None:
        """Called every few steps of training.

        step: steps done. steps: of the whole run, at most. loss: mean over the target tokens, nats
        per token. certified: share of the target tokens with p > ½. recited: share of them that are
        the likeliest; NaN if the run does not need it. For several runs at once, these are means
        over the runs.
        """

    def sweep(self, finished: int, cells: int, cost: float) -> None:
        """A sweep begins.

        finished: cells whose rows are on disk. cells: all cells. cost: of the cells that are not
        finished, in an arbitrary unit.
        """

    def group(self, label: str, cost_before: float, cost: float) -> None:
        """Cells that train as one batch begin; costs are in the unit of `sweep`'s."""

    def cell(self, row: Mapping[str, Any], cost_done: float) -> None:
        """One cell is finished, and its row is on disk."""

    def warn(self, message: str) -> None:
        """Something that the user should know and that does not stop the work."""


SILENT = Progress()


def bars() -> AbstractContextManager[Progress]:
    """Progress bars, for a `with` block: on stderr, and in a notebook below the cell."""
    here = ("notebook_bars", "NotebookBars") if in_notebook() else ("progress", "Bars")
    shown: AbstractContextManager[Progress] = getattr(show_module(here[0]), here[1])()
    return shown


def bars_in_notebooks(function: Callable[P, R]) -> Callable[P, R]:
    """A function that shows bars if a Jupyter kernel runs it and no `progress` is given."""

    bind_partial = inspect.signature(function).bind_partial

    @wraps(function)
    def with_bars(*args: P.args, **kwargs: P.kwargs) -> R:
        if not in_notebook() or "progress" in bind_partial(*args, **kwargs).arguments:
            return function(*args, **kwargs)
        with bars() as progress:
            given: Any = {**kwargs, "progress": progress}
            return function(*args, **given)

    return with_bars
