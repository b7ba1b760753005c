"""The key: one file that answers every rung of tutorials/mymem.py and every exercise.

`pytest tutorials --answers=tests/answer_key.py` gives all points. The rungs and the stretch tasks
are written in plain torch and take nothing of tinymem but `tm.load`. The exercises stand below them
and use them; some of their answers are taken from the library.
"""

import itertools
import math
import random

import torch
from torch import Tensor, nn

import tinymem as tm
from tinymem.base.rope import rotate as half_split

LN2 = math.log(2)


# --- Rung 1: tokens and targets -------------------------------------------------------------------


def draw_tokens(plain_ids: list[int], count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(plain_ids, k=count)


def inputs_and_targets(
    prompt_ids: list[int], target_ids: list[int]
) -> tuple[list[int], list[int], list[int]]:
    ids = prompt_ids + target_ids[:-1]
    return ids, list(range(len(prompt_ids) - 1, len(ids))), target_ids


# --- Rung 2: the memory unit ----------------------------------------------------------------------


class LoRA(nn.Module):
    def __init__(self, part: nn.Module, width: int, rank: int, seed: int):
        super().__init__()
        generator, bound = torch.Generator().manual_seed(seed), 1 / math.sqrt(rank)
        self.part = part
        self.A = nn.Parameter(torch.empty(width, rank).uniform_(-bound, bound, generator=generator))
        self.B = nn.Parameter(torch.zeros(rank, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) + x @ self.A @ self.B


def attach(model: tm.Model, rank: int, seed: int) -> LoRA:
    layer = model.requires_grad_(False).layers[model.config.num_layers * 2 // 3]
    layer.mlp = unit = LoRA(layer.mlp, model.config.hidden_size, rank, seed)
    return unit


def detach(model: tm.Model, unit: LoRA) -> None:
    for layer in model.layers:
        if layer.mlp is unit:
            layer.mlp = unit.part


# --- Rung 3: the loss of a token ------------------------------------------------------------------


def target_logits(model: tm.Model, prompt_ids: list[int], target_ids: list[int]) -> Tensor:
    ids, rows, _ = inputs_and_targets(prompt_ids, target_ids)
    return model(torch.tensor([ids]))[0, rows]


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    shifted = logits - logits.max(-1, keepdim=True).values
    return shifted.exp().sum(-1).log() - shifted[torch.arange(len(targets)), targets]


def plain(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    return token_losses(logits, targets).mean()


# --- Rung 4: a training loop ----------------------------------------------------------------------


def write(
    model: tm.Model,
    unit: LoRA,
    prompt_ids: list[int],
    target_ids: list[int],
    steps: int,
    lr: float = 0.1,
    objective=plain,
) -> list[float]:
    targets, means = torch.tensor(target_ids), []
    optimizer = torch.optim.AdamW([unit.A, unit.B], lr, weight_decay=0)
    for step in range(steps):
        logits = target_logits(model, prompt_ids, target_ids)
        means.append(token_losses(logits.detach(), targets).mean().item())
        optimizer.zero_grad()
        objective(logits, targets, step / steps).backward()
        nn.utils.clip_grad_norm_([unit.A, unit.B], 1.0)
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.step()
    return means


# --- Rung 5: decode and judge ---------------------------------------------------------------------


@torch.no_grad()
def greedy(model: tm.Model, prompt_ids: list[int], count: int) -> list[int]:
    ids = list(prompt_ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt_ids) :]


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    places = targets[:, None]
    others = logits.scatter(-1, places, -math.inf).max(-1).values
    return logits.gather(-1, places)[:, 0] - others


@torch.no_grad()
def judge(model: tm.Model, prompt_ids: list[int], target_ids: list[int]) -> dict:
    logits, targets = target_logits(model, prompt_ids, target_ids), torch.tensor(target_ids)
    losses, lowest_margin = token_losses(logits, targets), margins(logits, targets).min().item()
    lowest_p = (-losses).exp().min().item()
    return {
        "loss": losses.mean().item(),
        "lowest_p": lowest_p,
        "certified": lowest_p > 0.5,
        "lowest_margin": lowest_margin,
        "recited": lowest_margin > 0,
        "decoded": greedy(model, prompt_ids, len(target_ids)),
    }


# --- Rung 6: MemFT and margin ---------------------------------------------------------------------


# --- Rung 7: a sweep ------------------------------------------------------------------------------


# --- Rung 8: the law ------------------------------------------------------------------------------


# --- Rung 9: a plan -------------------------------------------------------------------------------


# --- Stretch tasks --------------------------------------------------------------------------------


# --- The exercises --------------------------------------------------------------------------------


def rotate(x, positions, theta=10_000.0):
    frequencies = theta ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angles = torch.outer(positions.float(), frequencies).repeat(1, 2)
    return half_split(x, angles.cos(), angles.sin())


def certified(logits, targets):
    return bool((token_losses(logits, targets) < LN2).all())


def verbatim(logits, targets):
    return torch.equal(logits.argmax(-1), targets)


def recalled_below_one_half(tokenizer):
    """Training stops early: the lowest p is 0.42, and p exceeds the next best by at least 0.2."""
    return tm.random_memory(tokenizer, 16, seed=3), dict(rank=2, steps=150)


def check_sweep(sweep, folder):
    def sweep_of(name, *grid):
        rows = sweep(folder / name, *grid)
        found = sorted((row["rank"], row["length"], row["seed"]) for row in rows)
        assert found == sorted(itertools.product(*grid)), f"{grid} gave the cells {found}"
        return {(row["rank"], row["length"], row["seed"]): row for row in rows}

    kept = ("base_loss", "final_loss", "wall_seconds")
    first = sweep_of("grid", [1, 2], [4, 6], [0])
    more = sweep_of("grid", [1, 2], [4, 6], [0, 1])
    for cell, row in first.items():
        assert all(more[cell][name] == row[name] for name in kept), f"{cell} was trained again"
    for rank, length, _ in first:
        two = [more[rank, length, seed]["base_loss"] for seed in (0, 1)]
        assert two[0] != two[1], "two seeds have the same memory"
    for cell, row in sweep_of("part", [2], [6], [1]).items():
        apart = abs(row["final_loss"] - more[cell]["final_loss"])
        assert apart < 1e-3, f"{cell} depends on the other cells"


def stored_bits(base_loss, loss, length):
    return (base_loss - loss) * length / LN2


def memorized_bits(entropy, loss, length):
    return max(0.0, entropy - loss) * length / LN2


def logits_from_cache(model, layer, h, x, A, B):
    return model.head(model.run(h + x @ A @ B, layer + 1))


MY_TEXT = (
    "In 1969 a computer at UCLA sent the letters L and O to Stanford; then the network crashed. "
    "Packet switching, TCP/IP and Ethernet followed."
)  # 60 tokens
MY_RANK = 5
