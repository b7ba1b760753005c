"""A small random transformer in which a unit trains within a second, without a checkpoint."""

import torch

from tinymem.base.model import Linear, Model, ModelConfig
from tinymem.data.memory import Memory


def toy_model(seed: int = 0, layers: int = 4, **fields) -> Model:
    """Four Llama-like layers of width 64. The random weights are large enough for sharp logits."""
    config = dict(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=128,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        context=128,
        norm="rmsnorm",
        norm_eps=1e-6,
        activation="silu",
        gated_mlp=True,
        rotary_dim=16,
    )
    generator = torch.Generator().manual_seed(seed)
    model = Model(ModelConfig(**(config | fields)))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "embed_tokens.weight":
                p.normal_(0, 0.5, generator=generator)
            elif p.ndim == 2:
                std = (2 if name == "lm_head.weight" else 1) / p.shape[1] ** 0.5
                p.normal_(0, std, generator=generator)
            elif name.endswith("bias"):
                p.normal_(0, 0.1, generator=generator)
    assert all(isinstance(m, Linear) for m in model.modules() if isinstance(m, torch.nn.Linear))
    return model.eval().requires_grad_(False)


def toy_memory(length: int = 16, prompt: int = 3, seed: int = 0, vocab: int = 97) -> Memory:
    """A memory of `length` random tokens after a random prompt."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocab, (prompt + length,), generator=generator)
    return Memory(ids[:prompt], ids[prompt:])
