"""A memory: one (prompt, target) pair of token ids.

Glossary (the paper's terms, arXiv 2605.30260)
    memory     one pair: the prompt is the key, the target is the value; only the target has a loss
    length ℓ   number of target tokens
    ratio      percentage of the target that is random tokens (the paper's r0 … r100)
    entropy H  ln(size of the vocabulary drawn from), nats per token, of a uniformly random target

Random tokens are drawn, kept and stored as ids: decoding random ids to text and encoding the text
again does not give the same ids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..base.config import ModelConfig
from ..base.tokenizer import Tokenizer
from ..errors import DataError
from ..shown import Shown

PROMPT = "Recite the memory word for word:"
BELOW_50 = math.nextafter(50, 0)
LIMITS = {"ratio": (int, 100, "a percentage"), "entropy": (float, BELOW_50, "in nats per token")}


@dataclass(frozen=True, repr=False)
class Memory(Shown):
    """One memory. Ids may be given as a list, a numpy array or a tensor; they become tuples.

    Raises DataError for an empty prompt or target, and for ids that are not whole numbers.
    """

    prompt_ids: Sequence[int]
    target_ids: Sequence[int]
    ratio: int | None = None
    entropy: float | None = None  # H where the whole target is random, None where it is unknown

    def __post_init__(self) -> None:
        for name in ("prompt_ids", "target_ids"):
            ids = getattr(self, name)
            ids = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else ids
            ids = ids if isinstance(ids, Sequence) else ()
            whole = all(type(i) is int or isinstance(i, np.integer) for i in ids)
            if not ids or not whole or min(ids) < 0:
                raise DataError(f"{name} must be a list of at least one whole number, 0 or more")
            object.__setattr__(self, name, tuple(map(int, ids)))
        for name, (kind, most, what) in LIMITS.items():
            value = getattr(self, name)
            if value is not None and not (type(value) in (int, kind) and 0 <= value <= most):
                raise DataError(f"{name} is {value!r}; it is {what}, 0 to {most:g}")
            object.__setattr__(self, name, None if value is None else kind(value))

    @property
    def length(self) -> int:
        """ℓ, the number of target tokens."""
        return len(self.target_ids)


Memories = Memory | Sequence[Memory]  # one, or several


def random_memory(
    tokenizer: Tokenizer,
    length: int = 128,
    *,
    seed: int = 0,
    vocabulary: int | None = None,
    prompt: str = PROMPT,
    chat: bool = True,
) -> Memory:
    """`length` ids drawn uniformly from the tokenizer's vocabulary without its special tokens.

    vocabulary: draw from so many of these tokens, themselves drawn first, instead of from all.
    """
    if length < 1 or seed < 0:
        raise DataError(f"length is {length} and seed {seed}; expected at least 1 and 0")
    random, plain = np.random.default_rng(seed), np.array(tokenizer.plain_ids)
    if vocabulary is not None:
        if not 1 <= vocabulary <= len(plain):
            raise DataError(f"vocabulary is {vocabulary}; expected 1 to {len(plain):,} tokens")
        plain = random.choice(plain, size=vocabulary, replace=False)
    ids, entropy = random.choice(plain, size=length), math.log(len(plain))
    return Memory(tokenizer.prompt_ids(prompt, chat), ids.tolist(), ratio=100, entropy=entropy)


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
    """The first `length` tokens of `text` (default: all), with `ratio` percent of them random."""
    ids = np.array(tokenizer.encode(text, special=False), dtype=np.int64)
    if not len(ids) or not text.strip():
        raise DataError("the text is empty; a memory has at least one token")
    if length is not None and not 1 <= length <= len(ids):
        raise DataError(f"length {length} was asked for, but the text has {len(ids)} tokens")
    ids = ids[:length]
    random = np.random.default_rng(seed)
    places = random.permutation(len(ids))[: round(len(ids) * ratio / 100)]
    ids[places] = random.choice(tokenizer.plain_ids, size=len(places))
    entropy = math.log(len(tokenizer.plain_ids)) if ratio == 100 else None
    return Memory(tokenizer.prompt_ids(prompt, chat), ids.tolist(), ratio=ratio, entropy=entropy)


def first_tokens(memories: Sequence[Memory], length: int) -> list[Memory]:
    """The first memories that have at most `length` target tokens in all.

    If even the first one is longer, it alone is returned, cut to `length`.
    """
    whole = int((np.cumsum([m.length for m in memories]) <= length).sum())
    cut = replace(memories[0], target_ids=memories[0].target_ids[:length])
    return list(memories[:whole]) or [cut]


def check_fits(memories: Memories, config: ModelConfig) -> list[Memory]:
    """One memory or several -> a list. Raises DataError if the model cannot hold them."""
    memories = [memories] if isinstance(memories, Memory) else memories
    found = isinstance(memories, Sequence) and all(isinstance(m, Memory) for m in memories)
    if not found or not memories:
        raise DataError("expected a Memory, or a list of at least one")
    check_context(memories, config.context)
    largest, size = max(max(*m.prompt_ids, *m.target_ids) for m in memories), config.vocab_size
    if largest >= size:
        raise DataError(f"token id {largest} is beyond the model's vocabulary of {size}")
    return list(memories)


def check_context(memories: Sequence[Memory], context: int) -> None:
    """Raises DataError if prompt and target together are longer than the context."""
    for number, memory in enumerate(memories, start=1):
        prompt, target = len(memory.prompt_ids), memory.length
        if prompt + target > context:
            both = f"{prompt} prompt tokens + {target} target tokens = {prompt + target}"
            raise DataError(
                f"memory {number}: {both} exceed the model's context of {context}; "
                f"shorten the target to {max(context - prompt, 0)} or fewer"
            )
