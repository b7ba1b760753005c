"""Several units as one. Oracle: each of them attached to the model without the others."""

import pytest
import torch

from tests.toy import toy_model
from tinymem.unit.lora import Unit
from tinymem.unit.stack import Stack

SITES = [(("mlp",), None), (("q_proj", "down_proj"), (1, 3))]
RANKS = (1, 3, 2)


def grown_units(model, sites=("mlp",), layers=None, dropout=0.0) -> list[Unit]:
    """Units of different ranks, whose B is no longer zero."""
    generator, units = torch.Generator().manual_seed(1), []
    for seed, rank in enumerate(RANKS):
        unit = Unit.create(model, rank, sites=sites, layers=layers, seed=seed, dropout=dropout)
        for lora in unit.loras.values():
            lora.B.data.normal_(0, 0.3, generator=generator)
        units.append(unit)
    return units


def values(unit: Unit) -> list[torch.Tensor]:
    return [p.detach().clone() for p in unit.parameters()]


@pytest.mark.parametrize(("sites", "layers"), SITES)
def test_each_unit_computes_its_own_sequences(sites, layers):
    """Two sequences of each of three units, in one forward pass."""
    model = toy_model()
    units = grown_units(model, sites, layers)
    ids = torch.randint(97, (6, 9), generator=torch.Generator().manual_seed(2))
    stack = Stack(units).attach(model)
    together = model(ids)
    stack.detach()
    for n, unit in enumerate(units):
        own = slice(2 * n, 2 * n + 2)
        unit.attach(model)
        assert torch.allclose(model(ids[own]), together[own], atol=1e-5)
        unit.detach()


def test_shapes_are_those_of_the_largest_rank_and_the_rest_is_zero():
    stack = Stack(grown_units(toy_model()))
    A, B = stack.parameters()
    assert A.shape == (3, 64, 3) and B.shape == (3, 3, 64) and stack.rank == 3
    for n, rank in enumerate(RANKS):
        assert A[n, :, :rank].all() and B[n, :rank].all()
        assert not A[n, :, rank:].any() and not B[n, rank:].any()


def test_gradients_beyond_a_units_own_rank_are_zero():
    model = toy_model()
    stack = Stack(grown_units(model)).attach(model)
    ids = torch.arange(30).view(3, 10)
    model(ids).square().mean().backward()
    A, B = stack.parameters()
    for n, rank in enumerate(RANKS):
        assert A.grad[n, :, :rank].any() and B.grad[n, :rank].any()
        assert not A.grad[n, :, rank:].any() and not B.grad[n, rank:].any()


def test_values_are_copied_and_written_back_on_request():
    units = grown_units(toy_model())
    before = [values(unit) for unit in units]
    stack = Stack(units)
    for p in stack.parameters():
        p.data += 1
    for unit, old in zip(units, before, strict=True):
        assert all(map(torch.equal, values(unit), old))
    stack.write_back()
    for unit, old in zip(units, before, strict=True):
        assert all(map(torch.equal, values(unit), [p + 1 for p in old]))


def test_a_unit_that_is_left_out_keeps_the_values_of_that_moment():
    model = toy_model()
    units = grown_units(model, dropout=0.5)
    stack = Stack(units)
    generators = stack.loras["layers.2.mlp"].generators
    before = [values(unit) for unit in units]
    for number, p in enumerate(stack.parameters()):
        p.data += 1
        p.grad = torch.arange(3.0)[:, None, None].expand(p.shape) + number
    stack.select([2, 0])
    for p in stack.parameters():
        p.data += 1
    stack.write_back()
    for unit, old, change in zip(units, before, (2, 1, 2), strict=True):
        assert all(map(torch.allclose, values(unit), [p + change for p in old]))
    assert stack.units == [units[2], units[0]]
    assert stack.loras["layers.2.mlp"].generators == [generators[2], generators[0]]
    A, B = stack.parameters()
    assert A.shape == (2, 64, 3) and B.shape == (2, 3, 64)
    assert A.grad[:, 0, 0].tolist() == [2, 0] and B.grad[:, 0, 0].tolist() == [3, 1]


def test_each_unit_has_the_dropout_masks_that_it_has_alone():
    model = toy_model()
    alone, stacked = grown_units(model, dropout=0.5), grown_units(model, dropout=0.5)
    (lora,) = Stack(stacked).loras.values()
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(3))
    for _ in range(2):  # the masks of one step, and of the next
        out = lora(x)
        for n, unit in enumerate(alone):
            (own,) = unit.loras.values()
            assert torch.equal(out[n] == 0, own(x[n]) == 0)
    assert (out == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)
