"""The command line. Results go to stdout, progress and errors to stderr.

Exit codes: 0 done, 1 the run failed, 2 wrong usage or bad input (one line says what), 130 interrupted.
"""

import itertools
import json
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from . import options as opt
from .errors import TinymemError, is_out_of_memory

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


@app.command(epilog="Example: tinymem probe --model gpt2 --rank 8 --length 128 --out run")
def probe(
    model: opt.Model = "tiny",
    rank: Annotated[int, typer.Option(help="Rank r of the unit.")] = 8,
    layer: opt.Layer = "auto",
    site: opt.Site = "mlp",
    length: Annotated[
        int | None, typer.Option(help="Target tokens: 128 random ones, or all there is.")
    ] = None,
    ratio: Annotated[
        int | None, typer.Option(help="Percent of random tokens: 100, or 0 with --text.")
    ] = None,
    text: opt.TextFile = None,
    prompt: opt.Prompt = None,
    data: opt.Data = None,
    held_out: opt.HeldOut = None,
    chat: opt.Chat = True,
    method: Annotated[str, typer.Option(help="sft, memft-ot or memft-sw.")] = "sft",
    zero_active: opt.ZeroActive = "sft",
    steps: opt.Steps = 2000,
    epochs: opt.Epochs = None,
    batch_size: opt.BatchSize = None,
    accumulate: opt.Accumulate = 1,
    boundaries: opt.Boundaries = None,
    lr: opt.LearningRate = "auto",
    dropout: opt.Dropout = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random tokens and of the unit.")] = 0,
    stop_when_certified: opt.Stop = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    revision: opt.Revision = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the unit and report.json.")] = None,
    json_: opt.Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the run into this PNG, PDF or SVG file.")] = None,
) -> int:
    """Write one memory into a LoRA, and report how well it stuck."""
    opt.check_new_folder(out)
    opt.check_plot(plot)
    recipe = make_recipe(locals())
    one = {
        name: None if value is None else [value] for name, value in (("lengths", length), ("ratios", ratio))
    }
    source = opt.Source(text, data, prompt, chat, held_out=held_out, **one)
    from . import show
    from .checkpoint import load
    from .lora import plan_unit
    from .memory import check_fits
    from .probe import EXIT_CODES, memorize, save_run

    memories = []

    def prepare(shapes, tokenizer) -> None:
        """Find out what cannot work before the weights are read."""
        nonlocal recipe
        recipe = replace(recipe, layers=opt.parse_layers(layer, shapes.config.num_layers))
        plan_unit(shapes, recipe.rank, recipe.sites, recipe.layers)
        memories.extend(source.prepare(tokenizer, shapes.config.context)(length, ratio, seed))
        check_fits([*memories, *source.held_out_memories], shapes.config)

    with show.Bars() as bars:
        where = {"revision": revision, "device": device, "dtype": dtype}
        base, tokenizer = load(model, **where, before=prepare, watch=bars.watch)
        hooks = {"on_metrics": bars.on_metrics(), "watch": bars.watch}
        result = memorize(base, memories, recipe=recipe, held_out=source.held_out_memories, **hooks)
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


