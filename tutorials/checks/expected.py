"""What the checks of the ladder expect, computed in plain torch from the shipped model alone."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .server import load_shipped

LAYER = 2  # of the 4 layers of the shipped model


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def token_ids(count: int, generator: torch.Generator) -> list[int]:
    plain = load_shipped()[1].plain_ids
    return [plain[i] for i in torch.randint(len(plain), (count,), generator=generator)]


def some_unit(rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A [d, r] and B [r, d] of a unit that has learned something."""
    width = load_shipped()[0].config.hidden_size
    A = torch.randn(width, rank, generator=generator) / rank**0.5
    return A, torch.randn(rank, width, generator=generator) / 10


def new_A(rank: int, generator: torch.Generator) -> Tensor:
    """A [d, r] of a new unit."""
    shape = (load_shipped()[0].config.hidden_size, rank)
    return (2 * torch.rand(shape, generator=generator) - 1) / rank**0.5


def all_logits(ids: list[int], A: Tensor | None = None, B: Tensor | None = None) -> Tensor:
    """Logits [T, V] after each of the ids, with a unit in its place or without one."""
    model, _ = load_shipped()
    x, h = below(tuple(ids))
    return model.head(model.run(h if A is None else h + x @ A @ B, LAYER + 1))[0]


@functools.lru_cache(maxsize=64)
@torch.no_grad()
def below(ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """What a unit reads, and what its layer gives without it [1, T, d]. No unit changes them."""
    model, _ = load_shipped()
    layer = model.layers[LAYER]
    after, x = layer.attend(model.run(model.embed(torch.tensor([ids])), 0, LAYER))
    return x, after + layer.mlp(x)


def target_logits(prompt: list[int], target: list[int], *unit: Tensor) -> Tensor:
    """Logits [N, V] of the target."""
    return all_logits(prompt + target[:-1], *unit)[len(prompt) - 1 :]


@torch.no_grad()
def decoded(prompt: list[int], count: int, *unit: Tensor) -> tuple[list[int], float]:
    """The tokens of greedy decoding; how far the best logit was above the next one, at least."""
    ids, gap = list(prompt), float("inf")
    for _ in range(count):
        best = all_logits(ids, *unit)[-1].topk(2)
        gap = min(gap, float(best.values[0] - best.values[1]))
        ids.append(int(best.indices[0]))
    return ids[len(prompt) :], gap


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each target less the largest other one [N]."""
    best = logits.topk(2, -1).values
    own = logits[torch.arange(len(targets)), targets]
    return own - torch.where(own == best[:, 0], best[:, 1], best[:, 0])


def plain(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
    return F.cross_entropy(logits, targets)


class Adam:
    """AdamW. (torch's own imports a compiler at its first use, which takes seconds.)"""

    def __init__(self, parameters: list[Tensor], decay: float):
        self.parameters, self.decay, self.step = parameters, decay, 0
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    @torch.no_grad()
    def update(self, lr: float) -> None:
        self.step += 1
        for p, (m, v) in zip(self.parameters, self.moments, strict=True):
            m += 0.1 * (p.grad - m)
            v += 0.001 * (p.grad**2 - v)
            p -= lr * self.decay * p
            p -= lr * m / (1 - 0.9**self.step) / ((v / (1 - 0.999**self.step)).sqrt() + 1e-8)


class Descent(Adam):
    @torch.no_grad()
    def update(self, lr: float) -> None:
        for p in self.parameters:
            p -= lr * p.grad


def falling(step: int, steps: int) -> float:
    return 1 - step / steps


def loop(
    prompt: list[int],
    target: list[int],
    A: Tensor,
    steps: int,
    lr: float,
    *,
    stop: int | None = None,
    objective: Callable = plain,
    rate: Callable[[int, int], float] = falling,
    clip: str = "both",
    zero: bool = True,
    optimizer: type[Adam] = Adam,
    decay: float = 0.0,
    prompt_too: bool = False,
    trained: str = "AB",
    renewed: bool = False,
) -> tuple[list[float], Tensor, Tensor]:
    """The loop of rung 4, or one with a fault: the loss before each step, and A and B in the end.

    stop: after so many of the steps. trained: the matrices that the optimizer has. renewed: it is
    made anew in each step.
    """
    A, B = A.clone().requires_grad_(), torch.zeros_like(A.T).requires_grad_()
    ids, targets, losses = prompt + target, torch.tensor(target), []
    own = [p for name, p in (("A", A), ("B", B)) if name in trained]
    descent = optimizer(own, decay)
    for step in range(steps if stop is None else stop):
        logits = target_logits(prompt, target, A, B)
        losses.append(F.cross_entropy(logits, targets).item())
        loss = objective(logits, targets, step / steps)
        if prompt_too:
            loss = F.cross_entropy(all_logits(ids[:-1], A, B), torch.tensor(ids[1:]))
        for p in own if zero else []:
            p.grad = None
        loss.backward()
        for group in {"both": [[A, B]], "each": [[A], [B]], "none": []}[clip]:
            torch.nn.utils.clip_grad_norm_(group, 1.0)
        descent = optimizer(own, decay) if renewed else descent
        descent.update(lr * rate(step, steps))
    return losses, A.detach(), B.detach()
