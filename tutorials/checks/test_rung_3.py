"""The checks of rung 3: the loss of a token.

All inputs are drawn from --seed. What is expected is computed in plain torch (expected.py).
"""

import math

import torch
from torch import Tensor

from checks import expected, scenarios_rungs_1_to_5 as scenarios
from checks.expected import drawn, token_ids, whole
from checks.grading import (
    apart,
    first_of,
    near,
    require,
    require_close,
    rounded,
    tensor,
)
from checks.ladder import rung
from checks.server import load_shipped
from checks.values import MODEL

LN2 = math.log(2)


@rung(3)
def test_rung3_the_logits_of_the_target(mymem, seed):
    generator = drawn(seed)
    unit = expected.some_unit(2, generator)
    for sizes in ((3, 1), (whole(2, 9, generator), whole(4, 12, generator))):
        prompt, target = (token_ids(n, generator) for n in sizes)
        with torch.no_grad():
            every = expected.all_logits(prompt + target, *unit)
        found = mymem.run(scenarios.logits_of, MODEL, prompt, target, *unit)
        case = f"For a prompt of length {len(prompt)} and a target of length {len(target)},"
        case += " target_logits"
        logits = tensor(found["logits"], (len(target), every.shape[1]), f"{case}, [N, V],")
        right = every[len(prompt) - 1 : -1]
        hints = {
            "These logits are one position too late: there the model has read the token itself": (
                apart(logits, every[len(prompt) :]) < 1e-3
            ),
            "These are log-probabilities": apart(logits, right.log_softmax(-1)) < 1e-3,
            "These are probabilities": apart(logits, right.softmax(-1)) < 1e-3,
        }
        message = f"{case} should be the logits at the positions that predict the target"
        require_close(logits, right, message + first_of(hints), 1e-3)


@rung(3)
def test_rung3_one_pass_with_a_gradient(mymem, seed):
    generator = drawn(seed)
    prompt, target = token_ids(4, generator), token_ids(6, generator)
    unit = expected.some_unit(2, generator)
    found = mymem.run(scenarios.logits_of, MODEL, prompt, target, *unit)
    size = len(target) * load_shipped()[0].config.vocab_size
    enough = isinstance(found["logits"], Tensor) and found["logits"].numel() >= size
    require(enough, f"target_logits gave fewer than the {size:,} logits of 6 target tokens")
    message = "The logits have no gradient with respect to A and B, so a unit could not be trained"
    hint = "Do not detach them, and do not use torch.no_grad here"
    require(found["gradient"], f"{message}. {hint}")
    message = f"The model was called {found['passes']} times for 6 target tokens. It gives the"
    message += " logits after every position at once, so one pass is enough"
    require(found["passes"] == 1, message, keeps=0.5)


def losses_of(mymem, logits: Tensor, targets: Tensor) -> tuple[Tensor, dict]:
    """The losses, and what else the scenario has found."""
    found = mymem.run(scenarios.losses_of, logits, targets)
    return tensor(found["losses"], targets.shape, "The losses, [N], one for each token,"), found


def scored(seed: int) -> tuple[Tensor, Tensor]:
    """Logits [N, V] and targets [N]."""
    generator = drawn(seed)
    n, v = whole(5, 30, generator), whole(3, 30, generator)
    logits = 4 * torch.randn(n, v, generator=generator)
    return logits, torch.randint(v, (n,), generator=generator)


@rung(3)
def test_rung3_the_loss_of_each_token(mymem, seed):
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)], [math.log(3), 0.0]])
    losses, _ = losses_of(mymem, logits, torch.tensor([0, 0, 0]))
    right = torch.tensor([LN2, math.log(4), math.log(4 / 3)])
    shifted = logits - logits.max(-1, keepdim=True).values
    tables = [z.exp().sum().log() - z[:, 0] for z in (logits, shifted)]
    hints = {
        "Each row has a sum of its own. Did you add over all rows?": any(
            apart(losses, table) < 1e-3 for table in tables
        ),
        "These are bits. Use log instead of log2": apart(losses, right / LN2) < 1e-3,
        "Wrong sign: a loss is −ln p, which is never negative": apart(-losses, right) < 1e-3,
        "These are probabilities. The loss is −ln p": apart(losses, (-right).exp()) < 1e-3,
        "This is their mean for every token": apart(losses, right.mean().expand(3)) < 1e-3,
    }
    message = "The probabilities ½, ¼ and ¾ have losses of ln 2 = 0.693, ln 4 = 1.386 and ln 4/3 ="
    message += f" 0.288 nats, not {rounded(losses)}"
    require_close(losses, right, message + first_of(hints))
    logits, targets = scored(seed)
    losses, found = losses_of(mymem, logits, targets)
    right = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    message = "The losses should be equal to those of torch's cross_entropy"
    require_close(losses, right, message, 1e-4)
    require_gradient(found["gradient"], logits, targets)
    names = {name.strip("_") for name in found["names"] if "softmax" in name or "sumexp" in name}
    message = f"token_losses uses torch's {', '.join(sorted(names))}, itself or inside another"
    message += " function such as cross_entropy. Use exp, log, sum, max and indexing only"
    require(not names, message, keeps=0.5)
    message = "token_losses has changed the logits that it was given. Change a copy of them"
    require(torch.equal(found["given"], logits), message, keeps=0.5)