@app.command(epilog="Example: tinymem sweep --ranks 1,2,4,8 --lengths 32,64,128 --seeds 0,1,2 --out grid")
def sweep(
    out: Annotated[Path, typer.Option(help="Folder of the rows; run again, it does what is missing.")],
    model: opt.Model = "tiny",
    ranks: Annotated[str, typer.Option(help="Ranks, with commas between.")] = "1,2,4,8",
    lengths: Annotated[
        str | None, typer.Option(help="Target tokens. 32,64,128, or with --text or --data all there is.")
    ] = None,
    ratios: Annotated[
        str | None, typer.Option(help="Percents of random tokens: 100, or 0 with --text.")
    ] = None,
    methods: Annotated[str, typer.Option(help="sft, memft-ot, memft-sw.")] = "sft",
    seeds: Annotated[str, typer.Option(help="Of the random tokens and of the units.")] = "0",
    layer: opt.Layer = "auto",
    site: opt.Site = "mlp",
    text: opt.TextFile = None,
    prompt: opt.Prompt = None,
    data: opt.Data = None,
    held_out: opt.HeldOut = None,
    chat: opt.Chat = True,
    zero_active: opt.ZeroActive = "sft",
    steps: opt.Steps = 2000,
    epochs: opt.Epochs = None,
    batch_size: opt.BatchSize = None,
    accumulate: opt.Accumulate = 1,
    boundaries: opt.Boundaries = None,
    lr: opt.LearningRate = "auto",
    dropout: opt.Dropout = 0.0,
    stop_when_certified: opt.Stop = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    revision: opt.Revision = None,
    json_: opt.Json = False,
) -> int:
    """Measure a grid of ranks, lengths, ratios, methods and seeds; start it again to go on.

    Several devices share the cells: torchrun --nproc-per-node 2 -m tinymem sweep …
    """
    opt.check_place(out)
    recipe = make_recipe(locals())
    axes = {"ranks": opt.parse_numbers("--ranks", ranks), "seeds": opt.parse_numbers("--seeds", seeds)}
    axes["methods"] = [part.strip() for part in methods.split(",")]
    for rank, method, seed in itertools.product(axes["ranks"], axes["methods"], axes["seeds"]):
        replace(recipe, rank=rank, method=method, seed=seed)  # find out what is wrong with them now
    if lengths is None and text is None and data is None:
        lengths = "32,64,128"
    lengths = lengths and opt.parse_numbers("--lengths", lengths)
    ratios = ratios and opt.parse_numbers("--ratios", ratios)
    source = opt.Source(text, data, prompt, chat, lengths, ratios, held_out)
    from . import show
    from .checkpoint import load
    from .lora import plan_unit
    from .memory import check_fits
    from .sweep import Workers, check_room, make_grid, run_sweep

    grid = {}

    def prepare(shapes, tokenizer) -> None:
        nonlocal recipe
        recipe = replace(recipe, layers=opt.parse_layers(layer, shapes.config.num_layers))
        for rank in axes["ranks"]:
            plan_unit(shapes, rank, recipe.sites, recipe.layers)
        make = source.prepare(tokenizer, shapes.config.context)
        grid.update(make_grid(make, lengths=lengths or [None], ratios=ratios or [None], **axes))
        check_room(grid, shapes)
        if source.held_out_memories:
            check_fits(source.held_out_memories, shapes.config)

    workers = Workers()
    with show.Bars(quiet=workers.rank > 0) as bars:
        if workers.count > 1 and device in ("auto", "cuda"):
            device = workers.device(device)
        where = {"revision": revision, "device": device, "dtype": dtype}
        base, _ = load(model, **where, before=prepare, watch=bars.watch)
        progress = show.GridBars(bars)
        more = {"source": source.about(), "held_out": source.held_out_memories, "workers": workers}
        rows = run_sweep(base, grid, out, recipe=recipe, progress=progress, **more)
    if workers.rank == 0:
        rows = [{name: value for name, value in row.items() if name != "_where"} for row in rows]
        if json_:
            print(json.dumps(rows, indent=2))
        else:
            show.show_grid(rows)
            show.stdout.print(
                f"\nSaved in {out}; fit it with: tinymem fit {shlex.quote(str(out))}",
                soft_wrap=True,
                markup=False,
            )
    return 0 if any(row["status"] == "ok" for row in rows) else 1


@app.command(epilog="Example: tinymem recall run")
def recall(
    run: Annotated[Path, typer.Argument(help="Folder of a saved run.")],
    model: Annotated[str | None, typer.Option(help="Where the base model is now, if it has moved.")] = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    revision: opt.Revision = None,
    json_: opt.Json = False,
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


def make_recipe(options: dict):
    """The recipe that a command's options spell out, without its layers: these need the model's depth."""
    from .train import Recipe

    fields = {name: options[name] for name in Recipe.__dataclass_fields__ if name in options}
    fields["sites"] = tuple(part.strip() for part in options["site"].split(","))
    fields["lr"] = None if options["lr"] == "auto" else opt.parse_number("--lr", options["lr"])
    if options["boundaries"] is not None:
        fields["boundaries"] = opt.parse_numbers("--boundaries", options["boundaries"])
    return Recipe(**fields)


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
