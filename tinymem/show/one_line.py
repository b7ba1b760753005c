"""Objects as one line of at most 120 characters: what a person wants to know of them first.

Results and units can hold thousands of numbers, which the repr of a dataclass would print. Here no
class is imported, because torch and the whole experiment would come with it: an object is known by
the name of its class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..files import printable

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict
    from ..experiment.report import Result
    from ..law.bits import BitsLaw
    from ..law.fit import Fit
    from ..law.plan import Plan
    from ..law.power import Law
    from ..law.recall import RecallLaw
    from ..law.recite import RecitePlan
    from ..training.record import Training
    from ..unit.lora import Unit

WIDTH = 120


def one_line(thing: object) -> str:
    """`Class(what is in it)`; control characters are shown and not obeyed, and long names are cut.

    A subclass is described as the nearest class that has a line here.
    """
    kind = type(thing).__name__
    words = next(LINES[base.__name__] for base in type(thing).__mro__ if base.__name__ in LINES)
    text = printable(" ".join(words(thing).split()))
    room = WIDTH - len(kind) - 2
    return f"{kind}({text if len(text) <= room else text[: room - 1] + '…'})"


def number(value: float | None) -> str:
    """Three digits after the point, or one digit of a very small number."""
    if value is None or math.isnan(value):
        return "unknown"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.0e}"


def count(value: int, what: str) -> str:
    return f"{value:,} {what}" if value == 1 else f"{value:,} {what}s"


def of_tokenizer(tokenizer: Tokenizer) -> str:
    chat = "a" if tokenizer.chat_template else "no"
    return f"{count(len(tokenizer.plain_ids), 'plain token')}, {chat} chat template"


def of_memory(memory: Memory) -> str:
    random = "" if memory.ratio is None else f", {memory.ratio} % random"
    prompt, target = count(len(memory.prompt_ids), "prompt token"), memory.length
    return f"{prompt}, {count(target, 'target token')}{random}"


def of_unit(unit: Unit) -> str:
    places, layers = list(unit.loras), unit.layers
    where = places[0] if len(places) == 1 else f"{len(places)} LoRAs in {spans(layers)}"
    state = ", attached" if unit.model is not None else ", merged" if unit.merged else ""
    return f"rank {unit.rank}, {where}, {count(unit.trainable_parameters(), 'parameter')}{state}"


def spans(layers: list[int]) -> str:
    """`layer 3`, `layers 0 to 29`, or `5 layers`."""
    if len(layers) == 1:
        return f"layer {layers[0]}"
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]} to {layers[-1]}" if whole else f"{len(layers)} layers"


def of_verdict(verdict: Verdict) -> str:
    """Is it recited, how clearly, and if not, where it fails."""
    tokens = count(len(verdict.targets), "token")
    many = f" in {len(verdict.lengths)} memories" if len(verdict.lengths) > 1 else ""
    if verdict.verbatim:
        how = f"recited, lowest margin {number(verdict.min_margin)} logits"
    else:
        at = "" if verdict.first_error is None else f", first error at {verdict.first_error}"
        how = f"not recited: {len(verdict.wrong):,} wrong argmaxes{at}"
    certified = ", certified" if verdict.certified else ""
    return f"{tokens}{many}, {how}, loss {number(verdict.loss)} nats{certified}"


def of_result(result: Result) -> str:
    report = result.report
    if not report:
        return f"no report, {of_unit(result.unit)}"
    tokens = count(report["length"], "token")
    if report["final_loss"] is None:
        outcome = report["status"]
    else:
        outcome = "recited" if report["verbatim"] else "not recited"
        outcome = f"{report['status']}, {outcome}" if report["status"] != "ok" else outcome
        outcome += f", loss {number(report['final_loss'])} nats"
        bits = report["calibrated_bits_per_parameter"]
        bits = report["bits_per_parameter"] if bits is None else bits
        outcome += "" if bits is None else f", {bits:.2f} bits/parameter"
    return f"rank {report['rank']}, {tokens}, {report['method']}: {outcome}"


def of_training(training: Training) -> str:
    steps, losses = count(training.steps, "step"), training.losses
    course = f", loss {number(losses[0])} to {number(losses[-1])} nats" if losses else ""
    return f"{training.method}, {steps}, {training.status}{course}"


def formula(law: Law) -> str:
    """`ΔL = 19.0·r^0.32·ℓ^−0.22 + 1.20`, without the offset where it is 0."""
    b = f" {'+' if law.b > 0 else '−'} {abs(law.b):.3g}" if law.b else ""
    return f"ΔL = {law.C:.3g}·r^{law.alpha:.2f}·ℓ^{-law.beta:.2f}{b}".replace("^-", "^−")


def of_law(law: Law) -> str:
    return f"{formula(law)}, R² {law.r2:.3f}, {count(law.n, 'run')}"


def of_bits(law: BitsLaw) -> str:
    return f"{law.kappa:.3f} bits/parameter, R² {law.r2:.3f}, {count(law.n, 'run')}"


def of_recall(law: RecallLaw) -> str:
    """The lengths that half of the runs of the smallest and the largest rank recite."""
    half = law.as_dict()["length_50"]
    ends = dict.fromkeys([*half][:1] + [*half][-1:])
    some = " and ".join(f"{half[rank]:,.0f} tokens at rank {rank}" for rank in ends)
    some = some or f"{law.load_50:.3g} tokens or bits a parameter"
    return f"half of the runs recite {some}; {law.n_recited:,} of {law.n:,} recited"


def of_fit(fit: Fit) -> str:
    words = [str(value) for value in fit.key.values() if value is not None]
    law = "no power law" if isinstance(fit.law, str) else of_law(fit.law)
    recall = "" if isinstance(fit.recall, str) else "; with a recall law"
    about = ", ".join(words)
    start = f"{about[:40]}{'…' * (len(about) > 40)}: " if about else ""
    return f"{start}{law}{recall}"


def of_plan(plan: Plan) -> str:
    goal = "certified" if plan.certificate else f"at {number(plan.loss)} nats"
    return f"{sides(plan)}, {goal}, {share(plan.probability)}"


def of_recital(plan: RecitePlan) -> str:
    chance = plan.recite if plan.probability is None else plan.probability
    return f"{sides(plan)}, recited, {share(chance)}"


def sides(plan: Plan | RecitePlan) -> str:
    """The answer first, then what was given."""
    rank = "no rank" if plan.rank is None else f"rank {plan.rank:,}"
    length = "any length" if plan.length is None else count(plan.length, "token")
    return f"{rank} for {length}" if plan.asked == "rank" else f"{length} at {rank}"


def share(probability: float) -> str:
    return f"in {100 * probability:.0f} % of fresh runs"


LINES: dict[str, Callable[[Any], str]] = {
    **{"Tokenizer": of_tokenizer, "Memory": of_memory, "Unit": of_unit},
    **{"Verdict": of_verdict, "Result": of_result, "Training": of_training},
    **{"Law": of_law, "BitsLaw": of_bits, "RecallLaw": of_recall, "Fit": of_fit},
    **{"Plan": of_plan, "RecitePlan": of_recital},
}
