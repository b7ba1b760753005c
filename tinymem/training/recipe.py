"""What decides a run, apart from the base model and the memory.

The paper's recipe (arXiv 2605.30260): AdamW without weight decay, learning rate falling linearly to
0 without warm-up, 2,000 steps, gradient norm clipped at 1. Two deviations: the learning rate, 1e-2
at the paper's width of 4,096, follows the width of the model (`auto_lr`); and the dropout of 0.1 on
the unit's output is 0 unless asked for, because with dropout a memory has no definite loss.

Many memories in one unit (the paper's PhoneBook) train as one full batch, or in minibatches over
epochs. memft-sw then is a curriculum: `schedule` says which memories each step sees.
"""

import itertools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..base.model import Model
from ..data.memory import Memory
from ..errors import RecipeError
from . import margin, memft

METHODS = (*memft.METHODS, "margin")
STAGES = 5  # of the curriculum: 20, 40, 60, 80, 100 % of the memories
STEADY = ("sft", "memft-ot")  # methods whose objective is the same over the whole run
OPTIMIZERS = ("adamw", "lbfgs")
ZERO_ACTIVE = ("sft", "zero")
CHOICES = {"method": METHODS, "optimizer": OPTIMIZERS, "zero_active": ZERO_ACTIVE}
WHOLE_NUMBERS = {  # from, to
    **{"rank": (1, 2**20), "steps": (1, 10**7), "seed": (0, 2**32 - 1)},
    **{"epochs": (1, 10**7), "batch_size": (1, 2**32), "accumulate": (1, 2**20)},
}
NOT_FOR_LBFGS = {
    "lr": "its line search finds the length of every step",
    "dropout": "its line search needs losses that repeat",
    "batch_size": "it needs the gradient of all memories",
}
Minibatches = Sequence[np.ndarray | None]  # of one step: indices of memories, or None for all


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a run but base model and memory; unknown fields are errors."""

    rank: int = 8
    layers: tuple[int, ...] | None = None  # None: the layer at two thirds of the depth
    sites: tuple[str, ...] = ("mlp",)
    method: str = "sft"
    steps: int = 2000
    epochs: int | None = None  # instead of steps
    batch_size: int | None = None  # memories in a minibatch; None: all of them
    accumulate: int = 1  # minibatches in a step
    boundaries: tuple[int, ...] | None = None  # of memft-sw's curriculum: see `schedule`
    optimizer: str = "adamw"  # or "lbfgs": see lbfgs.py
    lr: float | None = None  # None: from the width of the model
    seed: int = 0
    dropout: float = 0.0
    clip: float = 1.0  # largest norm of the gradient
    zero_active: str = "sft"  # of memft-ot when no token is above the threshold: "sft" or "zero"
    stop_when_certified: bool = False
    stop_when_recited: bool = False  # with margins that are not thin (margin.py)
    stop_when_still: bool = False  # of L-BFGS: when the loss hardly falls (record.py)

    def __post_init__(self) -> None:
        """Raises RecipeError for values that no run could use."""
        for name, kind in (("sites", str), ("layers", int), ("boundaries", int)):
            value = getattr(self, name)
            value = (value,) if isinstance(value, kind) else value  # a lone one is a tuple of one
            if value is not None and not all(isinstance(v, kind) for v in value):
                raise RecipeError(f"{name} is {value!r}; expected {kind.__name__}s")
            object.__setattr__(self, name, None if value is None else tuple(value))
        for name, allowed in CHOICES.items():
            if (choice := getattr(self, name)) not in allowed:
                raise RecipeError(f"{name} is {choice!r}; choose {', '.join(allowed)}")
        for name, (least, most) in WHOLE_NUMBERS.items():
            value = getattr(self, name)
            value = int(value) if isinstance(value, np.integer) else value
            object.__setattr__(self, name, value)
            optional = value is None and name in ("epochs", "batch_size")
            if not optional and not (type(value) is int and least <= value <= most):
                expected = f"expected a whole number, {least} to {most:,}"
                raise RecipeError(f"{name} is {value!r}; {expected}")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            optional = value is None and name == "lr"
            if not (optional or (isinstance(value, (int, float)) and 0 < value < 1e6)):
                raise RecipeError(
                    f"{name} is {value!r}; expected a number above 0, below a million"
                )
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout is {self.dropout!r}; expected 0 or more, below 1")
        ends = self.boundaries
        unsorted = ends is not None and list(ends) != sorted(set(ends))
        if unsorted or (ends is not None and (len(ends) != STAGES - 1 or ends[0] < 1)):
            raise RecipeError(f"boundaries are {ends}; expected {STAGES - 1} rising epochs, from 1")
        for name, why in NOT_FOR_LBFGS.items():
            if self.optimizer == "lbfgs" and getattr(self, name):
                problem = f"{name} does not go with the optimizer lbfgs: {why}"
                raise RecipeError(f"{problem}; leave it out")
        if self.stop_when_still and not (self.optimizer == "lbfgs" and self.method in STEADY):
            raise RecipeError(f"stop_when_still needs lbfgs and one of {', '.join(STEADY)}")

    def learning_rate(self, model: Model) -> float | None:
        """The largest one of the run; None for L-BFGS, which has none."""
        if self.optimizer == "lbfgs":
            return None
        return auto_lr(model) if self.lr is None else self.lr

    def last_temperature(self) -> float:
        """T of the objective at the end of the run (margin.py); 1 for the other methods."""
        return margin.END if self.method == "margin" else 1.0

    def steps_per_epoch(self, memories: int) -> int:
        """Steps in which a run on so many memories sees each of them once."""
        size = memories if self.batch_size is None else self.batch_size * self.accumulate
        return -(-memories // size)

    def weighting(self, memories: int) -> tuple[str, str]:
        """(method, zero_active) by which the tokens of so many memories are weighted.

        memft-sw over several memories is memft-ot with the zero-loss rule; its curriculum is in
        `schedule`.
        """
        if self.method == "memft-sw" and memories > 1:
            return "memft-ot", "zero"
        return self.method, self.zero_active if self.method == "memft-ot" else ""

    def batch_key(self, memories: Sequence[Memory]) -> Hashable | None:
        """Equal for runs that can train as one batch; None if the run must train alone."""
        curriculum = self.method == "memft-sw" and len(memories) > 1
        if curriculum or self.batch_size is not None or self.optimizer != "adamw":
            return None
        own = {"rank": 1, "method": "sft", "seed": 0, "lr": None, "clip": 1.0, "zero_active": "sft"}
        lengths = tuple((len(m.prompt_ids), m.length) for m in memories)
        return replace(self, **own), lengths  # type: ignore[arg-type]


def auto_lr(model: Model) -> float:
    """The default learning rate: 1e-2 · 4096 / width, at most 0.1 (the paper: 1e-2 at 4,096).

    Measured with random tokens (rows in tutorials/reproduction). At width 256 (the shipped model,
    128 tokens, 250 to 4,000 steps), 0.1 ends lowest of 0.01, 0.03, 0.1 and 0.3; the one exception
    is rank 2 after 1,000 steps (3.97 nats; 3.91 at 0.3). At width 576 (SmolLM2-135M, 100 tokens,
    rank 2) the rule is careful: 100 steps end at 3.2 nats with its 0.071, and at 2.1 nats with 0.2.
    At other sites of the shipped model (rank 4, 64 tokens, 500 steps), 0.1 also suits the MLP's
    c_proj, but 0.03 suits c_attn better.
    """
    return min(0.1, 1e-2 * 4096 / model.config.hidden_size)


def schedule(recipe: Recipe, count: int) -> Iterator[Minibatches]:
    """For each step of a run on `count` memories, its minibatches: indices, or None for all.

    The memories are shuffled once, and again in every epoch of minibatches. Under memft-sw a step
    sees the first 20, 40, 60, 80 % of them until the epochs given as `boundaries`, and then all of
    them. Without boundaries these stages end after 1, 2, 3 and 4 fifteenths of the run (in the
    paper after 20, 40, 60 and 80 of 300 epochs).
    """
    random = np.random.default_rng(recipe.seed)
    order, steps = random.permutation(count), 0
    for epoch in itertools.count():
        done = steps / recipe.steps if recipe.epochs is None else epoch / recipe.epochs
        if done >= 1:
            return
        seen = visible(recipe, count, epoch, done)
        parts: Sequence[np.ndarray | None]
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


def visible(recipe: Recipe, count: int, epoch: int, done: float) -> int:
    """How many of `count` memories the curriculum shows in this epoch; done: share of the run."""
    if recipe.method != "memft-sw" or count == 1:
        return count
    fifteenths = [done >= n / 15 for n in range(1, STAGES)]
    stage = sum(epoch >= end for end in recipe.boundaries) if recipe.boundaries else sum(fifteenths)
    return -(-count * (stage + 1) // STAGES)
