"""The transformer: it is GPT-2, Llama, Mistral, Qwen2, Qwen3 and GPT-NeoX, or it is not.

Oracle: transformers, on tiny checkpoints that it wrote itself with random weights, for every family and
every setting that changes the arithmetic: logits within 1e-4, 64 greedily decoded tokens the same.
Hand example: `rotate` by a quarter turn. Properties: a cache, a split into layers and a change of dtype
leave the result as it is; a rotation keeps lengths, and query times key depends on the distance alone.
"""

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.checkpoints import CONTEXT, HEADS, VOCAB, WIDTH, build
from tinymem.base.checkpoint import load
from tinymem.base.model import KVCache, ModelConfig, greedy, rope_frequencies, rotate

# An original context of 32 puts the tested 96 positions where llama3's scaling acts: of the wavelengths
# 6.3, 20, 63, … one is kept, one lies in the transition, the rest are stretched.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10_000.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0}
CASES = {
    "gpt2": ("gpt2", {}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
    "gpt2 inner 40": ("gpt2", {"n_inner": 40}),
    "gpt2 gelu": ("gpt2", {"activation_function": "gelu"}),
    "gpt2 relu": ("gpt2", {"activation_function": "relu"}),
    "gpt2 epsilon": ("gpt2", {"layer_norm_epsilon": 0.1}),
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama grouped": ("llama", {"num_key_value_heads": 2}),
    "llama one key head": ("llama", {"num_key_value_heads": 1}),
    "llama head 12": ("llama", {"head_dim": 12}),
    "llama head 12 grouped": ("llama", {"head_dim": 12, "num_key_value_heads": 2}),
    "llama attention bias": ("llama", {"attention_bias": True}),
    "llama mlp bias": ("llama", {"mlp_bias": True}),
    "llama both biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama epsilon": ("llama", {"rms_norm_eps": 0.1}),
    "llama gelu tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "llama linear rope": ("llama", {"rope_parameters": LINEAR}),
    "llama llama3 rope": ("llama", {"rope_parameters": LLAMA3, "head_dim": 16}),
    "mistral": ("mistral", {}),
    "mistral head 12": ("mistral", {"head_dim": 12}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 theta": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen3": ("qwen3", {}),
    "qwen3 tied": ("qwen3", {"tie_word_embeddings": True}),
    "qwen3 attention bias": ("qwen3", {"attention_bias": True}),
    "neox": ("gpt_neox", {}),
    "neox tied": ("gpt_neox", {"tie_word_embeddings": True}),
    "neox sequential": ("gpt_neox", {"use_parallel_residual": False}),
    "neox no attention bias": ("gpt_neox", {"attention_bias": False}),
    "neox rotary 0.5": ("gpt_neox", {"rotary_pct": 0.5}),
    "neox rotary 0.75": ("gpt_neox", {"rotary_pct": 0.75, "num_attention_heads": 2}),
    "neox rotary 3 of 12": ("gpt_neox", {"rotary_pct": 0.25, "hidden_size": 48}),
    "neox rotary 1": ("gpt_neox", {"rotary_pct": 1.0}),
    "neox theta": ("gpt_neox", {"rotary_emb_base": 100, "rotary_pct": 1.0}),
    "neox linear rope": (
        "gpt_neox",
        {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}},
    ),
}


def draw_ids(length: int, batch: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3", "gpt_neox"])
def model(request, tmp_path_factory):
    """One model for each way of attending: learned positions, RoPE, norms on heads, fused and partial."""
    folder = tmp_path_factory.mktemp("model")
    settings = {"n_layer": 3} if request.param == "gpt2" else {"num_hidden_layers": 3}
    build(folder, request.param, **settings)
    return load(folder, device="cpu")[0]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equals_transformers(case, tmp_path):
    kind, settings = CASES[case]
    oracle = build(tmp_path, kind, seed=len(case), **settings)
    model, _ = load(tmp_path, device="cpu")
    ids = draw_ids(96)
    expected, logits = oracle(ids).logits, model(ids)
    spread = expected.std(-1).mean()
    assert spread > 0.8  # else 1e-4 would say little
    assert logits.shape == expected.shape and logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 1e-4

    prompt = ids[:, :9]
    decoded = oracle.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=64,
        pad_token_id=0,
    )
    assert decoded.shape == (2, 9 + 64)  # nothing stopped it
    assert greedy(model, prompt, 64).equal(decoded[:, 9:])


@pytest.mark.parametrize("parameters", [LINEAR, LLAMA3], ids=["linear", "llama3"])
@torch.no_grad()
def test_rope_scaling_acts_at_the_tested_length(parameters, tmp_path):
    # The oracle test of a scaling that changes nothing would be vacuous.
    plain = build(tmp_path / "plain", "llama", head_dim=16)
    scaled = build(tmp_path / "scaled", "llama", head_dim=16, rope_parameters=parameters)
    ids = draw_ids(96)
    assert (plain(ids).logits - scaled(ids).logits).abs().max() > 0.1


@torch.no_grad()
def test_greedy_with_cache_equals_greedy_without(model):
    ids = draw_ids(7)
    whole = ids
    for _ in range(64):
        whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], dim=1)
    assert greedy(model, ids, 64).equal(whole[:, 7:])
    assert greedy(model, ids, 1).equal(whole[:, 7:8])


