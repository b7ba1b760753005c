"""Copies the tensors of a checkpoint's files into a `Model`, strictly and one at a time.

Only safetensors are read, never a pickle. Every tensor of the files must be used, or be known not
to be needed; every parameter must be filled; every shape must be equal and every value finite. The
files are memory-mapped, so the peak of memory is the weights plus one tensor.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, first_line
from .families import BUFFER, Family
from .folder import checked, present
from .hub import INDEX, SAFETENSORS_ONLY, WEIGHTS, shard_names
from .model import Linear, Model
from .progress import Progress

ESSENTIAL = ("embed_tokens.weight", "norm.weight", "lm_head.weight")
FLOATS = {"F64", "F32", "F16", "BF16"}
NARROW = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class Source(NamedTuple):
    """Where the values of a parameter are stored."""

    name: str  # of the tensor in its file
    path: Path
    transposed: bool


Sources = dict[str, Source]  # by the names of our parameters


def copy_weights(
    model: Model, sources: Sources, device: torch.device, dtype: torch.dtype, progress: Progress
) -> tuple[str, str]:
    """Fill the model, which is on the meta device, from `find_sources`'s files; returns two hashes.

    Both are of our names, the shapes and what is stored: of its bytes, and of its values, which are
    the same in every dtype that has room for them. They depend neither on `dtype` nor on how the
    tensors are split into files. Raises CheckpointError if a value is not finite.
    """
    hashes: tuple[list[str], list[str]] = ([], [])
    zeros = set()
    for ours, source in progress.track(sorted(sources.items()), "loading weights"):
        value, digests = copy_tensor(source, device, dtype)
        if ours == "lm_head.weight" and model.config.tied:
            if not torch.equal(value, model.embed_tokens.weight):
                differs = f"the config ties {source.name} to the embedding, but they differ"
                raise CheckpointError(f"{source.path}: {differs}")
            continue
        for lines, digest in zip(hashes, digests, strict=True):
            lines.append(f"{ours} {digest}")
        if not value.any():
            zeros.add(ours)
        module, _, kind = ours.rpartition(".")
        setattr(model.get_submodule(module), kind, nn.Parameter(value, requires_grad=False))
    if model.config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    check_not_blank(sources, zeros)
    of_bytes, of_values = (hashlib.sha256("\n".join(sorted(lines)).encode()) for lines in hashes)
    return of_bytes.hexdigest(), of_values.hexdigest()


def check_not_blank(sources: Sources, zeros: set[str]) -> None:
    """Raise CheckpointError where a file has lost its contents, and holds zeros.

    Zeros are normal in biases, and in single matrices: a layer that was added to a model begins
    with o_proj and down_proj at zero. They are damage in the embedding, the last norm and the head,
    and in all matrices of a layer.
    """
    parts: dict[str, list[str]] = {}  # "norm.weight", "layers.3" -> names of their tensors
    for name in sources:
        if name.endswith("_proj.weight") or name in ESSENTIAL:
            parts.setdefault(".".join(name.split(".")[:2]), []).append(name)
    for names in parts.values():
        if zeros.issuperset(names):
            source, more = sources[names[0]], " and all others of its layer" * (len(names) > 1)
            problem = f"{source.name}{more} hold nothing but zeros, a damaged file"
            raise CheckpointError(f"{source.path}: {problem}; download it again")


def copy_tensor(
    source: Source, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, tuple[str, str]]:
    """Copy one tensor; returns the copy, and the hash of its bytes and that of its values."""
    # The file is opened anew for each tensor, because closing the memory map frees its pages.
    with open_weights(source.path) as file:
        stored = file.get_tensor(source.name)
    low, high = stored.aminmax()  # a NaN carries over; isfinite would make a mask of equal size
    if not (low.isfinite() and high.isfinite()):
        raise CheckpointError(f"{source.path}: {source.name} is damaged: NaN or infinite values")
    if not (low.to(dtype).isfinite() and high.to(dtype).isfinite()):
        beyond = f"{source.name} has values beyond the range of {dtype}"
        raise CheckpointError(f"{source.path}: {beyond}; use --dtype float32, or other weights")
    of_bytes, narrow = tensor_hash(stored), narrowest(stored)
    of_values = of_bytes if narrow == stored.dtype else tensor_hash(stored.to(narrow))
    turned = stored.t() if source.transposed else stored
    value = torch.empty(turned.shape, dtype=dtype, device=device).copy_(turned)
    return value, (of_bytes, of_values)


def tensor_hash(stored: Tensor) -> str:
    """Dtype, shape and hash of the bytes, as text."""
    digest = hashlib.sha256(stored.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
    return f"{stored.dtype} {list(stored.shape)} {digest}"


def narrowest(stored: Tensor) -> torch.dtype:
    """The first of NARROW that holds all of the values exactly; it depends on the values alone."""

    def holds(dtype: torch.dtype) -> bool:
        parts = stored.reshape(-1).split(2**16)  # a dtype without room fails at the first part
        return all(torch.equal(part.to(dtype).to(part.dtype), part) for part in parts)

    return next(dtype for dtype in NARROW if dtype == stored.dtype or holds(dtype))


# --- Do files and model fit? ---------------------------------------------------------------------


def find_sources(folder: Path, model: Model, family: Family) -> Sources:
    """Find the tensor of every parameter; the model may be on the meta device.

    Raises CheckpointError if a tensor is missing, left over, or of another shape.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    sources: Sources = {}
    unknown = []
    optional = {"lm_head.weight"} if model.config.tied else set()

    def is_needed(name: str) -> bool:
        return not BUFFER.fullmatch(name) and family.ours(name) not in optional

    for name, path in tensor_files(folder, is_needed).items():
        ours = family.ours(name)
        if ours in sources:
            raise CheckpointError(f"{folder}: {name!r} is the same as {sources[ours].name!r}")
        if ours in parameters:
            sources[ours] = Source(name, path, is_transposed(ours, model, family))
        elif is_needed(name):
            unknown.append(name)
    check_none(unknown, f"{folder}: tensors that this architecture does not have")
    missing = [name.rpartition(".") for name in sorted(set(parameters) - set(sources) - optional)]
    names = [f"{family.theirs(module)}.{kind}" for module, _, kind in missing]
    check_none(names, f"{folder}: missing tensors, the checkpoint is incomplete")
    for ours, source in sources.items():
        check_shape(source, list(parameters[ours].shape))
    return sources


