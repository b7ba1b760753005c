"""The command line. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or bad input (one line says what), 130 interrupted.
"""

import json
import os
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .errors import DataError, RecipeError, TinymemError, is_out_of_memory

# torch takes seconds to import, so what needs it is imported inside the commands.

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """How much can a LoRA of rank r remember, exactly?"""
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


Model = Annotated[str, typer.Option(help="tiny (shipped), a hub id, or a checkpoint's folder.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="auto, float32 or bfloat16, of the base; units are float32.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]


@app.command(epilog="Example: tinymem probe --model gpt2 --rank 8 --length 128 --out run")
def probe(
    model: Model = "tiny",
    rank: Annotated[int, typer.Option(help="Rank r of the unit.")] = 8,
    layer: Annotated[
        str,
        typer.Option(
            help="Layer, from 0; for Linear sites also a comma list, or all. auto: 2/3 of the depth."
        ),
    ] = "auto",
    site: Annotated[
        str, typer.Option(help="mlp (the paper's), or a comma list of Linear names: q_proj,v_proj")
    ] = "mlp",
    length: Annotated[
        int | None, typer.Option(help="Target tokens: 128 random ones, or all of the text.")
    ] = None,
    ratio: Annotated[
        int | None, typer.Option(help="Percent of random tokens: 100, or 0 with --text.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="File to remember (UTF-8), or - for stdin.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="The memory's key; a default asks for the memory.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Memories as JSON lines, all written into one unit.")
    ] = None,
    chat: Annotated[bool, typer.Option(help="Use the checkpoint's chat template, where it has one.")] = True,
    method: Annotated[str, typer.Option(help="sft, memft-ot, or (one memory only) memft-sw.")] = "sft",
    zero_active: Annotated[
        str, typer.Option(help="memft-ot with no token above the threshold: sft or zero.")
    ] = "sft",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 2000,
    lr: Annotated[str, typer.Option(help="Learning rate; auto follows the model's width.")] = "auto",
    dropout: Annotated[float, typer.Option(help="Dropout on the unit's output (the paper: 0.1).")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random tokens and of the unit.")] = 0,
    stop_when_certified: Annotated[
        bool,
        typer.Option(
            "--stop-when-certified", help="Stop once every token has p > ½ (looked at every 10 steps)."
        ),
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the unit and report.json.")] = None,
    json_: Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the run into this PNG, PDF or SVG file.")] = None,
) -> int:
    """Write one memory into a LoRA, and report how well it stuck."""
    check_outputs(out, plot)
    check_sources(text, data, length, ratio, prompt)
    from .train import Recipe, check_method

    recipe = Recipe(
        rank=rank,
        sites=tuple(part.strip() for part in site.split(",")),
        method=method,
        steps=steps,
        lr=None if lr == "auto" else parse_number("--lr", lr),
        seed=seed,
        dropout=dropout,
        zero_active=zero_active,
        stop_when_certified=stop_when_certified,
    )
    source = read_source(text)
    from . import show
    from .checkpoint import load
    from .lora import plan_unit
    from .memory import PROMPT, check_fits, random_memory, read_memories, text_memory
    from .probe import EXIT_CODES, memorize, save_run

    memories = []

    def prepare(shapes, tokenizer) -> None:
        """Find out what cannot work before the weights are read."""
        nonlocal recipe
        recipe = replace(recipe, layers=parse_layers(layer, shapes.config.num_layers))
        plan_unit(shapes, recipe.rank, recipe.sites, recipe.layers)
        if length is not None and length >= shapes.config.context:  # before so many are drawn
            room = shapes.config.context
            raise DataError(f"--length {length} and a prompt exceed the model's context of {room}")
        key = {"prompt": PROMPT if prompt is None else prompt, "chat": chat}
        if data is not None:
            memories.extend(read_memories(data, tokenizer, chat=chat))
        elif source is not None:
            options = {"length": length, "ratio": ratio or 0, "seed": seed}
            memories.append(text_memory(tokenizer, source, **options, **key))
        else:
            size = 128 if length is None else length
            memories.append(random_memory(tokenizer, size, seed=seed, **key))
        check_fits(memories, shapes.config)
        check_method(recipe, len(memories))

    with show.Bars() as bars:
        where = {"revision": revision, "device": device, "dtype": dtype}
        base, tokenizer = load(model, **where, before=prepare, watch=bars.watch)
        hooks = {"on_metrics": bars.on_metrics(steps), "watch": bars.watch}
        result = memorize(base, memories, recipe=recipe, **hooks)
    unsaved, usable = None, False
    try:
        if out is not None:
            usable = save_run(result, base, recipe, out)
        if plot is not None:
            from .plot import plot_run

            plot_run(result, plot)
    except OSError as error:  # a full disk: at least show the result before saying so
        unsaved = error
    if json_:
        print(json.dumps(result.report, indent=2))
    else:
        show.show_report(result.report)
        if result.verdict is not None and result.report["final_loss"] is not None:
            show.show_tokens(result.verdict, tokenizer)
        if out is not None and unsaved is None:
            again = f"recite it with: tinymem recall {shlex.quote(str(out))}"
            saved = f"\nSaved in {out}; " + (
                again if usable else "the report only, there is no unit to recite"
            )
            show.stdout.print(saved, soft_wrap=True, markup=False)
    if unsaved is not None:
        raise unsaved
    return EXIT_CODES[result.report["status"]]


@app.command(epilog="Example: tinymem recall run")
def recall(
    run: Annotated[Path, typer.Argument(help="Folder of a saved run.")],
    model: Annotated[str | None, typer.Option(help="Where the base model is now, if it has moved.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    revision: Revision = None,
    json_: Json = False,
) -> int:
    """Load a saved unit onto its base, decode the memory again, and compare with its report."""
    from . import show
    from .adapter import load_adapter
    from .checkpoint import load
    from .probe import read_run, recall_report
    from .recall import judge

    memories, report = read_run(run)
    name = model or report["model"]
    with show.Bars() as bars:  # the base as it was: the run's own revision and dtype, unless told otherwise
        where = {"revision": revision or report.get("revision"), "device": device}
        where["dtype"] = report["dtype"] if dtype == "auto" else dtype
        base, tokenizer = load(name, **where, watch=bars.watch)
        load_adapter(base, run)
        verdict = judge(base, memories, watch=bars.watch)
    again = recall_report(report, verdict, base)
    if json_:
        print(json.dumps(again, indent=2))
    else:
        show.show_recall(again, memories, verdict, tokenizer)
    return 0 if again["agrees"] else 1


# --- Arguments -----------------------------------------------------------------------------------


def parse_number(flag: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RecipeError(f"{flag} is {value!r}; expected a number or auto") from None


def parse_layers(value: str, count: int) -> tuple[int, ...] | None:
    """ "auto" -> None, "all" -> every layer, "3,5" -> (3, 5)."""
    if value == "auto":
        return None
    if value == "all":
        return tuple(range(count))
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise RecipeError(f"--layer is {value!r}; expected a number, a comma list, all or auto") from None


def check_sources(text, data, length, ratio, prompt) -> None:
    """Which options go together. Raises DataError."""
    if data is not None:
        given = {"--text": text, "--length": length, "--ratio": ratio, "--prompt": prompt}
        for flag, value in given.items():
            if value is not None:
                raise DataError(f"--data and {flag} exclude each other; the file holds whole memories")
    if ratio is not None and not 0 <= ratio <= 100:
        raise DataError(f"--ratio is {ratio}; it is a percentage, 0 to 100")
    if length is not None and length < 1:
        raise DataError(f"--length is {length}; a memory has at least one token")
    if text is None and ratio not in (None, 100):
        raise DataError(f"--ratio {ratio} needs a natural text to mix random tokens into; give --text FILE")


def check_outputs(out: Path | None, plot: Path | None) -> None:
    """Find out before training, not after, that there is no place for the results."""
    for path in filter(None, (out, plot)):
        home = path.parent
        if not home.is_dir() or not os.access(home, os.W_OK):
            raise DataError(f"{path}: cannot write there, {home} is not a folder that can be written to")
    if out is not None and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise DataError(f"--out {out}: exists and is not empty; choose a new folder, or delete it")
    if plot is not None:
        if plot.suffix.lower() not in (".png", ".pdf", ".svg"):
            raise DataError(f"--plot {plot}: expected a name that ends in .png, .pdf or .svg")
        from .plot import figure

        figure(1)


def read_source(text: str | None) -> str | None:
    from .memory import decode_text, read_text

    if text == "-" and sys.stdin is None:
        raise DataError("--text -: there is no stdin to read")
    if text == "-":
        return decode_text(sys.stdin.buffer.read(), "stdin")
    return None if text is None else read_text(Path(text))


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, interrupt)  # a polite kill is a Ctrl-C
    try:
        code = app(standalone_mode=False)
    except TinymemError as error:
        print(f"tinymem: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        print(f"tinymem: {error}", file=sys.stderr)
        code = 1
    except Exception as error:
        if is_out_of_memory(error):
            print("tinymem: out of memory; use a smaller base model or shorter memories", file=sys.stderr)
            sys.exit(1)
        if not hasattr(error, "format_message"):  # typer's own, of wrong usage
            raise
        print(f"tinymem: {error.format_message()} See tinymem --help.", file=sys.stderr)
        code = 2
    sys.exit(code)
