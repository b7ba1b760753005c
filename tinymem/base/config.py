"""The shape of a model, and the choices in which one family of models differs from another."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a model and the choices of its family (families.py reads them from a file)."""

    vocab_size: int  # V, rows of the embedding; may exceed the tokenizer's vocabulary
    hidden_size: int  # d, width of the residual stream
    intermediate_size: int  # width inside the MLP
    num_layers: int
    num_heads: int  # H, heads of the queries
    num_kv_heads: int  # heads of keys and values; fewer than H in grouped-query attention
    head_dim: int  # D, explicit because Qwen3's is not d / H
    context: int  # longest sequence the model was made for, in tokens; at most its sliding window
    norm: str  # "layernorm" (weight and bias) or "rmsnorm" (weight)
    norm_eps: float
    activation: str  # a key of ACTIVATIONS
    gated_mlp: bool  # down(act(gate(x)) * up(x)) or down(act(up(x)))
    rotary_dim: int  # leading components of a head that rotate; 0: learned position embeddings
    rope_theta: float = 10_000.0
    rope_scaling: tuple[tuple[str, float | str], ...] | None = None  # see rope.py
    fused_qkv: str | None = None  # one matrix: "qkv-heads" (GPT-2) or "heads-qkv" (GPT-NeoX)
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm on each head's query and key (Qwen3)
    parallel_residual: bool = False  # attention and MLP read the same h (GPT-NeoX)
    tied: bool = False  # lm_head is the embedding matrix
    sliding_window: int | None = None  # set if it made the context shorter; within it, none binds


TANH = {"approximate": "tanh"}
ACTIVATIONS = {  # name in a config.json -> function of torch.nn.functional, and its options
    "gelu": ("gelu", {}),
    "gelu_python": ("gelu", {}),
    "gelu_new": ("gelu", TANH),  # GPT-2's; the exact form differs by 5e-4
    "gelu_fast": ("gelu", TANH),
    "gelu_accurate": ("gelu", TANH),
    "gelu_pytorch_tanh": ("gelu", TANH),
    "gelu_python_tanh": ("gelu", TANH),
    "swish": ("silu", {}),
    **{name: (name, {}) for name in ("silu", "relu", "relu6", "leaky_relu", "hardswish", "mish")},
    **{name: (name, {}) for name in ("sigmoid", "tanh")},
}
