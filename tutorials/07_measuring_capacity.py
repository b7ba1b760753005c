# %% [markdown]
# # 7. Measuring capacity
#
# **How do you measure how much a unit can remember, so that you can trust the answer?**
#
# ![A grid of ranks and lengths: finished cells, a cell in training, and cells that are missing](pictures/ideas/07.svg)
#
# One run answers a question about one rank and one length. A *sweep* is a grid of such runs, and
# each run of the grid is a *cell*. A sweep takes long enough to be interrupted, so it records every
# cell as soon as it is finished. When it is started again, it trains only the cells that are
# missing.
#
# - **You need:** [lesson 6](06_memft.py)
# - **Time:** 13 seconds to run, 3.5 hours with the practice
# - **Read afterwards:** tinymem/experiment/grid.py, tinymem/experiment/sweep.py,
#   tinymem/experiment/rows.py

# %% [markdown]
# ## Idea
#
# "How much can a unit remember?" is answered by a grid of experiments over ranks, lengths and
# seeds. The seed of a run chooses the memory and the initial $A$. A good sweep
#
# - changes one thing at a time: with the same seed, a longer memory begins with the shorter one;
# - repeats each rank and length with other seeds, to separate an effect from chance;
# - writes one row for each finished cell, which holds all settings and all results of the run;
# - loses no finished cell when it is killed: rows are only ever appended, and after a second start
#   only the missing cells are run;
# - refuses to add rows to a file whose rows were made with other settings.
#
# ## Shapes
#
# | symbol | what it is |
# |---|---|
# | cell | a rank $r$, a length $\ell$, a method and a seed; one run, and one row of `results.jsonl` |
# | $L_0$, $L$ | `base_loss` and `final_loss` of a row, in nats per token |
# | $\Delta L = L_0 - L$ | `delta_loss` of a row, the loss reduction in nats per token |

# %%
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt

import tinymem as tm

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
RANKS, LENGTHS, SEEDS = (1, 2, 4), (32, 64, 128), (0, 1)
CELLS = [(rank, length, seed) for rank in RANKS for length in LENGTHS for seed in SEEDS]
OPTIONS = ["--ranks", "1,2,4", "--lengths", "32,64,128", "--seeds", "0,1"]
OPTIONS += ["--steps", "20" if FAST else "200"]


def sweep(folder: Path, *options: str) -> subprocess.Popen:
    """tinymem sweep --ranks 1,2,4 --lengths 32,64,128 --seeds 0,1 --steps 200 --out FOLDER"""
    command = [sys.executable, "-m", "tinymem", "sweep", *OPTIONS, *options, "--out", str(folder)]
    # A notebook sets FORCE_COLOR. The sweep would then draw bars, and they would fill the pipe.
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=plain, text=True, **pipes)


def finished(folder: Path) -> list[str]:
    """The complete lines of results.jsonl, one for each finished cell."""
    path = folder / "results.jsonl"
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


# %% [markdown]
# ## Start, kill, start again
#
# The lesson starts a sweep as another process and kills it when its first rows are written. The
# process cannot clean up before it ends. Then the same command is started again. The third command
# asks for another learning rate in the same folder.

# %%
with tempfile.TemporaryDirectory() as work:
    folder = Path(work) / "grid"
    running = sweep(folder)
    while not finished(folder) and running.poll() is None:
        time.sleep(0.01)
    running.kill()  # kill -9
    running.communicate()
    before = finished(folder)
    print(f"killed when {len(before)} of {len(CELLS)} cells were finished")
    assert before

    running = sweep(folder)
    with tm.bars() as bars:
        for count in bars.track(range(1, len(CELLS) + 1), "cells"):
            while len(finished(folder)) < count and running.poll() is None:
                time.sleep(0.05)
    _, messages = running.communicate()
    assert running.returncode == 0, messages
    after = finished(folder)
    print(f"started again: now there are {len(after)} rows, and the earlier ones are unchanged")
    assert after[: len(before)] == before and len(after) == len(CELLS)

    refused = sweep(folder, "--lr", "0.01")
    _, messages = refused.communicate()
    print(f"with another learning rate: exit code {refused.returncode},", end=" ")
    print(messages.strip().partition("line 1: ")[2])
    assert refused.returncode == 2 and "lr was" in messages
    rows = [json.loads(line) for line in after]

# %% [markdown]
# ## Read the grid
#
# An effect is convincing if it is much larger than the difference between two seeds at the same
# rank and length.

