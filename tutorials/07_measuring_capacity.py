"""Lesson 7. Measuring capacity

You need       lesson 6, and python tutorials/07_measuring_capacity.py
You will see   a grid of experiments killed in the middle and started again without losing a finished
               cell; how the loss left over depends on rank and length; and how much of that is chance
Explains       tinymem/experiment/sweep.py, tinymem/files.py
Time           25 seconds to run, 60 minutes with the exercise
"""

# %% Idea
# "How much can a unit remember?" is answered by a grid: ranks × lengths × seeds, one run a cell. A good
# grid
#
#   - changes one thing at a time; the longer memories of a seed begin with the shorter ones;
#   - repeats with seeds, to tell chance from effect: a seed decides the memory and where A starts;
#   - writes a row for each finished cell, complete in itself: what was run, and what came out;
#   - survives being killed: rows are appended, never changed, and starting again does what is missing;
#   - refuses to mix rows that were made under other settings.

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

FAST = "TINYMEM_FAST" in os.environ  # a quick look: fewer steps, rougher numbers
RANKS, LENGTHS, SEEDS = (1, 2, 4), (32, 64, 128), (0, 1)
grid = {"ranks": RANKS, "lengths": LENGTHS, "seeds": SEEDS}
OPTIONS = [
    part for name, values in grid.items() for part in (f"--{name}", ",".join(map(str, values)))
]
OPTIONS += ["--steps", "20" if FAST else "200"]


def sweep(folder: Path) -> subprocess.Popen:
    """tinymem sweep --ranks 1,2,4 --lengths 32,64,128 --seeds 0,1 --steps 200 --out FOLDER"""
    command = [sys.executable, "-m", "tinymem", "sweep", *OPTIONS, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finished(folder: Path) -> list[str]:
    """The whole lines so far."""
    path = folder / "results.jsonl"
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []


# %% Run: start, kill, start again
with tempfile.TemporaryDirectory() as work:
    folder = Path(work) / "grid"
    running = sweep(folder)
    while not finished(folder) and running.poll() is None:
        time.sleep(0.01)
    running.kill()  # kill -9: no chance to tidy up
    running.communicate()
    before = finished(folder)
    print(f"killed with {len(before)} of {len(RANKS) * len(LENGTHS) * len(SEEDS)} cells finished")
    assert before

    running = sweep(folder)
    _, said = running.communicate()
    assert running.returncode == 0, said
    after = finished(folder)
    print(f"started again: {len(after)} rows; those that were there are untouched")
    assert after[: len(before)] == before and len(after) == len(RANKS) * len(LENGTHS) * len(SEEDS)

    refused = subprocess.run(
        [sys.executable, "-m", "tinymem", "sweep", *OPTIONS, "--lr", "0.01", "--out", str(folder)],
        capture_output=True,
        text=True,
    )
    why = refused.stderr.strip().partition("line 1: ")[2]
    print(f"with another learning rate: exit code {refused.returncode}, {why}")
    assert refused.returncode == 2 and "lr was" in refused.stderr
    rows = [json.loads(line) for line in after]

# %% Run: read the grid
cells = {(row["rank"], row["length"], row["seed"]): row for row in rows}
assert len(cells) == len(rows)  # every cell once
print("\nfinal loss, nats per token, of two seeds")
print("rank \\ length" + "".join(f"{length:>14}" for length in LENGTHS))
for rank in RANKS:
    pairs = [[cells[rank, length, seed]["final_loss"] for seed in SEEDS] for length in LENGTHS]
    print(f"{rank:13}" + "".join("  {:5.2f}  {:5.2f}".format(*pair) for pair in pairs))


def loss(rank: int, length: int) -> float:
    return fmean(cells[rank, length, seed]["final_loss"] for seed in SEEDS)


for length in LENGTHS:
    assert loss(1, length) > loss(2, length) > loss(4, length)  # more rank remembers more
for rank in RANKS:
    assert (
        loss(rank, 32) < loss(rank, 64) < loss(rank, 128)
    )  # of a longer memory, less of each token
chance = max(
    abs(cells[r, n, 0]["final_loss"] - cells[r, n, 1]["final_loss"]) for r in RANKS for n in LENGTHS
)
effect = min(loss(r, n) - loss(2 * r, n) for r in (1, 2) for n in LENGTHS)
print(f"two seeds differ by up to {chance:.2f} nats; doubling the rank gains at least {effect:.2f}")
assert effect > (0 if FAST else 2 * chance)


fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for length, colour in zip(LENGTHS, plt.colormaps["viridis"]([0.0, 0.45, 0.85]), strict=True):
    for seed in SEEDS:
        losses = [cells[rank, length, seed]["final_loss"] for rank in RANKS]
        ax.plot(
            RANKS,
            losses,
            "o-" if seed == 0 else "s--",
            color=colour,
            ms=5,
            label=f"{length} tokens, seed {seed}",
        )
ax.axhline(math.log(2), color="black", ls=":", lw=1)  # below it a cell is saturated: lesson 8
ax.annotate("ln 2", (1, math.log(2)), xytext=(0, 3), textcoords="offset points", fontsize=8)
ax.set(xlabel="rank r", ylabel="final loss (nats per token)", xscale="log", ylim=(0, None))
ax.set_xticks(RANKS, [str(rank) for rank in RANKS], minor=False)
ax.minorticks_off()
ax.legend(fontsize=8, loc="upper right")
fig.savefig("07_measuring_capacity.png", dpi=110)

# %% What you should see
# Rows that were there before the kill are there after it, byte for byte. Every row of the table falls to
# the left, every column downwards. Two seeds differ by less than 0.3 nats, and the least that a doubling
# of the rank brings is five times that: the effect is not chance. What was killed is lost only where it
# was in flight: cells of one length train together as one batch.

# %% Exercise
# Write a test: `check_sweep(sweep, folder)` passes a sweep that works and fails those that do not. Then:
#
#     pytest tutorials -m ex7
