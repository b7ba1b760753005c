# %% [markdown]
# # 8. The law
#
# **What does a fitted law say, and what does it not say?**
#
# ![A law holds between too few steps and saturation](pictures/ideas/08.svg)
#
# Between two limits, the loss reduction $\Delta L$ follows a power law: on logarithmic axes it is a
# straight line in the rank. At one end, training has not converged. At the other end nothing is
# left to learn, and $\Delta L$ cannot exceed the loss $L_0$ of the base model. A fit always gives
# numbers, so this lesson is about what may be quoted of them.
#
# - **You need:** [lesson 7](07_measuring_capacity.py), and least squares
# - **Time:** 5 seconds to run, 90 minutes with the practice
# - **Reads:** tinymem/law/power.py, tinymem/law/cells.py, tinymem/law/offset.py,
#   tinymem/law/fit.py, tinymem/law/plan.py

# %% [markdown]
# ## Idea
#
# The Parametric Memory Law of the paper, for a unit of rank $r$ and a memory of $\ell$ tokens, is
#
# $$\Delta L = C \, r^{\alpha} \, \ell^{-\beta} + b$$
#
# where $\Delta L$ is the loss reduction in nats per token (one nat is 1.44 bits). Without $b$ the
# law is a plane in the logarithms, $\ln \Delta L = \ln C + \alpha \ln r - \beta \ln \ell$, and least
# squares has a closed form: $\theta = (X^T X)^{-1} X^T y$.
#
# A run whose final loss is at most $\ln 2$ is called *saturated* and is left out. This is a
# convention of the paper: such a loss can still fall, but by no more than $\ln 2$, however large the
# unit is, so $\Delta L$ hardly depends on the rank any more.
#
# ## Shapes
#
# | symbol | what it is |
# |---|---|
# | $X$ [runs, 3] | the columns $1$, $\ln r$ and $-\ln \ell$ |
# | $y$ [runs] | $\ln \Delta L$ |
# | $\theta$ [3] | $\ln C$, $\alpha$, $\beta$ |
# | cell | a rank and a length; its runs differ in their seeds |

# %%
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import tinymem as tm

LN2 = math.log(2)
found = [Path(top) / "reproduction" / "rows" for top in (".", "tutorials")]
ROWS = next((folder for folder in found if folder.is_dir()), None)
if ROWS is None:
    raise SystemExit("no recorded rows here: start this from the folder that contains tutorials/")


def read(name: str) -> list[dict]:
    """The recorded runs of random tokens, without the shortest memories."""
    lines = (ROWS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["length"] >= 64]


def fit(rows: list[dict], cut: float = LN2, offset: bool = False, split: float = 0) -> tm.Law:
    """The law of these runs. Those with a final loss of at most `cut` are left out."""
    names = ("rank", "length", "delta_loss", "final_loss", "seed")
    rank, length, delta, final, seed = (np.array([row[n] for row in rows], float) for n in names)
    return tm.fit_law(rank, length + split * seed, delta, saturated=final <= cut, offset=offset)


def show(what: str, law: tm.Law) -> None:
    print(f"{what:24} {law.n:3} runs {law.n_cells:3} cells", end="")
    for name in ("alpha", "beta"):
        low, high = law.ci[name]
        print(f"   {name} {getattr(law, name):.3f} ({low:.3f} to {high:.3f})", end="")
    print()


# %% [markdown]
# ## The fit, by hand and by the library
#
# The recorded grid has ranks 1 to 16, 64 to 512 random tokens, three seeds and 400 steps in each
# run. Nothing has to be trained here.

# %%
rows = read("tiny")
kept = [row for row in rows if row["final_loss"] > LN2]
X = np.array([[1, math.log(row["rank"]), -math.log(row["length"])] for row in kept])
y = np.log([row["delta_loss"] for row in kept])
theta = np.linalg.lstsq(X, y, rcond=None)[0]
law = fit(rows)
print(f"{len(rows)} runs, of which {len(rows) - len(kept)} are saturated")
print(f"by hand   C {math.exp(theta[0]):.3f}, α {theta[1]:.3f}, β {theta[2]:.3f}")
print(f"fit_law   C {law.C:.3f}, α {law.alpha:.3f}, β {law.beta:.3f}")
print(f"R² {law.r2:.3f}, mean absolute error {law.mape:.1f} % of ΔL")
assert np.allclose(theta, (math.log(law.C), law.alpha, law.beta), rtol=1e-4) and law.r2 > 0.95

# %% [markdown]
# ## Has training converged?
#
# A row says whether the loss still fell by more than 0.01 nats over the last 30 % of the steps.
# Another record has 16 of the cells with a quarter of the steps and with four times as many steps.
# The law is fitted to the 14 of them that are unsaturated throughout.

# %%
still = sum(not row["converged"] for row in kept)
print(f"{still} of the {len(kept)} fitted runs had not converged")
assert still == 49 and len(kept) == 54

# %%
