"""Losses and their gradient, computed in chunks. Oracle: torch's cross entropy and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tinymem.training import loss
from tinymem.training.loss import TokenLoss, log_probabilities

N, D, V = 23, 16, 97


def case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, head = torch.randn(N, D, generator=generator), torch.randn(V, D, generator=generator)
    targets = torch.randint(V, (N,), generator=generator)
    weights = torch.rand(N, generator=generator) * (torch.rand(N, generator=generator) > 0.5)
    return x.to(dtype).requires_grad_(), head.to(dtype), targets, weights


def token_loss(head, skip=False, compare=False) -> TokenLoss:
    return TokenLoss(head, N, skip_zero_weights=skip, compare=compare)


def test_two_logits_by_hand():
    x, head = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0], [math.log(3)]])
    losses, _, _ = token_loss(head)(x, torch.tensor([0]))
    losses.sum().backward()
    assert losses.item() == pytest.approx(math.log(4))  # logits 0 and ln 3: p = 1/4 and 3/4
    assert x.grad.item() == pytest.approx(0.75 * math.log(3))


EXPECTED = {
    "all": torch.ones(N, dtype=torch.bool),
    "none": torch.zeros(N, dtype=torch.bool),
    "some": torch.arange(N) % 3 == 0,
}


@pytest.mark.parametrize("rows", [1, 7, 23, 100])
@pytest.mark.parametrize("expected", [None, *EXPECTED])
def test_losses_and_gradients_are_those_of_cross_entropy(monkeypatch, rows, expected):
    """The gradient is right whichever rows were expected to have a weight."""
    monkeypatch.setattr(loss, "CHUNK", rows * V)
    x, head, targets, weights = case()
    token_losses = token_loss(head, skip=expected is not None, compare=True)
    if expected is not None:
        token_losses.weighted = EXPECTED[expected].clone()
    ours, losses, margin = token_losses(x, targets)
    (ours * weights).sum().backward()
    other = x.detach().clone().requires_grad_()
    logits = other @ head.t()
    theirs = F.cross_entropy(logits, targets, reduction="none")
    (theirs * weights).sum().backward()
    assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(x.grad, other.grad, atol=1e-5)
    assert torch.equal(ours, losses) and torch.equal(margin > 0, logits.argmax(-1) == targets)


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("expected", [None, *EXPECTED])
def test_each_token_has_its_own_temperature(monkeypatch, rows, expected):
    """Also where the backward pass adds the rows that were not expected to have a weight."""
    monkeypatch.setattr(loss, "CHUNK", rows * V)
    x, head, targets, weights = case()
    T = torch.linspace(0.01, 1, N)
    token_losses = token_loss(head, skip=expected is not None, compare=True)
    if expected is not None:
        monkeypatch.setattr(loss, "LN2", 99.0)  # otherwise a loss above ln 2 is expected too
        token_losses.weighted = EXPECTED[expected].clone()
    ours, losses, margin = token_losses(x, targets, temperatures=T)
    (ours * weights).sum().backward()
    other = x.detach().clone().requires_grad_()
    logits = other @ head.t()
    theirs = T * F.cross_entropy(logits / T[:, None], targets, reduction="none")
    (theirs * weights).sum().backward()
    assert torch.allclose(ours, theirs, atol=1e-4) and torch.allclose(x.grad, other.grad, atol=1e-4)
    plain = F.cross_entropy(logits, targets, reduction="none")
    assert torch.allclose(losses, plain, atol=1e-5) and not losses.requires_grad
    assert torch.equal(margin > 0, logits.argmax(-1) == targets) and not margin.requires_grad


def test_a_selection_of_the_tokens():
    x, head, targets, weights = case()
    token_losses, some = token_loss(head, skip=True), torch.tensor([3, 20, 7])
    T = torch.tensor([1.0, 0.5, 0.1])
    ours, _, _ = token_losses(x[some], targets[some], some, T)
    logits = x.detach()[some] @ head.t() / T[:, None]
    theirs = T * F.cross_entropy(logits, targets[some], reduction="none")
    assert torch.allclose(ours, theirs, atol=1e-5)
    (ours * weights[some]).sum().backward()
    assert torch.equal(token_losses.weighted[some], weights[some] > 0)
    assert token_losses.weighted.sum() == N - 3 + (weights[some] > 0).sum()


def test_bfloat16_states_and_head():
    x, head, targets, weights = case(torch.bfloat16)
    (token_loss(head)(x, targets)[0] * weights).sum().backward()
    wide = x.detach().float().requires_grad_()
    theirs = F.cross_entropy(wide @ head.float().t(), targets, reduction="none")
    (theirs * weights).sum().backward()
    assert (x.grad - wide.grad).abs().max() < 0.02 * wide.grad.abs().max()


def test_the_softmax_is_in_float32_whatever_the_states_are():
    """Logits in bfloat16 are imprecise, but their log-softmax must not lose more digits."""
    x, head, _, _ = case(torch.bfloat16)
    logits = x.detach() @ head.t()
    assert logits.dtype == torch.bfloat16
    exact = logits.double().log_softmax(-1)
    for rows, logp in log_probabilities(x.detach(), head):
        assert logp.dtype == torch.float32
        assert (logp - exact[rows]).abs().max() < 1e-5  # in bfloat16 about 2e-2


def test_a_head_of_another_dtype_is_cast_part_by_part(monkeypatch):
    x, head, targets, _ = case()
    half = head.bfloat16()
    whole = F.cross_entropy(x @ half.float().t(), targets, reduction="none")
    monkeypatch.setattr(loss, "CHUNK", 5 * D)  # five rows of the head at a time
    assert torch.allclose(token_loss(half)(x.detach(), targets)[0], whole, atol=1e-5)


def test_rows_of_weight_zero_cost_no_product(monkeypatch):
    """From the second step on, because the first step finds which rows these are."""
    x, head, targets, weights = case()
    head = (
        head / 100
    )  # no loss is below ln 2, so only the last step decides which rows have a weight
    weights = torch.where(torch.arange(N) % 2 == 0, weights + 0.1, 0.0)
    rows, real = [], loss.hidden_gradient

    def count(logp, *rest):
        rows.append(len(logp))
        return real(logp, *rest)

    monkeypatch.setattr(loss, "LN2", 99.0)
    monkeypatch.setattr(loss, "hidden_gradient", count)
    token_losses = token_loss(head, skip=True)
    for expected in (N, (weights > 0).sum()):
        rows.clear()
        (token_losses(x, targets)[0] * weights).sum().backward()
        assert sum(rows) == expected
    assert (weights > 0).sum() < N


def test_all_logits_are_never_there_at_once(monkeypatch):
    sizes = []

    class CountsValues(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    monkeypatch.setattr(loss, "CHUNK", 3 * V)
    x, head, targets, _ = case()
    with CountsValues():
        token_loss(head)(x, targets)[0].sum().backward()
    assert max(sizes) <= max(3 * V, head.numel()) < N * V
