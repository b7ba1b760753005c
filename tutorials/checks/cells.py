"""What the rows of rung 7 should say, computed in plain torch from the shipped model alone."""

from collections.abc import Callable

import torch

from . import expected
from .grading import require, tensor, whole_numbers
from .scenarios_rungs_6_to_9 import PROMPT
from .server import load_shipped


def right_rows(found: dict, cell: list, steps: int, objective: Callable = expected.plain) -> list:
    """The rows of a cell (ranks, length, seed), with the loss before the last step.

    found: the target that the rung 1 of the student draws, and the A of new units of rung 2.
    """
    (model, tokenizer), (ranks, length, seed) = load_shipped(), cell
    prompt, target = tokenizer.encode(PROMPT), whole_numbers(found["target"], "The target")
    known = len(target) == length and set(target) <= set(tokenizer.plain_ids)
    require(known, f"draw_tokens did not give {length} of the plain_ids, but {target}")
    rows = []
    for rank, A in zip(ranks, found["units"], strict=True):
        A = tensor(A, (model.config.hidden_size, rank), "A of a new unit, [d, r],").float()
        losses, *unit = expected.loop(prompt, target, A, steps, 0.1, objective=objective)
        with torch.no_grad():
            logits, targets = expected.target_logits(prompt, target, *unit), torch.tensor(target)
        row = {"rank": rank, "length": length, "seed": seed, "parameters": 2 * A.numel()}
        row |= {"base_loss": losses[0], "final_loss": expected.plain(logits, targets).item()}
        recited = bool((expected.margins(logits, targets) > 0).all())
        rows.append(row | {"recited": recited, "last_mean": losses[-1]})
    return rows
