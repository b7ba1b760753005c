"""The checks of exercises 8 to 11: the law, bits, logits from the cache, and the capstone."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from grading import apart, first_of, kind_of, near, number, require, several, tensor

import tinymem as tm

LN2 = math.log(2)
points = pytest.mark.points


# --- Exercise 8 -----------------------------------------------------------------------------------


@pytest.fixture
def planted(seed) -> tuple[float, float, float]:
    random = np.random.default_rng(seed)
    return tuple(random.uniform(low, high) for low, high in ((2, 40), (0.2, 0.8), (0.1, 0.9)))


@pytest.fixture
def cells(planted) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    C, alpha, beta = planted
    grid = itertools.product((1.0, 2.0, 4.0, 8.0), (32.0, 64.0, 128.0, 256.0))
    ranks, lengths = np.array(list(grid)).T
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
        negative = near(-value, expected)
        hints = {
            "Wrong sign: the law has ℓ^(−β), so β is positive if ΔL falls with ℓ": negative,
            "That is ln C": is_log,
            "Your logarithm and your exponential have different bases": mixed,
        }
        message = f"Cells made with C, α, β = {made} gave {found}. {name} is wrong{first_of(hints)}"
        require(near(value, expected, 1e-8), message)


@pytest.mark.ex8
def test_ex8_least_squares_of_the_logarithm(answers, cells, seed):
    ranks, lengths, deltas = cells
    noisy = deltas * np.exp(np.random.default_rng(seed).normal(size=len(deltas)) * 0.3)
    X, y = np.stack([np.ones(len(ranks)), np.log(ranks), -np.log(lengths)], 1), np.log(noisy)
    best = np.linalg.lstsq(X, y, rcond=None)[0]
    C, alpha, beta = constants(answers, (ranks, lengths, noisy))
    require(C > 0, f"C should be positive, but it is {C:.4g}")
    yours, least = (((y - X @ theta) ** 2).sum() for theta in ((math.log(C), alpha, beta), best))
    message = f"With 30 % noise, your constants leave a sum of squares of {yours:.4f} in ln ΔL, but"
    message += f" {least:.4f} is possible. Do you fit the logarithm of ΔL?"
    require(yours < least * (1 + 1e-9), message)


@pytest.mark.ex8
def test_ex8_the_law_solved_for_the_rank(answers, planted):
    C, alpha, beta = planted
    for rank, length in ((3.0, 70.0), (11.5, 400.0)):
        delta = C * rank**alpha * length**-beta
        got = number(answers.call("rank_for", C, alpha, beta, length, delta), "The rank")
        shorter = (delta / C * length**-beta) ** (1 / alpha)
        hints = {
            "Solve for r, not for r^α: take the α-th root": near(got, rank**alpha),
            "The law divides by ℓ^β, so the rank grows with the length": near(got / shorter, 1),
        }
        message = f"With C, α, β = {C:.3f}, {alpha:.3f}, {beta:.3f} the law gives ΔL = {delta:.4f}"
        message += f" at rank {rank} and length {length}. Solved for the rank it should give"
        message += f" {rank},"
        require(near(got, rank, 1e-9), f"{message} not {got:.4g}{first_of(hints)}")


# --- Exercise 9 -----------------------------------------------------------------------------------


@pytest.mark.ex9
def test_ex9_stored_bits(answers, seed):
    base, loss, length = np.random.default_rng(seed).uniform((8, 0, 10), (14, 4, 500))
    for before, after, count in ((3 * LN2, LN2, 10), (float(base), float(loss), int(length))):
        each = (before - after) / LN2
        got = number(answers.call("stored_bits", before, after, count), "stored_bits")
        hints = {
            "These are nats; one nat is 1 / ln 2 bits": near(got / LN2, each * count),
            "That is the value for one token": near(got * count, each * count),
            "Wrong sign: the loss falls by L₀ − L": near(-got, each * count),
        }
        message = f"A loss that falls from {before:.3f} to {after:.3f} nats saves {each:.3f} bits"
        message += f" per token, which is {each * count:.2f} bits for {count} tokens, not {got:.2f}"
        require(near(got, each * count), message + first_of(hints))


@pytest.mark.ex9
@points(2)
def test_ex9_memorized_bits(answers, seed):
    entropy, loss, length = np.random.default_rng(seed).uniform((6, 0, 10), (11, 4, 500))
    for H, L, count in ((8 * LN2, 3 * LN2, 100), (float(entropy), float(loss), int(length))):
        got = number(answers.call("memorized_bits", H, L, count), "memorized_bits")
        each = (H - L) / LN2
        message = f"H = {H:.3f} and L = {L:.3f} nats differ by {each:.3f} bits per token, which is"
        message += f" {each * count:.2f} bits for {count} tokens, not {got:.2f}"
        require(near(got, each * count), message)
    got = number(answers.call("memorized_bits", 7.6, 9.0, 100), "memorized_bits")
    message = "A unit whose loss on random tokens is above their entropy (L = 9 > H = 7.6 nats)"
    message += " knows"
    require(got == 0, f"{message} 0 bits, not {got:g}")


# --- Exercise 10 ----------------------------------------------------------------------------------


@pytest.fixture
def cached(tiny, generator):
    """(model, layer, h, x, A, B) for a middle layer, the input ids, and the expected logits.

    h is the output of the layer without a unit, x is the input of its MLP, and A and B are a unit.
    The expected logits are those of the model with the unit attached.
    """
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
        out = answers.call("logits_from_cache", *given)
        logits = tensor(out, expected.shape, "The logits, [1, T, V],")
        run, unit, above = model.run, x @ A @ B, layer + 1
        again = model.head(run(h + unit, layer))
        wrong_input = model.head(run(h + h @ A @ B, above))
        mistakes = {
            "The unit is missing. Add x A B to h": model(ids),
            "The unit's own layer was computed again. Start at the layer above it": again,
            "The last norm is missing. Use Model.head": model.lm_head(run(h + unit, above)),
            "The input of the unit is x, the input of the MLP, not h": wrong_input,
            "The layers above are missing. Use Model.run": model.head(h + unit),
            "h is missing. Add the output of the unit to it": model.head(run(unit, above)),
        }
    far = apart(logits, expected)
    hint = first_of({m: apart(logits, z) < 1e-3 for m, z in mistakes.items()})
    message = f"The logits differ by up to {far:.3g} from those of the whole model with the unit"
    require(far < 1e-3, f"{message} attached (0.001 is allowed){hint}")


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
    above, last = list(range(layer + 1, len(model.layers))), len(model.layers) - 1
    computed = sorted(set(ran))
    message = f"The unit is in layer {layer} of layers 0 to {last}, so only {above} should be"
    message += f" computed, but {computed or 'none'} were. The layers 0 to {layer} give the same"
    require(computed == above, f"{message} output in every step, and h is that output")


# --- Exercise 11: the capstone --------------------------------------------------------------------


@pytest.mark.ex11
@points(6)
def test_ex11_the_predicted_rank(answers, tiny):
    model, tokenizer = tiny
    text, rank = (getattr(answers.module, name, None) for name in ("MY_TEXT", "MY_RANK"))
    require(isinstance(text, str), f"MY_TEXT should be a text, not {kind_of(text)}")
    require(text.strip(), "not done yet: MY_TEXT is empty")
    memory = tm.text_memory(tokenizer, text)
    message = f"MY_TEXT has {memory.length} tokens, but it should have 40 to 200"
    require(40 <= memory.length <= 200, message)
    message = f"MY_RANK is {rank!r}, but it should be an integer from 2 to 32"
    require(isinstance(rank, int) and 2 <= rank <= 32, message)
    # The smallest sufficient rank is within a factor of 1.5 of MY_RANK if and only if rank `most`
    # is sufficient and rank `least`, the next one below that range, is not. This takes two runs
    # instead of one for each rank.
    least, most = math.ceil(rank / 1.5) - 1, math.floor(rank * 1.5)
    recipes = [tm.Recipe(rank=r, steps=300) for r in (least, most)]
    small, large = tm.memorize_together(model, [memory] * 2, recipes)
    message = f"MY_RANK = {rank} is too small: rank {most}, which is 1.5 times as large, still"
    message += f" leaves {len(large.verdict.stubborn)} of {memory.length} tokens at p ≤ ½. Predict"
    message += " the rank for the certificate, where every loss is below ln 2. When only the mean"
    message += " loss is ln 2,"
    require(large.report["certified"], f"{message} many tokens are above it")
    message = f"MY_RANK = {rank} is too large: rank {least}, which is less than MY_RANK / 1.5, is"
    message += " sufficient. Was your law fitted to texts like this one? Random tokens need more"
    require(not small.report["certified"], message)
