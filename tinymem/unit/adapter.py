"""Units on disk: safetensors, described by JSON in the file's header.

Linear sites    adapter_model.safetensors and adapter_config.json (peft.py), which peft loads too:
                lora_A.weight [r, d_in], lora_B.weight [d_out, r], lora_alpha = r
site mlp        unit.safetensors, tinymem's own layout, since peft has no such unit:
                layers.K.mlp.lora_A [d, r], layers.K.mlp.lora_B [r, d]

In both, the key `tinymem` of the header's metadata is JSON with the name and the weight hashes of
the base model, a hash of the tensors, the memory as ids, the recipe and the report. Loading is
strict: it is an error if the base is another one, if a tensor is missing, extra, of another shape
or not finite, or if the tensors have changed. After an error, nothing is attached.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..base.folder import LIMIT, checked, present
from ..base.hub import ADAPTER as PEFT_FILE, UNIT as OWN_FILE, download
from ..base.model import Model
from ..errors import AdapterError, CheckpointError, first_line
from ..files import write_bytes_atomically, write_text_atomically
from .lora import LoRA, Unit
from .peft import PEFT_CONFIG, Place, find_places, write_config
from .sites import family_path, widths

FORMAT_VERSION = 1
LARGEST = torch.finfo(torch.float32).max


def base_hash(model: Model) -> str:
    """The weight hash of the checkpoint, or of the weights themselves where there was none."""
    if model.weight_hash is None:
        own = {n: value for n, value in model.named_parameters() if ".lora." not in n}
        model.weight_hash = tensors_hash({n.replace(".part.", "."): own[n] for n in own})
    return model.weight_hash


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names, dtypes, shapes and bytes, by which a flipped bit is noticed."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        stored = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(stored.numpy().data)
    return digest.hexdigest()


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
    tensors: dict[str, Tensor] = {}
    for path, lora in unit.loras.items():
        for name, p in zip(tensor_names(model, path), (lora.A, lora.B), strict=True):
            value = p.detach().cpu()
            tensors[name] = (value if is_own(path) else value.t()).contiguous()
    base: dict[str, Any] = {"base": model.name, "base_weight_hash": base_hash(model)}
    base |= {"base_value_hash": model.value_hash, "tensors_hash": tensors_hash(tensors)}
    where = {"sites": sorted({path.split(".", 2)[2] for path in unit.loras}), "layers": unit.layers}
    header = {"format_version": FORMAT_VERSION, **base, **where, "rank": unit.rank, **about}
    targets = [family_path(model, path) for path in unit.loras if not is_own(path)]
    if targets:
        write_text_atomically(folder / PEFT_CONFIG, write_config(unit, model, targets))
    metadata = {"format": "pt", "tinymem": json.dumps(header)}
    file = folder / (PEFT_FILE if targets else OWN_FILE)
    # Not save_file, whose error on a full disk is no OSError.
    write_bytes_atomically(file, save(tensors, metadata))


# --- Loading -----------------------------------------------------------------------------------


def download_unit(folder: str | Path, revision: str | None) -> Path:
    """The folder itself; of a hub id, unless there is such a folder, its folder in the cache."""
    name = os.fspath(folder)
    if os.path.lexists(name) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII):
        return Path(folder)
    try:
        return download(name, revision, adapter=True)
    except CheckpointError as error:
        raise AdapterError(f"no folder of this name here, and from the hub: {error}") from error


def find_unit(folder: Path) -> Path:
    """The file of a saved unit: in the folder, or, as peft saves it with a name, in a subfolder.

    Raises AdapterError if there is not one file.
    """
    try:
        below = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except (OSError, ValueError):  # ValueError: a NUL in the name
        below = []
    for homes in ([folder], sorted(below)):
        files = [h / name for h in homes for name in (OWN_FILE, PEFT_FILE) if present(h, name)]
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in files[:5])
            raise AdapterError(f"{folder}: holds several units: {names}; name one, or keep one")
        if files:
            return files[0]
    found = present(folder, "adapter_model.bin")
    hint = "adapter_model.bin, a pickle, is not loaded" if found else "is this a run's folder?"
    raise AdapterError(f"{folder}: no {OWN_FILE} and no {PEFT_FILE}; {hint}")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """`safe_open`, after checks of the file. Raises AdapterError, also for what is done with it."""
    try:
        checked(path.parent, path.name)
        with path.open("rb") as raw:
            if int.from_bytes(raw.read(8), "little") > LIMIT:
                raise OSError(f"a header of more than {LIMIT:,} bytes")
        with safe_open(path, framework="pt") as file:
            yield file
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: of mmap
        problem = f"damaged ({first_line(error):.200}); save or download it again"
        raise AdapterError(f"{path}: {problem}") from error


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a saved unit; peft's files have none, which is then {}. Reads no tensors.

    Raises AdapterError if there is not one file, or if it is damaged.
    """
    path = find_unit(folder)
    with opened(path) as file:
        about = json.loads((file.metadata() or {}).get("tinymem", "{}"))
    if not isinstance(about, dict) or (about and about.get("format_version") != FORMAT_VERSION):
        raise AdapterError(f"{path}: not of format {FORMAT_VERSION}; is it of a newer tinymem?")
    return about


