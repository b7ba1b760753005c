"""Measures the memory that a training run needs in addition to the weights.

python -m tests.benchmarks.memory FOLDER LENGTH     bytes on a CPU, in a separate process
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

from tinymem.base.checkpoint import load
from tinymem.data.batch import Batch
from tinymem.data.memory import random_memory
from tinymem.experiment.recall import teacher_forced
from tinymem.training.recipe import Recipe
from tinymem.training.trainer import Trainer
from tinymem.unit.lora import Unit

from .bases import Base
from .measure import Rows
from .peers import RANK

GB = 1e9
STATUS = Path("/proc/self/status")  # Linux: resident memory now (VmRSS) and its peak (VmHWM)


def work(model, memory, lr: float) -> None:
    """The parts of a run that need memory: three steps, and the pass that certifies."""
    batch = Batch([memory], model.config.context, model.device)
    unit = Unit.create(model, RANK)
    trainer = Trainer(model, [unit], batch, [Recipe(rank=RANK, steps=3, lr=lr)])
    for _ in range(3):
        trainer.gradient()
        trainer.update()
    trainer.close()
    unit.attach(model)
    teacher_forced(model, batch)
    unit.detach()


def resident(field: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def child(folder: str, length: int) -> dict[str, int]:
    """Resident bytes after loading, and the peak after that."""
    model, tokenizer = load(folder, device="cpu", dtype="float32")
    memory = random_memory(tokenizer, length)
    sum(p.sum() for p in model.parameters())  # makes every page of the weights resident
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    before = resident("VmRSS")
    work(model, memory, 1e-2)
    return {"before": before, "peak": resident("VmHWM")}


def add(
    rows: Rows, base: Base, length: int, before: int, peak: int, target: float | None, note: str
) -> None:
    goal = {"value": (peak - before) / GB, "target": target, "at_most": True, "unit": "GB"}
    about = ("memory", base.label, f"{length:,} tokens", "weights")
    rows.add(*about, peak / GB, before / GB, note=note, **goal)


def on_cpu(base: Base, rows: Rows, folder: str, length: int) -> None:
    """Measures in a separate process, so that nothing else has changed its resident memory."""
    if not Path("/proc/self/clear_refs").exists():
        rows.skip("memory", base.label, f"{length:,} tokens", "needs Linux's /proc")
        return
    command = [sys.executable, "-m", __name__, folder, str(length)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    target = 1.0 if base.name == "SmolLM2" else None
    note = "resident memory; the weights are measured after loading"
    add(rows, base, length, found["before"], found["peak"], target, note)


def on_gpu(base: Base, rows: Rows, length: int) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    work(base.model, base.memory(length), base.lr)
    more = (torch.cuda.max_memory_reserved() - reserved) / GB
    target = 3.0 if base.name == "Qwen3-8B-shaped" else None
    note = f"allocated memory; torch's allocator reserved {more:.2f} GB more than before"
    add(rows, base, length, before, torch.cuda.max_memory_allocated(), target, note)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]))))
