"""Writing a memory: the training loop.

Glossary
    ℓ_t   loss of target token t given the prompt and the target before it, nats
    w_t   its weight (memft.py); the loss that is back-propagated is Σ w_t ℓ_t / Σ w_t
    p_t   its probability, e^(−ℓ_t); above one half the token is certified (recall.py)

The paper's recipe: AdamW without weight decay, learning rate falling linearly to 0 without warm-up,
2,000 steps, gradient norm clipped at 1. Two deviations: its learning rate, 1e-2 for models of width 4,096,
follows the width here (`auto_lr`), and dropout on the unit's output, 0.1 there, is 0 unless asked for,
because with it a memory's loss is a random quantity.

Many memories in one unit (the paper's PhoneBook) train as one full batch, or in minibatches over epochs;
memft-sw then is a curriculum: `schedule` says which memories a step sees.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import memft
from .errors import RecipeError
from .lora import Unit
from .memory import Batch
from .model import Model
from .prefix import Prefix

METRICS_EVERY = 10  # steps between two looks at the device
STILL = 0.01  # nats per token
SNAPSHOTS = 200  # of every token's p, over a run
EXPOSURES = 5  # stages of the curriculum: 20, 40, 60, 80, 100 % of the memories


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run, apart from base model and memory. Unknown fields are errors."""

    rank: int = 8
    layers: tuple[int, ...] | None = None  # None: two thirds of the depth
    sites: tuple[str, ...] = ("mlp",)
    method: str = "sft"
    steps: int = 2000
    epochs: int | None = None  # instead of steps
    batch_size: int | None = None  # memories a minibatch; None: all of them
    accumulate: int = 1  # minibatches a step
    boundaries: tuple[int, ...] | None = None  # of memft-sw's curriculum: see `schedule`
    lr: float | None = None  # None: from the width
    seed: int = 0
    dropout: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    zero_active: str = "sft"  # memft-ot when no token is above the threshold: "sft" or "zero"
    stop_when_certified: bool = False

    def __post_init__(self):
        """Raises RecipeError for values that no run could use. A lone site or layer is one of many."""
        for name, one in (("sites", str), ("layers", int), ("boundaries", int)):
            value = getattr(self, name)
            value = (value,) if isinstance(value, one) else value
            if value is not None and not all(isinstance(v, one) for v in value):
                raise RecipeError(f"{name} is {value!r}; expected {one.__name__}s")
            object.__setattr__(self, name, None if value is None else tuple(value))
        allowed = {"method": memft.METHODS, "zero_active": ("sft", "zero")}
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise RecipeError(f"{name} is {getattr(self, name)!r}; choose {', '.join(choices)}")
        for name, least, most in (
            *(("rank", 1, 2**20), ("steps", 1, 10**7), ("seed", 0, 2**32 - 1)),
            *(("epochs", 1, 10**7), ("batch_size", 1, 2**32), ("accumulate", 1, 2**20)),
        ):
            value = getattr(self, name)
            if value is None and name in ("epochs", "batch_size"):
                continue
            if isinstance(value, np.integer):
                object.__setattr__(self, name, value := int(value))
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise RecipeError(f"{name} is {value!r}; expected a whole number, {least} to {most:,}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < 1e6):
                raise RecipeError(f"{name} is {value!r}; expected a positive number below a million")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is {self.dropout!r}; expected 0 or more, below 1")
        ends = self.boundaries
        if ends is not None and (
            len(ends) != EXPOSURES - 1 or list(ends) != sorted(set(ends)) or ends[0] < 1
        ):
            raise RecipeError(f"boundaries are {ends}; expected {EXPOSURES - 1} rising epochs, from 1")


def auto_lr(model: Model) -> float:
    """The default learning rate: the paper's 1e-2 at width 4,096, inverse to the width, at most 0.1.

    Measured with random tokens (tutorials/reproduction has the rows). Width 256, the shipped model, 128
    tokens: of 0.01, 0.03, 0.1 and 0.3, 0.1 ends lowest after 250 to 4,000 steps at rank 8, and at rank 2
    but for 1,000 steps (3.97, against 3.91 at 0.3). Width 576, SmolLM2-135M, 100 tokens, rank 2: the rule is
    on the careful side; 100 steps end at 7.7, 3.2, 2.1 for 0.02, 0.071 (the rule's) and 0.2. At other sites
    of the shipped model (rank 4, 64 tokens, 500 steps) the MLP's c_proj likes 0.1 too, c_attn rather 0.03.
    """
    return min(0.1, 1e-2 * 4096 / model.config.hidden_size)


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """ℓ_t [N], nats, in float32, from logits [N, V]."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


@dataclass
class Training:
    """What a run left behind, beside the unit itself."""

    status: str = "ok"  # ok, diverged or interrupted
    steps: int = 0  # done
    losses: list[float] = field(default_factory=list)  # mean ℓ_t before each step, nats
    certified: list[float] = field(default_factory=list)  # share of tokens with p_t > ½, likewise
    trace: list[tuple[int, list[float]]] = field(default_factory=list)  # (step, every p_t), of full batches

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
            sum(before) / window - sum(self.losses[-window:]) / window if len(before) == window else math.inf
        )
        return self.status == "ok" and fall < STILL


def schedule(recipe: Recipe, count: int) -> Iterator[list[np.ndarray | None]]:
    """For each step of a run on `count` memories, its minibatches: indices of memories, or None for all.

    The memories are shuffled once, and again in every epoch of minibatches. Under memft-sw a step sees
    the first 20, 40, 60, 80 % of them until the epochs of `boundaries`, and then all. Without boundaries
    the stages end at 1, 2, 3, 4 fifteenths of the run (the paper's 20, 40, 60, 80 of 300 epochs).
    """
    random = np.random.default_rng(recipe.seed)
    order, steps = random.permutation(count), 0
    for epoch in itertools.count():
        done = steps / recipe.steps if recipe.epochs is None else epoch / recipe.epochs
        if done >= 1:
            return
        seen = count
        if recipe.method == "memft-sw" and count > 1:
            ends = [n / 15 for n in range(1, EXPOSURES)] if recipe.boundaries is None else recipe.boundaries
            stage = sum((done if recipe.boundaries is None else epoch) >= end for end in ends)
            seen = -(-count * (stage + 1) // EXPOSURES)
        if recipe.batch_size is None:
            parts = [None if seen == count else np.sort(order[:seen])]
        else:
            shuffled = random.permutation(order[:seen])
            parts = np.split(shuffled, range(recipe.batch_size, seen, recipe.batch_size))
        for first in range(0, len(parts), recipe.accumulate):
            yield parts[first : first + recipe.accumulate]
            steps += 1
            if recipe.epochs is None and steps == recipe.steps:
                return


def make_weigher(recipe: Recipe, memories: int) -> Callable[[Tensor, Callable[[], Tensor]], Tensor]:
    """The recipe's method as a function from (losses, logits correct?) to weights.

    memft-sw over several memories is memft-ot with the zero-loss rule; its curriculum is `schedule`'s.
    """
    if recipe.method == "sft":
        return lambda losses, correct: memft.sft_weights(losses)
    if recipe.method == "memft-ot" or memories > 1:
        zero_active = recipe.zero_active if recipe.method == "memft-ot" else "zero"
        return lambda losses, correct: memft.memft_ot_weights(losses, zero_active=zero_active)
    window = None

    def weigh(losses: Tensor, correct: Tensor) -> Tensor:
        nonlocal window
        state = memft.first_window(losses) if window is None else window
        weights, window = memft.memft_sw_weights(losses, correct(), state)
        return weights

    return weigh


def train(
    model: Model,
    unit: Unit,
    batch: Batch,
    recipe: Recipe,
    *,
    lr: float,
    certify: Callable[[], bool] = lambda: True,
    on_metrics: Callable[[float, float, float], None] = lambda done, loss, share: None,
) -> Training:
    """Train `unit` (attached to `model`) on the batch; stops early as the recipe and Ctrl-C say.

    certify: asked, when all p_t > ½ in training, whether that holds in the verdict's arithmetic too.
    on_metrics: called every few steps with (share of the run that is done, mean loss in nats, share of
    tokens with p_t > ½), both over the last epoch.
    """
    done, count = Training(), len(batch.ids)
    plan = list(schedule(recipe, count))
    steps = len(plan)
    epoch = 1 if recipe.batch_size is None else -(-count // (recipe.batch_size * recipe.accumulate))
    prefix = Prefix(model, unit, batch)
    weigh = make_weigher(recipe, count)
    optimizer = torch.optim.AdamW(unit.parameters(), lr=lr, weight_decay=0.0)
    losses_by_step = torch.zeros(2, steps, device=model.device)  # mean loss, share certified
    unit.train()
    try:
        for step, minibatches in enumerate(plan):
            optimizer.zero_grad()
            for which in minibatches:
                part = batch if which is None else batch.select(which)
                logits = prefix.logits(part)
                losses = token_losses(logits, part.targets)
                fixed = losses.detach()
                metrics = torch.stack([fixed.mean(), (fixed < memft.LN2).float().mean()])
                losses_by_step[:, step] += metrics / len(minibatches)
                weights = weigh(fixed, lambda logits=logits, part=part: logits.argmax(-1) == part.targets)
                (memft.weighted_mean(losses, weights) / len(minibatches)).backward()
            if which is None and step % max(1, steps // SNAPSHOTS) == 0:
                done.trace.append((step, (-fixed).exp()))
            if step % METRICS_EVERY == 0:  # the only wait for the device
                recent = losses_by_step[:, max(0, step + 1 - epoch) : step + 1]
                loss, share = recent.mean(1).tolist()
                on_metrics(step / steps, loss, share)
                if not math.isfinite(loss):
                    done.status = "diverged"
                    break
                if recipe.stop_when_certified and share > 1 - 1e-6 and certify():
                    break
            torch.nn.utils.clip_grad_norm_(unit.parameters(), recipe.clip)
            optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
            optimizer.step()
            done.steps = step + 1
    except KeyboardInterrupt:  # keep what there is
        done.status = "interrupted"
    unit.train(False)
    done.losses, done.certified = losses_by_step[:, : done.steps].tolist()
    done.trace = [(step, p.tolist()) for step, p in done.trace]
    return done
