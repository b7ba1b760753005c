"""Decides which work is done on which base model, and at which sizes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from .bases import from_folder, from_shape
from .check import check, check_gpu
from .headline import probe
from .measure import Rows
from .memory import on_cpu, on_gpu
from .runs import certified, grid, grid_beside_peft, lbfgs, run
from .speed import growth, margin_method, short_weights, step, switch

WORKS = ("check", "step", "dtype", "methods", "run", "certified")
WORKS += ("probe", "grid", "lbfgs", "growth", "memory", "switch")
GPU_TARGETS = (
    ("step", "gpt2-sized", "up to 512 tokens"),
    ("step", "SmolLM2", "up to 512 tokens"),
    ("step", "Qwen3-8B-shaped", "2,000 tokens"),
    ("grid", "SmolLM2", "16 ranks, 256 tokens"),
    ("memory", "Qwen3-8B-shaped", "10,000 tokens"),
)
Plan = Iterator[tuple[str, str, Callable[[], None]]]  # (work, model, function that measures)


@dataclass(frozen=True)
class Sizes:
    """Lengths in tokens and numbers of steps."""

    lengths: tuple[int, ...] = (64, 256, 1024, 4096)
    units: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    run: tuple[int, int] = (256, 300)
    share: int = 10  # where peft is slow, one of this many steps is timed
    certified: tuple[int, int] = (128, 2000)
    evaluations: int = 600
    ranks: tuple[int, ...] = (1, 2, 4, 8)  # of a probe
    grid: int = 100
    grid_lengths: tuple[int, ...] = (32, 64, 128)
    memory: tuple[int, int] = (2000, 10_000)  # lengths on a CPU and on a GPU


QUICK = Sizes((64,), (1, 2, 4), (64, 20), 2, (16, 400), 20, (8,), 5, (32,), (512, 2000))


def on_the_cpu(rows: Rows, folder: str | None, sizes: Sizes) -> Plan:
    """All work that a CPU can do. SmolLM2 needs its folder."""
    for name, source in (("tiny", "tiny"), ("SmolLM2", folder)):
        if source is None:
            for work in (work for work in WORKS if work not in ("check", "grid")):
                yield work, name, partial(rows.skip, work, name, "all", "needs --model FOLDER")
            continue
        base, small = from_folder(name, source, "cpu", "float32"), name == "tiny"
        if small:
            yield "check", name, partial(check, base, rows)
            for length in sizes.grid_lengths:
                yield "grid", name, partial(grid, base, rows, length, sizes.grid)
        yield "step", name, partial(step, base, rows, sizes.lengths)
        yield "dtype", name, partial(short_weights, base, rows, source, 256)
        yield "methods", name, partial(margin_method, base, rows, 128 if small else 256)
        yield "run", name, partial(run, base, rows, *sizes.run, 1 if small else sizes.share)
        yield "certified", name, partial(certified, base, rows, *sizes.certified, small)
        for rank in sizes.ranks:
            yield "probe", name, partial(probe, base, rows, rank, sizes.certified[0], small)
        tokens, seeds = (128, 3) if small else (64, 1)
        yield "lbfgs", name, partial(lbfgs, base, rows, tokens, sizes.evaluations, seeds)
        yield "growth", name, partial(growth, base, rows, sizes.lengths, sizes.units, 64)
        yield "switch", name, partial(switch, base, rows)
        yield "memory", name, partial(on_cpu, base, rows, source, 512 if small else sizes.memory[0])
    yield from not_here(rows, "run with --device cuda" if torch.cuda.is_available() else "no GPU")


def not_here(rows: Rows, why: str) -> Plan:
    for work, name, case in GPU_TARGETS:
        yield work, name, partial(rows.skip, work, f"{name}, GPU", case, why)


def on_the_gpu(rows: Rows, folder: str | None, sizes: Sizes) -> Plan:
    """The work that needs a GPU: checks, steps limited by kernel launches, a large model."""
    if not torch.cuda.is_available():
        yield from not_here(rows, "no GPU")
        return
    yield "check", "tiny", partial(check_gpu, from_folder("tiny", "tiny", "cpu", "float32"), rows)
    lengths = sorted({512, *sizes.lengths})
    for name, dtype in ((n, d) for n in ("gpt2-sized", "SmolLM2") for d in ("float32", "bfloat16")):
        if name == "SmolLM2" and folder is None:
            skip = partial(rows.skip, "step", f"{name} {dtype}", "all", "needs --model FOLDER")
            yield "step", name, skip
            continue
        if name == "SmolLM2":
            base = from_folder(name, folder, "cuda", dtype)
        else:
            base = from_shape(name, "cuda", dtype)
        yield "step", name, partial(step, base, rows, lengths)
        yield "growth", name, partial(growth, base, rows, lengths, sizes.units, 256)
        if (name, dtype) == ("SmolLM2", "bfloat16"):
            yield "grid", name, partial(grid_beside_peft, base, rows, 256, sizes.grid)
    base = from_shape("Qwen3-8B-shaped", "cuda", "bfloat16")
    yield "step", base.name, partial(step, base, rows, (2000,))
    yield "memory", base.name, partial(on_gpu, base, rows, sizes.memory[1])
