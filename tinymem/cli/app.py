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

from .. import __version__
from ..errors import LawError, TinymemError, is_out_of_memory
from ..files import json_text
from . import data as cli_data, options as opt

# torch takes seconds to import, so what needs it is imported inside the commands.

EXIT_CODES = {"ok": 0, "diverged": 1, "oom": 1, "interrupted": 130}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_data.app, name="data")


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
    optimizer: opt.Optimizer = "adamw",
    lr: opt.LearningRate = "auto",
    dropout: opt.Dropout = 0.0,
    seed: Annotated[int, typer.Option(help="Of the random tokens and of the unit.")] = 0,
    stop_when_certified: opt.Stop = False,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    revision: opt.Revision = None,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the unit and report.json.")
    ] = None,
    json_: opt.Json = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the run into this PNG, PDF or SVG file.")
    ] = None,
) -> int:
    """Write one memory into a LoRA, and report how well it stuck."""
    opt.check_new_folder(out)
    opt.check_plot(plot)
    recipe = opt.make_recipe(locals())
    one = {
        name: None if value is None else [value]
        for name, value in (("lengths", length), ("ratios", ratio))
    }
    source = opt.Source(text, data, prompt, chat, held_out=held_out, **one)
    from ..base.checkpoint import open_checkpoint
    from ..data.memory import check_fits
    from ..experiment.probe import memorize
    from ..experiment.report import save_run
    from ..show import report as show
    from ..show.progress import Bars
    from ..unit.sites import unit_shapes

    memories = []

    def prepare(shapes, tokenizer) -> None:
        """Find out what cannot work before the weights are read."""
        nonlocal recipe
        recipe = replace(recipe, layers=opt.parse_layers(layer, shapes.config.num_layers))
        unit_shapes(shapes, recipe.rank, recipe.sites, recipe.layers)
        memories.extend(source.prepare(tokenizer, shapes.config.context)(length, ratio, seed))
        check_fits([*memories, *source.held_out_memories], shapes.config)

    with Bars() as bars:
        checkpoint = open_checkpoint(model, revision)
        tokenizer = checkpoint.tokenizer
        prepare(checkpoint.shapes(), tokenizer)
        base = checkpoint.weights(device, dtype, bars)
        others = source.held_out_memories
        result = memorize(base, memories, recipe=recipe, held_out=others, progress=bars)
    unsaved, usable = None, False
    try:
        if out is not None:
            usable = save_run(result, base, recipe, out)
        if plot is not None:
            from ..show.plots import plot_run

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


