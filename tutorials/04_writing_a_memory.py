"""Lesson 4. Writing a memory

You need       lesson 3, and python tutorials/04_writing_a_memory.py
You will see   the training loop in ten lines, and that the library's loop, which takes every shortcut,
               goes through the same losses; tokens that are learned one by one; a unit saved and read
               again
Explains       tinymem/training/loss.py, tinymem/training/recipe.py, tinymem/training/train.py, tinymem/unit/adapter.py
Time           10 seconds to run, 45 minutes with the exercise
"""

# %% Idea
# The loss of a target token is ℓ = −ln p, p being the probability that the model gives to it. In nats: a
# token with p = ½ costs ln 2 = 0.693, one that is certain costs 0, one out of 2,047 at random costs 7.6.
# Training lowers the mean over the target; only the unit's A and B move. A memory is one example, seen
# again and again: no batches, no epochs, no noise. The paper's recipe is AdamW, a learning rate that
# falls linearly to 0, gradients clipped at norm 1.

# %% Shapes
#   logits [ℓ, V], rows that predict the target   targets [ℓ]   losses [ℓ], nats
#   losses[t] = −ln softmax(logits[t])[targets[t]] = ln Σ exp(logits[t]) − logits[t, targets[t]]

# %% Code
import os
import tempfile

import matplotlib.pyplot as plt
import torch

import tinymem as tm
from tinymem.training.recipe import auto_lr

FAST = "TINYMEM_FAST" in os.environ  # a quick look: fewer steps, rougher numbers
STEPS = 60 if FAST else 200

model, tokenizer = tm.load("tiny")
memory = tm.random_memory(tokenizer, 64)
ids = torch.tensor([memory.prompt_ids + memory.target_ids])
first, targets = len(memory.prompt_ids) - 1, torch.tensor(memory.target_ids)

# %% Run: the loop, in ten lines
unit = tm.Unit.create(model, rank=8, seed=0).attach(model)
optimizer = torch.optim.AdamW(unit.parameters(), lr=auto_lr(model), weight_decay=0.0)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
trace = []
for _ in range(STEPS):
    logits = model(ids[:, :-1])[0, first:]  # the rows that predict the target
    loss = torch.nn.functional.cross_entropy(logits, targets)  # the mean of −ln p, nats per token
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unit.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    trace.append(loss.item())
unit.detach()

# %% Run: the library's
result = tm.memorize(model, memory, rank=8, steps=STEPS, seed=0)
apart = max(abs(a - b) for a, b in zip(trace[:50], result.training.losses[:50], strict=True))
final = result.report["final_loss"]
print(f"lr {auto_lr(model):g}, {STEPS} steps: loss {trace[0]:.3f} → {final:.3f} nats per token")
print(
    f"the ten lines and the library: losses of the first 50 steps differ by at most {apart:.0e} nats"
)
assert (
    apart < 1e-3
)  # rounding; it grows slowly with the steps, as everything does in a feedback loop
assert (
    abs(trace[0] - result.report["base_loss"]) < 1e-4
)  # B = 0: the first loss is the base model's

# %% Run: token by token
steps, p = zip(*result.training.trace, strict=True)
p = torch.tensor(p)  # [looks, ℓ]
crossed = [
    next((s for s, now in zip(steps, column, strict=True) if now > 0.5), None) for column in p.T
]
known = sorted(step for step in crossed if step is not None)
half = known[len(known) // 2]
print(
    f"first p > ½: one token at step {known[0]}, half of them by step {half}, the last one at {known[-1]}"
)

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.plot(trace, color="#D55E00", lw=3, alpha=0.5, label="ten lines")
left.plot(result.training.losses, color="#0072B2", lw=1, label="tm.memorize")
left.set(xlabel="step", ylabel="mean loss (nats per token)", yscale="log")
left.legend()
image = right.imshow(
    p.T.numpy(), aspect="auto", origin="lower", extent=(0, STEPS, 0, memory.length), vmin=0, vmax=1
)
right.set(xlabel="step", ylabel="position in the target", title="p of each token", xlim=(0, 80))
fig.colorbar(image, ax=right)
fig.savefig("04_writing_a_memory.png", dpi=110)

# %% Run: save, read again
with tempfile.TemporaryDirectory() as folder:
    tm.save_adapter(result.unit, model, folder)
    again, _ = tm.load("tiny")
    tm.load_adapter(again, folder)  # reads and attaches
    loss = tm.judge(again, memory).loss
print(f"saved, loaded into a fresh model: loss {loss:.3f}")
assert abs(loss - final) < 1e-5

# %% What you should see
# The loss jumps up in the first steps, because this learning rate is bold, and then falls from 12 to
# about 0.1 nats per token. Its mean is smooth; the tokens are not: each crosses one half at a step of its
# own, the first one within a few steps, the last one at step 46, long after most. The mean hides that;
# lesson 5 says why it matters. Both loops go through the same losses to about six digits, though the
# library computes the layers below the unit only once: lesson 10 measures what that saves.
assert trace[-1] < trace[0] / 3

# %% Exercise
# Write `token_losses(logits, targets)` out of exp, log, sum, max and indexing alone. Then:
#
#     pytest tutorials -m ex4
