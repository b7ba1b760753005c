# %% [markdown]
# # 11. Making it fast
#
# **Which parts of a training step are the same in every step, and how much time do they cost?**
#
# ![Layers 0 to 2 are computed once, and each step begins with what was kept of them](pictures/ideas/11.svg)
#
# The base model is frozen, so the layers below the unit give the same numbers in every step. They
# are computed once, and the step begins where the unit adds $x A B$. Gradients flow back to the
# unit and no further.
#
# - **You need:** [lesson 4](04_writing_a_memory.py)
# - **Time:** 15 seconds to run, 1.5 hours with the practice
# - **Read afterwards:** tinymem/training/prefix.py, tinymem/training/loss.py,
#   tinymem/training/trainer.py

# %% [markdown]
# ## Idea
#
# Let $k$ be the layer of the unit. Its output *without* the unit is also the same in every step. A
# step then consists of
#
# - $h + x A B$, where $h$ and $x$ were computed once and kept (*cached*);
# - the forward pass through the layers above $k$ and the head of the model;
# - the backward pass through the same layers, for *activations* only, the vectors that the layers
#   pass on: frozen weights need no gradient.
#
# Several runs of one length can share these layers. Their vectors are stacked, so that each matrix
# product becomes a larger one, which a processor computes more efficiently. Such a shortcut
# is only allowed if the losses stay the same.
#
# ## Shapes
#
# | symbol | shape | meaning |
# |---|---|---|
# | $h$ | [1, T, d] | the output of layer $k$ without the unit |
# | $x$ | [1, T, d] | the input of the MLP of layer $k$ |
# | $h$, $A$, $B$ of $K$ units | [K, T, d], [K, d, r], [K, r, d] | trained together |

# %%
import os
import time

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.base.model import Linear
from tinymem.data.batch import Batch
from tinymem.training.recipe import auto_lr
from tinymem.training.trainer import Trainer
from tinymem.unit.sites import default_layer

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
ROUNDS, CALLS, UNITS, STEPS = (2, 2, 4, 20) if FAST else (5, 10, 8, 50)

model, tokenizer = tm.load("tiny", device="cpu")
memory = tm.random_memory(tokenizer, 256)
layer, count = default_layer(model), model.config.num_layers

# %% [markdown]
# ## A prediction
#
# The forward pass takes one multiplication per weight and position. Above the unit, the backward
# pass takes one more, for the gradient of the layer's input.

# %%
sizes = [sum(m.weight.numel() for m in b.modules() if isinstance(m, Linear)) for b in model.layers]
head, above = model.lm_head.weight.numel(), sum(sizes[layer + 1 :])
whole, cached = sum(sizes) + head + above + head, 2 * (above + head)
print(f"the unit is in layer {layer} of layers 0 to {count - 1}; multiplications per position:")
print(f"  the plain step     {whole:10,}")
print(f"  with the cache     {cached:10,}   predicted speedup: {whole / cached:.2f}")

# %% [markdown]
# ## The plain step and the library's step
#
# A hook on each layer writes down which layers are computed. The three kinds of training start from
# the same unit (of the eight units, the first is compared), so their losses must agree.

# %%
ids = torch.tensor([memory.prompt_ids + memory.target_ids])
first, targets = len(memory.prompt_ids) - 1, torch.tensor(memory.target_ids)
computed: list[int] = []
for number, block in enumerate(model.layers):
    block.register_forward_hook(lambda *_, n=number: computed.append(n))


class Plain:
    """The loop of lesson 4, which computes all layers and all positions in every step."""

    def __init__(self):
        self.unit = tm.Unit.create(model, 8, seed=0)
        self.optimizer = torch.optim.AdamW(self.unit.parameters(), auto_lr(model), weight_decay=0.0)

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
    """The loop of the library, for several units that are trained together."""

    def __init__(self, units: int):
        batch = Batch([memory] * units, model.config.context, model.device)
        recipes = [tm.Recipe(rank=8, seed=seed) for seed in range(units)]
        fresh = [tm.Unit.create(model, 8, seed=seed) for seed in range(units)]
        self.trainer = Trainer(model, fresh, batch, recipes)
        self.trainer.stack.detach()

    def step(self) -> float:
        self.trainer.stack.attach(model)
        found = self.trainer.gradient()
        self.trainer.update()
        self.trainer.stack.detach()
        return found.mean[0].item()


