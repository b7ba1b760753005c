"""The checks of rung 2: the memory unit.

All inputs are drawn from --seed. What is expected is computed in plain torch.
"""

import torch
from torch import Tensor

from checks import scenarios_rungs_1_to_5 as scenarios
from checks.expected import drawn, token_ids, whole
from checks.grading import apart, first_of, kind_of, near, require, require_close, tensor
from checks.ladder import rung
from checks.values import MODEL


def sizes(generator: torch.Generator) -> tuple[int, int]:
    """A width and a rank."""
    return whole(12, 30, generator), whole(2, 6, generator)


def first_values(mymem, width: int, rank: int, seed: int, names: str = "AB") -> list[Tensor]:
    """A and B of a new unit, or one of them. Fails if they are not tensors of the right shape."""
    values = dict(zip("AB", mymem.run(scenarios.first_values, width, rank, seed), strict=True))
    shapes = {"A": ("[d, r]", [width, rank]), "B": ("[r, d]", [rank, width])}
    for name in names:
        value, (letters, shape) = values[name], shapes[name]
        fits = isinstance(value, Tensor) and list(value.shape) == shape
        message = f"{name} should be an nn.Parameter of shape {letters}, here {shape}, and not"
        require(fits, f"{message} {kind_of(value)}")
    return [values[name] for name in names]


@rung(2)
def test_rung2_a_new_unit_changes_nothing_and_can_learn(mymem, seed):
    generator = drawn(seed)
    width, rank = sizes(generator)
    weight = torch.randn(width, width, generator=generator) / 5
    x = torch.randn(5, width, generator=generator)
    number = whole(1, 10**6, generator)
    first_values(mymem, width, rank, number)
    found = mymem.run(scenarios.new_unit, weight, rank, number, x)
    out = tensor(found["out"], x.shape, "The output of a unit, [T, d],")
    far = apart(out, found["plain"])
    message = f"A new unit changes the output by up to {far:.3g}, but it should not change it. With"
    require(far == 0, f"{message} B = 0, x A B is 0 for every A")
    names = sorted(found["parameters"])
    message = f"The trainable parameters of the unit should be A and B, not {names}. Make each of"
    require(names == ["A", "B"], f"{message} them an nn.Parameter", keeps=0.5)
    message = "The output has no gradient with respect to B. Do not detach A or B in forward"
    require(found["gradient of B"] is not None, message, keeps=0.5)
    message = "The first gradient of B is 0. If A starts at 0 as well, neither of them ever"
    message += " changes, because each gradient contains the other matrix as a factor"
    require(found["gradient of B"].abs().max() > 0, message, keeps=0.5)


@rung(2)
def test_rung2_where_a_starts(mymem, seed):
    generator = drawn(seed)
    for width, rank in ((whole(3000, 5000, generator), 4), (1500, whole(20, 30, generator))):
        (A,) = first_values(mymem, width, rank, whole(1, 10**6, generator), "A")
        bound, most = rank**-0.5, A.abs().max().item()
        mean, spread = A.mean().item(), A.std().item()
        hints = {
            "That is 1/√d, the bound for the transposed matrix": near(most, width**-0.5, 1e-3),
            "`torch.rand` gives only values from 0 to 1": A.min() >= 0 and most > 0,
        }
        message = f"A should be uniform between −1/√r and 1/√r, which is ±{bound:.3f} for rank"
        message += f" {rank}, with mean 0. The largest of its {A.numel():,} values is {most:.3f}"
        message += f" and their mean is {mean:.3f}"
        require(0.9 * bound < most <= bound and abs(mean) < 0.1 * bound, message + first_of(hints))
        message = "A should be uniform, with a standard deviation of 1/√(3r) ="
        message += f" {bound / 3**0.5:.3f}"
        require(near(spread * 3**0.5 / bound, 1, 0.1), f"{message}, but it is {spread:.3f}")
    number = whole(1, 10**6, generator)
    first, again, other = (
        first_values(mymem, 6, 2, n, "A")[0] for n in (number, number, number + 1)
    )
    message = "Two units with the same seed have two different A. Draw A with a generator that has"
    require(torch.equal(first, again), f"{message} this seed", keeps=0.5)
    message = "Two units with different seeds have the same A. Draw A with a generator that has"
    require(not torch.equal(first, other), f"{message} the seed of the unit", keeps=0.5)


