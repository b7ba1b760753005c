"""One decoder-only transformer that is GPT-2, Llama, Qwen2, Qwen3 or GPT-NeoX.

The five families differ in a few choices only; each is a field of `ModelConfig`, is acted on in a
constructor, and leaves `forward` the same for all. Module names are those of Hugging Face's Llama
(`layers.0.self_attn.q_proj`), so the code reads against any modern checkpoint.

Shapes in comments: B sequences, T positions, d hidden size, H heads, D size of a head, V vocabulary.

    ids [B, T] -> embed -> h [B, T, d] -> layers 0 … n-1 -> norm -> lm_head -> logits [B, T, V]

Every module computes in the dtype of its input and casts its weights to it. A bfloat16 model can
thus be run in float32 arithmetic, one weight at a time, by starting from float32 embeddings; the
verdict on a memory (recall.py) does that.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import DataError
from .progress import SILENT, Progress


@dataclass(frozen=True)
class ModelConfig:
    """All that distinguishes one supported model from another (filled by families.py)."""

    vocab_size: int  # V, rows of the embedding; may exceed the tokenizer's vocabulary
    hidden_size: int  # d, width of the residual stream
    intermediate_size: int  # width inside the MLP
    num_layers: int
    num_heads: int  # H, heads of the queries
    num_kv_heads: int  # heads of keys and values; fewer than H in grouped-query attention
    head_dim: int  # D, explicit: Qwen3's is not d / H
    context: int  # longest sequence the model was made for, in tokens
    norm: str  # "layernorm" (weight and bias) or "rmsnorm" (weight)
    norm_eps: float
    activation: str  # a key of ACTIVATIONS
    gated_mlp: bool  # down(act(gate(x)) * up(x)) or down(act(up(x)))
    rotary_dim: int  # leading components of a head that rotate; 0 = learned position embeddings
    rope_theta: float = 10_000.0
    rope_scaling: tuple[tuple[str, float | str], ...] | None = None  # sorted items of the dict
    fused_qkv: str | None = None  # None, "qkv-heads" (GPT-2) or "heads-qkv" (GPT-NeoX)
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm on each head's query and key (Qwen3)
    parallel_residual: bool = False  # attention and MLP read the same h (GPT-NeoX)
    tied: bool = False  # lm_head is the embedding matrix


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),  # GPT-2's; the exact form is 5e-4 off
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


class Linear(nn.Linear):
    """y = x Wᵀ + bias, computed in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight.to(x.dtype), bias)


class LayerNorm(nn.LayerNorm):
    """(x − mean) / deviation * weight + bias, computed in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the mean square is taken in float32 whatever the dtype of x."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight.to(x.dtype)


def make_norm(config: ModelConfig, size: int) -> nn.Module:
    kind = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}[config.norm]
    return kind(size, eps=config.norm_eps)


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each rotating pair: [rotary_dim / 2], float32.

    Plain RoPE is θ^(−2i/rotary_dim) (Su et al. 2021). `linear` stretches all wavelengths by
    `factor`. `llama3` (Llama 3.1) stretches only those longer than the original context divided by
    `low_freq_factor`, keeps those shorter than it divided by `high_freq_factor`, and goes over
    smoothly in between.
    """
    steps = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    frequency = 1.0 / config.rope_theta**steps
    scaling = dict(config.rope_scaling or ())
    kind = scaling.get("rope_type", "default")
    if kind == "linear":
        return frequency / scaling["factor"]
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * torch.pi)
        keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1 = short wave, 0 = long wave
        return keep * frequency + (1 - keep) * frequency / scaling["factor"]
    return frequency


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., T, D] in the half-split layout; cos, sin [T, rotary_dim].

    Component i turns together with component i + rotary_dim/2:

        [ x0 x1 | x2 x3 | x4 x5 ]     rotary_dim 4 of D 6: pairs (x0, x2) and (x1, x3)
          a  b    a  b    untouched
    """
    size = cos.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, rest], dim=-1) if size < x.shape[-1] else turned


class KVCache:
    """Keys and values of the positions already seen, for decoding token by token."""

    def __init__(self, config: ModelConfig, batch: int, length: int, device, dtype):
        shape = (config.num_layers, 2, batch, config.num_kv_heads, length, config.head_dim)
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0  # positions filled

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, H, t, D] of one layer; returns all of its keys and values so far."""
        end = self.length + k.shape[2]
        self.store[layer, 0, :, :, self.length : end] = k
        self.store[layer, 1, :, :, self.length : end] = v
        return self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]


