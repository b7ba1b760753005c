"""That what is timed is the same work, with the same numbers."""

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
    """Mean losses of the first steps, nats, as `memorize` reports them."""
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
    """A row with the largest difference between two lists of losses, nats."""
    apart = max(abs(a - b) for a, b in zip(one, other, strict=True))
    rows.add(
        "check", base.label, case, against, value=apart, target=most, at_most=True, unit="nats"
    )


def check(base: Base, rows: Rows) -> None:
    """tinymem and its peers in float32 on one device: the plain loop's trace, and where all of them start."""
    toy, case = Base("random toy", toy_model().to(base.device), None), f"losses of {STEPS} steps"
    for one, memory, most in ((toy, toy_memory(24), 1e-5), (base, base.memory(64), 1e-4)):
        plain = trace_of(plain_step(one, memory, STEPS))
        compare(rows, one, case, "plain", trace(one, memory), plain, most)
    compare(rows, base, case, "paper", trace_of(paper_step(base, memory, STEPS)[0]), plain, 1e-3)
    first = trace_of(peft_step(base, memory), 1)
    compare(rows, base, "loss before the first step", "peft", first, plain[:1], 1e-3)


def check_gpu(cpu: Base, rows: Rows) -> None:
    """The GPU against the CPU in float32; and the verdict, which is in float32 whatever is allowed."""
    gpu, memory = from_folder(cpu.name, cpu.name, "cuda", "float32"), cpu.memory(64)
    check(gpu, rows)
    compare(
        rows, gpu, f"losses of {STEPS} steps", "cpu", trace(gpu, memory), trace(cpu, memory), 1e-3
    )
    result = memorize(cpu.model, memory, rank=RANK, steps=300)
    unit = Unit.create(gpu.model, RANK)
    for mine, theirs in zip(unit.parameters(), result.unit.parameters(), strict=True):
        mine.data.copy_(theirs.data)
    unit.attach(gpu.model)
    torch.set_float32_matmul_precision("high")  # TF32, as a user's program may have set it
    verdict = judge(gpu.model, memory)
    torch.set_float32_matmul_precision("highest")
    unit.detach()
    case = "verdict with TF32 allowed outside"
    compare(rows, gpu, case, "cpu", verdict.losses, result.verdict.losses, 1e-4)
