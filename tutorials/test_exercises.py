"""The checks of the exercises. They are independent of the library where that is possible.

Every random input comes from --seed, so another seed makes other, hidden, tests of the same things. A
check says in words what it expected and what it saw; the code of a check is no secret.
"""

import copy
import functools
import itertools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from grading import (
    apart,
    first_of,
    kind_of,
    near,
    number,
    require,
    require_close,
    several,
    tensor,
    truth,
    whole_numbers,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tinymem as tm

LN2 = math.log(2)
points = pytest.mark.points


@pytest.fixture
def generator(seed) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def shipped():
    return tm.load("tiny", device="cpu")


@pytest.fixture
def tiny():
    """Model and tokenizer; the model is a copy, so that no check can spoil it for the next."""
    model, tokenizer = shipped()
    return copy.deepcopy(model), tokenizer


class Watch(TorchDispatchMode):
    """The largest tensor that any operation of torch made, and the operations' names."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, Tensor):
                self.largest = max(self.largest, one.numel())
        return out


def rounded(values: Tensor) -> list[float]:
    return [round(v, 4) for v in values.tolist()]


# --- Exercise 1 ------------------------------------------------------------------------------------


@pytest.fixture
def pairs(seed) -> list[tuple[list[int], list[int]]]:
    random = np.random.default_rng(seed)
    sizes = [(2, 3), (1, 1), (1, 4), *random.integers(1, 30, size=(40, 2)).tolist()]
    return [
        (random.integers(99, size=p).tolist(), random.integers(99, size=n).tolist())
        for p, n in sizes
    ]


def split(
    answers, prompt: list[int], target: list[int]
) -> tuple[list[int], list[int], list[int], str]:
    """ids, rows and targets as the answer has them, and the case in words."""
    out = several(answers.call("inputs_and_targets", prompt, target), 3, "(ids, rows, targets)")
    ids, rows, targets = map(whole_numbers, out, ("ids", "rows", "targets"))
    return ids, rows, targets, f"prompt {prompt}, target {target} gave ids {ids}, rows {rows}"


@pytest.mark.ex1
@points(2)
def test_ex1_each_target_token_is_predicted_from_all_that_is_before_it(answers, pairs):
    for prompt, target in pairs:
        ids, rows, targets, case = split(answers, prompt, target)
        message = f"{case}. There should be one row for each of the {len(target)} target tokens, and none for"
        require(len(rows) == len(target), f"{message} the prompt's own; there are {len(rows)}")
        require(
            targets == target,
            f"{case}. Targets should be the target's tokens in order, not {targets}",
        )
        for t, row in enumerate(rows):
            require(
                0 <= row < len(ids),
                f"{case}. Row {row} is not a position of ids, 0 to {len(ids) - 1}",
            )
            seen, before = ids[: row + 1], prompt + target[:t]
            hints = {
                "It has read the token that it should predict": seen == before + target[t : t + 1],
                "It has read one token too few": seen == before[:-1],
            }
            message = f"{case}. Target token {t} is predicted at position {row}, after {seen}. It should have"
            message += f" read the prompt and the target before it, {before}"
            require(seen == before, message + first_of(hints))


@pytest.mark.ex1
def test_ex1_nothing_is_computed_for_nothing(answers, pairs):
    for prompt, target in pairs:
        ids, rows, _, case = split(answers, prompt, target)
        last, end = max(rows, default=None), len(ids) - 1
        message = f"{case}. The last row is {last}, but ids go on to position {end}. Nothing"
        require(
            last == end, f"{message} is predicted from the last target token, so it need not go in"
        )


# --- Exercise 2 ------------------------------------------------------------------------------------


def turned(answers, x: Tensor, positions: list[int], theta: float = 10_000.0) -> Tensor:
    out = answers.call("rotate", x, torch.tensor(positions), theta)
    return tensor(out, x.shape, "rotate's result, [T, D],")


@pytest.mark.ex2
def test_ex2_by_hand(answers):
    x = torch.tensor([[1.0, 0.0, 0.0, 2.0]] * 2)
    out = turned(answers, x, [0, 3])
    require_close(out[0], x[0], "position 0 is turned by angle 0: x should come back as it was")

    def by(angle: float) -> Tensor:
        return torch.tensor([math.cos(3), -2 * math.sin(angle), math.sin(3), 2 * math.cos(angle)])

    other_way = by(0.03) * torch.tensor([1, -1, -1, 1])
    hints = {
        "Yours turns the other way: look at the signs of the sines": apart(out[1], other_way)
        < 1e-4,
        "The angle of component i is p · theta^(−2i/D), with a 2": apart(out[1], by(0.3)) < 1e-4,
    }
    message = f"x = (1, 0, 0, 2) at position 3 became {rounded(out[1])}. (x0, x2) = (1, 0) turns by 3 radians,"
    message += " to (cos 3, sin 3), and (x1, x3) = (0, 2) by 3 · 10000^(−2/4) = 0.03, to (−2 sin 0.03, 2 cos 0.03)"
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
            require_close(
                end.norm(), one.norm(), "turning should not change a vector's length", 1e-3
            )
        scores.append((ends[0] * ends[1]).sum())
    message = (
        "q·k of positions 0 and 7, 5 and 12, 90 and 97 should be equal: only the distance counts"
    )
    require_close(torch.stack(scores), scores[0].expand(3), message, 1e-3)
    require(
        not torch.allclose(turned(answers, q, [90]), q),
        "at position 90 x came back as it was, not turned",
    )


@pytest.mark.ex2
def test_ex2_halves_and_not_neighbours(answers):
    out = turned(answers, torch.eye(8)[1:2], [2], 100.0)
    touched = sorted(out[0].abs().gt(1e-6).nonzero().flatten().tolist())
    message = "component 1 of 8 turns together with component 1 + 8/2 = 5, but a vector along 1 came out with"
    require(
        touched == [1, 5],
        f"{message} components {touched}. Neighbours, 0 and 1, are another layout",
    )
    require(
        out[0, 5] > 0,
        "the sign: (a, b) becomes (a cos − b sin, b cos + a sin), so 5 should be positive",
    )


# --- Exercise 3 ------------------------------------------------------------------------------------


def fresh(
    answers, d_in: int, d_out: int, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    A, B = several(answers.call("new_unit", d_in, d_out, rank, generator), 2, "(A, B)")
    tensor(A, (d_in, rank), "A, [d_in, r],")
    tensor(B, (rank, d_out), "B, [r, d_out],")
    return A.detach(), B.detach()


def output_of(answers, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    return tensor(
        answers.call("unit_output", x, A, B), (len(x), B.shape[1]), "the unit's output, [T, d_out],"
    )


@pytest.mark.ex3
def test_ex3_a_fresh_unit_changes_nothing_and_can_learn(answers, generator):
    A, B = (p.requires_grad_() for p in fresh(answers, 24, 16, 4, generator))
    out = output_of(answers, torch.randn(5, 24, generator=generator), A, B)
    message = f"the output of a fresh unit should be exactly 0, its largest number is {out.abs().max():.3g}."
    require(not out.any(), f"{message} With B = 0 the base model starts as it was, whatever A is")
    require(out.requires_grad, "no gradient goes from the output to A and B: do not detach them")
    out.sum().backward()
    moves = B.grad is not None and B.grad.abs().max() > 0
    require(
        moves,
        "B's first gradient is 0. If A starts at 0 too, neither ever moves: each waits for the other",
    )


@pytest.mark.ex3
def test_ex3_where_a_starts(answers, generator):
    for rank in (4, 25):
        A, _ = fresh(answers, 4000, 8, rank, generator)
        bound, most, mean, spread = (
            rank**-0.5,
            A.abs().max().item(),
            A.mean().item(),
            A.std().item(),
        )
        hints = {
            "That is 1/√d_in, the bound for a matrix stored the other way round": near(
                most, 4000**-0.5, 1e-3
            ),
            "Are all of them positive? `rand` is from 0 to 1": A.min() >= 0 and most > 0,
        }
        message = f"A should be uniform between −1/√r and 1/√r: for rank {rank} ±{bound:.3f}, with mean 0. Of"
        message += f" {A.numel():,} numbers the largest is {most:.3f}, the mean {mean:.3f}"
        require(0.9 * bound < most <= bound and abs(mean) < 0.1 * bound, message + first_of(hints))
        message = f"A should be uniform, with standard deviation 1/√(3r) = {bound / 3**0.5:.3f}"
        require(near(spread * 3**0.5 / bound, 1, 0.1), f"{message}; it is {spread:.3f}")
    first, again, other = (
        fresh(answers, 6, 6, 2, torch.Generator().manual_seed(n))[0] for n in (1, 1, 2)
    )
    require(
        torch.equal(first, again),
        "the same seed gave another A the second time: draw with the generator",
    )
    require(
        not torch.equal(first, other),
        "two seeds gave the same A: draw with the generator that you get",
    )


@pytest.mark.ex3
def test_ex3_the_output(answers, generator):
    x, A, B = (
        torch.randn(s, generator=generator, dtype=torch.float64) for s in ((7, 9), (9, 3), (3, 5))
    )
    require_close(
        output_of(answers, x, A, B), x @ A @ B, "the output should be x A B, without a factor", 1e-9
    )


@pytest.mark.ex3
@points(2)
def test_ex3_never_the_dense_product(answers, generator):
    x, A, B = (torch.randn(s, generator=generator) for s in ((3, 1500), (1500, 2), (2, 1500)))
    with Watch() as watch:
        out = output_of(answers, x, A, B)
    require_close(out, x @ A @ B, "the output should be x A B", 0.1)
    message = f"x A B made {watch.largest:,} numbers at once from x [3, 1500]: A B is [1500, 1500]. Multiply"
    require(
        watch.largest <= 4500,
        f"{message} from the left, (x A) B: 2·d·r products a token instead of d²",
    )


# --- Exercise 4 ------------------------------------------------------------------------------------


def losses_of(answers, logits: Tensor, targets: Tensor) -> Tensor:
    out = answers.call("token_losses", logits, targets)
    return tensor(out, targets.shape, "the losses, [N], one for each token,")


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
    hints = {
        "These are bits: log2 instead of log": apart(losses, expected / LN2) < 1e-3,
        "The sign: a loss is −ln p, and never negative": apart(-losses, expected) < 1e-3,
        "These are probabilities: take −ln": apart(losses, (-expected).exp()) < 1e-3,
    }
    message = "probabilities ½, ¼ and ¾ are losses of ln 2 = 0.693, ln 4 = 1.386 and ln 4/3 = 0.288 nats, not"
    require_close(losses, expected, f"{message} {rounded(losses)}{first_of(hints)}")


@pytest.mark.ex4
def test_ex4_by_your_own_hand(answers, scored):
    logits, targets = scored
    with Watch() as watch:
        losses = losses_of(answers, logits, targets)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    require_close(losses, expected, "the losses should be those of torch's cross_entropy", 1e-4)
    used = sorted(
        name.strip("_") for name in watch.names if "softmax" in name or "logsumexp" in name
    )
    require(
        not used,
        f"write it without torch's own {', '.join(used)}: exp, log, sum, max and indexing will do",
    )


@pytest.mark.ex4
@points(2)
def test_ex4_large_logits(answers, scored):
    logits, targets = scored
    plain, first = losses_of(answers, logits, targets), torch.zeros(len(logits), 1)
    first[0] = 1000.0
    shifts = {
        "+1000 on all logits": 1000.0,
        "−1000 on all logits": -1000.0,
        "+1000 on the first token's logits": first,
    }
    for what, shift in shifts.items():
        losses = losses_of(answers, logits + shift, targets)
        odd = losses[~losses.isfinite()][:1].tolist()
        message = f"{what}: some losses are {odd}. e^1000 is no number in float32, and ln 0 is none either."
        require(not odd, f"{message} Subtract each row's own largest logit first")
        require_close(losses, plain, f"{what}: that should change nothing", 1e-3)


# --- Exercise 5 ------------------------------------------------------------------------------------


def with_probabilities(
    p: list[float], rest: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits [N, V] in which the targets have these p, and `rest` others share what is left; targets [N]."""
    p = torch.tensor(p, dtype=torch.float64)[:, None]
    targets = torch.randint(rest + 1, (len(p), 1), generator=generator)
    logits = ((1 - p) / rest).repeat(1, rest + 1).scatter(1, targets, p).log()
    return logits + torch.randn(len(p), 1, generator=generator), targets[:, 0]


def require_verdicts(
    answers, name: str, cases: Sequence[tuple[list[float], int, bool, str]], generator
) -> None:
    for p, rest, expected, why in cases:
        got = truth(answers.call(name, *with_probabilities(p, rest, generator)), name)
        message = f"targets with p = {p}, and {rest} others that share the rest: {name} should be {expected}"
        require(got == expected, f"{message}: {why}")


@pytest.mark.ex5
def test_ex5_certified(answers, generator):
    cases = (
        ([0.9, 0.51, 0.6], 3, True, "each p is above one half"),
        (
            [0.9, 0.4, 0.2],
            9,
            False,
            "each target is the likeliest token, but that is not what certifies",
        ),
        ([0.99, 0.99, 0.99, 0.2], 2, False, "one p is 0.2, though the mean loss is 0.41 nats"),
        ([0.4], 9, False, "p is below one half"),
    )
    require_verdicts(answers, "certified", cases, generator)


@pytest.mark.ex5
def test_ex5_verbatim(answers, generator):
    cases = (
        ([0.9, 0.51, 0.6], 3, True, "each target is the likeliest token"),
        (
            [0.9, 0.4, 0.2],
            9,
            True,
            "each target is the likeliest token, and p above one half is not needed",
        ),
        ([0.99, 0.99, 0.99, 0.2], 2, False, "the last target is not the likeliest token"),
        ([0.2, 0.99, 0.99, 0.99], 2, False, "the first target is not the likeliest token"),
    )
    require_verdicts(answers, "verbatim", cases, generator)


@pytest.mark.ex5
def test_ex5_verbatim_is_what_decoding_does(answers, tiny, seed):
    model, tokenizer = tiny
    answers.call(
        "verbatim", torch.eye(2), torch.tensor([0, 1])
    )  # not done yet? Then nothing is trained
    recipes = [tm.Recipe(rank=rank, steps=40, seed=seed) for rank in (1, 2, 8)]
    memories = [tm.random_memory(tokenizer, 12, seed=seed + n) for n in range(3)]
    for result, memory in zip(
        tm.memorize_together(model, memories, recipes), memories, strict=True
    ):
        prompt, target = list(memory.prompt_ids), list(memory.target_ids)
        result.unit.attach(model)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + target[:-1]]))[0, len(prompt) - 1 :]
            recited = tm.greedy(model, torch.tensor([prompt]), len(target))[0].tolist() == target
        result.unit.detach()
        got = truth(answers.call("verbatim", logits, torch.tensor(target)), "verbatim")
        message = (
            f"a unit of rank {result.unit.rank} {'recited' if recited else 'did not recite'} its 12"
        )
        require(got == recited, f"{message} tokens, but from its logits verbatim said {got}")


