"""Rotary position embeddings (RoPE, Su et al. 2021): positions as rotations of queries and keys.

Each pair of components of a query or key is rotated by an angle that is proportional to its
position. The product of a query at position i and a key at position j then depends on i − j only.
"""

import torch
from torch import Tensor

from .config import ModelConfig

# Cosine and sine of the angles, each [T, rotary_dim]; None in a model without RoPE.
Rotation = tuple[Tensor, Tensor] | None


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each rotated pair, in radians: [rotary_dim / 2], float32.

    Plain RoPE has the angle θ^(−2i/rotary_dim) for pair i. Two methods that extend the context are
    supported (`config.rope_scaling`):

    - "linear" divides all frequencies by `factor`.
    - "llama3" (Llama 3.1) divides only the low ones by `factor`, those with a wavelength longer
      than the original context / `low_freq_factor`. It leaves those with a wavelength shorter than
      the original context / `high_freq_factor` as they are, and interpolates in between.
    """
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    frequency = 1.0 / config.rope_theta**exponents
    fields = dict(config.rope_scaling or ())
    kind = fields.pop("rope_type", "default")
    value = {name: float(field) for name, field in fields.items()}
    if kind == "linear":
        return frequency / value["factor"]
    if kind == "llama3":
        low, high = value["low_freq_factor"], value["high_freq_factor"]
        turns = value["original_max_position_embeddings"] * frequency / (2 * torch.pi)
        unscaled = ((turns - low) / (high - low)).clamp(0, 1)  # share that is left as it is
        return unscaled * frequency + (1 - unscaled) * frequency / value["factor"]
    return frequency


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [..., T, D] in the half-split layout; cos and sin are [T, rotary_dim].

    Component i is paired with component i + rotary_dim/2, not with its neighbour:

        [ x0 x1 | x2 x3 | x4 x5 ]     rotary_dim 4 of D 6: the pairs are (x0, x2) and (x1, x3),
          a  b    a  b                and x4, x5 stay as they are
    """
    size = cos.shape[-1]
    turning, rest = x[..., :size], x[..., size:]
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned, rest], dim=-1) if size < x.shape[-1] else turned
