"""Options that several commands share, in groups, and the decorator that shows a group to typer.

A group is a dataclass with one field for each option. A command takes a whole group as one
parameter, and `with_groups` gives typer the options in its place. Nothing here imports torch at the
top, because that takes seconds and `--help` should answer at once.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import DataError, RecipeError
from ..files import json_text

if TYPE_CHECKING:
    from ..training.recipe import Recipe

DEFAULT_PROMPT = "Recite the memory word for word:"  # equal to data.memory.PROMPT


def option(help: str, *flags: str, panel: str | None = None, default: str | None = None) -> Any:
    """An option of typer under the heading `panel`; `default` says what None stands for."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=default or True)


_base = partial(option, panel="Base model")
_source = partial(option, panel="What to memorize")
_training = partial(option, panel="Unit and training")
output = partial(option, panel="Output")


# --- Closed choices: typer checks and completes them, and shows them in the help -----------------


class Method(str, Enum):
    sft, memft_ot, memft_sw = "sft", "memft-ot", "memft-sw"


class Optimizer(str, Enum):
    adamw, lbfgs = "adamw", "lbfgs"


class ZeroActive(str, Enum):
    sft, zero = "sft", "zero"


class Device(str, Enum):
    auto, cpu, cuda = "auto", "cpu", "cuda"


class Dtype(str, Enum):
    auto, float32, bfloat16 = "auto", "float32", "bfloat16"


# --- Options that also stand alone ---------------------------------------------------------------

ModelName = Annotated[
    str, _base("tiny (shipped), a hub id, or the folder of a checkpoint.", "--model")
]
MovedModel = Annotated[
    str | None, _base("Where the base model is now, if it has moved.", "--model")
]
Revision = Annotated[str | None, _base("Branch, tag or commit of a hub id.")]
DeviceOption = Annotated[Device, _base("auto takes a GPU, if there is one.", "--device")]
DtypeOption = Annotated[
    Dtype, _base("Precision of the base; auto: float32 on a CPU, bfloat16 on a GPU.", "--dtype")
]
_prompt = _source("Prompt that asks for the memory.", default=DEFAULT_PROMPT)
Prompt = Annotated[str, _prompt]
Chat = Annotated[bool, _source("Use the checkpoint's chat template, if it has one.")]
Json = Annotated[bool, output("Print one JSON document on stdout, nothing else.", "--json")]
Plot = Annotated[Path | None, output("Draw a PNG, PDF or SVG file.")]


