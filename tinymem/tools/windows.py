"""Which stretches of a long document does a model recite: the audit of verbatim memorization.

A sequence is extractable with K tokens of context if greedy decoding from the K tokens before it
yields it word for word (Carlini et al. 2022, arXiv 2202.07646; there 50 tokens). Here every window
of N tokens is tried, one each S tokens. A model that expects a special token before a text (<s>)
gets it before the K tokens; a prompt that asks for the document may stand there instead.

Nothing is decoded. A window is recited if every margin is above 0, given the true tokens before
(experiment/recall.py), and the first token whose margin is not decides that it is not recited. Few
windows of a document that is not memorized have their first 8 tokens right, so a first pass judges
these, and a second pass the windows that are left. A tie counts as not recited.

Glossary
    K, N, S    context, size and stride of the windows, in tokens
    start      place of a window's first token in the document; the first window has start K
    span       [start, end) of recited windows that overlap or touch, merged; in tokens
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..base.model import Model
from ..base.progress import Progress
from ..data.batch import POSITIONS, Batch
from ..data.memory import Memory
from ..errors import DataError
from ..experiment.recall import teacher_forced
from ..training.margin import thin_for
from ..unit.lora import Unit

FIRST = 8  # tokens of a window in the first pass
AT_ONCE = POSITIONS // 8  # positions in one pass on a CPU; so few that the bar moves often


@dataclass(frozen=True)
class Document:
    """The tokens of a document, and its windows."""

    ids: list[int]
    before: list[int]  # ids of a prompt or a special token, which stand before every context
    context: int = 32  # K
    window: int = 50  # N
    stride: int = 10  # S

    @property
    def starts(self) -> list[int]:
        """Of all its windows."""
        return list(range(self.context, len(self.ids) - self.window + 1, self.stride))

    def memory(self, start: int, length: int | None = None) -> Memory:
        """The window as a memory: the context as prompt, its tokens (or the first `length`)."""
        end = start + (self.window if length is None else length)
        return Memory([*self.before, *self.ids[start - self.context : start]], self.ids[start:end])

    def spread(self, most: int) -> list[Memory]:
        """At most so many windows, spread evenly over the document."""
        starts = self.starts
        picked = np.linspace(0, len(starts) - 1, min(most, len(starts))).round().astype(int)
        return [self.memory(starts[n]) for n in picked]

    def check(self, limit: int) -> None:
        """Raises DataError if a window is not possible; limit: the context of the model."""
        numbers = {"--context": self.context, "--window": self.window, "--stride": self.stride}
        for flag, value in numbers.items():
            if value < 1:
                raise DataError(f"{flag} is {value}; expected 1 or more tokens")
        needed = len(self.before) + self.context + self.window
        if needed > limit:
            both = f"{needed:,} tokens of prompt, context and window"
            raise DataError(f"{both} exceed the model's context of {limit:,}; use smaller ones")
        if not self.starts:
            both = f"{self.context} tokens of context and a window of {self.window}"
            problem = f"the text has {len(self.ids):,} tokens, fewer than {both}"
            raise DataError(f"{problem}; use a smaller --context or --window")


@dataclass(frozen=True)
class Audit:
    """How far each window of a document is recited. An interrupted audit has the first windows."""

    document: Document
    right: list[int]  # of each judged window, tokens before its first wrong one; N if it is recited
    thin: int  # recited windows whose lowest margin rounding can reverse
    base_recited: int | None  # of the recited windows, how many are without the adapter too
    interrupted: bool

    @property
    def recited(self) -> list[int]:
        """The starts of the windows that are recited."""
        pairs = zip(self.document.starts, self.right, strict=False)
        return [start for start, right in pairs if right == self.document.window]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """[start, end) of what is recited, in tokens of the document, in order.

        By hand, N = 50: windows at 32, 42 and 92 give (32, 142), one at 143 begins another span.
        """
        found: list[tuple[int, int]] = []
        for start in self.recited:
            joined = found and start <= found[-1][1]
            first = found.pop()[0] if joined else start
            found.append((first, start + self.document.window))
        return found

    @property
    def longest(self) -> int:
        """Tokens of the longest span."""
        return max((end - start for start, end in self.spans), default=0)

    def as_dict(self) -> dict[str, Any]:
        """The field `windows` of the report."""
        document = self.document
        return {
            **{"count": len(self.right), "recited": len(self.recited), "longest": self.longest},
            **{"spans": [list(span) for span in self.spans], "thin": self.thin},
            **{"base_recited": self.base_recited, "planned": len(document.starts)},
            **{"context": document.context, "window": document.window, "stride": document.stride},
        }


def audit(model: Model, unit: Unit | None, document: Document, progress: Progress) -> Audit:
    """Judges the windows, with the unit; those that are recited also without it.

    The unit is detached, before and afterwards. Ctrl-C ends the audit, but not with an exception.
    """
    right: list[int] = []
    thin, base_recited, interrupted = 0, None, False
    try:
        with unit.attached(model) if unit else nullcontext():
            for found, few in judge_windows(model, document, document.starts, progress):
                right += found
                thin += few
        if unit:
            recited = Audit(document, right, 0, None, False).recited
            passes = judge_windows(model, document, recited, progress)
            base_recited = sum(found.count(document.window) for found, _ in passes)
    except KeyboardInterrupt:
        interrupted = True
    return Audit(document, right, thin, base_recited, interrupted)


def judge_windows(
    model: Model, document: Document, starts: Sequence[int], progress: Progress
) -> Iterator[tuple[list[int], int]]:
    """For some windows at a time: how many tokens of each are right, and how many are thin."""
    positions = AT_ONCE if model.device.type == "cpu" else POSITIONS
    size = max(1, positions // (len(document.before) + document.context + document.window))
    groups = [starts[n : n + size] for n in range(0, len(starts), size)]
    for group in progress.track(groups, "windows"):
        right = np.zeros(len(group), dtype=int)
        left, thin = np.arange(len(group)), 0
        for length in sorted({min(FIRST, document.window), document.window}):
            windows = [document.memory(group[n], length) for n in left.tolist()]
            batch = Batch(windows, model.config.context, model.device)
            margins = teacher_forced(model, batch).margins.view(-1, length).cpu().numpy()
            right[left] = np.logical_and.accumulate(margins > 0, axis=1).sum(1)
            whole = right[left] == length
            thin = int((margins[whole].min(1, initial=np.inf) <= thin_for(model.dtype)).sum())
            if not (left := left[whole]).size:
                break
        yield right.tolist(), thin
