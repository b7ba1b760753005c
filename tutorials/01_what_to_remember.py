"""Lesson 1. What to remember

You need       a copy of the project, then `pip install -e ".[plot]" pytest` and
               `python tutorials/01_what_to_remember.py`. Each lesson saves its picture in the
               current folder.
You will see   how a memory is given to the model, and at which positions the model predicts the
               target; why random tokens are stored as token ids; and how high the loss of the base
               model is on random tokens
Explains       tinymem/data/memory.py, tinymem/data/batch.py, tinymem/base/tokenizer.py
Time           5 seconds to run, 30 minutes with the exercise
"""

# %% Idea
# A *memory* is a pair of token sequences. The prompt is the key, and the target is the value: after
# the prompt "Ada Lovelace:" the model should write the phone number of that person. The loss is
# computed on the target only. The model is never asked to produce the prompt, so a loss on the
# prompt would measure the wrong thing.
#
# A language model that has read tokens 0 to t predicts token t + 1. This decides where the loss is
# computed: the first target token is predicted at the last position of the prompt, and the last
# target token is never an input.

# %% Shapes
#   prompt_ids   P token ids                       target_ids   ℓ token ids; ℓ is called the length
#   ids          [P + ℓ − 1]   the input: the prompt and the target without its last token
#   rows         [ℓ]           the positions that predict the target: P − 1, …, P + ℓ − 2
#   targets      [ℓ]           the token that should be predicted at each of these positions

# %% Code
import math

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.data.batch import Batch
from tinymem.experiment.recall import teacher_forced

model, tokenizer = tm.load("tiny")  # part of the package: 3.9 million parameters, no download


def losses_of(memory: tm.Memory) -> list[float]:
    """The loss −ln p of each target token, in nats, given the prompt and the target before it."""
    return teacher_forced(model, Batch([memory], model.config.context, model.device))[0].tolist()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# %% Run: an entry of a phone book
entry = tm.text_memory(tokenizer, " 0451", prompt="Ada Lovelace:")
batch = Batch([entry], model.config.context, model.device)
ids, rows = batch.ids[0].tolist(), batch.rows[1].tolist()
wanted = dict(zip(rows, batch.targets.tolist(), strict=True))
print("position   the model reads   and should predict")
for position, token in enumerate(ids):
    next_token = repr(tokenizer.decode([wanted[position]])) if position in wanted else "–"
    print(f"{position:8}   {tokenizer.decode([token])!r:15}   {next_token}")

assert len(ids) == len(entry.prompt_ids) + entry.length - 1
assert rows == list(range(len(entry.prompt_ids) - 1, len(ids)))

# %% Run: random tokens
# To measure how much a unit can hold, we need targets that the model cannot know or guess. The
# cleanest choice is tokens drawn uniformly at random. There are 2,047 tokens to draw from (the
# vocabulary without its special token), so each target token has an entropy of H = ln 2,047 nats.
noise = tm.random_memory(tokenizer, 64)
again = tokenizer.encode(tokenizer.decode(noise.target_ids), special=False)
print(f"\n64 random ids, decoded to text and encoded again, give {len(again)} ids;", end=" ")
print(f"equal to the first ones: {tuple(again) == noise.target_ids}")
assert tuple(again) != noise.target_ids  # so random memories are stored as ids, not as text

# %% Run: the loss of the base model
english = tm.text_memory(
    tokenizer, "And the king said unto his servants, Go ye up to the city, and rest."
)
losses, H = {"English": losses_of(english), "random tokens": losses_of(noise)}, noise.entropy
for name, values in losses.items():
    print(f"{name:13}  {mean(values):5.2f} nats per token = {mean(values) / math.log(2):4.1f} bits")
print(f"entropy H      {H:5.2f} nats per token = ln {len(tokenizer.plain_ids):,}: a uniform guess")

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (name, values), colour in zip(losses.items(), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(values, "o-", ms=3, lw=0.8, color=colour, label=f"{name}: mean {mean(values):.1f}")
ax.axhline(H, color="black", ls="--", lw=1, label=f"entropy of random tokens: {H:.1f}")
ax.set(xlabel="position in the target", ylabel="base loss (nats per token)", ylim=(0, 28))
ax.legend(fontsize=8)
fig.savefig("01_what_to_remember.png", dpi=110)

# %% What you should see
# A *nat* is the unit of a loss −ln p. The English sentence costs about 4 nats per token, because
# the base model was trained on such text. The random tokens cost about 12 nats per token, which is
# *more* than their entropy of 7.6. The model does not merely lack information about random tokens:
# it expects English, and so it gives most random tokens a far lower probability than 1 in 2,047. A
# unit first has to remove this expectation, which is worth 12 − 7.6 nats per token. Lesson 9
# returns to this point. It is the reason why tinymem reports *memorized* bits next to *stored*
# bits.
assert mean(losses["English"]) < 4.5 < H < mean(losses["random tokens"])
assert torch.isfinite(torch.tensor(losses["random tokens"])).all()

# %% Exercise
# Write `inputs_and_targets(prompt_ids, target_ids)` in tutorials/exercises.py. It returns ids, rows
# and targets as above, for any prompt and target. Then:
#
#     pytest tutorials -m ex1
