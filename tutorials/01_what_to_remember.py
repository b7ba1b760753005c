# %% [markdown]
# # 1. What to remember
#
# **What exactly should a model remember, and how can we be sure that it did not know it before?**
#
# ![Prompt and target in one row; the model predicts each target token at the position before it](pictures/ideas/01.svg)
#
# A memory is a prompt followed by a target. The model reads both in one row and predicts, at each
# position, the token that comes next. Only the predictions of the target count.
#
# - **You need:** Python 3.10 or newer, and a copy of the project. In its folder, run
#   `pip install -e ".[plot]" pytest` and then `python tutorials/01_what_to_remember.py`. Each
#   lesson saves its picture in the current folder.
# - **Time:** 2 seconds to run, 1 hour with the practice
# - **Read afterwards:** tinymem/data/memory.py, tinymem/data/batch.py, tinymem/base/tokenizer.py
#
# ## Is everything ready?
#
# The first cell checks that everything is there that the course needs. If something is missing, it
# stops and says so in one line. Never run `pip install tinymem`: on the package index this name
# belongs to another project.

# %%
import os
import platform
import sys
from importlib.util import find_spec
from pathlib import Path

INSTALL = 'in the folder above tutorials/, run: pip install -e ".[plot]" pytest'
spec = find_spec("tinymem")
package = Path((spec.submodule_search_locations or [spec.origin])[0]) if spec else Path()
missing = [name for name in ("torch", "tinymem", "matplotlib") if find_spec(name) is None]
here = next((name for name in (".", "tutorials") if Path(name, "reproduction").is_dir()), None)
problem = ""
if sys.version_info < (3, 10):
    problem = f"this is Python {platform.python_version()}; the course needs 3.10 or newer"
elif missing:
    problem = f"this Python has no {' and no '.join(missing)}; {INSTALL}"
elif not (package / "data" / "memory.py").is_file():
    problem = f"{package} is another project named tinymem; pip uninstall tinymem, then {INSTALL}"
elif here is None:
    problem = f"{Path.cwd()} has no tutorials/; start from the folder that contains it"
if problem:
    sys.exit(f"error: {problem}")

# %% [markdown]
# The versions are useful when you ask for help. The course needs no GPU (graphics processor) and
# uses none: `tiny` is so small that two cores are enough.

# %%
import math

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.data.batch import Batch
from tinymem.experiment.recall import teacher_forced

print(f"Python {platform.python_version()}, torch {torch.__version__.partition('+')[0]},", end=" ")
print(f"tinymem {tm.__version__}; cores: {os.cpu_count()}")
print(f"everything is ready; the course's files are in {'this folder' if here == '.' else here}\n")

# %% [markdown]
# ## Idea
#
# A language model reads *tokens*: words or parts of words, each with a number, its *id*. The list
# of all tokens is the *vocabulary*. When it has read the tokens 0 to $t$, the model gives each
# token of the vocabulary the probability that this token comes next, as number $t + 1$.
#
# A *memory* is a pair of token sequences. The prompt is the key, and the target is the value: after
# the prompt "Ada Lovelace:" the model should write the number of that person. The first target
# token is predicted at the last position of the prompt, and nothing is predicted from the last
# target token, so it is never an input.
#
# The *loss* of a token is $-\ln p$, where $p$ is the probability that the model gave to it. It is 0
# if the model was certain, and large if the token had a low probability. With the natural logarithm
# the unit is the *nat*; one nat is $1 / \ln 2 = 1.44$ bits. The prompt has no loss, because it is
# given and does not have to be learned.
#
# ## Shapes
#
# | symbol | shape | meaning |
# |---|---|---|
# | `prompt_ids` | [P] | token ids that the model reads |
# | `target_ids` | [ℓ] | token ids that it should write; ℓ is called the *length* |
# | `ids` | [P + ℓ − 1] | the input: the prompt, and the target without its last token |
# | `rows` | [ℓ] | the positions that predict the target: P − 1, …, P + ℓ − 2 |
# | `targets` | [ℓ] | the token that should be predicted at each of these positions |
#
# ## An entry of a phone book
#
# The model `tiny` is part of the package, so no download is needed. It has 3.9 million parameters
# and was trained on Shakespeare, Milton and the King James Bible. The table shows what it reads and
# what it should predict. A batch may hold several memories, so `batch.rows` is two lists: which
# memory, and which position. `batch.rows[1]` is the second one. (`model.config.context` is the
# largest number of tokens that the model can read.)

# %%
model, tokenizer = tm.load("tiny", device="cpu")
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
print(f"{len(ids)} positions are read, and {len(rows)} of them predict a token of the target")

