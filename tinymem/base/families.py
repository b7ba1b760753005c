"""The supported families: how each one's config.json is read, and what it calls its tensors.

A family has a reader, from config.json to a `ModelConfig`, and a table of names, from the modules
of its checkpoints to ours. In a table, `{}` stands for the number of the layer, and `None` marks
buffers that are known and not needed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError
from .config import ModelConfig
from .fields import Fields

MOST_LAYERS = 1000  # building more, as a hostile config may ask for, would take hours


# --- From config.json to ModelConfig -------------------------------------------------------------


def sizes(f: Fields) -> dict[str, Any]:
    """The fields that have the same name in every family but GPT-2."""
    return {
        "vocab_size": f.count("vocab_size"),
        "hidden_size": f.count("hidden_size"),
        "intermediate_size": f.count("intermediate_size"),
        "num_layers": f.count("num_hidden_layers", most=MOST_LAYERS),
        "num_heads": f.count("num_attention_heads"),
        "context": f.count("max_position_embeddings"),
    }


def gpt2(f: Fields) -> ModelConfig:
    """Learned positions, one matrix for q, k and v, biases everywhere."""
    f.require(
        scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False
    )
    d, heads = f.count("n_embd"), f.count("n_head")
    return ModelConfig(
        vocab_size=f.count("vocab_size"),
        hidden_size=d,
        intermediate_size=f.count("n_inner", 4 * d),
        num_layers=f.count("n_layer", most=MOST_LAYERS),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=f.head_dim(d, heads),
        context=f.count("n_positions", f.raw.get("n_ctx")),
        norm="layernorm",
        norm_eps=f.number("layer_norm_epsilon", 1e-5),
        activation=f.activation("activation_function", "gelu_new"),
        gated_mlp=False,
        rotary_dim=0,
        fused_qkv="qkv-heads",
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        tied=f.flag("tie_word_embeddings", True),
    )


def gpt_neox(f: Fields) -> ModelConfig:
    """Pythia: a quarter of each head rotates; attention and MLP read the same h."""
    common = sizes(f)
    head_dim = f.head_dim(common["hidden_size"], common["num_heads"])
    bias = f.flag("attention_bias", True)
    return ModelConfig(
        **common,
        **f.rope(head_dim, "rotary_emb_base", share=f.number("rotary_pct", 0.25)),
        num_kv_heads=common["num_heads"],
        head_dim=head_dim,
        norm="layernorm",
        norm_eps=f.number("layer_norm_eps", 1e-5),
        activation=f.activation("hidden_act", "gelu"),
        gated_mlp=False,
        fused_qkv="heads-qkv",
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
        parallel_residual=f.flag("use_parallel_residual", True),
        tied=f.flag("tie_word_embeddings", False),
    )


def llama_like(f: Fields, head_dim: int | None = None, **family: Any) -> ModelConfig:
    """RMSNorm, rotary positions, a gated MLP, key and value heads that groups of queries share.

    head_dim: where the family has a default of its own. family: fields in which it differs.
    """
    common = sizes(f)
    d, heads = common["hidden_size"], common["num_heads"]
    kv_heads = f.count("num_key_value_heads", heads)
    if heads % kv_heads:
        raise f.error(f"{heads} heads cannot share {kv_heads} key-value heads evenly")
    head_dim = head_dim or f.count("head_dim", f.head_dim(d, heads))
    return ModelConfig(
        **common,
        **f.rope(head_dim),
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        norm="rmsnorm",
        norm_eps=f.number("rms_norm_eps", 1e-6),
        activation=f.activation("hidden_act", "silu"),
        gated_mlp=True,
        tied=f.flag("tie_word_embeddings", False),
        **family,
    )


def llama(f: Fields) -> ModelConfig:
    """Llama 2 to 3.2, SmolLM2, TinyLlama."""
    f.refuse_sliding_window(f.raw.get("use_sliding_window", True) and f.raw.get("sliding_window"))
    bias = f.flag("attention_bias", False)
    return llama_like(f, qkv_bias=bias, o_bias=bias, mlp_bias=f.flag("mlp_bias", False))


def mistral(f: Fields) -> ModelConfig:
    """As Llama, and only without a sliding window."""
    f.refuse_sliding_window(f.raw.get("sliding_window", 4096))  # the family's default is 4096
    return llama_like(f)


def qwen2(f: Fields) -> ModelConfig:
    """As Llama, with biases on q, k and v."""
    f.refuse_sliding_window(f.raw.get("use_sliding_window", False) and f.raw.get("sliding_window"))
    return llama_like(f, qkv_bias=True)


def qwen3(f: Fields) -> ModelConfig:
    """As Llama, with a norm on each head's query and key; the size of a head is a field."""
    f.refuse_sliding_window(f.raw.get("use_sliding_window", False) and f.raw.get("sliding_window"))
    bias = f.flag("attention_bias", False)
    size = f.count("head_dim", 128)  # the family's default; not hidden size / heads
    return llama_like(f, size, qkv_bias=bias, o_bias=bias, qk_norm=True)


