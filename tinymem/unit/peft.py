"""adapter_config.json, by which peft says where an adapter's LoRAs belong and how they scale.

What peft computes as plain LoRA on Linear modules is accepted. What changes the weights of the base
model, or adds anything but A B to it, is refused by name. Absent fields have peft's defaults.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..base.folder import checked, read_json
from ..base.hub import ADAPTER_CONFIG as PEFT_CONFIG
from ..base.limited import LimitError, call_limited, matches
from ..base.model import Model
from ..errors import AdapterError, CheckpointError
from .lora import Unit
from .sites import ends_with, family_path, layer_of, linear_paths

LIMIT = 1_000_000  # bytes
ONLY: dict[str, tuple] = {  # the only values of these fields
    **{"peft_type": ("LORA",), "bias": ("none",)},
    # pissa, olora, corda, loftq and lora_ga change the weights of the base model.
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva", "mica"),
}
# Fields that are read below, or do not change what the tensors mean. Others must be false or null.
HARMLESS = {
    *("task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version"),
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out"),
    *("auto_mapping", "ensure_weight_tying", "eva_config"),
    *("loftq_config", "corda_config", "lora_ga_config"),  # read if init_lora_weights asks for them
    *("megatron_core", "qalora_group_size"),  # set even where their feature is off
}
NAMES = ("target_modules", "exclude_modules", "layers_pattern")
DEFAULTS = {"peft_type": None, "r": 8, "lora_alpha": 8, "target_modules": None}
ENDS = r"(.*\.)?"  # what may stand before the end of a path
LIMITS: dict[str, Any] = {"seconds": 10.0, "megabytes": 512}  # for regular expressions


class Place(NamedTuple):
    """How a LoRA stands beside a module."""

    rank: int = 0  # 0: as its tensors have it
    factor: float = 1.0  # peft multiplies A B with alpha / r, or with rslora alpha / √r


def write_config(unit: Unit, model: Model, targets: Sequence[str]) -> str:
    """The adapter_config.json of a unit; targets: the family's paths of its Linear sites."""
    ranks = {family_path(model, path): lora.A.shape[-1] for path, lora in unit.loras.items()}
    others = {path: rank for path, rank in ranks.items() if rank != unit.rank}
    config = {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none"},
        **{"base_model_name_or_path": model.name, "lora_dropout": 0.0},
        **{"r": unit.rank, "lora_alpha": unit.rank},  # alpha / r = 1: no scaling
        **{"rank_pattern": others, "alpha_pattern": others},
        "fan_in_fan_out": bool(model.family and model.family.transposed),
        "target_modules": list(targets),  # whole paths, so that nothing else matches
    }
    return json.dumps(config, indent=2) + "\n"


def find_places(model: Model, folder: Path) -> dict[str, Place]:
    """Our path of every module that the config names -> how its LoRA stands there.

    Raises AdapterError.
    """
    config, where = read_config(folder), folder / PEFT_CONFIG
    paths = dict(linear_paths(model))
    wanted, unwanted = (spell(config.get(f"{kind}_modules")) for kind in ("target", "exclude"))
    ranks, alphas = (
        {f"{ENDS}({key})": value for key, value in (config.get(f"{kind}_pattern") or {}).items()}
        for kind in ("rank", "alpha")
    )
    found = match([*wanted, *unwanted, *ranks, *alphas], list(paths.values()), where)
    chosen = {name for pattern in wanted for name in found[pattern]}
    chosen = chosen.difference(*(found[pattern] for pattern in unwanted))
    power = 0.5 if config.get("use_rslora") else 1
    places = {}
    for path, name in paths.items():
        if name in chosen and in_layers(config, path, name):
            # The first pattern that fits decides.
            rank = next((r for pattern, r in ranks.items() if name in found[pattern]), config["r"])
            own = (a for pattern, a in alphas.items() if name in found[pattern])
            places[path] = Place(rank, next(own, config["lora_alpha"]) / rank**power)
    if not places:
        named = f"target_modules {config['target_modules']!r:.80}"
        raise AdapterError(f"{where}: {named} match nothing in this base")
    return places


