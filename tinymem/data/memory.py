"""What is to be remembered: (prompt, target) pairs of token ids.

Glossary (the paper's terms, arXiv 2605.30260)
    memory     one pair; the prompt is the key, the target is the value; loss is on the target only
    length ℓ   number of target tokens
    ratio      share of the target, in percent, that is random tokens (its r0 … r100)
    entropy H  ln(size of the vocabulary drawn from), nats per token, of a uniformly random target

Random tokens are drawn, kept and stored as ids: decoding random ids to text and encoding the text
again does not give the same ids.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..base.model import ModelConfig
from ..base.tokenizer import Tokenizer
from ..errors import DataError, first_line
from ..files import read_text

PROMPT = "Recite the memory word for word:"
PAIRS = (("prompt", "completion"), ("query", "target"), ("question", "matching"))  # of text


@dataclass(frozen=True)
class Memory:
    """One memory. Raises DataError for an empty prompt or target, or ids that are not whole numbers."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    ratio: int | None = None
    entropy: float | None = None  # H, where the whole target is random; else unknown

    def __post_init__(self):
        for name in ("prompt_ids", "target_ids"):
            ids = getattr(self, name)
            ids = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else ids
            if not isinstance(ids, Sequence) or isinstance(ids, str) or not len(ids):
                raise DataError(f"{name} must be a list of at least one token id")
            if not all(
                isinstance(i, (int, np.integer)) and not isinstance(i, bool) and i >= 0 for i in ids
            ):
                raise DataError(f"{name} must be whole numbers, 0 or more")
            object.__setattr__(self, name, tuple(map(int, ids)))
        if self.ratio is not None and not (type(self.ratio) is int and 0 <= self.ratio <= 100):
            raise DataError(f"ratio is {self.ratio!r}; it is a percentage, 0 to 100")
        if self.entropy is not None and not (
            type(self.entropy) is float and 0 <= self.entropy < 50
        ):
            raise DataError(f"entropy is {self.entropy!r}; expected nats per token")

    @property
    def length(self) -> int:
        """ℓ, the number of target tokens."""
        return len(self.target_ids)


def random_memory(
    tokenizer: Tokenizer,
    length: int = 128,
    *,
    seed: int = 0,
    prompt: str = PROMPT,
    chat: bool = True,
) -> Memory:
    """`length` ids drawn uniformly from the vocabulary without its special tokens."""
    if length < 1 or seed < 0:
        raise DataError(f"length is {length} and seed {seed}; expected at least 1 and 0")
    ids = np.random.default_rng(seed).choice(tokenizer.plain_ids, size=length)
    entropy = math.log(len(tokenizer.plain_ids))
    return Memory(tokenizer.prompt_ids(prompt, chat), ids, ratio=100, entropy=entropy)


def text_memory(
    tokenizer: Tokenizer,
    text: str,
    *,
    length: int | None = None,
    ratio: int = 0,
    seed: int = 0,
    prompt: str = PROMPT,
    chat: bool = True,
) -> Memory:
    """The first `length` tokens of `text` (default: all), `ratio` percent of them replaced by random ids."""
    ids = np.array(tokenizer.encode(text, special=False), dtype=np.int64)
    if not len(ids) or not text.strip():
        raise DataError("the text is empty; a memory has at least one token")
    if length is not None and not 1 <= length <= len(ids):
        raise DataError(f"length {length} was asked for, but the text has {len(ids)} tokens")
    if not 0 <= ratio <= 100:
        raise DataError(f"ratio is {ratio}; it is a percentage, 0 to 100")
    ids = ids[:length]
    random = np.random.default_rng(seed)
    places = random.permutation(len(ids))[: round(len(ids) * ratio / 100)]
    ids[places] = random.choice(tokenizer.plain_ids, size=len(places))
    entropy = math.log(len(tokenizer.plain_ids)) if ratio == 100 else None
    return Memory(tokenizer.prompt_ids(prompt, chat), ids, ratio=ratio, entropy=entropy)


def read_memories(path: Path, tokenizer: Tokenizer, *, chat: bool = True) -> list[Memory]:
    """Memories from JSON lines: pairs of text (see PAIRS) or {"prompt_ids", "target_ids"}.

    Raises DataError that names file, line and reason.
    """
    memories = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            memories.append(parse_memory(json.loads(line), tokenizer, chat))
        except (
            ValueError,
            RecursionError,
        ) as error:  # ValueError: JSONDecodeError and DataError both
            raise DataError(f"{path}, line {number}: {first_line(error)}") from error
    if not memories:
        raise DataError(f"{path}: no memories; expected one JSON object a line")
    return memories


def parse_memory(row: object, tokenizer: Tokenizer, chat: bool) -> Memory:
    if not isinstance(row, dict):
        raise DataError("expected a JSON object")
    if "prompt_ids" in row and "target_ids" in row:
        entropy = row.get("entropy")
        entropy = float(entropy) if type(entropy) is int and 0 <= entropy < 50 else entropy
        memory = Memory(row["prompt_ids"], row["target_ids"], row.get("ratio"), entropy)
        largest = max(memory.prompt_ids + memory.target_ids)
        if largest > tokenizer.largest_id:
            raise DataError(
                f"token id {largest} is beyond the tokenizer's last, {tokenizer.largest_id}"
            )
        return memory
    for key, value in PAIRS:
        if key in row and value in row:
            if not isinstance(row[key], str) or not isinstance(row[value], str):
                raise DataError(f"{key!r} and {value!r} must be text")
            memory = text_memory(tokenizer, row[value], prompt=row[key], chat=chat)
            return replace(memory, ratio=None)  # what share of it is random, a file does not say
    kinds = ", ".join(f"{key}/{value}" for key, value in (*PAIRS, ("prompt_ids", "target_ids")))
    raise DataError(
        f"expected one of the pairs {kinds}; found {', '.join(map(repr, row)) or 'nothing'}"
    )


def check_fits(memories: object, config: ModelConfig) -> list[Memory]:
    """One memory or several -> a list of them. Raises DataError if the model cannot hold them."""
    memories = [memories] if isinstance(memories, Memory) else memories
    if (
        not isinstance(memories, Sequence)
        or not memories
        or not all(isinstance(m, Memory) for m in memories)
    ):
        raise DataError("expected a Memory, or a list of at least one")
    check_context(memories, config.context)
    largest = max(max(m.prompt_ids + m.target_ids) for m in memories)
    if largest >= config.vocab_size:
        raise DataError(
            f"token id {largest} is beyond the model's vocabulary of {config.vocab_size}"
        )
    return list(memories)


def check_context(memories: Sequence[Memory], context: int) -> None:
    """Raises DataError if prompt and target together are longer than the context."""
    for number, memory in enumerate(memories, start=1):
        prompt = len(memory.prompt_ids)
        if prompt + memory.length > context:
            which = f"memory {number}: " if len(memories) > 1 else ""
            raise DataError(
                f"{which}{prompt} prompt tokens + {memory.length} target tokens = "
                f"{prompt + memory.length} exceed the model's context of {context}; shorten the target "
                f"to {max(context - prompt, 0)} or fewer"
            )


def first_tokens(memories: Sequence[Memory], length: int) -> list[Memory]:
    """The first memories, as many as have at most `length` target tokens together; a first one that is
    longer than that is cut to `length`."""
    total = np.cumsum([m.length for m in memories])
    whole = int((total <= length).sum())
    return list(memories[:whole]) or [
        replace(memories[0], target_ids=memories[0].target_ids[:length])
    ]
