# %% [markdown]
# # 10. Recall at half the rank
#
# **Can a unit recite a memory without making its tokens probable?**
#
# ![Decoding needs the first place only; a probability above one half is more](pictures/ideas/10.svg)
#
# Greedy decoding writes the most probable token, however small its probability is. A token with
# $p > 1/2$ is ahead of all other tokens *together*; for recall it is enough to be ahead of each of
# them. Training for this alone takes half the rank. The method is tinymem's own, not the paper's.
#
# - **You need:** [lesson 5](05_one_half_is_enough.py) and [lesson 6](06_memft.py)
# - **Time:** 40 seconds to run, 90 minutes with the practice
# - **Reads:** tinymem/training/margin.py, tinymem/law/recall.py, tinymem/law/recite.py

# %% [markdown]
# ## Idea
#
# A *logit* is the number that the model gives to a token before the softmax. The *margin* of a
# target token is its logit less the largest other one:
#
# $$m = z_y - \max_{j \neq y} z_j$$
#
# If every margin is above 0, given the true prefix, greedy decoding recites the memory, and if one
# is below 0, it does not. The objective `margin` divides the logits by a temperature $T$:
#
# $$L = \frac{1}{\ell} \sum_t T \cdot \mathrm{CE}(z_t / T, \; y_t)$$
#
# CE is the cross-entropy, $-\ln$ of the softmax at the target. At $T = 1$ this is plain
# fine-tuning (`sft`). For $T \to 0$ the loss of a token goes to $\max_j z_j - z_y$: it is 0 if the
# target is in first place, and otherwise the distance to the first place. $T$ falls from 1 to 0.01
# during the run.
#
# How much is recited can be described by a curve. The *load* is the number of tokens per parameter,
# $\ell / P$, and
#
# $$P(\text{recited}) = \frac{1}{1 + (\text{load} / \text{load}_{50})^s}$$
#
# Half of the runs recite a memory of $\text{load}_{50}$, and $s$ says how steep the curve is.
#
# ## Shapes
#
# | symbol | what it is |
# |---|---|
# | $z_t$ [V] | the logits at the position that predicts target token $t$; $y_t$ is that token |
# | $m_t$ | its margin, in logits |
# | $T$ | the temperature of the objective; decoding does not use one |
# | $P$ | trained parameters, $2 d r$ = 512 for each rank of `tiny` |

# %%
import json
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import tinymem as tm
from tinymem.training.margin import END, margins, sharpen, temperature

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise

# %% [markdown]
# ## The first place, and one half
#
# The simplest case by hand: all other tokens have the logit 0, so the logit of the target is its
# margin.

# %%
V = 2048
print("margin      p" + "".join(f"   loss at T = {T}" for T in (1, 0.1, 0.01)))
for m in (-1.0, 0.5, 7.0, 8.0):
    z = torch.zeros(V)
    z[0] = m
    logp = torch.log_softmax(z, -1)
    line = [-T * sharpen(logp.clone()[None], torch.tensor([T]))[0, 0].item() for T in (1, 0.1, 0.01)]
    print(f"{m:6.1f} {logp[0].exp():6.3f}" + "".join(f"{loss:16.3f}" for loss in line))
needed = math.log(V - 1)
print(f"first place needs a margin above 0, and p > ½ one above ln {V - 1:,} = {needed:.2f}")

# %% [markdown]
# ## Half the rank
