"""The checks of exercise 12, the capstone. Its text is drawn by the student's number.

The grader trains again: three seeds at the measured rank and one rank below it, and three memories
of random tokens. It judges an honest prediction, a measurement that can be repeated, and facts
about the miss. A prediction that misses loses two of eight points.
"""

import math

import pytest

from checks.capstone import (
    BECAUSE,
    ENOUGH,
    LARGEST,
    PER_RANK,
    UNSURE,
    Capstone,
    base_loss,
    random_memory,
    random_runs,
    read_capstone,
    text_of,
    text_runs,
)
from checks.grading import first_of, near, require

LN2 = math.log(2)
points = pytest.mark.points
LOWEST = 5  # tokens, among which the weakest one should be


@pytest.fixture
def capstone(answers, student) -> Capstone:
    return read_capstone(answers, student)


@pytest.mark.ex12
def test_ex12_the_rank_follows_from_the_load(capstone):
    load, rank, low, high = (capstone.prediction[name] for name in ("load", "rank", "low", "high"))
    require(rank or load, "not done yet: MY_PREDICTION")
    message = "MY_PREDICTION should have whole ranks with 1 ≤ low ≤ rank ≤ high ≤"
    ordered = 1 <= low <= rank <= high <= LARGEST
    whole = all(type(each) is int for each in (rank, low, high))
    require(whole and ordered, f"{message} {LARGEST}, not low {low}, rank {rank}, high {high}")
    require(load > 0, f"The load should be above 0 tokens per parameter, but it is {load}")
    needed, length = capstone.length / (PER_RANK * load), capstone.length
    message = f"Your text has {length} tokens. With at most {load:.4g} tokens per parameter it"
    message += f" needs {length / load:.0f} parameters, which is rank {math.ceil(needed)}, not"
    message += f" rank {rank}. (A unit of rank r has {PER_RANK} r parameters)"
    require(rank - 1.01 < needed < rank * 1.01, message)


@pytest.mark.ex12
@points(2)
def test_ex12_the_interval_contains_the_measured_rank(capstone):
    low, high = capstone.prediction["low"], capstone.prediction["high"]
    require(0 < low <= high <= LARGEST, "not done yet: MY_PREDICTION has no interval")
    message = f"The predicted interval, rank {low} to {high}, does not contain the smallest"
    message += " sufficient rank. The points for explaining the miss are not affected"
    capstone.require_measured()
    require(low <= capstone.measured <= high, message)
    narrow = max(low + 1, 1.5 * low)
    message = f"The interval from rank {low} to {high} contains the smallest sufficient rank, but"
    message += f" it is wide: with low = {low} it gets all points up to high = {int(narrow)}"
    require(high <= narrow, message, keeps=narrow / high)


@pytest.mark.ex12
def test_ex12_the_measurement_can_be_repeated(capstone):
    wrong = capstone.disagreement()
    require(not wrong, wrong, keeps=0.5 * (capstone.smallest() == capstone.measured))


@pytest.mark.ex12
def test_ex12_the_losses_without_a_unit(capstone):
    right = {"base_loss": text_of(capstone.number)}
    right |= {"random_base_loss": random_memory(capstone.length, capstone.number)}
    wrong = []
    for name, memory in right.items():
        loss, said = base_loss(memory), capstone.miss[name]
        hints = {
            "That is in bits": near(said * LN2, loss, 0.005),
            "That is a probability": 0 < said < 1 and near(said, math.exp(-loss), 0.005),
            "It is too low. A unit was attached, or it is the loss of another text": said < loss,
            "It is too high. Is it the loss of another text?": said > loss,
        }
        if not near(said, loss, 0.005):
            wrong.append(f"MY_MISS[{name!r}] is {said:.2f} nats per token{first_of(hints)}")
    require(not wrong, "; ".join(wrong), keeps=0.5 * (len(wrong) == 1))


@pytest.mark.ex12
def test_ex12_why_the_prediction_missed_or_did_not(capstone):
    measured, miss = capstone.measured, capstone.miss
    capstone.require_measured()
    low, rank, high = (capstone.prediction[name] for name in ("low", "rank", "high"))
    message = f"Rank {rank} was predicted and rank {measured} measured, so the ratio is"
    message += f" {rank / measured:.2f}, not {miss['ratio']:.2f}"
    require(near(miss["ratio"], rank / measured, 0.01), message)
    runs, said = random_runs(capstone.length, measured), miss["control"]
    message = f"MY_MISS['control'] says that rank {measured} recites {said} of three memories of"
    message += f" {capstone.length} random tokens, but it was another number when it was repeated"
    require(runs.agree(said), message, keeps=0.4)
    why = miss.get("because")
    require(why in BECAUSE, f"'because' should be one of {', '.join(BECAUSE)}", keeps=0.6)
    inside, easier = low <= measured <= high, said < ENOUGH and rank > measured
    right = "chance" if inside else "kind" if easier else "curve"
    facts = {
        "chance": f"the interval from {low} to {high} contains the measured rank {measured}",
        "kind": f"rank {rank} is above the measured rank {measured}, which recites only {said} of"
        " three memories of as many random tokens",
        "curve": f"the interval from {low} to {high} does not contain the measured rank {measured},"
        f" and this rank recites {said} of three memories of as many random tokens",
    }
    message = f"The reason {why!r} does not go together with your facts: {facts[right]}"
    require(why == right, message, keeps=0.6)


@pytest.mark.ex12
@points(2)
def test_ex12_the_weakest_token(capstone):
    below, weakest = capstone.measured - 1, capstone.miss["weakest"]
    require(below, "Rank 1 is sufficient in MY_MEASUREMENT, so no rank is below it")
    margins = text_runs(capstone.number, below).margins[0]
    inside = type(weakest) is int and 0 <= weakest < len(margins)
    message = f"'weakest' should be a position from 0 to {len(margins) - 1}, not {weakest}"
    require(inside, message)
    lower = sum(margin < margins[weakest] for margin in margins)
    message = (
        f"At rank {below} with seed 0, {lower} tokens have a lower margin than token {weakest}"
    )
    hints = {
        "Count the positions of the target from 0, without the prompt": lower > len(margins) / 2
    }
    require(lower < LOWEST, message + first_of(hints))
    said = capstone.miss["margin"]
    message = f"The margin of token {weakest} at rank {below} with seed 0 is not {said:.2f} logits"
    hints = {"Its sign is the other one": abs(said + margins[weakest]) < UNSURE}
    right = abs(said - margins[weakest]) < UNSURE
    require(right, message + first_of(hints), keeps=0.5)
