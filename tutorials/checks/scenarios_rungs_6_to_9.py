"""Scenarios of rungs 6 to 9 and of the stretch tasks. They run beside the student's code."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PROMPT = "Recite the memory word for word:"


class Planned(Exception):
    """The error that a scenario raises on purpose."""


# --- Rung 6 ---------------------------------------------------------------------------------------


def weights(mymem, losses: Tensor, *threshold: float) -> dict:
    """The weights of these losses, and whether a gradient flows through them."""
    losses = losses.clone().requires_grad_()
    out = mymem.memft_ot_weights(losses, *threshold)
    return {"weights": out, "has_gradient": bool(getattr(out, "requires_grad", False))}


def memft_ot(mymem, logits: Tensor, targets: Tensor, progress: float, given: Tensor) -> dict:
    """The objective and its gradient, with given weights in place of the student's."""
    args = mymem.memft_ot, logits, targets, progress
    return with_given(mymem, "memft_ot_weights", given, with_gradient, *args)


def margin(mymem, logits: Tensor, targets: Tensor, progress: float, given: float) -> dict:
    """The objective and its gradient, with a given temperature in place of the student's."""
    return with_given(
        mymem, "temperature", given, with_gradient, mymem.margin, logits, targets, progress
    )


def with_given(mymem, name: str, value: object, function: Callable, *args) -> dict:
    """What the function returns while the student's function `name` returns the value, and whether
    it was called. (A student's code may do without: it has a function for the same of its own.)
    """
    theirs, calls = getattr(mymem, name, None), []
    setattr(mymem, name, lambda *_, **__: calls.append(1) or value)
    try:
        return function(*args) | {"called": bool(calls)}
    finally:
        setattr(mymem, name, theirs)


def with_gradient(objective, logits: Tensor, targets: Tensor, progress: float) -> dict:
    logits = logits.clone().requires_grad_()
    value = objective(logits, targets, progress)
    gradient = None
    if isinstance(value, Tensor) and value.dim() == 0 and value.requires_grad:
        (gradient,) = torch.autograd.grad(value, logits)
    return {"value": value, "gradient": gradient}


# --- Rung 7 ---------------------------------------------------------------------------------------