def require_gradient(gradient: object, logits: Tensor, targets: Tensor) -> None:
    """The gradient of the sum of the losses, which half of the points are for."""
    message = "The losses have no gradient with respect to the logits. Do not detach them"
    require(isinstance(gradient, Tensor), message, keeps=0.5)
    p, target = logits.softmax(-1), torch.nn.functional.one_hot(targets, logits.shape[1])
    hints = {
        "The softmax is missing in yours: is the sum of exp detached, or inside no_grad?": (
            apart(gradient, -target.float()) < 1e-4
        ),
        "The −1 is missing in yours: is the logit of the target detached?": (
            apart(gradient, p) < 1e-4
        ),
    }
    far = apart(gradient, p - target)
    message = "The losses are right, but their gradient is not, and training follows the gradient."
    message += " The gradient with respect to the logits is the softmax, less 1 at the target."
    message += f" Yours differs by up to {far:.3g}{first_of(hints)}"
    require(far < 1e-4, message, keeps=0.5)


@rung(3)
def test_rung3_large_logits(mymem, seed):
    logits, targets = scored(seed)
    plain, first = losses_of(mymem, logits, targets)[0], torch.zeros(len(logits), 1)
    first[0] = 1000.0
    shifts = {
        "Adding 1000 to all logits": 1000.0,
        "Subtracting 1000 from all logits": -1000.0,
        "Adding 1000 to the logits of the first token": first,
    }
    for what, shift in shifts.items():
        losses, _ = losses_of(mymem, logits + shift, targets)
        odd = losses[~losses.isfinite()][:1].tolist()
        message = f"{what} gave a loss of {odd}. In float32, e^1000 overflows, and ln 0 is not"
        message += " finite either. First subtract from each row its own largest logit"
        require(not odd, message)
        require_close(losses, plain, f"{what} should not change the losses", 1e-3)
    far = whole(150, 250, drawn(seed))
    message = f"With the logits 0 and −{far}, the loss of the second token is {far} nats, and its"
    message += " gradient is finite. The softmax of such a target is 0 in float32, and its log −inf"
    message += ". Use max + log(sum(exp)) − z_target, never the log of p"
    require_loss(mymem, [0.0, -far], far, message)
    message = f"With the logits −{far} and 0, the loss of the first token is {far} nats. Subtract"
    message += f" the largest logit of each row, wherever it is: e^{far} overflows"
    require_loss(mymem, [-far, 0.0], far, message)


def require_loss(mymem, logits: list[float], right: int, message: str) -> None:
    """The loss of the smallest of these logits has this value, and a gradient that is finite."""
    target = logits.index(min(logits))
    losses, found = losses_of(mymem, torch.tensor([logits]), torch.tensor([target]))
    gradient = found["gradient"]
    finite = not isinstance(gradient, Tensor) or bool(gradient.isfinite().all())
    value = f"{float(losses):g}{'' if finite else ', with a gradient that is not finite'}"
    right = near(float(losses), right, 1e-4) and finite
    require(right, f"{message}. Your loss is {value}", keeps=0.5)


@rung(3)
def test_rung3_plain_is_the_mean(mymem, seed):
    logits, targets = scored(seed)
    for progress in (0.0, 0.7):
        found = mymem.run(scenarios.objective, logits, targets, progress)
        own, value = found["losses"], found["value"]
        value = tensor(value, (), "The value of plain, a scalar,")
        losses, of = torch.nn.functional.cross_entropy(logits, targets, reduction="none"), "losses"
        if isinstance(own, Tensor) and own.shape == losses.shape and apart(own, own.mean()) > 1e-3:
            losses, of = own, "values of your token_losses"  # another check is about these
        hints = {
            "This is the sum of the losses": near(float(value), float(losses.sum()), 1e-4),
            "plain should not use the progress": progress > 0,
        }
        message = f"plain should be the mean of the {of}, {losses.mean():.4f}, not {value:.4f}"
        require(near(float(value), float(losses.mean()), 1e-4), message + first_of(hints))
        message = "plain has no gradient with respect to the logits, so nothing would be trained"
        trains = found["detached"] or isinstance(found["gradient"], Tensor)
        require(trains, f"{message}. Return the mean as it is, with its gradient", keeps=0.5)
