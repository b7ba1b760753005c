"""Losses and their gradient in one pass over chunks. Oracle: torch's cross entropy and autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tinymem.training import loss
from tinymem.training.loss import token_losses

N, D, V = 23, 16, 97


def case(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(N, D, generator=generator), torch.randn(V, D, generator=generator)
    targets = torch.randint(V, (N,), generator=generator)
    weights = torch.rand(N, generator=generator) * (torch.rand(N, generator=generator) > 0.5)
    return x.to(dtype).requires_grad_(), weight.to(dtype), targets, weights


def test_two_logits_by_hand():
    x, weight = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0], [math.log(3)]])
    losses = token_losses(x, weight, torch.tensor([0]))
    losses.sum().backward()
    assert losses.item() == pytest.approx(math.log(4))  # logits 0 and ln 3: p = 1/4 and 3/4
    assert x.grad.item() == pytest.approx(0.75 * math.log(3))


GUESSES = {
    "none": None,
    "all": lambda losses, rows: torch.ones_like(losses, dtype=torch.bool),
    "never": lambda losses, rows: torch.zeros_like(losses, dtype=torch.bool),
    "some": lambda losses, rows: losses > losses.median(),
}


@pytest.mark.parametrize("rows", [1, 7, 23, 100])
@pytest.mark.parametrize("guess", GUESSES)
def test_losses_and_gradients_are_those_of_cross_entropy(monkeypatch, rows, guess):
    monkeypatch.setattr(loss, "CHUNK", rows * V)
    x, weight, targets, weights = case()
    correct = torch.empty(N, dtype=torch.bool)
    ours = token_losses(x, weight, targets, GUESSES[guess], correct)
    (ours * weights).sum().backward()
    other = x.detach().clone().requires_grad_()
    logits = other @ weight.t()
    theirs = F.cross_entropy(logits, targets, reduction="none")
    (theirs * weights).sum().backward()
    assert torch.allclose(ours, theirs, atol=1e-5) and torch.allclose(x.grad, other.grad, atol=1e-5)
    assert torch.equal(correct, logits.argmax(-1) == targets)


def test_bfloat16_states_and_head():
    x, weight, targets, weights = case(torch.bfloat16)
    (token_losses(x, weight, targets) * weights).sum().backward()
    wide = x.detach().float().requires_grad_()
    (
        F.cross_entropy(wide @ weight.float().t(), targets, reduction="none") * weights
    ).sum().backward()
    assert (x.grad - wide.grad).abs().max() < 0.02 * wide.grad.abs().max()


def test_a_head_of_another_dtype_is_cast_part_by_part(monkeypatch):
    x, weight, targets, _ = case()
    half = weight.bfloat16()
    whole = F.cross_entropy(x @ half.float().t(), targets, reduction="none")
    monkeypatch.setattr(loss, "CHUNK", 5 * D)  # five rows of the head at a time
    assert torch.allclose(token_losses(x.detach(), half, targets), whole, atol=1e-5)


def test_rows_of_weight_zero_cost_no_product(monkeypatch):
    x, weight, targets, weights = case()
    rows, pull = [], loss.pull
    monkeypatch.setattr(
        loss, "pull", lambda logp, *rest: rows.append(len(logp)) or pull(logp, *rest)
    )
    (
        token_losses(x, weight, targets, lambda losses, rows: weights[rows] > 0) * weights
    ).sum().backward()
    assert sum(rows) == (weights > 0).sum() < N


def test_all_logits_are_never_there_at_once(monkeypatch):
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    monkeypatch.setattr(loss, "CHUNK", 3 * V)
    x, weight, targets, _ = case()
    with Watch():
        token_losses(x, weight, targets).sum().backward()
    assert largest <= max(3 * V, weight.numel()) < N * V
