"""The checks of exercises 1 to 4: a memory, the frozen model, the unit, and the loss.

Where possible, the checks do not depend on the library. All random inputs come from --seed, so
another seed gives hidden tests of the same functions. The code of the checks is not secret.
"""

import math

import numpy as np
import pytest
import torch
from grading import (
    Watch,
    apart,
    first_of,
    near,
    require,
    require_close,
    rounded,
    several,
    tensor,
    whole_numbers,
)
from torch import Tensor

LN2 = math.log(2)
points = pytest.mark.points


# --- Exercise 1 -----------------------------------------------------------------------------------


@pytest.fixture
def pairs(seed) -> list[tuple[list[int], list[int]]]:
    random = np.random.default_rng(seed)
    sizes = [(2, 3), (1, 1), (1, 4), *random.integers(1, 30, size=(40, 2)).tolist()]
    return [tuple(random.integers(99, size=n).tolist() for n in both) for both in sizes]


def split(
    answers, prompt: list[int], target: list[int]
) -> tuple[list[int], list[int], list[int], str]:
    """The ids, rows and targets of the answer, and the case in words."""
    out = several(answers.call("inputs_and_targets", prompt, target), 3, "(ids, rows, targets)")
    ids, rows, targets = map(whole_numbers, out, ("ids", "rows", "targets"))
    case = f"The prompt {prompt} and the target {target} gave the ids {ids} and the rows {rows}"
    return ids, rows, targets, case


@pytest.mark.ex1
@points(2)
def test_ex1_each_target_token_is_predicted_from_all_that_is_before_it(answers, pairs):
    for prompt, target in pairs:
        ids, rows, targets, case = split(answers, prompt, target)
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


@pytest.mark.ex1
def test_ex1_no_input_is_unnecessary(answers, pairs):
    for prompt, target in pairs:
        ids, rows, _, case = split(answers, prompt, target)
        last, end = max(rows, default=None), len(ids) - 1
        message = f"{case}. The last row is {last}, but the last position of ids is {end}. Nothing"
        message += " is predicted from the last target token, so it should not be an input"
        require(last == end, message)


# --- Exercise 2 -----------------------------------------------------------------------------------


def turned(answers, x: Tensor, positions: list[int], theta: float = 10_000.0) -> Tensor:
    out = answers.call("rotate", x, torch.tensor(positions), theta)
    return tensor(out, x.shape, "The result of rotate, [T, D],")


@pytest.mark.ex2
def test_ex2_by_hand(answers):
    x = torch.tensor([[1.0, 0.0, 0.0, 2.0]] * 2)
    out = turned(answers, x, [0, 3])
    message = "At position 0 the angle is 0, so x should not change"
    require_close(out[0], x[0], message)

    def by(angle: float) -> Tensor:
        return torch.tensor([math.cos(3), -2 * math.sin(angle), math.sin(3), 2 * math.cos(angle)])

    other_way = by(0.03) * torch.tensor([1, -1, -1, 1])
    hints = {
        "Yours rotates in the other direction. Check the signs of the sines": (
            apart(out[1], other_way) < 1e-4
        ),
        "The angle of component i is p · theta^(−2i/D), with a factor of 2": (
            apart(out[1], by(0.3)) < 1e-4
        ),
    }
    message = f"At position 3, x = (1, 0, 0, 2) became {rounded(out[1])}. The pair (x0, x2) = (1,"
    message += " 0) should be rotated by 3 radians, to (cos 3, sin 3). The pair (x1, x3) = (0, 2)"
    message += " should be rotated by 3 · 10000^(−2/4) = 0.03, to (−2 sin 0.03, 2 cos 0.03)"
    require_close(out[1], by(0.03), message + first_of(hints))