@app.command(
    epilog="Example: tinymem sweep --ranks 1,2,4,8 --lengths 32,64,128 --seeds 0,1,2 --out grid"
)
def sweep(
    out: Annotated[
        Path, typer.Option(help="Folder of the rows; run again, it does what is missing.")
    ],
    model: opt.Model = "tiny",
    ranks: Annotated[str, typer.Option(help="Ranks, with commas between.")] = "1,2,4,8",
    lengths: Annotated[
        str | None,
        typer.Option(help="Target tokens. 32,64,128, or with --text or --data all there is."),
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
    optimizer: opt.Optimizer = "adamw",
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
    recipe = opt.make_recipe(locals())
    axes = {
        "ranks": opt.parse_numbers("--ranks", ranks),
        "seeds": opt.parse_numbers("--seeds", seeds),
    }
    axes["methods"] = [part.strip() for part in methods.split(",")]
    for rank, method, seed in itertools.product(axes["ranks"], axes["methods"], axes["seeds"]):
        replace(recipe, rank=rank, method=method, seed=seed)  # find out what is wrong with them now
    if lengths is None and text is None and data is None:
        lengths = "32,64,128"
    lengths = None if lengths is None else opt.parse_numbers("--lengths", lengths)
    ratios = None if ratios is None else opt.parse_numbers("--ratios", ratios)
    source = opt.Source(text, data, prompt, chat, lengths, ratios, held_out)
    from ..base.checkpoint import open_checkpoint
    from ..data.memory import check_fits
    from ..experiment.grid import check_grid, make_grid
    from ..experiment.sweep import run_sweep
    from ..experiment.workers import Workers
    from ..show import report as show
    from ..show.progress import Bars
    from ..unit.sites import unit_shapes

    grid = {}

    def prepare(shapes, tokenizer) -> None:
        nonlocal recipe
        recipe = replace(recipe, layers=opt.parse_layers(layer, shapes.config.num_layers))
        for rank in axes["ranks"]:
            unit_shapes(shapes, rank, recipe.sites, recipe.layers)
        make = source.prepare(tokenizer, shapes.config.context)
        grid.update(make_grid(make, lengths=lengths or [None], ratios=ratios or [None], **axes))
        check_grid(grid, shapes)
        if source.held_out_memories:
            check_fits(source.held_out_memories, shapes.config)

    workers = Workers()
    with Bars(quiet=workers.rank > 0) as bars:
        if workers.count > 1 and device in ("auto", "cuda"):
            device = workers.device(device)
        checkpoint = open_checkpoint(model, revision)
        prepare(checkpoint.shapes(), checkpoint.tokenizer)
        base = checkpoint.weights(device, dtype, bars)
        more = {"source": source.about(), "held_out": source.held_out_memories, "workers": workers}
        rows = run_sweep(base, grid, out, recipe=recipe, progress=bars, **more)
    if workers.rank == 0:
        rows = [{name: value for name, value in row.items() if name != "_where"} for row in rows]
        if json_:
            print(json.dumps(rows, indent=2))
        else:
            from ..show.tables import show_grid

            show_grid(rows)
            again = f"fit it with: tinymem fit {shlex.quote(str(out))}"
            show.stdout.print(f"\nSaved in {out}; {again}", soft_wrap=True, markup=False)
    return 0 if any(row["status"] == "ok" for row in rows) else 1


@app.command(epilog="Example: tinymem recall run")
def recall(
    run: Annotated[Path, typer.Argument(help="Folder of a saved run.")],
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now, if it has moved.")
    ] = None,
    device: opt.Device = "auto",
    dtype: opt.Dtype = "auto",
    revision: opt.Revision = None,
    json_: opt.Json = False,
) -> int:
    """Load a saved unit onto its base, decode the memory again, and compare with its report."""
    from ..base.checkpoint import open_checkpoint
    from ..experiment.recall import judge
    from ..experiment.report import read_run, recall_report
    from ..show import report as show
    from ..show.progress import Bars
    from ..unit.adapter import load_adapter

    memories, report = read_run(run)
    name = model or report["model"]
    with (
        Bars() as bars
    ):  # the base as it was: the run's own revision and dtype, unless told otherwise
        checkpoint = open_checkpoint(name, revision or report.get("revision"))
        tokenizer = checkpoint.tokenizer
        base = checkpoint.weights(device, report["dtype"] if dtype == "auto" else dtype, bars)
        load_adapter(base, run)
        verdict = judge(base, memories, progress=bars)
    again = recall_report(report, verdict, base)
    if json_:
        print(json.dumps(again, indent=2))
    else:
        show.show_recall(again, memories, verdict, tokenizer)
    return 0 if again["agrees"] else 1


Results = Annotated[
    Path, typer.Argument(help="Folder of a sweep, or a file of its rows (JSON lines).")
]
NoOffset = Annotated[bool, typer.Option("--no-offset", help="Without b: ΔL = C·r^α·ℓ^−β.")]


@app.command(epilog="Example: tinymem fit grid --plot law.png")
def fit(
    results: Results,
    no_offset: NoOffset = False,
    json_: opt.Json = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the law into this PNG, PDF or SVG file.")
    ] = None,
) -> int:
    """The Parametric Memory Law of a sweep: ΔL = C·r^α·ℓ^−β + b, and how well it holds."""
    opt.check_plot(plot)
    fits, refused = read_fits(results, offset=not no_offset)
    if plot is not None:
        from ..show.plots import plot_law

        plot_law(fits, plot)
    if json_:
        laws = [fit.as_dict() for fit in fits]
        print(json_text({**laws[0], "groups": laws, "refused": refused}, indent=2))
    else:
        from ..show.tables import show_fits

        show_fits(fits, refused)
    return 0


