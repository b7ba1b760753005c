"""Units on disk: safetensors, described by JSON in the file's header.

Linear sites    adapter_model.safetensors and adapter_config.json, which peft loads too:
                lora_A.weight [r, d_in], lora_B.weight [d_out, r], lora_alpha = r
site mlp        unit.safetensors, tinymem's own layout, since peft has no such unit:
                layers.K.mlp.lora_A [d, r], layers.K.mlp.lora_B [r, d]

In both, the key `tinymem` of the header's metadata is JSON with the name and the weight hash of the
base model, the memory as ids, the recipe and the report. Loading is strict: it is an error if the
base is another one, or if a tensor is missing, extra, of another shape or not finite. After an
error, nothing is attached.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..base.model import Model
from ..errors import AdapterError
from ..files import write_atomically, write_text_atomically
from .lora import LoRA, Unit
from .sites import ends_with, layer_of, linear_paths, widths

OWN_FILE, PEFT_FILE = "unit.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FORMAT_VERSION = 1
PEFT_PREFIX = "base_model.model."
# Fields of peft's config that are read below, or do not change what the tensors mean.
PEFT_HARMLESS = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "target_modules", "layers_to_transform"),
    *("lora_dropout", "fan_in_fan_out", "layers_pattern", "auto_mapping", "ensure_weight_tying"),
    *("megatron_core", "qalora_group_size", "peft_version"),  # set even where their feature is off
}


def base_hash(model: Model) -> str:
    """The weight hash of the checkpoint, or of the weights themselves where there was none."""
    if model.weight_hash is None:
        digest = hashlib.sha256()
        for name, value in sorted(model.named_parameters()):
            if ".lora." not in name:
                name = name.replace(".part.", ".")
                digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
                stored = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
                digest.update(stored.numpy().data)
        model.weight_hash = digest.hexdigest()
    return model.weight_hash


def is_finite(unit: Unit) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in unit.parameters())


# --- Saving ------------------------------------------------------------------------------------


def save_adapter(unit: Unit, model: Model, folder: str | Path, **about: Any) -> None:
    """Write a unit of `model` into `folder`; `about` (memories, recipe, report) goes to the header.

    Raises AdapterError if the unit holds values that are not finite.
    """
    if not is_finite(unit):
        raise AdapterError("the unit holds NaN or infinite values; there is nothing to save")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format_version": FORMAT_VERSION,
        "base": model.name,
        "base_weight_hash": base_hash(model),
        "sites": sorted({path.split(".", 2)[2] for path in unit.loras}),
        "layers": unit.layers,
        "rank": unit.rank,
        **about,
    }
    tensors: dict[str, Tensor] = {}
    targets: list[str] = []
    for path, lora in unit.loras.items():
        A, B = lora.A.detach().cpu(), lora.B.detach().cpu()
        if path.endswith(".mlp"):
            tensors |= {f"{path}.lora_A": A.contiguous(), f"{path}.lora_B": B.contiguous()}
        else:
            theirs = model.family.theirs(path) if model.family else path
            targets.append(theirs)
            tensors[f"{PEFT_PREFIX}{theirs}.lora_A.weight"] = A.t().contiguous()
            tensors[f"{PEFT_PREFIX}{theirs}.lora_B.weight"] = B.t().contiguous()
    if targets:
        text = json.dumps(peft_config(unit, model, targets), indent=2) + "\n"
        write_text_atomically(folder / PEFT_CONFIG, text)
    metadata = {"format": "pt", "tinymem": json.dumps(header)}
    name = PEFT_FILE if targets else OWN_FILE
    write_atomically(folder / name, lambda path: save_file(tensors, path, metadata))


def peft_config(unit: Unit, model: Model, targets: list[str]) -> dict[str, Any]:
    """The adapter_config.json by which peft puts the LoRAs where they belong."""
    fixed = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none"}
    return fixed | {
        "base_model_name_or_path": model.name,
        "r": unit.rank,
        "lora_alpha": unit.rank,  # alpha / r = 1: no scaling
        "lora_dropout": 0.0,
        "fan_in_fan_out": bool(model.family and model.family.transposed),
        "target_modules": targets,  # whole paths, so that nothing else matches
    }


# --- Loading -----------------------------------------------------------------------------------


def read_about(folder: Path) -> dict[str, Any]:
    """The header of a saved unit; {} for one that peft wrote. Raises AdapterError."""
    return _read(Path(folder))[1]


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    files = [folder / name for name in (OWN_FILE, PEFT_FILE) if (folder / name).exists()]
    if not files:
        pickle = next((p.name for p in folder.glob("adapter_model.bin")), None)
        found = f"found {pickle}, a pickle, which is never loaded" if pickle else ""
        hint = found or "is this a run's folder?"
        raise AdapterError(f"{folder}: no {OWN_FILE} and no {PEFT_FILE}; {hint}")
    if len(files) > 1:
        raise AdapterError(f"{folder}: holds both {OWN_FILE} and {PEFT_FILE}; keep one")
    try:
        with safe_open(files[0], framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("tinymem", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise AdapterError(f"{files[0]}: damaged ({error}); save or download it again") from error
    if not isinstance(about, dict) or (about and about.get("format_version") != FORMAT_VERSION):
        raise AdapterError(
            f"{files[0]}: not of format {FORMAT_VERSION}; was it written by a newer tinymem?"
        )
    for name, value in tensors.items():
        if not value.is_floating_point() or not torch.isfinite(value).all():
            raise AdapterError(f"{files[0]}: {name} holds NaN or infinite values, or no floats")
    return tensors, about


def load_adapter(model: Model, folder: str | Path) -> Unit:
    """Load a saved unit, tinymem's or peft's, and attach it to `model`.

    Raises AdapterError if the unit belongs to another base, or if a tensor is missing, extra, of
    another shape or not finite. peft's files hold only a name of the base, so of these only the
    shapes can be checked.
    """
    folder = Path(folder)
    tensors, about = _read(folder)
    if about and about.get("base_weight_hash") != base_hash(model):
        raise AdapterError(
            f"{folder}: written for the base {about.get('base')!r} with other weights than those "
            f"of {model.name!r}; load the base it was trained on"
        )
    loras: dict[str, LoRA] = {}
    if (folder / OWN_FILE).exists():
        path = _own_path(model, about, folder)
        loras[path] = _pop_lora(model, tensors, path, f"{path}.lora_{{}}", folder)
    else:
        config = _read_peft_config(folder)
        for path, theirs in _peft_paths(model, config, folder).items():
            name = f"{PEFT_PREFIX}{theirs}.lora_{{}}.weight"
            lora = loras[path] = _pop_lora(model, tensors, path, name, folder)
            lora.B.data *= _peft_scale(config, lora.A.shape[1])
    if tensors:
        names = ", ".join(sorted(tensors)[:5])
        raise AdapterError(f"{folder}: tensors that fit nowhere in this base: {names}")
    unit = Unit(loras)
    unit.train(False)
    return unit.attach(model)


def _pop_lora(model: Model, tensors: dict[str, Tensor], path: str, name: str, folder: Path) -> LoRA:
    """Takes A and B out of the tensors; `name` has {} in their place. Raises AdapterError."""
    names = [name.format(part) for part in "AB"]
    for missing in set(names) - set(tensors):
        raise AdapterError(f"{folder}: tensor {missing} is missing")
    A, B = (tensors.pop(name).float() for name in names)
    if name.endswith(".weight"):  # peft's are transposed
        A, B = A.t(), B.t()
    (d_in, d_out), rank = widths(model, path), A.shape[-1]
    if A.shape != (d_in, rank) or B.shape != (rank, d_out) or rank < 1:
        site = name.removeprefix(PEFT_PREFIX).partition(".lora_")[0]
        found = f"A B is {list(A.shape)} times {list(B.shape)}"
        raise AdapterError(
            f"{folder}: at {site}, {found}; the base has {d_in} inputs and {d_out} outputs there"
        )
    lora = LoRA(d_in, d_out, rank)
    lora.A.data, lora.B.data = A.contiguous(), B.contiguous()
    return lora.to(model.device)


def _own_path(model: Model, about: Mapping[str, Any], folder: Path) -> str:
    paths = [f"layers.{n}.mlp" for n in range(len(model.layers)) if about.get("layers") == [n]]
    if about.get("sites") != ["mlp"] or not paths:
        problem = "the header does not say a site mlp and a layer of this base"
        raise AdapterError(f"{folder / OWN_FILE}: {problem}")
    return paths[0]


def _read_peft_config(folder: Path) -> dict[str, Any]:
    path = folder / PEFT_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        targets, layers = config["target_modules"], config.get("layers_to_transform")
        re.compile(targets if isinstance(targets, str) else "")
        config["lora_alpha"] = float(config["lora_alpha"])
        if not isinstance(targets, str | list | None):
            raise TypeError(f"target_modules is {targets!r}")
        if not isinstance(layers, int | list | None):
            raise TypeError(f"layers_to_transform is {layers!r}")
    except (OSError, ValueError, TypeError, KeyError, re.error) as error:
        raise AdapterError(f"{path}: cannot be read as peft's ({error!r})") from error
    for key, only in (("peft_type", "LORA"), ("bias", "none")):
        if config.get(key, "none") != only:
            raise AdapterError(f"{path}: {key} {config.get(key)!r} is not supported, only {only}")
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start != "gaussian":
        raise AdapterError(f"{path}: {start} changes the base's weights; not supported")
    for key, value in config.items():
        if value and key not in PEFT_HARMLESS | {"bias", "init_lora_weights"}:
            raise AdapterError(f"{path}: {key} = {value!r} is not supported")
    return config


def _peft_scale(config: Mapping[str, Any], rank: int) -> float:
    """peft adds alpha/r (or, with rslora, alpha/√r) times A B; here the factor goes into B."""
    return config["lora_alpha"] / (rank**0.5 if config.get("use_rslora", False) else rank)


def _peft_paths(model: Model, config: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Our path -> the family's path of every module that the config gives a LoRA."""
    targets, layers = config.get("target_modules") or [], config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers

    def is_target(theirs: str) -> bool:
        if targets == "all-linear":
            return True
        if isinstance(targets, str):
            return re.fullmatch(targets, theirs) is not None
        return any(ends_with(theirs, target) for target in targets)

    wanted = {
        ours: theirs
        for ours, theirs in linear_paths(model)
        if is_target(theirs) and (not layers or layer_of(ours) in layers)
    }
    if not wanted:
        raise AdapterError(
            f"{folder / PEFT_CONFIG}: target_modules {targets!r} match nothing in this base"
        )
    return wanted
