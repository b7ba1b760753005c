"""The capstone of one student: the values of exercise 12, and the same measured by the grader."""

import functools
import math
from collections.abc import Collection
from dataclasses import dataclass

import tinymem as tm

from .drawn import NUMBERS, draw_text
from .grading import kind_of, near, number, require
from .hand_in import HandIn
from .server import load_shipped

SEEDS, ENOUGH, STEPS = (0, 1, 2), 2, 300
LARGEST, USUAL = 32, 4  # ranks
PER_RANK = 512  # parameters of a unit beside an MLP of the shipped model
UNSURE = 0.1  # logits: another machine may recite, or not, where the lowest margin is smaller
BECAUSE = ("chance", "kind", "curve")
LESSON = {"base_loss": 4.60, "random_base_loss": 12.51}  # what lesson 12 prints for its own text


class Runs:
    """The runs of one rank, one for each seed."""

    def __init__(self, memories: list[tm.Memory], rank: int):
        recipes = [tm.Recipe(rank=rank, seed=s, method="margin", steps=STEPS) for s in SEEDS]
        results = tm.memorize_together(load_shipped()[0], memories, recipes)
        self.margins = [result.verdict.margins for result in results]
        self.recited = sum(result.report["recall_exact"] for result in results)
        self.unsure = sum(abs(min(margins)) < UNSURE for margins in self.margins)

    def agree(self, recited: int) -> bool:
        """Whether another machine may count so many: at most one run may differ."""
        return abs(recited - self.recited) <= min(self.unsure, 1)


@functools.cache  # several checks need the same runs
def text_of(number: int) -> tm.Memory:
    tokenizer = load_shipped()[1]
    return tm.text_memory(tokenizer, draw_text(number, tokenizer))


@functools.cache
def base_loss(memory: tm.Memory) -> float:
    """The loss without a unit, in nats per token."""
    return tm.judge(load_shipped()[0], memory).loss


def random_memory(length: int, seed: int) -> tm.Memory:
    return tm.random_memory(load_shipped()[1], length, seed=seed)


@functools.cache
def text_runs(number: int, rank: int) -> Runs:
    return Runs([text_of(number)] * len(SEEDS), rank)


@functools.cache
def random_runs(length: int, rank: int) -> Runs:
    return Runs([random_memory(length, seed) for seed in SEEDS], rank)


def smallest_rank(number: int, near: int) -> int:
    """The smallest sufficient rank, found by steps of one from a rank that is likely near."""
    rank = min(near, USUAL)
    while rank < LARGEST and text_runs(number, rank).recited < ENOUGH:
        rank += 1
    while rank > 1 and text_runs(number, rank - 1).recited >= ENOUGH:
        rank -= 1
    return rank


@dataclass
class Capstone:
    """What the student has written."""

    number: int
    prediction: dict
    measurement: dict[int, int]
    facts: dict

    @property
    def miss(self) -> dict:
        numbers = [value for value in self.facts.values() if not isinstance(value, str)]
        require(any(numbers), "not done yet: MY_MISS")
        return self.facts

    @property
    def length(self) -> int:
        return text_of(self.number).length

    @property
    def measured(self) -> int:
        """The smallest sufficient rank, as the student has measured it."""
        sufficient = [rank for rank, recited in self.measurement.items() if recited >= ENOUGH]
        message = "MY_MEASUREMENT has no rank at which two of three seeds recite. Try larger ranks"
        require(sufficient, message)
        return min(sufficient)

    def disagreement(self) -> str:
        """How the grader's runs differ from the measurement, at the rank and the one below it."""
        for rank in (self.measured - 1, self.measured):
            if rank < 1:
                continue
            if rank not in self.measurement:
                return f"MY_MEASUREMENT has rank {self.measured} but not rank {rank}, one below it"
            runs, said = text_runs(self.number, rank), self.measurement[rank]
            if not runs.agree(said):
                other = "fewer" if runs.recited < said else "more"
                return (
                    f"MY_MEASUREMENT says that {said} of 3 seeds recite at rank {rank}, but {other}"
                    f' did when it was repeated with method="margin" and steps={STEPS}'
                )
        return ""

    def smallest(self) -> int:
        """The measured rank; the grader's own if the measurement cannot be repeated."""
        if self.disagreement():
            return smallest_rank(self.number, self.measured)
        return self.measured

    def require_measured(self) -> None:
        """Fails if the measured rank is a wrong one."""
        message = f"{self.disagreement()}. A prediction can only be compared with a measured rank"
        require(self.smallest() == self.measured, message)


def read_capstone(answers: HandIn, student: int | None) -> Capstone:
    """Fails with a sentence if there is none yet, or if it is another student's."""
    given = answers.value("MY_NUMBER")
    require(given, "not done yet: MY_NUMBER is 0")
    fits = type(given) is int and given in NUMBERS
    require(fits, f"MY_NUMBER should be a whole number from 1 to 9999, not {kind_of(given)}")
    message = f"MY_NUMBER is {given}, but this is the hand-in of student {student}. The answers are"
    message += " those to another student's text"
    require(student in (None, given), message)
    measurement = python_numbers(answers.value("MY_MEASUREMENT"))
    require(measurement, "not done yet: MY_MEASUREMENT is empty")
    pairs = measurement.items() if isinstance(measurement, dict) else [(None, None)]
    fits = all(
        type(rank) is int and 1 <= rank <= LARGEST and type(recited) is int and 0 <= recited <= 3
        for rank, recited in pairs
    )
    message = "MY_MEASUREMENT should give for each rank how many of three seeds recite, such as"
    require(fits, f"{message} {{2: 0, 3: 1, 4: 3}}, not {kind_of(measurement)}")
    prediction = numbers(answers, "MY_PREDICTION", ("load", "rank", "low", "high"))
    facts = ("ratio", "base_loss", "random_base_loss", "control", "weakest", "margin")
    miss = numbers(answers, "MY_MISS", facts)
    copied = all(near(miss[name], loss, 0.001) for name, loss in LESSON.items())
    message = "MY_MISS has the losses of lesson 12, which are those of its own text and length."
    require(not copied, f"{message} Yours is the text of number {given}: measure it yourself")
    return Capstone(given, prediction, measurement, miss)


def numbers(answers: HandIn, where: str, names: Collection[str]) -> dict:
    """The dict that the hand-in calls `where`, which has a number under each of these names."""
    values = python_numbers(answers.value(where))
    missing = [name for name in names if not isinstance(values, dict) or name not in values]
    require(not missing, f"{where} should be a dict with {', '.join(names)}, not {kind_of(values)}")
    for name in names:
        value = number(values[name], f"{where}[{name!r}]")
        require(math.isfinite(value), f"{where}[{name!r}] should be a number, not {value}")
    return values


def python_numbers(values: object) -> object:
    """A dict with plain numbers instead of those of numpy and torch."""
    if not isinstance(values, dict):
        return values
    return {k: v.item() if getattr(v, "ndim", None) == 0 else v for k, v in values.items()}