@pytest.mark.ex5
@points(3)
def test_ex5_recalled_below_one_half(answers, tiny):
    model, tokenizer = tiny
    out = answers.call("recalled_below_one_half", tokenizer)
    memory, options = several(out, 2, "(memory, options)")
    require(
        isinstance(memory, tm.Memory), f"memory should be a tinymem.Memory; it is {kind_of(memory)}"
    )
    require(
        memory.length >= 16,
        f"the memory has {memory.length} target tokens; at least 16 are asked for",
    )
    require(isinstance(options, dict), f"options should be a dict; it is {kind_of(options)}")
    report, wrong = {}, ""
    try:
        recipe = tm.Recipe(**options)
        few = recipe.steps <= 400 and recipe.epochs is None
        require(
            few,
            "the options should have steps=400 or fewer (without it, it is 2000), and no epochs",
        )
        report = tm.memorize(model, memory, recipe=recipe).report
    except (TypeError, ValueError) as error:  # tinymem's own are ValueErrors
        wrong = str(error)
    require(report, f"tinymem.memorize does not take this: {wrong}")
    message = f"this memory is not recalled: decoding goes wrong at token {report['first_error']}."
    require(report["recall_exact"], f"{message} Train a little longer, or at a higher rank")
    message = (
        f"this memory is recalled, but its lowest p is {report['min_probability']:.2f}: certified,"
    )
    require(
        report["min_probability"] <= 0.5,
        f"{message} no counter-example. Stop earlier, or lower the rank",
    )


