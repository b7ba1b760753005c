"""The checks of rungs 3 and 4: the loss of a token, and a training loop.

All inputs are drawn from --seed. What is expected is computed in plain torch (expected.py).
"""

import math

import pytest
import torch
from torch import Tensor

from checks import expected, scenarios_rungs_1_to_5 as scenarios
from checks.expected import drawn, token_ids, whole
from checks.grading import (
    apart,
    first_of,
    kind_of,
    near,
    number,
    require,
    require_close,
    rounded,
    tensor,
)
from checks.ladder import rung
from checks.values import MODEL

LN2 = math.log(2)
points = pytest.mark.points


# --- Rung 3: the loss of a token ------------------------------------------------------------------


@rung(3)
def test_rung3_the_logits_of_the_target(mymem, seed):
    generator = drawn(seed)
    unit = expected.some_unit(2, generator)
    for sizes in ((3, 1), (whole(2, 9, generator), whole(4, 12, generator))):
        prompt, target = (token_ids(n, generator) for n in sizes)
        with torch.no_grad():
            every = expected.all_logits(prompt + target, *unit)
        found = mymem.run(scenarios.logits_of, MODEL, prompt, target, *unit)
        case = f"For {len(prompt)} prompt tokens and {len(target)} target tokens, target_logits"
        logits = tensor(found["logits"], (len(target), every.shape[1]), f"{case}, [N, V],")
        right = every[len(prompt) - 1 : -1]
        hints = {
            "The model has read the token whose logits these are": (
                apart(logits, every[len(prompt) :]) < 1e-3
            ),
            "These are log-probabilities": apart(logits, right.log_softmax(-1)) < 1e-3,
            "These are probabilities": apart(logits, right.softmax(-1)) < 1e-3,
        }
        message = f"{case} should be the logits at the positions that predict the target"
        require_close(logits, right, message + first_of(hints), 1e-3)


@rung(3)
def test_rung3_one_pass_with_a_gradient(mymem, seed):
    generator = drawn(seed)
    prompt, target = token_ids(4, generator), token_ids(6, generator)
    unit = expected.some_unit(2, generator)
    found = mymem.run(scenarios.logits_of, MODEL, prompt, target, *unit)
    message = "The logits have no gradient with respect to A and B, so a unit could not be trained"
    hint = "Do not detach them, and do not use torch.no_grad here"
    require(found["gradient"], f"{message}. {hint}")
    message = f"The model was called {found['passes']} times for 6 target tokens. It gives the"
    message += " logits after every position at once, so one pass is enough"
    require(found["passes"] == 1, message, keeps=0.5)


def losses_of(mymem, logits: Tensor, targets: Tensor) -> tuple[Tensor, list[str], object]:
    losses, names, gradient = mymem.run(scenarios.losses_of, logits, targets)
    losses = tensor(losses, targets.shape, "The losses, [N], one for each token,")
    return losses, names, gradient


def scored(seed: int) -> tuple[Tensor, Tensor]:
    """Logits [N, V] and targets [N]."""
    generator = drawn(seed)
    n, v = whole(5, 30, generator), whole(3, 30, generator)
    logits = 4 * torch.randn(n, v, generator=generator)
    return logits, torch.randint(v, (n,), generator=generator)


@rung(3)
def test_rung3_the_loss_of_each_token(mymem, seed):
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])
    losses, _, _ = losses_of(mymem, logits, torch.tensor([0, 0, 0]))
    right = torch.tensor([LN2, math.log(4), math.log(4 / 3)])
    hints = {
        "These are bits. Use log instead of log2": apart(losses, right / LN2) < 1e-3,
        "Wrong sign: a loss is −ln p, which is never negative": apart(-losses, right) < 1e-3,
        "These are probabilities. The loss is −ln p": apart(losses, (-right).exp()) < 1e-3,
        "This is their mean for every token": apart(losses, right.mean().expand(3)) < 1e-3,
    }
    message = "The probabilities ½, ¼ and ¾ have losses of ln 2 = 0.693, ln 4 = 1.386 and ln 4/3 ="
    message += f" 0.288 nats, not {rounded(losses)}"
    require_close(losses, right, message + first_of(hints))
    logits, targets = scored(seed)
    losses, names, gradient = losses_of(mymem, logits, targets)
    right = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    message = "The losses should be equal to those of torch's cross_entropy"
    require_close(losses, right, message, 1e-4)
    message = "The losses have no gradient with respect to the logits. Do not detach them"
    require(isinstance(gradient, Tensor), message, keeps=0.5)
    found = {name.strip("_") for name in names if "softmax" in name or "logsumexp" in name}
    message = f"token_losses uses torch's {', '.join(sorted(found))}. Use exp, log, sum, max and"
    require(not found, f"{message} indexing only", keeps=0.5)


