"""The transformer computes what GPT-2, Llama, Mistral, Qwen2, Qwen3 and GPT-NeoX compute.

Oracle: transformers, on tiny checkpoints that it wrote itself with random weights, for every family
and every setting that changes the arithmetic: logits within 1e-4, and 64 equal decoded tokens.
Hand example: a root mean square. Properties: with a cache, in parts, and in another dtype, the
model gives the same result; no position sees a later one.
"""

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.checkpoints import (
    CONTEXT,
    HEADS,
    LINEAR,
    LLAMA3,
    OLD_ORACLE,
    VOCAB,
    WIDTH,
    build,
    draw_ids,
)
from tinymem.base.checkpoint import load
from tinymem.base.model import KVCache, RMSNorm, greedy

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


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen3", "gpt_neox"])
def model(request, tmp_path_factory):
    """A model of each kind: learned positions, RoPE, norms on heads, fused with partial RoPE."""
    folder = tmp_path_factory.mktemp("model")
    settings = {"n_layer": 3} if request.param == "gpt2" else {"num_hidden_layers": 3}
    build(folder, request.param, **settings)
    return load(folder, device="cpu")[0]


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_equals_transformers(case, tmp_path):
    kind, settings = CASES[case]
    if OLD_ORACLE and ("rope_parameters" in settings or "rotary 3" in case):
        pytest.skip("transformers 5 is the oracle of this")
    oracle = build(tmp_path, kind, seed=len(case), **settings)
    model, _ = load(tmp_path, device="cpu")
    ids = draw_ids(96, batch=2)
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


@torch.no_grad()
def test_greedy_with_cache_equals_greedy_without(model):
    ids = draw_ids(7, batch=2)
    whole = ids
    for _ in range(64):
        whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], dim=1)
    assert greedy(model, ids, 64).equal(whole[:, 7:])
    assert greedy(model, ids, 1).equal(whole[:, 7:8])


@torch.no_grad()
def test_the_cache_takes_a_prompt_and_then_single_positions(model):
    ids = draw_ids(10, batch=2)
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
    ids = draw_ids(40, batch=2)
    h = model.embed(ids)
    rope = model.rope(h)
    logits = model(ids)
    for cut in range(len(model.layers) + 1):
        # A loop over the layers written out, and the two calls that training makes.
        lower = model.run(h, 0, cut)
        assert model.head(model.run(lower, cut, None, rope=rope)).equal(logits)
    after, x = model.layers[1].attend(model.run(h, 0, 1), rope)
    assert (after + model.layers[1].mlp(x)).equal(model.run(h, 0, 2))


def test_rms_norm_by_hand():
    norm = RMSNorm(2, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 10.0])
    out = norm(torch.tensor([3.0, 4.0]))  # the mean square is (9 + 16) / 2 = 12.5
    torch.testing.assert_close(out, torch.tensor([3 / 12.5**0.5, 40 / 12.5**0.5]))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_takes_the_mean_square_in_float32(dtype):
    """Bit for bit as in transformers; a mean square in bfloat16 changes 9 % of the values."""
    draw = torch.Generator().manual_seed(0)
    theirs, ours = LlamaRMSNorm(576, eps=1e-5).to(dtype), RMSNorm(576, eps=1e-5)
    theirs.weight.copy_(torch.rand(576, generator=draw) + 0.5)
    ours.weight.copy_(theirs.weight)
    x = torch.randn(40, 576, generator=draw).to(dtype)
    assert ours(x).equal(theirs(x)) and ours(x).dtype == dtype


@torch.no_grad()
def test_no_position_sees_the_future(model):
    ids = draw_ids(30, batch=2)
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
    ids = draw_ids(50, batch=2)
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
    assert model(draw_ids(CONTEXT)).shape == (1, CONTEXT, VOCAB)
    with pytest.raises(ValueError, match=rf"{CONTEXT + 1}\b.*\b{CONTEXT}\b"):
        model(draw_ids(CONTEXT + 1))
    with pytest.raises(ValueError, match=rf"{CONTEXT + 5}\b.*\b{CONTEXT}\b"):
        model.embed(draw_ids(5, batch=2), start=CONTEXT)
    # The last token decoded is not fed back, so it may stand one beyond the context.
    assert greedy(model, draw_ids(CONTEXT - 3, batch=2), 4).shape == (2, 4)
    with pytest.raises(ValueError, match=rf"{CONTEXT + 1}\b.*\b{CONTEXT}\b"):
        greedy(model, draw_ids(CONTEXT - 3, batch=2), 5)


@torch.no_grad()
def test_the_cases_reach_what_they_name(tmp_path):
    # A setting whose name transformers ignored would make its case a copy of another.
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