# --- Exercise 6 ------------------------------------------------------------------------------------


def weights_of(answers, losses: Tensor, threshold: float = 0.5) -> Tensor:
    return tensor(
        answers.call("memft_ot_weights", losses, threshold), losses.shape, "the weights, [N],"
    )


def mean_of(answers, losses: Tensor, weights: Tensor) -> Tensor:
    return tensor(
        answers.call("weighted_mean", losses, weights), (), "the weighted mean, a scalar,"
    )


@pytest.mark.ex6
def test_ex6_weights_by_hand(answers):
    losses = torch.tensor([2.0, 0.5, 0.75, 0.1])
    by_hand = {0.5: [1, 0, 1, 0], 0.95: [1, 1, 1, 1], 0.6: [1, 0, 1, 0], 0.3: [1, 0, 0, 0]}
    for threshold, expected in by_hand.items():
        weights = rounded(weights_of(answers, losses, threshold))
        compared = weights == [float(loss > threshold) for loss in losses]
        message = f"losses {rounded(losses)} at threshold {threshold}: p is below it where the loss is above"
        message += f" −ln {threshold} = {-math.log(threshold):.3f}, so the weights are {expected}, not {weights}"
        hints = {"You compared the loss with the probability itself": compared}
        require(weights == expected, message + first_of(hints))


