"""The key: one file that answers every rung of tutorials/mymem.py and every exercise.

`pytest tutorials --answers=tests/answer_key.py` gives all points. The rungs and the stretch tasks
are written in plain torch and take nothing of tinymem but `tm.load`. The exercises stand below
them. The capstone is that of student number 5.
"""

import itertools
import json
import math
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import tinymem as tm

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


def memft_ot_weights(losses, threshold=0.5):
    below = losses.detach() > -math.log(threshold)
    return (below if below.any() else ~below).float()


def memft_ot(logits, targets, progress):
    losses = token_losses(logits, targets)
    weights = memft_ot_weights(losses)
    return (weights * losses).sum() / weights.sum()


def temperature(progress):
    return 0.01 ** (progress**2)


def margin(logits, targets, progress):
    T = temperature(progress)
    return T * token_losses(logits / T, targets).mean()


# --- Rung 7: a sweep ------------------------------------------------------------------------------


def run_cell(model, tokenizer, rank, length, seed, steps, objective=plain):
    prompt = tokenizer.encode("Recite the memory word for word:")
    target = draw_tokens(tokenizer.plain_ids, length, seed)
    unit = attach(model, rank, seed)
    try:
        base = judge(model, prompt, target)
        write(model, unit, prompt, target, steps, objective=objective)
        final = judge(model, prompt, target)
    finally:
        detach(model, unit)
    return {
        "rank": rank,
        "length": length,
        "seed": seed,
        "parameters": unit.A.numel() + unit.B.numel(),
        "base_loss": base["loss"],
        "final_loss": final["loss"],
        "recited": final["recited"],
    }


def sweep(path, ranks, lengths, seeds, run):
    path = Path(path)
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if cut := len(lines[-1]):  # what a kill has left of a row
        with path.open("rb+") as file:
            file.seek(-cut, 2)
            file.truncate()
    rows = [json.loads(line) for line in lines[:-1]]
    known = {(row["rank"], row["length"], row["seed"]): row for row in rows}
    cells = list(itertools.product(ranks, lengths, seeds))
    for cell in cells:
        if cell not in known:
            known[cell] = run(*cell)
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(known[cell]) + "\n")
    return [known[cell] for cell in cells]


# --- Rung 8: the law ------------------------------------------------------------------------------


def fit_law(rows):
    rows = [row for row in rows if row["final_loss"] > LN2]
    y = np.log([row["base_loss"] - row["final_loss"] for row in rows])
    ranks, lengths = (np.array([row[name] for row in rows]) for name in ("rank", "length"))
    X = np.stack([np.ones(len(rows)), np.log(ranks), -np.log(lengths)], axis=1)
    log_c, alpha, beta = np.linalg.solve(X.T @ X, X.T @ y).tolist()
    return math.exp(log_c), alpha, beta


def bootstrap(rows, draws, seed):
    cells = {}
    for row in rows:
        if row["final_loss"] > LN2:
            cells.setdefault((row["rank"], row["length"]), []).append(row)
    names, random, fits = list(cells), np.random.default_rng(seed), []
    while len(fits) < draws:
        drawn = [names[i] for i in random.integers(len(names), size=len(names))]
        X = [[1, math.log(cell[0]), math.log(cell[1])] for cell in drawn]
        if np.linalg.matrix_rank(X) == 3:
            fits.append(fit_law([row for name in drawn for row in cells[name]])[1:])
    low, high = np.quantile(fits, [0.025, 0.975], axis=0).tolist()
    return {"alpha": (low[0], high[0]), "beta": (low[1], high[1])}


# --- Rung 9: a plan -------------------------------------------------------------------------------


def rank_for_loss(rows, length, loss=0.6931):
    C, alpha, beta = fit_law(rows)
    base = sum(row["base_loss"] for row in rows) / len(rows)
    return ((base - loss) / C * length**beta) ** (1 / alpha)


