"""The weights of MemFT. Tables by hand; for memft-sw, a plain loop over positions as the oracle."""

import math

import pytest
import torch

from tinymem.training.memft import (
    LN2,
    Weigher,
    Window,
    first_window,
    memft_ot_weights,
    memft_sw_weights,
    sft_weights,
    weighted_mean,
)

LOSSES = torch.tensor([2.0, 0.5, 0.7, 0.1])


def test_sft_counts_every_token():
    assert sft_weights(LOSSES).tolist() == [1, 1, 1, 1]
    assert weighted_mean(LOSSES, sft_weights(LOSSES)) == pytest.approx(LOSSES.mean().item())


def test_ot_by_hand():
    assert memft_ot_weights(LOSSES).tolist() == [1, 0, 1, 0]
    assert weighted_mean(LOSSES, memft_ot_weights(LOSSES)) == pytest.approx((2.0 + 0.7) / 2)


def test_ot_threshold_is_strict_and_movable():
    at = torch.tensor([LN2 - 1e-6, LN2 + 1e-6])
    assert memft_ot_weights(at).tolist() == [0, 1]
    # θ = 0.9: −ln 0.9 = 0.105
    assert memft_ot_weights(torch.tensor([0.1, 0.11]), threshold=0.9).tolist() == [0, 1]


@pytest.mark.parametrize(("rule", "expected"), [("sft", [1.0, 1.0]), ("zero", [0.0, 0.0])])
def test_ot_when_no_token_is_active(rule, expected):
    losses = torch.tensor([0.1, 0.2], requires_grad=True)
    weights = memft_ot_weights(losses.detach(), zero_active=rule)
    assert weights.tolist() == expected
    mean = weighted_mean(losses, weights)
    assert mean.item() == pytest.approx(0.15 if rule == "sft" else 0.0)
    mean.backward()  # a zero loss has a gradient of zero, not NaN
    assert losses.grad.tolist() == pytest.approx([0.5, 0.5] if rule == "sft" else [0, 0])


def test_the_zero_rule_does_not_touch_other_rows():
    rows = torch.tensor([[0.1, 0.2], [3.0, 0.2]])
    assert memft_ot_weights(rows, zero_active="zero").tolist() == [[0, 0], [1, 0]]
    assert memft_ot_weights(rows, zero_active="sft").tolist() == [[1, 1], [1, 0]]


def slow_window(losses, correct, state, kappa=10.0, tau=20.0, window=50.0, floor=0.01):
    """memft-sw as a loop over positions, in Python floats. state: (anchor, still, extent)."""
    wrong = [t for t, c in enumerate(correct) if not c]
    anchor = wrong[0] if wrong else len(losses)
    if anchor == state[0]:
        still = state[1] + 1
        extent = min(4.0, state[2] + 0.5) if still >= 3 else state[2]
    else:
        still, extent = 0, 1.0
    weights = []
    for t, loss in enumerate(losses):
        soft = 1 / (1 + math.exp(-kappa * (loss + math.log(0.5))))
        inside = t < anchor + window * extent
        mask = math.exp(-max(t - anchor, 0) / tau) if inside else floor
        weights.append(soft * (mask if wrong else 1.0))
    return weights, (anchor, still, extent)


def test_sw_equals_the_loop_over_a_long_run():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(300, generator=generator) * 3
    correct = torch.ones(300, dtype=torch.bool)
    state, slow = first_window(losses), (-1, 0, 1.0)
    # The first error stays for 12 steps, moves, comes back, and disappears.
    for anchor in [10] * 12 + [20] * 5 + [10] * 4 + [None] * 2 + [0] * 3:
        correct[:] = True
        if anchor is not None:
            correct[anchor::7] = False
        weights, state = memft_sw_weights(losses, correct, state)
        expected, slow = slow_window(losses.tolist(), correct.tolist(), slow)
        assert weights.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-9)
        assert (state.anchor.item(), state.still.item(), state.extent.item()) == slow


def test_sw_by_hand():
    losses = torch.full((120,), 10.0)  # far above the threshold, so its soft weight is 1
    correct = torch.ones(120, dtype=torch.bool)
    correct[5] = False
    extents, state = [], first_window(losses)
    for _ in range(12):
        weights, state = memft_sw_weights(losses, correct, state)
        extents.append(state.extent.item())
        if len(extents) == 1:
            assert weights[0] == weights[5] == 1  # before the first error and at it
            assert weights[25].item() == pytest.approx(math.exp(-1))  # τ = 20 tokens later
            assert weights[54].item() == pytest.approx(math.exp(-49 / 20))
            assert weights[55].item() == pytest.approx(0.01)  # a + 50: outside the window
    # At the fourth call the anchor has stood still for 3 steps.
    assert extents == [1, 1, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4, 4]