@pytest.mark.ex6
def test_ex6_no_token_below_the_threshold(answers):
    weights = rounded(weights_of(answers, torch.tensor([0.1, 0.2])))
    fine = weights == [1, 1]
    require(
        fine,
        f"where every p is above the threshold, all weigh 1 (plain fine-tuning), not {weights}",
    )


@pytest.mark.ex6
def test_ex6_no_gradient_through_the_weights(answers, generator):
    raw = (3 * torch.rand(20, generator=generator)).requires_grad_()
    weights = weights_of(answers, raw)
    require(
        not weights.requires_grad, "the weights carry a gradient: compute them from losses.detach()"
    )
    mean = mean_of(answers, raw, weights)
    require(
        mean.requires_grad,
        "no gradient goes from the weighted mean to the losses: detach the weights only",
    )
    mean.backward()
    w = (raw.detach() > LN2).float()
    message = "∂/∂ℓ of the weighted mean should be w / Σ w, which is 0 for tokens with p above ½"
    require_close(raw.grad, w / w.sum(), message)


@pytest.mark.ex6
def test_ex6_the_weighted_mean(answers):
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    got = mean_of(answers, losses, torch.tensor([1.0, 0.0, 1.0])).item()
    hints = {"Divide by the sum of the weights, not by their number": near(got, 7 / 3)}
    message = f"losses 1, 2, 6 with weights 1, 0, 1: (1 + 6) / (1 + 1) = 3.5, not {got:.4g}{first_of(hints)}"
    require(near(got, 3.5), message)
    nothing = mean_of(answers, losses, torch.zeros(3))
    require(
        nothing.item() == 0, f"where all weights are 0 the mean should be 0, it is {nothing.item()}"
    )
    if nothing.requires_grad:
        nothing.backward()
        message = f"where all weights are 0 the mean is 0, but its gradient is {losses.grad.tolist()}. 0 / 0"
        message += " was computed, then left out; its gradient was not. Make the divisor 1 before you divide"
        require(not losses.grad.any(), message)


