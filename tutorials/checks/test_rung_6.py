"""The checks of rung 6: MemFT and margin. All inputs are drawn from --seed."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from checks import scenarios_rungs_6_to_9 as scenarios
from checks.expected import drawn, whole
from checks.grading import apart, first_of, near, number, require, rounded, tensor
from checks.ladder import rung

LN2 = math.log(2)


def weights_of(mymem, losses: Tensor, *threshold: float) -> Tensor:
    found = mymem.run(scenarios.weights, losses, *threshold)["weights"]
    return tensor(found, losses.shape, "The weights, [N],").float()


@rung(6)
def test_rung6_weights_of_the_tokens_below_the_threshold(mymem, seed):
    generator = drawn(seed)
    losses = torch.rand(8, generator=generator) * 2
    # Two p between the thresholds and what a mistake makes of them, one p that rounds to 0, and
    # one that is nearly 1.
    losses = torch.cat([losses, torch.tensor([0.4, 0.6, 200.0, 0.01])])
    losses = losses[torch.randperm(12, generator=generator)]
    for threshold in (0.5, 0.3 + 0.1 * float(torch.rand((), generator=generator)), 0.9):
        weights = weights_of(mymem, losses, *([] if threshold == 0.5 else [threshold]))
        right = ((-losses).exp() < threshold).float()
        hints = {
            "These are the tokens above the threshold": torch.equal(weights, 1 - right),
            "Is that the logarithm to base 10? A loss is −ln p": (
                torch.equal(weights, (losses > -math.log10(threshold)).float())
            ),
            "You compared the loss with the threshold, which is one for the probability": (
                torch.equal(weights, (losses > threshold).float())
            ),
            "The threshold that is given is not used": (
                torch.equal(weights, (losses > LN2).float())
            ),
            "A weight is 1 or 0, nothing between": bool(((weights > 0) & (weights < 1)).any()),
        }
        message = f"For the losses {rounded(losses)} and the threshold {threshold:.2f}, the weights"
        message += f" should be {rounded(right)}, 1 where p = exp(−loss) is below the threshold,"
        message += f" not {rounded(weights)}"
        require(torch.equal(weights, right), message + first_of(hints))


def require_choice(weights: Tensor) -> None:
    """The weights of losses that are above and below the threshold are not all alike."""
    message = "Some of these p are below one half and some above, but all weights are alike"
    require(len(set(weights.tolist())) > 1, message)


@rung(6)
def test_rung6_no_token_below_the_threshold(mymem, seed):
    losses = torch.rand(whole(2, 6, drawn(seed)), generator=drawn(seed)) * 0.6
    weights = weights_of(mymem, losses)
    message = f"For the losses {rounded(losses)}, every p is above one half. All weights should"
    message += f" then be 1, as in plain fine-tuning, not {rounded(weights)}"
    hints = {"With weights of 0, Σ w ℓ / Σ w is 0 / 0": bool((weights == 0).all())}
    require(bool((weights == 1).all()), message + first_of(hints))
    require_choice(weights_of(mymem, torch.cat([losses, losses + 0.7])))


@rung(6)
def test_rung6_the_weights_carry_no_gradient(mymem, seed):
    losses = torch.cat([torch.tensor([0.1, 2.0]), torch.rand(6, generator=drawn(seed)) * 3])
    found = mymem.run(scenarios.weights, losses)
    require_choice(tensor(found["weights"], losses.shape, "The weights, [N],"))
    message = "The weights carry a gradient, so training would also change the loss through them."
    require(not found["has_gradient"], f"{message} Compute them from losses.detach()")


def scored(seed: int) -> tuple[Tensor, Tensor]:
    """Logits [N, V] and targets [N], of which about half have p < ½."""
    generator = drawn(seed)
    n, v = whole(8, 20, generator), whole(5, 30, generator)
    logits, targets = (
        torch.randn(n, v, generator=generator),
        torch.randint(v, (n,), generator=generator),
    )
    logits[torch.arange(n), targets] += torch.tensor([8.0, 0.5]).repeat(n)[:n]
    return logits, targets


def require_gradient(found: dict, right: Tensor, logits: Tensor, name: str, hint: str) -> None:
    """Compares the gradient of an objective, after its value, with that of `right`."""
    gradient = found["gradient"]
    message = f"The value of {name} is right, but"
    what = f"{message} it has no gradient with respect to the logits. Return a tensor"
    require(isinstance(gradient, Tensor), what, keeps=0.5)
    expected = torch.autograd.grad(right, logits)[0]
    what = f"{message} its gradient is wrong by {apart(gradient, expected):.2g}"
    require(apart(gradient, expected) < 1e-4, f"{what}. Do not detach {hint}", keeps=0.5)


@rung(6)
def test_rung6_memft_ot_is_a_weighted_mean(mymem, seed):
    logits, targets = scored(seed)
    given = torch.randint(2, targets.shape, generator=drawn(seed + 1)).float()
    given[:2] = torch.tensor([0.0, 1.0])
    found = mymem.run(scenarios.memft_ot, logits, targets, 0.3, given)
    value = float(tensor(found["value"], (), "The value of memft_ot, a scalar,"))
    losses = F.cross_entropy(logits.requires_grad_(), targets, reduction="none")
    weights = given if found["called"] else (losses > LN2).float()
    right = (weights * losses).sum() / weights.sum()
    mean, of_all, total, plain = (
        float(one.detach())
        for one in (right, (weights * losses).mean(), (weights * losses).sum(), losses.mean())
    )
    hints = {
        "You divided by the number of all tokens. Divide by Σ w": near(value, of_all, 1e-4),
        "This is the sum of w ℓ": near(value, total, 1e-4),
        "This is the mean of all losses": near(value, plain, 1e-4),
    }
    message = "While the check lets memft_ot_weights return drawn weights"
    message = message if found["called"] else "With the weights of these losses"
    message += f", Σ w ℓ / Σ w is {mean:.4f}, but memft_ot gave {value:.4f}"
    require(near(value, mean, 1e-4), message + first_of(hints))
    hint = "the losses, and let no gradient flow through the weights"
    require_gradient(found, right, logits, "memft_ot", hint)


@rung(6)
def test_rung6_the_temperature_falls(mymem, seed):
    at = [0.0, 0.5, 1.0, *np.random.default_rng(seed).uniform(size=3).tolist()]
    got = [number(mymem.call("temperature", p), "The temperature") for p in at]
    right = [0.01 ** (p * p) for p in at]
    hints = {
        "That is 0.01^progress. The exponent is progress²": near(got[1], 0.1, 1e-4),
        "It rises. The temperature is 1 in the beginning": got[0] < got[2],
        "That is 0.01 · progress²": near(got[2], 0.01, 1e-6) and near(got[0], 0, 1e-6),
    }
    for progress, value, expected in zip(at, got, right, strict=True):
        message = f"At the progress {progress:.3f} the temperature is 0.01^({progress:.3f}²) ="
        message += f" {expected:.4f}, not {value:.4f}"
        require(near(value, expected, 1e-5), message + first_of(hints))


@rung(6)
def test_rung6_margin_is_the_loss_at_a_temperature(mymem, seed):
    logits, targets = scored(seed)
    generator = drawn(seed + 1)
    for progress in (0.0, 0.3 + 0.6 * float(torch.rand((), generator=generator)), 1.0):
        given = 0.01 + 0.9 * float(torch.rand((), generator=generator))
        found = mymem.run(scenarios.margin, logits.detach(), targets, progress, given)
        value = float(tensor(found["value"], (), "The value of margin, a scalar,"))
        T = given if found["called"] else 0.01 ** (progress**2)
        loss = F.cross_entropy(logits.requires_grad_() / T, targets)
        mean, one = (float(F.cross_entropy(z.detach(), targets)) for z in (logits / T, logits))
        hints = {
            "Multiply by T, or the gradient grows as T falls": near(value, mean, 1e-3),
            "Divide the logits by T, not the losses": near(value, one, 1e-3),
            "Divide the logits by T. You multiplied them": (
                near(value, T * float(F.cross_entropy(logits.detach() * T, targets)), 1e-3)
            ),
            "The exp of a large logit is infinite, and so is the log of a p that rounds to 0. Use"
            " max + log(sum(exp)) − z_target for the losses": not math.isfinite(value),
        }
        message = "While the check lets temperature return" if found["called"] else "At"
        message += f" T = {T:.3f}, T times the mean loss of logits / T is"
        message += f" {T * mean:.4f}, but margin gave {value:.4f}"
        require(near(value, T * mean, 1e-3), message + first_of(hints))
        require_gradient(found, T * loss, logits, "margin", "the logits or the losses")
