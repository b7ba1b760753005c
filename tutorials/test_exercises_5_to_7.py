"""The checks of exercises 5 to 7: certificates, MemFT, and a test of a sweep."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from grading import (
    first_of,
    kind_of,
    near,
    require,
    require_close,
    rounded,
    several,
    tensor,
    truth,
)
from torch import Tensor

import tinymem as tm

points = pytest.mark.points


# --- Exercise 5 -----------------------------------------------------------------------------------


def with_probabilities(
    p: list[float], rest: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits [N, V] and targets [N]: the targets have these p, and `rest` others share the rest."""
    p = torch.tensor(p, dtype=torch.float64)[:, None]
    targets = torch.randint(rest + 1, (len(p), 1), generator=generator)
    logits = ((1 - p) / rest).repeat(1, rest + 1).scatter(1, targets, p).log()
    return logits + torch.randn(len(p), 1, generator=generator), targets[:, 0]


def require_verdicts(
    answers, name: str, cases: Sequence[tuple[list[float], int, bool, str]], generator
) -> None:
    for p, rest, expected, why in cases:
        got = truth(answers.call(name, *with_probabilities(p, rest, generator)), name)
        message = f"The targets have p = {p}, and {rest} other tokens share the rest equally."
        require(got == expected, f"{message} {name} should be {expected}, because {why}")


@pytest.mark.ex5
def test_ex5_certified(answers, generator):
    below = "two p are below one half, although each target is the most probable token"
    cases = (
        ([0.9, 0.51, 0.6], 3, True, "each p is above one half"),
        ([0.9, 0.4, 0.2], 9, False, below),
        ([0.99, 0.99, 0.99, 0.2], 2, False, "one p is 0.2, although the mean loss is 0.41 nats"),
        ([0.4], 9, False, "p is below one half"),
    )
    require_verdicts(answers, "certified", cases, generator)


@pytest.mark.ex5
def test_ex5_verbatim(answers, generator):
    each = "each target is the most probable token"
    cases = (
        ([0.9, 0.51, 0.6], 3, True, each),
        ([0.9, 0.4, 0.2], 9, True, f"{each}, even where p is below one half"),
        ([0.99, 0.99, 0.99, 0.2], 2, False, "the last target is not the most probable token"),
        ([0.2, 0.99, 0.99, 0.99], 2, False, "the first target is not the most probable token"),
    )
    require_verdicts(answers, "verbatim", cases, generator)


@pytest.mark.ex5
def test_ex5_verbatim_is_what_decoding_does(answers, tiny, seed):
    model, tokenizer = tiny
    # If verbatim has not been written yet, this call ends the check before anything is trained.
    answers.call("verbatim", torch.eye(2), torch.tensor([0, 1]))
    recipes = [tm.Recipe(rank=rank, steps=40, seed=seed) for rank in (1, 2, 8)]
    memories = [tm.random_memory(tokenizer, 12, seed=seed + n) for n in range(3)]
    results = tm.memorize_together(model, memories, recipes)
    for result, memory in zip(results, memories, strict=True):
        prompt, target = list(memory.prompt_ids), list(memory.target_ids)
        result.unit.attach(model)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + target[:-1]]))[0, len(prompt) - 1 :]
            recited = tm.greedy(model, torch.tensor([prompt]), len(target))[0].tolist() == target
        result.unit.detach()
        got = truth(answers.call("verbatim", logits, torch.tensor(target)), "verbatim")
        did = "recited" if recited else "did not recite"
        message = f"A unit of rank {result.unit.rank} {did} its 12 tokens in greedy decoding, but"
        require(got == recited, f"{message} verbatim returned {got} for its logits")