@pytest.mark.ex2
@points(2)
def test_ex2_only_the_distance_counts(answers, generator):
    size = 2 * int(torch.randint(2, 9, (), generator=generator))
    q, k = torch.randn(2, 1, size, generator=generator)
    scores = []
    for start in (0, 5, 90):
        ends = turned(answers, q, [start]), turned(answers, k, [start + 7])
        for one, end in zip((q, k), ends, strict=True):
            message = "A rotation should not change the length of a vector"
            require_close(end.norm(), one.norm(), message, 1e-3)
        scores.append((ends[0] * ends[1]).sum())
    message = "q·k at positions 0 and 7, 5 and 12, 90 and 97 should be equal, because the distance"
    require_close(torch.stack(scores), scores[0].expand(3), f"{message} is the same", 1e-3)
    same = torch.allclose(turned(answers, q, [90]), q)
    require(not same, "At position 90, x was not rotated at all")


@pytest.mark.ex2
def test_ex2_halves_and_not_neighbours(answers):
    out = turned(answers, torch.eye(8)[1:2], [2], 100.0)
    touched = sorted(out[0].abs().gt(1e-6).nonzero().flatten().tolist())
    message = "With D = 8, component 1 should be rotated together with component 1 + 8/2 = 5, but a"
    message += f" vector along component 1 was rotated to components {touched}"
    hint = "Pairs of neighbours such as 0 and 1 are another form of the rotary embedding"
    require(touched == [1, 5], f"{message}. {hint}")
    message = "Wrong sign: (a, b) becomes (a cos − b sin, b cos + a sin), so component 5 should be"
    require(out[0, 5] > 0, f"{message} positive here")


# --- Exercise 3 -----------------------------------------------------------------------------------


def fresh(
    answers, d_in: int, d_out: int, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    A, B = several(answers.call("new_unit", d_in, d_out, rank, generator), 2, "(A, B)")
    tensor(A, (d_in, rank), "A, [d_in, r],")
    tensor(B, (rank, d_out), "B, [r, d_out],")
    return A.detach(), B.detach()


def output_of(answers, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    out = answers.call("unit_output", x, A, B)
    return tensor(out, (len(x), B.shape[1]), "The output of the unit, [T, d_out],")


@pytest.mark.ex3
def test_ex3_a_fresh_unit_changes_nothing_and_can_learn(answers, generator):
    A, B = (p.requires_grad_() for p in fresh(answers, 24, 16, 4, generator))
    out = output_of(answers, torch.randn(5, 24, generator=generator), A, B)
    message = "The output of a new unit should be exactly 0, but its largest value is"
    message += f" {out.abs().max():.3g}. With B = 0 the output is 0 for every A"
    require(not out.any(), message)
    message = "The output has no gradient with respect to A and B. Do not detach them"
    require(out.requires_grad, message)
    out.sum().backward()
    moves = B.grad is not None and B.grad.abs().max() > 0
    message = "The first gradient of B is 0. If A starts at 0 as well, neither of them ever"
    message += " changes, because each gradient contains the other matrix as a factor"
    require(moves, message)


@pytest.mark.ex3
def test_ex3_where_a_starts(answers, generator):
    for rank in (4, 25):
        A, _ = fresh(answers, 4000, 8, rank, generator)
        bound, most = rank**-0.5, A.abs().max().item()
        mean, spread = A.mean().item(), A.std().item()
        transposed = near(most, 4000**-0.5, 1e-3)
        hints = {
            "That is 1/√d_in, the bound for the transposed matrix": transposed,
            "`torch.rand` gives only values from 0 to 1": A.min() >= 0 and most > 0,
        }
        message = f"A should be uniform between −1/√r and 1/√r, which is ±{bound:.3f} for rank"
        message += f" {rank}, with mean 0. The largest of its {A.numel():,} values is {most:.3f}"
        message += f" and their mean is {mean:.3f}"
        require(0.9 * bound < most <= bound and abs(mean) < 0.1 * bound, message + first_of(hints))
        message = "A should be uniform, with a standard deviation of 1/√(3r) ="
        message += f" {bound / 3**0.5:.3f}"
        require(near(spread * 3**0.5 / bound, 1, 0.1), f"{message}, but it is {spread:.3f}")
    first, again, other = (
        fresh(answers, 6, 6, 2, torch.Generator().manual_seed(n))[0] for n in (1, 1, 2)
    )
    message = "Two generators with the same seed gave two different A. Use the generator to draw A"
    require(torch.equal(first, again), message)
    message = "Two generators with different seeds gave the same A. Use the generator to draw A"
    require(not torch.equal(first, other), message)


@pytest.mark.ex3
def test_ex3_the_output(answers, generator):
    shapes = ((7, 9), (9, 3), (3, 5))
    x, A, B = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    message = "The output should be x A B, without a factor"
    require_close(output_of(answers, x, A, B), x @ A @ B, message, 1e-9)


@pytest.mark.ex3
@points(2)
def test_ex3_never_the_dense_product(answers, generator):
    x, A, B = (torch.randn(s, generator=generator) for s in ((3, 1500), (1500, 2), (2, 1500)))
    with Watch() as watch:
        out = output_of(answers, x, A, B)
    require_close(out, x @ A @ B, "The output should be x A B", 0.1)
    message = f"For x [3, 1500], a tensor of {watch.largest:,} numbers was created. The product A B"
    message += " has the shape [1500, 1500]. Multiply from the left, (x A) B, which takes 2·d·r"
    message += " multiplications per token instead of d²"
    require(watch.largest <= 4500, message)


# --- Exercise 4 -----------------------------------------------------------------------------------


def losses_of(answers, logits: Tensor, targets: Tensor) -> Tensor:
    out = answers.call("token_losses", logits, targets)
    return tensor(out, targets.shape, "The losses, [N], one for each token,")


@pytest.fixture
def scored(generator) -> tuple[Tensor, Tensor]:
    """Logits [N, V] and targets [N]."""
    n, v = (int(torch.randint(low, 30, (), generator=generator)) for low in (5, 3))
    return 4 * torch.randn(n, v, generator=generator), torch.randint(v, (n,), generator=generator)


@pytest.mark.ex4
def test_ex4_by_hand(answers):
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])
    losses = losses_of(answers, logits, torch.tensor([0, 0, 0]))
    expected = torch.tensor([LN2, math.log(4), math.log(4 / 3)])
    negative = apart(-losses, expected) < 1e-3
    hints = {
        "These are bits. Use log instead of log2": apart(losses, expected / LN2) < 1e-3,
        "Wrong sign: a loss is −ln p, which is never negative": negative,
        "These are probabilities. The loss is −ln p": apart(losses, (-expected).exp()) < 1e-3,
    }
    message = "The probabilities ½, ¼ and ¾ have losses of ln 2 = 0.693, ln 4 = 1.386 and ln 4/3 ="
    message += f" 0.288 nats, not {rounded(losses)}"
    require_close(losses, expected, message + first_of(hints))


