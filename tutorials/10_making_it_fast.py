"""Lesson 10. Making it fast

You need       lesson 4, and python tutorials/10_making_it_fast.py
You will see   a prediction from counting multiplications, and the clock beside it; the layers that a step
               still computes; eight units trained for the price of seven; and the same losses, every time
Explains       tinymem/training/prefix.py, tinymem/training/loss.py, tinymem/training/train.py
Time           20 seconds to run, 60 minutes with the exercise
"""

# %% Idea
# The base is frozen, so whatever lies below the unit gives the same numbers in every step: compute it
# once. The base's own output at the unit's layer k is a constant too. What remains of a step is
#
#     h + x A B     with h and x from the cache
#     the layers above k, and the head, forward
#     the same backward, for activations only: no gradient of a frozen weight is ever needed
#
# And runs of one length can share that: their hidden states are stacked, and each matrix product becomes
# a larger one, which a processor does at a better rate. A shortcut is only one if the losses stay the
# same.

# %% Shapes
#   h [1, T, d] leaving layer k without the unit     x [1, T, d] entering its MLP      (computed once)
#   K units side by side: h [K, T, d], A [K, d, r], B [K, r, d]

# %% Code
import os
import time

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.base.model import Linear
from tinymem.data.batch import Batch
from tinymem.training.recipe import auto_lr
from tinymem.training.train import Trainer
from tinymem.unit.sites import default_layer

FAST = "TINYMEM_FAST" in os.environ  # a quick look: fewer steps, rougher numbers
ROUNDS, EACH, TOGETHER, STEPS = (2, 2, 4, 20) if FAST else (5, 10, 8, 50)

model, tokenizer = tm.load("tiny")
memory = tm.random_memory(tokenizer, 256)
layer, count = default_layer(model), model.config.num_layers

# %% Run: a prediction
# One multiplication for each weight and position, forward; one more on the way back, for the gradient of
# what went in, in everything that lies above the unit.
weights = [
    sum(m.weight.numel() for m in block.modules() if isinstance(m, Linear))
    for block in model.layers
]
head, above = model.lm_head.weight.numel(), sum(weights[layer + 1 :])
whole, cached = sum(weights) + head + above + head, 2 * (above + head)
print(f"unit in layer {layer} of 0 to {count - 1}; multiplications for each position of a step:")
print(f"  everything, each time  {whole:10,}")
print(
    f"  with the cache         {cached:10,}   so it should be about {whole / cached:.2f} times as fast"
)

# %% Run: the plain step, and the library's
ids = torch.tensor([memory.prompt_ids + memory.target_ids])
first, targets = len(memory.prompt_ids) - 1, torch.tensor(memory.target_ids)
ran: list[int] = []
for number, block in enumerate(model.layers):
    block.register_forward_hook(lambda *_, n=number: ran.append(n))


class Plain:
    """Lesson 4's loop: all layers, all positions, every step."""

    def __init__(self):
        self.unit = tm.Unit.create(model, 8, seed=0)
        self.optimizer = torch.optim.AdamW(
            self.unit.parameters(), lr=auto_lr(model), weight_decay=0.0
        )

    def step(self) -> float:
        self.unit.attach(model)
        loss = torch.nn.functional.cross_entropy(model(ids[:, :-1])[0, first:], targets)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.unit.parameters(), 1.0)
        self.optimizer.step()
        self.unit.detach()
        return loss.item()


class Cached:
    """The library's loop, for so many units side by side."""

    def __init__(self, units: int):
        batch = Batch([memory] * units, model.config.context, model.device)
        recipes = [tm.Recipe(rank=8, seed=seed) for seed in range(units)]
        fresh = [tm.Unit.create(model, 8, seed=seed) for seed in range(units)]
        self.trainer = Trainer(model, fresh, batch, recipes, [auto_lr(model)] * units)
        self.trainer.stack.detach()

    def step(self) -> float:
        self.trainer.stack.attach(model)
        loss = self.trainer.step()[0].item()
        self.trainer.stack.detach()
        return loss


runs = {"plain": Plain(), "cached": Cached(1), f"cached, {TOGETHER} units": Cached(TOGETHER)}
losses, layers = {}, {}
for name, run in runs.items():
    ran.clear()
    losses[name] = [run.step() for _ in range(STEPS)]
    layers[name] = sorted(set(ran))
    apart = max(abs(a - b) for a, b in zip(losses["plain"], losses[name], strict=True))
    print(
        f"{name:16} layers computed {layers[name]}, losses of {STEPS} steps differ by at most {apart:.0e}"
    )
    assert apart < 1e-3
assert layers["plain"] == list(range(count)) and layers["cached"] == list(range(layer + 1, count))

# %% Run: the clock
# Peers take turns, and the median counts, so that a machine that slows down does so for all of them.
times: dict[str, list[float]] = {name: [] for name in runs}
for _ in range(ROUNDS):
    for name, run in runs.items():
        start = time.perf_counter()
        for _ in range(EACH):
            run.step()
        times[name].append(1000 * (time.perf_counter() - start) / EACH)
medians = {name: sorted(taken)[ROUNDS // 2] for name, taken in times.items()}
each = medians | {f"cached, {TOGETHER} units": medians[f"cached, {TOGETHER} units"] / TOGETHER}
for name, ms in each.items():
    print(
        f"{name:16} {ms:6.1f} ms for each unit's step, {each['plain'] / ms:.2f} times as fast as plain"
    )

fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
colours = ["#666666", "#0072B2", "#009E73"]
bars = ax.barh(list(each), list(each.values()), color=colours)
ax.bar_label(bars, [f" {ms:.1f} ms, ×{each['plain'] / ms:.1f}" for ms in each.values()])
ax.set(xlabel="time for one unit's step (ms), 256 tokens", xlim=(0, 1.3 * each["plain"]))
ax.invert_yaxis()
fig.savefig("10_making_it_fast.png", dpi=110)

# %% Run: under memft-ot a step gets cheaper as tokens cross the threshold
# A token with weight 0 has no gradient, and so its row of the head needs no way back. (Once no token is
# below one half, all weigh 1 again: lesson 6.)
result = tm.memorize(model, memory, rank=16, method="memft-ot", steps=60 if FAST else 300)
rows = [1 - share if share < 1 else 1.0 for share in result.training.certified]
print(
    f"memft-ot: rows of the head that go back: {rows[0]:.0%} at first, {sum(rows) / len(rows):.0%} on average"
)
assert rows[0] == 1 and sum(rows) / len(rows) < (1 if FAST else 0.6)

# %% What you should see
# The plain step runs layers 0 to 3, the cached one layer 3 alone; the losses are the same but for
# rounding. The clock comes close to the prediction, from either side: norms, activations, attention's own
# products and the softmax are not counted, neither in what is saved nor in what is left. Eight units of
# 256 tokens side by side cost a seventh less than one after another; where memories are short, and a step
# is mostly overhead, more is gained. `python -m tests.benchmarks` compares with other tools and with the
# floor.

# %% Exercise
# Write `logits_from_cache(model, layer, h, x, A, B)`. Then:
#
#     pytest tutorials -m ex10
