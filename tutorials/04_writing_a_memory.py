"""Lesson 4. Writing a memory

You need       lesson 3, and `python tutorials/04_writing_a_memory.py`
You will see   the training loop in ten lines of torch; that the library's optimized loop has the
               same losses; at which step each token is learned; how a unit is saved and loaded
Explains       tinymem/training/recipe.py, tinymem/training/loss.py, tinymem/training/trainer.py,
               tinymem/training/train.py, tinymem/unit/adapter.py
Time           10 seconds to run, 45 minutes with the exercise
"""

# %% Idea
# The loss of a target token is ℓ = −ln p, where p is the probability that the model gives to this
# token. It is measured in nats. A token with p = ½ has a loss of ln 2 = 0.693, a token that is
# certain has a loss of 0, and a uniform guess among 2,047 tokens has a loss of 7.6.
#
# Training minimizes the mean loss over the target, and only A and B change. The memory is a single
# training example that is used in every step, so there are no batches and no epochs, and the
# gradient has no sampling noise. The recipe of the paper is AdamW with a learning rate that falls
# linearly to 0, and with gradients clipped to norm 1.

# %% Shapes
#   logits [ℓ, V], from the positions that predict the target   targets [ℓ]   losses [ℓ], nats
#   losses[t] = −ln softmax(logits[t])[targets[t]] = ln Σ exp(logits[t]) − logits[t, targets[t]]

# %% Code
import os
import tempfile

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.training.recipe import auto_lr

FAST = "TINYMEM_FAST" in os.environ  # fewer steps, for a quick look; the results are less precise
STEPS = 60 if FAST else 200

model, tokenizer = tm.load("tiny")
memory = tm.random_memory(tokenizer, 64)
ids = torch.tensor([memory.prompt_ids + memory.target_ids])
first, targets = len(memory.prompt_ids) - 1, torch.tensor(memory.target_ids)

# %% Run: the loop in ten lines
unit = tm.Unit.create(model, rank=8, seed=0).attach(model)
optimizer = torch.optim.AdamW(unit.parameters(), lr=auto_lr(model), weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
trace = []
for _ in range(STEPS):
    logits = model(ids[:, :-1])[0, first:]  # the positions that predict the target
    loss = torch.nn.functional.cross_entropy(logits, targets)  # the mean of −ln p, nats per token
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unit.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    trace.append(loss.item())
unit.detach()

# %% Run: the library's loop
result = tm.memorize(model, memory, rank=8, steps=STEPS, seed=0)
apart = max(abs(a - b) for a, b in zip(trace[:50], result.training.losses[:50], strict=True))
final, base_loss = result.report["final_loss"], result.report["base_loss"]
print(f"learning rate {auto_lr(model):g}, {STEPS} steps: the loss falls", end=" ")
print(f"from {trace[0]:.3f} to {final:.3f} nats per token")
print(f"the two loops differ by at most {apart:.0e} nats over the first 50 steps")
assert (
    apart < 1e-3
)  # rounding errors; they grow with the steps, since each step starts from the last
assert abs(trace[0] - base_loss) < 1e-4  # B = 0, so the first loss is that of the base model

# %% Run: token by token
steps, p = zip(*result.training.trace, strict=True)
p = torch.tensor(p)  # [recorded steps, ℓ]
crossed = [
    next((s for s, now in zip(steps, column, strict=True) if now > 0.5), None) for column in p.T
]
known = sorted(step for step in crossed if step is not None)
half = known[len(known) // 2]
print(f"p > ½ for the first time: one token at step {known[0]}, half of the tokens", end=" ")
print(f"by step {half}, the last token at step {known[-1]}")

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

# %% Run: save the unit and load it again
with tempfile.TemporaryDirectory() as folder:
    tm.save_adapter(result.unit, model, folder)
    again, _ = tm.load("tiny")
    tm.load_adapter(again, folder)  # reads the unit and attaches it
    loss = tm.judge(again, memory).loss
print(f"saved, and loaded into a second copy of the model: loss {loss:.3f}")
assert abs(loss - final) < 1e-5

# %% What you should see
# The loss rises in the first few steps, because the learning rate is large, and then falls from 12
# to about 0.1 nats per token. The mean loss is a smooth curve, but single tokens behave
# differently: each exceeds ½ at a step of its own. The first token does so within a few steps; the
# last one needs 46 steps, long after most others. The mean loss hides this, and lesson 5 explains
# why it matters.
#
# Both loops have the same losses to about six digits, although the library computes the layers
# below the unit only once. Lesson 11 measures how much time this saves.
assert trace[-1] < trace[0] / 3

# %% Exercise
# Write `token_losses(logits, targets)` with exp, log, sum, max and indexing only. Then:
#
#     pytest tutorials -m ex4
