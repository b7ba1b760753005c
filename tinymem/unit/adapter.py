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
from .sites import family_path, layer_of, linear_paths, widths

OWN_FILE, PEFT_FILE = "unit.safetensors", "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FORMAT_VERSION = 1
PEFT_ALLOWED: dict[str, list] = {  # the only values of these fields of peft's config
    **{"peft_type": ["LORA"], "bias": ["none"]},
    "init_lora_weights": [None, True, False, "gaussian"],  # others change the base's weights
}
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


def is_own(path: str) -> bool:
    """Whether tinymem's own layout holds the LoRA: at the site mlp, which peft does not have."""
    return path.endswith(".mlp")


def tensor_names(model: Model, path: str) -> tuple[str, str]:
    """The names of A and B in the file."""
    if is_own(path):
        return f"{path}.lora_A", f"{path}.lora_B"
    theirs = f"base_model.model.{family_path(model, path)}"
    return f"{theirs}.lora_A.weight", f"{theirs}.lora_B.weight"


# --- Saving ------------------------------------------------------------------------------------


def save_adapter(unit: Unit, model: Model, folder: str | Path, **about: Any) -> None:
    """Write a unit of `model` into `folder`; `about` (memories, recipe, report) goes to the header.

    Raises AdapterError if the unit holds values that are not finite.
    """
    if not is_finite(unit):
        raise AdapterError("the unit holds NaN or infinite values; there is nothing to save")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    base = {"base": model.name, "base_weight_hash": base_hash(model)}
    where = {"sites": sorted({path.split(".", 2)[2] for path in unit.loras}), "layers": unit.layers}
    header = {"format_version": FORMAT_VERSION, **base, **where, "rank": unit.rank, **about}
    tensors: dict[str, Tensor] = {}
    for path, lora in unit.loras.items():
        for name, p in zip(tensor_names(model, path), (lora.A, lora.B), strict=True):
            value = p.detach().cpu()
            tensors[name] = (value if is_own(path) else value.t()).contiguous()
    targets = [family_path(model, path) for path in unit.loras if not is_own(path)]
    if targets:
        text = json.dumps(peft_config(unit, model, targets), indent=2) + "\n"
        write_text_atomically(folder / PEFT_CONFIG, text)
    metadata = {"format": "pt", "tinymem": json.dumps(header)}
    file = folder / (PEFT_FILE if targets else OWN_FILE)
    write_atomically(file, lambda path: save_file(tensors, path, metadata))


def peft_config(unit: Unit, model: Model, targets: list[str]) -> dict[str, Any]:
    """The adapter_config.json by which peft puts the LoRAs where they belong."""
    return {
        **{"peft_type": "LORA", "task_type": "CAUSAL_LM", "inference_mode": True, "bias": "none"},
        **{"base_model_name_or_path": model.name, "lora_dropout": 0.0},
        **{"r": unit.rank, "lora_alpha": unit.rank},  # alpha / r = 1: no scaling
        "fan_in_fan_out": bool(model.family and model.family.transposed),
        "target_modules": targets,  # whole paths, so that nothing else matches
    }


# --- Loading -----------------------------------------------------------------------------------


def read_unit(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a saved unit; peft's files have no header, which is then {}.

    Raises AdapterError if there is not one file, or if it is damaged.
    """
    files = [folder / name for name in (OWN_FILE, PEFT_FILE) if (folder / name).exists()]
    if not files:
        found = (folder / "adapter_model.bin").exists()
        hint = "adapter_model.bin, a pickle, is not loaded" if found else "is this a run's folder?"
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
        raise AdapterError(f"{files[0]}: not of format {FORMAT_VERSION}; is it of a newer tinymem?")
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
    tensors, about = read_unit(folder)
    if about and about.get("base_weight_hash") != base_hash(model):
        problem = f"written for {about.get('base')!r} with other weights than {model.name!r} has"
        raise AdapterError(f"{folder}: {problem}; load the base it was trained on")
    if (folder / OWN_FILE).exists():
        layers = [n for n in range(len(model.layers)) if about.get("layers") == [n]]
        if about.get("sites") != ["mlp"] or not layers:
            raise AdapterError(
                f"{folder}: the header does not name the site mlp and a layer of this base"
            )
        path = f"layers.{layers[0]}.mlp"
        loras = {path: _pop_lora(model, tensors, path, folder)}
    else:
        loras = _peft_loras(model, tensors, folder)
    if tensors:
        raise AdapterError(f"{folder}: tensors fit nowhere in this base: {sorted(tensors)[:5]}")
    return Unit(loras).attach(model)


def _pop_lora(model: Model, tensors: dict[str, Tensor], path: str, folder: Path) -> LoRA:
    """Takes A and B out of the tensors. Raises AdapterError."""
    names = tensor_names(model, path)
    for missing in set(names) - set(tensors):
        raise AdapterError(f"{folder}: tensor {missing} is missing")
    A, B = (tensors.pop(name).float() for name in names)
    if not is_own(path):  # peft's are transposed
        A, B = A.t(), B.t()
    (d_in, d_out), rank = widths(model, path), A.shape[-1]
    if A.shape != (d_in, rank) or B.shape != (rank, d_out) or rank < 1:
        found = f"A B is {list(A.shape)} times {list(B.shape)}"
        needed = f"the base has {d_in} inputs and {d_out} outputs there"
        raise AdapterError(f"{folder}: at {family_path(model, path)}, {found}; {needed}")
    lora = LoRA(d_in, d_out, rank)
    lora.A.data, lora.B.data = A.contiguous(), B.contiguous()
    return lora.to(model.device)


def _read_peft_config(path: Path) -> dict[str, Any]:
    try:
        config = {"peft_type": None} | json.loads(path.read_text(encoding="utf-8"))
        targets, layers = config["target_modules"], config.get("layers_to_transform")
        re.compile(targets if isinstance(targets, str) else "")
        config["lora_alpha"] = float(config["lora_alpha"])
        if not isinstance(targets, str | list | None) or not isinstance(layers, int | list | None):
            raise TypeError(f"target_modules {targets!r}, layers_to_transform {layers!r}")
    except (OSError, ValueError, TypeError, KeyError, re.error) as error:
        raise AdapterError(f"{path}: cannot be read as peft's ({error!r})") from error
    for key, value in config.items():
        harmless = not value or key in PEFT_HARMLESS
        if not (value in PEFT_ALLOWED[key] if key in PEFT_ALLOWED else harmless):
            raise AdapterError(f"{path}: {key} = {value!r} is not supported, only plain LoRA is")
    return config


def _peft_loras(model: Model, tensors: dict[str, Tensor], folder: Path) -> dict[str, LoRA]:
    """Takes the LoRAs out of the tensors, one for every module that peft's config names."""
    config = _read_peft_config(folder / PEFT_CONFIG)
    targets, layers = config["target_modules"], config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers
    pattern = ".*" if targets == "all-linear" else targets
    if not isinstance(targets, str):  # names, or ends of paths
        pattern = "|".join(rf"(.*\.)?{re.escape(str(name))}" for name in targets or [])
    loras = {}
    for path, theirs in linear_paths(model):
        if re.fullmatch(pattern, theirs) and (not layers or layer_of(path) in layers):
            lora = loras[path] = _pop_lora(model, tensors, path, folder)
            rank = lora.A.shape[1]
            # peft adds alpha/r (or, with rslora, alpha/√r) times A B; here the factor goes into B.
            lora.B.data *= config["lora_alpha"] / (rank**0.5 if config.get("use_rslora") else rank)
    if not loras:
        raise AdapterError(f"{folder}: target_modules {targets!r} match nothing in this base")
    return loras
