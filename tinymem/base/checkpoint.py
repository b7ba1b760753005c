"""Loads a base model in two steps: first its configuration and tokenizer, then its weights.

`open_checkpoint` does the first step, which takes a moment. A request that cannot work, such as a
memory longer than the context, is therefore refused before gigabytes of weights are read.
`Checkpoint.weights` does the second step, with the help of weights.py. `load` does both.

A checkpoint that is refused raises a CheckpointError. Where its reason is checked: the name, folder
or device here; a download in hub.py; a field of config.json in fields.py and families.py; the
tokenizer in tokenizer.py; names, shapes, dtypes and values of tensors in weights.py.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import CheckpointError, first_line
from .arithmetic import with_gradients
from .config import ModelConfig
from .families import Family, read_config
from .folder import read_json
from .hub import COMMIT, download
from .model import Model
from .progress import SILENT, Progress, bars_in_notebooks
from .tokenizer import Tokenizer
from .weights import copy_weights, find_sources

SHIPPED = {"tiny": Path(__file__).parents[1] / "tiny"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A base model on disk: its configuration and tokenizer are read, its weights are not."""

    name: str  # "tiny", a folder or a hub id, as the user gave it
    revision: str | None  # of a hub id: the commit
    folder: Path
    config: ModelConfig
    family: Family
    tokenizer: Tokenizer

    def shapes(self) -> Model:
        """The model on the meta device: modules and shapes without values, which take no memory."""
        with torch.device("meta"):
            model = Model(self.config)
        model.name, model.revision, model.family = self.name, self.revision, self.family
        model.tokenizer = self.tokenizer
        return model.eval().requires_grad_(False)

    @with_gradients()
    def weights(
        self, device: str = "auto", dtype: str = "auto", progress: Progress = SILENT
    ) -> Model:
        """The model with its weights, frozen and in evaluation mode.

        device: "cpu", "cuda", …; "auto" is CUDA where there is one.
        dtype: "float32" or "bfloat16"; "auto" is float32 on a CPU and bfloat16 on a GPU.

        Raises CheckpointError if the weights do not fit the configuration exactly.
        """
        target, model = pick_device(device), self.shapes()
        kind, sources = pick_dtype(dtype, target), find_sources(self.folder, model, self.family)
        hashes = copy_weights(model, sources, target, kind, progress)
        model.weight_hash, model.value_hash = hashes
        if window := self.config.sliding_window:
            shorter = f"the context is cut to its sliding window of {window:,} tokens"
            progress.warn(f"{self.name}: {shorter}, within which attention is full")
        return model


def open_checkpoint(name: str | Path, revision: str | None = None) -> Checkpoint:
    """Find a base model, download it if necessary, and read its configuration and tokenizer.

    name: "tiny" (shipped), a folder with a Hugging Face checkpoint, or a hub id. A folder never
        touches the network.
    revision: branch, tag or commit of a hub id.

    Raises CheckpointError: what is wrong, where, and what to do.
    """
    folder = locate(str(name), revision)
    if folder.parent.name == "snapshots" and COMMIT.fullmatch(folder.name):  # in the hub's cache
        revision = folder.name
    raw = read_json(folder, "config.json")
    config, family = read_config(raw, str(folder / "config.json"))
    kind, size = raw["model_type"], config.vocab_size
    tokenizer = Tokenizer.from_folder(folder, kind, size, trusted=str(name) in SHIPPED)
    return Checkpoint(str(name), revision, folder, config, family, tokenizer)


@bars_in_notebooks
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

    Raises CheckpointError: what is wrong, where, and what to do.
    """
    checkpoint = open_checkpoint(model, revision)
    return checkpoint.weights(device, dtype, progress), checkpoint.tokenizer


def locate(model: str, revision: str | None = None) -> Path:
    """The folder of a model: shipped, the user's own, or downloaded from the hub."""
    if model in SHIPPED:
        return SHIPPED[model]
    path = Path(os.path.expanduser(model))
    if model and os.path.isdir(path):  # os.path, because Path.is_dir raises on names too long
        return path
    exists = os.path.exists(path)
    if exists or model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        problem = "is a file, not a folder" if exists else "does not exist"
        raise CheckpointError(f"{model}: {problem}; --model takes tiny, a folder or a hub id")
    return download(model, revision)


def pick_device(name: str) -> torch.device:
    """ "cpu", "cuda", … or "auto". Raises CheckpointError if it cannot be used on this machine."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).tolist()
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(f"device {name!r} cannot be used: {first_line(error)}") from error
    return device


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """A key of DTYPES or "auto". Raises CheckpointError for any other."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise CheckpointError(f"dtype {name!r} is none of auto, {', '.join(DTYPES)}")
    return DTYPES[name]