# %%
losses = {(row["rank"], row["length"], row["seed"]): row["final_loss"] for row in rows}
assert len(losses) == len(rows)  # each cell has one row
print("final loss (nats per token) of seeds 0 and 1")
print("rank \\ length" + "".join(f"{length:>14}" for length in LENGTHS))
for rank in RANKS:
    pairs = [[losses[rank, length, seed] for seed in SEEDS] for length in LENGTHS]
    print(f"{rank:13}" + "".join("  {:5.2f}  {:5.2f}".format(*pair) for pair in pairs))


def loss(rank: int, length: int) -> float:
    return fmean(losses[rank, length, seed] for seed in SEEDS)


for length in LENGTHS:
    assert loss(1, length) > loss(2, length) > loss(4, length)  # a higher rank has a lower loss
for rank in RANKS:
    assert loss(rank, 32) < loss(rank, 64) < loss(rank, 128)  # a longer memory has a higher loss
chance = max(abs(losses[r, n, 0] - losses[r, n, 1]) for r in RANKS for n in LENGTHS)
effect = min(loss(r, n) - loss(2 * r, n) for r in (1, 2) for n in LENGTHS)
print(f"two seeds differ by at most {chance:.2f} nats per token,", end=" ")
print(f"and doubling the rank lowers the loss by at least {effect:.2f}")
assert effect > (0 if FAST else 2 * chance)

# %% [markdown]
# ## The picture

# %%
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for length, colour in zip(LENGTHS, plt.colormaps["viridis"]([0.0, 0.45, 0.85]), strict=True):
    for seed, style in zip(SEEDS, ("o-", "s--"), strict=True):
        line = [losses[rank, length, seed] for rank in RANKS]
        ax.plot(RANKS, line, style, color=colour, ms=5, label=f"{length} tokens, seed {seed}")
ax.axhline(math.log(2), color="black", ls=":", lw=1)  # saturated cells lie below it: see lesson 8
ax.annotate("ln 2", (1, math.log(2)), xytext=(0, 3), textcoords="offset points", fontsize=8)
ax.set(xlabel="rank r", ylabel="final loss (nats per token)", xscale="log", ylim=(0, None))
ax.set_xticks(RANKS, [str(rank) for rank in RANKS], minor=False)
ax.minorticks_off()
ax.legend(fontsize=8, loc="upper right")
fig.savefig("07_measuring_capacity.png", dpi=110)

# %% [markdown]
# ## What you should see
#
# The rows that were written before the kill are unchanged after the second start, byte for byte.
# Only the cells that were being trained at that moment are lost; cells of one length are trained
# together as one batch. In the table the loss rises from left to right and falls from top to
# bottom. Two seeds differ by at most 0.27 nats per token, and doubling the rank lowers the loss by
# at least 1.58, so this effect is not due to chance.
#
# ## In three sentences
#
# A sweep trains one unit for each rank, length and seed, and appends one row as soon as a cell is
# finished. A sweep that was killed goes on where it stopped, and it refuses to mix rows of
# different settings. The loss falls with the rank and rises with the length, and both effects are
# much larger than the difference between two seeds.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | A LoRA can measure a capacity: the loss depends on its rank and on the length of the memory (abstract) | tinymem/experiment/sweep.py, `run_sweep` | doubling the rank lowers the loss by at least 1.58 nats per token, and two seeds differ by at most 0.27 |
# | All cells are trained in the same way, and only rank and length differ | tinymem/experiment/rows.py | another learning rate is refused with exit code 2 |
#
# ## Practice
#
# **Rung 7** of your own library: write `run_cell` and `sweep` in `tutorials/mymem.py`.
#
# ```sh
# pytest tutorials -m rung7
# python tutorials/hint.py rung7
# ```
#
# **Exercise 7**: write `check_sweep` in `tutorials/exercises.py`, a test that passes for a sweep
# that works and fails for sweeps with a bug.
#
# ```sh
# pytest tutorials -m ex7
# python tutorials/hint.py ex7
# ```
#
# ## Further reading
#
# - [Kaplan et al. 2020](https://arxiv.org/abs/2001.08361): how the loss of whole language models
#   depends on their size, measured on grids of runs
# - [Bouthillier et al. 2021](https://arxiv.org/abs/2103.03098): what changes with the seed, and how
#   many seeds a comparison needs
# - [The module subprocess](https://docs.python.org/3/library/subprocess.html) of Python: how one
#   program starts, watches and kills another
