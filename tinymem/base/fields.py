"""Reads the fields of a config.json; each is checked for type and range before it is used.

A configuration comes with a download and may hold anything. What model.py cannot compute exactly is
refused by name; nothing is approximated.
"""

import json
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_line
from .config import ACTIVATIONS

ROPE_TYPES = {  # type -> the fields it needs
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: no {path.name}; is this the folder of a checkpoint?"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


class Fields:
    """Reads fields of a config.json; raises CheckpointError with the name of a field that is wrong.

    raw: the JSON object. where: names the file in messages.
    """

    def __init__(self, raw: dict[str, Any], where: str):
        self.raw, self.where = raw, where

    def error(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: {message}")

    def count(self, key: str, default: int | None = None, most: int = 2**31 - 1) -> int:
        """A whole number from 1 to `most`. Without a default, the field must be there.

        Sizes have no default, because a wrong guess could fit the shapes of the weights.
        """
        value = self.raw.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(f"{key!r} is missing; the config must state the model's sizes")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            raise self.error(f"{key!r} is {value!r}, expected a whole number, 1 to {most:,}")
        return value

    def number(self, key: str, default: float, raw: dict[str, Any] | None = None) -> float:
        """A positive, finite number; of another JSON object if `raw` is given."""
        value = (self.raw if raw is None else raw).get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < 1e30:
            raise self.error(f"{key!r} is {value!r}, expected a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key!r} is {value!r}, expected true or false")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """A JSON object; empty if there is none."""
        value = self.raw.get(key) or {}
        if not isinstance(value, dict):
            raise self.error(f"{key!r} is {value!r}, expected a JSON object")
        return value

    def activation(self, key: str, default: str) -> str:
        value = self.raw.get(key, default)
        if value not in tuple(ACTIVATIONS):  # a tuple, because a JSON list cannot be hashed
            known = ", ".join(ACTIVATIONS)
            raise self.error(f"{key} {value!r} is not supported (supported: {known})")
        return value

    def head_dim(self, hidden_size: int, heads: int) -> int:
        """Size of a head where the config does not state it: the hidden size / heads."""
        if hidden_size % heads:
            raise self.error(f"hidden size {hidden_size} is not divisible by {heads} heads")
        return hidden_size // heads

    def require(self, **supported: object) -> None:
        """Accept one value only for each of these fields; a field that is absent has that value."""
        for key, value in supported.items():
            if self.raw.get(key, value) != value:
                raise self.error(f"{key} = {self.raw[key]!r} is not supported (only {value!r} is)")

    def refuse_sliding_window(self, window: object) -> None:
        """Accept full attention only: no window (None, 0), and no layer of another type."""
        kinds = self.raw.get("layer_types") or []
        kinds = set(map(str, kinds if isinstance(kinds, list) else [kinds])) - {"full_attention"}
        if window or kinds:
            kind = ", ".join(sorted(kinds)) or f"a window of {window}"
            raise self.error(
                f"sliding-window attention ({kind}) is not supported; choose a model without it"
            )

    def rope(
        self, head_dim: int, theta_key: str = "rope_theta", share: float | None = None
    ) -> dict[str, Any]:
        """The fields of `ModelConfig` for rotary embeddings: rotary_dim, rope_theta, rope_scaling.

        They are read from the older fields (`theta_key`, rope_scaling) or from the newer one
        (rope_parameters), in the order in which transformers looks for them.
        share: default for the share of a head's components that rotate; None: all must rotate.
        """
        scaling = self.table("rope_scaling") or self.table("rope_parameters")
        if any(isinstance(value, dict) for value in scaling.values()):
            raise self.error("rope parameters that differ from layer to layer are not supported")
        theta = self.number("rope_theta", self.number(theta_key, 10_000.0), scaling)
        rotating = self.number("partial_rotary_factor", share or 1.0, scaling)
        if share is None and rotating != 1:
            raise self.error(
                f"partial_rotary_factor = {rotating} is not supported for this model_type "
                "(only 1 is)"
            )
        size = int(head_dim * rotating)
        if not 0 < size + size % 2 <= head_dim:  # components rotate in pairs
            raise self.error(
                f"{rotating} of a head's {head_dim} components (rotary_pct, "
                "partial_rotary_factor) cannot rotate in pairs"
            )
        fields = self.rope_scaling(scaling)
        return {"rotary_dim": size, "rope_theta": theta, "rope_scaling": fields}

    def rope_scaling(self, scaling: dict[str, Any]) -> tuple[tuple[str, float | str], ...] | None:
        """The fields that a method of extending the context needs, sorted; None for plain RoPE."""
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind not in tuple(ROPE_TYPES):
            known = ", ".join(ROPE_TYPES)
            raise self.error(f"rope type {kind!r} is not supported (supported: {known})")
        for key in ROPE_TYPES[kind]:
            if key not in scaling:
                raise self.error(f"rope type {kind!r} needs {key!r}")
        needed = {key: self.number(key, 0, scaling) for key in ROPE_TYPES[kind]}
        return tuple(sorted({"rope_type": kind, **needed}.items())) if needed else None
