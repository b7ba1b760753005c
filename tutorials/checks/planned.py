"""Memories for rung 5, and a model for each whose logits are planned.

A check decides how probable each target token is, and what the model gives after a wrong token.
"""

import torch

from checks.expected import drawn, whole
from checks.grading import rounded
from checks.server import load_shipped


class Plan:
    """A memory and a model for it. p: the probability of each target token, given the true ones.

    rivals: that of the strongest other token. All others share the rest. After a wrong token, the
    model always gives the token `lost`.
    """

    def __init__(self, p: list[float], rivals: list[float], generator: torch.Generator):
        size = load_shipped()[0].config.vocab_size
        ids = torch.randperm(size, generator=generator)[: 2 * len(p) + 6].tolist()
        self.prompt, self.target = ids[:5], ids[6 : 6 + len(p)]
        self.lost, self.others = ids[5], ids[6 + len(p) :]
        self.p, rest = torch.tensor(p), (1 - torch.tensor(p) - torch.tensor(rivals)) / (size - 2)
        probabilities = rest[:, None].repeat(1, size)
        for t, one in enumerate(p):
            probabilities[t, self.target[t]] = one
            probabilities[t, self.others[t]] = rivals[t]
        shift = torch.randn(len(p), 1, generator=generator)  # which changes no probability
        self.logits = probabilities.log() + shift
        self.astray = torch.zeros(size)
        self.astray[self.lost] = 5.0
        self.margins = (self.p / torch.tensor(rivals)).log()

    @property
    def parts(self) -> tuple:
        return self.prompt, self.target, self.logits, self.astray

    def decoded(self) -> list[int]:
        wrong = [t for t, margin in enumerate(self.margins.tolist()) if margin < 0]
        if not wrong:
            return self.target
        first = wrong[0]
        after = [self.lost] * (len(self.target) - first - 1)
        return [*self.target[:first], self.others[first], *after]

    def __str__(self) -> str:
        return f"The target tokens have p = {rounded(self.p)}"


def spread(count: int, low: float, high: float, generator: torch.Generator) -> list[float]:
    values = low + (high - low) * torch.rand(count, generator=generator)
    return [round(v, 2) for v in values.tolist()]


def plans(seed: int) -> dict[str, Plan]:
    """Memories of each kind, by what is true of them."""
    generator = drawn(seed)
    n = whole(4, 6, generator)
    high = spread(n, 0.55, 0.9, generator)
    weak, odd = spread(n, 0.25, 0.4, generator), whole(1, n - 2, generator)
    mixed, mixed_rivals = list(high), [0.05] * n
    mixed[odd], mixed_rivals[odd] = weak[odd], 0.15
    sharp, sharp_rivals = [0.98] * n, [0.01] * n
    sharp[odd], sharp_rivals[odd] = 0.2, 0.7
    return {
        "certified": Plan(high, [0.05] * n, generator),
        "one p below one half": Plan(mixed, mixed_rivals, generator),
        "every p below one half": Plan(weak, [0.15] * n, generator),
        "a low mean loss, but one token fails": Plan(sharp, sharp_rivals, generator),
    }


def tie(seed: int) -> Plan:
    """A memory with one token that has p = ½ and a margin of 0: another one is as probable."""
    generator = drawn(seed)
    n = whole(4, 6, generator)
    odd, p, rivals = whole(1, n - 2, generator), spread(n, 0.55, 0.9, generator), [0.05] * n
    p[odd] = rivals[odd] = 0.5
    plan = Plan(p, rivals, generator)
    logits = torch.full_like(plan.logits[odd], -50.0)  # of the two tokens 0, which is not rounded
    logits[[plan.target[odd], plan.others[odd]]] = 0.0
    plan.logits[odd] = logits
    # The lower id is the one that argmax gives. It should not be that of the target.
    plan.others[odd], plan.target[odd] = sorted((plan.others[odd], plan.target[odd]))
    return plan