together = f"cached, {UNITS} units"
runs = {"plain": Plain(), "cached": Cached(1), together: Cached(UNITS)}
losses, layers = {}, {}
for name, run in runs.items():
    computed.clear()
    with tm.bars() as bars:
        losses[name] = [run.step() for _ in bars.track(range(STEPS), name)]
    layers[name] = sorted(set(computed))
    apart = max(abs(a - b) for a, b in zip(losses["plain"], losses[name], strict=True))
    print(f"{name:16} computes the layers {layers[name]};", end=" ")
    print(f"over {STEPS} steps its losses differ from plain by at most {apart:.0e} nats")
    assert apart < 1e-3
assert layers["plain"] == list(range(count)) and layers["cached"] == list(range(layer + 1, count))

# %% [markdown]
# ## The measured speedup
#
# The three kinds of training are timed in turn, so that a change in the speed of the machine
# affects all of them. The median of the rounds is reported.

# %%
times: dict[str, list[float]] = {name: [] for name in runs}
with tm.bars() as bars:
    for _ in bars.track(range(ROUNDS), "rounds"):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                run.step()
            times[name].append(1000 * (time.perf_counter() - start) / CALLS)
each = {name: sorted(taken)[ROUNDS // 2] for name, taken in times.items()}
each[together] /= UNITS
for name, ms in each.items():
    print(f"{name:16} {ms:6.1f} ms per step of one unit, speedup {each['plain'] / ms:.2f}")

fig, ax = plt.subplots(figsize=(7, 2.8), layout="constrained")
bars = ax.barh(list(each), list(each.values()), color=["#666666", "#0072B2", "#009E73"])
ax.bar_label(bars, [f" {ms:.1f} ms, ×{each['plain'] / ms:.2f}" for ms in each.values()])
ax.set(xlabel="time for one step of one unit (ms), 256 tokens", xlim=(0, 1.3 * each["plain"]))
ax.invert_yaxis()
fig.savefig("11_making_it_fast.png", dpi=110)

# %% [markdown]
# ## MemFT needs fewer gradients when tokens are above the threshold
#
# A token of weight 0 needs no backward pass through the head. (When all tokens are above one half,
# they all have weight 1 again: lesson 6.)

# %%
steps = 60 if FAST else 300
with tm.bars() as bars:
    result = tm.memorize(model, memory, rank=16, method="memft-ot", steps=steps, progress=bars)
rows = [1 - share if share < 1 else 1.0 for share in result.training.certified]
print(f"memft-ot: {rows[0]:.0%} of the tokens need a backward pass through the head", end=" ")
print(f"in the first step, and {sum(rows) / len(rows):.0%} on average")
assert rows[0] == 1 and sum(rows) / len(rows) < (1 if FAST else 0.6)

# %% [markdown]
# ## What you should see
#
# The plain step computes layers 0 to 3, and the cached step computes layer 3 only. The losses are
# the same except for rounding errors. The measured speedup is close to the predicted one of 1.83,
# sometimes above and sometimes below it: the prediction leaves out norms, activation functions, the
# products inside attention and the softmax, which are in the saved part and in the rest. For a
# memory of this length, a unit that is trained together with others takes as long as alone or
# somewhat less. The gain is larger for short memories, where a step consists mostly of overhead.
#
# To compare tinymem with other tools, run `python -m tests.benchmarks` in the folder of the
# project.
#
# ## In three sentences
#
# The layers below a unit give the same numbers in every step, so they are computed once and the
# numbers are kept. On `tiny` they cost about 45 % of a step, as counting the multiplications
# predicts, and several units that are trained as one batch can share the rest. A shortcut is only
# right if the losses of every step stay the same.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | The base model is frozen, and only the unit is trained | tinymem/training/prefix.py | of layers 0 to 3, a step computes layer 3 only; predicted speedup 1.83 |
# | MemFT gives no weight to tokens above the threshold (Eq. 8) | tinymem/training/loss.py | 38% of the tokens need a backward pass through the head on average |
#
# ## Practice
#
# **Exercise 11**: write `logits_from_cache` in `tutorials/exercises.py`.
#
# ```sh
# pytest tutorials -m ex11
# python tutorials/hint.py ex11
# ```
#
# ## Further reading
#
# - [Chen et al. 2016](https://arxiv.org/abs/1604.06174): the opposite trade, where activations are
#   computed again to save memory
# - [Autograd mechanics](https://docs.pytorch.org/docs/stable/notes/autograd.html): what torch keeps
#   for the backward pass, and what frozen weights save
# - [What tinymem's shortcuts gain](reproduction/speed.md), measured for several models