def read_unit(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a saved unit. Raises AdapterError."""
    path, about = find_unit(folder), read_header(folder)
    with opened(path) as file:
        # Copies, because Windows replaces no file of which a part is mapped into memory.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    for name, value in tensors.items():
        if not value.is_floating_point() or not torch.isfinite(value.float()).all():
            problem = "holds no floats, or such as float32 has no room for: NaN, infinite, 1e39"
            raise AdapterError(f"{path}: {name!r:.80} {problem}")
    if about.get("tensors_hash") not in (None, tensors_hash(tensors)):  # older units have none
        raise AdapterError(f"{path}: damaged (its tensors have changed); save or download it again")
    return tensors, about


def load_adapter(model: Model, folder: str | Path, *, revision: str | None = None) -> Unit:
    """Load a saved unit, tinymem's or peft's, and attach it to `model`.

    folder: of a run or an adapter, or the hub id org/name of one, which is downloaded.
    revision: branch, tag or commit of a hub id.
    Raises AdapterError if the unit belongs to another base, or if a tensor is missing, extra, of
    another shape or not finite. peft's files hold only a name of the base, so of these only the
    shapes can be checked.
    """
    unit = read_adapter(model, download_unit(folder, revision))
    for lora in unit.loras.values():
        lora.to(model.device)
    return unit.attach(model)


def read_adapter(model: Model, folder: Path) -> Unit:
    """A saved unit, on the CPU and not attached, after the checks of `load_adapter`.

    For peft's files the model may be on the meta device. Raises AdapterError.
    """
    path = find_unit(folder)
    about = read_header(path.parent)
    same_values = model.value_hash and about.get("base_value_hash") == model.value_hash
    if about and not same_values and about.get("base_weight_hash") != base_hash(model):
        written = f"written for {about.get('base')!r:.80} with other weights"
        raise AdapterError(f"{path}: {written} than {model.name!r} has; load its own base")
    if path.stat().st_size > LIMIT + 8 * sum(p.numel() for p in model.parameters()):
        raise AdapterError(f"{path}: larger than its base model {model.name!r}; is it a unit?")
    tensors, _ = read_unit(path.parent)
    if path.name == OWN_FILE:
        layers = [n for n in range(len(model.layers)) if about.get("layers") == [n]]
        if about.get("sites") != ["mlp"] or not layers:
            problem = "the header does not name the site mlp and a layer of this base"
            raise AdapterError(f"{path}: {problem}")
        places = {f"layers.{layers[0]}.mlp": Place()}
    else:
        places = find_places(model, path.parent)
    loras = {at: _pop_lora(model, tensors, at, place, path) for at, place in places.items()}
    if tensors:
        names = f"{sorted(tensors)[:5]}"
        raise AdapterError(f"{path}: tensors fit nowhere in this base: {names:.400}")
    return Unit(loras)


def _pop_lora(model: Model, tensors: dict[str, Tensor], at: str, place: Place, path: Path) -> LoRA:
    """Takes A and B of the LoRA at a place out of the tensors. Raises AdapterError."""
    names = tensor_names(model, at)
    for missing in sorted(set(names) - set(tensors)):
        others = f"; the file has {min(tensors)!r:.200}, …" if tensors else ""
        raise AdapterError(f"{path}: tensor {missing} is missing{others}")
    A, B = (tensors.pop(name).float() for name in names)
    if not is_own(at) and A.ndim == B.ndim == 2:  # peft's are transposed
        A, B = A.t(), B.t()
    (d_in, d_out), rank = widths(model, at), place.rank or (A.shape or (0,))[-1]
    if A.shape != (d_in, rank) or B.shape != (rank, d_out) or rank < 1:
        found = f"A B is {list(A.shape)} times {list(B.shape)}"
        needed = f"the base has {d_in} inputs and {d_out} outputs there"
        needed += f", and {PEFT_CONFIG} the rank {place.rank}" if place.rank else ""
        raise AdapterError(f"{path}: at {family_path(model, at)}, {found}; {needed}")
    B = B * place.factor
    if not rank * float(A.abs().max()) * float(B.abs().max()) < LARGEST:
        raise AdapterError(f"{path}: at {family_path(model, at)}, A B is infinite in float32")
    lora = LoRA(d_in, d_out, rank)
    lora.A.data, lora.B.data = A.contiguous(), B.contiguous()
    return lora
