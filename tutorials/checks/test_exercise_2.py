"""The checks of exercise 2: one head of causal attention, and rotary positions."""

import math

import pytest
import torch
from torch import Tensor

from checks.drawn import NUMBERS, draw_text
from checks.expected import drawn, whole
from checks.grading import apart, first_of, require, require_close, rounded, tensor
from checks.imports import names_used

points = pytest.mark.points
READY = {"scaled_dot_product_attention", "multi_head_attention_forward", "MultiheadAttention"}


# --- Attention ------------------------------------------------------------------------------------


def head(answers, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The student's attention, which should not be torch's."""
    used = READY & names_used(answers.source, "attention")
    message = f"attention uses torch's {', '.join(used)}. Write it with products, exp and sums"
    require(not used, message)
    shape = (len(q), v.shape[1])
    out = tensor(answers.call("attention", q, k, v), shape, "The result of attention, [S, D],")
    message = "The result of attention has numbers that are not finite. A position sees itself as"
    message += " well, so each position sees at least one, also the first"
    require(out.isfinite().all(), message)
    return out


def drawn_queries(generator) -> tuple[Tensor, Tensor]:
    """q [S, D] and k [T, D], with S < T < D."""
    count = whole(6, 9, generator)
    q, k = torch.randn(2, count, count + whole(2, 5, generator), generator=generator)
    return q[whole(2, count - 3, generator) :], k


def weights(answers, q: Tensor, k: Tensor) -> Tensor:
    """The weights [S, T] of the student's attention: the values are rows of the identity matrix."""
    return head(answers, q, k, torch.eye(*k.shape))[:, : len(k)]


def softmax_of(q: Tensor, k: Tensor, v: Tensor, scale: float, masked: bool = True) -> Tensor:
    """Attention with another scale of the scores or without a mask; S = T."""
    later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1) & masked
    return (scale * q @ k.T).masked_fill(later, -math.inf).softmax(-1) @ v


@pytest.mark.ex2
@points(0.5)
def test_ex2_the_weights_of_a_position_sum_to_one(answers, generator):
    found = weights(answers, *drawn_queries(generator))
    sums, ones = found.sum(1), torch.ones(len(found))
    message = f"The weights of each position should sum to 1, but the sums are {rounded(sums)}"
    zeros = bool((found == 0).any() and (sums < 1).any())
    hints = {
        "The softmax goes over the positions that are seen: the last dimension": (
            not zeros or bool((sums > 1.001).any())
        ),
        "Later positions have to be excluded before the softmax, with a score of −∞": zeros,
    }
    right = bool((found >= 0).all()) and apart(sums, ones) < 1e-4
    require(right, message + first_of(hints))


@pytest.mark.ex2
@points(0.5)
def test_ex2_no_position_reads_a_later_one(answers, generator):
    q, k = drawn_queries(generator)
    found, before = weights(answers, q, k), len(k) - len(q)
    case = f"The {len(q)} queries belong to the positions {before} to {len(k) - 1}. Position"
    for t, row in enumerate(found, start=before):
        later = row[t + 1 :].abs()
        if later.any():
            s = t + 1 + int(later.argmax())
            message = f"{case} {t} reads position {s}, which is later: its weight is {row[s]:.3g}"
            hints = {"Its score should be −∞, not a finite number": 0 < row[s] < 1e-3}
            require(False, message + first_of(hints))
        message = f"{case} {t} should read itself and all earlier positions, but its weights are"
        require((row[: t + 1] > 0).all(), f"{message} {rounded(row)}")
    changed = k.clone()
    changed[-1] += 3
    after = weights(answers, q, changed)
    message = f"With another key at position {len(k) - 1}, the results at earlier positions should"
    message += " stay the same. Exclude later positions before the softmax, not after it"
    require_close(after[:-1], found[:-1], message)


@pytest.mark.ex2
def test_ex2_the_scores_are_divided_by_the_root_of_d(answers, generator):
    q, k = drawn_queries(generator)
    found, (count, width) = weights(answers, q[-1:], k)[0], k.shape
    message = f"The last query alone sees all {count} positions, but its weights are"
    message += f" {rounded(found)}. The other checks say why"
    require((found > 0).all() and abs(found.sum() - 1) < 1e-4, message)
    last, products = found.log(), (k - k[0]) @ q[-1]
    scale = float((last - last[0]) @ products / products.square().sum())
    message = f"With D = {width}, the scores should be q · k / √D = {width**-0.5:.3f} q · k, but"
    message += f" the weights of the last position belong to {scale:.3f} q · k"
    hints = {
        "The division by √D is missing": abs(scale - 1) < 1e-3,
        "You divided by D": abs(scale - 1 / width) < 1e-3,
        f"You divided by the root of T = {count}": abs(scale - count**-0.5) < 1e-3,
    }
    require(abs(scale - width**-0.5) < 1e-3, message + first_of(hints))


