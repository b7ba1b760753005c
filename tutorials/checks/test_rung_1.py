"""The checks of rung 1: tokens and targets.

All inputs are drawn from --seed, so another seed gives hidden tests of the same functions. What is
expected is computed in plain torch, and not by the library. The code of the checks is not secret.
"""

import itertools

import torch

from checks import scenarios_rungs_1_to_5 as scenarios
from checks.expected import drawn, whole
from checks.grading import first_of, not_plain, require, several, whole_numbers
from checks.ladder import rung
from checks.values import Raised


def some_plain_ids(generator: torch.Generator) -> list[int]:
    """Ids that are in order but have gaps, as those of a tokenizer."""
    count = whole(7, 12, generator)
    return sorted((100 + torch.randperm(900, generator=generator)[:count]).tolist())


def draw(mymem, plain_ids: list[int], count: int, seed: int) -> list[int]:
    out = mymem.call("draw_tokens", plain_ids, count, seed, catch=True)
    if isinstance(out, Raised):
        more = count > len(plain_ids)
        hint = {"A token may be drawn again: draw with replacement": "ample" in out.text and more}
        message = f"draw_tokens raised {out.text} for {count} draws from {len(plain_ids)} tokens"
        require(False, message + first_of(hint))
    ids = whole_numbers(out, "The drawn tokens")
    message = f"draw_tokens should give {count} tokens, not {len(ids)}"
    require(len(ids) == count, message)
    return ids


@rung(1)
def test_rung1_the_seed_decides_the_draw(mymem, seed):
    generator = drawn(seed)
    plain_ids, number = some_plain_ids(generator), whole(0, 10**6, generator)
    long = draw(mymem, plain_ids, 60, number)
    places = set(long) <= set(range(len(plain_ids)))  # which another check is about
    message = f"60 draws from {plain_ids} gave {sorted(set(long))[:9]}"
    require(len(set(long)) > 1 and (places or set(long) <= set(plain_ids)), message)
    message = f"Two draws with the seed {number} gave different tokens. Draw with a generator that"
    require(draw(mymem, plain_ids, 60, number) == long, f"{message} has this seed")
    for more in (1, 10, 1000):
        other = draw(mymem, plain_ids, 60, number + more)
        message = f"The seeds {number} and {number + more} gave the same tokens"
        require(other != long, message)
        message = f"{message}, but shifted by one. Make one generator for all tokens of a draw"
        require(other[:-1] != long[1:] and other[1:] != long[:-1], message, keeps=0.5)
    for count in (1, 7, 20, 59):
        short = draw(mymem, plain_ids, count, number)
        message = f"With the seed {number}, a draw of length {count} is {short[:8]}, but a draw of"
        message += f" length 60 begins with {long[:8]}. The count should not change what is drawn"
        require(short == long[:count], message, keeps=0.5)
    odd = not_plain(mymem.call("draw_tokens", plain_ids, 3, number), (list,))
    require(not odd, f"The result of draw_tokens {odd}. Use .tolist()", keeps=0.5)


@rung(1)
def test_rung1_each_token_is_drawn_equally_often(mymem, seed):
    generator = drawn(seed)
    plain_ids, each = some_plain_ids(generator), 300
    ids = draw(mymem, plain_ids, each * len(plain_ids), whole(0, 10**6, generator))
    strange = sorted(set(ids) - set(plain_ids))
    hint = {"These are places in plain_ids, not its ids": set(ids) <= set(range(len(plain_ids)))}
    message = f"{strange[:3]} were drawn, but they are not in plain_ids = {plain_ids}"
    require(not strange, message + first_of(hint))
    counts = [ids.count(i) for i in plain_ids]
    never = [i for i, count in zip(plain_ids, counts, strict=True) if not count]
    hints = {
        "The end of a range may not be part of it": never == plain_ids[-1:],
        "The first id is left out": never == plain_ids[:1],
    }
    message = f"In {len(ids)} draws from {plain_ids}, the tokens {never} were never drawn"
    require(not never, message + first_of(hints), keeps=0.5)
    message = f"In {len(ids)} draws, each of the {len(plain_ids)} tokens should be drawn about"
    message += f" {each} times, independently of the others. Yours were drawn {counts} times"
    far = max(abs(count - each) for count in counts)
    require(far < 110, message, keeps=0.5)  # more than six standard deviations
    message = f"{message}. That is too even: after a token was drawn, it may be drawn again at once"
    twice = sum(a == b for a, b in itertools.pairwise(ids))
    require(abs(twice - each) < 110, message, keeps=0.5)


def pairs(seed: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and targets."""
    generator = drawn(seed)
    sizes = [(2, 3), (1, 1), (1, 4)]
    sizes += torch.randint(1, 30, (20, 2), generator=generator).tolist()
    return [
        tuple(torch.randint(99, (n,), generator=generator).tolist() for n in both) for both in sizes
    ]


def split(
    mymem, prompt: list[int], target: list[int]
) -> tuple[list[int], list[int], list[int], str, bool]:
    """The ids, rows and targets of the answer; the case in words; are the given lists the same?"""
    out, *after = mymem.run(scenarios.split, prompt, target)
    ids, rows, targets = several(out, 3, "(ids, rows, targets)")
    ids, rows = whole_numbers(ids, "ids"), whole_numbers(rows, "rows")
    targets = whole_numbers(targets, "targets")
    case = f"The prompt {prompt} and the target {target} gave the ids {ids} and the rows {rows}"
    return ids, rows, targets, case, after == [prompt, target]


@rung(1)
def test_rung1_each_target_token_is_predicted_from_all_that_is_before_it(mymem, seed):
    for prompt, target in pairs(seed):
        ids, rows, targets, case, same = split(mymem, prompt, target)
        message = f"{case}. There should be one row for each of the {len(target)} target tokens and"
        message += f" no row for the other prompt tokens, but there are {len(rows)} rows"
        require(len(rows) == len(target), message)
        message = f"{case}. The targets should be the target tokens in order, not {targets}"
        require(targets == target, message)
        for t, row in enumerate(rows):
            inside = 0 <= row < len(ids)
            require(inside, f"{case}. Row {row} is not a position from 0 to {len(ids) - 1}")
            seen, before = ids[: row + 1], prompt + target[:t]
            hints = {
                "It has read the token that it should predict": seen == before + target[t : t + 1],
                "It has read one token too few": seen == before[:-1],
            }
            message = f"{case}. Target token {t} is predicted at position {row}, where the model"
            message += f" has read {seen}. It should have read the prompt and the target tokens"
            message += f" before this one, {before}"
            require(seen == before, message + first_of(hints))
        message = "inputs_and_targets has changed a list that it was given. Begin with a copy, as"
        require(same, f"{message} prompt_ids + target_ids does", keeps=0.5)
    out, *_ = mymem.run(scenarios.split, prompt, target)
    for what, one in zip(("ids", "rows", "targets"), out, strict=True):
        odd = not_plain(one, (list,))
        require(not odd, f"{what} of inputs_and_targets {odd}. Use .tolist()", keeps=0.5)


@rung(1)
def test_rung1_no_input_is_unnecessary(mymem, seed):
    for prompt, target in pairs(seed):
        ids, rows, _, case, _ = split(mymem, prompt, target)
        require(len(rows) >= len(target), f"{case}, which has too few rows")
        last, end = max(rows, default=None), len(ids) - 1
        short = len(ids) < len(prompt) + len(target)
        message = f"{case}. The last row is {last}, but the last position of ids is {end}. Nothing"
        message += " is predicted from the last target token, so it should not be an input"
        require(last == end or short, message)
