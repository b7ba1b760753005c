"""L-BFGS (Liu and Nocedal 1989): fewer steps, because writing a memory is not stochastic.

The loss of a memory is a deterministic function of a few thousand variables, and its gradient is exact.
L-BFGS estimates the curvature from the last gradients, and searches along each direction until the loss
has fallen enough (strong Wolfe conditions). Both need a function that stays the same, and MemFT's weights
change. So a run goes in rounds: the weights are those of the round's start and held throughout it. Where
they differ from the last round's, the estimate of the curvature is dropped, and the round is a short one:
tokens that the held weights leave out are forgotten in a long one.

What takes the time is evaluations of the gradient: these are counted as the run's steps. There is no
learning rate, and nothing is clipped. The estimate takes the memory of 2 × HISTORY units.

The first estimate of the curvature takes all variables alike, but B, which starts at zero, ends far above A.
So B is measured in units of B_UNIT. On the shipped model (128 random tokens, ranks 1 to 16, 13 runs) that
brings the evaluations until AdamW's loss of 600 steps from 67 to 225 down to 58 to 169; in units of 2 or 10
some runs take more than 200.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ITERATIONS = 25  # of a round; most take one evaluation
FIRST = 5  # of a round with new weights
HISTORY = 100  # gradients that the curvature is estimated from
B_UNIT = 5.0


class Spent(Exception):
    """The run has had all of its evaluations."""


class Variables:
    """A and B of a stack as L-BFGS sees them: `values`, A and B / B_UNIT, with gradients to match."""

    def __init__(self, stack):
        self.parameters = stack.parameters()  # A, B, A, B, …
        self.units = [1.0, B_UNIT] * (len(self.parameters) // 2)
        self.values = [
            p.detach() / unit for p, unit in zip(self.parameters, self.units, strict=True)
        ]

    def write(self) -> None:
        """The units become what the variables say."""
        for p, value, unit in zip(self.parameters, self.values, self.units, strict=True):
            p.data.copy_(value).mul_(unit)

    def read_gradient(self) -> None:
        for p, value, unit in zip(self.parameters, self.values, self.units, strict=True):
            value.grad = p.grad * unit


def minimize(trainer, plan: Sequence, log) -> None:
    """Train the one run of `trainer` (train.py) for as many evaluations as the plan has steps."""
    steps, held, optimizer, variables = 0, None, None, Variables(trainer.stack)
    while steps < len(plan):
        trainer.gradient(plan[steps])
        log.record(steps)
        if not log.look(steps):
            return
        steps += 1
        log.done(steps)
        if held is None or not torch.equal(held, trainer.weights):
            optimizer = None
        fresh, held = optimizer is None, trainer.weights.clone()
        optimizer = optimizer or torch.optim.LBFGS(
            variables.values,
            max_eval=10 * ITERATIONS,
            history_size=HISTORY,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        optimizer.param_groups[0]["max_iter"] = FIRST if fresh else ITERATIONS
        before = steps
        try:
            steps = descend(optimizer, variables, trainer, held, plan, steps, log)
        except Spent:
            return
        if steps == before and fresh:  # no way down from here
            return
        if steps == before:
            held = None


def descend(
    optimizer, variables: Variables, trainer, held: Tensor, plan: Sequence, steps: int, log
) -> int:
    """One round from a point whose gradient is known; returns the evaluations done until then.

    Ended before its time, by Spent or Ctrl-C, it leaves the lowest point that it saw.
    """
    minibatches, known = plan[steps - 1], True
    lowest, best = trainer.loss.item(), [value.clone() for value in variables.values]

    def evaluate() -> float:
        nonlocal steps, known, lowest, best
        if not known:
            if steps == len(plan):
                raise Spent
            variables.write()
            trainer.gradient(minibatches, held)
            log.record(steps)
            steps += 1
            log.done(steps)
        variables.read_gradient()
        known, loss = False, trainer.loss.item()
        if loss < lowest:
            lowest, best = loss, [value.clone() for value in variables.values]
        return loss if math.isfinite(loss) else math.inf

    whole = False
    try:
        optimizer.step(evaluate)
        whole = all(value.isfinite().all() for value in variables.values)
    finally:
        if not whole:
            for value, lower in zip(variables.values, best, strict=True):
                value.copy_(lower)
        variables.write()
    return steps
