"""What a model says: text in, text out, for a look at what a unit has changed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .model import Model, greedy
from .progress import SILENT, Progress, bars_in_notebooks


@bars_in_notebooks
def generate(
    model: Model,
    prompt: str | Sequence[int],
    tokens: int = 64,
    *,
    chat: bool = True,
    progress: Progress = SILENT,
) -> str:
    """What the model says after the prompt: up to so many tokens, the likeliest one each time.

    prompt: a text, which goes through the chat template where the checkpoint has one; or token ids,
        as `memory.prompt_ids`. chat: False is without the template.
    It ends before a token that ends a text, and computes in the dtype of the model.
    Raises DataError for a prompt that is empty, or too long for the context with what follows.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise DataError("this model has no tokenizer; tm.load makes one that has")
    if isinstance(prompt, str):
        ids = tokenizer.prompt_ids(prompt, chat)
    else:
        ids = prompt.tolist() if isinstance(prompt, Tensor | np.ndarray) else list(prompt)
    size, context = model.config.vocab_size, model.config.context
    if not ids or not all(isinstance(i, int | np.integer) and 0 <= i < size for i in ids):
        raise DataError(f"expected a text, or a list of at least one token id from 0 to {size - 1}")
    if not 1 <= tokens <= context - len(ids):
        room = f"{len(ids)} of the context of {context:,} are taken by the prompt"
        raise DataError(f"tokens is {tokens}; expected 1 to {context - len(ids):,}, because {room}")
    given = torch.tensor([ids], device=model.device)
    found = greedy(model, given, tokens, progress=progress, stop=tokenizer.end_ids)[0].tolist()
    return tokenizer.decode(found[:-1] if found[-1] in tokenizer.end_ids else found)