def every_second(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    """An objective that no student would use by themselves."""
    return F.cross_entropy(logits[::2], targets[::2])


def cell(mymem, model, tokenizer, cell: list[int], steps: int, own_objective: bool) -> dict:
    """A cell by run_cell; its target and the A of its unit, by the rungs below."""
    calls = 0

    def objective(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        nonlocal calls
        calls += 1
        return every_second(logits, targets, progress)

    copied, (rank, length, seed) = copy.deepcopy(model), cell
    row = mymem.run_cell(model, tokenizer, *cell, steps, *([] if own_objective else [objective]))
    start = target_and_units(mymem, copied, tokenizer, [rank], length, seed)
    return {"row": row, "calls": calls, **start}


def target_and_units(mymem, model, tokenizer, ranks: list[int], length: int, seed: int) -> dict:
    """The target of a cell, and the A [d, r] that a unit of each rank starts with."""
    units = []
    for rank in ranks:
        unit = mymem.attach(model, rank, seed)
        units.append(unit.A.detach().clone())
        mymem.detach(model, unit)
    return {"target": mymem.draw_tokens(tokenizer.plain_ids, length, seed), "units": units}


def row_of_a_cell(mymem, model, tokenizer, cell: list[int]) -> object:
    return mymem.run_cell(model, tokenizer, *cell, 1)


def sweep_of_own_cells(mymem, model, tokenizer, path: Path, grid: list[list[int]]) -> dict:
    """The student's sweep of the student's own cells, with one step of training."""

    def run(rank: int, length: int, seed: int) -> dict:
        return mymem.run_cell(model, tokenizer, rank, length, seed, 1)

    return {"rows": mymem.sweep(path, *grid, run), "end": text_of(path)}


def cell_with_error(mymem, model, tokenizer, rank: int, length: int, seed: int, error: str) -> dict:
    """A cell whose objective raises an error in the second step: "planned", "kill" or none."""
    calls, before, attached = 0, parts_of(model), False

    def look(used: nn.Module, _) -> None:  # a copy of the model may be used, so ids say nothing
        nonlocal attached
        attached = attached or [name for name, _ in parts_of(used)] != [name for name, _ in before]

    def objective(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2 and error:
            raise KeyboardInterrupt if error == "kill" else Planned("planned by the check")
        return every_second(logits, targets, progress)

    model.register_forward_pre_hook(look)
    raised, row = False, None
    try:
        row = mymem.run_cell(model, tokenizer, rank, length, seed, 3, objective)
    except (KeyboardInterrupt, Planned):
        raised = True
    taken_out = parts_of(model) == before
    found = {"row": row, "raised": raised, "calls": calls}
    return found | {"attached": attached, "taken_out": taken_out}


def parts_of(model: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(part)) for name, part in model.named_modules()]


def swept(
    mymem, path: Path, grid: list[list[int]], stamp: int, stop_at: int | None, foreign: str
) -> dict:
    """One call of the sweep. Each row has a stamp, which tells the runs apart.

    stop_at: run raises KeyboardInterrupt when it is called after so many rows. foreign: a line that
    another process appends to the file while the first row is measured.
    """
    calls: list[list[int]] = []
    files: list[str] = []  # the text of the file at each call

    def run(rank: int, length: int, seed: int) -> dict:
        files.append(text_of(path))
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append([rank, length, seed])
        if foreign and len(calls) == 1:
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(foreign)
        losses = {"base_loss": 12.5, "final_loss": 1 / (stamp + len(calls))}
        cell = {"rank": rank, "length": length, "seed": seed, "parameters": 512 * rank}
        return cell | losses | {"recited": False, "stamp": stamp + len(calls)}

    killed, rows = False, None
    try:
        rows = mymem.sweep(path, *grid, run)
    except KeyboardInterrupt:
        killed = True
    return {"rows": rows, "killed": killed, "calls": calls, "files": files, "end": text_of(path)}


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace") if path.exists() else ""


# --- Rung 9 ---------------------------------------------------------------------------------------


def plans(mymem, rows: list[dict], asked: list, curve: tuple[float, float]) -> dict:
    """The rank for each pair of length and chance, by this curve in place of the student's."""

    def ranks() -> dict:
        return {"ranks": [mymem.plan_rank(rows, length, chance) for length, chance in asked]}

    found = with_given(mymem, "recall_curve", curve, ranks)
    return found | {"curve": curve if found["called"] else mymem.recall_curve(rows)}


# --- The stretch tasks ----------------------------------------------------------------------------


def save(mymem, model, path: Path, A: Tensor, B: Tensor) -> None:
    """Saves a unit with these A and B."""
    unit = mymem.attach(model, A.shape[1], 0)
    with torch.no_grad():
        unit.A.copy_(A)
        unit.B.copy_(B)
    mymem.save_bfloat16(unit, path)


def load(mymem, model, path: Path, ids: Tensor) -> dict:
    """What has been loaded, and the logits of the model with it."""
    return about(model, mymem.load_bfloat16(model, path), ids)


def about(model, unit, ids: Tensor) -> dict:
    """Where a unit is, what is trained, and the logits [T, V] of the model with the unit."""
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    found = {
        "place": [name for name, part in model.named_modules() if part is unit],
        "trained": sorted(n for n in "AB" if id(getattr(unit, n, None)) in trained),
        "others": len(trained) - sum(id(getattr(unit, n, None)) in trained for n in "AB"),
    }
    with torch.no_grad():
        logits = model(ids[None])[0]
    return found | {"A": getattr(unit, "A", None), "B": getattr(unit, "B", None), "logits": logits}


def ranks_at_once(
    mymem, model, tokenizer, ranks: list[int], length: int, seed: int, steps: int
) -> dict:
    """The rows of write_ranks, the batch of each forward pass; the target and the units' A."""
    copied, before, batches = copy.deepcopy(model), parts_of(model), []
    handle = model.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    rows = mymem.write_ranks(model, tokenizer, ranks, length, seed, steps)
    handle.remove()
    taken_out = parts_of(model) == before
    start = target_and_units(mymem, copied, tokenizer, ranks, length, seed)
    return {"rows": rows, "batches": batches, "taken_out": taken_out, **start}


def attention(
    mymem, model, tokenizer, rank: int, seed: int, A: Tensor, B: Tensor, ids: Tensor
) -> dict:
    """A new unit beside attention, the same with these A and B, and the losses of a training."""
    unit = mymem.attach_attention(model.requires_grad_(True), rank, seed)
    new = about(model, unit, ids)
    target = mymem.draw_tokens(tokenizer.plain_ids, 6, seed)
    means = mymem.write(model, unit, tokenizer.encode(PROMPT), target, 8)
    with torch.no_grad():
        unit.A.copy_(A)
        unit.B.copy_(B)
    return {"new": new, "changed": about(model, unit, ids), "means": means}