def recall_curve(rows):
    load = np.log([row["length"] / row["parameters"] for row in rows])
    hit = np.array([row["recited"] for row in rows])
    s = np.geomspace(0.5, 20, 100)[:, None]

    def best(middles):
        z = s[..., None] * (load - middles[:, None])  # [s, middles, rows]
        likelihood = -np.logaddexp(0, np.where(hit, z, -z)).sum(-1)
        i, j = np.unravel_index(likelihood.argmax(), likelihood.shape)
        return middles[j], s[i, 0]

    wide = np.linspace(load.min(), load.max(), 60)
    middle, _ = best(wide)
    step = wide[1] - wide[0]
    near = np.linspace(middle - step, middle + step, 31).clip(load.min(), load.max())
    middle, steepness = best(near)
    return math.exp(middle), float(steepness)


def plan_rank(rows, length, chance=0.9):
    half, s = recall_curve(rows)
    load = half * (1 / chance - 1) ** (1 / s)
    return math.ceil(length / load / (rows[0]["parameters"] / rows[0]["rank"]))


# --- Stretch tasks --------------------------------------------------------------------------------


def save_bfloat16(unit, path):
    save_file({name: getattr(unit, name).detach().bfloat16() for name in "AB"}, path)


def load_bfloat16(model, path):
    saved = load_file(path)
    unit = attach(model, saved["A"].shape[1], seed=0)
    for name in "AB":
        getattr(unit, name).data.copy_(saved[name])
    return unit


class Beside(nn.Module):
    """Several units beside one part: unit k sees sequence k of the batch."""

    def __init__(self, units):
        super().__init__()
        self.units = nn.ModuleList(units)

    def forward(self, x):
        added = [one @ unit.A @ unit.B for one, unit in zip(x, self.units, strict=True)]
        return self.units[0].part(x) + torch.stack(added)


