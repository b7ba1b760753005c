"""`tinymem probe` writes a memory into a unit; `tinymem recall` judges a saved unit again."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options as opt
from .source import open_source

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..experiment.report import Result

EXIT_CODES = {"ok": 0, "diverged": 1, "oom": 1, "interrupted": 130}  # by status of the run


@opt.with_groups
def probe(
    *,
    rank: Annotated[int, opt.option("Rank r of the unit.")] = 8,
    length: Annotated[
        int | None,
        opt.option("Target tokens.", default="128 random, or all of --text or --data"),
    ] = None,
    ratio: Annotated[
        int | None, opt.option("Percentage of random tokens.", default="100, or 0 with --text")
    ] = None,
    method: Annotated[
        opt.Method,
        opt.option("memft-ot trains on p ≤ ½ only, memft-sw on a window from the first error."),
    ] = opt.Method.sft,
    seed: Annotated[int, opt.option("Seed of random tokens and initial weights.")] = 0,
    base: opt.BaseOptions,
    memories: opt.SourceOptions,
    training: opt.RecipeOptions,
    out: Annotated[Path | None, opt.output("New folder for unit and report.")] = None,
    json_: opt.Json = False,
    plot: opt.Plot = None,
) -> int:
    """Write one memory into a LoRA, and report how well it is remembered."""
    if out is not None:
        opt.check_new_folder(out)
    if plot is not None:
        opt.check_plot(plot)
    recipe = training.recipe(rank=rank, method=method.value, seed=seed)
    source = open_source(memories, [length], [ratio])
    from ..base.checkpoint import open_checkpoint
    from ..data.memory import check_fits
    from ..experiment.probe import memorize
    from ..experiment.report import save_run
    from ..show.plots import plot_run
    from ..show.progress import Bars
    from ..unit.sites import unit_shapes

    checkpoint = open_checkpoint(base.model, base.revision)
    shapes = checkpoint.shapes()  # enough to find what cannot work, before weights are read
    recipe = dataclasses.replace(recipe, layers=training.layers(shapes.config.num_layers))
    unit_shapes(shapes, recipe.rank, recipe.sites, recipe.layers)
    make, held_out = source.read(checkpoint.tokenizer, shapes.config.context)
    targets = make(length, ratio, seed)
    check_fits([*targets, *held_out], shapes.config)
    with Bars() as bars:
        model = checkpoint.weights(base.device.value, base.dtype.value, bars)
        result = memorize(model, targets, recipe=recipe, held_out=held_out, progress=bars)
    note = ""
    try:
        if out is not None:
            note = saved_note(out, save_run(result, model, recipe, out))
        if plot is not None:
            plot_run(result, plot)
    finally:  # a full disk must not hide the result
        if json_:
            opt.print_json(result.report)
        else:
            show_result(result, checkpoint.tokenizer, note)
    return EXIT_CODES[result.report["status"]]


def saved_note(out: Path, has_unit: bool) -> str:
    again = f"recite it with: tinymem recall {shlex.quote(str(out))}"
    return f"\nSaved in {out}; {again if has_unit else 'the report only, without a unit'}"


def show_result(result: "Result", tokenizer: "Tokenizer", note: str) -> None:
    from ..show.report import show_report, show_tokens, stdout

    show_report(result.report)
    if result.verdict is not None and result.report["final_loss"] is not None:
        show_tokens(result.verdict, tokenizer)
    if note:
        stdout.print(note, soft_wrap=True, markup=False)


@opt.with_groups
def recall(
    run: Annotated[Path, typer.Argument(help="Folder of a saved run.")],
    *,
    model: opt.MovedModel = None,
    revision: opt.Revision = None,
    device: opt.DeviceOption = opt.Device.auto,
    dtype: opt.DtypeOption = opt.Dtype.auto,
    json_: opt.Json = False,
) -> int:
    """Load a saved unit onto its base model, recite the memory, and compare with the report."""
    from ..base.checkpoint import open_checkpoint
    from ..experiment.recall import judge
    from ..experiment.report import read_run, recall_report
    from ..show.progress import Bars
    from ..show.report import show_recall
    from ..unit.adapter import load_adapter

    memories, report = read_run(run)
    checkpoint = open_checkpoint(model or report["model"], revision or report.get("revision"))
    precision = report["dtype"] if dtype is opt.Dtype.auto else dtype.value  # as it was trained
    with Bars() as bars:
        base = checkpoint.weights(device.value, precision, bars)
        load_adapter(base, run)
        verdict = judge(base, memories, bars)
    again = recall_report(report, verdict, base)
    if json_:
        opt.print_json(again)
    else:
        show_recall(again, memories, verdict, checkpoint.tokenizer)
    return 0 if again["agrees"] else 1
