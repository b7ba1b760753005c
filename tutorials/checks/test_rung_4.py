"""The checks of rung 4: a training loop.

All inputs are drawn from --seed. What is expected is computed in plain torch (expected.py).
"""

import functools
import itertools
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
    not_plain,
    number,
    require,
)
from checks.ladder import rung
from checks.values import MODEL

LN2 = math.log(2)
points = pytest.mark.points


@functools.lru_cache
def memory_of(seed: int) -> tuple[list[int], list[int], Tensor, float]:
    """The prompt, the target, A of the new unit and the learning rate."""
    generator = drawn(seed)
    prompt = token_ids(whole(3, 6, generator), generator)
    target = token_ids(whole(10, 16, generator), generator)
    lr = [0.05, 0.1][whole(0, 1, generator)]
    return prompt, target, expected.new_A(whole(2, 4, generator), generator), lr


@functools.lru_cache(maxsize=256)  # a failed check is repeated, with the same seed
def loop_of(
    seed: int, steps: int, stop: int | None, fault: tuple
) -> tuple[list[float], Tensor, Tensor]:
    prompt, target, A, lr = memory_of(seed)
    return expected.loop(prompt, target, A, steps, lr, stop=stop, **dict(fault))


class Case:
    """A small memory, and what the student's `write` makes of it."""

    def __init__(self, mymem, seed: int, steps: int, half: bool = False):
        self.seed, self.steps = seed, steps
        self.prompt, self.target, self.start, self.lr = memory_of(seed)
        memory = (self.prompt, self.target, self.start, steps, self.lr, half)
        self.found = mymem.run(scenarios.write_memory, MODEL, *memory)

    @property
    def losses(self) -> list[float]:
        """The list of the losses, of any length."""
        losses = self.found["losses"]
        message = f"write should return a list of losses, not {kind_of(losses)}"
        require(isinstance(losses, list), message)
        return [number(loss, "A loss in the list of write") for loss in losses]

    def trained_right(self, **fault) -> bool:
        """Has B the values of the right loop, or of one with this fault, up to rounding?"""
        B = self.loop(**fault)[2]
        return bool((self.found["B"] - B).abs().mean() < 1e-3 * B.abs().mean())

    def loop(self, stop: int | None = None, **fault) -> tuple[list[float], Tensor, Tensor]:
        """What the right loop does from the same A, or a loop with a fault."""
        return loop_of(self.seed, self.steps, stop, tuple(sorted(fault.items())))


STUCK = "Compute the logits anew in each step, and let the optimizer make a step"


@rung(4)
def test_rung4_the_losses_before_each_step(mymem, seed):
    case = Case(mymem, seed, steps=whole(3, 5, drawn(seed)))
    mine, (base, second), ids = case.losses, case.loop(2)[0], case.prompt + case.target
    message = f"For {case.steps} steps, write should return a list of {case.steps} losses, not"
    require(len(mine) == case.steps, f"{message} a list of {len(mine)}")
    first = mine[0]
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
    require(len(set(mine)) > 1, f"Each loss in the list is {first:.4f} nats. {STUCK}", keeps=0.5)
    odd = [not_plain(loss, (float,)) for loss in case.found["losses"]]
    message = (
        f"A loss in the list of write {odd[0]}. Use .item(): a tensor keeps in memory all that"
    )
    require(not any(odd), f"{message} its gradient needs", keeps=0.5)


def early(step: int, steps: int) -> float:
    """A learning rate that reaches 0 one step too early."""
    return 1 - (step + 1) / steps


def late(step: int, steps: int) -> float:
    """A learning rate that is set after the step, for the next one."""
    return 1 - max(0, step - 1) / steps


