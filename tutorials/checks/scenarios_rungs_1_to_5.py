"""What the checks of rungs 1 to 5 do with the student's functions, and what they watch meanwhile.

The first argument of each scenario is the module of the student. They judge nothing.
"""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .scenarios import Watch

# --- Rung 1: tokens and targets -------------------------------------------------------------------


def split(mymem, prompt: list[int], target: list[int]) -> tuple[object, list[int], list[int]]:
    """What inputs_and_targets gives, and the two lists afterwards."""
    return mymem.inputs_and_targets(prompt, target), prompt, target


# --- Rung 2: the memory unit ----------------------------------------------------------------------


def new_unit(mymem, weight: Tensor, rank: int, seed: int, x: Tensor) -> dict:
    """A new unit beside a linear layer: its parameters, its output, and the first gradient of B."""
    part = nn.Linear(*weight.shape, bias=False).requires_grad_(False)
    part.weight.copy_(weight)
    unit = mymem.LoRA(part, weight.shape[1], rank, seed)
    out = unit(x)
    named = {name: tuple(p.shape) for name, p in unit.named_parameters() if p.requires_grad}
    if isinstance(out, Tensor) and out.requires_grad:
        out.sum().backward()
    return {
        "parameters": named,
        "plain": part(x),
        "out": out,
        "gradient of B": unit.B.grad,
    }


