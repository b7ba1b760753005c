"""The checks of rung 5: decode and judge.

Most of them ask a model whose logits are planned (planned.py). All inputs are drawn from --seed.
"""

import math

import pytest
import torch
from torch import Tensor

from checks import expected, scenarios_rungs_1_to_5 as scenarios
from checks.expected import drawn, token_ids, whole
from checks.grading import (
    apart,
    first_of,
    kind_of,
    near,
    not_plain,
    number,
    require,
    require_close,
    rounded,
    tensor,
    truth,
    whole_numbers,
)
from checks.ladder import rung
from checks.planned import Plan, plans, tie
from checks.values import MODEL

LN2 = math.log(2)
points = pytest.mark.points
MEASURED = ("loss", "lowest_p", "lowest_margin")


def listed(value: object, count: int, what: str) -> list[int]:
    ids = whole_numbers(value, what)
    require(len(ids) == count, f"{what} should be {count} ids, not {len(ids)}")
    return ids


def verdict(value: object, *keys: str) -> dict:
    """The dict of judge, if it has these keys."""
    require(isinstance(value, dict), f"judge should return a dict, not {kind_of(value)}")
    missing = [key for key in keys if key not in value]
    require(not missing, f"The dict of judge has no key {', '.join(missing)}")
    return value


def judged(mymem, plan: Plan, *keys: str, own_greedy: bool = False) -> dict:
    """The verdict. With own_greedy, judge decodes with the student's greedy, else with a wrong one.

    So a mistake in greedy costs the points of decoding only, and what is decoded proves nothing.
    """
    out, *_ = mymem.run(scenarios.judge_planned, MODEL, plan.parts, own_greedy)
    return verdict(out, *keys)


@rung(5)
def test_rung5_greedy_reads_what_it_has_written(mymem, seed):
    generator, tried = drawn(seed), 0
    while tried < 2:
        prompt, count = token_ids(whole(2, 6, generator), generator), whole(4, 9, generator)
        right, gap = expected.decoded(prompt, count)
        if gap < 1e-2:  # rounding could decide which token is the most probable one
            continue
        tried += 1
        out, after, *_ = mymem.run(scenarios.decode, MODEL, prompt, count)
        ids = whole_numbers(out, "The result of greedy")
        with torch.no_grad():
            once = expected.all_logits(prompt)[-1].topk(count).indices.tolist()
        hints = {
            "The prompt is not part of the result": ids == prompt + right,
            "These are the most probable tokens after the prompt alone": ids == once,
            "The first token is missing": ids == right[1:],
            "This is one token too many": ids[:count] == right,
            "Read each token that was written before you write the next one": (
                len(ids) == count and ids[0] == right[0]
            ),
        }
        message = f"After the prompt {prompt}, the {count} most probable tokens, one after the"
        message += f" other, are {right}, not {ids}"
        require(ids == right, message + first_of(hints))
        message = "greedy has changed the list prompt_ids that it was given. Begin with a copy,"
        require(after == prompt, f"{message} list(prompt_ids)", keeps=0.5)
    plan = Plan([0.9, 0.2, 0.9], [0.05, 0.7, 0.05], generator)
    out = mymem.run(scenarios.decode_planned, MODEL, plan.parts, 3)
    message = "Here the model writes a wrong second token, so the third one depends on it"
    require(listed(out, 3, "The result of greedy") == plan.decoded(), message, keeps=0.5)


@rung(5)
@points(0.5)
def test_rung5_no_gradient_is_stored(mymem, seed):
    prompt = token_ids(4, drawn(seed))
    out, _, passes, stored = mymem.run(scenarios.decode, MODEL, prompt, 3)
    whole_numbers(out, "The result of greedy")
    require(passes, "greedy did not call the model")
    message = "stored what a gradient needs in each pass, which costs memory and time. Decoding and"
    message += " judging need no gradient: use torch.no_grad()"
    require(not stored, f"greedy {message}")
    plan = plans(seed)["certified"]
    out, after, passes, stored = mymem.run(scenarios.judge_planned, MODEL, plan.parts, True)
    verdict(out)
    require(passes, "judge did not call the model", keeps=0.5)
    require(not stored, f"judge {message}", keeps=0.5)
    message = "judge has changed the lists that it was given. Begin with copies"
    require(after == [plan.prompt, plan.target], message, keeps=0.5)