FAULTS = {
    "The gradients of earlier steps are added up: set them to zero in each step": {"zero": False},
    "The norm of the gradient is not clipped. If you call clip_grad_norm_, it must stand between"
    " backward and step: before backward there is no gradient to clip": {"clip": "none"},
    "A and B are clipped one by one, but the norm of both together should be at most 1": {
        "clip": "each"
    },
    "The learning rate does not fall": {"rate": lambda step, steps: 1.0},
    "The learning rate reaches 0 one step too early: step counts from 0. With a scheduler, call its"
    " step() after optimizer.step()": {"rate": early},
    "The learning rate falls one step too late: set that of this step before optimizer.step()": {
        "rate": late
    },
    "The learning rate reaches 0 one step too early: divide by steps, not by steps − 1": {
        "rate": lambda step, steps: 1 - step / (steps - 1)
    },
    "The optimizer trains only B. It needs both, A and B": {"trained": "B"},
    "A new optimizer is made in each step. Make one before the loop: it remembers earlier gradients"
    "": {"renewed": True},
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
    if len(mine) != case.steps or not near(mine[0], right[0], 1e-4):
        mine = []  # another check is about the list
    same = [near(a, b, 1e-4) for a, b in zip(mine, right, strict=False)]
    message = f"The memory was written in {case.steps} steps with a learning rate of {case.lr}."
    if all(same):
        message += " In the end, B is not what it should be"
        require(mine or case.trained_right(), message)
        message = "The losses are right, but B of the given unit is still 0. Train the unit itself,"
        require(case.found["B"].any(), f"{message} not a copy of it", keeps=0.5)
        return
    step = same.index(False)
    message += f" Before step {step}, the loss should be {right[step]:.4f} nats, but yours is"
    message += f" {mine[step]:.4f}{fault_of(case, mine)}"
    require(False, message, keeps=0.25 if step > 2 else 0)


def fault_of(case: Case, mine: list[float]) -> str:
    """The fault whose loop has the student's losses, as a sentence."""
    few = 6
    if len(set(mine)) == 1:
        return f". All of yours are the same. {STUCK}"
    for sentence, fault in (FAULTS | two_faults()).items():
        losses = case.loop(few, **fault)[0]
        if all(near(a, b, 1e-4) for a, b in zip(mine[:few], losses, strict=True)):
            return f". {sentence}"
    return ""


def two_faults() -> dict[str, dict]:
    """Pairs of the most common faults: beginners forget more than one thing."""
    common = {
        s: f for s, f in FAULTS.items() if "decay" in f or "zero" in f or "none" in f.values()
    }
    common |= dict([next((s, f) for s, f in FAULTS.items() if "rate" in f)])
    pairs = itertools.combinations(common.items(), 2)
    return {f"{a}. Also: {b}": one | two for (a, one), (b, two) in pairs}


@rung(4)
def test_rung4_one_step(mymem, seed):
    case = Case(mymem, seed, steps=1)
    A, B = case.found["A"], case.found["B"]
    if not B.any() and Case(mymem, seed, steps=2).trained_right(rate=early):
        return  # another check is about the learning rate
    message = "After one step, B is still 0. Make a step after every loss, also the last, with a"
    require(B.any(), f"{message} learning rate that is not 0 yet")
    message = f"In the first step, AdamW moves each entry of B by the learning rate, {case.lr}, up"
    message += f" or down. Yours moved by {B.abs().mean():.4f} on average"
    require(near(float(B.abs().median()), case.lr, 1e-2), message, keeps=0.5)
    far = apart(A, case.start)
    message = "In the first step, A should not change: B is 0, and so is the gradient of A. Yours"
    hint = "With a gradient of 0, only weight decay moves A: give AdamW weight_decay=0"
    hint = first_of({hint: case.lr * 1e-3 < far < case.lr * 0.1})
    require(far < 1e-6, f"{message} changed by up to {far:.3g}{hint}", keeps=0.5)
    B = case.loop()[2]
    wrong = (case.found["B"].sign() != B.sign()).float().mean()
    message = f"In the first step, {wrong:.0%} of the entries of B moved in the wrong direction"
    require(wrong < 0.05, message, keeps=0.5)


@rung(4)
def test_rung4_only_the_unit_is_trained(mymem, seed):
    case = Case(mymem, seed, steps=3)
    require(case.found["B"].any(), "After three steps, B is still 0")
    changed = case.found["changed"]
    message = f"Training changed {len(changed)} parameters of the base model, for example"
    message += f" {', '.join(changed[:1])}. Give the optimizer only A and B of the unit"
    require(not changed, message)
    message = "After three steps, A is still what it was. Give the optimizer both, A and B"
    require(not torch.equal(case.found["A"], case.start), message, keeps=0.5)
    message = "write has taken the unit out of the model. Leave it attached: what judges the memory"
    require(case.found["attached"], f"{message} needs it", keeps=0.5)


@rung(4)
def test_rung4_the_objective_is_minimized(mymem, seed):
    case = Case(mymem, seed, steps=4, half=True)
    given, base = case.found["given"], case.loop(1)[0][0]
    require(given, "write never called the objective that it was given")
    shape, gradient, targets, _ = given[0]
    message = f"The objective should get logits [N, V] with N = {len(case.target)}, not"
    require(shape[:-1] == [len(case.target)], f"{message} {shape}")
    require(targets == case.target, "The objective should get the target tokens as its targets")
    require(gradient, "The objective got logits without a gradient", keeps=0.25)
    progress = sorted({round(one[3], 4) for one in given})
    message = "In 4 steps, the progress should be 0, 0.25, 0.5 and 0.75, but the objective got"
    require(progress == [0, 0.25, 0.5, 0.75], f"{message} {progress}", keeps=0.5)

    def half(logits, targets, _):
        return expected.plain(logits[: len(targets) // 2], targets[: len(targets) // 2])

    losses, right = case.losses, case.loop(2, objective=half)[0]
    too_early = case.loop(2, objective=half, rate=early)[0]  # which another check is about
    require(len(losses) > 1, f"The list of write has {len(losses)} losses after 4 steps", keeps=0.5)
    message = f"The list should have the mean loss of all target tokens, {base:.4f} nats before the"
    message += f" first step, whatever the objective is. Yours begins with {losses[0]:.4f}"
    require(near(losses[0], base, 1e-4), message, keeps=0.5)
    message = "This check calls write with an objective that uses only the first half of the"
    message += f" tokens. After a step that minimizes it, the loss is {right[1]:.3f} nats, but"
    same = any(near(losses[1], one[1], 1e-3) for one in (right, too_early))
    keeps = 0.25 if losses[1] == losses[0] else 0.5
    require(same, f"{message} yours is {losses[1]:.3f}", keeps)
