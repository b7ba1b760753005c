"""A checkpoint on disk -> a `Model` in memory: strictly, safely, one tensor at a time.

Strict both ways: every tensor of the files is used or known not to be needed, every parameter is
filled, every shape is equal, every value is finite. Safe: safetensors only, never a pickle. Frugal:
files are memory-mapped and copied tensor by tensor, so the peak is the weights plus one tensor.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import CheckpointError, first_line
from .families import Family, read_config
from .hub import INDEX, WAY_OUT, WEIGHTS, download, shard_names
from .model import Linear, Model
from .tokenizer import Tokenizer

SHIPPED = {"tiny": Path(__file__).parents[1] / "tiny"}
FLOATS = {"F64", "F32", "F16", "BF16"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load(
    model: str | Path = "tiny",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    before: Callable[[Model, Tokenizer], None] = lambda model, tokenizer: None,
    watch: Callable[[Iterable, str], Iterable] = lambda items, what: items,
) -> tuple[Model, Tokenizer]:
    """Load a base model and its tokenizer.

    model: "tiny" (shipped), a folder with a Hugging Face checkpoint, or a hub id. A folder never
        touches the network.
    device: "cpu", "cuda", …; "auto" is CUDA where there is one.
    dtype: "float32", "bfloat16"; "auto" is float32 on a CPU and bfloat16 on a GPU.
    before: called with the model while it has shapes only, to find out what cannot work before waiting
        for its weights.
    watch: wraps the iteration over tensors, for a progress bar.

    Raises CheckpointError, with what is wrong, where, and what to do.
    """
    folder = locate(str(model), revision)
    config, family = read_config(read_json(folder / "config.json"), str(folder / "config.json"))
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.largest_id >= config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer knows ids up to {tokenizer.largest_id}, the model only "
            f"{config.vocab_size} tokens; the tokenizer belongs to another model"
        )
    place = pick_device(device)
    with torch.device("meta"):  # shapes without memory
        base = Model(config)
    base.family, base.name, base.revision = family, str(model), revision
    before(base, tokenizer)
    fill(base, tensor_files(folder), place, pick_dtype(dtype, place), watch)
    return base.eval().requires_grad_(False), tokenizer


def pick_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).tolist()
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"device {name!r} cannot be used here: {first_line(error)}"
        ) from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise CheckpointError(
            f"dtype {name!r} is not supported; choose auto, {' or '.join(DTYPES)}"
        )
    return DTYPES[name]


def locate(model: str, revision: str | None = None) -> Path:
    """The folder of a shipped model, of a folder, or (downloading) of a hub id."""
    if model in SHIPPED:
        return SHIPPED[model]
    path = Path(os.path.expanduser(model))
    if model and os.path.isdir(path):  # os.path: Path's own methods raise on names too long
        return path
    exists = os.path.exists(path)
    if exists or model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        problem = "is a file, not a folder" if exists else "does not exist"
        raise CheckpointError(
            f"{model}: {problem}; --model takes tiny, a checkpoint's folder or a hub id"
        )
    return download(model, revision)


def read_json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: no {path.name}; is this a checkpoint's folder?"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def open_weights(path: Path):
    """`safe_open` with errors that name the file."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; the download is incomplete") from None
    except (SafetensorError, OSError) as error:
        pointer = False
        if path.is_file():
            with path.open("rb") as file:
                pointer = file.read(24) == b"version https://git-lfs."
        if pointer:
            raise CheckpointError(
                f"{path}: a git-lfs pointer, not the weights; run git lfs pull"
            ) from error
        raise CheckpointError(
            f"{path}: damaged ({first_line(error)}), {path.stat().st_size:,} bytes; delete it and "
            "download it again"
        ) from error


