"""Lesson 11. Your own model, your own text

You need       lessons 1 to 9; for another model a network or a checkpoint's folder, for a large one a GPU
You will see   the whole course as one experiment: a small grid, a law, a rank predicted for a text, and
               then the measurement; and how to do the same with GPT-2, SmolLM2, Llama, Qwen3
Explains       tinymem/experiment/probe.py, tinymem/law/plan.py, tinymem/base/hub.py, tinymem/cli/app.py
Time           45 seconds to run with the shipped model; the capstone is an afternoon
"""

# %% Idea
# A law is worth something if it tells what will happen. So: measure short pieces of a text with small
# ranks, fit, write down what the whole text needs, and only then measure. Two predictions of different
# kinds:
#
#     the rank that brings the mean loss to ln 2     within the law's own range, if for a longer text
#     the rank that certifies every token            beyond it: the law is of cells that are not saturated,
#                                                    and one stubborn token among many decides

# %% Shapes
#   grid: ranks × lengths of one text, a row for each cell
#   plan: (law, length) → rank, with a 95 % interval

# %% Code
import math
import os

import matplotlib.pyplot as plt
import numpy as np

import tinymem as tm

FAST = "TINYMEM_FAST" in os.environ  # a quick look: fewer steps, rougher numbers
STEPS = 60 if FAST else 300

MODEL = (
    "tiny"  # or "gpt2", "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen3-0.6B", or a checkpoint's folder
)
TEXT = """Four score and seven years ago our fathers brought forth on this continent a new nation, conceived
in liberty, and dedicated to the proposition that all men are created equal. Now we are engaged in a great
civil war, testing whether that nation, or any nation so conceived and so dedicated, can long endure. We are
met on a great battle-field of that war. We have come to dedicate a portion of that field, as a final resting
place for those who here gave their lives that that nation might live. It is altogether fitting and proper
that we should do this.""".replace("\n", " ")

model, tokenizer = tm.load(MODEL)  # a GPU is used where there is one
whole = tm.text_memory(tokenizer, TEXT)
depth, width = model.config.num_layers, model.config.hidden_size
print(
    f"{model.name}: {depth} layers of width {width}, on {model.device}; the text has {whole.length} tokens"
)

# %% Run: a small grid of pieces
RANKS, PARTS = ((1, 2, 3), (0.3, 0.4, 0.5)) if FAST else ((1, 2, 3, 4, 6, 8), (0.3, 0.5, 0.75))
LENGTHS = [round(whole.length * part) for part in PARTS]
rows = []
print("\nfinal loss, nats per token (* certified)")
print("length \\ rank" + "".join(f"{rank:8}" for rank in RANKS))
for length in LENGTHS:
    piece = tm.text_memory(tokenizer, TEXT, length=length)
    recipes = [tm.Recipe(rank=rank, steps=STEPS) for rank in RANKS]
    line = [result.report for result in tm.memorize_together(model, [piece] * len(RANKS), recipes)]
    print(
        f"{length:13}"
        + "".join(f"{r['final_loss']:7.2f}{'*' if r['certified'] else ' '}" for r in line)
    )
    rows += line

# %% Run: predict
(fit, *_), _ = tm.fit_rows(rows, offset=False)
law = fit.law
print(
    f"\nΔL = {law.C:.1f} · r^{law.alpha:.2f} · ℓ^(−{law.beta:.2f}), R² {law.r2:.3f}, {law.n} cells"
)
halfway = tm.plan_rank(fit, whole.length, loss=math.log(2))
plan = tm.plan_rank(fit, whole.length)  # below this loss every piece was certified

for name, asked in (
    ("a mean loss of ln 2", halfway),
    (f"a certificate, below {plan.loss:.2f} nats", plan),
):
    low, high = asked.interval
    print(
        f"predicted for {whole.length} tokens and {name}: rank {asked.rank} (95 %: {low} to {high})"
    )
assert halfway.rank is not None and plan.rank is not None

