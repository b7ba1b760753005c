"""How much memory writing a memory takes beyond the weights.

python -m tests.benchmarks.memory FOLDER LENGTH     on a CPU: bytes, in a process of its own
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

from tinymem.base.checkpoint import load
from tinymem.data.batch import Batch
from tinymem.data.memory import random_memory
from tinymem.experiment.recall import is_certified
from tinymem.training.recipe import Recipe
from tinymem.training.train import Trainer
from tinymem.unit.lora import Unit

from .bases import Base
from .measure import Rows
from .peers import RANK

GB = 1e9
STATUS = Path("/proc/self/status")  # of Linux: the process's memory now (VmRSS) and at most (VmHWM)


def work(model, memory, lr: float) -> None:
    """What a run does, without its repetitions: three steps, and the pass that certifies."""
    batch = Batch([memory], model.config.context, model.device)
    unit = Unit.create(model, RANK)
    trainer = Trainer(model, [unit], batch, [Recipe(rank=RANK, steps=3)], [lr])
    for _ in range(3):
        trainer.step()
    trainer.close()
    unit.attach(model)
    is_certified(model, batch)
    unit.detach()


def resident(field: str) -> int:
    line = next(
        line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(field)
    )
    return int(line.split()[1]) * 1024


def child(folder: str, length: int) -> dict[str, int]:
    """Resident bytes after loading, and at most from there on."""
    model, tokenizer = load(folder, device="cpu", dtype="float32")
    memory = random_memory(tokenizer, length)
    sum(p.sum() for p in model.parameters())  # every page of the weights has been there once
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak of loading
    before = resident("VmRSS")
    work(model, memory, 1e-2)
    return {"before": before, "peak": resident("VmHWM")}


def add(
    rows: Rows, base: Base, length: int, before: int, peak: int, target: float | None, note: str
) -> None:
    fields = {
        "value": (peak - before) / GB,
        "target": target,
        "at_most": True,
        "unit": "GB",
        "note": note,
    }
    rows.add(
        "memory", base.label, f"{length:,} tokens", "weights", peak / GB, before / GB, **fields
    )


def on_cpu(base: Base, rows: Rows, folder: str, length: int) -> None:
    """In a process of its own, whose resident memory nothing else has touched."""
    if not Path("/proc/self/clear_refs").exists():
        rows.skip("memory", base.label, f"{length:,} tokens", "needs Linux's /proc")
        return
    command = [sys.executable, "-m", __name__, folder, str(length)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    target = 1.0 if base.name == "SmolLM2" else None
    add(
        rows,
        base,
        length,
        found["before"],
        found["peak"],
        target,
        "resident; weights: after loading",
    )


def on_gpu(base: Base, rows: Rows, length: int) -> None:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before, held = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    work(base.model, base.memory(length), base.lr)
    more = (torch.cuda.max_memory_reserved() - held) / GB
    target = 3.0 if base.name == "Qwen3-8B-shaped" else None
    note = f"allocated; torch's allocator took {more:.2f} GB more"
    add(rows, base, length, before, torch.cuda.max_memory_allocated(), target, note)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], int(sys.argv[2]))))