def tensor_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> file that holds it, from a single file or from an index and its shards."""
    if (folder / WEIGHTS).exists():
        with open_weights(folder / WEIGHTS) as file:
            return {name: folder / WEIGHTS for name in file.keys()}
    if not (folder / INDEX).exists():
        found = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".safetensors")
        )
        raise CheckpointError(
            f"{folder}: no {WEIGHTS} and no {INDEX} (found: {', '.join(found) or 'no weights'}). {WAY_OUT}"
        )
    listed, files = shard_names(folder / INDEX), {}
    for shard in sorted(set(listed.values())):
        with open_weights(folder / shard) as file:
            for name in file.keys():
                if listed.get(name) != shard:
                    place = listed.get(name, "no file")
                    raise CheckpointError(
                        f"{folder / shard}: holds {name!r}, which the index places in {place}; the files "
                        "do not belong together, download them again"
                    )
                files[name] = folder / shard
    report_names(folder / INDEX, "tensors that no shard holds", sorted(set(listed) - set(files)))
    return files


def report_names(where: Path, problem: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise CheckpointError(f"{where}: {problem}: {', '.join(names[:5])}{more}")


def fill(model: Model, files: dict[str, Path], device, dtype, watch: Callable) -> None:
    """Copy the checkpoint's tensors into the (meta) model and set its `weight_hash`."""
    family: Family = model.family
    folder = next(iter(files.values())).parent if files else Path(model.name)
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    plan, unknown = {}, []  # our name -> (their name, file)
    for theirs, path in files.items():
        ours, known = family.ours(theirs)
        if ours in wanted:
            if ours in plan:
                raise CheckpointError(
                    f"{folder}: {theirs!r} and {plan[ours][0]!r} are the same parameter"
                )
            plan[ours] = theirs, path
        elif ours is not None or not known:
            unknown.append(theirs)
    report_names(folder, "tensors that this architecture does not have", unknown)
    optional = {"lm_head.weight"} if model.config.tied else set()
    missing = sorted(set(wanted) - set(plan) - optional)
    names = [
        f"{family.theirs(module)}.{kind}"
        for module, _, kind in (n.rpartition(".") for n in missing)
    ]
    report_names(folder, "missing tensors, the checkpoint is incomplete", names)

    for ours, (theirs, path) in plan.items():
        with open_weights(path) as file:
            view = file.get_slice(theirs)
            shape, kind = tuple(view.get_shape()), view.get_dtype()
        expected = wanted[ours][::-1] if is_transposed(model, ours) else wanted[ours]
        if shape != expected:
            raise CheckpointError(
                f"{path}: {theirs} has shape {list(shape)}, the config asks for {list(expected)}"
            )
        if kind not in FLOATS:
            raise CheckpointError(
                f"{path}: {theirs} is stored as {kind}; quantised weights are not supported"
            )

    digests = {}
    for ours, (theirs, path) in watch(sorted(plan.items()), "loading weights"):
        # Opened anew for each tensor: closing the map gives its pages back.
        with open_weights(path) as file:
            stored = file.get_tensor(theirs)
            low, high = stored.aminmax()  # NaN carries over; no mask of the tensor's size is made
            if not (low.isfinite() and high.isfinite()):
                raise CheckpointError(
                    f"{path}: {theirs} holds NaN or infinite values; download it again"
                )
            digest = hashlib.sha256(stored.reshape(-1).view(torch.uint8).numpy())
            digests[ours] = f"{ours} {stored.dtype} {list(stored.shape)} {digest.hexdigest()}"
            value = torch.empty(wanted[ours], dtype=dtype, device=device)
            value.copy_(stored.t() if is_transposed(model, ours) else stored)
            del stored
        if ours == "lm_head.weight" and model.config.tied:
            if not torch.equal(value, model.embed_tokens.weight):
                raise CheckpointError(
                    f"{path}: the config ties {theirs} to the embedding, but they differ"
                )
            del digests[ours]
            continue
        module, _, kind = ours.rpartition(".")
        setattr(model.get_submodule(module), kind, nn.Parameter(value, requires_grad=False))
    if model.config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    model.weight_hash = hashlib.sha256("\n".join(sorted(digests.values())).encode()).hexdigest()


def is_transposed(model: Model, name: str) -> bool:
    """Does the checkpoint hold this weight as [in, out]? (GPT-2's layers do.)"""
    module, _, kind = name.rpartition(".")
    inner = name.startswith("layers.") and isinstance(model.get_submodule(module), Linear)
    return model.family.transposed and kind == "weight" and inner
