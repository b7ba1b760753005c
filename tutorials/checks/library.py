"""The rungs of the ladder, taken from tinymem: thin adapters with the contracts of mymem.py.

`--from-library 1-3` puts the functions of these rungs in the place of the student's.
"""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tinymem as tm
from tinymem.data.batch import Batch
from tinymem.experiment.rows import append_row, read_rows
from tinymem.law import power
from tinymem.law.cells import cells_of
from tinymem.law.logistic import probability, surface
from tinymem.law.offset import solve
from tinymem.training import margin as margin_, memft
from tinymem.training.adamw import AdamW, clip_gradients
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
    part = unit.part
    take_out(model)
    unit.part = part


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
    return margin_.margins(
        logits.detach().clone(), targets
    )  # which writes to the logits for a moment


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


# --- Rung 6: MemFT and margin ---------------------------------------------------------------------


def memft_ot_weights(losses: Tensor, threshold: float = 0.5) -> Tensor:
    return memft.memft_ot_weights(losses.detach(), threshold)


def memft_ot(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    losses = token_losses(logits, targets)
    return memft.weighted_mean(losses, memft_ot_weights(losses))


def temperature(progress: float) -> float:
    return float(margin_.temperature(progress, torch.tensor(margin_.END, dtype=torch.float64)))


def margin(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    T = temperature(progress)
    return T * token_losses(logits / T, targets).mean()


# --- Rung 7: a sweep ------------------------------------------------------------------------------


def run_cell(
    model: tm.Model, tokenizer, rank: int, length: int, seed: int, steps: int, objective=plain
) -> dict:
    memory = tm.random_memory(tokenizer, length, seed=seed, chat=False)
    prompt, target = list(memory.prompt_ids), list(memory.target_ids)
    unit = attach(model, rank, seed)
    try:
        base = judge(model, prompt, target)
        write(model, unit, prompt, target, steps, objective=objective)
        final = judge(model, prompt, target)
    finally:
        detach(model, unit)
    cell = {"rank": rank, "length": length, "seed": seed, "parameters": 2 * unit.A.numel()}
    losses = {"base_loss": base["loss"], "final_loss": final["loss"]}
    return cell | losses | {"recited": final["recited"]}


def sweep(path: Path, ranks: list[int], lengths: list[int], seeds: list[int], run) -> list[dict]:
    rows = read_rows(path)[0] if path.exists() else []
    known = {(row["rank"], row["length"], row["seed"]): row for row in rows}
    cells = list(itertools.product(ranks, lengths, seeds))
    for cell in cells:
        if cell not in known:
            known[cell] = run(*cell)
            append_row(path, known[cell])
    return [{k: v for k, v in known[cell].items() if k != "_where"} for cell in cells]


# --- Rung 8: the law ------------------------------------------------------------------------------


def unsaturated(rows: list[dict]) -> tuple[np.ndarray, ...]:
    """Ranks, lengths and ΔL of the rows that count."""
    counted = [row for row in rows if row["final_loss"] > power.LN2]
    ranks, lengths = (np.array([row[name] for row in counted]) for name in ("rank", "length"))
    return ranks, lengths, np.array([row["base_loss"] - row["final_loss"] for row in counted])


def fit_law(rows: list[dict]) -> tuple[float, float, float]:
    law = tm.fit_law(*unsaturated(rows), offset=False, draws=2)
    return law.C, law.alpha, law.beta


def bootstrap(rows: list[dict], draws: int, seed: int) -> dict[str, tuple[float, float]]:
    *runs, deltas = unsaturated(rows)
    ranks, lengths, seeds, cell = cells_of(*runs)
    log_deltas = np.bincount(cell, np.log(deltas)) / seeds
    columns = np.stack([np.ones(len(ranks)), np.log(ranks), -np.log(lengths)], axis=1)
    random, times = np.random.default_rng(seed), []
    while len(times) < draws:  # how often each cell is drawn
        drawn = np.bincount(random.integers(len(ranks), size=len(ranks)), minlength=len(ranks))
        if np.linalg.matrix_rank(columns[drawn > 0]) == 3:
            times.append(drawn * seeds)
    fits, _ = solve(columns, np.tile(log_deltas, (draws, 1)), np.array(times), False, True)
    names = {"alpha": 1, "beta": 2}
    return {name: power.middle_95(fits[:, column]) for name, column in names.items()}


# --- Rung 9: a plan -------------------------------------------------------------------------------


def rank_for_loss(rows: list[dict], length: int, loss: float = 0.6931) -> float:
    base = float(np.mean([row["base_loss"] for row in rows]))
    return float(power.PowerLaw(*fit_law(rows), 0.0).rank_for(length, base - loss))


def recall_curve(rows: list[dict]) -> tuple[float, float]:
    loads = np.log([row["length"] / row["parameters"] for row in rows])
    found = surface(loads, np.array([row["recited"] for row in rows], float))
    allowed = (found.log_s >= math.log(0.5)) & (found.log_s <= math.log(20))
    likelihood = np.where(allowed, found.likelihood, -np.inf)
    middle, s = np.unravel_index(likelihood.argmax(), likelihood.shape)
    return math.exp(found.middles[middle]), math.exp(found.log_s[s])


def plan_rank(rows: list[dict], length: int, chance: float = 0.9) -> int:
    half, s = recall_curve(rows)
    each = rows[0]["parameters"] / rows[0]["rank"]
    rank = 1
    while probability(math.log(length / (rank * each)), math.log(half), s) < chance:
        rank += 1
    return rank


RUNGS: dict[int, dict[str, object]] = {
    1: {"draw_tokens": draw_tokens, "inputs_and_targets": inputs_and_targets},
    2: {"LoRA": LoRA, "attach": attach, "detach": detach},
    3: {"target_logits": target_logits, "token_losses": token_losses, "plain": plain},
    4: {"write": write},
    5: {"greedy": greedy, "margins": margins, "judge": judge},
    6: {
        "memft_ot_weights": memft_ot_weights,
        "memft_ot": memft_ot,
        "temperature": temperature,
        "margin": margin,
    },
    7: {"run_cell": run_cell, "sweep": sweep},
    8: {"fit_law": fit_law, "bootstrap": bootstrap},
    9: {"rank_for_loss": rank_for_loss, "recall_curve": recall_curve, "plan_rank": plan_rank},
}
