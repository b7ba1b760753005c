"""Lesson 1. What to remember

You need       a copy of the project, pip install -e ".[plot]" pytest, and python
               tutorials/01_what_to_remember.py (each lesson writes its picture into the folder you are
               in)
You will see   a memory as the model sees it: ids, and the places where its tokens are predicted; why
               random tokens are kept as ids; and what they cost a model that expects English
Explains       tinymem/data/memory.py, tinymem/base/tokenizer.py
Time           5 seconds to run, 30 minutes with the exercise
"""

# %% Idea
# A *memory* is a pair: the prompt is the key, the target is the value. After "Ada Lovelace:" the model
# should write that person's number, and nothing else. So only the target is judged: a loss on the prompt
# would measure something that nobody asked for.
#
# A language model at position t has read the tokens 0 … t and predicts token t + 1. Everything about
# "where is the loss" follows from that one sentence.

# %% Shapes
#   prompt_ids   P token ids                       target_ids   ℓ token ids; ℓ is the memory's length
#   ids          [P + ℓ − 1]   prompt and target, without the last token, which nothing follows
#   rows         [ℓ]           positions that predict a target token: P − 1, …, P + ℓ − 2
#   targets      [ℓ]           the token that each of them should predict

# %% Code
import math

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.data.batch import Batch
from tinymem.experiment.recall import teacher_forced

model, tokenizer = tm.load("tiny")  # ships with the package: 3.9 million parameters, no download


def losses_of(memory: tm.Memory) -> list[float]:
    """−ln p of each target token, given the prompt and the target before it: nats."""
    return teacher_forced(model, Batch([memory], model.config.context, model.device))[0].tolist()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# %% Run: an entry of a phone book
entry = tm.text_memory(tokenizer, " 0451", prompt="Ada Lovelace:")
batch = Batch([entry], model.config.context, model.device)
ids, rows = batch.ids[0].tolist(), batch.rows[1].tolist()
print("position   the model reads   and should predict")
for position, token in enumerate(ids):
    wanted = (
        repr(tokenizer.decode([batch.targets[rows.index(position)]])) if position in rows else "–"
    )
    print(f"{position:8}   {tokenizer.decode([token])!r:15}   {wanted}")

assert len(ids) == len(entry.prompt_ids) + entry.length - 1
assert rows == list(range(len(entry.prompt_ids) - 1, len(ids)))

# %% Run: random tokens
# To measure how much fits into a unit we want text that the model cannot know or guess. Uniformly random
# tokens are the cleanest: each carries H = ln 2,047 nats (the vocabulary without its special token), no
# more and no less.
noise = tm.random_memory(tokenizer, 64)
again = tokenizer.encode(tokenizer.decode(noise.target_ids), special=False)
print(f"\n64 random ids, decoded to text and encoded again: {len(again)} ids, the same: ", end="")
print(tuple(again) == noise.target_ids)
assert tuple(again) != noise.target_ids  # so they are drawn, kept and stored as ids

# %% Run: what does the base model think of them?
english = tm.text_memory(
    tokenizer, "And the king said unto his servants, Go ye up to the city, and rest."
)
losses, H = {"English": losses_of(english), "random tokens": losses_of(noise)}, noise.entropy
for name, values in losses.items():
    print(f"{name:13}  {mean(values):5.2f} nats per token, {mean(values) / math.log(2):5.1f} bits")
print(f"entropy H      {H:5.2f} = ln {len(tokenizer.plain_ids):,}, what a fair guess would cost")

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (name, values), colour in zip(losses.items(), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(values, "o-", ms=3, lw=0.8, color=colour, label=f"{name}: mean {mean(values):.1f}")
ax.axhline(H, color="black", ls="--", lw=1, label=f"entropy of random tokens: {H:.1f}")
ax.set(xlabel="position in the target", ylabel="base loss (nats per token)", ylim=(0, 28))
ax.legend(fontsize=8)
fig.savefig("01_what_to_remember.png", dpi=110)

# %% What you should see
# English costs about 4 nats a token: the model knows it. Random tokens cost about 12, which is *more*
# than H = 7.6: a model that expects English is not merely ignorant of noise, it is sure of the wrong
# things. What a unit will have to do first is to unlearn that prior, 12 − 7.6 nats for every token.
# Lesson 9 returns to it; it is the reason why tinymem reports *memorized* bits beside *stored* ones.
assert mean(losses["English"]) < 4.5 < H < mean(losses["random tokens"])
assert torch.isfinite(torch.tensor(losses["random tokens"])).all()

# %% Exercise
# Write `inputs_and_targets(prompt_ids, target_ids)` in tutorials/exercises.py: ids, rows and targets as
# above, for any prompt and target. Then:
#
#     pytest tutorials -m ex1