class Attention(nn.Module):
    """Causal self-attention; keys and values may have fewer heads than queries."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.heads = layer, config.num_heads
        self.kv_heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.fused = config.fused_qkv
        d, q_size, kv_size = (
            config.hidden_size,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
        )
        if self.fused:  # one matrix, as the checkpoint (and a LoRA written for it) has it
            self.qkv_proj = Linear(d, q_size + 2 * kv_size, bias=config.qkv_bias)
        else:
            self.q_proj = Linear(d, q_size, bias=config.qkv_bias)
            self.k_proj = Linear(d, kv_size, bias=config.qkv_bias)
            self.v_proj = Linear(d, kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(q_size, d, bias=config.o_bias)
        self.q_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, d] -> queries, keys, values, each [B, T, heads, D]."""
        if self.fused == "qkv-heads":
            return self.qkv_proj(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)
        if self.fused == "heads-qkv":
            return self.qkv_proj(x).unflatten(-1, (self.heads, 3, self.head_dim)).unbind(-2)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return tuple(t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor] | None, cache: KVCache | None
    ) -> Tensor:
        """x [B, T, d] -> [B, T, d]; no position sees a later one."""
        q, k, v = self.project(x)
        q, k, v = self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        causal = q.shape[2] > 1  # a single query sees every position so far
        if cache is not None:
            if causal and cache.length:
                raise ValueError("a filled cache takes one new position at a time")
            k, v = cache.extend(self.layer, k, v)
        if self.kv_heads < self.heads:  # each key head serves a group of query heads
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)  # [B, H, T, D]
        return self.o_proj(out.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """x [..., d] -> [..., d] through a wider layer, position by position; with a gate (SwiGLU) or without."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(d, inner, bias=config.mlp_bias) if config.gated_mlp else None
        self.up_proj = Linear(d, inner, bias=config.mlp_bias)
        self.down_proj = Linear(inner, d, bias=config.mlp_bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer. It is split in two where the paper's memory unit sits, beside the MLP."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.parallel = config.parallel_residual
        self.input_layernorm = make_norm(config, config.hidden_size)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = make_norm(config, config.hidden_size)
        self.mlp = MLP(config)

    def attend(self, h: Tensor, rope, cache=None) -> tuple[Tensor, Tensor]:
        """h [B, T, d] -> (h after attention, x entering the MLP); the block's output is h + mlp(x)."""
        after = h + self.self_attn(self.input_layernorm(h), rope, cache)
        return after, self.post_attention_layernorm(h if self.parallel else after)

    def forward(self, h: Tensor, rope, cache=None) -> Tensor:
        after, x = self.attend(h, rope, cache)
        return after + self.mlp(x)


class Model(nn.Module):
    """A base model: `model(ids)` gives logits.

    `name`, `revision`, `weight_hash` and `family` say which weights these are; checkpoint.py fills them.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.name, self.revision, self.weight_hash, self.family = "unnamed", None, None, None
        d = config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, d)
        self.embed_positions = None if config.rotary_dim else nn.Embedding(config.context, d)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config, d)
        self.lm_head = Linear(d, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    def embed(self, ids: Tensor, start: int = 0, dtype: torch.dtype | None = None) -> Tensor:
        """ids long [B, T] at positions start … start+T-1 -> h [B, T, d], in `dtype` or the model's.

        Raises DataError if the sequence ends beyond the model's context.
        """
        end = start + ids.shape[-1]
        if end > self.config.context:
            raise DataError(f"{end} tokens exceed the model's context of {self.config.context}")
        h = self.embed_tokens(ids).to(dtype or self.dtype)
        if self.embed_positions is None:
            return h
        return h + self.embed_positions.weight[start:end].to(h.dtype)

    def rope(self, h: Tensor, start: int = 0) -> tuple[Tensor, Tensor] | None:
        """cos and sin [T, rotary_dim] for h [B, T, d] at positions start …; None without RoPE."""
        if not self.config.rotary_dim:
            return None
        positions = torch.arange(start, start + h.shape[1], dtype=torch.float32, device=h.device)
        angles = torch.outer(positions, rope_frequencies(self.config).to(h.device)).repeat(1, 2)
        return angles.cos().to(h.dtype), angles.sin().to(h.dtype)

    def run(
        self,
        h: Tensor,
        start: int = 0,
        stop: int | None = None,
        *,
        rope=None,
        cache=None,
        recompute=False,
    ) -> Tensor:
        """h [B, T, d] entering layer `start` -> h leaving layer `stop - 1` (default: the last).

        Pass `rope` (from `self.rope`) when h does not begin at position 0, or to compute it once.
        recompute: keep only each layer's h for the way back, and compute the rest again there.
        """
        rope = rope or self.rope(h)
        for layer in self.layers[start:stop]:
            if recompute:
                h = checkpoint(layer, h, rope, cache, use_reentrant=False, preserve_rng_state=False)
            else:
                h = layer(h, rope, cache)
        return h

    def head(self, h: Tensor) -> Tensor:
        """h [..., d] leaving the last layer -> logits [..., V]. Give it only the rows you need."""
        return self.lm_head(self.norm(h))

    def forward(self, ids: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """ids long [B, T] -> logits [B, T, V]; row t scores the token at position t + 1."""
        return self.head(self.run(self.embed(ids, dtype=dtype)))


@torch.no_grad()
def greedy(
    model: Model,
    ids: Tensor,
    steps: int,
    dtype: torch.dtype | None = None,
    progress: Progress = SILENT,
) -> Tensor:
    """Decode `steps` tokens after ids [B, T], the likeliest each time: long [B, steps]."""
    batch, seen = ids.shape
    cache = KVCache(model.config, batch, seen + steps, model.device, dtype or model.dtype)
    out = []
    for _ in progress.track(range(steps), "decoding"):
        h = model.embed(ids, cache.length, dtype)
        h = model.run(h, rope=model.rope(h, cache.length), cache=cache)
        cache.length += ids.shape[1]
        ids = model.head(h[:, -1:]).argmax(-1)
        out.append(ids)
    return torch.cat(out, dim=1)