@pytest.mark.ex4
def test_ex4_without_the_functions_of_torch(answers, scored):
    logits, targets = scored
    with Watch() as watch:
        losses = losses_of(answers, logits, targets)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    message = "The losses should be equal to those of torch's cross_entropy"
    require_close(losses, expected, message, 1e-4)
    found = {name.strip("_") for name in watch.names if "softmax" in name or "logsumexp" in name}
    message = f"The answer uses torch's {', '.join(sorted(found))}. Use exp, log, sum, max and"
    require(not found, f"{message} indexing only")


@pytest.mark.ex4
@points(2)
def test_ex4_large_logits(answers, scored):
    logits, targets = scored
    plain, first = losses_of(answers, logits, targets), torch.zeros(len(logits), 1)
    first[0] = 1000.0
    shifts = {
        "Adding 1000 to all logits": 1000.0,
        "Subtracting 1000 from all logits": -1000.0,
        "Adding 1000 to the logits of the first token": first,
    }
    for what, shift in shifts.items():
        losses = losses_of(answers, logits + shift, targets)
        odd = losses[~losses.isfinite()][:1].tolist()
        message = f"{what} gave a loss of {odd}. In float32, e^1000 overflows, and ln 0 is not"
        message += " finite either. First subtract from each row its own largest logit"
        require(not odd, message)
        require_close(losses, plain, f"{what} should not change the losses", 1e-3)
