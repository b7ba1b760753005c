"""Checks that all peers do the same work, with the same losses."""

import torch

from tests.toy import toy_memory, toy_model
from tinymem.data.memory import Memory
from tinymem.experiment.probe import memorize
from tinymem.experiment.recall import judge
from tinymem.unit.lora import Unit

from .bases import Base, from_folder
from .measure import Rows
from .peers import RANK, Step, paper_step, peft_step, plain_step

STEPS = 10


def trace(base: Base, memory: Memory) -> list[float]:
    """The mean losses of the first steps in nats, as `memorize` reports them."""
    return memorize(base.model, memory, rank=RANK, steps=STEPS).training.losses


def trace_of(step: Step, count: int = STEPS) -> list[float]:
    return [step().item() for _ in range(count)]


def compare(
    rows: Rows,
    base: Base,
    case: str,
    against: str,
    one: list[float],
    other: list[float],
    most: float,
) -> None:
    """Adds a row with the largest difference between two lists of losses, in nats."""
    apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
    goal = {"target": most, "at_most": True, "unit": "nats"}
    rows.add("check", base.label, case, against, value=apart, **goal)


def check(base: Base, rows: Rows) -> None:
    """Compares tinymem with its peers in float32 on one device.

    tinymem and the paper's algorithm must have the losses of the plain loop. peft, whose unit is at
    another site, must have the same loss before the first step.
    """
    toy, case = Base("random toy", toy_model().to(base.device), None), f"losses of {STEPS} steps"
    for one, memory, most in ((toy, toy_memory(24), 1e-5), (base, base.memory(64), 1e-4)):
        plain = trace_of(plain_step(one, memory, STEPS))
        compare(rows, one, case, "plain", trace(one, memory), plain, most)
    compare(rows, base, case, "paper", trace_of(paper_step(base, memory, STEPS)[0]), plain, 1e-3)
    first = trace_of(peft_step(base, memory), 1)
    compare(rows, base, "loss before the first step", "peft", first, plain[:1], 1e-3)


def check_gpu(cpu: Base, rows: Rows) -> None:
    """Compares the GPU with the CPU in float32, also for a verdict while TF32 is allowed."""
    gpu, memory = from_folder(cpu.name, cpu.name, "cuda", "float32"), cpu.memory(64)
    check(gpu, rows)
    pair = trace(gpu, memory), trace(cpu, memory)
    compare(rows, gpu, f"losses of {STEPS} steps", "cpu", *pair, 1e-3)
    result = memorize(cpu.model, memory, rank=RANK, steps=300)
    unit = Unit.create(gpu.model, RANK)
    for mine, theirs in zip(unit.parameters(), result.unit.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    unit.attach(gpu.model)
    torch.set_float32_matmul_precision("high")  # allows TF32, as the program of a user may do
    verdict = judge(gpu.model, memory)
    torch.set_float32_matmul_precision("highest")
    unit.detach()
    case = "verdict while TF32 is allowed"
    compare(rows, gpu, case, "cpu", verdict.losses, result.verdict.losses, 1e-4)