def first_values(mymem, width: int, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """A and B of a new unit."""
    unit = mymem.LoRA(nn.Identity(), width, rank, seed)
    return unit.A, unit.B


def output(mymem, x: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, int]:
    """The output of a unit with these matrices beside tanh, and the size of the largest tensor."""
    unit = mymem.LoRA(nn.Tanh(), *A.shape, 0)
    with torch.no_grad():
        unit.A.copy_(A), unit.B.copy_(B)
        with Watch() as watch:
            out = unit(x)
    return out, watch.largest


def deeper(model, layers: int) -> None:
    """Gives the model another number of layers."""
    own = len(model.layers)
    chosen = [copy.deepcopy(model.layers[n % own]) for n in range(layers)]
    model.layers = nn.ModuleList(chosen)
    model.config = dataclasses.replace(model.config, num_layers=layers)


def attach(mymem, model, layers: int, rank: int, seed: int) -> dict:
    """A unit is attached to a model with so many layers."""
    deeper(model.requires_grad_(True), layers)
    mlps, base = [layer.mlp for layer in model.layers], {id(p) for p in model.parameters()}
    unit = mymem.attach(model, rank, seed)
    trained = {name: p.requires_grad for name, p in model.named_parameters() if id(p) in base}
    units = [mymem.LoRA(nn.Identity(), model.config.hidden_size, rank, seed) for _ in range(2)]
    return {
        "kind": type(unit).__name__,
        "is LoRA": isinstance(unit, mymem.LoRA),
        "layers": [n for n, layer in enumerate(model.layers) if layer.mlp is not mlps[n]],
        "holds the unit": [n for n, layer in enumerate(model.layers) if layer.mlp is unit],
        "not frozen": [name for name, free in trained.items() if free],
        "unit frozen": not all(p.requires_grad for p in model.parameters() if id(p) not in base),
        "A": getattr(unit, "A", None),
        "drawn": [one.A for one in units],
    }


def attach_and_detach(mymem, model, layers: int, rank: int, seed: int, ids: Tensor) -> dict:
    """A unit is attached, changed, and detached again."""
    deeper(model, layers)
    mlps = [layer.mlp for layer in model.layers]
    names, before = [name for name, _ in model.named_modules()], model(ids)
    mymem.attach(model, rank, seed)
    unit = next((layer.mlp for layer in model.layers if isinstance(layer.mlp, mymem.LoRA)), None)
    if unit is None:
        return {"attached": False}
    own = [p for p in (unit.A, unit.B) if isinstance(p, Tensor)]
    with torch.no_grad():
        for p in own:
            p.copy_(torch.linspace(-1, 1, p.numel()).sin().view_as(p))
    learned = [p.detach().clone() for p in own]
    mymem.detach(model, unit)
    try:
        after, fails = model(ids), ""
    except Exception as error:  # for example because there is no MLP any more
        after, fails = None, f"{type(error).__name__}: {error}"
    return {
        "attached": True,
        "before": before,
        "after": after,
        "fails": fails,
        "learned": learned,
        "kept": [p for p in (unit.A, unit.B) if isinstance(p, Tensor)],
        "same parts": all(a.mlp is b for a, b in zip(model.layers, mlps, strict=True)),
        "new names": sorted({name for name, _ in model.named_modules()} - set(names)),
    }


# --- Rung 3: the loss of a token ------------------------------------------------------------------


def put_in(mymem, model, A: Tensor, B: Tensor):
    """Attaches a unit of the student and gives it these values."""
    unit = mymem.attach(model, A.shape[1], 0)
    with torch.no_grad():
        unit.A.copy_(A), unit.B.copy_(B)
    return unit


class Passes:
    """Counts the calls of a model, and whether they stored what a gradient needs."""

    def __init__(self, model):
        self.count, self.with_gradient = 0, 0
        self.forward = model.forward
        model.forward = self.note  # not a hook: model.forward(ids) is a call as well

    def note(self, *args, **kwargs) -> Tensor:
        out = self.forward(*args, **kwargs)
        self.count += 1
        self.with_gradient += out.requires_grad
        return out


def logits_of(mymem, model, prompt: list[int], target: list[int], A: Tensor, B: Tensor) -> dict:
    """The logits with a unit attached; the number of passes, and whether A and B have gradients."""
    put_in(mymem, model, A, B)
    passes = Passes(model)
    logits = mymem.target_logits(model, prompt, target)
    tensor = isinstance(logits, Tensor)
    return {"logits": logits, "passes": passes.count, "gradient": tensor and logits.requires_grad}


def losses_of(mymem, logits: Tensor, targets: Tensor) -> dict:
    """The losses, the operations of torch that they took, and the gradient of their sum."""
    leaf = logits.requires_grad_()
    given = leaf.clone()  # as the logits of a model, this tensor could be changed in place
    with Watch() as watch:
        losses = mymem.token_losses(given, targets)
    if isinstance(losses, Tensor) and losses.requires_grad:
        losses.sum().backward()
    names = sorted(watch.names)
    return {"losses": losses, "names": names, "gradient": leaf.grad, "given": given}


def objective(mymem, logits: Tensor, targets: Tensor, progress: float) -> dict:
    """The value of `plain`, its gradient, and the losses that it is the mean of."""
    leaf = logits.requires_grad_()
    losses = mymem.token_losses(leaf.clone(), targets)
    value = mymem.plain(leaf.clone(), targets, progress)
    if isinstance(value, Tensor) and value.requires_grad:
        value.backward()
    detached = isinstance(losses, Tensor) and not losses.requires_grad
    return {"value": value, "losses": losses, "detached": detached, "gradient": leaf.grad}


# --- Rung 4: a training loop ----------------------------------------------------------------------


def write_memory(
    mymem, model, prompt: list[int], target: list[int], A: Tensor, steps: int, lr: float, half: bool
) -> dict:
    """A memory is written into a new unit with this A.

    half: with an objective that trains only the first half of the target, and that notes what it
    is given.
    """
    unit = put_in(mymem, model, A, torch.zeros_like(A.T))
    base = {name: p for name, p in model.named_parameters() if p is not unit.A and p is not unit.B}
    before = {name: p.detach().clone() for name, p in base.items()}
    given = []

    def first_half(logits, targets, progress):
        given.append((logits.shape, logits.requires_grad, targets.tolist(), float(progress)))
        count = len(targets) // 2
        return torch.nn.functional.cross_entropy(logits[:count], targets[:count])

    more, mlps = (first_half,) if half else (), [layer.mlp for layer in model.layers]
    try:
        losses = mymem.write(model, unit, prompt, target, steps, lr, *more)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        text = "backward went twice through the same logits. Compute them anew in each step"
        raise RuntimeError(text).with_traceback(error.__traceback__) from None
    return {
        "losses": losses,
        "A": unit.A,
        "B": unit.B,
        "given": [[list(shape), *rest] for shape, *rest in given],
        "attached": all(layer.mlp is mlp for layer, mlp in zip(model.layers, mlps, strict=True)),
        "changed": [name for name, p in base.items() if not torch.equal(p, before[name])],
    }


# --- Rung 5: decode and judge ---------------------------------------------------------------------


def planned(model, prompt: list[int], target: list[int], logits: Tensor, astray: Tensor) -> Passes:
    """The model gives row t of `logits` after the prompt and the first t true tokens.

    After anything else it gives `astray`.
    """
    true = prompt + target

    def forward(ids, *_, **__):
        rows = astray.repeat(*ids.shape, 1)
        for row, sequence in zip(rows, ids.tolist(), strict=True):
            for end in range(len(prompt), min(len(sequence), len(true) - 1) + 1):
                if sequence[:end] == true[:end]:
                    row[end - 1] = logits[end - len(prompt)]
        return rows.requires_grad_(torch.is_grad_enabled())

    model.forward = forward
    return Passes(model)


def decode(mymem, model, prompt: list[int], count: int) -> tuple[object, list[int], int, int]:
    """What greedy gives; its prompt afterwards; passes, and those that stored for a gradient."""
    mymem.attach(model, 1, 0)
    passes = Passes(model)
    return mymem.greedy(model, prompt, count), prompt, passes.count, passes.with_gradient


def decode_planned(mymem, model, plan: tuple, count: int) -> object:
    planned(model, *plan)
    return mymem.greedy(model, plan[0], count)


@contextlib.contextmanager
def greedy_of(mymem, own: bool) -> Iterator[None]:
    """Unless `own`, judge finds a greedy that gives wrong tokens instead of the student's."""
    theirs = mymem.greedy
    if not own:
        mymem.greedy = lambda model, prompt, count: prompt[:1] * count
    try:
        yield
    finally:
        mymem.greedy = theirs


def judge_planned(
    mymem, model, plan: tuple, own_greedy: bool
) -> tuple[object, list[list[int]], int, int]:
    """What judge gives; prompt and target afterwards; passes, and those that stored as above."""
    passes = planned(model, *plan)
    prompt, target = list(plan[0]), list(plan[1])
    with greedy_of(mymem, own_greedy):
        out = mymem.judge(model, prompt, target)
    return out, [prompt, target], passes.count, passes.with_gradient


def judge_unit(mymem, model, prompt: list[int], target: list[int], A: Tensor, B: Tensor) -> object:
    """What judge gives for a unit with these values."""
    put_in(mymem, model, A, B)
    with greedy_of(mymem, own=False):
        return mymem.judge(model, prompt, target)


def margins_of(mymem, logits: Tensor, targets: Tensor) -> tuple[object, Tensor]:
    """The margins, and the logits afterwards."""
    return mymem.margins(logits, targets), logits