# --- Exercise 7 ------------------------------------------------------------------------------------


def cell(row: dict) -> tuple[int, int, int]:
    return row["rank"], row["length"], row["seed"]


class Sweeps:
    """A sweep that works, and some that do not: `sweep(folder, ranks, lengths, seeds) -> rows`."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def good(self, folder, ranks, lengths, seeds):
        def memories(length, ratio, seed):
            return [tm.random_memory(self.tokenizer, length, seed=seed)]

        grid = tm.make_grid(memories, ranks=ranks, lengths=lengths, seeds=seeds)
        return tm.run_sweep(self.model, grid, Path(folder), recipe=tm.Recipe(steps=1))

    def done(self, folder) -> dict[tuple[int, int, int], float]:
        """How long each finished cell took."""
        path = Path(folder) / "results.jsonl"
        return {
            cell(row): row["wall_seconds"]
            for row in (tm.read_rows(path)[0] if path.exists() else [])
        }

    def trains_again(self, folder, ranks, lengths, seeds):
        """started again, it trains finished cells once more"""
        before = self.done(folder)
        shutil.rmtree(folder, ignore_errors=True)
        rows = self.good(folder, ranks, lengths, seeds)
        for row in rows:  # no cell takes exactly as long twice; rounding may hide that
            row["wall_seconds"] += 0.001 * (before.get(cell(row)) == row["wall_seconds"])
        return rows

    def mixes_seeds(self, folder, ranks, lengths, seeds):
        """every seed gets the memory, the unit and the losses of the first one"""
        rows = self.good(folder, ranks, lengths, seeds[:1])
        return [row | {"seed": seed} for seed in seeds for row in rows]

    def drops_a_row(self, folder, ranks, lengths, seeds):
        """the last of several rows is lost"""
        rows = self.good(folder, ranks, lengths, seeds)
        return rows[:-1] if len(rows) > 1 else rows

    def returns_only_new(self, folder, ranks, lengths, seeds):
        """started again, it returns only the rows that are new"""
        before = self.done(folder)
        return [row for row in self.good(folder, ranks, lengths, seeds) if cell(row) not in before]

    def swaps_losses(self, folder, ranks, lengths, seeds):
        """a row of the grid has the final loss of another"""
        rows = self.good(folder, ranks, lengths, seeds)
        return [
            r | {"final_loss": s["final_loss"]}
            for r, s in zip(rows, rows[1:] + rows[:1], strict=True)
        ]


def complaint(answers, sweep, folder: Path) -> BaseException | None:
    """What the student's test has against a sweep: any exception, as for pytest."""
    folder.mkdir()
    out = answers.call("check_sweep", sweep, folder, catch=True)
    return out if isinstance(out, BaseException) else None