# %% [markdown]
# ## Random tokens
#
# A *unit* is the small set of parameters that this course trains (lesson 3). To measure how much it
# can hold, we need targets that the model can neither know nor guess.
# The cleanest choice is tokens drawn uniformly at random. The *entropy* measures how uncertain such
# a draw is: it is the smallest mean loss of somebody who does not know the target. If each of $n$
# tokens has $p = 1/n$, it is
#
# $$H = -\sum_{i=1}^{n} \frac{1}{n} \ln \frac{1}{n} = \ln n$$
#
# The tokens are drawn from `tokenizer.plain_ids`, all ids except the special one that ends a text:
# 2,047 of 2,048. They are kept as ids, because decoding them to text and encoding this text again
# gives other ids. (`special=False`: no special token is recognized in the text.)

# %%
noise = tm.random_memory(tokenizer, 64)
again = tokenizer.encode(tokenizer.decode(noise.target_ids), special=False)
print(f"\n64 random ids, decoded to text and encoded again, give {len(again)} ids;", end=" ")
print(f"equal to the first ones: {tuple(again) == noise.target_ids}")
assert tuple(again) != noise.target_ids

# %% [markdown]
# ## The loss of the base model
#
# The *base model* is the model before any training of ours. What does it expect? The picture shows
# its loss on each token of an English sentence, and on each of the random tokens. A script saves
# its picture in the current folder, here as 01_what_to_remember.png.


# %%
def losses_of(memory: tm.Memory) -> list[float]:
    """The loss of each target token, in nats, given the prompt and the target before it."""
    return teacher_forced(model, Batch([memory], model.config.context, model.device))[0].tolist()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


sentence = "And the king said unto his servants, Go ye up to the city, and rest."
losses = {"English": losses_of(tm.text_memory(tokenizer, sentence))}
losses["random tokens"] = losses_of(noise)
H, count = noise.entropy, len(tokenizer.plain_ids)
for name, values in losses.items():
    print(f"{name:13}  {mean(values):5.2f} nats per token = {mean(values) / math.log(2):4.1f} bits")
print(f"entropy H      {H:5.2f} nats per token = ln {count:,}: a uniform guess among all tokens")
excess = mean(losses["random tokens"]) - H
print(f"on random tokens the loss is {excess:.2f} nats per token above the entropy")
assert mean(losses["English"]) < 4.5 < H < mean(losses["random tokens"])
assert math.log(count) == H and excess > 4

fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
for (name, values), colour in zip(losses.items(), ("#0072B2", "#D55E00"), strict=True):
    ax.plot(values, "o-", ms=3, lw=0.8, color=colour, label=f"{name}: mean {mean(values):.1f}")
ax.axhline(H, color="black", ls="--", lw=1, label=f"entropy of random tokens: {H:.1f}")
ax.set(xlabel="position in the target", ylabel="base loss (nats per token)", ylim=(0, 28))
ax.legend(fontsize=8)
fig.savefig("01_what_to_remember.png", dpi=110)

# %% [markdown]
# ## What you should see
#
# - The first target token is predicted at position 7, the last one of the prompt, and the last
#   target token `'1'` is never read.
# - After decoding and encoding, the 64 random ids have become 75 other ids.
# - English has a loss of 3.82 nats per token, because the model was trained on such text. Random
#   tokens have a loss of 12.43 nats, *more* than their entropy of 7.62. The model does not merely
#   lack information about them: it expects English, and gives most random tokens a far lower
#   probability than 1 in 2,047. A unit first has to unlearn this expectation. That alone lowers the
#   loss by 4.81 nats per token (lesson 9).
#
# ## In three sentences
#
# A memory is a prompt and a target, and only the target has a loss. The last target token is never
# an input, because nothing is predicted from it. Random tokens are the cleanest target, since their
# entropy is known and nobody can guess them, but a model of English starts above this entropy.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | The loss is the mean cross-entropy of the target alone | tinymem/data/batch.py, `Batch` | 12 positions are read, and 5 of them predict a token of the target |
# | The stress test is a target of random tokens alone ("r100", Table 2) | tinymem/data/memory.py, `random_memory` | 12.43 nats per token before training; an English sentence has 3.82 |
#
# ## Practice
#
# **Rung 1** of your own library: write `draw_tokens` and `inputs_and_targets` in
# `tutorials/mymem.py`. You will build on them until rung 9. The first command checks the rung, and
# each call of the second one gives you a further hint.
#
# ```sh
# pytest tutorials -m rung1
# python tutorials/hint.py rung1
# ```
#
# ## Further reading
#
# - [Shannon 1948](https://doi.org/10.1002/j.1538-7305.1948.tb01338.x): information and entropy
# - [Sennrich et al. 2016](https://arxiv.org/abs/1508.07909): tokens by byte-pair encoding
# - [Carlini et al. 2019](https://arxiv.org/abs/1802.08232): random "canaries" to measure what a
#   model has memorized
