"""Writes a base model with a LoRA added to its weights, as a Hugging Face folder.

    W += (A B)ᵀ    summed in float32, and cast last

All other tensors are copied bit for bit, and every tensor has the name and the layout of the base
checkpoint: GPT-2 stores W transposed, and GPT-NeoX queries, keys and values in one matrix. A head
that is tied to the embedding stays so. The tokenizer, the chat template and the settings of
generation come along.

Tensors are read, summed and written one at a time, so that memory holds one of them, whatever the
size of the model. The files are written beside their place, in a folder that is renamed when
all of them are on the disk: a folder of merged weights is complete, or it is not there.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import system
from ..base.arithmetic import full_precision
from ..base.checkpoint import Checkpoint
from ..base.folder import (
    GENERATION,
    OLDER_TOKENIZER,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    checked,
    present,
    read_json,
)
from ..base.hub import INDEX, WEIGHTS
from ..base.progress import SILENT, Progress
from ..base.weights import find_sources, open_weights, tensor_files
from ..errors import AdapterError, CheckpointError
from ..unit.lora import LoRA, Unit

SHARD = 5_000_000_000  # bytes of tensors in one file, as in transformers; a larger tensor is alone
# "tokenizer.model" is the older format of Llama's tokenizer, which some programs need.
COPIED = (TOKENIZER, *OLDER_TOKENIZER, *TOKENIZER_SETTINGS, "tokenizer.model", GENERATION)
CONFIG = "config.json"
DTYPE_FIELDS = "dtype", "torch_dtype"  # of a config.json, which has one of them, or none
KINDS = {  # safetensors' name -> torch's
    **{"F64": torch.float64, "F32": torch.float32},
    **{"F16": torch.float16, "BF16": torch.bfloat16},
}


class Stored(NamedTuple):
    """A tensor of the base checkpoint, and how it is to be written."""

    name: str
    path: Path  # its file
    shape: list[int]
    kind: str  # the dtype to write, as safetensors names it: F32, BF16, I64, …
    ours: str | None  # our parameter; None for a buffer, which no logit depends on
    transposed: bool

    @property
    def size(self) -> int:
        """Bytes to write."""
        return math.prod(self.shape) * width(self.kind)


class Merged(NamedTuple):
    """What was written."""

    dtype: str  # in the config: that of the weights
    shards: int
    bytes: int  # of all files
    matrices: int  # those that have a LoRA
    changed: int  # those of them that differ from the base after the cast


def width(kind: str) -> int:
    """Bytes of a number: F32 -> 4, BF16 -> 2, F8_E4M3 -> 1, BOOL -> 1."""
    digits = re.search(r"\d+", kind)
    return int(digits[0]) // 8 if digits else 1


def dtype_name(kind: str) -> str:
    """F32 -> float32."""
    return str(KINDS[kind]).removeprefix("torch.")


# --- What there is to write ----------------------------------------------------------------------


def list_tensors(checkpoint: Checkpoint, dtype: str = "auto") -> list[Stored]:
    """All tensors of a checkpoint, also those that tinymem does not need.

    dtype: of the weights to be written; "auto" leaves each in the dtype that it is stored in.
        Buffers (masks, tables of positions) are left as they are.
    """
    sources = find_sources(checkpoint.folder, checkpoint.shapes(), checkpoint.family)
    ours = {source.name: (name, source.transposed) for name, source in sources.items()}
    wanted = next((kind for kind in KINDS if dtype_name(kind) == dtype), None)
    tensors = []
    for name, path in tensor_files(checkpoint.folder, ours.__contains__).items():
        with open_weights(path) as file:
            stored = file.get_slice(name)
            shape, kind = list(stored.get_shape()), stored.get_dtype()
        parameter, transposed = ours.get(name, (None, False))
        kind = (wanted or kind) if parameter else kind
        tensors.append(Stored(name, path, shape, kind, parameter, transposed))
    return tensors


def config_dtype(tensors: Sequence[Stored], stated: object) -> str:
    """The dtype for a config.json, in which transformers loads all weights.

    It is that of the weights. If there are several, it is the one that the base's config states,
    provided that some weights have it, or else the widest.
    """
    kinds = sorted({t.kind for t in tensors if t.ours}, key=width)
    names = [dtype_name(kind) for kind in kinds]
    return stated if isinstance(stated, str) and stated in names else names[-1]


def total_size(tensors: Sequence[Stored]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.size for tensor in tensors)


# --- The sum -------------------------------------------------------------------------------------


@torch.no_grad()
@full_precision()
def merged_value(tensor: Stored, lora: LoRA | None) -> tuple[Tensor, bool]:
    """The values to write; and whether the LoRA has changed them.

    Raises CheckpointError for values that are not finite, or not so in the dtype to write.
    """
    with open_weights(tensor.path) as file:
        stored = file.get_tensor(tensor.name)
    if tensor.ours is None:
        return stored, False
    kind = KINDS[tensor.kind]
    value = plain = stored.to(kind)
    if lora is not None:
        product = lora.A.cpu() @ lora.B.cpu()
        value = (stored.float() + (product if tensor.transposed else product.t())).to(kind)
    low, high = value.aminmax()  # a NaN carries over
    if not (low.isfinite() and high.isfinite()):
        problem = f"{tensor.name} has values beyond the range of {dtype_name(tensor.kind)}"
        raise CheckpointError(f"{tensor.path}: {problem}, or NaN; use --dtype float32")
    return value, value is not plain and not torch.equal(value, plain)


# --- The files -----------------------------------------------------------------------------------


def write_merged(
    checkpoint: Checkpoint,
    tensors: Sequence[Stored],
    unit: Unit,
    out: Path,
    progress: Progress = SILENT,
    most: int = SHARD,
) -> Merged:
    """Write the folder of a checkpoint with the unit in its weights.

    tensors: from `list_tensors`. out: a new or empty folder. most: bytes of one file of weights.
    Raises AdapterError if the unit is not at Linear sites, or if another merge is writing there;
    CheckpointError for values that a dtype has no room for; OSError. Nothing is then left at `out`.
    """
    loras = {f"{path}.weight": lora for path, lora in unit.loras.items()}
    if absent := sorted(set(loras) - {tensor.ours for tensor in tensors}):
        raise AdapterError(f"the unit at {absent[0]} cannot be merged: only Linear sites can")
    files = split_files(tensors, most)
    places = {t.name: name for name, group in files.items() for t in group}
    changed = 0
    with new_folder(out) as folder:
        dtype = write_small_files(checkpoint, tensors, folder)
        for name, group in files.items():
            (folder / name).write_bytes(header(group))
        for tensor in progress.track([t for g in files.values() for t in g], "writing weights"):
            value, differs = merged_value(tensor, loras.get(tensor.ours or ""))
            with (folder / places[tensor.name]).open("ab") as file:
                file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            changed += differs
        if len(files) > 1:
            index = {"metadata": {"total_size": total_size(tensors)}, "weight_map": places}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.iterdir())
    return Merged(dtype, len(files), size, len(loras), changed)


def split_files(tensors: Sequence[Stored], most: int) -> dict[str, list[Stored]]:
    """File name -> its tensors, of at most so many bytes together; model.safetensors if it is one.

    In each file wide numbers come first, so that every tensor stands at a multiple of its width.
    """
    groups: list[list[Stored]] = [[]]
    for tensor in tensors:
        if groups[-1] and total_size(groups[-1]) + tensor.size > most:
            groups.append([])
        groups[-1].append(tensor)
    groups = [sorted(group, key=lambda t: -width(t.kind)) for group in groups]
    names = [f"model-{n + 1:05}-of-{len(groups):05}.safetensors" for n in range(len(groups))]
    return dict(zip(names if len(groups) > 1 else [WEIGHTS], groups, strict=True))


def header(tensors: Sequence[Stored]) -> bytes:
    """What a safetensors file begins with: its length in eight bytes, and JSON that lists them."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for t in tensors:
        start, end = end, end + t.size
        entries[t.name] = {"dtype": t.kind, "shape": t.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_small_files(checkpoint: Checkpoint, tensors: Sequence[Stored], folder: Path) -> str:
    """Copy what a model's folder has beside its weights; returns the dtype that the config states.

    config.json gets that dtype. Model cards and weights of other formats stay behind.
    """
    config: dict[str, Any] = read_json(checkpoint.folder, CONFIG)
    fields = [field for field in DTYPE_FIELDS if field in config] or [DTYPE_FIELDS[-1]]
    dtype = config_dtype(tensors, config.get(fields[0]))
    config |= dict.fromkeys(fields, dtype)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in COPIED:
        if present(checkpoint.folder, name):
            shutil.copyfile(checked(checkpoint.folder, name), folder / name)
    return dtype


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` if the block ends well, and is removed if not.

    Raises AdapterError if it is there already. An OSError names `out`.
    """
    folder = out.with_name(f".{out.name}.part")
    try:
        folder.mkdir()
    except FileExistsError:
        problem = "another merge is writing there, or was killed; if so, delete it"
        raise AdapterError(f"{folder}: {problem}") from None
    try:
        yield folder
        for path in folder.iterdir():
            system.sync(path)
        if out.is_dir():
            out.rmdir()  # it is empty; Windows renames nothing to a folder that exists
        system.replace(folder, out)
    except OSError as error:
        # No one knows the other folder, and some errors name none.
        raise OSError(error.errno, error.strerror or str(error), str(out)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
