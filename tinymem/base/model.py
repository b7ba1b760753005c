"""One decoder-only transformer that is GPT-2, Llama, Mistral, Qwen2, Qwen3 or GPT-NeoX.

The families differ in a few choices. Each choice is a field of `ModelConfig` and takes effect in a
constructor, so `forward` is the same for all of them. Modules have the names of Hugging Face's
Llama (`layers.0.self_attn.q_proj`).

Shapes in comments: B sequences, T positions, d hidden size, H heads, D size of a head, V vocabulary

    ids [B, T] -> embed -> h [B, T, d] -> layers 0 … n-1 -> norm -> lm_head -> logits [B, T, V]

Every module computes in the dtype of its input and casts its weights to it. A bfloat16 model
therefore runs in float32 arithmetic when its embeddings are cast to float32, without a second copy
of the weights. The verdict on a memory (experiment/recall.py) uses this.
"""

from collections.abc import Collection
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import DataError
from .config import ACTIVATIONS, ModelConfig
from .families import Family
from .progress import SILENT, Progress, bars_in_notebooks
from .rope import Rotation, rope_frequencies, rotate
from .tokenizer import Tokenizer

Dtype = torch.dtype | None  # of the arithmetic; None: that of the weights


class Embedding(nn.Embedding):
    """A table of vectors. On the meta device it has no values, and none are drawn."""

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # torch would import its compiler for this, which takes 2 s
            super().reset_parameters()


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
    """x / rms(x) * weight; the mean square is taken in float32, whatever the dtype of x."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return wide.to(x.dtype) * self.weight.to(x.dtype)


def make_norm(config: ModelConfig) -> nn.Module:
    """The normalisation of h [..., d] that this family uses."""
    kind = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}[config.norm]
    return kind(config.hidden_size, eps=config.norm_eps)


class KVCache:
    """Keys and values of the positions seen so far, for decoding token by token."""

    def __init__(
        self, config: ModelConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype
    ):
        shape = (config.num_layers, 2, batch, config.num_kv_heads, length, config.head_dim)
        self.store = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0  # positions filled

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k, v [B, heads, t, D] of one layer; returns all of its keys and values so far."""
        keys, values = self.store[layer, :, :, :, : self.length + k.shape[2]]
        keys[:, :, self.length :], values[:, :, self.length :] = k, v
        return keys, values


class Attention(nn.Module):
    """Causal self-attention; keys and values may have fewer heads than queries."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.fused = layer, config.fused_qkv
        self.heads, self.kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = size = config.head_dim
        d, q_size, kv_size = config.hidden_size, self.heads * size, self.kv_heads * size
        if self.fused:  # one matrix, as the checkpoint (and a LoRA written for it) has it
            self.qkv_proj = Linear(d, q_size + 2 * kv_size, bias=config.qkv_bias)
        else:
            self.q_proj = Linear(d, q_size, bias=config.qkv_bias)
            self.k_proj = Linear(d, kv_size, bias=config.qkv_bias)
            self.v_proj = Linear(d, kv_size, bias=config.qkv_bias)
        self.o_proj = Linear(q_size, d, bias=config.o_bias)
        self.q_norm = RMSNorm(size, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(size, config.norm_eps) if config.qk_norm else nn.Identity()

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [B, T, d] -> queries, keys, values, each [B, T, heads, D]."""
        if self.fused == "qkv-heads":
            return self.qkv_proj(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(-3)
        if self.fused == "heads-qkv":
            return self.qkv_proj(x).unflatten(-1, (self.heads, 3, self.head_dim)).unbind(-2)
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return tuple(t.unflatten(-1, (-1, self.head_dim)) for t in (q, k, v))

    def forward(self, x: Tensor, rope: Rotation = None, cache: KVCache | None = None) -> Tensor:
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
    """x [..., d] -> [..., d], each position alone; with a gate (SwiGLU) or without."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        d, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = Linear(d, inner, bias=config.mlp_bias) if config.gated_mlp else None
        self.up_proj = Linear(d, inner, bias=config.mlp_bias)
        self.down_proj = Linear(inner, d, bias=config.mlp_bias)
        function, options = ACTIVATIONS[config.activation]
        self.activation = partial(getattr(F, function), **options)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x)))
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """One layer. It is split in two where the paper's memory unit sits, beside the MLP."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.parallel = config.parallel_residual
        self.input_layernorm = make_norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = MLP(config)

    def attend(
        self, h: Tensor, rope: Rotation = None, cache: KVCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """h [B, T, d] -> (h after attention, x entering the MLP); the block gives h + mlp(x)."""
        after = h + self.self_attn(self.input_layernorm(h), rope, cache)
        return after, self.post_attention_layernorm(h if self.parallel else after)

    def forward(self, h: Tensor, rope: Rotation = None, cache: KVCache | None = None) -> Tensor:
        after, x = self.attend(h, rope, cache)
        return after + self.mlp(x)


class Model(nn.Module):
    """A base model; `model(ids)` gives logits.

    The loader (checkpoint.py) sets `name` and the other fields that begin as None.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.name = "unnamed"
        self.revision: str | None = None
        self.weight_hash: str | None = None
        self.value_hash: str | None = None
        self.family: Family | None = None
        self.tokenizer: Tokenizer | None = None
        d = config.hidden_size
        self.embed_tokens = Embedding(config.vocab_size, d)
        self.embed_positions = None if config.rotary_dim else Embedding(config.context, d)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_layers))
        self.norm = make_norm(config)
        self.lm_head = Linear(d, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    def embed(self, ids: Tensor, start: int = 0, dtype: Dtype = None) -> Tensor:
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

    def rope(self, h: Tensor, start: int = 0) -> Rotation:
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
        rope: Rotation = None,
        cache: KVCache | None = None,
        recompute: bool = False,
    ) -> Tensor:
        """h [B, T, d] entering layer `start` -> h leaving layer `stop - 1` (default: the last).

        rope: from `self.rope`; needed if h does not begin at position 0, else it only saves time.
        recompute: store only the input of each layer for the backward pass, and compute the other
            activations again there.
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

    def forward(self, ids: Tensor, dtype: Dtype = None) -> Tensor:
        """ids long [B, T] -> logits [B, T, V]; row t scores the token at position t + 1."""
        return self.head(self.run(self.embed(ids, dtype=dtype)))


@bars_in_notebooks
@torch.no_grad()
def greedy(
    model: Model,
    ids: Tensor,
    steps: int,
    dtype: Dtype = None,
    progress: Progress = SILENT,
    stop: Collection[int] = (),
) -> Tensor:
    """Decode `steps` tokens after ids [B, T], the likeliest token each time: long [B, steps].

    stop: ids with which a single sequence, B = 1, ends earlier.
    Raises DataError if the decoded sequence ends beyond the model's context.
    """
    batch, length = ids.shape
    cache = KVCache(model.config, batch, length + steps, model.device, dtype or model.dtype)
    decoded = []
    for _ in progress.track(range(steps), "decoding"):
        h = model.embed(ids, cache.length, dtype)
        h = model.run(h, rope=model.rope(h, cache.length), cache=cache)
        cache.length += ids.shape[1]
        ids = model.head(h[:, -1:]).argmax(-1)
        decoded.append(ids)
        if stop and ids.item() in stop:
            break
    return torch.cat(decoded, dim=1)
