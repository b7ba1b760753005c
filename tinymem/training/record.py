"""Records losses, certified shares and token probabilities of each run.

`add` writes to tensors on the device and waits for nothing; `recent` and `finish` read them back.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..shown import Shown
from .trainer import StepResult

CONVERGED = 0.01  # nats per token; of margin, a share of the tokens
SNAPSHOTS = 200  # of every token's p and m, over a run
ENDS = ("steps", "recited", "certified", "still")
STILL, FEWER, FIRST = 0.05, 0.25, 100  # see `stands_still`


@dataclass(repr=False)
class Training(Shown):
    """The course of one run."""

    method: str = "sft"
    status: str = "ok"  # ok, diverged or interrupted
    ended: str = "steps"  # why it ended: one of ENDS; "still" is explained in `stands_still`
    steps: int = 0  # done
    losses: list[float] = field(default_factory=list)  # mean ℓ_t before each step, nats
    certified: list[float] = field(default_factory=list)  # share of tokens with p_t > ½, likewise
    recited: list[float] = field(default_factory=list)  # … with m_t > 0; NaN: not watched
    trace: list[tuple[int, list[float]]] = field(default_factory=list)  # (step, p_t of every token)
    margin_trace: list[tuple[int, list[float]]] = field(default_factory=list)  # … m_t, if watched

    @property
    def converged(self) -> bool:
        """Did the loss fall by less than CONVERGED over the last 30 % of the steps?

        Under margin, where the loss at T = 1 rises while T falls, the share of tokens that are not
        yet recited stands for the loss.

        A weak test: on the shipped model (ranks 1 and 8, 128 random tokens, learning rates 0.03 to
        0.2), 1,000 steps instead of 300 lowered the final loss by about 5 to 20 times that fall.
        """
        falling = self.losses
        if self.method == "margin":
            falling = [1 - share for share in self.recited]
        window = max(1, len(falling) // 25)
        before = falling[int(0.7 * len(falling)) :][:window]
        if self.status != "ok" or len(before) < window:
            return False
        return sum(before) / window - sum(falling[-window:]) / window < CONVERGED


class Recent(NamedTuple):
    """Measures of each running run over some steps."""

    losses: list[float]  # mean ℓ_t, nats
    certified: list[float]  # share of tokens with p_t > ½
    recited: list[float]  # share of tokens with m_t > 0; NaN where nothing needs the margins
    lowest: list[float]  # lowest m_t, logits, likewise


class Record:
    """What was measured in each step of several runs, one for each of the methods."""

    def __init__(self, steps: int, methods: Sequence[str], device: torch.device):
        self.count, runs = 0, len(methods)  # gradients recorded
        self.runs = [Training(method) for method in methods]
        self.running = list(range(runs))
        self._columns = torch.arange(runs, device=device)  # of the running ones
        self._metrics = torch.zeros(4, steps, runs, device=device)  # of StepResult, from `mean`
        self._traces: list[tuple[int, list[int], Tensor]] = []

    def add(self, found: StepResult, whole: bool) -> None:
        """Of the running runs; whole: the step saw all memories, so that p_t of all is known."""
        metrics = torch.stack([found.mean, found.certified, found.recited, found.lowest])
        self._metrics[:, self.count].index_copy_(1, self._columns, metrics)
        if whole and self.count % max(1, self._metrics.shape[1] // SNAPSHOTS) == 0:
            both = torch.stack([(-found.losses).exp(), found.margins], 1)  # [K, 2, N]
            self._traces.append((self.count, self.running, both))
        self.count += 1

    def recent(self, steps: int) -> "Recent":
        """The measures of each running run over the last so many steps."""
        some = self._metrics[:, max(0, self.count - steps) : self.count, self._columns]
        return Recent(*torch.cat([some[:3].mean(1), some[3:].amin(1)]).tolist())

    def stands_still(self) -> bool:
        """Of a lone run: has the second half of its steps improved hardly anything?

        At the earliest after FIRST steps. The second half has lowered the loss by less than STILL
        of what is left, and the number of wrong tokens by less than FEWER of what is left. (A loss
        that falls as c / t has as much still to fall as it fell in the second half.)
        """
        if self.count < FIRST:
            return False
        losses, _, recited, _ = self._metrics[:, : self.count, 0]
        half, wrong = self.count // 2, 1 - recited.nan_to_num()
        pairs = (losses, STILL), (wrong, FEWER)
        return all(bool(x[:half].amin() < (1 + share) * x.amin()) for x, share in pairs)

    def stop(
        self, runs: Sequence[int], steps: int, status: str = "ok", ended: str = "steps"
    ) -> None:
        """These runs end here, after so many steps."""
        for run in runs:
            own = self.runs[run]
            own.steps, own.status, own.ended = steps, status, ended
        self.running = [run for run in self.running if run not in runs]
        self._columns = torch.tensor(self.running, dtype=torch.long, device=self._columns.device)

    def until(self, count: int) -> dict[str, Tensor]:
        """What was recorded of a lone run before so many gradients, for `restore`."""
        traces = [(step, both[0]) for step, _, both in self._traces if step < count]
        state = {"metrics": self._metrics[:, :count, 0]}
        if traces:
            steps, rows = zip(*traces, strict=True)
            state |= {"trace_steps": torch.tensor(steps), "snapshots": torch.stack(rows)}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on after what another record had recorded of a lone run."""
        self.count = state["metrics"].shape[1]
        self._metrics[:, : self.count, 0] = state["metrics"]
        if "snapshots" in state:
            rows = state["snapshots"].to(self._metrics.device).split(1)
            steps = state["trace_steps"].tolist()
            self._traces = [(s, [0], both) for s, both in zip(steps, rows, strict=True)]

    def finish(self, steps: int, status: str) -> list[Training]:
        """The running runs end too; returns the course of every run."""
        self.stop(self.running, steps, status)
        metrics = self._metrics.cpu()
        for n, run in enumerate(self.runs):
            run.losses, run.certified, run.recited = metrics[:3, : run.steps, n].tolist()
        for step, running, both in self._traces:
            for n, (p, margins) in zip(running, both.tolist(), strict=True):
                self.runs[n].trace.append((step, p))
                if not math.isnan(margins[0]):
                    self.runs[n].margin_trace.append((step, margins))
        return self.runs
