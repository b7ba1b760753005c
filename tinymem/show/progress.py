"""Progress bars on stderr for everything that takes long: loading, training, decoding, sweeps."""

import math
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from rich import progress as rich
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.text import Text

from ..base.progress import Progress, T
from .report import row_line, stderr

SMOOTHING = 300  # seconds over which the speed is averaged, because the cells of a sweep differ


class BarsAndNote(rich.Progress):
    """Bars, and below them a line of text."""

    note = ""

    def begin(self, what: str, total: float | None, done: float = 0.0) -> rich.TaskID:
        """A new bar, whose speed is known from its first step on; `done` before is no speed."""
        started: Any = done  # rich counts in floats, too, but declares a whole number
        task = self.add_task(escape(what), total=total, completed=started)
        self.update(task, completed=done + 1e-9)  # rich measures speed between two updates
        return task

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.note:
            yield Text.from_markup(self.note)


class Bars(Progress):
    """Shows progress while a `with` block runs: bars with the time left, which go when it ends.

    A sweep has one bar for its whole grid, a note below it that names what trains now, and a line
    for each finished cell. If stderr is no terminal, there are lines but no bars.
    quiet: shows finished cells alone, for all workers of a sweep but the first.
    """

    def __init__(self, quiet: bool = False, console: Console = stderr):
        self.quiet, self.console, hide = quiet, console, quiet or not console.is_terminal
        what, percent = "{task.description}", "{task.percentage:3.0f} %"
        bar = rich.TextColumn(what), rich.BarColumn(24), rich.TextColumn(percent)
        time = rich.TimeRemainingColumn(), rich.TextColumn("[dim]left[/]")
        look: dict[str, Any] = {"console": console, "transient": True, "disable": hide}
        self.bars = BarsAndNote(*bar, *time, speed_estimate_period=SMOOTHING, **look)
        self.main: rich.TaskID | None = None  # the bar of a sweep, or else of a run's training
        self.label, self.cost_before, self.cost = "", 0.0, 1.0  # of the cells that train now

    def __enter__(self) -> "Bars":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.bars.disable:  # stop() of rich before 14.3 would print an empty line
            self.bars.stop()

    def track(self, items: Iterable[T], what: str) -> Iterable[T]:
        """Passes the items on, under a bar of their own, or in a sweep under its note."""
        if self.label:
            self.bars.note = self.label + escape(what)
            yield from items
            return
        task = self.bars.begin(what, len(items) if isinstance(items, Sized) else None)
        try:
            for item in items:
                yield item
                self.bars.advance(task)
        finally:
            self.bars.remove_task(task)

    def training(
        self, step: int, steps: int, loss: float, certified: float, recited: float
    ) -> None:
        """Moves the bar of the sweep or the run; shows the loss, and how many tokens are there."""
        done = step / steps
        if self.main is None:
            self.main = self.bars.begin("training", self.cost, done)
        self.bars.update(self.main, completed=self.cost_before + done * self.cost)
        watched = not math.isnan(recited)
        what, share = ("likeliest", recited) if watched else ("p > ½", certified)
        tokens = f"{what} for [bold]{100 * share:.0f} %[/] of the tokens"
        label = self.label or f"step {step:,} of at most {steps:,}: "
        self.bars.note = f"{label}loss [bold]{loss:.3f}[/] nats, {tokens}"

    def sweep(self, finished: int, cells: int, cost: float) -> None:
        """Opens the bar of the whole grid, and prints how many cells are finished already."""
        if finished:
            self.warn(f"{finished} of {cells} cells are there already")
        self.main = self.bars.begin("sweep", total=cost)

    def group(self, label: str, cost_before: float, cost: float) -> None:
        """Names the cells that train now; their training moves the sweep's bar from cost_before."""
        self.label, self.cost_before, self.cost = f"{escape(label)}: ", cost_before, cost

    def cell(self, row: Mapping[str, Any], cost_done: float) -> None:
        """Prints the finished cell as one line, which ends where the terminal does."""
        line = row_line(dict(row))
        if self.console.is_terminal:
            self.console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(line, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Prints the message."""
        if not self.quiet:
            self.console.print(message, markup=False, soft_wrap=True)
