# %% [markdown]
# # 4. Writing a memory
#
# **What does it take to write a text into a unit, and when is each of its tokens learned?**
#
# ![The losses of three tokens fall below ln 2 at different steps; their mean does not show it](pictures/ideas/04.svg)
#
# Training lowers the mean loss of the target. Each token has a loss curve of its own, which the
# mean does not show. A token whose loss has fallen below ln 2 has a probability above one half. A
# token that has not reached this at the end of the training is called *stubborn*.
#
# - **You need:** [lesson 3](03_the_memory_unit.py)
# - **Time:** 5 seconds to run, 2.5 hours with the practice
# - **Read afterwards:** tinymem/training/recipe.py, tinymem/training/loss.py,
#   tinymem/training/trainer.py, tinymem/training/train.py, tinymem/unit/adapter.py

# %% [markdown]
# ## Idea
#
# The loss of target token $t$, the token $y$ at a position with the logits $z$, is
#
# $$\ell_t = -\ln p_y = -\ln \frac{e^{z_y}}{\sum_k e^{z_k}} = \ln \sum_k e^{z_k} - z_y$$
#
# in nats. A token with $p = \frac{1}{2}$ has the loss $\ln 2 = 0.693$, a certain one the loss 0,
# and a uniform guess among 2,047 tokens the loss 7.62. Each target token is predicted given the
# *true* tokens before it, all in one pass. This is called *teacher forcing*: the teacher corrects
# every token before the next one is predicted.
#
# The training minimizes the mean loss of the target. Only $A$ and $B$ change. The memory is one
# example that is used in every step, so there are no batches and no epochs, and the gradient has no
# sampling noise. The recipe is that of the paper:
#
# - AdamW, a gradient descent that follows the mean of the recent gradients and divides the step of
#   each parameter by their size; without weight decay, which would pull the parameters towards 0;
# - a learning rate that falls in a straight line to 0;
# - clipping: a gradient with a norm above 1 is scaled down to norm 1.
#
# ## Shapes
#
# | symbol | shape | meaning |
# |---|---|---|
# | logits $z$ | [ℓ, V] | from the positions that predict the target |
# | targets $y$ | [ℓ] | the target tokens |
# | losses | [ℓ] | $-\ln p$ of each target token, in nats |

# %%
import os
import tempfile

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.training.recipe import auto_lr

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
STEPS = 60 if FAST else 200

model, tokenizer = tm.load("tiny", device="cpu")
memory = tm.random_memory(tokenizer, 64)
ids = torch.tensor([memory.prompt_ids + memory.target_ids])
first, targets = len(memory.prompt_ids) - 1, ids[0, len(memory.prompt_ids) :]

# %% [markdown]
# ## The loop in ten lines
#
# This is the whole training, in plain torch. The clipping comes after `backward`, which computes
# the gradient, and before `step`, which uses it. `bars.track` shows how far the loop is.

