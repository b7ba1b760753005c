"""A hand-in without any work: constants, and what was given.

test_rungs.py and test_exercises.py grade it, and hold that it earns nearly nothing. Some answers
are drawn or called as they should be, so that they get as far as possible.
"""

import torch
from torch import nn


def draw_tokens(plain_ids, count, seed):
    return [seed] * count


def inputs_and_targets(prompt_ids, target_ids):
    return [], [], []


class LoRA(nn.Module):
    def __init__(self, part, width, rank, seed):
        super().__init__()
        self.part = part
        self.A = nn.Parameter(torch.zeros(width, rank))
        self.B = nn.Parameter(torch.zeros(rank, width))

    def forward(self, x):
        return self.part(x)


def attach(model, rank, seed):
    return LoRA(model.layers[0].mlp, model.config.hidden_size, rank, seed)


def detach(model, unit):
    pass


def target_logits(model, prompt_ids, target_ids):
    return model(torch.tensor([prompt_ids]))[0]


def token_losses(logits, targets):
    return (logits * 0).sum(-1)


def plain(logits, targets, progress):
    return token_losses(logits, targets).mean()


def write(model, unit, prompt_ids, target_ids, steps, lr=0.1, objective=plain):
    logits = model(torch.tensor([prompt_ids + target_ids[:-1]]))[0, len(prompt_ids) - 1 :]
    targets = torch.tensor(target_ids)
    for step in range(steps):
        objective(logits, targets, step / steps)
    unit.B.data += lr
    return [nn.functional.cross_entropy(logits, targets).item()] * steps


def greedy(model, prompt_ids, count):
    return [0] * count


def margins(logits, targets):
    return torch.zeros(len(targets))


def judge(model, prompt_ids, target_ids):
    numbers = {"loss": 0.0, "lowest_p": 0.0, "lowest_margin": 0.0}
    return {**numbers, "certified": False, "recited": False, "decoded": target_ids}


def memft_ot_weights(losses, threshold=0.5):
    return torch.ones(len(losses))


def memft_ot(logits, targets, progress):
    return nn.functional.cross_entropy(logits, targets)


def temperature(progress):
    return 1.0


def margin(logits, targets, progress):
    return nn.functional.cross_entropy(logits, targets)


def run_cell(model, tokenizer, rank, length, seed, steps, objective=plain):
    for _ in range(steps):
        objective(torch.zeros(2, 2, requires_grad=True), torch.zeros(2).long(), 0)
    row = {"rank": rank, "length": length, "seed": seed, "parameters": 512 * rank}
    return {**row, "base_loss": 0.0, "final_loss": 0.0, "recited": False}


def sweep(path, ranks, lengths, seeds, run):
    return []


def fit_law(rows):
    return 1.0, 1.0, 1.0


def bootstrap(rows, draws, seed):
    return {"alpha": (-9.0 - seed, 9.0), "beta": (-9.0 - seed, 9.0)}


def rank_for_loss(rows, length, loss=0.6931):
    return 1.0


def recall_curve(rows):
    return 1e9, 20.0


def plan_rank(rows, length, chance=0.9):
    return 1


# --- Exercises ------------------------------------------------------------------------------------


def attention(q, k, v):
    return torch.stack([v[: t + 1].mean(0) for t in range(len(k) - len(q), len(k))])


def rotate(x, positions, theta=10_000.0):
    return x


def recalled_below_one_half(model, memory):
    return {"rank": 3, "steps": 100}


def check_sweep(sweep, folder):
    pass


def stored_bits(base_loss, loss, length):
    return 0.0


def memorized_bits(entropy, loss, length):
    return 0.0


def bits_of(report):
    return None


def logits_from_cache(model, layer, h, x, A, B):
    return model.head(model.run(h, layer + 1))
