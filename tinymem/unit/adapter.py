"""Units on disk: safetensors, with what they are in the file's header.

Linear sites    adapter_model.safetensors + adapter_config.json, peft's layout: peft loads it as it is
                lora_A.weight [r, d_in], lora_B.weight [d_out, r], lora_alpha = r
site mlp        unit.safetensors, tinymem's own, for peft has no such unit
                layers.K.mlp.lora_A [d, r], layers.K.mlp.lora_B [r, d]

In both, the header's metadata has a key `tinymem`: JSON with the base model's name and weight hash,
the memory as ids, the recipe and the report. Loading is strict: another base, or a tensor that is
missing, extra, of another shape or not finite, is an error, and nothing is attached.
"""

import hashlib
import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..base.model import Model
from ..errors import AdapterError
from ..files import write_atomically
from .lora import LoRA, Unit
from .sites import layer_of, linear_paths, sizes

OWN_FILE, PEFT_FILE, PEFT_CONFIG = (
    "unit.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
FORMAT_VERSION = 1
PEFT_PREFIX = "base_model.model."
# Fields of peft's config that change nothing about what its tensors mean, or that are read below.
PEFT_HARMLESS = {
    *(
        "peft_type",
        "task_type",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "peft_version",
    ),
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "target_modules", "layers_to_transform"),
    *("lora_dropout", "fan_in_fan_out", "layers_pattern", "auto_mapping", "ensure_weight_tying"),
    *("megatron_core", "qalora_group_size"),  # set even where their feature is off
}


def base_hash(model: Model) -> str:
    """The checkpoint's weight hash, or for a model that came from no checkpoint, one of its weights."""
    if model.weight_hash is None:
        digest = hashlib.sha256()
        for name, value in sorted(model.named_parameters()):
            if ".lora." not in name:
                digest.update(
                    f"{name.replace('.part.', '.')} {value.dtype} {list(value.shape)}".encode()
                )
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        model.weight_hash = digest.hexdigest()
    return model.weight_hash


def is_finite(unit: Unit) -> bool:
    return all(bool(torch.isfinite(p).all()) for p in unit.parameters())


# --- Saving ------------------------------------------------------------------------------------