@app.command(epilog="Example: tinymem plan grid --length 200")
def plan(
    results: Results,
    length: Annotated[
        int | None, typer.Option(help="What rank does a memory of this length need?")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="How long a memory does this rank hold?")] = None,
    text: Annotated[
        str | None, typer.Option(help="What rank does this text (a file, or - for stdin) need?")
    ] = None,
    loss: Annotated[
        float | None,
        typer.Option(help="Final loss wanted, nats per token; the certificate unless given."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Of the sweep's methods, plan for this one.")
    ] = None,
    ratio: Annotated[
        int | None, typer.Option(help="Of the sweep's ratios, plan for this one.")
    ] = None,
    no_offset: NoOffset = False,
    model: Annotated[
        str | None, typer.Option(help="With --text: where the base model is now.")
    ] = None,
    device: opt.Device = "auto",
    json_: opt.Json = False,
) -> int:
    """Turn the law of a sweep round: the rank for a length or a text, the length for a rank."""
    if [length, rank, text].count(None) != 2:
        raise LawError("give one of --length, --rank and --text, to plan for")
    for flag, value in (("--length", length), ("--rank", rank)):
        if value is not None and value < 1:
            raise LawError(f"{flag} is {value}; expected 1 or more")
    from ..law.plan import plan_length, plan_rank
    from ..show.tables import show_plan

    fits, _ = read_fits(results, offset=not no_offset)
    chosen = [fit for fit in fits if method in (None, fit.key["method"])]
    if not chosen:
        known = ", ".join(str(fit.key["method"]) for fit in fits)
        raise LawError(f"{results}: no law of method {method!r}; there is one of {known}")
    base_loss = None
    if text is not None:
        length, base_loss = measure_text(text, chosen[0], model, device)
        ratio = 0 if ratio is None else ratio
    if rank is not None:
        answer = plan_length(chosen[0], rank, loss, ratio=ratio)
    else:
        answer = plan_rank(chosen[0], length, loss, ratio=ratio, base_loss=base_loss)
    if json_:
        print(json.dumps(answer.as_dict(), indent=2))
    else:
        show_plan(answer, chosen[0])
    return 0


def read_fits(results: Path, offset: bool):
    """The laws of a sweep's rows, with a word on stderr about lines that are torn."""
    from ..experiment.rows import read_rows
    from ..law.fit import fit_rows

    rows, torn = read_rows(results)
    for note in torn:
        print(f"tinymem: {note}", file=sys.stderr)
    if not rows:
        raise LawError(f"{results}: no rows; run a sweep first")
    return fit_rows(rows, offset=offset)


def measure_text(text: str, fit, model: str | None, device: str) -> tuple[int, float]:
    """Tokens of a text, and its loss on the sweep's base model, with the sweep's own prompt."""
    from ..base.checkpoint import open_checkpoint
    from ..data.batch import Batch
    from ..data.memory import PROMPT, check_fits, text_memory
    from ..experiment.recall import teacher_forced
    from ..show.progress import Bars

    content = opt.read_source(text)
    row = fit.rows[0]
    name, setting = model or row.get("model"), row.get("setting") or {}
    if name is None:
        raise LawError("the rows do not name their base model; give it with --model")
    prompt = PROMPT if setting.get("prompt") is None else setting["prompt"]
    memories = []

    def prepare(shapes, tokenizer) -> None:
        memories.append(
            text_memory(tokenizer, content, prompt=prompt, chat=setting.get("chat", True))
        )
        check_fits(memories, shapes.config)

    with Bars() as bars:
        checkpoint = open_checkpoint(name, row.get("revision"))
        prepare(checkpoint.shapes(), checkpoint.tokenizer)
        base = checkpoint.weights(device, row.get("dtype", "auto"), bars)
        batch = Batch(memories, base.config.context, base.device)
        return memories[0].length, teacher_forced(base, batch)[0].mean().item()


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
            print(
                "tinymem: out of memory; use a smaller base model or shorter memories",
                file=sys.stderr,
            )
            sys.exit(1)
        if not hasattr(error, "format_message"):  # typer's own, of wrong usage
            raise
        print(f"tinymem: {error.format_message()} See tinymem --help.", file=sys.stderr)
        code = 2
    sys.exit(code)