PLAIN = dict.fromkeys(MEASURED, (float, int)) | dict.fromkeys(("certified", "recited"), (bool,))
PLAIN["decoded"] = (list,)


@rung(5)
@points(0.5)
def test_rung5_the_results_are_plain_values(mymem, seed):
    plan, weak = plans(seed)["certified"], plans(seed)["every p below one half"]
    out, other = (judged(mymem, one, *PLAIN, own_greedy=True) for one in (plan, weak))
    odd = {f"{key} of judge": not_plain(out[key], kinds) for key, kinds in PLAIN.items()}
    message = "judge gave one loss for a memory with every p above one half and for one with none"
    require(any(odd.values()) or out["loss"] != other["loss"], message)
    out = mymem.run(scenarios.decode_planned, MODEL, plan.parts, 3)
    odd = {"The result of greedy": not_plain(out, (list,)), **odd}
    odd = [f"{what} {wrong}" for what, wrong in odd.items() if wrong]
    message = f"{'. '.join(odd[:2])}. Use .item() or .tolist(): json, which writes the rows of rung"
    require(not odd, f"{message} 7, does not write tensors")


@rung(5)
def test_rung5_the_margins(mymem, seed):
    generator = drawn(seed)
    n, v = whole(4, 9, generator), whole(4, 20, generator)
    logits = 3 * torch.randn(n, v, generator=generator)
    logits[:2] = torch.tensor([2.0, 5.0, 4.0] + [-9.0] * (v - 3))
    targets = torch.randint(v, (n,), generator=generator)
    targets[:2] = torch.tensor([1, 2])
    targets[2] = logits[2].argmax()
    logits[3], targets[3] = torch.tensor([-1.0, -3.0] + [-9.0] * (v - 2)), 0
    right = expected.margins(logits, targets)
    out, after = mymem.run(scenarios.margins_of, logits, targets)
    out = tensor(out, targets.shape, "The margins, [N],")
    own = logits[torch.arange(len(targets)), targets]
    hints = {
        "Leave the target itself out of the maximum, or no margin is above 0": (
            apart(out, own - logits.amax(-1)) < 1e-4
        ),
        "Wrong sign": apart(out, -right) < 1e-4,
        "These are absolute values": apart(out, right.abs()) < 1e-4,
        "Replace the logit of the target by −∞, not by 0: all logits of a row may be negative": (
            apart(out, own - logits.scatter(-1, targets[:, None], 0.0).amax(-1)) < 1e-4
        ),
        "A margin is in logits, not in probabilities": (
            apart(out, expected.margins(logits.softmax(-1), targets)) < 1e-4
        ),
    }
    message = "With logits 2, 5, 4, the margin of the token with the logit 5 is 5 − 4 = 1, and that"
    message += " of the token with the logit 4 is 4 − 5 = −1. The first two of yours are"
    message += f" {rounded(out[:2])}"
    require_close(out[:2], right[:2], message + first_of(hints), 1e-4)
    require_close(out, right, "The margins of other logits are wrong" + first_of(hints), 1e-4)
    message = "margins has changed the logits that it was given. Change a copy of them"
    require(torch.equal(after, logits), message, keeps=0.5)


@rung(5)
def test_rung5_judge_measures(mymem, seed):
    generator = drawn(seed)
    prompt, target = token_ids(4, generator), token_ids(whole(5, 9, generator), generator)
    unit = expected.some_unit(2, generator)
    with torch.no_grad():
        logits = expected.target_logits(prompt, target, *unit)
    out = verdict(mymem.run(scenarios.judge_unit, MODEL, prompt, target, *unit), *MEASURED)
    compare(out, logits, torch.tensor(target), "A unit with a random memory")
    for name, plan in plans(seed).items():
        targets = torch.tensor(plan.target)
        out = judged(mymem, plan, *MEASURED)
        compare(out, plan.logits, targets, f"A memory ({name})", keeps=0.5)