def require_that_good_passes(answers, sweeps: Sweeps, folder: Path) -> None:
    error = complaint(answers, sweeps.good, folder)
    require(
        error is None, f"your test fails a sweep that works: {error and answers.explain(error)}"
    )


@pytest.mark.ex7
def test_ex7_a_sweep_that_works_passes(answers, tiny, tmp_path):
    require_that_good_passes(answers, Sweeps(*tiny), tmp_path / "good")


@pytest.mark.ex7
@pytest.mark.parametrize(
    "bug", ["trains_again", "mixes_seeds", "drops_a_row", "returns_only_new", "swaps_losses"]
)
def test_ex7_a_bug_is_caught(answers, tiny, tmp_path, bug):
    sweeps = Sweeps(*tiny)
    require_that_good_passes(
        answers, sweeps, tmp_path / "good"
    )  # a test that always fails catches nothing
    broken = getattr(sweeps, bug)
    caught = complaint(answers, broken, tmp_path / "broken")
    require(caught, f"your test passes a sweep with this bug: {broken.__doc__}")


# --- Exercise 8 ------------------------------------------------------------------------------------


@pytest.fixture
def planted(seed) -> tuple[float, float, float]:
    random = np.random.default_rng(seed)
    return tuple(random.uniform(low, high) for low, high in ((2, 40), (0.2, 0.8), (0.1, 0.9)))


