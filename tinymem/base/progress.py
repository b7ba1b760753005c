"""What a long computation reports while it runs, and a sink that ignores it.

A function that takes more than a moment has a parameter `progress`. Its default, `SILENT`, shows
nothing; show/progress.py has the bars that a person sees. A program of its own may pass any
subclass, for example to log losses, or to raise KeyboardInterrupt and so end a run early.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


class Progress:
    """Ignores every event. Subclasses override what they want to show."""

    def track(self, items: Iterable[T], what: str) -> Iterable[T]:
        """Passes the items on one by one; `what` names the work, such as "loading weights"."""
        return items

    def training(self, done: float, loss: float, certified: float) -> None:
        """Called every few steps of training.

        done: share of the steps, 0 to 1. loss: mean over the target tokens, nats per token.
        certified: share of the tokens with p > ½. Of several runs, loss and share are means.
        """

    def sweep(self, finished: int, cells: int, cost: float) -> None:
        """A sweep begins: cells already finished, cells in all, and the cost of the missing ones."""

    def group(self, label: str, cost_before: float, cost: float) -> None:
        """Cells that train as one batch begin; costs are in the unit of `sweep`'s."""

    def cell(self, row: Mapping[str, Any], cost_done: float) -> None:
        """One cell is finished, and its row is on the disk."""

    def warn(self, message: str) -> None:
        """Something the user should know, which does not stop the work."""


SILENT = Progress()