@torch.no_grad()
def test_the_cache_takes_a_prompt_and_then_single_positions(model):
    ids = draw_ids(10)
    cache = KVCache(model.config, 2, 10, "cpu", torch.float32)
    first = model.run(model.embed(ids[:, :6]), cache=cache)
    cache.length = 6
    with pytest.raises(ValueError, match="one new position"):
        model.run(model.embed(ids[:, 6:8], 6), cache=cache)
    h = model.embed(ids[:, 6:7], 6)
    last = model.run(h, rope=model.rope(h, 6), cache=cache)
    whole = model.run(model.embed(ids[:, :7]))
    torch.testing.assert_close(torch.cat([first, last], dim=1), whole, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_layers_run_in_parts_equal_the_whole(model):
    ids = draw_ids(40)
    h = model.embed(ids)
    rope = model.rope(h)
    logits = model(ids)
    for cut in range(len(model.layers) + 1):
        # A loop over the layers written out, and the two calls that training makes.
        lower = model.run(h, 0, cut)
        assert model.head(model.run(lower, cut, None, rope=rope)).equal(logits)
    after, x = model.layers[1].attend(model.run(h, 0, 1), rope)
    assert (after + model.layers[1].mlp(x)).equal(model.run(h, 0, 2))


@torch.no_grad()
def test_no_position_sees_the_future(model):
    ids = draw_ids(30)
    changed = ids.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=1e-5, rtol=1e-5)
    assert (before[:, 20:] - after[:, 20:]).abs().amax(-1).min() > 0.01


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
@torch.no_grad()
def test_bfloat16_weights_in_float32_arithmetic(kind, tmp_path):
    oracle = build(tmp_path, kind)
    for p in oracle.parameters():
        p.copy_(p.bfloat16())  # rounded, held as float32
    oracle.save_pretrained(tmp_path)
    wide, _ = load(tmp_path, device="cpu", dtype="float32")
    narrow, _ = load(tmp_path, device="cpu", dtype="bfloat16")
    ids = draw_ids(50)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    logits = narrow(ids, dtype=torch.float32)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, wide(ids), atol=1e-5, rtol=0)
    assert greedy(narrow, ids[:, :8], 32, dtype=torch.float32).equal(greedy(wide, ids[:, :8], 32))
    # and the plain bfloat16 run really is coarser
    coarse = narrow(ids)
    assert coarse.dtype == torch.bfloat16
    assert (coarse.float() - wide(ids)).abs().max() > 1e-3


@torch.no_grad()
def test_beyond_the_context(model):
    assert model(draw_ids(CONTEXT, batch=1)).shape == (1, CONTEXT, VOCAB)
    with pytest.raises(ValueError, match=rf"{CONTEXT + 1}\b.*\b{CONTEXT}\b"):
        model(draw_ids(CONTEXT + 1, batch=1))
    with pytest.raises(ValueError, match=rf"{CONTEXT + 5}\b.*\b{CONTEXT}\b"):
        model.embed(draw_ids(5), start=CONTEXT)
    # The last token decoded is not fed back, so it may stand one beyond the context.
    assert greedy(model, draw_ids(CONTEXT - 3), 4).shape == (2, 4)
    with pytest.raises(ValueError, match=rf"{CONTEXT + 1}\b.*\b{CONTEXT}\b"):
        greedy(model, draw_ids(CONTEXT - 3), 5)


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
    turned = torch.outer(torch.arange(length).double(), rope_frequencies(config()).double()).repeat(
        1, 2
    )
    return turned.cos(), turned.sin()


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
    assert ratio.min() == 1 and math.isclose(
        ratio.max(), factor, rel_tol=1e-6
    )  # both ends are reached
    assert ((ratio > 1.01) & (ratio < factor * 0.99)).any()  # and the transition


@torch.no_grad()
def test_the_cases_reach_what_they_name(tmp_path):
    # A settings name that transformers ignores would make its case a copy of another.
    build(tmp_path / "a", "gpt_neox", **CASES["neox rotary 0.75"][1])
    build(tmp_path / "b", "llama", **CASES["llama head 12 grouped"][1])
    build(tmp_path / "c", "gpt_neox", **CASES["neox theta"][1])
    a, b, c = (load(tmp_path / name, device="cpu")[0].config for name in "abc")
    assert (a.head_dim, a.rotary_dim) == (16, 12)
    assert (b.head_dim, b.num_kv_heads, b.num_heads * b.head_dim) == (
        12,
        2,
        48,
    ) and WIDTH != HEADS * 12
    assert (c.rotary_dim, c.rope_theta) == (8, 100.0)