@rung(2)
def test_rung2_the_output(mymem, seed):
    generator = drawn(seed)
    width, rank = sizes(generator)
    shapes = ((2, 7, width), (width, rank), (rank, width))
    x, A, B = (torch.randn(s, generator=generator) for s in shapes)
    first_values(mymem, width, rank, 1)
    out, _ = mymem.run(scenarios.output, x, A, B)
    out, right = tensor(out, x.shape, "The output of a unit, [..., d],"), x.tanh() + x @ A @ B
    hints = {
        "The part itself is missing": apart(out, x @ A @ B) < 1e-4,
        "The unit should read x, not the output of the part": (
            apart(out, x.tanh() + x.tanh() @ A @ B) < 1e-4
        ),
    }
    message = "The output should be part(x) + x A B, without a factor"
    require_close(out, right, message + first_of(hints), 1e-4)


@rung(2)
def test_rung2_never_the_dense_product(mymem, seed):
    generator = drawn(seed)
    x, A, B = (torch.randn(s, generator=generator) for s in ((3, 1500), (1500, 2), (2, 1500)))
    first_values(mymem, 1500, 2, 1)
    out, largest = mymem.run(scenarios.output, x, A, B)
    out = tensor(out, x.shape, "The output of a unit, [T, d],")
    message = "The output of the unit is that of its part alone, so nothing was multiplied"
    require(apart(out, x.tanh()) > 1e-3, message)
    message = f"For x [3, 1500], a tensor of {largest:,} numbers was created. The product A B has"
    message += " the shape [1500, 1500]. Multiply from the left, (x A) B, which takes 2·d·r"
    message += " multiplications per token instead of d²"
    require(largest <= 4500, message)


def model_and_rank(generator: torch.Generator) -> tuple[int, int, int]:
    """How many layers the model should have, the rank, and the seed of the unit."""
    return whole(5, 8, generator), whole(2, 5, generator), whole(1, 10**6, generator)


@rung(2)
def test_rung2_attach(mymem, seed):
    layers, *rank_and_seed = model_and_rank(drawn(seed))
    found = mymem.run(scenarios.attach, MODEL, layers, *rank_and_seed)
    require(found["is LoRA"], f"attach should return the LoRA that it puts in, not {found['kind']}")
    at, layer = found["holds the unit"], layers * 2 // 3
    message = f"In a model with {layers} layers, the unit should be beside the MLP of layer {layer}"
    message += f", counted from 0. It is in layer {at[0] if at else 'none'}"
    require(at == found["layers"] == [layer], message)
    A, drawn_A = found["A"], found["drawn"]
    fits = all(isinstance(one, Tensor) for one in (A, *drawn_A))
    require(fits, f"A should be an nn.Parameter of shape [d, r], not {kind_of(A)}", keeps=0.5)
    message = "attach should make a LoRA of this rank and this seed, but its A is another one"
    alike = torch.equal(A, drawn_A[0]) or not torch.equal(*drawn_A)
    require(alike, message, keeps=0.5)
    free = found["not frozen"]
    message = f"After attach, {len(free)} parameters of the base model have a gradient as well, for"
    message += f" example {', '.join(free[:1])}. Freeze the model before you put the unit in"
    require(not free, message, keeps=0.5)
    message = "After attach, A and B of the unit should have a gradient. Freeze the model before"
    message += " you put the unit in, not afterwards"
    require(not found["unit frozen"], message, keeps=0.5)


@rung(2)
def test_rung2_detach(mymem, seed):
    generator = drawn(seed)
    ids = torch.tensor([token_ids(9, generator)])
    found = mymem.run(scenarios.attach_and_detach, MODEL, *model_and_rank(generator), ids)
    require(found["attached"], "attach did not put a LoRA in, so nothing can be taken out")
    message = f"After detach, the model cannot be called ({found['fails']})"
    require(not found["fails"], f"{message}. Put the part of the unit back where it was")
    far = apart(found["after"], found["before"])
    message = f"After detach, the logits differ by up to {far:.3g} from those before attach"
    require(far == 0, f"{message}. Put the part of the unit back where it was")
    message = "After detach, the model has the right logits, but it is not the model that it was:"
    message += f" it still has {', '.join(found['new names'][:3]) or 'another MLP'}"
    require(found["same parts"] and not found["new names"], message, keeps=0.5)
    kept = all(map(torch.equal, found["kept"], found["learned"]))
    message = "detach has changed A or B. The unit should keep what it has learned"
    require(kept, message, keeps=0.5)