# --- Groups --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """Which base model, and how it is computed."""

    model: ModelName = "tiny"
    revision: Revision = None
    device: DeviceOption = Device.auto
    dtype: DtypeOption = Dtype.auto


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where memories come from; source.py reads them."""

    text: Annotated[Path | None, _source("UTF-8 text file; - reads from stdin.")] = None
    data: Annotated[Path | None, _source("Memories (JSON Lines), all in one unit.")] = None
    prompt: Annotated[str | None, _prompt] = None
    chat: Chat = True
    held_out: Annotated[Path | None, _source("Memories (JSON Lines) that are only judged.")] = None


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Where the unit sits and how it is trained: a Recipe without rank, method and seed."""

    layer: Annotated[
        str,
        _training("From 0; auto is two thirds of the depth. Linear sites also take 3,5 or all."),
    ] = "auto"
    site: Annotated[
        str, _training("mlp, as in the paper, or names of Linear layers: q_proj,v_proj.")
    ] = "mlp"
    zero_active: Annotated[
        ZeroActive,
        _training("memft-ot with all tokens at p > ½: train on all (sft) or on none (zero)."),
    ] = ZeroActive.sft
    steps: Annotated[int, _training("Optimizer steps (lbfgs: gradient evaluations).")] = 2000
    epochs: Annotated[int | None, _training("Passes over the memories; replaces --steps.")] = None
    batch_size: Annotated[int | None, _training("Memories in a minibatch.", default="all")] = None
    accumulate: Annotated[int, _training("Minibatches in one optimizer step.")] = 1
    boundaries: Annotated[
        str | None,
        _training(
            "Epochs (20,40,60,80) at which memft-sw takes in another 20 % of the memories.",
            default="1/15 to 4/15 of the run",
        ),
    ] = None
    optimizer: Annotated[
        Optimizer,
        _training("adamw, as in the paper, or lbfgs, which needs fewer gradients and no --lr."),
    ] = Optimizer.adamw
    lr: Annotated[str, _training("Learning rate; auto derives it from the width.")] = "auto"
    dropout: Annotated[float, _training("Dropout on the unit's output; 0.1 in the paper.")] = 0.0
    stop_when_certified: Annotated[
        bool,
        _training(
            "Stop once every token has p > ½; checked every 10 steps.", "--stop-when-certified"
        ),
    ] = False

    def recipe(self, *, rank: int, method: str, seed: int) -> "Recipe":
        """The recipe, still without its layers, which need the depth of the model: see `layers`.

        Raises RecipeError for a value that no run could use.
        """
        from ..training.recipe import Recipe

        self.layers(depth=1)  # only to find what cannot be read
        return Recipe(
            rank=rank,
            layers=None,
            sites=parse_names(self.site),
            method=method,
            steps=self.steps,
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            boundaries=parse_list("--boundaries", self.boundaries) or None,
            optimizer=self.optimizer.value,
            lr=None if self.lr == "auto" else parse_number("--lr", self.lr),
            seed=seed,
            dropout=self.dropout,
            zero_active=self.zero_active.value,
            stop_when_certified=self.stop_when_certified,
        )

    def layers(self, depth: int) -> tuple[int, ...] | None:
        """ "auto" -> None, "all" -> every layer, "3,5" -> (3, 5)."""
        if self.layer in ("auto", "all"):
            return None if self.layer == "auto" else tuple(range(depth))
        try:
            return parse_list("--layer", self.layer)
        except RecipeError:
            raise RecipeError(
                f"--layer is {self.layer!r}; expected a number, numbers with commas, all or auto"
            ) from None


def with_groups(command: Callable[..., int]) -> Callable[..., int]:
    """Replaces each parameter that is a group by its options, and puts the group together again.

    typer reads the parameters of a command from its signature, so the function returned has a
    signature of its own. Raises ValueError if two options have the same name.
    """
    given = inspect.signature(command).parameters.values()
    groups: dict[str, Any] = {
        p.name: p.annotation for p in given if dataclasses.is_dataclass(p.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for parameter in given:
        group = groups.get(parameter.name)
        parameters += inspect.signature(group).parameters.values() if group else [parameter]

    @wraps(command)
    def call(**values: Any) -> int:
        for name, group in groups.items():
            values[name] = group(**{f.name: values.pop(f.name) for f in dataclasses.fields(group)})
        return command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


# --- Reading and checking values -----------------------------------------------------------------


def parse_number(flag: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RecipeError(f"{flag} is {value!r}; expected a number or auto") from None


def parse_names(value: str) -> tuple[str, ...]:
    """ "q_proj, v_proj" -> ("q_proj", "v_proj")."""
    return tuple(part.strip() for part in value.split(","))


def parse_list(flag: str, value: str | None) -> tuple[int, ...]:
    """ "1,2,4" -> (1, 2, 4); None -> ()."""
    try:
        return () if value is None else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise RecipeError(
            f"{flag} is {value!r}; expected whole numbers with commas between them"
        ) from None


def check_parent(path: Path) -> None:
    """Raises DataError if a file or folder at `path` could not be created."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise DataError(
            f"{path}: cannot be written; {path.parent} is not a folder with write access"
        )


def check_new_folder(path: Path) -> None:
    """Raises DataError, before any training, if `path` cannot hold a new run."""
    check_parent(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"--out {path}: exists and is not empty; choose a new folder, or delete it")


def check_plot(path: Path) -> None:
    """Raises DataError, before any training, if no picture could be drawn there."""
    from ..show.axes import figure

    check_parent(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise DataError(f"--plot {path}: expected a name that ends in .png, .pdf or .svg")
    figure(1)


def print_json(value: object) -> None:
    print(json_text(value, indent=2))
