"""The loop of L-BFGS: rounds of lbfgs.py on the loss of a trainer.

Weights and temperature are those of a round's beginning, because L-BFGS needs a function that stays
the same.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from .lbfgs import Evaluation, Variables, b_unit, minimize
from .recipe import Minibatches
from .record import Record
from .state import Keeper, State, read_state
from .trainer import Trainer

# Temperatures of the method margin in a run of L-BFGS, which drops its curvature estimate between
# them. Measured on `tiny` (90 random tokens, rank 2, 500 evaluations; share of the argmaxes that
# are right at the end, mean of three seeds): 8 temperatures of one ratio 99.6 %; a new one in each
# round 94 %, and 97 % with the estimate kept, which then belongs to another function; the last one
# all the time 41 %. AdamW has 73 % after 500 steps. Over six more seeds, 5 temperatures have 89 %,
# 8 have 91 %, 12 have 90 %, and 8 that fall late, as margin.temperature does, 85 %.
LEVELS = 8
Steps = Sequence[Minibatches]
Check = Callable[..., bool]  # `stop_finished` in train.py
Fixed = tuple[Tensor, Tensor] | None  # w_t [1, N] and T [1] of a round


def run_lbfgs(
    trainer: Trainer, record: Record, steps: Steps, check: Check, keeper: Keeper
) -> tuple[int, str]:
    """L-BFGS on one run; its steps are evaluations of the gradient. Returns steps and status."""
    loss = RoundLoss(trainer, record, steps, check)
    unit = b_unit(trainer.model.config.hidden_size)
    variables = Variables(trainer.stack.parameters(), unit)
    loss.fixed, estimate = restore_lbfgs(keeper.state, variables)
    keep = partial(keep_round, keeper, variables, loss)
    try:
        minimize(variables, loss, len(steps) - record.count, keep, estimate)
    except KeyboardInterrupt:
        return record.count, "interrupted"
    return record.count, "ok"


class RoundLoss:
    """The loss as L-BFGS sees it: weights and temperature are those of the round's beginning."""

    def __init__(self, trainer: Trainer, record: Record, steps: Steps, check: Check):
        self.trainer, self.record, self.steps, self.check = trainer, record, steps, check
        self.minibatches: Minibatches = (None,)
        (self.recipe,) = trainer.recipes
        self.done = 0.0  # share of the run at which AdamW would have the temperature of the round
        self.fixed: Fixed = None

    def __call__(self, new_round: bool) -> Evaluation | None:
        """The loss, with its gradient in the parameters; None if the run has ended."""
        if new_round:
            self.minibatches = self.steps[self.record.count]
            level = LEVELS * self.record.count // len(self.steps)
            self.done = math.sqrt(level / (LEVELS - 1))  # T is END^(done²): equal ratios
        weights = None if new_round or self.fixed is None else self.fixed[0]
        found = self.trainer.gradient(self.minibatches, self.done, weights)
        self.record.add(found, whole=self.minibatches[-1] is None)
        changed = False
        if not self.check(trial=not new_round) or (new_round and self.stands_still()):
            return None
        if new_round:
            fixed = found.weights.clone(), self.trainer.temperature.clone()
            changed = self.fixed is None or not all(map(torch.equal, self.fixed, fixed))
            self.fixed = fixed
        return Evaluation(found.loss.item(), changed)

    def stands_still(self) -> bool:
        """Ends the run if it is one that stops when it stands still, and does; returns whether."""
        ends = self.recipe.stop_when_still and self.record.stands_still()
        if ends:
            self.record.stop([0], self.record.count - 1, ended="still")
        return ends


def keep_round(
    keeper: Keeper, variables: Variables, loss: RoundLoss, optimizer: torch.optim.LBFGS | None
) -> None:
    keeper.keep(loss.record, partial(read_lbfgs, variables, loss, optimizer))


def read_lbfgs(
    variables: Variables, loss: RoundLoss, optimizer: torch.optim.LBFGS | None
) -> dict[str, Tensor]:
    """The state between two rounds."""
    state = read_state(loss.trainer)
    state |= {f"fixed.{n}": value for n, value in enumerate(loss.fixed or ())}
    state |= {f"variable.{n}": value.clone() for n, value in enumerate(variables.values)}
    for name, value in (optimizer.state[variables.values[0]] if optimizer else {}).items():
        if name == "al":  # which every iteration computes anew
            continue
        if isinstance(value, list):
            value = torch.stack(value) if value else torch.empty(0)
        elif not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=torch.float64)  # the mark of a number
        state[f"curvature.{name}"] = value.clone()
    return state


def restore_lbfgs(state: State, variables: Variables) -> tuple[Fixed, dict[str, object]]:
    """The variables; returns what was fixed, and the curvature as torch's optimizer keeps it.

    All in memory of their own: the bits of a sum depend on how its numbers are aligned, and those
    of a file are not.
    """
    for n, value in enumerate(variables.values):
        value.copy_(state.get(f"variable.{n}", value))
    estimate: dict[str, object] = {}
    for name in [name for name in state if name.startswith("curvature.")]:
        value, name = state[name], name.removeprefix("curvature.")
        if name in ("old_dirs", "old_stps", "ro"):
            estimate[name] = [row.clone() for row in value]
        else:
            estimate[name] = value.item() if value.dtype == torch.float64 else value.clone()
    fixed = (state["fixed.0"].clone(), state["fixed.1"].clone()) if "fixed.0" in state else None
    return fixed, estimate
