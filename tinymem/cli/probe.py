"""`tinymem probe` writes a memory into a unit; `tinymem recall` judges a saved unit again."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..base.checkpoint import open_checkpoint
from ..base.folder import present
from ..base.model import Model
from ..base.tokenizer import Tokenizer
from ..data.memory import check_fits
from ..errors import AdapterError, DataError
from ..experiment.grid import AXES
from ..experiment.probe import memorize
from ..experiment.recall import judge
from ..experiment.report import Result, recall_report
from ..experiment.resume import STATE, StateFile, bytes_needed, finished_report
from ..experiment.saved import REPORT, read_run
from ..experiment.workers import lock
from ..show.plots import plot_run
from ..show.progress import Bars
from ..show.report import show_recall, show_report, show_tokens, stderr
from ..tools.bfloat16 import WORTH_IT, bfloat16_gain
from ..training.state import FORGET
from ..unit.adapter import load_adapter
from . import options as opt
from .output import check_output, check_room, print_json, show_saved
from .source import describe_command, find_base, prepare

EXIT_CODES = {"ok": 0, "diverged": 1, "oom": 1, "interrupted": 130}  # by status of the run


def probe(options: opt.Probe) -> int:
    out, plot = options.out, options.plot
    check_output(out, plot, options.html)
    one_cell = {f"{axis}s": [getattr(options, axis)] for axis in AXES}
    checkpoint, recipe, grid, held_out, text = prepare(options, **one_cell)
    (memories,) = grid.values()
    command = describe_command(options, text)
    if out is not None:
        if (report := finished_report(out, command)) is not None:
            return show_again(report, out, options)
        check_room(out, bytes_needed(checkpoint.shapes(), recipe, memories))
    with Bars() as bars:
        model = checkpoint.weights(options.device, options.dtype, bars)
        if options.dtype == "auto" and (gain := bfloat16_gain(model)) >= WORTH_IT:
            hint = f"this CPU multiplies bfloat16 {gain:.1f} times as fast as float32"
            bars.warn(f"{hint}: --dtype bfloat16 would save time, with rougher logits")
    has_unit = False
    with nullcontext() if out is None else lock(out):
        with Bars() as bars:
            keeper = FORGET if out is None else StateFile(out, command, model, bars)
            more: Any = {"held_out": held_out, "progress": bars, "keeper": keeper}
            result = memorize(model, memories, recipe=recipe, **more)
        try:
            show_result(result, checkpoint.tokenizer, options.json)
        finally:  # whatever becomes of stdout, the results are saved
            if isinstance(keeper, StateFile):
                has_unit = keeper.end(result, model, recipe)
            if plot is not None:
                plot_run(result, plot)
            if options.html is not None:
                write_html(options.html, result, model, checkpoint.tokenizer)
    status = result.report["status"]
    if out is not None and not options.json:
        recite = "recite it with: tinymem recall" if has_unit else ""
        show_saved(out, "the same command goes on" if status == "interrupted" else recite)
    return EXIT_CODES[status]


def write_html(path: Path, result: Result, model: Model, tokenizer: Tokenizer) -> None:
    """Writes the page of the run; with the likeliest tokens, if there is a verdict."""
    from ..show.run import run_page
    from ..tools.likeliest import likeliest

    found: list[list[tuple[int, float]]] = []
    if result.verdict is not None and result.report["final_loss"] is not None:
        with Bars() as bars, result.unit.attached(model):
            found = likeliest(model, result.memories, progress=bars)
    run_page(path, result, tokenizer, found)


def show_result(result: Result, tokenizer: Tokenizer, json: bool) -> None:
    if json:
        return print_json(result.report)
    show_report(result.report)
    if result.verdict is not None and result.report["final_loss"] is not None:
        show_tokens(result.verdict, tokenizer)


def show_again(report: dict[str, Any], out: Path, options: opt.Probe) -> int:
    """The report of a run that is finished already. Raises DataError if its course is wanted."""
    if options.plot is not None or options.html is not None:
        problem = "the run is finished, and its course, which --plot and --html show, is not kept"
        raise DataError(f"--out {out}: {problem}; choose a new folder")
    if options.json:
        print_json(report)
    else:
        show_report(report)
        show_saved(out, "it was finished already")
    return EXIT_CODES[report["status"]]


def recall(options: opt.Recall) -> int:
    if present(options.run, STATE) and not present(options.run, REPORT):
        problem = "its run was killed; the same probe command goes on with it"
        raise AdapterError(f"{options.run}: {problem}")
    memories, report = read_run(options.run)
    name, revision = find_base(report, options.run, options.model, options.revision)
    if not options.model:
        version = f", revision {revision}" if revision else ""
        stderr.print(f"base model of this unit: {name}{version}", markup=False, soft_wrap=True)
    checkpoint = open_checkpoint(name, revision)
    check_fits(memories, checkpoint.config)
    precision = report["dtype"] if options.dtype == "auto" else options.dtype  # as it was trained
    with Bars() as bars:
        base = checkpoint.weights(options.device, precision, bars)
        load_adapter(base, options.run)
        verdict = judge(base, memories, bars)
    again = recall_report(report, memories, verdict, base)
    if options.json:
        print_json(again)
    else:
        show_recall(again, memories[0], verdict, checkpoint.tokenizer)
    return 0 if again["agrees"] else 1
