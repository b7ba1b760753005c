"""Base models on disk: what a checkpoint holds, and its weights copied into a `Model`.

Opening and loading are two steps. `open_checkpoint` reads the configuration and the tokenizer, which
takes a moment, so that an impossible request is refused before gigabytes of weights are read.
`Checkpoint.weights` then copies the weights tensor by tensor from memory-mapped files; the peak of
memory is the weights plus one tensor.

Only safetensors are read, never a pickle. Every tensor of the files must be used or be known not to
be needed, every parameter must be filled, every shape must be equal and every value finite.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, first_line
from .families import Family, read_config
from .hub import INDEX, WAY_OUT, WEIGHTS, download, shard_names
from .model import Linear, Model, ModelConfig
from .progress import SILENT, Progress
from .tokenizer import Tokenizer

SHIPPED = {"tiny": Path(__file__).parents[1] / "tiny"}
FLOATS = {"F64", "F32", "F16", "BF16"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A base model on disk, whose configuration and tokenizer are read and whose weights are not."""

    name: str  # "tiny", a folder or a hub id, as it was asked for
    revision: str | None
    folder: Path
    config: ModelConfig
    family: Family
    tokenizer: Tokenizer

    def shapes(self) -> Model:
        """The model on the meta device: every module and shape, without weights and their memory."""
        with torch.device("meta"):
            model = Model(self.config)
        model.name, model.revision, model.family = self.name, self.revision, self.family
        return model.eval().requires_grad_(False)

    def weights(
        self, device: str = "auto", dtype: str = "auto", progress: Progress = SILENT
    ) -> Model:
        """The model with its weights, frozen and in evaluation mode.

        device: "cpu", "cuda", …; "auto" is CUDA where there is one.
        dtype: "float32" or "bfloat16"; "auto" is float32 on a CPU and bfloat16 on a GPU.

        Raises CheckpointError if the weights do not fit the configuration exactly.
        """
        place = pick_device(device)
        kind = pick_dtype(dtype, place)
        model = self.shapes()
        sources = match_names(model, self.family, tensor_files(self.folder), self.folder)
        check_shapes(model, sources)
        copy_weights(model, sources, place, kind, progress)
        return model


def open_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """Find a base model, downloading it if need be, and read its configuration and tokenizer.

    name: "tiny" (shipped), a folder with a Hugging Face checkpoint, or a hub id. A folder never
        touches the network.
    revision: branch, tag or commit of a hub id.

    Raises CheckpointError, with what is wrong, where, and what to do.
    """
    folder = locate(str(name), revision)
    config, family = read_config(read_json(folder / "config.json"), str(folder / "config.json"))
    tokenizer = Tokenizer.from_folder(folder)
    if tokenizer.largest_id >= config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer knows ids up to {tokenizer.largest_id}, the model only "
            f"{config.vocab_size} tokens; the tokenizer belongs to another model"
        )
    return Checkpoint(str(name), revision, folder, config, family, tokenizer)


def load(
    model: str | Path = "tiny",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = SILENT,
) -> tuple[Model, Tokenizer]:
    """Load a base model and its tokenizer: `open_checkpoint`, then `Checkpoint.weights`.

    model: "tiny" (shipped), a folder with a Hugging Face checkpoint, or a hub id.
    revision: branch, tag or commit of a hub id.
    device: "cpu", "cuda", …; "auto" is CUDA where there is one.
    dtype: "float32" or "bfloat16"; "auto" is float32 on a CPU and bfloat16 on a GPU.

    Raises CheckpointError, with what is wrong, where, and what to do.
    """
    checkpoint = open_checkpoint(model, revision)
    return checkpoint.weights(device, dtype, progress), checkpoint.tokenizer


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


# --- From the files' tensors to the model's parameters --------------------------------------------

Sources = dict[
    str, tuple[str, Path]
]  # a parameter's name -> the tensor's name in its file, the file


def match_names(model: Model, family: Family, files: dict[str, Path], folder: Path) -> Sources:
    """Find a tensor for every parameter; no tensor may be left over that is not known."""
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
    report_names(folder, "tensors that this architecture does not have", unknown)
    optional = {"lm_head.weight"} if model.config.tied else set()
    missing = [name.rpartition(".") for name in sorted(set(parameters) - set(sources) - optional)]
    names = [f"{family.theirs(module)}.{kind}" for module, _, kind in missing]
    report_names(folder, "missing tensors, the checkpoint is incomplete", names)
    return sources


def check_shapes(model: Model, sources: Sources) -> None:
    """Compare shape and type of every stored tensor with what the configuration asks for."""
    for ours, (theirs, path) in sources.items():
        with open_weights(path) as file:
            stored = file.get_slice(theirs)
            shape, kind = list(stored.get_shape()), stored.get_dtype()
        expected = list(model.get_parameter(ours).shape)
        if is_transposed(model, ours):
            expected.reverse()
        if shape != expected:
            raise CheckpointError(
                f"{path}: {theirs} has shape {shape}, the config asks for {expected}"
            )
        if kind not in FLOATS:
            raise CheckpointError(
                f"{path}: {theirs} is stored as {kind}; quantised weights are not supported"
            )


def copy_weights(
    model: Model, sources: Sources, device: torch.device, dtype: torch.dtype, progress: Progress
) -> None:
    """Copy the stored tensors into the model, which is on the meta device; set its `weight_hash`.

    The hash is taken of what is stored, so it does not depend on the dtype of the copy.
    """
    hashes = []
    for ours, (theirs, path) in progress.track(sorted(sources.items()), "loading weights"):
        stored = read_tensor(theirs, path)
        value = torch.empty(model.get_parameter(ours).shape, dtype=dtype, device=device)
        value.copy_(stored.t() if is_transposed(model, ours) else stored)
        if ours == "lm_head.weight" and model.config.tied:
            if not torch.equal(value, model.embed_tokens.weight):
                raise CheckpointError(
                    f"{path}: the config ties {theirs} to the embedding, but they differ"
                )
            continue
        digest = hashlib.sha256(stored.reshape(-1).view(torch.uint8).numpy()).hexdigest()
        hashes.append(f"{ours} {stored.dtype} {list(stored.shape)} {digest}")
        module, _, kind = ours.rpartition(".")
        setattr(model.get_submodule(module), kind, nn.Parameter(value, requires_grad=False))
        del stored  # before the next tensor is read
    if model.config.tied:
        model.lm_head.weight = model.embed_tokens.weight
    model.weight_hash = hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def read_tensor(name: str, path: Path) -> Tensor:
    """One tensor of a file. Raises CheckpointError if a value is not finite."""
    # The file is opened anew for each tensor: closing the memory map gives its pages back.
    with open_weights(path) as file:
        stored = file.get_tensor(name)
    low, high = stored.aminmax()  # NaN carries over; no mask of the tensor's size is made
    if not (low.isfinite() and high.isfinite()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinite values; download it again")
    return stored


def is_transposed(model: Model, name: str) -> bool:
    """Whether the checkpoint holds this weight as [in, out], as GPT-2's do for every Linear."""
    module, _, kind = name.rpartition(".")
    inner = name.startswith("layers.") and isinstance(model.get_submodule(module), Linear)
    return model.family.transposed and kind == "weight" and inner
