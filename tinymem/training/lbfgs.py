"""L-BFGS (Liu and Nocedal 1989): fewer gradients, because writing a memory is not stochastic.

The loss of a memory is a deterministic function of a few thousand variables, and its gradient is
exact. L-BFGS estimates the curvature from the last gradients, and searches along each direction
until the loss has fallen enough (strong Wolfe conditions). Both need a function that stays the
same, but the weights of MemFT and the temperature of margin change. A run therefore goes in rounds,
in which both are fixed. When they have changed, the curvature estimate is dropped, and the next
round is a short one, because a long round forgets the tokens that its fixed weights leave out. The
temperature falls in a few steps over the run (rounds.py), so that most rounds keep the estimate.

The time goes into evaluations of the gradient, so these are counted as the steps of the run. There
is no learning rate, and nothing is clipped. The estimate takes the memory of 2 × HISTORY units.

The first estimate of the curvature treats all variables alike, but B, which starts at zero, ends
far above A. So B is measured in units of B_UNIT. On the shipped model (128 random tokens, ranks 1
to 16, 13 runs) L-BFGS then reaches AdamW's loss of 600 steps after 58 to 169 evaluations instead of
67 to 225. In units of 2 or 10, some runs take more than 200.

Wider models have larger hidden states, and B grows with them. SmolLM2-135M (width 576, rank 1, 128
random tokens) ends lower in units of 20 than in units of 5 with each of three seeds: at 4.43, 4.79
and 4.55 nats instead of 4.63, 4.90 and 4.88 (400, 400 and 500 evaluations). Seed 0 ends at 4.85 in
units of 10 and of 60, so these differences are partly luck. On the shipped model 20 does as well.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

ITERATIONS = 25  # of a round; most take one evaluation
FIRST_ITERATIONS = 5  # of a round whose weights or temperature are new
HISTORY = 100  # gradients that the curvature is estimated from
B_UNIT = 5.0  # at the width of the shipped model, 256; see `b_unit`
OPTIONS: dict[str, Any] = {"history_size": HISTORY, "max_eval": 10 * ITERATIONS}
OPTIONS |= {"tolerance_grad": 0, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}


class Evaluation(NamedTuple):
    """The loss at the present values, and whether it is another function than in the last round."""

    loss: float
    changed: bool


Evaluate = Callable[[bool], Evaluation | None]


class LBFGS(torch.optim.LBFGS):
    """torch's, without the wrapper for which it imports its compiler; that takes seconds."""

    _add = torch.optim.Optimizer.add_param_group
    add_param_group = getattr(_add, "__wrapped__", _add)


def b_unit(width: int) -> float:
    """The unit of B for a model of this width: 5 at 256 and 20 at 576, the two measured widths."""
    return B_UNIT * min(4.0, max(1.0, (width / 256) ** 2))


class Variables:
    """A and B of a unit as L-BFGS sees them: `values` are A and B / unit."""

    def __init__(self, parameters: Sequence[Tensor], unit: float = B_UNIT):
        """parameters: A, B, A, B, …; unit: of B."""
        self.parameters = list(parameters)
        self.units = [unit if n % 2 else 1.0 for n in range(len(self.parameters))]
        self.values = [p.detach() / u for p, u in zip(self.parameters, self.units, strict=True)]

    def write(self) -> None:
        """Copy the values into the parameters."""
        for p, value, unit in zip(self.parameters, self.values, self.units, strict=True):
            p.data.copy_(value).mul_(unit)

    def read_gradient(self) -> None:
        """The gradient of the values, from that of the parameters."""
        for p, value, unit in zip(self.parameters, self.values, self.units, strict=True):
            assert p.grad is not None
            value.grad = p.grad * unit

    def copy(self) -> list[Tensor]:
        return [value.clone() for value in self.values]


class BudgetSpent(Exception):
    """Ends torch's line search when the evaluations are used up."""


class Reached(Exception):
    """Ends torch's line search where it is: the run has what it stops at."""


def minimize(
    variables: Variables,
    evaluate: Evaluate,
    budget: int,
    keep: Callable[[torch.optim.LBFGS | None], None] | None = None,
    estimate: Mapping[str, object] | None = None,
) -> None:
    """Minimise a loss in rounds, with at most `budget` evaluations.

    evaluate: called with whether a round begins; returns the loss and leaves the gradient in the
        parameters of the variables. The function may change only when a round begins. None ends
        the minimisation.
    keep: called before every round with the optimizer that has the curvature, None without one.
    estimate: the curvature to go on with, as the optimizer has it (rounds.py).
    """
    used, optimizer = 0, None
    if estimate:
        optimizer = LBFGS(variables.values, **OPTIONS)
        optimizer.state[variables.values[0]].update(estimate)
    while used < budget:
        if keep is not None:
            keep(optimizer)
        start = evaluate(True)
        used += 1
        if start is None:
            return
        fresh = optimizer is None or start.changed
        if optimizer is None or start.changed:
            optimizer = LBFGS(variables.values, **OPTIONS)
        optimizer.param_groups[0]["max_iter"] = FIRST_ITERATIONS if fresh else ITERATIONS
        descent = Descent(variables, evaluate, start.loss, budget - used)
        descent.run(optimizer)
        used += descent.used
        if descent.reached:
            return
        if descent.used == 0:  # the line search found no lower loss
            if fresh:
                return
            optimizer = None  # try again without the old curvature


class Descent:
    """One round, from a point whose loss and gradient are known.

    If it ends early by its budget or Ctrl-C, the variables are those of the lowest loss seen.
    """

    def __init__(self, variables: Variables, evaluate: Evaluate, loss: float, budget: int):
        self.variables, self.evaluate, self.budget = variables, evaluate, budget
        self.known: float | None = loss  # of the present values, until torch has asked for it
        self.lowest, self.best = loss, variables.copy()
        self.used = 0  # evaluations
        self.reached = False

    def run(self, optimizer: torch.optim.LBFGS) -> None:
        complete = False
        step: Any = optimizer.step
        try:
            step(self.closure)
            complete = all(bool(value.isfinite().all()) for value in self.variables.values)
        except BudgetSpent:
            pass
        except Reached:  # torch leaves the values at the point that it asked for
            self.reached = complete = True
        finally:
            if not complete:
                for value, lower in zip(self.variables.values, self.best, strict=True):
                    value.copy_(lower)
            self.variables.write()

    def closure(self) -> float:
        """The loss that torch's optimizer asks for, with the gradient in the values."""
        loss, self.known = self.known, None
        if loss is None:
            if self.used == self.budget:
                raise BudgetSpent
            self.variables.write()
            found = self.evaluate(False)
            self.used += 1
            if found is None:
                raise Reached
            loss = found.loss
        self.variables.read_gradient()
        if loss < self.lowest:
            self.lowest, self.best = loss, self.variables.copy()
        return loss if math.isfinite(loss) else math.inf
