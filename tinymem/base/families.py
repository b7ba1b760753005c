"""The supported families: how each one's config.json is read, and what it calls its tensors.

Fields of a config.json and modules go by the names that Llama gives them. GPT-2 and GPT-NeoX, which
have others, come with tables. In a module's name, `{}` stands for the number of the layer.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError
from .config import ACTIVATIONS, ModelConfig
from .fields import Fields

# --- Names of tensors: the checkpoint's module -> ours -------------------------------------------

GPT2_NAMES = {
    "transformer.wte": "embed_tokens",
    "transformer.wpe": "embed_positions",
    "transformer.h.{}.ln_1": "layers.{}.input_layernorm",
    "transformer.h.{}.attn.c_attn": "layers.{}.self_attn.qkv_proj",
    "transformer.h.{}.attn.c_proj": "layers.{}.self_attn.o_proj",
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
    "model.norm": "norm",
    "lm_head": "lm_head",
}


# Tensors that older versions of transformers and trl stored and that no logit depends on: tables of
# rotary positions, causal masks, and the value head of reinforcement learning
BUFFER = re.compile(
    r"(.+\.)?(rotary_emb\.\w+|inv_freq|(cos|sin)_cached)"
    r"|(.+\.)?(attn|self_attn|attention)\.(masked_)?bias|v_head\.summary\.(weight|bias)"
)


def split_layer(path: str) -> tuple[str, str]:
    """ "h.3.mlp" -> ("h.{}.mlp", "3"); a path without a layer -> (path, "")."""
    found = re.search(r"\.(\d+)\.", path)
    return (path.replace(found[0], ".{}.", 1), found[1]) if found else (path, "")


# --- Families ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one family are read."""

    names: dict[str, str]  # the checkpoint's module -> ours
    defaults: dict[str, Any]  # optional fields of config.json -> what their absence means
    fixed: dict[str, Any]  # fields of ModelConfig that config.json does not decide
    fields: dict[str, str] = field(default_factory=dict)  # Llama's name of a field -> the family's
    required: dict[str, Any] = field(default_factory=dict)  # field -> the only supported value
    prefix: str = "model."  # of the body's tensors; some files leave it out
    mlp_ratio: int | None = None  # intermediate / hidden size, where the config does not state it
    transposed: bool = False  # whether Linear weights are stored as [in, out]

    def ours(self, name: str) -> str | None:
        """A tensor of the checkpoint -> our parameter, or None."""
        module, _, kind = name.rpartition(".")
        for full in (module, self.prefix + module):
            key, layer = split_layer(full)
            if key in self.names and kind in ("weight", "bias"):
                return f"{self.names[key].format(layer)}.{kind}"
        return None

    def theirs(self, path: str) -> str:
        """Our module -> the module's path in the family's own checkpoints, and in peft."""
        key, layer = split_layer(path)
        names = {ours: theirs for theirs, ours in self.names.items()}
        return names[key].format(layer)


