"""The options of every command, as one dataclass a command; options that are shared are inherited.

typer reads them from the fields (see app.py), and a class's docstring is the help of its command.
Nothing here imports torch, because that takes seconds and `--help` should answer at once.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

PROMPT = "Recite the memory word for word:"  # equal to data.memory.PROMPT
LENGTH = "128 random, or all of --text or --data"
LENGTHS = "32,64,128 random, or all of --text or --data"
RATIO = "100, or 0 with --text"
STEPS = "2,000, or 500 of lbfgs for a probe without --full"
BOUNDARIES = "Epochs (20,40,60,80) at which memft-sw takes in another 20 % of the memories."


def option(help: str, *flags: str, panel: str | None = None, default: str | None = None) -> Any:
    """An option of typer under the heading `panel`; `default` says what None stands for."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=default or True)


base = partial(option, panel="Base model")
source = partial(option, panel="What to memorize")
judged = partial(option, panel="What to judge")
training = partial(option, panel="Unit and training")
output = partial(option, panel="Output")

# --- Types of options: choices, which typer checks, completes and shows, and what is used twice ---

Method = Literal["sft", "memft-ot", "memft-sw", "margin"]
Optimizer = Literal["auto", "adamw", "lbfgs"]
ZeroActive = Literal["sft", "zero"]
Expect = Literal["recited", "not-recited"]
Dtype = Literal["auto", "float32", "bfloat16"]
MergedDtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Annotated[Literal["auto", "cpu", "cuda"], base("auto takes a GPU, if there is one.")]
MovedModel = Annotated[str, base("Where the base model is now, if it has moved.")]
Model = Annotated[str, base("tiny (shipped), a hub id, or the folder of a checkpoint.")]
Revision = Annotated[str | None, base("Branch, tag or commit of a hub id.")]
Chat = Annotated[bool, source("Use the checkpoint's chat template, if it has one.")]
Seed = Annotated[int, option("The same seed gives the same data.")]
DataFile = Annotated[Path | None, output("File to write.", default="stdout")]
Json = Annotated[bool, output("Print one JSON document on stdout, nothing else.", "--json")]
Plot = Annotated[Path | None, output("Draw a PNG, PDF or SVG file.")]
Html = Annotated[Path | None, output("Write a page (HTML) to look at.")]

# --- Options that commands share -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BaseOptions:
    """Which base model, and how it is computed."""

    model: Model = "tiny"
    revision: Revision = None
    device: Device = "auto"
    dtype: Annotated[Dtype, base("Precision; auto: float32 on a CPU, bfloat16 on a GPU.")] = "auto"


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where memories come from; source.py reads them."""

    text: Annotated[Path | None, source("UTF-8 text file; - reads from stdin.")] = None
    data: Annotated[Path | None, source("Memories (JSON Lines), all in one unit.")] = None
    prompt: Annotated[str | None, source("Prompt that asks for the memory.", default=PROMPT)] = None
    chat: Chat = True
    held_out: Annotated[Path | None, source("Memories (JSON Lines) that are only judged.")] = None


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Where the unit sits and how it is trained: a Recipe without rank, method and seed."""

    layer: Annotated[
        str, training("From 0; auto is two thirds of the depth. Linear sites also take 3,5 or all.")
    ] = "auto"
    site: Annotated[str, training("mlp, as in the paper, or Linear layers: q_proj,v_proj.")] = "mlp"
    zero_active: Annotated[
        ZeroActive, training("When all p > ½, memft-ot trains on all tokens (sft) or none (zero).")
    ] = "sft"
    steps: Annotated[int | None, training("Optimizer steps, at most.", default=STEPS)] = None
    epochs: Annotated[int | None, training("Passes over the memories; replaces --steps.")] = None
    batch_size: Annotated[int | None, training("Memories in a minibatch.", default="all")] = None
    accumulate: Annotated[int, training("Minibatches in one optimizer step.")] = 1
    boundaries: Annotated[str | None, training(BOUNDARIES, default="1/15 to 4/15 of a run")] = None
    optimizer: Annotated[
        Optimizer, training("auto is adamw, as in the paper, but lbfgs in a probe without --full.")
    ] = "auto"
    lr: Annotated[str, training("Learning rate; auto derives it from the width.")] = "auto"
    dropout: Annotated[float, training("Dropout on the unit's output; 0.1 in the paper.")] = 0.0
    stop_when_certified: Annotated[
        bool, training("Stop once all p > ½.", "--stop-when-certified")
    ] = False
    stop_when_recited: Annotated[
        bool, training("Stop once every token is clearly the likeliest.", "--stop-when-recited")
    ] = False


