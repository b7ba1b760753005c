"""The rungs of the ladder, taken from tinymem: thin adapters with the contracts of mymem.py.

`--from-library 1-3` puts the functions of these rungs in the place of the student's.
"""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tinymem as tm
from tinymem.data.batch import Batch
from tinymem.training.adamw import AdamW, clip_gradients
from tinymem.training.margin import margins as margins_of
from tinymem.unit import lora
from tinymem.unit.beside import WithLoRA, put_in, take_out
from tinymem.unit.sites import find_sites

# --- Rung 1: tokens and targets -------------------------------------------------------------------


def draw_tokens(plain_ids: list[int], count: int, seed: int) -> list[int]:
    tokenizer = SimpleNamespace(plain_ids=plain_ids, prompt_ids=lambda *_: [0])
    return list(tm.random_memory(tokenizer, count, seed=seed).target_ids)


def batch_of(prompt_ids: list[int], target_ids: list[int]) -> Batch:
    memory, cpu = tm.Memory(prompt_ids, target_ids), torch.device("cpu")
    return Batch([memory], len(prompt_ids) + len(target_ids), cpu)


def inputs_and_targets(
    prompt_ids: list[int], target_ids: list[int]
) -> tuple[list[int], list[int], list[int]]:
    batch = batch_of(prompt_ids, target_ids)
    return batch.ids[0].tolist(), batch.rows[1].tolist(), batch.targets.tolist()


# --- Rung 2: the memory unit ----------------------------------------------------------------------


class LoRA(WithLoRA):
    def __init__(self, part: nn.Module, width: int, rank: int, seed: int):
        super().__init__(lora.LoRA(width, width, rank))
        self.lora.reset(torch.Generator().manual_seed(seed))
        self.part = part

    A = property(lambda self: self.lora.A)
    B = property(lambda self: self.lora.B)


def attach(model: tm.Model, rank: int, seed: int) -> LoRA:
    (path,) = find_sites(model, ["mlp"])
    unit = LoRA(model.get_submodule(path), model.config.hidden_size, rank, seed)
    put_in(model, {path: unit})
    return unit


def detach(model: tm.Model, unit: LoRA) -> None:
    take_out(model)


# --- Rung 3: the loss of a token ------------------------------------------------------------------


def target_logits(model: tm.Model, prompt_ids: list[int], target_ids: list[int]) -> Tensor:
    batch = batch_of(prompt_ids, target_ids)
    return model(batch.ids)[batch.rows]


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def plain(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    return token_losses(logits, targets).mean()


# --- Rung 4: a training loop ----------------------------------------------------------------------


def write(
    model: tm.Model,
    unit: nn.Module,
    prompt_ids: list[int],
    target_ids: list[int],
    steps: int,
    lr: float = 0.1,
    objective=plain,
) -> list[float]:
    targets, parameters, means = torch.tensor(target_ids), [unit.A, unit.B], []
    stack = [p.detach()[None] for p in parameters]  # a stack of one unit, in the same memory
    optimizer, limit = AdamW(stack), torch.ones(1)
    for step in range(steps):
        logits = target_logits(model, prompt_ids, target_ids)
        means.append(token_losses(logits.detach(), targets).mean().item())
        gradients = torch.autograd.grad(objective(logits, targets, step / steps), parameters)
        for p, gradient in zip(stack, gradients, strict=True):
            p.grad = gradient[None]
        clip_gradients(stack, limit)
        optimizer.step(torch.tensor([lr * (1 - step / steps)]))
    return means


# --- Rung 5: decode and judge ---------------------------------------------------------------------


def greedy(model: tm.Model, prompt_ids: list[int], count: int) -> list[int]:
    return tm.greedy(model, torch.tensor([prompt_ids]), count)[0].tolist()


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    return margins_of(logits.detach().clone(), targets)  # which writes to the logits for a moment


def judge(model: tm.Model, prompt_ids: list[int], target_ids: list[int]) -> dict:
    verdict = tm.judge(model, tm.Memory(prompt_ids, target_ids))
    return {
        "loss": verdict.loss,
        "lowest_p": verdict.min_probability,
        "certified": verdict.certified,
        "lowest_margin": verdict.min_margin,
        "recited": verdict.verbatim,
        "decoded": verdict.decoded,
    }


RUNGS: dict[int, dict[str, object]] = {
    1: {"draw_tokens": draw_tokens, "inputs_and_targets": inputs_and_targets},
    2: {"LoRA": LoRA, "attach": attach, "detach": detach},
    3: {"target_logits": target_logits, "token_losses": token_losses, "plain": plain},
    4: {"write": write},
    5: {"greedy": greedy, "margins": margins, "judge": judge},
}
