"""Lesson 3. The memory unit

You need       lesson 2, and python tutorials/03_the_memory_unit.py
You will see   a unit that changes nothing at first, which parameters are trained, why B alone moves in
               the first step, and that a unit of rank r changes its layer in r directions
Explains       tinymem/unit/lora.py
Time           10 seconds to run, 45 minutes with the exercise
"""

# %% Idea
# A LoRA puts a small detour beside a part of the frozen model:
#
#     out = part(x) + x A B
#
# A squeezes x from width d to r numbers, B spreads these to width d again. r is the *rank*. The paper's
# part is the whole MLP of one layer, at two thirds of the depth. B starts at zero, so a fresh unit
# changes nothing; A starts random, because if both were zero neither would ever get a gradient. The
# product A B, a d × d matrix, is never made in training: (x A) B costs 2·d·r multiplications a token, x
# (A B) d².

# %% Shapes
#   x [T, d]   A [d, r]   B [r, d]   x A B [T, d]      2·d·r parameters
#   A ~ uniform between −1/√r and 1/√r                 the bound of Kaiming's rule on a [d, r] matrix

# %% Code
import os

import matplotlib.pyplot as plt
import torch

import tinymem as tm

FAST = "TINYMEM_FAST" in os.environ  # a quick look: fewer steps, rougher numbers
RANKS = (1, 2, 4, 8)

model, tokenizer = tm.load("tiny")
d, ids = (
    model.config.hidden_size,
    torch.tensor([tokenizer.encode("Remember me when I am gone away,")]),
)

# %% Run: attached, and nothing changes
with torch.no_grad():
    before = model(ids)
unit = tm.Unit.create(model, rank=8)
unit.attach(model)
with torch.no_grad():
    after = model(ids)
print(f"fresh unit attached: logits change by at most {(after - before).abs().max():.1f}")
assert torch.equal(after, before)

trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
frozen = sum(p.numel() for p in model.parameters()) - sum(trained.values())
print(f"trained: {trained}, {sum(trained.values()):,} numbers beside {frozen:,} frozen ones")
assert sum(trained.values()) == 2 * d * 8 == unit.trainable_parameters()

# %% Run: the first gradient
logits = model(ids[:, :-1])
torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).backward()
(lora,) = unit.loras.values()
print(f"first gradient: |A| {lora.A.grad.norm():.3f}, |B| {lora.B.grad.norm():.3f}")
assert not lora.A.grad.any() and lora.B.grad.any()  # A's goes through B, which is zero
assert all(
    p.grad is None for name, p in model.named_parameters() if "lora" not in name
)  # the base is frozen
unit.detach()
with torch.no_grad():
    assert torch.equal(model(ids), before)  # taken out again: the base is what it was

# %% Run: what training makes of it
# Write 48 random tokens into units of four ranks, trained side by side over the layers that they share.
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
    print(
        f"{rank:4}   {2 * d * rank:10,}   {loss:10.3f}   {shown}; the next one {values[rank]:.0e}"
    )
    assert (values > 1e-3).sum() == rank and values[rank] < 1e-4  # r directions, and no more
    label = f"rank {rank}: loss {loss:.2f}"
    ax.semilogy(range(1, 13), values[:12].clamp(min=1e-9), "o-", color=colour, ms=4, label=label)
losses = [result.report["final_loss"] for result in results]
assert losses == sorted(losses, reverse=True)  # more rank, lower loss

ax.set(
    xlabel="number of the singular value", ylabel="singular value of A B", title="48 random tokens"
)
ax.legend(title="nats per token", fontsize=8)
fig.savefig("03_the_memory_unit.png", dpi=110)

# %% Run: a LoRA on a Linear can be added into its weights
# Beside a whole MLP it cannot: an MLP is not a matrix. On `c_proj`, the MLP's last Linear, it can.
result = tm.memorize(model, memory, rank=4, sites=("mlp.c_proj",), steps=30)
copy, _ = tm.load("tiny")
result.unit.attach(copy)
with torch.no_grad():
    beside = copy(ids)
    merged = result.unit.merge()(ids)
apart = (beside - merged).abs().max().item()
print(f"merged into c_proj's weights: logits differ by at most {apart:.0e}")
assert apart < 1e-2

# %% What you should see
# A change of exactly 0.0; 4,096 trained numbers beside 3.9 million frozen ones; a first gradient of 0 for
# A. After training, r singular values, and what is left is rounding, eight orders of magnitude below:
# this is what "rank" means. A higher rank reaches a lower loss; lesson 7 measures by how much. Merging
# changes the logits a little, by rounding: that is why tinymem never merges before it measures.

# %% Exercise
# Write `new_unit(d_in, d_out, rank, generator)` and `unit_output(x, A, B)`. Then:
#
#     pytest tutorials -m ex3