@pytest.mark.ex5
@points(3)
def test_ex5_recalled_below_one_half(answers, tiny):
    model, tokenizer = tiny
    out = answers.call("recalled_below_one_half", tokenizer)
    memory, options = several(out, 2, "(memory, options)")
    is_memory = isinstance(memory, tm.Memory)
    require(is_memory, f"The memory should be a tinymem.Memory, not {kind_of(memory)}")
    message = f"The memory has {memory.length} target tokens, but it should have at least 16"
    require(memory.length >= 16, message)
    require(isinstance(options, dict), f"The options should be a dict, not {kind_of(options)}")
    report, wrong = {}, ""
    try:
        recipe = tm.Recipe(**options)
        few = recipe.steps <= 400 and recipe.epochs is None
        require(few, "The options should have steps=400 or fewer (the default is 2000), no epochs")
        report = tm.memorize(model, memory, recipe=recipe).report
    except (TypeError, ValueError) as error:  # tinymem's own errors are ValueErrors
        wrong = str(error)
    require(report, f"tinymem.memorize does not accept these options: {wrong}")
    message = "This memory is not recalled: greedy decoding is wrong at token"
    message += f" {report['first_error']}"
    require(report["recall_exact"], f"{message}. Train it a little longer, or use a higher rank")
    lowest = report["min_probability"]
    message = f"This memory is recalled, but its lowest p is {lowest:.2f}. It is certified, so it"
    message += " is not a counter-example. Train it for fewer steps, or use a lower rank"
    require(lowest <= 0.5, message)


# --- Exercise 6 -----------------------------------------------------------------------------------


def weights_of(answers, losses: Tensor, threshold: float = 0.5) -> Tensor:
    out = answers.call("memft_ot_weights", losses, threshold)
    return tensor(out, losses.shape, "The weights, [N],")


def mean_of(answers, losses: Tensor, weights: Tensor) -> Tensor:
    out = answers.call("weighted_mean", losses, weights)
    return tensor(out, (), "The weighted mean, a scalar,")


@pytest.mark.ex6
def test_ex6_weights_by_hand(answers):
    losses = torch.tensor([2.0, 0.5, 0.75, 0.1])
    by_hand = {0.5: [1, 0, 1, 0], 0.95: [1, 1, 1, 1], 0.6: [1, 0, 1, 0], 0.3: [1, 0, 0, 0]}
    for threshold, expected in by_hand.items():
        weights = rounded(weights_of(answers, losses, threshold))
        compared = weights == [float(loss > threshold) for loss in losses]
        message = f"For the losses {rounded(losses)} and the threshold {threshold}, p is below the"
        message += f" threshold where the loss is above −ln {threshold} ="
        message += f" {-math.log(threshold):.3f}. So the weights should be {expected}, not"
        message += f" {weights}"
        hints = {"You compared the loss with the threshold for the probability": compared}
        require(weights == expected, message + first_of(hints))


@pytest.mark.ex6
def test_ex6_no_token_below_the_threshold(answers):
    weights = rounded(weights_of(answers, torch.tensor([0.1, 0.2])))
    message = "If every p is above the threshold, all weights should be 1 (plain fine-tuning)"
    require(weights == [1, 1], f"{message}, not {weights}")


@pytest.mark.ex6
def test_ex6_no_gradient_through_the_weights(answers, generator):
    raw = (3 * torch.rand(20, generator=generator)).requires_grad_()
    weights = weights_of(answers, raw)
    message = "The weights carry a gradient. Compute them from losses.detach()"
    require(not weights.requires_grad, message)
    mean = mean_of(answers, raw, weights)
    message = "The weighted mean has no gradient with respect to the losses. Detach only the"
    message += " weights"
    require(mean.requires_grad, message)
    mean.backward()
    w = (raw.detach() > math.log(2)).float()
    message = "The gradient of the weighted mean should be w / Σ w, which is 0 for tokens with p >"
    message += " ½"
    require_close(raw.grad, w / w.sum(), message)


@pytest.mark.ex6
def test_ex6_the_weighted_mean(answers):
    losses = torch.tensor([1.0, 2.0, 6.0], requires_grad=True)
    got = mean_of(answers, losses, torch.tensor([1.0, 0.0, 1.0])).item()
    hints = {"Divide by the sum of the weights, not by their number": near(got, 7 / 3)}
    message = "The losses 1, 2, 6 with the weights 1, 0, 1 have the mean (1 + 6) / (1 + 1) = 3.5,"
    message += " not"
    require(near(got, 3.5), f"{message} {got:.4g}{first_of(hints)}")
    nothing = mean_of(answers, losses, torch.zeros(3))
    message = f"If all weights are 0, the mean should be 0, but it is {nothing.item()}"
    require(nothing.item() == 0, message)
    if nothing.requires_grad:
        nothing.backward()
        message = "If all weights are 0, the gradient of the mean should be 0, but it is"
        message += f" {losses.grad.tolist()}. The division 0 / 0 was computed although its result"
        message += " was not used, and so its gradient is nan. Replace the divisor by 1 in this"
        message += " case"
        require(not losses.grad.any(), message)