def is_transposed(name: str, model: Model, family: Family) -> bool:
    """Whether the checkpoint holds this parameter as [in, out], as GPT-2's do for every Linear."""
    module, _, kind = name.rpartition(".")
    linear = isinstance(model.get_submodule(module), Linear) and module != "lm_head"
    return family.transposed and linear and kind == "weight"


def check_none(names: list[str], problem: str) -> None:
    """Raise CheckpointError if there are any names, with the first five."""
    if names:
        shown = [f"{name if name.isprintable() else repr(name):.100}" for name in names[:5]]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise CheckpointError(f"{problem}: {', '.join(shown)}{more}")


def check_shape(source: Source, expected: list[int]) -> None:
    """Compare shape and type of a stored tensor with what the configuration asks for."""
    with open_weights(source.path) as file:
        stored = file.get_slice(source.name)
        shape, kind = list(stored.get_shape()), stored.get_dtype()
    where = f"{source.path}: {source.name}"
    expected = expected[::-1] if source.transposed else expected
    if shape != expected:
        raise CheckpointError(f"{where} has shape {shape}, the config asks for {expected}")
    if kind not in FLOATS:
        raise CheckpointError(f"{where} is stored as {kind}; choose weights that are not quantised")


# --- The files -----------------------------------------------------------------------------------


def tensor_files(folder: Path, is_needed: Callable[[str], bool]) -> dict[str, Path]:
    """Every tensor's name -> the file that holds it; from one file, or from an index and shards.

    Raises CheckpointError if an index and its shards disagree about a tensor that is needed.
    """
    if present(folder, WEIGHTS):
        path = checked(folder, WEIGHTS)
        return dict.fromkeys(tensor_names(path), path)
    if not present(folder, INDEX):
        formats = ".bin", ".pt", ".pth", ".safetensors"
        found = sorted(path.name for path in folder.iterdir() if path.suffix in formats)
        absent = f"no {WEIGHTS} and no {INDEX} (found: {', '.join(found) or 'no weights'})"
        raise CheckpointError(f"{folder}: {absent}. {SAFETENSORS_ONLY}")
    listed = shard_names(folder)
    paths = {shard: checked(folder, shard) for shard in sorted(set(listed.values()))}
    held = {(name, shard) for shard, path in paths.items() for name in tensor_names(path)}
    differ = sorted(held ^ set(listed.items()))
    wrong = [f"{name} in {shard}" for name, shard in differ if is_needed(name)]
    check_none(wrong, f"{folder / INDEX}: does not agree with its files, download them again")
    return {name: paths[shard] for name, shard in sorted(held)}


def tensor_names(path: Path) -> list[str]:
    with open_weights(path) as file:
        return list(file.keys())


def open_weights(path: Path) -> Any:
    """`safe_open`; raises CheckpointError, which names the file, if it cannot be read."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the download is incomplete") from None
    except (SafetensorError, OSError) as error:
        size = f"{path.stat().st_size:,} bytes" if path.is_file() else "no file"
        problem = f"damaged ({first_line(error)}; {size}), delete it and download it again"
        raise CheckpointError(f"{path}: {problem}") from error