@rung(3)
def test_rung3_large_logits(mymem, seed):
    logits, targets = scored(seed)
    plain, first = losses_of(mymem, logits, targets)[0], torch.zeros(len(logits), 1)
    first[0] = 1000.0
    shifts = {
        "Adding 1000 to all logits": 1000.0,
        "Subtracting 1000 from all logits": -1000.0,
        "Adding 1000 to the logits of the first token": first,
    }
    for what, shift in shifts.items():
        losses, _, _ = losses_of(mymem, logits + shift, targets)
        odd = losses[~losses.isfinite()][:1].tolist()
        message = f"{what} gave a loss of {odd}. In float32, e^1000 overflows, and ln 0 is not"
        message += " finite either. First subtract from each row its own largest logit"
        require(not odd, message)
        require_close(losses, plain, f"{what} should not change the losses", 1e-3)


@rung(3)
def test_rung3_plain_is_the_mean(mymem, seed):
    logits, targets = scored(seed)
    for progress in (0.0, 0.7):
        value, gradient = mymem.run(scenarios.objective, logits, targets, progress)
        value = tensor(value, (), "The value of plain, a scalar,")
        losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        hints = {
            "This is the sum of the losses": near(float(value), float(losses.sum()), 1e-4),
            "plain should not use the progress": progress > 0,
        }
        message = f"plain should be the mean loss, {losses.mean():.4f}, not {value:.4f}"
        require(near(float(value), float(losses.mean()), 1e-4), message + first_of(hints))
        message = "plain has no gradient with respect to the logits, so nothing would be trained"
        require(isinstance(gradient, Tensor), f"{message}. Return a tensor, not a number", 0.5)


# --- Rung 4: a training loop ----------------------------------------------------------------------


class Case:
    """A small memory, and what the student's `write` makes of it."""

    def __init__(self, mymem, seed: int, steps: int, half: bool = False):
        generator = drawn(seed)
        self.prompt = token_ids(whole(3, 6, generator), generator)
        self.target = token_ids(whole(10, 16, generator), generator)
        self.steps, self.lr = steps, [0.05, 0.1][whole(0, 1, generator)]
        rank = whole(2, 4, generator)
        memory = (self.prompt, self.target, rank, steps, self.lr, half)
        self.found = mymem.run(scenarios.write_memory, MODEL, *memory)

    @property
    def losses(self) -> list[float]:
        losses = self.found["losses"]
        listed = isinstance(losses, list) and len(losses) == self.steps
        message = f"For {self.steps} steps, write should return a list of {self.steps} losses, not"
        got = f"a list of {len(losses)}" if isinstance(losses, list) else kind_of(losses)
        require(listed, f"{message} {got}")
        return [number(loss, "A loss in the list of write") for loss in losses]

    def loop(self, stop: int | None = None, **fault) -> tuple[list[float], Tensor, Tensor]:
        """What the right loop does from the student's A, or a loop with a fault."""
        start = (self.prompt, self.target, self.found["start"], self.steps, self.lr)
        return expected.loop(*start, stop=stop, **fault)


@rung(4)
def test_rung4_the_losses_before_each_step(mymem, seed):
    case = Case(mymem, seed, steps=3 + seed % 3)
    first, (base, second), ids = case.losses[0], case.loop(2)[0], case.prompt + case.target
    every = expected.plain(expected.all_logits(ids[:-1]), torch.tensor(ids[1:]))
    hints = {
        "This is the loss after the first step": near(first, second, 1e-3),
        "This is the loss of the prompt and the target": near(first, float(every), 1e-3),
        "This is the sum over the target": near(first, base * len(case.target), 1e-3),
        "This is in bits": near(first, base / LN2, 1e-3),
    }
    message = f"The first loss in the list should be that of the new unit, {base:.4f} nats, as of"
    message += f" the base model. It is {first:.4f}"
    require(near(first, base, 1e-4), message + first_of(hints))


