"""Copies the tensors of a checkpoint's files into a `Model`, strictly and one at a time.

Only safetensors are read, never a pickle. Every tensor of the files must be used, or be known not
to be needed; every parameter must be filled; every shape must be equal and every value finite. The
files are memory-mapped, so the peak of memory is the weights plus one tensor.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, first_line
from .families import Family
from .hub import INDEX, SAFETENSORS_ONLY, WEIGHTS, shard_names
from .model import Linear, Model
from .progress import Progress

FLOATS = {"F64", "F32", "F16", "BF16"}
Sources = dict[str, tuple[str, Path]]  # our parameter -> the tensor's name in its file, the file


def copy_weights(
    folder: Path,
    model: Model,
    family: Family,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> str:
    """Fill the model, which is on the meta device, from the files in `folder`; returns a hash.

    The hash is of the stored values and our names for them. It depends neither on `dtype` nor on
    how the tensors are split into files.
    Raises CheckpointError if files and model do not fit exactly.
    """
    sources = match_names(tensor_files(folder), model, family, folder)
    check_shapes(sources, model, family)
    hashes = []
    for name, (theirs, path) in progress.track(sorted(sources.items()), "loading weights"):
        transposed = is_transposed(name, model, family)
        value, digest = copy_tensor(theirs, path, transposed, device, dtype)
        if name == "lm_head.weight" and model.config.tied:
            if not torch.equal(value, model.embed_tokens.weight):
                raise CheckpointError(
                    f"{path}: the config ties {theirs} to the embedding, but they differ"
                )
        else:
            hashes.append(f"{name} {digest}")
            module, _, kind = name.rpartition(".")
            setattr(model.get_submodule(module), kind, nn.Parameter(value, requires_grad=False))
    if model.config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def copy_tensor(
    name: str, path: Path, transposed: bool, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, str]:
    """Copy one tensor; returns the copy, and dtype, shape and SHA-256 of what is stored, as text.

    Raises CheckpointError if a value is not finite.
    """
    # The file is opened anew for each tensor, because closing the memory map frees its pages.
    with open_weights(path) as file:
        stored = file.get_tensor(name)
    low, high = stored.aminmax()  # a NaN carries over; isfinite would make a mask of equal size
    if not (low.isfinite() and high.isfinite()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinite values; download it again")
    digest = hashlib.sha256(stored.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
    source = stored.t() if transposed else stored
    value = torch.empty(source.shape, dtype=dtype, device=device).copy_(source)
    return value, f"{stored.dtype} {list(stored.shape)} {digest}"


def is_transposed(name: str, model: Model, family: Family) -> bool:
    """Whether the checkpoint holds this parameter as [in, out], as GPT-2's do for every Linear."""
    module, _, kind = name.rpartition(".")
    linear = isinstance(model.get_submodule(module), Linear) and module != "lm_head"
    return family.transposed and linear and kind == "weight"


# --- Do files and model fit? ---------------------------------------------------------------------


def match_names(files: dict[str, Path], model: Model, family: Family, folder: Path) -> Sources:
    """Find the tensor of every parameter. No parameter may lack one, and none may be left over."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    sources: Sources = {}
    unknown = []
    for theirs, path in files.items():
        ours, known = family.ours(theirs)
        if ours in parameters:
            if ours in sources:
                raise CheckpointError(
                    f"{folder}: {theirs!r} and {sources[ours][0]!r} are the same parameter"
                )
            sources[ours] = theirs, path
        elif ours is not None or not known:
            unknown.append(theirs)
    check_none(unknown, f"{folder}: tensors that this architecture does not have")
    optional = {"lm_head.weight"} if model.config.tied else set()
    missing = [name.rpartition(".") for name in sorted(set(parameters) - set(sources) - optional)]
    names = [f"{family.theirs(module)}.{kind}" for module, _, kind in missing]
    check_none(names, f"{folder}: missing tensors, the checkpoint is incomplete")
    return sources


def check_none(names: list[str], problem: str) -> None:
    """Raise CheckpointError if there are any names, with the first five."""
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise CheckpointError(f"{problem}: {', '.join(names[:5])}{more}")


def check_shapes(sources: Sources, model: Model, family: Family) -> None:
    """Compare shape and type of every stored tensor with what the configuration asks for."""
    for ours, (theirs, path) in sources.items():
        with open_weights(path) as file:
            stored = file.get_slice(theirs)
            shape, kind = list(stored.get_shape()), stored.get_dtype()
        expected = list(model.get_parameter(ours).shape)
        if is_transposed(ours, model, family):
            expected.reverse()
        if shape != expected:
            raise CheckpointError(
                f"{path}: {theirs} has shape {shape}, the config asks for {expected}"
            )
        if kind not in FLOATS:
            raise CheckpointError(
                f"{path}: {theirs} is stored as {kind}; quantised weights are not supported"
            )


# --- The files -----------------------------------------------------------------------------------


def tensor_files(folder: Path) -> dict[str, Path]:
    """Every tensor's name -> the file that holds it; from one file, or from an index and shards."""
    if (folder / WEIGHTS).exists():
        with open_weights(folder / WEIGHTS) as file:
            return {name: folder / WEIGHTS for name in file.keys()}
    if not (folder / INDEX).exists():
        formats = ".bin", ".pt", ".pth", ".safetensors"
        found = sorted(path.name for path in folder.iterdir() if path.suffix in formats)
        raise CheckpointError(
            f"{folder}: no {WEIGHTS} and no {INDEX} (found: {', '.join(found) or 'no weights'}). "
            f"{SAFETENSORS_ONLY}"
        )
    listed = shard_names(folder / INDEX)
    files = {}
    for shard in sorted(set(listed.values())):
        with open_weights(folder / shard) as file:
            for name in file.keys():
                if listed.get(name) != shard:
                    raise CheckpointError(
                        f"{folder / shard}: holds {name!r}, which the index places in "
                        f"{listed.get(name, 'no file')}; the files do not belong together, "
                        "download them again"
                    )
                files[name] = folder / shard
    absent = sorted(set(listed) - set(files))
    check_none(absent, f"{folder / INDEX}: tensors that no shard holds")
    return files


def open_weights(path: Path) -> Any:
    """`safe_open`; raises CheckpointError, which names the file, if it cannot be read."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the download is incomplete") from None
    except (SafetensorError, OSError) as error:
        if path.is_file():
            with path.open("rb") as file:
                if file.read(24) == b"version https://git-lfs.":
                    raise CheckpointError(
                        f"{path}: a git-lfs pointer, not the weights; run git lfs pull"
                    ) from error
        raise CheckpointError(
            f"{path}: damaged ({first_line(error)}), {path.stat().st_size:,} bytes; delete it and "
            "download it again"
        ) from error
