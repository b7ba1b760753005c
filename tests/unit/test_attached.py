"""Units that take turns on one base. Property: the base is untouched before, between and after."""

import weakref

import pytest
import torch

from tests.toy import toy_model
from tinymem.errors import AdapterError
from tinymem.unit.beside import WithLoRA
from tinymem.unit.lora import Unit

from .test_lora import IDS, SITES, grown_unit

SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def fingerprint(model) -> list:
    """Every module and parameter by its path and identity, every value, and what is trainable."""
    modules = [(path, id(module)) for path, module in model.named_modules()]
    named = list(model.named_parameters())
    return [modules, [(name, id(p), p.requires_grad, p.tolist()) for name, p in named]]


@pytest.mark.parametrize("trained", [(), ("norm.weight", "layers.1.mlp.up_proj.weight")])
@pytest.mark.parametrize(("sites", "layers"), [*SITES, (SEVEN, range(4))])
def test_the_base_is_untouched_before_between_and_after(sites, layers, trained):
    model = toy_model()
    for name in trained:
        model.get_parameter(name).requires_grad_()
    units = [grown_unit(model, sites, layers, seed=seed) for seed in range(3)]
    before, bare = fingerprint(model), model(IDS).detach()
    alone = []
    for _ in range(2):
        for unit in units:
            with unit.attached(model) as inside:
                assert inside is unit and unit.model is model
                out = model(IDS).detach()
                names = {name for name, p in model.named_parameters() if p.requires_grad}
                assert len(names) == 2 * len(unit.loras) and all(".lora." in n for n in names)
            assert unit.model is None and fingerprint(model) == before
            assert torch.equal(model(IDS), bare) and not torch.equal(out, bare)
            alone.append(out)
    for first, again in zip(alone[:3], alone[3:], strict=True):
        assert torch.equal(first, again)
    assert not torch.equal(alone[0], alone[1])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_too(error):
    model = toy_model().requires_grad_()
    unit, before = grown_unit(model, ("q_proj",), [1]), fingerprint(model)
    with pytest.raises(error), unit.attached(model):
        raise error
    assert unit.model is None and fingerprint(model) == before
    with unit.attached(model):
        unit.detach()  # what the block does itself is no error
    assert fingerprint(model) == before


def test_one_unit_at_a_time():
    model = toy_model()
    first, second = grown_unit(model, ("mlp",), [1]), grown_unit(model, ("mlp",), [2])
    with first.attached(model):
        attached = model(IDS)
        with pytest.raises(AdapterError, match="attached already"), second.attached(model):
            raise AssertionError
        with pytest.raises(AdapterError, match="attached already"):
            second.attach(model)
        assert torch.equal(model(IDS), attached) and second.model is None
    with pytest.raises(AdapterError, match="not attached"):
        first.detach()


def test_a_detached_unit_keeps_no_part_of_the_base_alive():
    model = toy_model()
    unit = grown_unit(model, ("q_proj", "down_proj"), [0, 3])
    unit.attach(model)
    assert sum(isinstance(module, WithLoRA) for module in model.modules()) == 4
    part = weakref.ref(model.layers[3].mlp.down_proj.part)
    unit.detach()
    del model
    assert part() is None
    other = Unit(unit.loras).attach(toy_model(seed=1))
    assert other.model is not None
