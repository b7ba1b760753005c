"""Progress bars on stderr for everything that takes long: loading, training, decoding, sweeps."""

from collections.abc import Iterable, Mapping, Sized
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress as RichProgress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..base.progress import Progress, T
from .report import row_line, stderr

SMOOTHING = 300  # seconds over which the speed is averaged, because the cells of a sweep differ


class BarsAndNote(RichProgress):
    """Bars, and below them one line of text, cut off where the terminal ends."""

    note = ""

    def begin(self, what: str, total: float | None) -> TaskID:
        """A new bar, whose speed is known from its first step on."""
        task = self.add_task(what, total=total)
        self.update(task, completed=1e-9)  # rich measures speed between two updates
        return task

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.note:
            note = Text.from_markup(self.note, overflow="ellipsis")
            note.no_wrap = True
            yield note


class Bars(Progress):
    """Shows progress while a `with` block runs: bars with the time left, which go when it ends.

    A sweep has one bar for its whole grid, a note below it that names what trains now, and a line
    for each finished cell. If stderr is no terminal, there are lines but no bars.
    quiet: shows finished cells alone, for all workers of a sweep but the first.
    """

    def __init__(self, quiet: bool = False, console: Console = stderr):
        self.quiet, self.console = quiet, console
        self.bars = BarsAndNote(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("[dim]left[/]"),
            console=console,
            transient=True,
            speed_estimate_period=SMOOTHING,
            disable=quiet or not console.is_terminal,
        )
        self.run: TaskID | None = None  # the bar of a run outside a sweep
        self.grid: TaskID | None = None  # the bar of the sweep
        self.label, self.cost_before, self.cost = "", 0.0, 0.0  # of the cells that train now
        self.reached = 0.0  # cost of the sweep that is done

    def __enter__(self) -> "Bars":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self.bars.disable:  # stop() of rich before 14.3 would print an empty line
            self.bars.stop()

    def track(self, items: Iterable[T], what: str) -> Iterable[T]:
        """Passes the items on, under a bar of their own, or in a sweep under its note."""
        if self.grid is not None:
            self.bars.note = f"{self.label}: {what}"
            yield from items
            return
        if self.run is not None:  # training is over when other work begins
            self.bars.remove_task(self.run)
            self.run, self.bars.note = None, ""
        total = len(items) if isinstance(items, Sized) else None
        task = self.bars.begin(what, total)
        try:
            for item in items:
                yield item
                self.bars.advance(task)
        finally:
            self.bars.remove_task(task)

    def training(self, done: float, loss: float, certified: float) -> None:
        """Moves the bar of the run or of the sweep; shows the loss and the share with p > ½."""
        share = f"p>½ for [bold]{100 * certified:.0f} %[/] of the tokens"
        note = f"loss [bold]{loss:.3f}[/] nats per token, {share}"
        if self.grid is not None:
            self.bars.note = f"{self.label}: {note}"
            self._advance_to(self.cost_before + done * self.cost)
            return
        self.bars.note = note
        if self.run is None:
            self.run = self.bars.begin("training", total=1.0)
        self.bars.update(self.run, completed=done)

    def sweep(self, finished: int, cells: int, cost: float) -> None:
        """Opens the bar of the whole grid, and prints how many cells are finished already."""
        if finished:
            self.warn(f"{finished} of {cells} cells are there already")
        self.grid = self.bars.begin("sweep", total=cost)

    def group(self, label: str, cost_before: float, cost: float) -> None:
        """Names the cells that train now; their training moves the sweep's bar from cost_before."""
        self.label, self.cost_before, self.cost = escape(label), cost_before, cost
        self.bars.note = self.label

    def cell(self, row: Mapping[str, Any], cost_done: float) -> None:
        """Prints the finished cell as one line, which ends where the terminal does."""
        self._advance_to(cost_done)
        if self.console.is_terminal:
            self.console.print(row_line(row), no_wrap=True, overflow="ellipsis")
        else:
            self.console.print(row_line(row), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Prints the message."""
        if not self.quiet:
            self.console.print(message, markup=False, soft_wrap=True)

    def _advance_to(self, cost: float) -> None:
        """Never back: the first row of a batch counts less than the training of the whole batch."""
        self.reached = max(self.reached, cost)
        if self.grid is not None:
            self.bars.update(self.grid, completed=self.reached)