@dataclass(frozen=True, kw_only=True)
class LawOptions:
    """What fit and plan share."""

    results: Annotated[Path, typer.Argument(help="Folder of a sweep, or its rows as JSON.")]
    no_offset: Annotated[bool, option("Fit the law with b = 0.", "--no-offset")] = False


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """What the kinds of data share that need a tokenizer."""

    model: Model = "tiny"
    prompt: Annotated[str, source("Prompt that asks for the memory.")] = PROMPT
    chat: Chat = True


# --- The commands --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Probe(RecipeOptions, SourceOptions, BaseOptions):
    """Write a memory into a LoRA until it is recited or nothing improves, and report how well."""

    rank: Annotated[int, option("Rank r of the unit.")] = 8
    length: Annotated[int | None, option("Target tokens.", default=LENGTH)] = None
    ratio: Annotated[int | None, option("Percentage of random tokens.", default=RATIO)] = None
    method: Annotated[
        Method,
        option("sft, memft-ot and memft-sw are the paper's; margin asks only what decoding needs."),
    ] = "sft"
    seed: Annotated[int, option("Seed of random tokens and initial weights.")] = 0
    full: Annotated[bool, option("All steps of the paper's recipe.", "--full")] = False
    out: Annotated[
        Path | None, output("Folder of the run; the same command again goes on there.")
    ] = None
    json: Json = False
    plot: Plot = None
    html: Html = None


@dataclass(frozen=True, kw_only=True)
class Recall(BaseOptions):
    """Load a saved unit onto its base model, recite the memory, and compare with the report."""

    run: Annotated[Path, typer.Argument(help="Folder of a saved run.")]
    model: MovedModel = ""
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Judge(BaseOptions):
    """Does this model, or this adapter on its base, recite this text, or these memories?

    A text of any length can be audited in windows: which are recited after the tokens before them?
    """

    adapter: Annotated[str | None, base("Folder or hub id of a LoRA on this model.")] = None
    model: Annotated[
        str, base("The model, or the adapter's base: as probe has it.", default="the adapter's")
    ] = ""
    text: Annotated[Path | None, judged("UTF-8 text file; - reads from stdin.")] = None
    data: Annotated[Path | None, judged("Memories (JSON Lines), one by one.")] = None
    prompt: Annotated[str | None, judged("Prompt that asks for the text.", default=PROMPT)] = None
    chat: Annotated[bool, judged("Use the model's chat template, if it has one.")] = True
    context: Annotated[
        int | None, judged("Audit in windows: tokens that precede each.", default="32, if audited")
    ] = None
    window: Annotated[
        int | None, judged("Audit in windows: tokens in each.", default="50, if audited")
    ] = None
    stride: Annotated[
        int | None, judged("Audit in windows: tokens from one to the next.", default="10")
    ] = None
    expect: Annotated[
        Expect | None,
        option("Exit with 1 unless all of it is recited, or unless none of it is."),
    ] = None
    json: Json = False
    html: Html = None