@pytest.fixture
def cells(planted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    C, alpha, beta = planted
    ranks, lengths = np.array(
        list(itertools.product((1.0, 2.0, 4.0, 8.0), (32.0, 64.0, 128.0, 256.0)))
    ).T
    return ranks, lengths, C * ranks**alpha * lengths ** (-beta)


def constants(answers, cells: Sequence[np.ndarray]) -> list[float]:
    got = several(answers.call("fit_plane", *cells), 3, "(C, α, β)")
    return [number(value, name) for name, value in zip(("C", "α", "β"), got, strict=True)]


@pytest.mark.ex8
@points(2)
def test_ex8_planted_constants(answers, planted, cells):
    got, made = constants(answers, cells), ", ".join(f"{v:.4f}" for v in planted)
    found = ", ".join(f"{v:.4f}" for v in got)
    for name, value, expected in zip(("C", "α", "β"), got, planted, strict=True):
        is_log = name == "C" and near(value, math.log(expected))
        mixed = name == "C" and value > 0 and near(math.log(value), math.log10(expected))
        hints = {
            "The sign: it is ℓ^(−β), so β is above 0 where long memories gain less": near(
                -value, expected
            ),
            "That is ln C": is_log,
            "Your logarithm and your exponential have different bases": mixed,
        }
        message = f"cells that were made with C, α, β = {made} gave {found}: {name} is wrong{first_of(hints)}"
        require(near(value, expected, 1e-8), message)


@pytest.mark.ex8
def test_ex8_least_squares_of_the_logarithm(answers, cells, seed):
    ranks, lengths, deltas = cells
    noisy = deltas * np.exp(np.random.default_rng(seed).normal(size=len(deltas)) * 0.3)
    X, y = np.stack([np.ones(len(ranks)), np.log(ranks), -np.log(lengths)], 1), np.log(noisy)
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    C, alpha, beta = constants(answers, (ranks, lengths, noisy))
    require(C > 0, f"C should be above 0, it is {C:.4g}")
    yours, least = (((y - X @ theta) ** 2).sum() for theta in ((math.log(C), alpha, beta), best))
    message = f"with 30 % noise, your constants leave squares of ln ΔL that sum to {yours:.4f}, and {least:.4f}"
    require(
        yours < least * (1 + 1e-9),
        f"{message} is possible. Is it the logarithm of ΔL that you fit?",
    )


@pytest.mark.ex8
def test_ex8_the_law_turned_round(answers, planted):
    C, alpha, beta = planted
    for rank, length in ((3.0, 70.0), (11.5, 400.0)):
        delta = C * rank**alpha * length**-beta
        got = number(answers.call("rank_for", C, alpha, beta, length, delta), "the rank")
        shorter = (delta / C * length**-beta) ** (1 / alpha)
        hints = {
            "Solve for r, not for r^α: take the α-th root": near(got, rank**alpha),
            "The law divides by ℓ^β, so the rank grows with the length": near(got / shorter, 1),
        }
        message = f"C, α, β = {C:.3f}, {alpha:.3f}, {beta:.3f}: the law gives ΔL = {delta:.4f} at rank {rank},"
        message += f" length {length}; turned round it should give that rank, not {got:.4g}{first_of(hints)}"
        require(near(got, rank, 1e-9), message)


# --- Exercise 9 ------------------------------------------------------------------------------------


@pytest.mark.ex9
def test_ex9_stored_bits(answers, seed):
    base, loss, length = np.random.default_rng(seed).uniform((8, 0, 10), (14, 4, 500))
    for before, after, count in ((3 * LN2, LN2, 10), (float(base), float(loss), int(length))):
        each = (before - after) / LN2
        got = number(answers.call("stored_bits", before, after, count), "stored_bits")
        hints = {
            "These are nats: a nat is 1 / ln 2 bits": near(got / LN2, each * count),
            "That is for one token": near(got * count, each * count),
            "The sign: what the loss fell by, L₀ − L": near(-got, each * count),
        }
        message = f"from {before:.3f} to {after:.3f} nats are {each:.3f} bits a token, so for {count} tokens"
        require(
            near(got, each * count),
            f"{message} {each * count:.2f} bits, not {got:.2f}{first_of(hints)}",
        )


@pytest.mark.ex9
@points(2)
def test_ex9_memorized_bits(answers, seed):
    entropy, loss, length = np.random.default_rng(seed).uniform((6, 0, 10), (11, 4, 500))
    for H, L, count in ((8 * LN2, 3 * LN2, 100), (float(entropy), float(loss), int(length))):
        got, each = (
            number(answers.call("memorized_bits", H, L, count), "memorized_bits"),
            (H - L) / LN2,
        )
        message = f"H = {H:.3f} and L = {L:.3f} nats leave {each:.3f} bits a token, so {each * count:.2f} for"
        require(near(got, each * count), f"{message} {count} tokens, not {got:.2f}")
    got = number(answers.call("memorized_bits", 7.6, 9.0, 100), "memorized_bits")
    message = (
        "a unit that predicts random tokens worse than chance (L = 9 > H = 7.6 nats) knows 0 bits"
    )
    require(got == 0, f"{message}, not {got:g}")


# --- Exercise 10 -----------------------------------------------------------------------------------


@pytest.fixture
def cached(tiny, generator):
    """(model, layer, h, x, A, B) for a middle layer: what its block gives and its MLP reads without a unit,
    and a unit; then the ids, and the logits with the unit in place."""
    model, _ = tiny
    layer = int(torch.randint(1, 3, (), generator=generator))
    unit = tm.Unit.create(model, 4, layers=(layer,))
    (lora,) = unit.loras.values()
    lora.B.data = 0.3 * torch.randn(lora.B.shape, generator=generator)
    ids = torch.randint(model.config.vocab_size, (1, 12), generator=generator)
    with torch.no_grad():
        after, x = model.layers[layer].attend(model.run(model.embed(ids), 0, layer), None)
        h = after + model.layers[layer].mlp(x)
        unit.attach(model)
        expected = model(ids)
        unit.detach()
    return (model, layer, h, x, lora.A.detach(), lora.B.detach()), ids, expected


@pytest.mark.ex10
def test_ex10_the_same_logits(answers, cached):
    given, ids, expected = cached
    model, layer, h, x, A, B = given
    with torch.no_grad():
        logits = tensor(
            answers.call("logits_from_cache", *given), expected.shape, "the logits, [1, T, V],"
        )
        run, unit, above = model.run, x @ A @ B, layer + 1
        mistakes = {
            "The unit is missing: add x A B to h": model(ids),
            "Its own layer was computed again: h leaves it, so go on above it": model.head(
                run(h + unit, layer)
            ),
            "The last norm is missing: use Model.head": model.lm_head(run(h + unit, above)),
            "The unit reads x, what the MLP reads, not h": model.head(run(h + h @ A @ B, above)),
            "The layers above are missing: use Model.run": model.head(h + unit),
            "h is missing: the unit's output is added to it": model.head(run(unit, above)),
        }
    far, hint = (
        apart(logits, expected),
        first_of({m: apart(logits, z) < 1e-3 for m, z in mistakes.items()}),
    )
    message = f"the logits are up to {far:.3g} off those of the whole model with the unit attached (0.001 is"
    require(far < 1e-3, f"{message} allowed){hint}")


@pytest.mark.ex10
@points(2)
def test_ex10_only_the_layers_above(answers, cached):
    given, *_ = cached
    model, layer = given[:2]
    ran: list[int] = []
    for n, block in enumerate(model.layers):
        for part in (block, block.self_attn, block.mlp):
            part.register_forward_hook(lambda *_, n=n: ran.append(n))
    with torch.no_grad():
        answers.call("logits_from_cache", *given)
    above, ran, last = (
        list(range(layer + 1, len(model.layers))),
        sorted(set(ran)),
        len(model.layers) - 1,
    )
    message = (
        f"the unit sits in layer {layer} of 0 to {last}, so only {above} should be computed, but"
    )
    require(
        ran == above,
        f"{message} {ran or 'none'} were: what lies below does not change, and h has it",
    )


# --- Exercise 11: the capstone ---------------------------------------------------------------------


@pytest.mark.ex11
@points(6)
def test_ex11_the_predicted_rank(answers, tiny):
    model, tokenizer = tiny
    text, rank = (getattr(answers.module, name, None) for name in ("MY_TEXT", "MY_RANK"))
    require(isinstance(text, str), f"MY_TEXT should be text; it is {kind_of(text)}")
    require(text.strip(), "not done yet: MY_TEXT is empty")
    memory = tm.text_memory(tokenizer, text)
    require(
        40 <= memory.length <= 200, f"MY_TEXT has {memory.length} tokens; 40 to 200 are asked for"
    )
    message = f"MY_RANK is {rank!r}; a whole number from 2 to 32 is asked for"
    require(
        isinstance(rank, int) and 2 <= rank <= 32,
        f"{message} (a text that rank 1 holds needs no law)",
    )
    # The smallest rank that is enough lies within a factor of 1.5 if and only if `most` is enough and
    # `least`, the next below that range, is not: two runs instead of one for each rank.
    least, most = math.ceil(rank / 1.5) - 1, math.floor(rank * 1.5)
    recipes = [tm.Recipe(rank=r, steps=300) for r in (least, most)]
    small, large = tm.memorize_together(model, [memory] * 2, recipes)
    message = f"MY_RANK = {rank} is too small: rank {most}, 1.5 times as much, still leaves"
    message += f" {len(large.verdict.stubborn)} of {memory.length} tokens at p ≤ ½. Predict the rank for the"
    message += (
        " certificate, every loss below ln 2: where the mean is ln 2, many tokens are above it"
    )
    require(large.report["certified"], message)
    message = f"MY_RANK = {rank} is too large: rank {least}, less than MY_RANK / 1.5, is enough. Is"
    require(
        not small.report["certified"],
        f"{message} your law one of texts like this one? Random tokens need more",
    )
