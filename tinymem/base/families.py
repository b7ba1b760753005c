"""The five families: how each one's config.json reads, and what it calls its tensors.

A family is two tables. `config.json` becomes a `ModelConfig`; a tensor's name becomes ours, where
`{}` is the layer number and `None` marks buffers that are known and not needed. Llama, Qwen2 and
Qwen3 need no names of their own: ours are theirs. What a config asks for and model.py cannot do
exactly is refused by name; nothing is approximated.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import CheckpointError
from .model import ACTIVATIONS, ModelConfig

MOST_LAYERS = 1000  # a hostile config could have us build layers for hours
ROPE_TYPES = {  # type -> the fields it needs
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


class Fields:
    """A config.json that answers with values of the right type, or with a line that names the field."""

    def __init__(self, raw: dict, where: str):
        self.raw, self.where = raw, where

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}")

    def count(self, key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        """A positive integer. Sizes have no default: a wrong guess could fit the weights' shapes."""
        value = self.raw.get(key)
        value = default if value is None else value
        if value is None:
            raise self.fail(f"{key!r} is missing; the config must state the model's sizes")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            raise self.fail(f"{key!r} is {value!r}, expected a whole number, 1 to {most:,}")
        return value

    def number(self, key: str, default: float, raw: dict | None = None) -> float:
        value = (self.raw if raw is None else raw).get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e30:
            raise self.fail(
                f"{key!r} is {value!r}, expected a positive number"
            )  # 1e30: nor infinity
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(f"{key!r} is {value!r}, expected true or false")
        return value

    def table(self, key: str) -> dict:
        value = self.raw.get(key) or {}
        if not isinstance(value, dict):
            raise self.fail(f"{key!r} is {value!r}, expected a JSON object")
        return value

    def activation(self, key: str, default: str) -> str:
        value = self.raw.get(key, default)
        if value not in tuple(ACTIVATIONS):  # a tuple: JSON's lists cannot be looked up in a dict
            raise self.fail(
                f"{key} {value!r} is not supported (supported: {', '.join(ACTIVATIONS)})"
            )
        return value

    def refuse(self, **unsupported: object) -> None:
        """Fail if a field has any value but the one given, which is also its default."""
        for key, expected in unsupported.items():
            if self.raw.get(key, expected) != expected:
                raise self.fail(
                    f"{key} = {self.raw[key]!r} is not supported (only {expected!r} is)"
                )

    def refuse_sliding_window(self) -> None:
        on = self.raw.get("sliding_window") and self.raw.get("use_sliding_window", True)
        kinds = self.raw.get("layer_types") or []
        kinds = set(map(str, kinds if isinstance(kinds, list) else [kinds])) - {"full_attention"}
        if on or kinds:
            kind = ", ".join(sorted(kinds)) or f"a window of {self.raw['sliding_window']}"
            raise self.fail(
                f"sliding-window attention ({kind}) is not supported; choose a model without it"
            )

    def rope(self, theta: str = "rope_theta", base: float = 10_000.0, share: float = 1.0) -> dict:
        """RoPE from the older fields (rope_theta, rope_scaling) or the newer one (rope_parameters)."""
        scaling = self.table("rope_scaling") or self.table(
            "rope_parameters"
        )  # in transformers' order
        if any(isinstance(value, dict) for value in scaling.values()):
            raise self.fail("rope parameters that differ from layer to layer are not supported")
        base = self.number(theta, base)
        base = self.number("rope_theta", base, scaling)
        share = self.number("partial_rotary_factor", share, scaling)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in tuple(ROPE_TYPES):
            raise self.fail(
                f"rope type {kind!r} is not supported (supported: {', '.join(ROPE_TYPES)})"
            )
        for key in ROPE_TYPES[kind]:
            if key not in scaling:
                raise self.fail(f"rope type {kind!r} needs {key!r}")
        needed = {key: self.number(key, 0, scaling) for key in ROPE_TYPES[kind]}
        items = None if kind == "default" else tuple(sorted({"rope_type": kind, **needed}.items()))
        return {"rope_theta": base, "rope_scaling": items, "share": share}

    def rotary_dim(self, head_dim: int, share: float) -> int:
        size = int(head_dim * share)
        if not 0 < size + size % 2 <= head_dim:  # components turn in pairs
            raise self.fail(
                f"a share of {share} (rotary_pct, partial_rotary_factor) of {head_dim} components cannot turn"
            )
        return size


def heads(f: Fields, hidden: int, count: int) -> int:
    """Size of a head where the config does not state it."""
    if hidden % count:
        raise f.fail(f"hidden size {hidden} is not divisible by {count} heads")
    return hidden // count