def write_ranks(model, tokenizer, ranks, length, seed, steps):
    prompt = tokenizer.encode("Recite the memory word for word:")
    target = draw_tokens(tokenizer.plain_ids, length, seed)
    ids, rows, targets = (torch.tensor(one) for one in inputs_and_targets(prompt, target))
    model.requires_grad_(False)
    layer = model.layers[model.config.num_layers * 2 // 3]
    mlp, width = layer.mlp, model.config.hidden_size
    units = [LoRA(mlp, width, rank, seed) for rank in ranks]
    layer.mlp = Beside(units)
    optimizer = torch.optim.AdamW([p for u in units for p in (u.A, u.B)], 0.1, weight_decay=0)

    def losses_and_margins():
        logits = model(ids.repeat(len(ranks), 1))[:, rows]
        losses = torch.stack([token_losses(one, targets).mean() for one in logits])
        return losses, [margins(one.detach(), targets).min().item() for one in logits]

    try:
        with torch.no_grad():
            base, _ = losses_and_margins()
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
            losses, _ = losses_and_margins()
            optimizer.zero_grad()
            losses.sum().backward()
            for unit in units:
                nn.utils.clip_grad_norm_([unit.A, unit.B], 1.0)
            optimizer.step()
        with torch.no_grad():
            losses, lowest = losses_and_margins()
    finally:
        layer.mlp = mlp
    return [
        {
            "rank": rank,
            "length": length,
            "seed": seed,
            "parameters": 2 * width * rank,
            "base_loss": base[k].item(),
            "final_loss": losses[k].item(),
            "recited": lowest[k] > 0,
        }
        for k, rank in enumerate(ranks)
    ]


def better_schedule(progress):
    return 0.05 ** (progress**2), 0.15 * min(1, (1 - progress) / 0.3)


def attach_attention(model, rank, seed):
    model.requires_grad_(False)
    attention = model.layers[model.config.num_layers * 2 // 3].self_attn
    attention.o_proj = LoRA(attention.o_proj, model.config.hidden_size, rank, seed)
    return attention.o_proj


# --- Exercise 2: attention, and rotary positions --------------------------------------------------


def attention(q, k, v):
    later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
    scores = (q @ k.T / math.sqrt(q.shape[1])).masked_fill(later, -math.inf)
    return scores.softmax(-1) @ v


def rotate(x, positions, theta=10_000.0):
    half = x.shape[-1] // 2
    angles = torch.outer(positions.float(), theta ** (-torch.arange(half) / half))
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)


# --- Exercise 5: a counter-example ----------------------------------------------------------------


def recalled_below_one_half(model, memory):
    """Bisection over the steps, in their logarithm: too few do not recite, too many certify."""
    for rank in (3, 2, 4):
        few, many = 20, 400
        for _ in range(5):
            options = {"rank": rank, "steps": round(math.sqrt(few * many))}
            report = tm.memorize(model, memory, **options).report
            if report["min_margin"] < 0.02:
                few = options["steps"]
            elif report["min_probability"] > 0.48:
                many = options["steps"]
            else:
                return options
    return options


# --- Exercise 7: a test of a sweep ----------------------------------------------------------------


def check_sweep(sweep, folder):
    def sweep_of(name, *grid):
        rows = sweep(folder / name, *grid)
        found = sorted((row["rank"], row["length"], row["seed"]) for row in rows)
        assert found == sorted(itertools.product(*grid)), f"{grid} gave the cells {found}"
        return {(row["rank"], row["length"], row["seed"]): row for row in rows}

    # One grid, another grid, and both: the cells of the first two must come back as they were.
    parts = sweep_of("grid", [1, 2], [4, 6], [0]) | sweep_of("grid", [1, 2], [4, 6], [1])
    rows = sweep_of("grid", [1, 2], [4, 6], [0, 1])
    for cell, row in parts.items():
        for name in ("base_loss", "final_loss", "wall_seconds"):
            assert rows[cell][name] == row[name], f"{cell} was trained again"
    for rank, length in itertools.product([1, 2], [4, 6]):
        base = [rows[rank, length, seed]["base_loss"] for seed in (0, 1)]
        assert base[0] != base[1], "two seeds have the same memory"
        assert base[0] == rows[1, length, 0]["base_loss"], "the base loss depends on the rank"
    for cell, row in sweep_of("alone", [2], [6], [1]).items():
        apart = abs(row["final_loss"] - rows[cell]["final_loss"])
        assert apart < 1e-3, f"{cell} depends on the other cells"


# --- Exercise 9: bits -----------------------------------------------------------------------------


def stored_bits(base_loss, loss, length):
    return (base_loss - loss) * length / LN2


def memorized_bits(entropy, loss, length):
    return max(0.0, entropy - loss) * length / LN2


def bits_of(report):
    if report["entropy"] is None:
        return None
    loss = 0.0 if report["recall_exact"] else report["final_loss"]
    return memorized_bits(report["entropy"], loss, report["length"])


# --- Exercise 11: logits from cached activations --------------------------------------------------


def logits_from_cache(model, layer, h, x, A, B):
    return model.head(model.run(h + x @ A @ B, layer + 1))


# --- Exercise 12: the capstone --------------------------------------------------------------------

MY_NUMBER = 5  # 75 tokens
# From 18 runs of 24, 40 and 56 random tokens at ranks 1 to 3, tm.recite_rank gives rank 3 a chance
# of 66 %, and rank 4 of 92 %. A letter of common words is easier, so rank 2 or 3 should do.
MY_PREDICTION = {"load": 0.049, "rank": 3, "low": 2, "high": 3}
MY_MEASUREMENT = {1: 0, 2: 3}
MY_MISS = {
    "ratio": 1.5,
    "base_loss": 4.70,
    "random_base_loss": 12.67,
    "control": 0,
    "weakest": 50,
    "margin": -0.59,
    "because": "chance",
}
