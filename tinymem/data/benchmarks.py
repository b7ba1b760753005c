"""The benchmarks, as rows of JSON lines that `read_memories` (and so `--data`) reads.

    random        ids drawn uniformly from the vocabulary
    long-context  one text, in which a growing share of the tokens is random (the paper's r0 … r100)
    phonebook     "First Last:" → ten digits, many short memories
    rule          f(x, y) = 3x + 5y + 7: memories that follow a rule, and others to ask for later

Random tokens are stored as ids (see memory.py), words and digits as text. The same arguments and
the same seed give the same rows.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.tokenizer import Tokenizer
from ..errors import DataError
from ..files import write_text_atomically
from .memory import random_memory, text_memory

Row = dict[str, Any]
NAMES = Path(__file__).with_name("names.json")
RATIOS = (0, 20, 40, 60, 80, 100)
LARGEST_LIMIT = 1000  # of rule_rows, which shuffles all limit² pairs


def random_rows(
    tokenizer: Tokenizer, length: int, count: int = 1, seed: int = 0, **key: Any
) -> list[Row]:
    """`count` random memories of `length` tokens; row i is `random_memory` of seed + i.

    With the same seed, a longer memory begins with the shorter one. All rows have the same prompt,
    so each needs a unit of its own: a single unit could recite only one of them.

    key: prompt, chat and vocabulary, as in `random_memory`.
    """
    _at_least(1, count=count)
    seeds = range(seed, seed + count)
    return [vars(random_memory(tokenizer, length, seed=s, **key)) | {"seed": s} for s in seeds]


def long_context_rows(
    tokenizer: Tokenizer,
    text: str,
    length: int | None,
    ratios: Sequence[int] = RATIOS,
    seed: int = 0,
    **key: Any,
) -> list[Row]:
    """The first `length` tokens of `text` (None: all), one row for each ratio, by `text_memory`.

    Rows are nested: the random tokens of a ratio are also in every higher one, at the same places.

    key: prompt and chat, as in `text_memory`.
    """
    _at_least(0, seed=seed)
    if not ratios or len(set(ratios)) < len(ratios):
        raise DataError(f"ratios are {list(ratios)}; expected at least one, and each of them once")
    key |= {"length": length, "seed": seed}
    memories = [text_memory(tokenizer, text, ratio=ratio, **key) for ratio in ratios]
    return [vars(memory) | {"seed": seed} for memory in memories]


def phonebook_rows(count: int, seed: int = 0) -> list[Row]:
    """`count` distinct names, each with ten digits: a 1, then nine that are uniformly random.

    The entropy of an entry is therefore 9 ln 10 = 20.7 nats (29.9 bits), not 10 ln 10. The fixed 1
    makes them nobody's numbers in North America, where no area code begins with 1. (Ten digits that
    begin with 0 would be ordinary numbers in France or Australia; in the paper's files the first
    digit is 6, 7, 8 or 9.) As in the paper's files, no space stands before the digits: it would be
    a target token that is always the same. A smaller book is the beginning of a larger one of the
    same seed.
    """
    parts = json.loads(NAMES.read_text(encoding="utf-8"))  # 128 × 160, nobody in particular
    names = [" ".join(pair) for pair in itertools.product(parts["given"], parts["surnames"])]
    _at_least(1, count=count)
    _at_least(0, seed=seed)
    if count > len(names):
        raise DataError(f"{count} entries were asked for, but there are only {len(names)} names")
    random = np.random.default_rng(seed)
    chosen = random.permutation(names)[:count].tolist()
    digits = random.integers(10, size=(count, 9)).tolist()  # row by row: a larger book begins alike
    numbers = ["".join(map(str, [1, *row])) for row in digits]
    pairs = zip(chosen, numbers, strict=True)
    return [{"prompt": f"{name}:", "completion": number} for name, number in pairs]


def rule_rows(
    count: int, held_out: int, seed: int = 0, limit: int = 100
) -> tuple[list[Row], list[Row]]:
    """The paper's rule f(x, y) = 3x + 5y + 7 at distinct x, y < limit: (training, held-out) rows.

    No held-out pair is in training. The held-out pairs do not depend on `count`, so that units
    trained on more and more examples answer the same questions. The form is "f(12,7)=" → "78",
    without spaces: tokenizers that split a number from the space before it (Llama 3's, Qwen's)
    would make that space a target token of its own, the same in every answer. With byte-level BPE,
    prompt and answer tokenized apart give the tokens of both together.
    """
    _at_least(1, count=count, limit=limit)
    _at_least(0, held_out=held_out, seed=seed)
    if limit > LARGEST_LIMIT:
        raise DataError(f"limit is {limit}; expected {LARGEST_LIMIT} or less")
    if count + held_out > limit**2:
        asked = f"{count} + {held_out} pairs were asked for"
        raise DataError(f"{asked}, but below {limit} there are {limit**2}")
    pairs = np.random.default_rng(seed).permutation(limit**2)[: held_out + count].tolist()
    points = [divmod(pair, limit) for pair in pairs]
    rows = [{"prompt": f"f({x},{y})=", "completion": f"{3 * x + 5 * y + 7}"} for x, y in points]
    return rows[held_out:], rows[:held_out]


def to_lines(rows: Sequence[Row]) -> str:
    """JSON lines, each with its line end."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_rows(rows: Sequence[Row], path: str | Path) -> None:
    """Write JSON lines in UTF-8: the whole file or, where that fails (OSError), nothing."""
    write_text_atomically(Path(path), to_lines(rows))


def _at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise DataError(f"{name} is {number}; expected {least} or more")
