"""L-BFGS (Liu and Nocedal 1989): fewer steps, because writing a memory is not stochastic.

The loss of a memory is a deterministic function of a few thousand variables, and its gradient is exact.
L-BFGS estimates the curvature from the last gradients, and searches along each direction until the loss
has fallen enough (strong Wolfe conditions). Both need a function that stays the same, and MemFT's weights
change. So a run goes in rounds: the weights are those of the round's start and held throughout it. Where
they differ from the last round's, the estimate of the curvature is dropped, and the round is a short one:
tokens that the held weights leave out are forgotten in a long one.

What takes the time is evaluations of the gradient: these are counted as the run's steps. There is no
learning rate, and nothing is clipped. The estimate takes the memory of 2 × HISTORY units.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ITERATIONS = 25  # of a round; most take one evaluation
FIRST = 5  # of a round with new weights
HISTORY = 100  # gradients that the curvature is estimated from


class Spent(Exception):
    """The run has had all of its evaluations."""


def minimize(trainer, plan: Sequence, log) -> None:
    """Train the one run of `trainer` (train.py) for as many evaluations as the plan has steps."""
    steps, held, optimizer = 0, None, None
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
            trainer.stack.parameters(),
            max_eval=10 * ITERATIONS,
            history_size=HISTORY,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )
        optimizer.param_groups[0]["max_iter"] = FIRST if fresh else ITERATIONS
        before = steps
        try:
            steps = descend(optimizer, trainer, held, plan, steps, log)
        except Spent:
            return
        if steps == before and fresh:  # no way down from here
            return
        if steps == before:
            held = None


def descend(optimizer: torch.optim.LBFGS, trainer, held: Tensor, plan: Sequence, steps: int, log) -> int:
    """One round from a point whose gradient is known; returns the evaluations done until then.

    Ended before its time, by Spent or Ctrl-C, it leaves the lowest point that it saw.
    """
    parameters, minibatches, known = trainer.stack.parameters(), plan[steps - 1], True
    lowest, best = trainer.loss.item(), [p.detach().clone() for p in parameters]

    def evaluate() -> float:
        nonlocal steps, known, lowest, best
        if not known:
            if steps == len(plan):
                raise Spent
            trainer.gradient(minibatches, held)
            log.record(steps)
            steps += 1
            log.done(steps)
        known, loss = False, trainer.loss.item()
        if loss < lowest:
            lowest, best = loss, [p.detach().clone() for p in parameters]
        return loss if math.isfinite(loss) else math.inf

    whole = False
    try:
        optimizer.step(evaluate)
        whole = all(p.isfinite().all() for p in parameters)
    finally:
        if not whole:
            for p, value in zip(parameters, best, strict=True):
                p.data.copy_(value)
    return steps