# --- Names of tensors ----------------------------------------------------------------------------

GPT2_NAMES = {
    "transformer.wte": "embed_tokens",
    "transformer.wpe": "embed_positions",
    "transformer.h.{}.ln_1": "layers.{}.input_layernorm",
    "transformer.h.{}.attn.c_attn": "layers.{}.self_attn.qkv_proj",
    "transformer.h.{}.attn.c_proj": "layers.{}.self_attn.o_proj",
    "transformer.h.{}.attn.bias": None,  # the causal mask, kept as a buffer
    "transformer.h.{}.attn.masked_bias": None,
    "transformer.h.{}.ln_2": "layers.{}.post_attention_layernorm",
    "transformer.h.{}.mlp.c_fc": "layers.{}.mlp.up_proj",
    "transformer.h.{}.mlp.c_proj": "layers.{}.mlp.down_proj",
    "transformer.ln_f": "norm",
    "lm_head": "lm_head",
}
GPT_NEOX_NAMES = {
    "gpt_neox.embed_in": "embed_tokens",
    "gpt_neox.layers.{}.input_layernorm": "layers.{}.input_layernorm",
    "gpt_neox.layers.{}.attention.query_key_value": "layers.{}.self_attn.qkv_proj",
    "gpt_neox.layers.{}.attention.dense": "layers.{}.self_attn.o_proj",
    "gpt_neox.layers.{}.attention.bias": None,
    "gpt_neox.layers.{}.attention.masked_bias": None,
    "gpt_neox.layers.{}.attention.rotary_emb.inv_freq": None,
    "gpt_neox.layers.{}.post_attention_layernorm": "layers.{}.post_attention_layernorm",
    "gpt_neox.layers.{}.mlp.dense_h_to_4h": "layers.{}.mlp.up_proj",
    "gpt_neox.layers.{}.mlp.dense_4h_to_h": "layers.{}.mlp.down_proj",
    "gpt_neox.final_layer_norm": "norm",
    "embed_out": "lm_head",
}
LLAMA_PARTS = (  # our names are Llama's
    *("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"),
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
)
LLAMA_NAMES = {
    "model.embed_tokens": "embed_tokens",
    **{f"model.layers.{{}}.{part}": f"layers.{{}}.{part}" for part in LLAMA_PARTS},
    "model.layers.{}.self_attn.rotary_emb.inv_freq": None,
    "model.norm": "norm",
    "lm_head": "lm_head",
}


def split_layer(path: str) -> tuple[str, str]:
    """ "h.3.mlp" -> ("h.{}.mlp", "3"); a path without a layer -> (path, "")."""
    found = re.search(r"\.(\d+)\.", path)
    return (path.replace(found[0], ".{}.", 1), found[1]) if found else (path, "")


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one family are read."""

    read: Callable[[Fields], ModelConfig]
    names: dict[str, str | None]  # the checkpoint's module -> ours; None: known, not needed
    prefix: str = "model."  # of the body's tensors; some files leave it out
    transposed: bool = False  # whether Linear weights are stored as [in, out]

    def ours(self, name: str) -> tuple[str | None, bool]:
        """A tensor of the checkpoint -> (our parameter or None, whether the name is known)."""
        for full in (name, self.prefix + name):
            key, layer = split_layer(full)
            if key in self.names and self.names[key] is None:
                return None, True
            module, _, kind = key.rpartition(".")
            path = self.names.get(module)
            if path and kind in ("weight", "bias"):
                return f"{path.format(layer)}.{kind}", True
        return None, False

    def theirs(self, path: str) -> str:
        """Our module -> the module's path in the family's own checkpoints, and in peft."""
        key, layer = split_layer(path)
        names = {ours: theirs for theirs, ours in self.names.items()}
        return names[key].format(layer)


FAMILIES = {
    "gpt2": Family(gpt2, GPT2_NAMES, "transformer.", transposed=True),
    "gpt_neox": Family(gpt_neox, GPT_NEOX_NAMES, "gpt_neox."),
    "llama": Family(llama, LLAMA_NAMES),
    "mistral": Family(mistral, LLAMA_NAMES),
    "qwen2": Family(qwen2, LLAMA_NAMES),
    "qwen3": Family(qwen3, LLAMA_NAMES),
}


def read_config(raw: dict[str, Any], where: str) -> tuple[ModelConfig, Family]:
    """The contents of a config.json -> the shape of the model, and its family.

    where: names the file in messages.
    Raises CheckpointError for an unknown `model_type`, a field that is missing or impossible, and
    anything that model.py cannot compute exactly.
    """
    kind = raw.get("model_type")
    if kind not in tuple(FAMILIES):
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"{where}: model_type {kind!r} is not supported (supported: {known})")
    fields, family = Fields(raw, where), FAMILIES[kind]
    if quantised := fields.table("quantization_config"):
        method = quantised.get("quant_method", "unknown")
        raise fields.error(
            f"the weights are quantised ({method}); choose the unquantised checkpoint"
        )
    return family.read(fields), family