# What Llama, Mistral and Qwen share: RMSNorm, rotary positions, a gated MLP, and key and value
# heads that groups of query heads use.
DEFAULTS = dict(rms_norm_eps=1e-6, hidden_act="silu", tie_word_embeddings=False, rope_theta=1e4)
FIXED = dict(norm="rmsnorm", gated_mlp=True)
ALL_BIASES = dict(qkv_bias=True, o_bias=True, mlp_bias=True)
QWEN = DEFAULTS | dict(use_sliding_window=False, sliding_window=4096, max_window_layers=28)
QWEN3 = dict(attention_bias=False, head_dim=128)  # the family's default, not hidden size / heads
LLAMA = dict(attention_bias=False, mlp_bias=False)
GPT2_FIELDS = dict(hidden_size="n_embd", intermediate_size="n_inner", num_hidden_layers="n_layer")
GPT2_FIELDS |= dict(num_attention_heads="n_head", max_position_embeddings="n_positions")
GPT2_FIELDS |= dict(rms_norm_eps="layer_norm_epsilon", hidden_act="activation_function")
GPT2_REQUIRED = dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
GPT2_REQUIRED |= dict(add_cross_attention=False)
GPT_NEOX_FIELDS = dict(rms_norm_eps="layer_norm_eps", rope_theta="rotary_emb_base")
GPT_NEOX_FIELDS |= dict(partial_rotary_factor="rotary_pct")
GPT_NEOX_DEFAULTS = dict(rms_norm_eps=1e-5, hidden_act="gelu", partial_rotary_factor=0.25)
GPT_NEOX_DEFAULTS |= dict(attention_bias=True, use_parallel_residual=True)
FAMILIES = {
    "gpt2": Family(  # learned positions, one matrix for q, k and v, biases everywhere
        GPT2_NAMES,
        dict(rms_norm_eps=1e-5, hidden_act="gelu_new", tie_word_embeddings=True),
        dict(norm="layernorm", gated_mlp=False, rotary_dim=0, fused_qkv="qkv-heads") | ALL_BIASES,
        GPT2_FIELDS,
        GPT2_REQUIRED,
        prefix="transformer.",
        mlp_ratio=4,
        transposed=True,
    ),
    "gpt_neox": Family(  # Pythia: a quarter of each head rotates; attention and MLP read the same h
        GPT_NEOX_NAMES,
        DEFAULTS | GPT_NEOX_DEFAULTS,
        dict(norm="layernorm", gated_mlp=False, fused_qkv="heads-qkv", mlp_bias=True),
        GPT_NEOX_FIELDS,
        prefix="gpt_neox.",
    ),
    "llama": Family(LLAMA_NAMES, DEFAULTS | LLAMA, FIXED),  # 2 to 3.2; SmolLM2, TinyLlama
    "mistral": Family(LLAMA_NAMES, DEFAULTS | dict(sliding_window=4096), FIXED),
    "qwen2": Family(LLAMA_NAMES, QWEN, FIXED | dict(qkv_bias=True)),
    # A norm on each head's query and key; the size of a head is a field
    "qwen3": Family(LLAMA_NAMES, QWEN | QWEN3, FIXED | dict(qk_norm=True)),
}


def read_config(raw: dict[str, Any], where: str) -> tuple[ModelConfig, Family]:
    """The contents of a config.json -> the shape of the model, and its family.

    where: names the file in messages.
    Raises CheckpointError for an unknown `model_type`, a field that is missing or impossible, and
    anything that model.py cannot compute exactly.
    """
    family = FAMILIES[Fields(raw, where).choice("model_type", FAMILIES)]
    f = Fields(raw, where, family.fields, family.defaults)
    f.check("quantization_config", not f.get("quantization_config"), "none, unquantised weights")
    for key, value in family.required.items():
        f.check(key, raw.get(key, value) == value, repr(value))
    d, heads = f.count("hidden_size"), f.count("num_attention_heads")
    layers = f.count("num_hidden_layers", most=1000)  # to build more would take hours
    kv_heads, head_dim = heads, d // heads
    if "fused_qkv" not in family.fixed:
        kv_heads, head_dim = f.count("num_key_value_heads", heads), f.count("head_dim", head_dim)
    elif "rotary_dim" not in family.fixed:  # GPT-NeoX has no choice; GPT-2 never reads the field
        f.check("head_dim", raw.get("head_dim") in (None, head_dim), f"absent, or {head_dim}")
    if heads % kv_heads or (d % heads and head_dim == d // heads):
        sizes = f"hidden size {d}, {heads} heads and {kv_heads} key-value heads"
        raise CheckpointError(f"{where}: {sizes} do not divide without remainder")
    context = f.count("max_position_embeddings", raw.get("n_ctx"))
    window = f.sliding_window(layers)
    read: dict[str, Any] = dict(
        vocab_size=f.count("vocab_size"),
        hidden_size=d,
        intermediate_size=f.count("intermediate_size", family.mlp_ratio and family.mlp_ratio * d),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        context=min(context, window or context),  # a window that long never binds
        sliding_window=window if window and window < context else None,
        norm_eps=f.number("rms_norm_eps"),
        activation=f.choice("hidden_act", ACTIVATIONS),
        qkv_bias=f.flag("attention_bias"),
        o_bias=f.flag("attention_bias"),
        mlp_bias=f.flag("mlp_bias"),
        parallel_residual=f.flag("use_parallel_residual"),
        tied=f.flag("tie_word_embeddings"),
    )
    rope = {} if "rotary_dim" in family.fixed else f.rope(head_dim)
    return ModelConfig(**(read | rope | family.fixed)), family
