"""The checks of exercise 5: a memory that is recited although a token has p ≤ ½."""

import functools

import pytest
import torch

import tinymem as tm
from checks import scenarios_exercises as scenarios
from checks.expected import drawn, token_ids, whole
from checks.grading import kind_of, require
from checks.server import load_shipped
from checks.values import MODEL

ALLOWED = {"rank", "steps", "lr", "seed"}
MOST_STEPS = 400
# Of a short and a long memory. The same options work for one of them at most, so an answer without
# a search has no points, and four memories are enough.
LENGTHS = ((16, 19), (28, 32))
PAIRS = 2


@functools.lru_cache(maxsize=64)  # the tests of the course grade the same answers several times
def report_of(prompt: tuple[int, ...], target: tuple[int, ...], recipe: tm.Recipe) -> dict:
    return tm.memorize(load_shipped()[0], tm.Memory(prompt, target), recipe=recipe).report


def recipe_of(options: object) -> tm.Recipe:
    """The options as a recipe, or a failed check."""
    kind = f"recalled_below_one_half should return a dict of options, not {kind_of(options)}"
    require(isinstance(options, dict), kind)
    others = sorted(str(name) for name in options if name not in ALLOWED)
    message = f"The options may be rank, steps, lr and seed, not {', '.join(others)}"
    require(not others, f"{message}: with others, the library would search for you")
    try:
        recipe = tm.Recipe(**options)
    except (TypeError, ValueError) as error:  # tinymem's own errors are ValueErrors
        reason = str(error)
        require(False, f"tinymem.memorize does not accept these options: {reason}")
    few = f"The options should have steps=400 or fewer, not {recipe.steps}"
    require(recipe.steps <= MOST_STEPS, few)
    return recipe


@pytest.mark.ex5
@pytest.mark.points(2)
@pytest.mark.parametrize("pair", range(PAIRS))
def test_ex5_recalled_below_one_half(answers, seed, pair):
    for which, lengths in enumerate(LENGTHS):
        generator = drawn(seed + 1000 * (PAIRS * which + pair))
        require_counter_example(answers, whole(*lengths, generator), generator)


def require_counter_example(answers, length: int, generator: torch.Generator) -> None:
    prompt, target = token_ids(whole(2, 8, generator), generator), token_ids(length, generator)
    options = answers.run(scenarios.below_one_half, MODEL, prompt, target)
    report = report_of(tuple(prompt), tuple(target), recipe_of(options))
    lowest, case = report["min_probability"], f"With {options}, this memory of {length} tokens"
    message = f"{case} is not recited: greedy decoding is wrong at token {report['first_error']}."
    message += " Train it a little longer, or use a higher rank"
    require(report["recall_exact"], message)
    message = f"{case} is recited, but its lowest p is {lowest:.2f}. It is certified, so it is not"
    message += " a counter-example. Train it for fewer steps, or use a lower rank"
    require(lowest <= 0.5, message)
