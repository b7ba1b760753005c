# %% [markdown]
# # 3. The memory unit
#
# **Where does a frozen model keep what it learns by heart, and how many numbers does that take?**
#
# ![The input x goes through a frozen MLP, and beside it through A, from width d to r, and B, back to d](pictures/ideas/03.svg)
#
# The input of one MLP takes a second path. The matrix A reduces it from width d to only r numbers,
# and B turns these r numbers into a vector of width d again, which is added to the output of the
# MLP. Only A and B are trained, so all that the model learns has to pass through r numbers.
#
# - **You need:** [lesson 2](02_a_frozen_transformer.py)
# - **Time:** 4 seconds to run, 1.5 hours with the practice
# - **Read afterwards:** tinymem/unit/lora.py, tinymem/unit/sites.py

# %% [markdown]
# ## Idea
#
# A LoRA (low-rank adaptation) adds a small trainable branch to one part of the frozen model:
#
# $$\text{out} = \text{part}(x) + x A B$$
#
# The number $r$ is the *rank*. In the paper the part is the whole MLP of one layer, number 24 of 36
# in Qwen3 and 18 of 32 in Llama; tinymem takes the layer at two thirds of the depth. This place is
# called the *site* of the unit. $B$ starts at zero, so a new unit
# changes nothing. $A$ starts at random values: if both were zero, neither would ever have a
# gradient.
#
# Training never computes the product $A B$, a matrix of $d \times d$ numbers. For each token,
# $(x A) B$ takes $2 d r$ multiplications, and $x (A B)$ takes $d^2$.
#
# ## Shapes
#
# | symbol | shape | meaning |
# |---|---|---|
# | $x$ | [T, d] | what enters the part, at T positions |
# | $A$ | [d, r] | drawn uniformly between $-1/\sqrt{r}$ and $1/\sqrt{r}$ (*Kaiming initialization*, named after Kaiming He; see Further reading) |
# | $B$ | [r, d] | zero at first |
# | $x A B$ | [T, d] | what the unit adds; $A$ and $B$ have $2 d r$ parameters together |

# %%
import os

import matplotlib.pyplot as plt
import torch

import tinymem as tm

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
RANKS = (1, 2, 4, 8)

model, tokenizer = tm.load("tiny", device="cpu")
d = model.config.hidden_size
ids = torch.tensor([tokenizer.encode("Remember me when I am gone away,")])

# %% [markdown]
# ## A new unit changes nothing
#
# `attach` puts the unit beside the MLP and freezes the rest of the model. The logits are the same
# before and after, to the last bit.

# %%
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
print(f"multiplications for a token: {2 * d * 8:,} for (x A) B, and {d * d:,} for x (A B)")
assert count == 2 * d * 8 == unit.trainable_parameters()

# %% [markdown]
# ## The first gradient
#
# The loss depends on $A$ only through the product $A B$, so the gradient of $A$ contains the factor
# $B$, which is zero in the first step. The gradient of $B$ contains the factor $x A$, which is not
# zero. The mean loss of the next tokens, `cross_entropy`, is the loss of lesson 1.

# %%
logits = model(ids[:, :-1])
torch.nn.functional.cross_entropy(logits[0], ids[0, 1:]).backward()
(lora,) = unit.loras.values()
print(f"norm of the first gradient: {lora.A.grad.norm():.3f} for A, {lora.B.grad.norm():.3f} for B")
assert not lora.A.grad.any() and lora.B.grad.any()
assert all(p.grad is None for name, p in model.named_parameters() if "lora" not in name)  # frozen
unit.detach()
with torch.no_grad():
    assert torch.equal(model(ids), before)  # after detach() the model is as it was

# %% [markdown]
# ## What training does to A B
#
# Units of four ranks learn 48 random tokens, trained together as one batch; `tm.bars()` shows how
# far they are. The *singular values* of a matrix say how strongly it acts along each of its
# directions. A product of a [d, r] and an [r, d] matrix has at most r singular values that are not
# zero.

# %%
memory = tm.random_memory(tokenizer, 48)
recipes = [tm.Recipe(rank=rank, steps=60 if FAST else 300) for rank in RANKS]
with tm.bars() as bars:
    results = tm.memorize_together(model, [memory] * len(RANKS), recipes, progress=bars)

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
colours = plt.colormaps["viridis"](torch.linspace(0, 0.85, len(RANKS)).numpy())
print("rank   parameters   final loss   singular values of A B")
for result, colour in zip(results, colours, strict=True):
    (lora,) = result.unit.loras.values()
    values = torch.linalg.svdvals((lora.A @ lora.B).detach().double().cpu())
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

# %% [markdown]
# ## Merging a unit into a Linear layer
#
# A unit beside a whole MLP cannot be merged, because an MLP is not a single matrix. A unit on a
# Linear layer can be merged. Here the unit is beside `c_proj`, the last Linear layer of the MLP,
# whose weight $W$ becomes $W + (A B)^\top$. Merging causes rounding errors, so tinymem never merges
# a unit before a measurement.

# %%
with tm.bars() as bars:
    short = {"rank": 4, "steps": 30, "progress": bars}
    result = tm.memorize(model, memory, sites=("mlp.c_proj",), **short)
copy, _ = tm.load("tiny", device="cpu")
result.unit.attach(copy)
with torch.no_grad():
    attached = copy(ids)
    merged = result.unit.merge()(ids)
apart = (attached - merged).abs().max().item()
print(f"merged into the weights of c_proj: the logits differ by at most {apart:.0e}")
assert apart < 1e-2

# %% [markdown]
# ## What you should see
#
# - A new unit of rank 8 changes the logits by exactly 0.0. It has 4,096 parameters, beside
#   3,944,960 frozen ones.
# - The first gradient has the norm 0.000 for $A$ and 0.749 for $B$.
# - After training, $A B$ has exactly r large singular values: 292.1 at rank 1, and 210.6 to 112.5
#   at rank 8. The next one is a rounding error. This is the meaning of "rank".
# - A higher rank reaches a lower loss: 4.578 nats per token at rank 1, and 0.043 at rank 8. How
#   much lower is measured in lesson 7.
#
# ## In three sentences
#
# A unit of rank r adds x A B to the output of one frozen MLP, with 2·d·r parameters. Since B starts
# at zero, a new unit changes nothing, and only B has a gradient in the first step. After
# training, what the unit adds has r directions, and a unit with more directions stores more.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | The unit is $x A B$ beside the MLP of one layer, with $2 d r$ parameters and no scaling factor | tinymem/unit/lora.py, `LoRA` | 4,096 parameters at rank 8 |
# | A starts at random values and B at zero, so that training starts at the base model | tinymem/unit/lora.py, `LoRA.reset` | the logits change by at most 0.0 |
# | A higher rank lowers the loss (Table 1) | tinymem/experiment/probe.py | 4.578, 2.424, 0.562, 0.043 nats per token |
#
# ## Practice
#
# **Rung 2** of your own library: write the class `LoRA`, `attach` and `detach` in
# `tutorials/mymem.py`.
#
# ```sh
# pytest tutorials -m rung2
# python tutorials/hint.py rung2
# ```
#
# ## Further reading
#
# - [Hu et al. 2021](https://arxiv.org/abs/2106.09685): LoRA
# - [Aghajanyan et al. 2020](https://arxiv.org/abs/2012.13255): why a few directions are enough
# - [He et al. 2015](https://arxiv.org/abs/1502.01852): the initial values that are named after
#   Kaiming He