def test_sw_without_errors_is_the_soft_threshold_alone():
    weights, _ = memft_sw_weights(LOSSES, torch.ones(4, dtype=torch.bool), first_window(LOSSES))
    assert weights.tolist() == pytest.approx(
        [1 / (1 + math.exp(-10 * (x - LN2))) for x in LOSSES.tolist()]
    )


def test_rows_are_independent_runs():
    generator = torch.Generator().manual_seed(1)
    losses, correct = (
        torch.rand(3, 80, generator=generator) * 2,
        torch.rand(3, 80, generator=generator) > 0.2,
    )
    together, state = memft_sw_weights(losses, correct, first_window(losses))
    for i in range(3):
        alone, one = memft_sw_weights(losses[i], correct[i], first_window(losses[i]))
        assert torch.equal(together[i], alone)
        assert state.anchor[i] == one.anchor


# --- Several runs, from step to step -------------------------------------------------------------

KINDS = [("memft-sw", ""), ("memft-ot", "zero"), ("sft", ""), ("memft-ot", "sft"), ("memft-sw", "")]
LENGTH = 120  # more than the window, which begins with 50 tokens and grows to 200


def steps_of_runs(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Losses and correct argmaxes of five runs over so many steps.

    The first error of run 0 stays at token 5. That of run 4 is at token 20 and moves after 6 steps.
    In both runs there are errors far beyond the first 50 tokens.
    """
    generator, steps = torch.Generator().manual_seed(2), []
    for step in range(count):
        losses = torch.rand(5, LENGTH, generator=generator) * 2
        correct = torch.rand(5, LENGTH, generator=generator) > 0.3
        for run, anchor in ((0, 5), (4, 20 if step < 6 else 30)):
            correct[run, :anchor], correct[run, anchor], correct[run, 110] = True, False, False
        steps.append((losses, correct))
    return steps


def expected_weights(kind, losses, correct, state):
    """Weights of one run in one step, and the window for the next, from the functions above."""
    method, zero_active = kind
    if method == "sft":
        return sft_weights(losses), state
    if method == "memft-ot":
        return memft_ot_weights(losses, zero_active=zero_active), state
    return memft_sw_weights(losses, correct, state)


def test_each_run_is_weighted_by_its_own_method_and_keeps_its_own_window():
    weigh = Weigher(KINDS, torch.device("cpu"))
    assert weigh.needs_margins and weigh.has_zero_weights
    states = [first_window(torch.empty(LENGTH)) for _ in KINDS]
    extents = []
    for losses, correct in steps_of_runs(14):
        weights = weigh(losses, correct.float() - 0.5)
        for run, kind in enumerate(KINDS):
            expected, states[run] = expected_weights(kind, losses[run], correct[run], states[run])
            assert torch.allclose(weights[run], expected, atol=1e-6)
        extents.append((states[0].extent.item(), states[4].extent.item()))
    assert extents[3:9] == [(1.5, 1.5), (2, 2), (2.5, 2.5), (3, 1), (3.5, 1), (4, 1)]
    assert extents[-1] == (4, 3.5)


def test_the_rule_without_active_tokens_is_each_runs_own():
    weigh = Weigher([("memft-ot", "sft"), ("memft-ot", "zero"), ("sft", "")], torch.device("cpu"))
    weights = weigh(torch.full((3, 4), 0.1), None)
    assert weights.tolist() == [[1] * 4, [0] * 4, [1] * 4] and not weigh.needs_margins


@pytest.mark.parametrize("indices", [[0, 2, 4], [4], [3, 4], [0, 1, 3]])
def test_the_runs_that_go_on_keep_their_windows(indices):
    """As if no run had left, also where the windows have grown."""
    whole, part = (Weigher(KINDS, torch.device("cpu")) for _ in range(2))
    for step, (losses, correct) in enumerate(steps_of_runs(10)):
        if step == 5:
            part = part.select(indices)
        chosen = indices if step >= 5 else range(5)
        margins = correct.float() - 0.5  # above 0 where the argmax is right
        expected, found = whole(losses, margins), part(losses[chosen], margins[chosen])
        assert torch.allclose(found, expected[chosen], atol=1e-6)
    assert part.kinds == [KINDS[n] for n in indices]
    assert part.needs_margins == any(KINDS[n][0] == "memft-sw" for n in indices)


def test_windows_are_changed_in_place():
    """A recorded CUDA graph reads and writes the same memory in every step."""
    weigh = Weigher(KINDS, torch.device("cpu"))
    before = Window(*weigh.window)
    losses, correct = steps_of_runs(1)[0]
    weigh(losses, correct.float() - 0.5)
    assert all(a is b for a, b in zip(weigh.window, before, strict=True))
    assert weigh.window.anchor[0] == 5
