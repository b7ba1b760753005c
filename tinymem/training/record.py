"""What runs leave behind: losses, shares, traces; and which runs are done.

The loop only writes to tensors on the device; every few steps `look` waits for them, once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .recipe import Minibatches

STILL = 0.01  # nats per token
SNAPSHOTS = 200  # of every token's p, over a run


@dataclass
class Training:
    """What a run left behind, beside the unit itself."""

    status: str = "ok"  # ok, diverged or interrupted
    steps: int = 0  # done
    losses: list[float] = field(default_factory=list)  # mean ℓ_t before each step, nats
    certified: list[float] = field(default_factory=list)  # share of tokens with p_t > ½, likewise
    trace: list[tuple[int, list[float]]] = field(
        default_factory=list
    )  # (step, every p_t), of full batches

    @property
    def converged(self) -> bool:
        """Had the loss stopped falling? It fell by less than STILL over the last 30 % of the steps.

        A weak test: on the shipped model (ranks 1 and 8, 128 random tokens, learning rates 0.03 to 0.2),
        going from 300 to 1,000 steps lowered the final loss by about 5 to 20 times that fall.
        """
        count = len(self.losses)
        window = max(1, count // 25)
        before = self.losses[int(0.7 * count) :][:window]
        fall = (
            sum(before) / window - sum(self.losses[-window:]) / window
            if len(before) == window
            else math.inf
        )
        return self.status == "ok" and fall < STILL


class Log:
    """What the runs of a trainer (train.py) leave behind; and which of them go on."""

    def __init__(
        self,
        trainer,
        plan: Sequence[Minibatches],
        epoch: int,
        certify: Callable[[int], bool],
        on_metrics: Callable[[float, float, float], None],
    ):
        self.trainer, self.plan, self.epoch = trainer, plan, epoch
        self.certify, self.on_metrics = certify, on_metrics
        count = len(trainer.units)
        self.runs = [Training() for _ in range(count)]
        self.going = list(range(count))  # runs that train on
        self.metrics = torch.zeros(2, len(plan), count, device=trainer.model.device)
        self.column = torch.arange(count, device=trainer.model.device)  # of `going`, in metrics
        self.traces: list[tuple[int, list[int], Tensor]] = []

    def record(self, step: int) -> None:
        """What the gradient of this step has brought to light; nothing is waited for."""
        self.metrics[:, step].index_copy_(1, self.column, self.trainer.metrics)
        if self.plan[step][-1] is None and step % max(1, len(self.plan) // SNAPSHOTS) == 0:
            self.traces.append((step, self.going, (-self.trainer.losses).exp()))

    def look(self, step: int) -> bool:
        """Runs that diverged, and those certified that should stop then, leave. Does any go on?"""
        recent = self.metrics[:, max(0, step + 1 - self.epoch) : step + 1, self.going].mean(1).cpu()
        self.on_metrics(step / len(self.plan), *recent.mean(1).tolist())
        on = []
        for place, (run, loss, share) in enumerate(zip(self.going, *recent.tolist(), strict=True)):
            self.runs[run].steps = step
            if not math.isfinite(loss):
                self.runs[run].status = "diverged"
            elif not (self.trainer.recipes[place].stop_when_certified and share > 1 - 1e-6):
                on.append(place)
            else:
                with self.trainer.alone(place):
                    if not self.certify(run):
                        on.append(place)
        if 0 < len(on) < len(self.going):
            self.trainer.keep(on)
        if len(on) < len(self.going):
            self.going = [self.going[place] for place in on]
            self.column = torch.tensor(self.going, dtype=torch.long, device=self.column.device)
        return bool(on)

    def done(self, steps: int) -> None:
        """The runs that go on have done so many steps."""
        for run in self.going:
            self.runs[run].steps = steps

    def finish(self) -> list[Training]:
        metrics = self.metrics.cpu()
        for n, run in enumerate(self.runs):
            run.losses, run.certified = metrics[:, : run.steps, n].tolist()
        for step, going, p in self.traces:
            for run, row in zip(going, p.tolist(), strict=True):
                self.runs[run].trace.append((step, row))
        return self.runs