def compare(out: dict, logits: Tensor, targets: Tensor, case: str, keeps: float = 0.0) -> None:
    """The three numbers of a verdict."""
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    p, margins = (-losses).exp(), expected.margins(logits, targets)
    mean, lowest = losses.mean(), margins.min()
    right = {"loss": mean, "lowest_p": p.min(), "lowest_margin": lowest}
    others = {
        "loss": {"This is the sum over the target": losses.sum(), "This is in bits": mean / LN2},
        "lowest_p": {"This is the mean of p": p.mean(), "This is exp(−mean loss)": (-mean).exp()},
        "lowest_margin": {"This is the mean": margins.mean(), "This is the largest": margins.max()},
    }
    for n, (key, value) in enumerate(right.items()):
        got = number(out[key], key)
        hints = {text: near(got, float(other), 1e-3) for text, other in others[key].items()}
        message = f"{case}: {key} should be {value:.4f}, not {got:.4f}"
        require(near(got, float(value), 1e-3), message + first_of(hints), keeps=max(keeps, n / 4))


@rung(5)
def test_rung5_judge_proves(mymem, seed):
    wrong: dict[str, list[str]] = {"certified": [], "recited": []}
    for plan in plans(seed).values():
        out = judged(mymem, plan, *wrong)
        low, mean = float(plan.p.min()), float(-plan.p.log().mean())
        one = f"{plan}, and the mean loss is {mean:.2f} nats. certified should be {low > 0.5}, but"
        if truth(out["certified"], "certified") != (low > 0.5):
            hint = ". Every p counts, and not their mean" if mean < 0.693 else ""
            wrong["certified"].append(f"{one} judge gives {low <= 0.5}{hint}")
        lowest = float(plan.margins.min())
        one = f"{plan}, and the lowest margin is {lowest:.2f}. recited should be {lowest > 0},"
        if truth(out["recited"], "recited") != (lowest > 0):
            wrong["recited"].append(f"{one} but judge gives {lowest <= 0}{reason(out, plan)}")
    keeps = 0.5 if not all(wrong.values()) else 0.0
    for messages in wrong.values():
        require(not messages, "".join(messages[:1]), keeps)
    plan = tie(seed)
    out = judged(mymem, plan, *wrong)
    true = [key for key in wrong if truth(out[key], key)]
    message = f"{plan}. Another token has p = 0.5 as well, so it may be decoded: p is not above"
    message += (
        f" ½, and the margin is 0, not above 0. But judge gives True for {' and '.join(true)}"
    )
    require(not true, message, keeps=0.5)


def reason(out: dict, plan: Plan) -> str:
    """Why recited may be wrong."""
    margin, lowest = out.get("lowest_margin"), float(plan.margins.min())
    if isinstance(margin, float) and not near(margin, lowest, 1e-3):
        text = f". Your lowest_margin is wrong too: {margin:.2f}. If recited is made from it, the"
        return f"{text} fault is in margins"
    if lowest < 0:
        return ""
    if plan.p.min() < 0.5:
        return ". A token can be the most probable one with p below one half"
    text = ". In this check, greedy gives wrong tokens. Do not decode for recited: the pass over"
    return f"{text} the true tokens proves it, because every margin is above 0"


@rung(5)
def test_rung5_judge_decodes(mymem, seed):
    for plan in plans(seed).values():
        out = judged(mymem, plan, "decoded", own_greedy=True)
        ids = listed(out["decoded"], len(plan.target), "decoded")
        right = plan.decoded()
        forced = plan.logits.argmax(-1).tolist()
        hints = {
            "These are the most probable tokens after the true ones. Decoding reads its own": (
                ids == forced
            ),
            "This is the target itself": ids == plan.target,
        }
        message = f"{plan}, and the lowest margin is {plan.margins.min():.2f}. For the target"
        message += f" {plan.target}, decoded should be {right}, not {ids}"
        require(ids == right, message + first_of(hints))
