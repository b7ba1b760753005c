"""The checks of rungs 1 and 2: tokens and targets, and the memory unit.

All inputs are drawn from --seed, so another seed gives hidden tests of the same functions. What is
expected is computed in plain torch, and not by the library. The code of the checks is not secret.
"""

import itertools

import pytest
import torch

from checks import scenarios_rungs_1_to_5 as scenarios
from checks.expected import drawn, token_ids, whole
from checks.grading import (
    apart,
    first_of,
    near,
    require,
    require_close,
    several,
    tensor,
    whole_numbers,
)
from checks.ladder import rung
from checks.values import MODEL, Raised

points = pytest.mark.points


# --- Rung 1: tokens and targets -------------------------------------------------------------------


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
    message = f"Two draws with the seed {number} gave different tokens. Draw with a generator that"
    require(draw(mymem, plain_ids, 60, number) == long, f"{message} has this seed")
    message = f"The seeds {number} and {number + 1} gave the same tokens"
    require(draw(mymem, plain_ids, 60, number + 1) != long, message)
    for count in (1, 7, 20, 59):
        short = draw(mymem, plain_ids, count, number)
        message = f"With the seed {number}, a draw of length {count} is {short[:8]}, but a draw of"
        message += f" length 60 begins with {long[:8]}. The count should not change what is drawn"
        require(short == long[:count], message, keeps=0.5)


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


@rung(1)
def test_rung1_no_input_is_unnecessary(mymem, seed):
    for prompt, target in pairs(seed):
        ids, rows, _, case, _ = split(mymem, prompt, target)
        last, end = max(rows, default=None), len(ids) - 1
        short = len(ids) < len(prompt) + len(target)
        message = f"{case}. The last row is {last}, but the last position of ids is {end}. Nothing"
        message += " is predicted from the last target token, so it should not be an input"
        require(last == end or short, message)


# --- Rung 2: the memory unit ----------------------------------------------------------------------


def sizes(generator: torch.Generator) -> tuple[int, int]:
    """A width and a rank."""
    return whole(12, 30, generator), whole(2, 6, generator)


@rung(2)
def test_rung2_a_new_unit_changes_nothing_and_can_learn(mymem, seed):
    generator = drawn(seed)
    width, rank = sizes(generator)
    weight = torch.randn(width, width, generator=generator) / 5
    x = torch.randn(5, width, generator=generator)
    found = mymem.run(scenarios.new_unit, weight, rank, seed, x)
    shapes = {"A": [width, rank], "B": [rank, width]}
    for name, shape in shapes.items():
        tensor(found[name], shape, f"{name} of a unit of width {width} and rank {rank}")
    out = tensor(found["out"], x.shape, "The output of a unit, [T, d],")
    far = apart(out, found["plain"])
    message = f"A new unit changes the output by up to {far:.3g}, but it should not change it. With"
    require(far == 0, f"{message} B = 0, x A B is 0 for every A")
    names = sorted(found["parameters"])
    message = f"The trainable parameters of the unit should be A and B, not {names}. Make each of"
    require(names == ["A", "B"], f"{message} them an nn.Parameter", keeps=0.5)
    message = "The output has no gradient with respect to B. Do not detach A or B in forward"
    require(found["gradient"] and found["gradient of B"] is not None, message, keeps=0.5)
    message = "The first gradient of B is 0. If A starts at 0 as well, neither of them ever"
    message += " changes, because each gradient contains the other matrix as a factor"
    require(found["gradient of B"].abs().max() > 0, message, keeps=0.5)


@rung(2)
def test_rung2_where_a_starts(mymem, seed):
    for width, rank in ((4000, 4), (1500, 25)):
        A = mymem.run(scenarios.first_values, width, rank, seed)[0]
        A = tensor(A, [width, rank], f"A of a unit of width {width} and rank {rank}")
        bound, most = rank**-0.5, A.abs().max().item()
        mean, spread = A.mean().item(), A.std().item()
        hints = {
            "That is 1/√d, the bound for the transposed matrix": near(most, width**-0.5, 1e-3),
            "`torch.rand` gives only values from 0 to 1": A.min() >= 0 and most > 0,
        }
        message = f"A should be uniform between −1/√r and 1/√r, which is ±{bound:.3f} for rank"
        message += f" {rank}, with mean 0. The largest of its {A.numel():,} values is {most:.3f}"
        message += f" and their mean is {mean:.3f}"
        require(0.9 * bound < most <= bound and abs(mean) < 0.1 * bound, message + first_of(hints))
        message = "A should be uniform, with a standard deviation of 1/√(3r) ="
        message += f" {bound / 3**0.5:.3f}"
        require(near(spread * 3**0.5 / bound, 1, 0.1), f"{message}, but it is {spread:.3f}")
    first, again, other = (mymem.run(scenarios.first_values, 6, 2, n)[0] for n in (1, 1, 2))
    message = "Two units with the same seed have two different A. Draw A with a generator that has"
    require(torch.equal(first, again), f"{message} this seed", keeps=0.5)
    message = "Two units with different seeds have the same A. Draw A with a generator that has"
    require(not torch.equal(first, other), f"{message} the seed of the unit", keeps=0.5)


