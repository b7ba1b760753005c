"""Lesson 3. The memory unit

You need       lesson 2, and `python tutorials/03_the_memory_unit.py`
You will see   that a new unit does not change the model's output; which parameters are trained; why
               only B has a gradient in the first step; and that a unit of rank r changes its layer
               in r directions
Explains       tinymem/unit/lora.py, tinymem/unit/sites.py
Time           10 seconds to run, 45 minutes with the exercise
"""

# %% Idea
# A LoRA (low-rank adaptation) adds a small trainable branch to one part of the frozen model:
#
#     out = part(x) + x A B
#
# A maps x from width d to r numbers, and B maps these back to width d. The number r is the *rank*.
# In the paper the part is the whole MLP of one layer, at two thirds of the depth; this place is
# called the *site* of the unit. B starts at zero, so a new unit changes nothing. A starts at random
# values: if both were zero, neither would ever have a gradient. Training never computes the product
# A B, a matrix of d × d numbers: (x A) B takes 2·d·r multiplications per token, and x (A B) takes
# d².

# %% Shapes
#   x [T, d]   A [d, r]   B [r, d]   x A B [T, d]      2·d·r parameters
#   A ~ uniform between −1/√r and 1/√r                 Kaiming's bound for a matrix of shape [d, r]

# %% Code
import os

import matplotlib.pyplot as plt
import torch

import tinymem as tm

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
RANKS = (1, 2, 4, 8)

model, tokenizer = tm.load("tiny")
d = model.config.hidden_size
ids = torch.tensor([tokenizer.encode("Remember me when I am gone away,")])

# %% Run: a new unit changes nothing
with torch.no_grad():
    before = model(ids)
unit = tm.Unit.create(model, rank=8)
unit.attach(model)
with torch.no_grad():
    after = model(ids)
print(f"new unit attached: the logits change by at most {(after - before).abs().max():.1f}")
assert torch.equal(after, before)

trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
count = sum(trained.values())
frozen = sum(p.numel() for p in model.parameters()) - count
print(f"trained parameters: {trained}")
print(f"{count:,} parameters are trained, and {frozen:,} are frozen")
assert count == 2 * d * 8 == unit.trainable_parameters()

# %% Run: the first gradient
logits = model(ids[:, :-1])
torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).backward()
(lora,) = unit.loras.values()
print(f"norm of the first gradient: {lora.A.grad.norm():.3f} for A, {lora.B.grad.norm():.3f} for B")
assert not lora.A.grad.any() and lora.B.grad.any()  # the gradient of A contains the factor B = 0
assert all(p.grad is None for name, p in model.named_parameters() if "lora" not in name)  # frozen
unit.detach()
with torch.no_grad():
    assert torch.equal(model(ids), before)  # after detach() the model is as it was

# %% Run: what training does to A B
# Write 48 random tokens into units of four ranks. The four runs are trained together as one batch.
memory = tm.random_memory(tokenizer, 48)
recipes = [tm.Recipe(rank=rank, steps=60 if FAST else 300) for rank in RANKS]
results = tm.memorize_together(model, [memory] * len(RANKS), recipes)
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
colours = plt.colormaps["viridis"](torch.linspace(0, 0.85, len(RANKS)).numpy())
print("rank   parameters   final loss   singular values of A B")
for result, colour in zip(results, colours, strict=True):
    (lora,) = result.unit.loras.values()
    values = torch.linalg.svdvals((lora.A @ lora.B).detach().double())
    rank, loss = result.report["rank"], result.report["final_loss"]
    shown = ", ".join(f"{v:.1f}" for v in values[:rank])
    print(f"{rank:4}   {2 * d * rank:10,}   {loss:10.3f}   {shown}; then {values[rank]:.0e}")
    assert (values > 1e-3).sum() == rank and values[rank] < 1e-4  # exactly r directions
    label = f"rank {rank}: loss {loss:.2f}"
    ax.semilogy(range(1, 13), values[:12].clamp(min=1e-9), "o-", color=colour, ms=4, label=label)
losses = [result.report["final_loss"] for result in results]
assert losses == sorted(losses, reverse=True)  # a higher rank reaches a lower loss

ax.set(xlabel="index of the singular value", ylabel="singular value of A B")
ax.set_title("48 random tokens")
ax.legend(title="nats per token", fontsize=8)
fig.savefig("03_the_memory_unit.png", dpi=110)

# %% Run: merging a unit into the weights of a Linear layer
# A unit beside a whole MLP cannot be merged, because an MLP is not a single matrix. A unit on a
# Linear layer can: here it sits on `c_proj`, the last Linear layer of the MLP.
result = tm.memorize(model, memory, rank=4, sites=("mlp.c_proj",), steps=30)
copy, _ = tm.load("tiny")
result.unit.attach(copy)
with torch.no_grad():
    attached = copy(ids)
    merged = result.unit.merge()(ids)
apart = (attached - merged).abs().max().item()
print(f"merged into the weights of c_proj: the logits differ by at most {apart:.0e}")
assert apart < 1e-2

# %% What you should see
# The new unit changes the logits by exactly 0.0. It has 4,096 trained parameters, and the base
# model has 3.9 million frozen ones. The first gradient of A is 0. After training, A B has r
# singular values above 100; the next one is eight orders of magnitude smaller, which is rounding
# error. This is the meaning of "rank". A higher rank reaches a lower loss, and lesson 7 measures
# how much lower. Merging changes the logits slightly, by rounding, and so tinymem never merges a
# unit before it measures.

# %% Exercise
# Write `new_unit(d_in, d_out, rank, generator)` and `unit_output(x, A, B)`. Then:
#
#     pytest tutorials -m ex3
