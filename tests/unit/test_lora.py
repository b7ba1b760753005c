"""The unit. Oracle: the dense product W + (A B)ᵀ. Properties: no change at first, a frozen base."""

import pytest
import torch

from tests.toy import toy_model
from tinymem.errors import AdapterError
from tinymem.unit.adapter import base_hash
from tinymem.unit.lora import LoRA, Unit

IDS = torch.arange(20)[None] % 97
SITES = [
    (("mlp",), None),
    (("q_proj", "v_proj"), [1, 3]),
    (("self_attn.o_proj", "down_proj"), [0, 1, 2, 3]),
]


def grown_unit(model, sites, layers, rank=3, seed=0):
    """A unit whose B is no longer zero."""
    unit = Unit.create(model, rank, sites=sites, layers=layers, seed=seed)
    generator = torch.Generator().manual_seed(99)
    for lora in unit.loras.values():
        lora.B.data.normal_(0, 0.3, generator=generator)
    return unit


@pytest.mark.parametrize(("sites", "layers"), SITES)
def test_a_fresh_unit_changes_nothing_and_a_grown_one_does(sites, layers):
    model = toy_model()
    before = model(IDS)
    fresh = Unit.create(model, 4, sites=sites, layers=layers).attach(model)
    assert torch.equal(model(IDS), before)
    fresh.detach()
    grown = grown_unit(model, sites, layers).attach(model)
    assert (model(IDS) - before).abs().max() > 0.1
    grown.detach()
    assert torch.equal(model(IDS), before)


def test_what_is_trainable_is_exactly_the_unit():
    model = toy_model().requires_grad_(True)
    unit = Unit.create(model, 4).attach(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"layers.2.mlp.lora.A", "layers.2.mlp.lora.B"}
    assert unit.trainable_parameters() == 2 * 64 * 4  # 2 d r
    model(IDS).square().mean().backward()
    lora = unit.loras["layers.2.mlp"]
    assert lora.A.grad.abs().max() == 0  # the gradient of A has the factor B = 0 at the first step
    assert lora.B.grad.abs().max() > 0
    assert all(p.grad is None for name, p in model.named_parameters() if ".lora." not in name)


def test_mlp_site_is_the_papers_formula():
    """The block's output h + mlp(x) + x A B, computed by hand from the parts of the block."""
    model = toy_model()
    unit = grown_unit(model, ("mlp",), [1])
    h = model.run(model.embed(IDS), 0, 1)
    after, x = model.layers[1].attend(h, model.rope(h))
    lora = unit.loras["layers.1.mlp"]
    expected = after + model.layers[1].mlp(x) + x @ (lora.A @ lora.B)
    unit.attach(model)
    assert torch.allclose(model.run(h, 1, 2), expected, atol=1e-5)


def test_init_bound_and_seed():
    lora = LoRA(4000, 10, rank=4)
    lora.reset(torch.Generator().manual_seed(0))
    assert 0.499 < lora.A.abs().max() <= 0.5  # the bound 1/√4, nearly reached by 16,000 draws
    assert lora.A.mean().abs() < 0.01
    model = toy_model()
    first, same, other = (Unit.create(model, 2, seed=s).loras["layers.2.mlp"].A for s in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    lora = LoRA(8, 5000, rank=8, dropout=0.1)
    lora.reset(torch.Generator().manual_seed(0))
    lora.B.data.fill_(1.0)
    x = torch.ones(1, 8)
    lora.eval()
    clean = lora(x)
    lora.train()
    noisy = lora(x)
    dropped = (noisy == 0).float().mean().item()
    assert 0.08 < dropped < 0.12
    assert torch.allclose(noisy[noisy != 0], clean[noisy != 0] / 0.9)


@pytest.mark.parametrize("rank", [1, 3])
def test_merge_equals_attach(rank):
    model, copy = toy_model(), toy_model()
    sites, layers = ("q_proj", "up_proj"), [0, 2]
    unit = grown_unit(model, sites, layers, rank).attach(model)
    expected = model(IDS)
    merged = grown_unit(copy, sites, layers, rank).attach(copy).merge()
    assert torch.allclose(merged(IDS), expected, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    unit.detach()
    change = merged.layers[0].self_attn.q_proj.weight - model.layers[0].self_attn.q_proj.weight
    assert torch.linalg.matrix_rank(change, tol=1e-4) == rank


def test_a_merged_model_has_another_weight_hash():
    """A unit trained on the old weights does not fit the new ones, and must be refused there."""
    model = toy_model()
    model.weight_hash = model.value_hash = "0" * 64  # as the loader sets them
    merged = grown_unit(model, ("q_proj",), [1]).attach(model).merge()
    assert merged.weight_hash is None and merged.value_hash is None
    assert base_hash(merged) not in ("0" * 64, base_hash(toy_model()))


def test_a_unit_is_not_added_twice():
    """It may be attached to another model after a merge, but not to the one that has it."""
    model = toy_model()
    unit = grown_unit(model, ("q_proj",), [1]).attach(model)
    attached = model(IDS)
    unit.merge()
    with pytest.raises(AdapterError, match="merged into this model"):
        unit.attach(model)
    assert torch.allclose(model(IDS), attached, atol=1e-4)
    assert torch.equal(unit.attach(toy_model()).model(IDS), attached)


def test_misuse_is_refused():
    model = toy_model()
    unit = Unit.create(model, 2)
    with pytest.raises(AdapterError, match="not attached"):
        unit.detach()
    unit.attach(model)
    with pytest.raises(AdapterError, match="attached already"):
        unit.attach(model)
    with pytest.raises(AdapterError, match="attached already"):
        Unit.create(toy_model(), 2).attach(model)
    with pytest.raises(AdapterError, match="cannot be merged"):
        unit.merge()
    assert unit.model is model  # a refused merge leaves it attached