def save_adapter(unit: Unit, model: Model, folder: str | Path, **about: object) -> None:
    """Write a unit of `model` into `folder`. `about` (memories, recipe, report, …) goes into the header.

    Raises AdapterError if the unit holds values that are not finite.
    """
    if not is_finite(unit):
        raise AdapterError("the unit holds NaN or infinite values; there is nothing to save")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "format_version": FORMAT_VERSION,
        "base": model.name,
        "base_weight_hash": base_hash(model),
        "sites": sorted({path.split(".", 2)[2] for path in unit.loras}),
        "layers": unit.layers,
        "rank": unit.rank,
        **about,
    }
    metadata = {"format": "pt", "tinymem": json.dumps(about)}
    tensors, targets = {}, []
    for path, lora in unit.loras.items():
        A, B = lora.A.detach().cpu(), lora.B.detach().cpu()
        if path.endswith(".mlp"):
            tensors |= {f"{path}.lora_A": A.contiguous(), f"{path}.lora_B": B.contiguous()}
        else:
            theirs = model.family.theirs(path) if model.family else path
            targets.append(theirs)
            tensors[f"{PEFT_PREFIX}{theirs}.lora_A.weight"] = A.t().contiguous()
            tensors[f"{PEFT_PREFIX}{theirs}.lora_B.weight"] = B.t().contiguous()
    name = PEFT_FILE if targets else OWN_FILE
    if targets:
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": model.name,
            "inference_mode": True,
            "r": unit.rank,
            "lora_alpha": unit.rank,  # no scaling: alpha / r = 1
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": bool(model.family and model.family.transposed),
            "target_modules": targets,  # whole paths, so exactly these
        }
        text = json.dumps(config, indent=2) + "\n"
        write_atomically(folder / PEFT_CONFIG, lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(folder / name, lambda path: save_file(tensors, path, metadata))


# --- Loading -----------------------------------------------------------------------------------


def read_about(folder: Path) -> dict:
    """The metadata of a saved unit; {} for one that peft wrote. Raises AdapterError."""
    return _read(Path(folder))[1]


def _read(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    files = [folder / name for name in (OWN_FILE, PEFT_FILE) if (folder / name).exists()]
    if not files:
        pickle = next((p.name for p in folder.glob("adapter_model.bin")), None)
        found = (
            f"found {pickle}, a pickle, which is never loaded"
            if pickle
            else "is this a run's folder?"
        )
        raise AdapterError(f"{folder}: no {OWN_FILE} and no {PEFT_FILE}; {found}")
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
            raise AdapterError(
                f"{files[0]}: {name} holds NaN or infinite values, or is not of floats"
            )
    return tensors, about


def load_adapter(model: Model, folder: str | Path) -> Unit:
    """Load a saved unit, tinymem's or peft's, and attach it to `model`.

    Raises AdapterError if it belongs to another base (peft's say no more than a name, so there only
    shapes can tell), or if a tensor is missing, extra, of another shape, or not finite.
    """
    folder = Path(folder)
    tensors, about = _read(folder)
    if about and about.get("base_weight_hash") != base_hash(model):
        raise AdapterError(
            f"{folder}: written for the base {about.get('base')!r} with other weights than those of "
            f"{model.name!r}; load the base it was trained on"
        )
    own = (folder / OWN_FILE).exists()
    config = {} if own else _peft_config(folder)
    wanted = _own_paths(model, about, folder) if own else _peft_paths(model, config, folder)
    unit = Unit({})
    for path, theirs in wanted.items():
        names = [f"{theirs}.lora_A", f"{theirs}.lora_B"]
        if not own:
            names = [f"{PEFT_PREFIX}{name}.weight" for name in names]
        for name in names:
            if name not in tensors:
                raise AdapterError(f"{folder}: tensor {name} is missing")
        A, B = (tensors.pop(name).float() for name in names)
        if not own:
            A, B = A.t(), B.t()
        d_in, d_out = sizes(model, path)
        rank = A.shape[-1]
        if A.shape != (d_in, rank) or B.shape != (rank, d_out) or rank < 1:
            raise AdapterError(
                f"{folder}: at {theirs}, A B is {list(A.shape)} times {list(B.shape)}; the base has "
                f"{d_in} inputs and {d_out} outputs there"
            )
        lora = LoRA(d_in, d_out, rank)
        lora.A.data, lora.B.data = (
            A.contiguous(),
            (B * (1.0 if own else _peft_scale(config, rank))).contiguous(),
        )
        unit.loras[path] = lora.to(model.device)
    if tensors:
        raise AdapterError(
            f"{folder}: tensors that fit nowhere in this base: {', '.join(sorted(tensors)[:5])}"
        )
    unit.train(False)
    return unit.attach(model)


def _own_paths(model: Model, about: dict, folder: Path) -> dict[str, str]:
    layers = about.get("layers")
    if about.get("sites") != ["mlp"] or layers not in [[k] for k in range(len(model.layers))]:
        raise AdapterError(
            f"{folder / OWN_FILE}: the header does not say a site mlp and a layer of this base"
        )
    return {f"layers.{k}.mlp": f"layers.{k}.mlp" for k in layers}


def _peft_config(folder: Path) -> dict:
    path = folder / PEFT_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        re.compile(config["target_modules"] if isinstance(config["target_modules"], str) else "")
        config["lora_alpha"] = float(config["lora_alpha"])
        for key in ("target_modules", "layers_to_transform"):
            if not isinstance(config.get(key), str | int | list | None):
                raise TypeError(f"{key} is {config[key]!r}")
        if isinstance(config["target_modules"], int) or isinstance(
            config.get("layers_to_transform"), str
        ):
            raise TypeError("target_modules are names, layers_to_transform numbers")
    except (OSError, ValueError, TypeError, KeyError, re.error) as error:
        raise AdapterError(f"{path}: cannot be read as peft's ({error!r})") from error
    if config.get("peft_type") != "LORA":
        raise AdapterError(
            f"{path}: peft_type {config.get('peft_type')!r} is not supported (only LORA)"
        )
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{path}: bias {config['bias']!r} is not supported (only 'none')")
    if (
        isinstance(config.get("init_lora_weights"), str)
        and config["init_lora_weights"] != "gaussian"
    ):
        raise AdapterError(
            f"{path}: {config['init_lora_weights']} changes the base's weights; not supported"
        )
    for key, value in config.items():
        if value and key not in PEFT_HARMLESS | {"bias", "init_lora_weights"}:
            raise AdapterError(f"{path}: {key} = {value!r} is not supported")
    return config


def _peft_scale(config: dict, rank: int) -> float:
    """peft adds alpha/r (or, with rslora, alpha/√r) times A B; here the factor goes into B."""
    return config["lora_alpha"] / (rank**0.5 if config.get("use_rslora", False) else rank)


def _peft_paths(model: Model, config: dict, folder: Path) -> dict[str, str]:
    """Our path -> the family's path of every module the config says has a LoRA."""
    targets, layers = config.get("target_modules") or [], config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers

    def hit(theirs: str) -> bool:
        if targets == "all-linear":
            return True
        if isinstance(targets, str):
            return re.fullmatch(targets, theirs) is not None
        return any(f".{theirs}".endswith(f".{target}") for target in targets)

    wanted = {
        ours: theirs
        for ours, theirs in linear_paths(model)
        if hit(theirs) and (not layers or layer_of(ours) in layers)
    }
    if not wanted:
        raise AdapterError(
            f"{folder / PEFT_CONFIG}: target_modules {targets!r} match nothing in this base"
        )
    return wanted
