"""Progress bars in a notebook: HTML that is replaced as the work goes on, and cleared at its end.

rich draws live bars in a notebook with ipywidgets only, which need not be there. Here the bars are
one output of the cell, which `update_display` replaces. A saved notebook therefore holds one empty
output, and not one for each step.
"""

import importlib
import time
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from rich import progress as rich
from rich.text import Text

from ..base.progress import T
from .progress import Bars
from .report import Terminal

AFTER, EVERY = 0.3, 0.1  # seconds: what is shorter has no bar, and how often bars are drawn
BAR = '<progress max="100" {value}aria-label="{what}" style="width: 16em"></progress> {line}'


class NotebookBars(Bars):
    """Bars that a cell shows until the `with` block ends; warnings and finished cells stay."""

    def __init__(self) -> None:
        super().__init__(console=Terminal(force_jupyter=False, force_terminal=False, width=100))
        self.output: Any = None  # IPython's handle of what the cell shows
        self.drawn = time.monotonic() + AFTER - EVERY

    def __exit__(self, *error: object) -> None:
        if self.output is not None:
            self.output.update({"text/html": "", "text/plain": ""}, raw=True)

    def track(self, items: Iterable[T], what: str) -> Iterable[T]:
        for item in super().track(items, what):
            self.draw()
            yield item

    def training(self, *measures: Any, **others: Any) -> None:
        super().training(*measures, **others)
        self.draw()

    def cell(self, row: Mapping[str, Any], cost_done: float) -> None:
        super().cell(row, cost_done)
        self.draw()

    def draw(self) -> None:
        """Shows the bars as they are now, but not more often than EVERY."""
        now = time.monotonic()
        if now - self.drawn < EVERY:
            return
        self.drawn, note = now, Text.from_markup(self.bars.note).plain
        notes = [note] * bool(note)
        bars = "<br>".join([*map(bar_of, self.bars.tasks), *map(escape, notes)])
        lines = "\n".join([*map(line_of, self.bars.tasks), *notes])
        bundle = {"text/html": f"<div>{bars}</div>", "text/plain": lines}
        if self.output is None:
            display = importlib.import_module("IPython.display").display  # a kernel has loaded it
            self.output = display(bundle, raw=True, display_id=True)
        else:
            self.output.update(bundle, raw=True)


def line_of(task: rich.Task) -> str:
    """`training  35 %, 0:00:12 left`."""
    share = "" if task.total is None else f" {task.percentage:3.0f} %,"
    left = rich.TimeRemainingColumn().render(task).plain
    return f"{Text.from_markup(task.description).plain}{share} {left} left"


def bar_of(task: rich.Task) -> str:
    value = "" if task.total is None else f'value="{task.percentage:.1f}" '
    what = Text.from_markup(task.description).plain
    return BAR.format(value=value, what=escape(what), line=escape(line_of(task)))
