"""What changes from step to step of one run, as tensors by name, so that a killed run can go on.

    unit, generators          A and B, and the generators of the dropout masks
    m, v, t                   of AdamW (adamw.py)
    window                    of memft-sw (memft.py)
    variable, curvature, …    of L-BFGS (rounds.py)
    metrics, snapshots        what was recorded (record.py)

The rest follows from base, memory and recipe, also which memories a step sees (recipe.schedule). A
run that goes on is bit for bit the run without the kill, on a CPU.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import DataError
from .record import Record
from .trainer import Trainer

State = Mapping[str, Tensor]
Fixed = tuple[Tensor, Tensor] | None  # weights and temperature of a round of L-BFGS


class Keeper:
    """Where a run's state is kept; this one keeps nothing (experiment/resume.py: in a file)."""

    def __init__(self) -> None:
        self.state: State = {}  # of an earlier process, to go on from
        self.seconds = 0.0  # that the earlier processes took

    def keep(self, record: Record, now: Callable[[], State]) -> None:
        """Called before every step (of L-BFGS, every round), from which the state `now()` goes on.

        What the record holds by then does not change any more.
        """


FORGET = Keeper()


def live_tensors(trainer: Trainer) -> dict[str, Tensor]:
    """The tensors that a step changes in place."""
    groups = {
        "unit": [p.data for p in trainer.stack.parameters()],
        "m": trainer.optimizer.m,
        "v": trainer.optimizer.v,
        "window": trainer.weigh.window,
        "t": [trainer.optimizer.t],
    }
    return {f"{name}.{n}": value for name, own in groups.items() for n, value in enumerate(own)}


def generators(trainer: Trainer) -> dict[str, torch.Generator]:
    loras = trainer.stack.loras.values()
    return {f"generator.{n}": lora.generators[0] for n, lora in enumerate(loras) if lora.dropout}


def read_state(trainer: Trainer) -> dict[str, Tensor]:
    """A copy of the state between two steps, without the record."""
    state = {name: value.clone() for name, value in live_tensors(trainer).items()}
    return state | {name: g.get_state() for name, g in generators(trainer).items()}


def restore(state: State, trainer: Trainer, record: Record) -> None:
    """Go on from a state (empty: from the beginning). Raises DataError if it does not fit."""
    if not state:
        return
    try:
        for name, value in live_tensors(trainer).items():
            if state[name].shape != value.shape or state[name].dtype != value.dtype:
                raise ValueError(f"{name} is {list(state[name].shape)}, not {list(value.shape)}")
            value.copy_(state[name])
        for name, generator in generators(trainer).items():
            generator.set_state(state[name])
        record.restore(state)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"the saved state is of another run ({error!r})") from error
