"""The target tokens of memories as data for a page: texts, verdict, likeliest tokens, course.

A page has a few numbers for each token and each step that was recorded, so they are made small
without a change of any answer: what is above ½ or above 0 stays above it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import printable
from .report import token_text

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict
    from ..training.record import Training

Likeliest = Sequence[Sequence[tuple[int, float]]]  # for each target token: (token id, p), …
MOST_CELLS = 1_000_000  # tokens × snapshots on a page; above it snapshots are left out
MOST_POINTS = 1000  # steps of the course on a page
LEVELS = 254  # of p, in a byte; 0 is no number
REACH = 127  # levels of a margin, either way; −128 is no number


def token_data(
    tokenizer: Tokenizer,
    memories: Sequence[Memory],
    verdict: Verdict | None = None,
    likeliest: Likeliest = (),
) -> dict[str, Any]:
    """The target tokens of all memories, one after the other, as a page's data.

    verdict: None leaves margins, p, losses and decoded tokens out. likeliest: empty, or of every
    target token.
    """
    targets = [i for memory in memories for i in memory.target_ids]
    decoded = [] if verdict is None else verdict.decoded
    others = [i for some in likeliest for i, _ in some]
    texts, breaks = token_texts(tokenizer, {*targets, *decoded, *others})
    return {
        "texts": texts,
        "breaks": breaks,
        "memories": [
            {"prompt": printable(tokenizer.decode(list(m.prompt_ids))), "length": m.length}
            for m in memories
        ],
        "targets": targets,
        "decoded": decoded,
        **token_numbers(verdict),
        "likeliest": [[[i, short(p, 0.5, 3)] for i, p in some] for some in likeliest],
    }


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> tuple[dict[str, str], list[int]]:
    """The text of each id, and those ids whose text ends a line."""
    some = sorted(ids)
    texts = {str(i): running_text(tokenizer, i) for i in some}
    return texts, [i for i in some if "⏎" in texts[str(i)]]


def running_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token within a text, with control characters made visible.

    Some tokenizers leave out the space before a first word, which ▁ stands for in their vocabulary.
    """
    text, piece = token_text(tokenizer, token), tokenizer.core.id_to_token(token) or ""
    return f" {text}" if piece.startswith("▁") and not text.startswith(" ") else text


def token_numbers(verdict: Verdict | None) -> dict[str, list[float]]:
    """Margin, p and loss of every target token; empty lists without a verdict."""
    if verdict is None:
        return {"margins": [], "p": [], "losses": []}
    return {
        "margins": [short(m, 0) for m in verdict.margins],
        "p": [short(p, 0.5) for p in verdict.probabilities],
        "losses": [short(loss, 0) for loss in verdict.losses],
    }


def short(value: float, limit: float, digits: int = 6) -> float:
    """The value in so many digits, or in full where that would put it on the limit.

    >>> short(0.50000006, 0.5)
    0.50000006
    """
    brief = float(f"{value:.{digits}g}")
    return brief if (brief > limit) == (value > limit) else value


def trace_data(training: Training) -> dict[str, Any]:
    """p and margin of every token in the recorded steps, a byte each; see `pack_p`.

    margins: "" unless they were watched in all of these steps.
    """
    known = dict(training.margin_trace)
    tokens = len(training.trace[0][1]) if training.trace else 1
    every = math.ceil(len(training.trace) * tokens / MOST_CELLS)
    some = training.trace[:: max(1, every)]
    watched = bool(some) and all(step in known for step, _ in some)
    margins = np.array([known[step] for step, _ in some] if watched else [], dtype=float)
    packed, largest = pack_margins(margins)
    return {
        "steps": [step for step, _ in some],
        "p": pack_p(np.array([p for _, p in some], dtype=float)),
        "margins": packed,
        "largest": largest,
        "every": every,
    }


def pack_p(p: np.ndarray) -> str:
    """A byte for each p, in base64: 1 to 127 up to ½, 128 to 254 above it, 0 for NaN."""
    levels = np.clip(np.ceil(p * LEVELS), 1, LEVELS)
    return pack(np.where(np.isnan(p), 0, levels).astype(np.uint8))


def pack_margins(margins: np.ndarray) -> tuple[str, float]:
    """A signed byte for each margin, in base64, and the largest size; −128 is NaN.

    The square of a level is proportional to the margin, so small margins are told apart better. A
    margin keeps its sign, and 0 is level 0.
    """
    sizes = np.abs(np.where(np.isfinite(margins), margins, 0))
    largest = float(sizes.max(initial=0)) or 1.0
    with np.errstate(invalid="ignore"):
        levels = np.sign(margins) * np.ceil(
            REACH * np.sqrt(np.minimum(np.abs(margins) / largest, 1))
        )
    return pack(np.where(np.isnan(margins), -REACH - 1, levels).astype(np.int8)), largest


def pack(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def course_data(training: Training) -> dict[str, Any]:
    """Loss, certified and recited share after each step, or after every n-th of a long run."""
    every = max(1, math.ceil(len(training.losses) / MOST_POINTS))
    steps = list(range(0, len(training.losses), every))
    series = {"loss": training.losses, "certified": training.certified, "recited": training.recited}
    picked = {
        name: [short(values[step], 0) for step in steps] if values else []
        for name, values in series.items()
    }
    return {"steps": steps, **picked}
