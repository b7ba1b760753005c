"""Rotary embeddings: the frequencies with each scaling, and the rotation itself.

Oracle: transformers' frequencies for Llama 3.1 and 3.2. Hand examples: a rotation by a quarter
turn, and frequencies with θ = 100. Properties: a rotation keeps lengths, and the product of a query
and a key depends on their distance only.
"""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.checkpoints import LINEAR, LLAMA3, build, draw_ids, needs_new_oracle
from tinymem.base.config import ModelConfig
from tinymem.base.rope import rope_frequencies, rotate


@needs_new_oracle
@pytest.mark.parametrize("parameters", [LINEAR, LLAMA3], ids=["linear", "llama3"])
@torch.no_grad()
def test_rope_scaling_acts_at_the_tested_length(parameters, tmp_path):
    # A comparison with transformers says nothing about a scaling that changes nothing.
    plain = build(tmp_path / "plain", "llama", head_dim=16)
    scaled = build(tmp_path / "scaled", "llama", head_dim=16, rope_parameters=parameters)
    ids = draw_ids(96, batch=2)
    assert (plain(ids).logits - scaled(ids).logits).abs().max() > 0.1


def test_rotate_by_a_quarter_turn():
    x = torch.tensor([1.0, 2, 3, 4, 5, 6])
    cos, sin = torch.zeros(1, 4), torch.ones(1, 4)
    # Pairs (1, 3) and (2, 4) turn by 90 degrees, (a, b) -> (-b, a); 5 and 6 do not rotate.
    assert rotate(x[None], cos, sin)[0].tolist() == [-3, -4, 1, 2, 5, 6]


def config(**changes) -> ModelConfig:
    sizes = dict.fromkeys(
        ("vocab_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads"), 1
    )
    fields = {
        "norm": "rmsnorm",
        "norm_eps": 1e-6,
        "activation": "silu",
        "gated_mlp": True,
        "context": 512,
    }
    return ModelConfig(
        **{**sizes, **fields, "hidden_size": 12, "head_dim": 12, "rotary_dim": 8, **changes}
    )


def angles(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    turns = torch.outer(torch.arange(length).double(), rope_frequencies(config()).double())
    turns = turns.repeat(1, 2)
    return turns.cos(), turns.sin()


def test_rotation_keeps_length_and_depends_on_distance():
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 12, generator=draw, dtype=torch.float64)
    cos, sin = angles(40)
    turned_q, turned_k = rotate(q.expand(40, 12), cos, sin), rotate(k.expand(40, 12), cos, sin)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(40))
    torch.testing.assert_close(turned_q[0], q)  # position 0 stands still
    assert turned_q[7, 8:].equal(q[8:])
    products = turned_q @ turned_k.T  # [i, j]
    for distance in (-11, 0, 1, 5):
        line = products.diagonal(distance)
        torch.testing.assert_close(line, line[:1].expand(len(line)))
    assert (products[0, 1:] - products[0, 0]).abs().min() > 1e-3  # … and it does depend on it


def test_rope_frequencies_by_hand():
    # rotary_dim 4, theta 100: 100^0 and 100^(-2/4).
    torch.testing.assert_close(
        rope_frequencies(config(rotary_dim=4, rope_theta=100.0)), torch.tensor([1.0, 0.1])
    )
    linear = (("factor", 4.0), ("rope_type", "linear"))
    torch.testing.assert_close(
        rope_frequencies(config(rotary_dim=4, rope_theta=100.0, rope_scaling=linear)),
        torch.tensor([0.25, 0.025]),
    )


@needs_new_oracle
@pytest.mark.parametrize(
    "head_dim, theta, factor, low, high, original",
    [
        (128, 5e5, 8.0, 1.0, 4.0, 8192),
        (64, 5e5, 32.0, 1.0, 4.0, 8192),
        (64, 1e4, 4.0, 0.5, 9.0, 64),
    ],
    ids=["Llama 3.1", "Llama 3.2", "odd"],
)
def test_llama3_frequencies_equal_transformers(head_dim, theta, factor, low, high, original):
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    theirs = LlamaConfig(
        hidden_size=head_dim,
        num_attention_heads=1,
        max_position_embeddings=original * 16,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    expected, scale = ROPE_INIT_FUNCTIONS["llama3"](theirs, device="cpu")
    assert scale == 1.0
    ours = rope_frequencies(
        config(
            head_dim=head_dim,
            rotary_dim=head_dim,
            rope_theta=theta,
            rope_scaling=tuple(sorted(scaling.items())),
        )
    )
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    plain = rope_frequencies(config(head_dim=head_dim, rotary_dim=head_dim, rope_theta=theta))
    ratio = plain / ours
    # Some frequencies are kept, some are divided by the whole factor, some lie in between.
    assert ratio.min() == 1 and math.isclose(ratio.max(), factor, rel_tol=1e-6)
    assert ((ratio > 1.01) & (ratio < factor * 0.99)).any()