FAULTS = {
    "The gradients of earlier steps are added up: set them to zero in each step": {"zero": False},
    "The norm of the gradient is not clipped": {"clip": "none"},
    "A and B are clipped one by one, but the norm of both together should be at most 1": {
        "clip": "each"
    },
    "The learning rate does not fall": {"rate": lambda step, steps: 1.0},
    "The learning rate reaches 0 one step too early: step counts from 0": {
        "rate": lambda step, steps: 1 - (step + 1) / steps
    },
    "The learning rate falls to a tenth, not to 0": {
        "rate": lambda step, steps: 1 - 0.9 * step / steps
    },
    "The learning rate falls along a cosine, not in a straight line": {
        "rate": lambda step, steps: (1 + math.cos(math.pi * step / steps)) / 2
    },
    "AdamW has a weight decay of 0.01 unless it is given weight_decay=0": {"decay": 0.01},
    "The prompt is trained as well": {"prompt_too": True},
    "This is plain gradient descent, not AdamW": {"optimizer": expected.Descent},
}


@rung(4)
@points(2)
def test_rung4_each_step_is_the_right_one(mymem, seed):
    case = Case(mymem, seed, steps=14)
    mine, right = case.losses, case.loop()[0]
    near_enough = [near(a, b, 1e-4) for a, b in zip(mine, right, strict=True)]
    step = near_enough.index(False) if not all(near_enough) else case.steps
    message = f"The memory was written in {case.steps} steps with a learning rate of {case.lr}."
    message += f" Before step {step}, the loss should be {right[min(step, 13)]:.4f} nats, but yours"
    message += f" is {mine[min(step, 13)]:.4f}"
    reason = "" if step in (0, case.steps) else fault_of(case, mine)
    require(step == case.steps, message + reason, keeps=0.25 if step > 2 else 0)


def fault_of(case: Case, mine: list[float]) -> str:
    """The fault whose loop has the student's losses, as a sentence."""
    few = 6
    for sentence, fault in FAULTS.items():
        losses = case.loop(few, **fault)[0]
        if all(near(a, b, 1e-4) for a, b in zip(mine[:few], losses, strict=True)):
            return f". {sentence}"
    return ""


@rung(4)
def test_rung4_one_step(mymem, seed):
    case = Case(mymem, seed, steps=1)
    A, B, start = (case.found[name].double() for name in ("A", "B", "start"))
    require(B.any(), "After one step, B is still 0. Make a step after every loss, also the last")
    message = f"In the first step, AdamW moves each entry of B by the learning rate, {case.lr}, up"
    message += f" or down. Yours moved by {B.abs().mean():.4f} on average"
    require(near(float(B.abs().median()), case.lr, 1e-2), message, keeps=0.5)
    far = apart(A, start)
    message = "In the first step, A should not change: B is 0, and so is the gradient of A. Yours"
    require(far < 1e-6, f"{message} changed by up to {far:.3g}", keeps=0.5)
    B = case.loop()[2]
    wrong = (case.found["B"].sign() != B.sign()).float().mean()
    message = f"In the first step, {wrong:.0%} of the entries of B moved in the wrong direction"
    require(wrong < 0.05, message, keeps=0.5)


@rung(4)
def test_rung4_only_the_unit_is_trained(mymem, seed):
    case = Case(mymem, seed, steps=2)
    require(case.found["B"].any(), "After two steps, B is still 0")
    changed = case.found["changed"]
    message = f"Training changed {len(changed)} parameters of the base model, for example"
    message += f" {', '.join(changed[:1])}. Give the optimizer only A and B of the unit"
    require(not changed, message)


@rung(4)
def test_rung4_the_objective_is_minimized(mymem, seed):
    case = Case(mymem, seed, steps=4, half=True)
    given, base = case.found["given"], case.loop(1)[0][0]
    require(given, "write never called the objective that it was given")
    shape, gradient, targets, _ = given[0]
    require(shape[:-1] == [len(case.target)], f"The objective got logits {shape}, not [N, V]")
    require(targets == case.target, "The objective should get the target tokens as its targets")
    require(gradient, "The objective got logits without a gradient", keeps=0.25)
    progress = sorted({round(one[3], 4) for one in given})
    message = "In 4 steps, the progress should be 0, 0.25, 0.5 and 0.75, but the objective got"
    require(progress == [0, 0.25, 0.5, 0.75], f"{message} {progress}", keeps=0.5)

    def half(logits, targets, _):
        return expected.plain(logits[: len(targets) // 2], targets[: len(targets) // 2])

    losses, right = case.losses, case.loop(objective=half)[0]
    message = f"The list should have the mean loss of all target tokens, {base:.4f} nats before the"
    message += f" first step, whatever the objective is. Yours begins with {losses[0]:.4f}"
    require(near(losses[0], base, 1e-4), message, keeps=0.5)
    message = "The objective has only the first half of the target here. After three steps that"
    message += f" minimize it, the loss is {right[3]:.3f} nats, but yours is {losses[3]:.3f}"
    require(near(losses[3], right[3], 1e-2), message, keeps=0.5)