@dataclass(frozen=True, kw_only=True)
class Sweep(RecipeOptions, SourceOptions, BaseOptions):
    """Measure a grid of ranks, lengths, ratios, methods and seeds.

    Lists are separated by commas. A sweep that is started again goes on.
    With several devices: torchrun --nproc-per-node 2 -m tinymem sweep …
    """

    ranks: Annotated[str, option("Ranks of the units.")] = "1,2,4,8"
    lengths: Annotated[str | None, option("Target tokens.", default=LENGTHS)] = None
    ratios: Annotated[str | None, option("Percentages of random tokens.", default=RATIO)] = None
    methods: Annotated[str, option("Some of sft, memft-ot, memft-sw, margin.")] = "sft"
    seeds: Annotated[str, option("Seeds of random tokens and initial weights.")] = "0"
    out: Annotated[Path, output("Folder of the rows; started again, a sweep goes on there.")]
    json: Json = False
    html: Html = None


@dataclass(frozen=True, kw_only=True)
class Fit(LawOptions):
    """Fit the Parametric Memory Law to a sweep: ΔL = C·r^α·ℓ^−β + b.

    r is the rank, ℓ the length in tokens and ΔL the loss reduction in nats per token.
    """

    json: Json = False
    plot: Plot = None
    html: Html = None


@dataclass(frozen=True, kw_only=True)
class Plan(LawOptions):
    """Solve the law of a sweep for the rank of a length or text, or for the length of a rank."""

    length: Annotated[int | None, option("Which rank does this length need?")] = None
    rank: Annotated[int | None, option("Which length does this rank hold?")] = None
    text: Annotated[
        Path | None, option("Which rank does this UTF-8 text need? - reads from stdin.")
    ] = None
    loss: Annotated[
        float | None, option("Final loss to reach, nats per token.", default="all tokens certified")
    ] = None
    probability: Annotated[float, option("Probability that a fresh run gets there.")] = 0.9
    recite: Annotated[
        float | None, option("Plan by the recall law: recite everything with this probability.")
    ] = None
    method: Annotated[str | None, option("Use the law of this method.")] = None
    ratio: Annotated[int | None, option("Use the law of this percentage.")] = None
    model: MovedModel = ""
    device: Device = "auto"
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Add a LoRA to the weights of its base model: a Hugging Face folder that needs no adapter."""

    adapter: Annotated[
        str, typer.Argument(help="Folder of a run or an adapter, or the adapter's hub id.")
    ]
    model: MovedModel = ""
    revision: Revision = None
    device: Device = "auto"
    dtype: Annotated[
        MergedDtype, base("Precision of the written weights; auto: that of the base's files.")
    ] = "auto"
    out: Annotated[Path, output("Folder to write, new or empty.")]
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Random(TokenOptions):
    """Token ids that are drawn uniformly from the vocabulary of a model."""

    length: Annotated[int, option("Target tokens.")] = 128
    count: Annotated[int, option("Memories, all with the same prompt.")] = 1
    vocabulary: Annotated[
        int | None, option("Draw from so many tokens, drawn first.", default="all")
    ] = None
    seed: Seed = 0
    out: DataFile = None


@dataclass(frozen=True, kw_only=True)
class LongContext(TokenOptions):
    """A text in which more and more tokens are replaced by random ones: r0 to r100."""

    text: Annotated[Path, option("UTF-8 text file, or - for stdin.")]
    length: Annotated[int | None, option("Target tokens.", default="the whole text")] = None
    ratios: Annotated[str, option("Percentages of random tokens.")] = "0,20,40,60,80,100"
    seed: Seed = 0
    out: DataFile = None


@dataclass(frozen=True, kw_only=True)
class Phonebook:
    """Invented names, each with an invented number of ten digits."""

    count: Annotated[int, option("Entries.")] = 100
    seed: Seed = 0
    out: DataFile = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Pairs of the rule f(x, y) = 3x + 5y + 7, and held-out pairs to see if a unit learned it."""

    out: Annotated[Path, output("File to write; held-out pairs go to NAME.held-out.jsonl.")]
    count: Annotated[int, option("Pairs to train on.")] = 100
    held_out: Annotated[int, option("Other pairs, to test on.")] = 50
    limit: Annotated[int, option("x and y are below this number.")] = 100
    seed: Seed = 0