@rung(2)
def test_rung2_the_output(mymem, seed):
    generator = drawn(seed)
    width, rank = sizes(generator)
    shapes = ((2, 7, width), (width, rank), (rank, width))
    x, A, B = (torch.randn(s, generator=generator) for s in shapes)
    out, _ = mymem.run(scenarios.output, x, A, B)
    out, right = tensor(out, x.shape, "The output of a unit, [..., d],"), x.tanh() + x @ A @ B
    hints = {
        "The part itself is missing": apart(out, x @ A @ B) < 1e-4,
        "The unit should read x, not the output of the part": (
            apart(out, x.tanh() + x.tanh() @ A @ B) < 1e-4
        ),
    }
    message = "The output should be part(x) + x A B, without a factor"
    require_close(out, right, message + first_of(hints), 1e-4)


@rung(2)
def test_rung2_never_the_dense_product(mymem, seed):
    generator = drawn(seed)
    x, A, B = (torch.randn(s, generator=generator) for s in ((3, 1500), (1500, 2), (2, 1500)))
    out, largest = mymem.run(scenarios.output, x, A, B)
    tensor(out, x.shape, "The output of a unit, [T, d],")
    message = f"For x [3, 1500], a tensor of {largest:,} numbers was created. The product A B has"
    message += " the shape [1500, 1500]. Multiply from the left, (x A) B, which takes 2·d·r"
    message += " multiplications per token instead of d²"
    require(largest <= 4500, message)


def attached(mymem, seed: int) -> tuple[dict, int]:
    """What happens to a model with some number of layers, and the layer of the unit."""
    generator = drawn(seed)
    layers, rank = whole(5, 8, generator), whole(2, 5, generator)
    ids = torch.tensor([token_ids(9, generator)])
    found = mymem.run(scenarios.attach_and_detach, MODEL, layers, rank, seed, ids)
    require(found["is LoRA"], f"attach should return the LoRA that it puts in, not {found['kind']}")
    case = f"In a model with {layers} layers, the unit should be beside the MLP of layer"
    found["case"] = f"{case} {layers * 2 // 3}, counted from 0"
    return found, layers * 2 // 3


@rung(2)
def test_rung2_attach(mymem, seed):
    found, layer = attached(mymem, seed)
    at = found["holds the unit"]
    message = f"{found['case']}. It is in layer {at[0] if at else 'none'}"
    require(at == found["layers"] == [layer], message)
    message = "attach should make a LoRA of this rank and this seed, but its A is another one"
    require(found["drawn alike"], message, keeps=0.5)
    free = [name for name in found["trainable"] if name not in found["names"]]
    message = f"After attach, {len(free)} parameters of the base model have a gradient as well, for"
    message += f" example {', '.join(free[:1])}. Freeze the model before you put the unit in"
    require(not free, message, keeps=0.5)
    message = "After attach, A and B of the unit should have a gradient. Freeze the model before"
    message += " you put the unit in, not afterwards"
    require(len(found["trainable"]) == len(found["names"]), message, keeps=0.5)


@rung(2)
def test_rung2_detach(mymem, seed):
    found, _ = attached(mymem, seed)
    require(found["holds the unit"], "attach did not put the unit in, so nothing can be taken out")
    far = apart(found["after"], found["before"])
    message = f"After detach, the logits differ by up to {far:.3g} from those before attach"
    require(far == 0, f"{message}. Put the part of the unit back where it was")
    message = "After detach, the model has the right logits, but it is not the model that it was:"
    message += f" it still has {', '.join(found['new names'][:3]) or 'another MLP'}"
    require(found["same parts"] and not found["new names"], message, keeps=0.5)
    message = "detach has changed B. The unit should keep what it has learned"
    require(torch.equal(found["B after"], found["B"]), message, keeps=0.5)
