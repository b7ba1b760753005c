"""What decides a run, apart from base model and memory; and from it, what every step sees.

The paper's recipe: AdamW without weight decay, learning rate falling linearly to 0 without warm-up,
2,000 steps, gradient norm clipped at 1. Two deviations: its learning rate, 1e-2 for models of width 4,096,
follows the width here (`auto_lr`), and dropout on the unit's output, 0.1 there, is 0 unless asked for,
because with it a memory's loss is a random quantity.

Many memories in one unit (the paper's PhoneBook) train as one full batch, or in minibatches over epochs;
memft-sw then is a curriculum: `schedule` says which memories a step sees.
"""

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..base.model import Model
from ..data.memory import Memory
from ..errors import RecipeError
from . import memft

EXPOSURES = 5  # stages of the curriculum: 20, 40, 60, 80, 100 % of the memories
OPTIMIZERS = ("adamw", "lbfgs")
Minibatches = Sequence[np.ndarray | None]  # of a step: indices of memories, or None for all


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
    optimizer: str = "adamw"  # or "lbfgs": see lbfgs.py
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
        allowed = {"method": memft.METHODS, "optimizer": OPTIMIZERS, "zero_active": ("sft", "zero")}
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
                raise RecipeError(
                    f"{name} is {value!r}; expected a whole number, {least} to {most:,}"
                )
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < 1e6):
                raise RecipeError(
                    f"{name} is {value!r}; expected a positive number below a million"
                )
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is {self.dropout!r}; expected 0 or more, below 1")
        ends = self.boundaries
        if ends is not None and (
            len(ends) != EXPOSURES - 1 or list(ends) != sorted(set(ends)) or ends[0] < 1
        ):
            raise RecipeError(
                f"boundaries are {ends}; expected {EXPOSURES - 1} rising epochs, from 1"
            )
        if self.optimizer == "lbfgs":
            reasons = {
                "lr": (self.lr is not None, "its line search finds every step's length"),
                "dropout": (self.dropout > 0, "its line search needs losses that repeat"),
                "batch_size": (
                    self.batch_size is not None,
                    "it needs the gradient of all memories",
                ),
            }
            for name, (given, why) in reasons.items():
                if given:
                    raise RecipeError(
                        f"{name} does not go with the optimizer lbfgs: {why}; leave it out"
                    )

    def learning_rate(self, model: Model) -> float | None:
        """The largest one of the run; None for L-BFGS, which has none."""
        if self.optimizer == "lbfgs":
            return None
        return auto_lr(model) if self.lr is None else self.lr

    def weighting(self, memories: int) -> tuple[str, str]:
        """Method and zero_active by which tokens are weighted (memft.Weigher).

        memft-sw over several memories is memft-ot with the zero-loss rule; its curriculum is `schedule`'s.
        """
        if self.method == "memft-sw" and memories > 1:
            return "memft-ot", "zero"
        return self.method, self.zero_active if self.method == "memft-ot" else ""

    def companions(self, memories: Sequence[Memory]) -> Hashable | None:
        """What runs must have in common to be trained as one batch; None: this one trains alone."""
        curriculum = self.method == "memft-sw" and len(memories) > 1
        if curriculum or self.batch_size is not None or self.optimizer != "adamw":
            return None
        fixed = replace(self, rank=1, method="sft", seed=0, lr=None, clip=1.0, zero_active="sft")
        return fixed, tuple((len(m.prompt_ids), m.length) for m in memories)


def auto_lr(model: Model) -> float:
    """The default learning rate: the paper's 1e-2 at width 4,096, inverse to the width, at most 0.1.

    Measured with random tokens (tutorials/reproduction has the rows). Width 256, the shipped model, 128
    tokens: of 0.01, 0.03, 0.1 and 0.3, 0.1 ends lowest after 250 to 4,000 steps at rank 8, and at rank 2
    but for 1,000 steps (3.97, against 3.91 at 0.3). Width 576, SmolLM2-135M, 100 tokens, rank 2: the rule is
    on the careful side; 100 steps end at 7.7, 3.2, 2.1 for 0.02, 0.071 (the rule's) and 0.2. At other sites
    of the shipped model (rank 4, 64 tokens, 500 steps) the MLP's c_proj likes 0.1 too, c_attn rather 0.03.
    """
    return min(0.1, 1e-2 * 4096 / model.config.hidden_size)


def schedule(recipe: Recipe, count: int) -> Iterator[Minibatches]:
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
            ends = (
                [n / 15 for n in range(1, EXPOSURES)]
                if recipe.boundaries is None
                else recipe.boundaries
            )
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