@pytest.mark.ex2
def test_ex2_the_attention_of_the_shipped_model(answers, tiny, seed, generator):
    model, tokenizer = tiny
    layer = whole(0, model.config.num_layers - 1, generator)
    text = draw_text(NUMBERS[seed % len(NUMBERS)], tokenizer)
    ids = torch.tensor([tokenizer.encode(text)[: whole(20, 40, generator)]])
    block = model.layers[layer]
    with torch.no_grad():
        x = block.input_layernorm(model.run(model.embed(ids), stop=layer))
        expected = block.self_attn(x)[0]
        q, k, v = (one[0] for one in block.self_attn.project(x))  # each [T, heads, D]
        each = [(q[:, n], k[:, n], v[:, n]) for n in range(q.shape[1])]
        heads = [head(answers, *one) for one in each]
        found = block.self_attn.o_proj(torch.cat(heads, -1))
    count, width = q.shape[0], q.shape[2]
    mistakes = {
        "The scores are not divided by √D": (1.0, True),
        "The scores are divided by D, not by √D": (1 / width, True),
        "The scores are divided by √T, not by √D": (count**-0.5, True),
        "Each position reads the later ones, too": (width**-0.5, False),
    }
    hints = {
        hint: all(
            apart(mine, softmax_of(*one, scale, masked)) < 1e-3
            for mine, one in zip(heads, each, strict=True)
        )
        for hint, (scale, masked) in mistakes.items()
    }
    message = f"The {len(heads)} heads of layer {layer} of the shipped model read {ids.shape[1]}"
    message += " tokens. Put together from your attention, their output is another one than the"
    require_close(found, expected, f"{message} model's own{first_of(hints)}", 1e-3)


# --- Rotary positions -----------------------------------------------------------------------------


def turned(answers, x: Tensor, positions: list[int], theta: float = 10_000.0) -> Tensor:
    out = answers.call("rotate", x, torch.tensor(positions), theta)
    return tensor(out, x.shape, "The result of rotate, [T, D],")


@pytest.mark.ex2
@points(0.5)
def test_ex2_rotate_by_hand(answers, seed):
    generator = drawn(seed)
    p, root = whole(2, 6, generator), whole(20, 90, generator)
    theta, x = root**2.0, torch.tensor([[1.0, 0.0, 0.0, 2.0]] * 2)
    out = turned(answers, x, [0, p], theta)
    require_close(out[0], x[0], "At position 0 the angle is 0, so x should not change")

    def by(first: float, second: float) -> Tensor:
        """x, rotated by these angles."""
        sines = math.sin(first), math.sin(second)
        return torch.tensor([math.cos(first), -2 * sines[1], sines[0], 2 * math.cos(second)])

    right = by(p, p / root)
    a, b = right[:2], right[2:]
    mistakes = {
        "Yours rotates in the other direction. Check the signs of the sines": by(-p, -p / root),
        "The angle of component i is p · theta^(−2i/D), with a factor of 2": by(p, p / root**0.5),
        "Use the argument theta, not 10,000": by(p, p / 100),
        "The components i are counted from 0": by(p / root, p / theta),
        "Use the argument positions, not the rows of x": by(1, 1 / root),
        "The angles are in radians": by(math.radians(p), math.radians(p / root)),
        "Pairs of neighbours such as 0 and 1 are another form": right[[0, 2, 1, 3]],
        "The second half should be computed from the old first half, which yours has overwritten": (
            torch.cat([a, torch.stack([a[0] * b[0], b[1] + a[1] * math.sin(p / root)])])
        ),
    }
    message = f"At position {p} and with theta = {theta:g}, x = (1, 0, 0, 2) became"
    message += f" {rounded(out[1])}. The pair (x0, x2) = (1, 0) should be rotated by {p} radians,"
    message += f" to (cos {p}, sin {p}). The pair (x1, x3) = (0, 2) should be rotated by {p} ·"
    message += (
        f" {theta:g}^(−2/4) = {p / root:.4f}, to (−2 sin {p / root:.4f}, 2 cos {p / root:.4f})"
    )
    hint = first_of({hint: apart(out[1], wrong) < 1e-4 for hint, wrong in mistakes.items()})
    require_close(out[1], right, message + hint)


@pytest.mark.ex2
@points(0.5)
def test_ex2_only_the_distance_counts(answers, generator):
    size, far = 2 * whole(2, 8, generator), whole(3, 9, generator)
    q, k = torch.randn(2, 1, size, generator=generator)
    scores = []
    for start in (0, 5, 90):
        ends = turned(answers, q, [start]), turned(answers, k, [start + far])
        for one, end in zip((q, k), ends, strict=True):
            message = "A rotation should not change the length of a vector"
            require_close(end.norm(), one.norm(), message, 1e-3)
        scores.append((ends[0] * ends[1]).sum())
    message = f"q · k should be the same for positions that are {far} apart: 0 and {far}, 5 and"
    message += f" {5 + far}, 90 and {90 + far}"
    require_close(torch.stack(scores), scores[0].expand(3), message, 1e-3)
    same = torch.allclose(turned(answers, q, [90]), q)
    require(not same, "At position 90, x was not rotated at all")