def sizes(f: Fields) -> dict[str, int]:
    """The fields that every family but GPT-2 calls the same."""
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
    f.refuse(
        scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False
    )
    d, n_heads = f.count("n_embd"), f.count("n_head")
    return ModelConfig(
        vocab_size=f.count("vocab_size"),
        hidden_size=d,
        intermediate_size=f.count("n_inner", 4 * d),
        num_layers=f.count("n_layer", most=MOST_LAYERS),
        num_heads=n_heads,
        num_kv_heads=n_heads,
        head_dim=heads(f, d, n_heads),
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
    d, n_heads = common["hidden_size"], common["num_heads"]
    head_dim = heads(f, d, n_heads)
    rope = f.rope("rotary_emb_base", share=f.number("rotary_pct", 0.25))
    bias = f.flag("attention_bias", True)
    return ModelConfig(
        **common,
        num_kv_heads=n_heads,
        head_dim=head_dim,
        norm="layernorm",
        norm_eps=f.number("layer_norm_eps", 1e-5),
        activation=f.activation("hidden_act", "gelu"),
        gated_mlp=False,
        rotary_dim=f.rotary_dim(head_dim, rope.pop("share")),
        **rope,
        fused_qkv="heads-qkv",
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=True,
        parallel_residual=f.flag("use_parallel_residual", True),
        tied=f.flag("tie_word_embeddings", False),
    )


def llama_like(f: Fields, **family) -> ModelConfig:
    """RMSNorm, rotary positions, a gated MLP, shared key and value heads; `family`: what differs."""
    f.refuse_sliding_window()
    common = sizes(f)
    d, n_heads = common["hidden_size"], common["num_heads"]
    n_kv = f.count("num_key_value_heads", n_heads)
    if n_heads % n_kv:
        raise f.fail(f"{n_heads} heads cannot share {n_kv} key-value heads evenly")
    rope = f.rope()
    share = rope.pop("share")
    if share != 1:
        raise f.fail(
            f"partial_rotary_factor = {share} is not supported for this model_type (only 1 is)"
        )
    head_dim = family.pop("head_dim", None) or f.count("head_dim", heads(f, d, n_heads))
    return ModelConfig(
        **common,
        num_kv_heads=n_kv,
        head_dim=head_dim,
        norm="rmsnorm",
        norm_eps=f.number("rms_norm_eps", 1e-6),
        activation=f.activation("hidden_act", "silu"),
        gated_mlp=True,
        rotary_dim=f.rotary_dim(head_dim, share),
        **rope,
        tied=f.flag("tie_word_embeddings", False),
        **family,
    )


def llama(f: Fields) -> ModelConfig:
    """Llama 2 to 3.2, SmolLM2, TinyLlama."""
    bias = f.flag("attention_bias", False)
    return llama_like(f, qkv_bias=bias, o_bias=bias, mlp_bias=f.flag("mlp_bias", False))


def mistral(f: Fields) -> ModelConfig:
    """As Llama; without a sliding window only."""
    # The family's default is a window of 4096, and it has no field to turn one off.
    f.raw = {"sliding_window": 4096, **f.raw, "use_sliding_window": True}
    return llama_like(f)


def qwen2(f: Fields) -> ModelConfig:
    """As Llama, with biases on q, k and v."""
    f.raw.setdefault("use_sliding_window", False)
    return llama_like(f, qkv_bias=True)


def qwen3(f: Fields) -> ModelConfig:
    """As Llama, with norms on each head's query and key, and heads of a size of their own."""
    f.raw.setdefault("use_sliding_window", False)
    bias = f.flag("attention_bias", False)
    size = f.count("head_dim", 128)  # the family's default; not hidden size / heads
    return llama_like(f, qkv_bias=bias, o_bias=bias, qk_norm=True, head_dim=size)


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
LLAMA_NAMES = {
    "model.embed_tokens": "embed_tokens",
    **{
        f"model.layers.{{}}.{part}": f"layers.{{}}.{part}"
        for part in (
            *("input_layernorm", "post_attention_layernorm"),
            *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
            *("self_attn.q_norm", "self_attn.k_norm"),
            *(f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")),
        )
    },
    "model.layers.{}.self_attn.rotary_emb.inv_freq": None,
    "model.norm": "norm",
    "lm_head": "lm_head",
}


@dataclass(frozen=True)
class Family:
    read: Callable[[Fields], ModelConfig]
    names: dict[str, str | None]  # the checkpoint's module -> ours; None = known, not needed
    prefix: str = "model."  # of the body's tensors; some files leave it out
    transposed: bool = False  # GPT-2 stores its Linear weights as [in, out]

    def ours(self, name: str) -> tuple[str | None, bool]:
        """A checkpoint's tensor name -> (our parameter's name or None, is it known)."""
        for full in (name, self.prefix + name):
            layer = re.search(r"\.(\d+)\.", full)
            key = full if layer is None else full.replace(layer[0], ".{}.", 1)
            module, _, kind = key.rpartition(".")
            if key in self.names and self.names[key] is None:
                return None, True
            if kind in ("weight", "bias") and self.names.get(module):
                path = self.names[module] if layer is None else self.names[module].format(layer[1])
                return f"{path}.{kind}", True
        return None, False

    def theirs(self, path: str) -> str:
        """Our module path -> the module's path in the family's own checkpoints (and in peft)."""
        layer = re.search(r"\.(\d+)\.", path)
        key = path if layer is None else path.replace(layer[0], ".{}.", 1)
        back = {mine: name for name, mine in self.names.items() if mine}
        return back[key] if layer is None else back[key].format(layer[1])


FAMILIES = {
    "gpt2": Family(gpt2, GPT2_NAMES, "transformer.", transposed=True),
    "gpt_neox": Family(gpt_neox, GPT_NEOX_NAMES, "gpt_neox."),
    "llama": Family(llama, LLAMA_NAMES),
    "mistral": Family(mistral, LLAMA_NAMES),
    "qwen2": Family(qwen2, LLAMA_NAMES),
    "qwen3": Family(qwen3, LLAMA_NAMES),
}


def read_config(raw: dict, where: str) -> tuple[ModelConfig, Family]:
    """config.json's contents -> the model's shape and its family.

    `where` names the file in messages. Raises CheckpointError for an unknown `model_type`, a missing
    or impossible field, and anything model.py cannot do exactly.
    """
    kind = raw.get("model_type")
    if kind not in tuple(FAMILIES):
        raise CheckpointError(
            f"{where}: model_type {kind!r} is not supported (supported: {', '.join(FAMILIES)})"
        )
    fields, family = Fields(dict(raw), where), FAMILIES[kind]
    if quantised := fields.table("quantization_config"):
        method = quantised.get("quant_method", "unknown")
        raise CheckpointError(
            f"{where}: the weights are quantised ({method}); choose the unquantised checkpoint"
        )
    return family.read(fields), family