# %% Run: measure
tried = sorted(
    {max(1, round(plan.rank * factor)) for factor in (0.5, 0.7, 0.85, 1, 1.2, 1.35, 1.5, 2)}
)
recipes = [tm.Recipe(rank=rank, steps=STEPS) for rank in tried]
measured = [result.report for result in tm.memorize_together(model, [whole] * len(tried), recipes)]
for report in measured:
    above, rank = report["certified_fraction"], report["rank"]
    print(
        f"rank {rank:3}: loss {report['final_loss']:.2f}, {above:.1%} of the tokens above one half"
    )
below = next((report["rank"] for report in measured if report["final_loss"] <= math.log(2)), None)
holds = next((report["rank"] for report in measured if report["certified"]), None)
print(
    f"mean loss of ln 2: predicted rank {halfway.rank}, the smallest of these that gets there {below}"
)
print(f"certificate: predicted rank {plan.rank}, the smallest of these that has it {holds}")

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
reach = np.linspace(1, max(tried), 60)
line = np.maximum(0, plan.base_loss - law.predict(reach, whole.length))
ax.plot(reach, line, color="#666666", label="the law, from the pieces")
for certified, fill in ((True, "#0072B2"), (False, "none")):
    some = [report for report in measured if report["certified"] == certified]
    name = "measured, certified" if certified else "measured, not certified"
    points = [report["rank"] for report in some], [report["final_loss"] for report in some]
    ax.plot(*points, "o", color="#0072B2", mfc=fill, label=name)
ax.axhline(math.log(2), color="black", ls="--", lw=1, label="ln 2")
for asked, colour, name in (
    (halfway, "#009E73", "for ln 2"),
    (plan, "#E69F00", "for the certificate"),
):
    ax.axvline(asked.rank, color=colour, ls=":", label=f"predicted {name}: rank {asked.rank}")
ax.set(xlabel="rank r", ylabel="final loss (nats per token)", ylim=(0, None))
ax.set_title(f"{whole.length} tokens on {model.name}, {STEPS} steps", fontsize=10)
ax.legend(fontsize=8)
fig.savefig("11_your_own_model.png", dpi=110)

# %% What you should see
# With the shipped model the mean loss reaches ln 2 at rank 6, where 5 was predicted from pieces of at
# most three quarters of the text: the law's line crosses ln 2 at 4.3, and falls on while the measured
# losses level out. The certificate needs rank 9 instead of 6: it is farther beyond the law's range, and
# among more tokens the most stubborn one is more stubborn. That is just within the factor of 1.5 which
# the capstone allows: think about what to add. Report both numbers, whatever they are, with what you held
# fixed: model, layer, steps, seed.
if MODEL == "tiny" and not FAST:
    assert below is not None and abs(below - halfway.rank) <= 1
    assert holds is not None and 1 <= holds / plan.rank <= 2

# %% The same on the command line, and with other models
#     tinymem probe --model gpt2 --rank 8                           # 124M parameters: a CPU will do
#     tinymem probe --model HuggingFaceTB/SmolLM2-135M --text poem.txt --out run
#     tinymem recall run                                            # in a new process: recite
#     tinymem probe --model Qwen/Qwen3-8B --rank 64 --length 2000   # a GPU; it is found by itself
#     tinymem sweep --text poem.txt --ranks 1,2,3,4,6,8 --lengths 50,85,130 --steps 300 --out grid
#     tinymem fit grid --no-offset
#     tinymem plan grid --no-offset --text poem.txt
#
# The paper's own setting is layer 24 of 36 (Qwen3-8B), 2,000 steps and learning rate 1e-2, which are the
# defaults at that depth and width. tutorials/reproduction has this project's grids with their commands:
# take them from there, and add a row to what is known. Exponents for your model have probably not been
# published.

# %% Exercise: the capstone
# Choose a text of 40 to 200 tokens, MY_TEXT. Predict, from sweeps of *other* memories or of pieces of it,
# the smallest rank that certifies it in 300 steps on the shipped model, MY_RANK; within a factor of 1.5
# is asked for. Hand in both, and a page on how you came to it. Then:
#
#     pytest tutorials -m ex11
