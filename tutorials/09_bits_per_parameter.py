# %% [markdown]
# # 9. Bits per parameter
#
# **How many bits does one parameter store?**
#
# ![An axis of losses: from the base model to the entropy, and from there to the trained unit](pictures/ideas/09.svg)
#
# A unit lowers the loss of random tokens in two steps. First it removes the expectation of English
# text, which every memory of random tokens has in common. Only the second step stores knowledge of
# these particular tokens. So there are two ways to count bits.
#
# - **You need:** [lesson 8](08_the_law.py)
# - **Time:** 1 second to run, 1 hour with the practice
# - **Read afterwards:** tinymem/law/bits.py, tinymem/experiment/report.py

# %% [markdown]
# ## Idea
#
# A nat is $1 / \ln 2 = 1.44$ bits. A loss in nats per token is a code length: with
# *arithmetic coding*, a method of compression, the model could encode the target in
# $L \cdot \ell / \ln 2$ bits. So a unit that lowers
# the loss by $\Delta L$ *stores* $\Delta L \cdot \ell / \ln 2$ bits about the target.
#
# Lesson 1 has shown, however, that random tokens have a higher loss in the base model than their
# *entropy* $H = \ln 2047$, the loss of a uniform guess. The first part of the loss reduction,
# $L_0 - H$, only removes the expectation of English text. For this the unit has to store one fact
# only: the target is random. It need not store any of its tokens. For random tokens we can
# therefore count from $H$ instead of $L_0$:
#
# $$\text{stored bits} = \frac{(L_0 - L) \, \ell}{\ln 2}
# \qquad \text{memorized bits} = \frac{\max(0, H - L) \, \ell}{\ln 2}$$
#
# Both are divided by the number of trained parameters, $P = 2 d r$, so that ranks, lengths and
# models can be compared.
#
# ## Shapes
#
# | symbol | unit | meaning |
# |---|---|---|
# | $L_0$, $L$ | nats per token | the loss without and with the unit |
# | $H$ | nats per token | the entropy of the tokens |
# | $\ell$ | tokens | the length |
# | $P$ | parameters | of the unit: $2 d r$ |

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import tinymem as tm

LN2 = math.log(2)
ROWS = next((top for top in (Path(), Path("tutorials")) if (top / "reproduction").is_dir()), None)
if ROWS is None:
    raise SystemExit("no recorded rows here: start this from the folder that contains tutorials/")
FIELDS = ("rank", "length", "trainable_parameters", "base_loss", "entropy", "final_loss")
BITS = ("stored_bits", "memorized_bits", "memorized_bits_per_parameter")


def read(name: str, shortest: int = 0) -> dict[str, np.ndarray]:
    """The columns of a recorded grid, without its saturated and its shorter runs."""
    path = ROWS / "reproduction" / "rows" / f"{name}.jsonl"
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    rows = [row for row in rows if row["length"] >= shortest]
    rows = [row for row in rows if row["final_loss"] > LN2]
    return {field: np.array([row[field] for row in rows], float) for field in FIELDS + BITS}


grids = {
    "tiny, width 256": read("tiny", shortest=64),
    "SmolLM2-135M-Instruct, width 576": read("smollm2"),
}

# %% [markdown]
# ## One cell
#
# The recorded rows have both numbers. The code prints one row in detail.

# %%
g = grids["tiny, width 256"]
cell = int(np.flatnonzero((g["rank"] == 4) & (g["length"] == 256))[0])
rank, length, P, base, H, loss, stored, memorized, _ = (g[field][cell] for field in FIELDS + BITS)
print(f"rank 4, 256 tokens, {P:,.0f} parameters:", end=" ")
print(f"L₀ {base:.2f}, H {H:.2f}, L {loss:.2f} nats per token")
for name, start, bits in (("stored", base, stored), ("memorized", H, memorized)):
    print(f"{name:9} ({start:.3f} − {loss:.3f}) · 256 / ln 2 = {bits:,.0f} bits,", end=" ")
    print(f"{bits / P:.2f} bits per parameter")
print(f"the difference is the removed expectation of English: {base - H:.2f} nats per token")
assert math.isclose((stored - memorized) * LN2 / length, base - H)

