"""Where a unit may sit. Oracles: the layers of the paper, and PyTorch's own list of modules."""

import pytest
import torch
from torch import nn

from tests.toy import toy_model
from tinymem.errors import RecipeError
from tinymem.unit.lora import Unit
from tinymem.unit.sites import (
    default_layer,
    find_sites,
    layer_of,
    linear_paths,
    unit_shapes,
    widths,
)


@pytest.mark.parametrize(
    ("layers", "expected"), [(36, 24), (30, 20), (12, 8), (6, 4), (4, 2), (3, 2), (2, 1), (1, 0)]
)
def test_the_default_layer_is_at_two_thirds_of_the_depth(layers, expected):
    """24 of 36 is the paper's for Qwen3-8B. At half of the depth it would be 18."""
    with torch.device("meta"):
        model = toy_model(layers=1)
    model.config = type(model.config)(**(vars(model.config) | {"num_layers": layers}))
    assert default_layer(model) == expected


def test_without_layers_a_unit_is_at_the_default_layer():
    model = toy_model(layers=6)
    assert find_sites(model, ["mlp"]) == ["layers.4.mlp"]
    assert list(Unit.create(model, 1).loras) == ["layers.4.mlp"]
    assert find_sites(model, ["q_proj"]) == ["layers.4.self_attn.q_proj"]


def test_every_linear_of_the_layers_is_a_site_and_the_head_is_none():
    model = toy_model()
    names = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert {path for path, _ in linear_paths(model)} == names - {"lm_head"}
    assert len(names) == 4 * 7 + 1


def test_sites_are_found_by_the_end_of_the_name():
    model = toy_model()
    assert find_sites(model, ["o_proj"], [1]) == ["layers.1.self_attn.o_proj"]
    assert find_sites(model, ["self_attn.o_proj"], [1]) == ["layers.1.self_attn.o_proj"]
    assert find_sites(model, ["mlp"]) == ["layers.2.mlp"]
    with pytest.raises(RecipeError):
        find_sites(model, ["proj"], [0])  # part of a name is not enough


def test_each_site_is_listed_once():
    found = find_sites(toy_model(), ["up_proj", "o_proj", "self_attn.o_proj"], [3, 1, 3])
    assert sorted(found) == [
        *("layers.1.mlp.up_proj", "layers.1.self_attn.o_proj"),
        *("layers.3.mlp.up_proj", "layers.3.self_attn.o_proj"),
    ]
    assert sorted(map(layer_of, found)) == [1, 1, 3, 3]


def test_widths_of_every_site_are_those_of_its_weight():
    model = toy_model()
    for path, _ in linear_paths(model):
        d_out, d_in = model.get_parameter(f"{path}.weight").shape
        assert widths(model, path) == (d_in, d_out)
    assert widths(model, "layers.2.mlp") == (64, 64)


def test_the_shapes_of_a_unit_are_those_of_its_loras():
    model = toy_model()
    sites, layers = ("k_proj", "down_proj"), (0, 3)
    unit = Unit.create(model, 5, sites=sites, layers=layers)
    shapes = unit_shapes(model, 5, sites, layers)
    assert list(shapes) == list(unit.loras)
    for path, (d_in, d_out) in shapes.items():
        assert unit.loras[path].A.shape == (d_in, 5) and unit.loras[path].B.shape == (5, d_out)


@pytest.mark.parametrize(
    ("sites", "layers", "rank", "message"),
    [
        (("mlp",), [4], 2, "layers 0 to 3"),
        (("mlp",), [-1], 2, "layers 0 to 3"),
        (("mlp",), [0, 1], 2, "stands alone"),
        (("mlp", "q_proj"), [0], 2, "stands alone"),
        (("c_attn",), [0], 2, "it has mlp, q_proj, k_proj"),
        (("lm_head",), [0], 2, "no site 'lm_head'"),
        ((), [0], 2, "at least one site"),
        (("mlp",), None, 0, "can be 1 to 64"),
        (("mlp",), None, 65, "can be 1 to 64"),
        (("k_proj",), None, 33, "can be 1 to 32"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(sites, layers, rank, message):
    for make in (
        unit_shapes,
        lambda model, rank, sites, layers: Unit.create(model, rank, sites=sites, layers=layers),
    ):
        with pytest.raises(RecipeError, match=message):
            make(toy_model(), rank, sites, layers)
