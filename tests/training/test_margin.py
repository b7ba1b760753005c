"""The margin objective. Oracles: torch's cross-entropy and autograd, and the perceptron loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from tinymem.training.loss import TokenLoss
from tinymem.training.margin import END, margins, sharpen, temperature

N, V = 40, 97


def case() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V], of which about half have the target as their argmax, and the targets."""
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(N, V, generator=generator)
    targets = torch.randint(V, (N,), generator=generator)
    targets = torch.where(torch.arange(N) % 2 == 0, logits.argmax(-1), targets)
    return logits, targets


def objective(logits: torch.Tensor, targets: torch.Tensor, T: float) -> tuple[torch.Tensor, ...]:
    """s_t [N] and its gradient for the logits [N, V]: with the identity as the head, z_t is x_t."""
    z = logits.clone().requires_grad_()
    loss = TokenLoss(torch.eye(logits.shape[1]), len(z), skip_zero_weights=False, compare=False)
    found = loss(z, targets, temperatures=torch.full((len(z),), T)).objective
    found.sum().backward()
    return found.detach(), z.grad


# --- The objective -------------------------------------------------------------------------------


@pytest.mark.parametrize("T", [1.0, 0.5, 0.1, 0.01])
def test_it_is_cross_entropy_on_sharpened_logits(T):
    logits, targets = case()
    ours, gradient = objective(logits, targets, T)
    z = logits.double().requires_grad_()
    theirs = T * F.cross_entropy(z / T, targets, reduction="none")
    theirs.sum().backward()
    assert torch.allclose(ours.double(), theirs, atol=1e-5)
    assert torch.allclose(gradient.double(), z.grad, atol=1e-4)


def test_two_logits_by_hand():
    """Logits 0 and ln 3 at T = ½: the sharpened ones are 0 and ln 9, so p = 1/10 and 9/10."""
    ours, gradient = objective(torch.tensor([[0.0, math.log(3)]]), torch.tensor([0]), 0.5)
    assert ours.item() == pytest.approx(0.5 * math.log(10))
    assert gradient.tolist() == [pytest.approx([-0.9, 0.9])]


def test_at_temperature_1_it_is_plain_cross_entropy():
    logits, targets = case()
    ours, gradient = objective(logits, targets, 1.0)
    z = logits.clone().requires_grad_()
    F.cross_entropy(z, targets, reduction="sum").backward()
    assert torch.allclose(ours, F.cross_entropy(logits, targets, reduction="none"), atol=1e-5)
    assert torch.allclose(gradient, z.grad, atol=1e-6)


@pytest.mark.parametrize("T", [1.0, 0.3, 0.1, 0.01, 0.001])
def test_as_temperature_falls_it_becomes_the_perceptron_loss(T):
    """max_j z_j − z_y ≤ s ≤ max_j z_j − z_y + T ln V, the bounds of a log-sum-exp."""
    logits, targets = case()
    perceptron = logits.amax(-1) - logits.gather(-1, targets[:, None]).squeeze(-1)
    ours, _ = objective(logits, targets, T)
    assert (ours > perceptron - 1e-5).all() and (ours < perceptron + T * math.log(V) + 1e-5).all()


def test_its_last_gradient_knows_only_the_target_and_its_strongest_rival():
    logits, targets = case()
    _, gradient = objective(logits, targets, 1e-4)
    wrong = logits.argmax(-1) != targets
    expected = F.one_hot(logits.argmax(-1), V) - F.one_hot(targets, V)
    assert wrong.sum() > N // 3 and not expected[~wrong].any()
    assert torch.allclose(gradient, expected.float(), atol=1e-5)


def test_sharpening_log_probabilities_is_sharpening_logits():
    logits, _ = case()
    T = torch.linspace(0.01, 1, N)
    expected = (logits / T[:, None]).log_softmax(-1)
    logp = logits.log_softmax(-1)
    assert torch.allclose(sharpen(logp, T), expected, atol=1e-3)  # of numbers down to −3,000
    assert torch.allclose(logp, expected, atol=1e-3)  # in place


# --- The temperature -----------------------------------------------------------------------------


def test_the_temperature_falls_from_1_to_the_end_slowly_at_first():
    end = torch.tensor([0.01, END, 1.0])
    course = torch.stack([temperature(n / 8, end) for n in range(9)])
    assert course[0].tolist() == [1, 1, 1] and torch.allclose(course[8], end)
    assert course[4].tolist() == pytest.approx([0.1**0.5, END**0.25, 1])  # by hand
    steps = (course[1:, :2] / course[:-1, :2]).log()
    assert (steps < 0).all() and torch.allclose(steps[1:] - steps[:-1], steps[1] - steps[0])
    assert 0 < END < 1


# --- Margins -------------------------------------------------------------------------------------


def test_margins_by_hand():
    logits = torch.tensor([[2.0, 5.0, 4.0]] * 3)
    assert margins(logits, torch.tensor([0, 1, 2])).tolist() == [-3, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_margins_are_those_of_the_sorted_logits_and_leave_them_unchanged(dtype):
    logits, targets = case()
    logits = logits.to(dtype)
    before = logits.clone()
    found = margins(logits, targets)
    assert torch.equal(logits, before)
    for z, target, margin in zip(logits.tolist(), targets.tolist(), found.tolist(), strict=True):
        own = z.pop(target)
        assert margin == pytest.approx(own - max(z), rel=0.01)


def test_log_probabilities_have_the_margins_of_their_logits():
    logits, targets = case()
    found = margins(logits.log_softmax(-1), targets)
    assert torch.allclose(found, margins(logits, targets), atol=1e-5)


def test_a_margin_is_above_zero_where_the_target_alone_is_the_argmax():
    logits, targets = case()
    assert torch.equal(margins(logits, targets) > 0, logits.argmax(-1) == targets)
    tie = torch.tensor([[1.0, 3.0, 3.0]])
    assert margins(tie, torch.tensor([1])).item() == margins(tie, torch.tensor([2])).item() == 0
    assert not margins(torch.full((1, 3), math.nan), torch.tensor([1])).item() > 0