def read_config(folder: Path) -> dict[str, Any]:
    """The fields, each of the type that it needs. Raises AdapterError."""
    where = folder / PEFT_CONFIG
    try:
        if checked(folder, PEFT_CONFIG).stat().st_size > LIMIT:
            raise AdapterError(f"{where}: larger than {LIMIT:,} bytes; is it peft's?")
        config = DEFAULTS | read_json(folder, PEFT_CONFIG)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    for key, value in config.items():
        known = key in HARMLESS or not value
        if not (value in ONLY[key] if key in ONLY else known):
            problem = f"{key!r:.80} = {value!r:.80} is not supported, only plain LoRA is"
            raise AdapterError(f"{where}: {problem}")
    targets, layers = config["target_modules"], config.get("layers_to_transform")
    indices = layers if isinstance(layers, list) else [] if layers is None else [layers]
    valid = {
        **{key: are_names(config.get(key)) for key in NAMES},
        "layers_to_transform": all(type(n) is int and n >= 0 for n in indices)
        and not (indices and isinstance(targets, str)),  # peft refuses these two together
        "r": is_number(config["r"], whole=True),
        "lora_alpha": is_number(config["lora_alpha"]),
        "rank_pattern": are_numbers(config.get("rank_pattern"), whole=True),
        "alpha_pattern": are_numbers(config.get("alpha_pattern")),
        "use_rslora": config.get("use_rslora") in (None, True, False),
    }
    for key in valid:
        if not valid[key]:
            problem = f"{key} = {config.get(key)!r:.80} cannot be read as peft's"
            raise AdapterError(f"{where}: {problem}; save the adapter again")
    return config | {"layers_to_transform": indices}


def are_names(value: object) -> bool:
    return all(isinstance(v, str) for v in (value if isinstance(value, list) else [value or ""]))


def are_numbers(value: object, whole: bool = False) -> bool:
    numbers = {} if value is None else value
    return isinstance(numbers, dict) and all(is_number(v, whole) for v in numbers.values())


def is_number(value: object, whole: bool = False) -> bool:
    """Above 0, and not so large that float32 has no room for it."""
    kinds = (int,) if whole else (int, float)
    return type(value) in kinds and 0 < value < 1e30  # type: ignore[operator]


def spell(names: str | list[str] | None) -> list[str]:
    """Regular expressions for a field: a string is one; in a list are paths, or ends of paths."""
    if isinstance(names, str):
        return [".*" if names.lower() == "all-linear" else names]
    return [ENDS + re.escape(name) for name in names or []]


def in_layers(config: dict[str, Any], path: str, theirs: str) -> bool:
    """Whether layers_to_transform, if there are any, and layers_pattern include this module."""
    layers, patterns = config["layers_to_transform"], config.get("layers_pattern") or []
    if not layers or theirs in config["target_modules"]:  # whole paths are taken in any layer
        return True
    layer = layer_of(path)
    stack = theirs.partition(f".{layer}.")[0]  # such as model.layers
    names = [patterns] if isinstance(patterns, str) else patterns
    return layer in layers and (not names or any(ends_with(stack, name) for name in names))


def match(patterns: Sequence[str], names: Sequence[str], where: Path) -> dict[str, set[str]]:
    """Pattern -> the names that it matches as a whole.

    A regular expression may take hours (`(a+)+b` tries every way to split forty letters), so those
    that can repeat or choose are matched in a child process. Raises AdapterError.
    """
    bare = [pattern.removeprefix(ENDS) for pattern in patterns]
    simple = len(patterns) <= 1000 and not any(re.search(r"[*+?{|]", text) for text in bare)
    try:
        if simple:
            found = matches(patterns, names)
        else:
            found = call_limited(matches, patterns, names, **LIMITS)
    except (LimitError, ValueError, re.error, OverflowError, RecursionError) as error:
        problem = f"its module names cannot be matched as regular expressions ({error})"
        raise AdapterError(f"{where}: {problem:.300}; name the modules in a list") from error
    return dict(zip(patterns, map(set, found), strict=True))
