"""The families: real files' names, prefixes and buffers, and the older fields of their configs.

Oracle: transformers, on files changed to look like the hub's own gpt2, Pythia and older Llamas.
Hand example: the names of GPT-2's tensors. Property: the two directions of a table are inverse.
"""

import json

import pytest
import torch

from tests.checkpoints import (
    CONTEXT,
    HEADS,
    LAYERS,
    VOCAB,
    WIDTH,
    build,
    draw_ids,
    edit_json,
    edit_weights,
    same_weights,
)
from tinymem.base.checkpoint import load, open_checkpoint
from tinymem.base.families import BUFFER, FAMILIES


def test_names_by_hand():
    gpt2 = FAMILIES["gpt2"]
    fused = "layers.11.self_attn.qkv_proj.weight"
    assert gpt2.ours("transformer.h.11.attn.c_attn.weight") == fused
    assert gpt2.ours("h.11.mlp.c_fc.bias") == "layers.11.mlp.up_proj.bias"
    assert gpt2.ours("wpe.weight") == "embed_positions.weight"
    for buffer in ("h.0.attn.masked_bias", "transformer.h.11.attn.bias"):  # known, not needed
        assert gpt2.ours(buffer) is None and BUFFER.fullmatch(buffer)
    for unknown in (
        "h.0.attn.c_attn.scale",
        "h.0.moe.weight",
        "wte",
        "layers.0.mlp.up_proj.weight",
        "h.0.attn.masked_bias.weight",
        "h.0.attn.c_attn.masked_bias",
        "h.0.crossattn.bias",
    ):
        assert gpt2.ours(unknown) is None and not BUFFER.fullmatch(unknown)
    assert gpt2.theirs("layers.3.mlp.down_proj") == "transformer.h.3.mlp.c_proj"
    assert gpt2.theirs("lm_head") == "lm_head"


@pytest.mark.parametrize("kind", FAMILIES)
def test_our_names_and_theirs_are_inverse(kind, tmp_path):
    build(tmp_path, kind)
    checkpoint = open_checkpoint(tmp_path)
    for name, _ in checkpoint.shapes().named_parameters():
        module, _, part = name.rpartition(".")
        theirs = f"{checkpoint.family.theirs(module)}.{part}"
        assert checkpoint.family.ours(theirs) == name
        assert not BUFFER.fullmatch(theirs)


@torch.no_grad()
def test_gpt2_as_on_the_hub(tmp_path):
    oracle = build(tmp_path, "gpt2", vocab_size=VOCAB)
    clean, _ = load(tmp_path, device="cpu")

    def as_on_the_hub(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for i in range(LAYERS):
            tensors[f"h.{i}.attn.bias"] = torch.ones(CONTEXT, CONTEXT).tril()[None, None]
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        assert "wte.weight" in tensors and "lm_head.weight" not in tensors

    edit_weights(tmp_path, as_on_the_hub)
    fields = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": CONTEXT,
        "n_embd": WIDTH,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": CONTEXT,
        "vocab_size": VOCAB,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    model, _ = load(tmp_path, device="cpu")
    assert model.config == clean.config
    assert model.weight_hash == clean.weight_hash  # neither prefix nor buffers count
    assert (model(draw_ids(40)) - oracle(draw_ids(40)).logits).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("pct, base", [(0.25, 10_000), (0.5, 300)])
def test_pythia_as_on_the_hub(pct, base, tmp_path):
    oracle = build(tmp_path, "gpt_neox", rotary_pct=pct, rotary_emb_base=base)
    clean, _ = load(tmp_path, device="cpu")

    def add_buffers(tensors):
        for i in range(LAYERS):
            attention = f"gpt_neox.layers.{i}.attention"
            mask = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()[None, None]
            tensors[f"{attention}.bias"] = mask if i else mask.to(torch.uint8)
            tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)

    edit_weights(tmp_path, add_buffers)
    older = {"rotary_pct": pct, "rotary_emb_base": base, "torch_dtype": "float16"}
    edit_json(
        tmp_path / "config.json", drop=("rope_parameters", "dtype", "attention_bias"), **older
    )
    model, _ = load(tmp_path, device="cpu")
    assert model.config == clean.config
    assert model.weight_hash == clean.weight_hash
    assert (model(draw_ids(40)) - oracle(draw_ids(40)).logits).abs().max() < 1e-4


def test_llama_with_frequencies_stored(folder):
    clean, _ = load(folder, device="cpu")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda tensors: tensors.update({name: torch.ones(4)}))
    model, _ = load(folder, device="cpu")
    assert same_weights(model, clean)
