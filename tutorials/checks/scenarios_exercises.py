"""Scenarios of the exercises: they run on the student's exercises.py, and return plain values."""

import torch
from torch import Tensor

import tinymem as tm


def below_one_half(exercises, model, prompt_ids: list[int], target_ids: list[int]) -> object:
    """What the search for a counter-example finds for this memory."""
    return exercises.recalled_below_one_half(model, tm.Memory(prompt_ids, target_ids))


def check_of_a_sweep(exercises, asked, given) -> None:
    """Tries check_sweep on a sweep of the grader, which it may call with the names of arguments."""

    def sweep(folder, ranks, lengths, seeds):
        return asked(folder, *map(list, (ranks, lengths, seeds)))  # also sets and generators

    exercises.check_sweep(sweep, given)


@torch.no_grad()
def logits_of(
    exercises, model, layer: int, h: Tensor, x: Tensor, A: Tensor, B: Tensor
) -> tuple[object, list[int], list[str]]:
    """What logits_from_cache returns, the layers of which something was computed, and the names of
    the arguments that have changed.
    """
    ran: list[int] = []
    for n, block in enumerate(model.layers):
        for part in (block, block.self_attn, block.mlp):
            part.register_forward_hook(lambda *_, n=n: ran.append(n))
    given = {"h": h, "x": x, "A": A, "B": B}
    before = {name: one.clone() for name, one in given.items()}
    logits = exercises.logits_from_cache(model, layer, *given.values())
    changed = [name for name, one in given.items() if not torch.equal(one, before[name])]
    return logits, sorted(set(ran)), changed