# %%
unit = tm.Unit.create(model, rank=8, seed=0).attach(model)
optimizer = torch.optim.AdamW(unit.parameters(), lr=auto_lr(model), weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
trace = []
with tm.bars() as bars:
    for _ in bars.track(range(STEPS), "the loop in ten lines"):
        logits = model(ids[:, :-1])[0, first:]  # the positions that predict the target
        loss = torch.nn.functional.cross_entropy(logits, targets)  # the mean of −ln p
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unit.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        trace.append(loss.item())
unit.detach()

# %% [markdown]
# ## The library's loop
#
# `tm.memorize` does the same, but it computes the layers below the unit only once. Lesson 11
# measures how much time this saves. Rounding differs, and the difference grows with the steps,
# since each step starts from the last one.

# %%
with tm.bars() as bars:
    result = tm.memorize(model, memory, rank=8, steps=STEPS, seed=0, progress=bars)
apart = max(abs(a - b) for a, b in zip(trace[:50], result.training.losses[:50], strict=True))
final, base_loss = result.report["final_loss"], result.report["base_loss"]
print(f"learning rate {auto_lr(model):g}, {STEPS} steps: the loss falls", end=" ")
print(f"from {trace[0]:.3f} to {final:.3f} nats per token")
print(f"on the way it rises to {max(trace):.1f}, at step {trace.index(max(trace))}")
print(f"the two loops differ by at most {apart:.0e} nats over the first 50 steps")
assert apart < 1e-3
assert abs(trace[0] - base_loss) < 1e-4  # B = 0, so the first loss is that of the base model
assert trace[-1] < trace[0] / 3

# %% [markdown]
# ## Token by token
#
# `result.training.trace` has the probability of each token at each step. In the picture on the
# right each row is a token. It is dark where $p$ is near 0 and bright where $p$ is near 1.

# %%
steps, p = zip(*result.training.trace, strict=True)
p = torch.tensor(p)  # [recorded steps, ℓ]
crossed = [
    next((s for s, now in zip(steps, column, strict=True) if now > 0.5), None) for column in p.T
]
known = sorted(step for step in crossed if step is not None)
half = known[len(known) // 2]
print(f"p > ½ for the first time: one token at step {known[0]}, half of the tokens", end=" ")
print(f"by step {half}, the last token at step {known[-1]}")
assert FAST or len(known) == memory.length
assert known[-1] > 2 * half  # the last token is late

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.plot(trace, color="#D55E00", lw=3, alpha=0.5, label="ten lines")
left.plot(result.training.losses, color="#0072B2", lw=1, label="tm.memorize")
left.set(xlabel="step", ylabel="mean loss (nats per token)", yscale="log")
left.legend()
extent = (0, STEPS, 0, memory.length)
image = right.imshow(p.T.numpy(), aspect="auto", origin="lower", extent=extent, vmin=0, vmax=1)
right.set(xlabel="step", ylabel="position in the target", title="p of each token", xlim=(0, 80))
fig.colorbar(image, ax=right)
fig.savefig("04_writing_a_memory.png", dpi=110)

# %% [markdown]
# ## Save the unit and load it again
#
# A unit is saved as a small file. After it is loaded into another copy of the model, the loss is
# the same.

# %%
with tempfile.TemporaryDirectory() as folder:
    tm.save_adapter(result.unit, model, folder)
    again, _ = tm.load("tiny", device="cpu")
    tm.load_adapter(again, folder)  # reads the unit and attaches it
    loss = tm.judge(again, memory).loss
print(f"saved, and loaded into a second copy of the model: loss {loss:.3f}")
assert abs(loss - final) < 1e-5

# %% [markdown]
# ## What you should see
#
# - The loss falls from 12.432 to 0.115 nats per token. The learning rate of 0.1 is large, so in the
#   first steps the loss rises for a while. Both loops have the same losses over the first 50 steps,
#   up to rounding.
# - Half of the tokens exceed one half by step 15, and the last one only at step 46. The mean loss
#   hides this, and lesson 5 explains why it matters.
#
# ## In three sentences
#
# Training minimizes the mean of −ln p over the target tokens, where each is predicted given the
# true tokens before it. Ten lines of torch are enough, because the memory is one example that is
# used in every step. After the first steps, the mean loss falls smoothly, but each token exceeds
# one half at a step of its own.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | AdamW without weight decay, learning rate falling linearly from 1e-2 (at width 4,096), clipping at norm 1 | tinymem/training/recipe.py, `auto_lr` | learning rate 0.1 at the width of `tiny`, which is the upper limit |
# | A unit learns a text of random tokens by heart | tinymem/training/train.py | from 12.432 to 0.115 nats per token in 200 steps |
# | The mean loss hides late and stubborn tokens | tinymem/training/record.py | no token is stubborn here, but the last one is late: step 46, and half of the tokens by step 15 |
#
# ## Practice
#
# **Rung 3**, the loss of a token: write `target_logits`, `token_losses` and `plain` in
# `tutorials/mymem.py`. **Rung 4**, the training loop: write `write`.
#
# ```sh
# pytest tutorials -m rung3
# python tutorials/hint.py rung3
# pytest tutorials -m rung4
# python tutorials/hint.py rung4
# ```
#
# ## Further reading
#
# - [Kingma and Ba 2014](https://arxiv.org/abs/1412.6980): Adam
# - [Loshchilov and Hutter 2017](https://arxiv.org/abs/1711.05101): AdamW, in which the weight decay
#   is separate from the gradient
# - [Pascanu et al. 2012](https://arxiv.org/abs/1211.5063): why gradients are clipped
