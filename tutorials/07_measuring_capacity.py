"""Lesson 7. Measuring capacity

You need       lesson 6, and `python tutorials/07_measuring_capacity.py`
You will see   a grid of experiments that is killed and started again, and loses no finished cell;
               how the final loss depends on rank and length; and how large the effect of chance is
Explains       tinymem/experiment/grid.py, tinymem/experiment/sweep.py, tinymem/experiment/rows.py
Time           25 seconds to run, 60 minutes with the exercise
"""

# %% Idea
# "How much can a unit remember?" is answered by a grid of experiments over ranks, lengths and
# seeds, with one run in each cell. Such a run of a whole grid is called a *sweep*. A good sweep
#
#   - changes one thing at a time: with the same seed, a longer memory begins with the shorter one;
#   - repeats each cell with other seeds, to separate an effect from chance (the seed chooses the
#     memory and the initial A);
#   - writes one row for each finished cell, which holds all settings and all results of the run;
#   - loses no finished cell when it is killed: rows are only ever appended, and after a second
#     start only the missing cells are run;
#   - refuses to add rows to a file whose rows were made with other settings.

# %% Shapes
#   cell   (rank, length, ratio of random tokens, method, seed) → one row of results.jsonl
#   ΔL     base_loss − final_loss of a row, nats per token

# %% Code
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

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
RANKS, LENGTHS, SEEDS = (1, 2, 4), (32, 64, 128), (0, 1)
CELLS = [(rank, length, seed) for rank in RANKS for length in LENGTHS for seed in SEEDS]
OPTIONS = ["--ranks", "1,2,4", "--lengths", "32,64,128", "--seeds", "0,1"]
OPTIONS += ["--steps", "20" if FAST else "200"]


def sweep(folder: Path, *options: str) -> subprocess.Popen:
    """tinymem sweep --ranks 1,2,4 --lengths 32,64,128 --seeds 0,1 --steps 200 --out FOLDER"""
    command = [sys.executable, "-m", "tinymem", "sweep", *OPTIONS, *options, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(folder: Path) -> list[str]:
    """The complete lines of results.jsonl, one for each finished cell."""
    path = folder / "results.jsonl"
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


# %% Run: start, kill, start again
with tempfile.TemporaryDirectory() as work:
    folder = Path(work) / "grid"
    running = sweep(folder)
    while not finished(folder) and running.poll() is None:
        time.sleep(0.01)
    running.kill()  # kill -9: the process has no chance to clean up
    running.communicate()
    before = finished(folder)
    print(f"killed when {len(before)} of {len(CELLS)} cells were finished")
    assert before

    running = sweep(folder)
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

# %% Run: read the grid
losses = {(row["rank"], row["length"], row["seed"]): row["final_loss"] for row in rows}
assert len(losses) == len(rows)  # each cell has one row
print("\nfinal loss (nats per token) of seeds 0 and 1")
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

# %% What you should see
# The rows that were written before the kill are unchanged after the second start, byte for byte.
# Only the cells that were being trained at that moment are lost; cells of one length are trained
# together as one batch. In the table the loss rises from left to right and falls from top to
# bottom. Two seeds differ by less than 0.3 nats per token, and doubling the rank lowers the loss by
# more than five times as much, so this effect is not due to chance.

# %% Exercise
# Write a test, `check_sweep(sweep, folder)`, that passes for a sweep that works and fails for
# sweeps with a bug. Then:
#
#     pytest tutorials -m ex7