# --- Exercise 7 -----------------------------------------------------------------------------------


def cell(row: dict) -> tuple[int, int, int]:
    return row["rank"], row["length"], row["seed"]


class Sweeps:
    """A sweep that works, and sweeps with a bug: `sweep(folder, ranks, lengths, seeds) -> rows`.

    The docstring of a sweep with a bug completes the sentence "your test passes a sweep that …".
    """

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def good(self, folder, ranks, lengths, seeds):
        def memories(length, ratio, seed):
            return [tm.random_memory(self.tokenizer, length, seed=seed)]

        grid = tm.make_grid(memories, ranks=ranks, lengths=lengths, seeds=seeds)
        return tm.run_sweep(self.model, grid, Path(folder), recipe=tm.Recipe(steps=1))

    def done(self, folder) -> dict[tuple[int, int, int], float]:
        """The training time of each finished cell, in seconds."""
        path = Path(folder) / "results.jsonl"
        rows = tm.read_rows(path)[0] if path.exists() else []
        return {cell(row): row["wall_seconds"] for row in rows}

    def trains_again(self, folder, ranks, lengths, seeds):
        """trains finished cells a second time when it is started again"""
        before = self.done(folder)
        shutil.rmtree(folder, ignore_errors=True)
        rows = self.good(folder, ranks, lengths, seeds)
        for row in rows:  # two times never agree exactly, but after rounding they may
            row["wall_seconds"] += 0.001 * (before.get(cell(row)) == row["wall_seconds"])
        return rows

    def mixes_seeds(self, folder, ranks, lengths, seeds):
        """uses the memory, the unit and the losses of the first seed for every seed"""
        rows = self.good(folder, ranks, lengths, seeds[:1])
        return [row | {"seed": seed} for seed in seeds for row in rows]

    def drops_a_row(self, folder, ranks, lengths, seeds):
        """loses the last row when there are several"""
        rows = self.good(folder, ranks, lengths, seeds)
        return rows[:-1] if len(rows) > 1 else rows

    def returns_only_new(self, folder, ranks, lengths, seeds):
        """returns only the new rows when it is started again"""
        before = self.done(folder)
        return [row for row in self.good(folder, ranks, lengths, seeds) if cell(row) not in before]

    def swaps_losses(self, folder, ranks, lengths, seeds):
        """gives one row the final loss of another row"""
        rows = self.good(folder, ranks, lengths, seeds)
        others = rows[1:] + rows[:1]
        pairs = zip(rows, others, strict=True)
        return [row | {"final_loss": other["final_loss"]} for row, other in pairs]


def complaint(answers, sweep, folder: Path) -> BaseException | None:
    """What the student's test raises for this sweep: any exception, as in pytest."""
    folder.mkdir()
    out = answers.call("check_sweep", sweep, folder, catch=True)
    return out if isinstance(out, BaseException) else None


def require_that_good_passes(answers, sweeps: Sweeps, folder: Path) -> None:
    error = complaint(answers, sweeps.good, folder)
    message = f"Your test fails for a sweep that works: {error and answers.explain(error)}"
    require(error is None, message)


@pytest.mark.ex7
def test_ex7_a_sweep_that_works_passes(answers, tiny, tmp_path):
    require_that_good_passes(answers, Sweeps(*tiny), tmp_path / "good")


BUGS = ["trains_again", "mixes_seeds", "drops_a_row", "returns_only_new", "swaps_losses"]


@pytest.mark.ex7
@pytest.mark.parametrize("bug", BUGS)
def test_ex7_a_bug_is_caught(answers, tiny, tmp_path, bug):
    sweeps = Sweeps(*tiny)
    # A test that fails for every sweep would catch every bug, so it has to pass for a good one.
    require_that_good_passes(answers, sweeps, tmp_path / "good")
    broken = getattr(sweeps, bug)
    caught = complaint(answers, broken, tmp_path / "broken")
    require(caught, f"Your test passes for a sweep that {broken.__doc__}")
