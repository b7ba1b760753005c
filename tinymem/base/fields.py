"""Reads the fields of a config.json; each is checked for type and range before it is used.

A configuration comes with a download and may hold anything. What model.py cannot compute exactly is
refused by name; nothing is approximated.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import CheckpointError

ROPE_TYPES = {  # type -> the fields it needs
    "default": (),
    "dynamic": (),  # the same up to the context, beyond which nothing is computed
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}


@dataclass(frozen=True)
class Fields:
    """Reads fields of a JSON object; raises CheckpointError with the name of a field that is wrong.

    A field is asked for by the name that it has in a Llama's config.json.
    """

    raw: dict[str, Any]
    where: str  # names the file in messages
    names: dict[str, str] = field(default_factory=dict)  # Llama's name -> the name in this file
    defaults: dict[str, Any] = field(default_factory=dict)  # Llama's name -> value if absent

    def get(self, key: str) -> Any:
        return self.raw.get(self.names.get(key, key), self.defaults.get(key))

    def check(self, key: str, valid: bool, expected: str) -> None:
        """Raise CheckpointError with the name and value of the field, unless it is valid."""
        if not valid:
            name, value = self.names.get(key, key), f"{self.get(key)!r:.80}"
            raise CheckpointError(f"{self.where}: {name!r} is {value}, expected {expected}")

    def choice(self, key: str, known: Iterable[str]) -> str:
        value, known = self.get(key), tuple(known)  # a tuple, because a JSON list has no hash
        self.check(key, value in known, f"one of {', '.join(known)}")
        return value

    def count(self, key: str, default: object = None, most: int = 2**31 - 1) -> int:
        """A whole number from 1 to `most`; null means that the field is absent.

        Most sizes have no default, because a wrong guess could fit the shapes of the weights.
        """
        value = self.raw.get(self.names.get(key, key))
        value = self.defaults.get(key, default) if value is None else value
        self.check(key, type(value) is int and 0 < value <= most, f"a whole number, 1 to {most:,}")
        return value

    def number(self, key: str) -> float:
        value = self.get(key)
        self.check(key, type(value) in (int, float) and 0 < value < 1e30, "a positive number")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; a field that the family does not have is false."""
        value = self.get(key) if key in self.defaults else False
        self.check(key, isinstance(value, bool), "true or false")
        return value

    def sliding_window(self, layers: int) -> int | None:
        """How many positions the layers with a sliding window see; None if there are none.

        Families without this field among their defaults never read it. Every layer of a Mistral has
        the window; Qwen's layers have it that `layer_types` names, or else the last ones.
        """
        if "sliding_window" not in self.defaults:
            return None
        slides = self.get("sliding_window") is not None
        if "use_sliding_window" in self.defaults:
            slides = slides and bool(self.get("use_sliding_window"))
            kinds, first = self.get("layer_types"), self.get("max_window_layers")
            if kinds is not None:
                known = ("full_attention", "sliding_attention")[: 1 + slides]
                valid = isinstance(kinds, list) and all(kind in known for kind in kinds)
                self.check("layer_types", valid, f"a list of {' and '.join(known)}")
                slides = "sliding_attention" in kinds
            elif slides:
                self.check("max_window_layers", type(first) is int, "a whole number")
                slides = first < layers
        return self.count("sliding_window") if slides else None

    def rope(self, head_dim: int) -> dict[str, Any]:
        """The fields of `ModelConfig` for rotary embeddings: rotary_dim, rope_theta, rope_scaling.

        They are read from the older fields (rope_theta, rope_scaling) or from the newer one
        (rope_parameters), in the order in which transformers looks for them.
        """
        key = "rope_scaling" if self.get("rope_scaling") else "rope_parameters"
        scaling = self.get(key) or {}
        flat = isinstance(scaling, dict) and not any(isinstance(v, dict) for v in scaling.values())
        self.check(key, flat, "a JSON object that is the same for every layer")
        partial = "partial_rotary_factor" in self.defaults  # elsewhere, whole heads rotate
        share = self.number("partial_rotary_factor") if partial else 1.0
        older = {"rope_theta": self.number("rope_theta"), "partial_rotary_factor": share}
        older["rope_type"] = scaling.get("type", "default")
        older["original_max_position_embeddings"] = self.get("max_position_embeddings")
        rope = Fields(scaling, f"{self.where}, {key}", defaults=older)
        size = int(head_dim * rope.number("partial_rotary_factor"))
        paired = 0 < size + size % 2 <= head_dim and (partial or size == head_dim)
        expected = f"{'a share' if partial else 'all'} of a head's {head_dim} components, in pairs"
        rope.check("partial_rotary_factor", paired, expected)
        kind = rope.choice("rope_type", ROPE_TYPES)
        needed = {key: rope.number(key) for key in ROPE_TYPES[kind]}
        scaled = tuple(sorted({"rope_type": kind, **needed}.items())) if needed else None
        return dict(rotary_dim=size, rope_theta=rope.number("rope_theta"), rope_scaling=scaled)