# %% [markdown]
# ## All cells, and a law with one constant
#
# If every parameter holds the same number $\kappa$ of bits, there is a law with one constant:
#
# $$\Delta L = L_0 - H + \frac{\kappa \, P \ln 2}{\ell}$$
#
# Saturated runs are left out of this law and of the power law, which has three.

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.5, 4), layout="constrained", sharey=True)
fits = {}
for ax, (name, g) in zip(axes, grids.items(), strict=True):
    rank, length, P, base, H, loss = (g[field] for field in FIELDS)
    per_parameter = g["memorized_bits_per_parameter"]
    bits = tm.fit_bits(P, length, base, H, base - loss, ranks=rank)
    power = tm.fit_law(rank, length, base - loss, offset=False)
    fits[name] = bits, power, per_parameter
    print(f"{name}: {len(loss)} runs that are not saturated")
    print(f"  memorized bits per parameter: {per_parameter.min():.2f} to {per_parameter.max():.2f}")
    print(f"  constant bits, κ {bits.kappa:.2f}: R² {bits.r2:.3f}, mean error {bits.mape:.1f} %")
    constants = f"α {power.alpha:.2f}, β {power.beta:.2f}"
    print(f"  power law, {constants}: R² {power.r2:.3f}, mean error {power.mape:.1f} %")
    colours = plt.colormaps["viridis"](np.linspace(0, 0.88, len(np.unique(rank))))
    for r, colour in zip(np.unique(rank), colours, strict=True):
        at = np.unique(length[rank == r])
        means = [per_parameter[(rank == r) & (length == n)].mean() for n in at]
        ax.plot(length[rank == r], per_parameter[rank == r], "o", color=colour, ms=4)
        ax.plot(at, means, color=colour, lw=1, label=f"rank {r:.0f}")
    ax.axhline(bits.kappa, color="#D55E00", ls="--", lw=1.2, label=f"κ = {bits.kappa:.2f}")
    ax.axhspan(0.7, 1.7, color="grey", alpha=0.12)  # one trained input vector, Kuratov et al. 2025
    ax.axhline(2, color="grey", lw=1)  # knowledge stored by pretraining, Allen-Zhu and Li 2024
    ax.set(title=name, xlabel="length ℓ (tokens)", xscale="log", ylim=(0, 2.1))
    ax.set_xticks(np.unique(length), [f"{n:.0f}" for n in np.unique(length)])
    ax.minorticks_off()
    ax.legend(fontsize=8, ncols=2)
axes[1].annotate("one trained input vector", (100, 1.65), va="top", fontsize=8)
axes[1].annotate("pretraining", (100, 1.98), va="top", fontsize=8)
axes[0].set_ylabel("memorized bits per parameter")
fig.savefig("09_bits_per_parameter.png", dpi=110)

small, large = fits["tiny, width 256"], fits["SmolLM2-135M-Instruct, width 576"]
assert large[0].r2 > 0.95 > 0.85 > small[0].r2
assert large[2].min() > 0.75 and large[2].max() < 1.1 and small[2].max() / small[2].min() > 3
assert small[1].r2 > 0.95

# %% [markdown]
# ## What you should see
#
# On SmolLM2-135M-Instruct, a larger language model, the 7 runs that are not saturated hold 0.81 to
# 1.02 memorized bits per parameter at every rank and length (one seed). A law with this one
# constant has a mean error of 4.4 %, and the power law, which has three, of 1.2 %. On `tiny`, with
# the grid of lesson 8, the law with one constant fails: the runs hold 0.15 to 0.94 bits per
# parameter, and its mean error is 8.0 %, compared with 2.5 % for the power law. So the power law
# has the smaller error on both models. On the larger one the law with one constant comes close to
# it, and seven runs of one seed are too few to decide between them. Most of the runs on `tiny` had
# not converged (lesson 8), so the numbers show how much was stored after these steps, and not how
# much a parameter can store.
#
# For comparison: the training of a base model (*pretraining*) stores 2 bits per parameter (the line
# in the picture), and one trained input vector, without any unit, holds 0.7 to 1.7 (the band).
#
# ## In three sentences
#
# A loss reduction is an amount of information: stored bits count from the loss of the base model,
# and memorized bits from the entropy of the tokens. The difference is the expectation of English
# text, which says nothing about the memory. After the steps of these runs, a parameter held 0.81 to
# 1.02 memorized bits on the larger model, which is nearly constant, and 0.15 to 0.94 on `tiny`,
# which is not.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | none: the paper does not count bits per parameter | tinymem/law/bits.py, `fit_bits` | 0.81 to 1.02 memorized bits per parameter on the larger model, 0.15 to 0.94 on `tiny` |
# | A power law describes the loss reduction (Eq. 6) | tinymem/law/power.py, `fit_law` | mean error 1.2 % and 2.5 %, against 4.4 % and 8.0 % for constant bits |
#
# ## Practice
#
# **Exercise 9**: write `stored_bits`, `memorized_bits` and `bits_of` in `tutorials/exercises.py`.
#
# ```sh
# pytest tutorials -m ex9
# python tutorials/hint.py ex9
# ```
#
# ## Further reading
#
# - [Allen-Zhu and Li 2024](https://arxiv.org/abs/2404.05405): pretraining stores 2 bits per
#   parameter
# - [Morris et al. 2025](https://arxiv.org/abs/2505.24832): a whole model memorizes about 3.6 bits
#   per parameter
# - [Kuratov et al. 2025](https://arxiv.org/abs/2502.13063): how many tokens one trained input
#   vector can hold
