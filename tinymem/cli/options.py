"""The options that commands share, and what they mean together."""

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..errors import DataError, RecipeError

# torch takes seconds to import, so what needs it is imported inside the functions.

Model = Annotated[str, typer.Option(help="tiny (shipped), a hub id, or a checkpoint's folder.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[
    str, typer.Option(help="auto, float32 or bfloat16, of the base; units are float32.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")
]
Layer = Annotated[
    str,
    typer.Option(
        help="Layer, from 0; for Linear sites also a comma list, or all. auto: 2/3 of the depth."
    ),
]
Site = Annotated[
    str, typer.Option(help="mlp (the paper's), or a comma list of Linear names: q_proj,v_proj")
]
TextFile = Annotated[
    str | None, typer.Option("--text", help="File to remember (UTF-8), or - for stdin.")
]
Prompt = Annotated[
    str | None, typer.Option(help="The memory's key; a default asks for the memory.")
]
Data = Annotated[
    Path | None, typer.Option(help="Memories as JSON lines, all written into one unit.")
]
HeldOut = Annotated[
    Path | None,
    typer.Option(help="Memories as JSON lines that are judged too, but not trained on."),
]
Chat = Annotated[bool, typer.Option(help="Use the checkpoint's chat template, where it has one.")]
ZeroActive = Annotated[
    str, typer.Option(help="memft-ot with no token above the threshold: sft or zero.")
]
Steps = Annotated[int, typer.Option(help="Optimizer steps.")]
Epochs = Annotated[int | None, typer.Option(help="Times each memory is seen; instead of --steps.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Memories a minibatch; all of them unless given.")
]
Accumulate = Annotated[int, typer.Option(help="Minibatches a step.")]
Boundaries = Annotated[
    str | None,
    typer.Option(help="memft-sw: epochs until which it sees 20,40,60,80 % of the memories."),
]
Optimizer = Annotated[
    str,
    typer.Option(
        help="adamw (the paper's), or lbfgs: fewer gradient evaluations, which --steps counts."
    ),
]
LearningRate = Annotated[
    str, typer.Option("--lr", help="Learning rate; auto follows the model's width.")
]
Dropout = Annotated[float, typer.Option(help="Dropout on the unit's output (the paper: 0.1).")]
Stop = Annotated[
    bool,
    typer.Option(
        "--stop-when-certified", help="Stop once every token has p > ½ (looked at every 10 steps)."
    ),
]


def parse_number(flag: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RecipeError(f"{flag} is {value!r}; expected a number or auto") from None


def parse_numbers(flag: str, value: str) -> tuple[int, ...]:
    """ "1,2,4" -> (1, 2, 4)."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise RecipeError(
            f"{flag} is {value!r}; expected whole numbers with commas between"
        ) from None


def parse_layers(value: str, count: int) -> tuple[int, ...] | None:
    """ "auto" -> None, "all" -> every layer, "3,5" -> (3, 5)."""
    if value in ("auto", "all"):
        return None if value == "auto" else tuple(range(count))
    try:
        return parse_numbers("--layer", value)
    except RecipeError:
        raise RecipeError(
            f"--layer is {value!r}; expected a number, a comma list, all or auto"
        ) from None


def make_recipe(options: dict):
    """A command's options -> the `Recipe` they spell out, but for its layers: these need the depth."""
    from ..training.recipe import Recipe

    fields = {name: options[name] for name in Recipe.__dataclass_fields__ if name in options}
    fields["sites"] = tuple(part.strip() for part in options["site"].split(","))
    fields["lr"] = None if options["lr"] == "auto" else parse_number("--lr", options["lr"])
    if options["boundaries"] is not None:
        fields["boundaries"] = parse_numbers("--boundaries", options["boundaries"])
    return Recipe(**fields)


@dataclass
class Source:
    """Where memories come from: random tokens, a natural text, or a file of memories.

    Raises DataError for options that exclude each other, and a text that cannot be read.
    """

    text: str | None
    data: Path | None
    prompt: str | None
    chat: bool
    lengths: Sequence[int] | None  # None: 128 random tokens, or all there is
    ratios: Sequence[int] | None
    held_out: Path | None = None

    def __post_init__(self):
        if self.data is not None:
            given = {"--text": self.text, "--ratio": self.ratios, "--prompt": self.prompt}
            for flag, value in given.items():
                if value is not None:
                    raise DataError(
                        f"--data and {flag} exclude each other; the file holds whole memories"
                    )
        for ratio in self.ratios or ():
            if not 0 <= ratio <= 100:
                raise DataError(f"--ratio is {ratio}; it is a percentage, 0 to 100")
            if self.text is None and ratio != 100:
                raise DataError(
                    f"--ratio {ratio} needs a natural text to mix random tokens into; give --text FILE"
                )
        for length in self.lengths or ():
            if length < 1:
                raise DataError(f"--length is {length}; a memory has at least one token")
        self.content = None if self.text is None else read_source(self.text)

    def prepare(self, tokenizer, context: int) -> Callable[[int | None, int | None, int], list]:
        """For a model with so long a context: a function from (length, ratio, seed) to memories."""
        from ..data.memory import PROMPT, first_tokens, random_memory, text_memory
        from ..data.read import read_memories

        for length in self.lengths or ():
            if self.data is None and length >= context:  # before so many are drawn
                raise DataError(
                    f"--length {length} and a prompt exceed the model's context of {context}"
                )
        self.held_out_memories = []
        if self.held_out is not None:
            self.held_out_memories = read_memories(self.held_out, tokenizer, chat=self.chat)
        if self.data is not None:
            memories = read_memories(self.data, tokenizer, chat=self.chat)
            return lambda length, ratio, seed: (
                memories if length is None else first_tokens(memories, length)
            )
        key = {"prompt": PROMPT if self.prompt is None else self.prompt, "chat": self.chat}

        def make(length: int | None, ratio: int | None, seed: int) -> list:
            if self.content is None:
                return [random_memory(tokenizer, length or 128, seed=seed, **key)]
            options = {"length": length, "ratio": ratio or 0, "seed": seed}
            return [text_memory(tokenizer, self.content, **options, **key)]

        return make

    def about(self) -> dict[str, object]:
        """What tells these memories from others, for the rows of a sweep."""
        about = {
            "prompt": self.prompt,
            "chat": self.chat,
            "text": None,
            "data": None,
            "held_out": None,
        }
        if self.content is not None:
            about["text"] = short_hash(self.content.encode())
        for name in ("data", "held_out"):
            if (path := getattr(self, name)) is not None:
                about[name] = short_hash(path.read_bytes())
        return about


def short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_source(text: str) -> str:
    from ..files import decode_text, read_text

    if text == "-" and sys.stdin is None:
        raise DataError("--text -: there is no stdin to read")
    if text == "-":
        return decode_text(sys.stdin.buffer.read(), "stdin")
    return read_text(Path(text))


def check_place(path: Path) -> None:
    """Find out before training, not after, that there is no place for the results."""
    home = path.parent
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise DataError(
            f"{path}: cannot write there, {home} is not a folder that can be written to"
        )


def check_plot(path: Path | None) -> None:
    if path is None:
        return
    check_place(path)
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise DataError(f"--plot {path}: expected a name that ends in .png, .pdf or .svg")
    from ..show.axes import figure

    figure(1)


def check_new_folder(out: Path | None) -> None:
    if out is None:
        return
    check_place(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DataError(f"--out {out}: exists and is not empty; choose a new folder, or delete it")
