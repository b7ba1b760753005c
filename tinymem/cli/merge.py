"""`tinymem merge` adds a LoRA to the weights of its base, and judges what it has written."""

import os
from pathlib import Path

import torch

from .. import __version__
from ..base.checkpoint import Checkpoint, open_checkpoint
from ..base.hub import UNIT
from ..data.memory import Memory, check_fits
from ..errors import AdapterError
from ..experiment.recall import Verdict, judge
from ..experiment.report import VERDICT_FIELDS, recall_report
from ..experiment.saved import read_run
from ..show.progress import Bars
from ..show.report import Row, headline, new_table, note, number, show_tokens, stdout
from ..tools.merge import list_tensors, total_size, write_merged
from ..training.margin import thin_for
from ..unit.adapter import download_unit, find_unit, load_adapter, read_adapter, read_header
from ..unit.lora import Unit
from . import options as opt
from .judge import about_base, named_base
from .output import check_new_folder, check_room, print_json, show_saved
from .source import find_base

MLP = """a unit at the site mlp cannot be merged: it adds x A B to what a whole MLP puts out, and an
MLP is not a matrix that A B could be added to; train at Linear sites, such as --site down_proj"""
JUDGED = "final_loss", *VERDICT_FIELDS, "thin", "dtype"  # fields of a report, before and after
ROWS = {
    "loss, nats per token": "final_loss",
    "lowest margin, logits": "min_margin",
    "lowest p": "min_probability",
}
LOST = "[bold red]No longer recited[/]: the unit on its base recites it, these weights do not"
SHARPER = "; merge with --dtype float32"
UNCHANGED = "[bold yellow]Nothing has changed[/]: A B is zero, or lost in the rounding to {dtype}"


def merge(options: opt.Merge) -> int:
    check_new_folder(options.out)
    out = Path(os.path.realpath(options.out))
    folder, memories, report = open_unit(options.adapter, options.model)
    name, revision = find_base(report, folder, options.model, options.revision)
    if not options.model:
        note(f"base model of this unit: {name}{f', revision {revision}' if revision else ''}")
    elif not memories and about_base(report, name)["same_base"] is False:
        note(f"another base? the adapter names {report['model']}, and this is {name}")
    checkpoint = open_checkpoint(name, revision)
    tensors = list_tensors(checkpoint, options.dtype)
    check_room(out, total_size(tensors))
    after = verdict = None
    with Bars() as bars:
        unit, before = judge_unit(checkpoint, folder, memories, report, options.device, bars)
        merged = write_merged(checkpoint, tensors, unit, out, bars)
        if memories:
            given = out, merged.dtype, options.device
            verdict, after = judge_written(*given, memories, report, bars)
    lost = before is not None and after is not None and is_recited(before) > is_recited(after)
    about = {"model": name, "revision": checkpoint.revision, "adapter": options.adapter}
    about |= {"out": str(options.out), **merged._asdict()}
    if options.json:
        moments = {"before": pick_judged(before), "after": pick_judged(after)}
        print_json(about | moments | {"version": __version__})
        return int(lost)
    show_merged(about)
    if before and after and verdict:
        show_verdicts(before, after)
        if lost:
            stdout.print(LOST + SHARPER * (merged.dtype != "float32"), soft_wrap=True)
            show_tokens(verdict, checkpoint.tokenizer)
    show_saved(options.out, "judge any text on it: tinymem judge --text FILE --model")
    return int(lost)


def open_unit(adapter: str, model: str) -> tuple[Path, list[Memory], Row]:
    """The folder of a unit or an adapter, its memories, and its report, or what names its base.

    An adapter of peft's has no memories. Raises AdapterError for what cannot be merged, or if
    neither the adapter nor `model` names the base.
    """
    path = find_unit(download_unit(adapter, None))
    folder = path.parent
    if path.name == UNIT:
        raise AdapterError(f"{path}: {MLP}")
    if "memories" in read_header(folder):
        return folder, *read_run(folder)
    named = named_base(folder)
    if named["model"] is None and not model:
        raise AdapterError(f"{folder}: does not name its base; give the base with --model")
    return folder, [], named | {"dtype": "auto"}


def judge_unit(
    checkpoint: Checkpoint,
    folder: Path,
    memories: list[Memory],
    report: Row,
    device: str,
    bars: Bars,
) -> tuple[Unit, Row | None]:
    """The unit, and the report with the verdict on its memories on the base, None without any.

    The weights of the base are loaded only for a unit of tinymem's, which says which they must be.
    """
    if not read_header(folder):
        return read_adapter(checkpoint.shapes(), folder), None
    if memories:
        check_fits(memories, checkpoint.config)
    model = checkpoint.weights(device, report["dtype"], bars)  # as the unit was trained
    unit, before = load_adapter(model, folder), None
    if memories:
        before = recall_report(report, memories, judge(model, memories, bars), model)
    return unit.detach(), before


def judge_written(
    out: Path, dtype: str, device: str, memories: list[Memory], report: Row, bars: Bars
) -> tuple[Verdict, Row]:
    """The verdict on the memories in the written folder, and the report with it."""
    kind = "bfloat16" if dtype == "bfloat16" else "float32"  # which has room for the others
    model = open_checkpoint(out).weights(device, kind, bars)
    verdict = judge(model, memories, bars)
    after = recall_report(report, memories, verdict, model) | {"dtype": dtype}
    thin = verdict.verbatim and verdict.min_margin <= thin_for(getattr(torch, dtype))
    return verdict, after | {"thin": thin}


def is_recited(report: Row) -> bool:
    """Both by the margins of one pass and by decoding."""
    return bool(report["verbatim"] and report["recall_exact"])


def pick_judged(report: Row | None) -> Row | None:
    return report and {field: report[field] for field in JUDGED}


def show_merged(about: Row) -> None:
    """Prints what was added to what."""
    changed = f"{about['changed']} of {about['matrices']} matrices with a LoRA have changed"
    files = f"{about['shards']} files" if about["shards"] > 1 else "1 file"
    size = f"{about['bytes'] / 1e6:,.1f} MB, {about['dtype']} weights in {files}"
    text = f"{about['adapter']} merged into {about['model']}: {changed}\n{size}"
    stdout.print(text, markup=False, soft_wrap=True)
    if not about["changed"]:
        stdout.print(UNCHANGED.format_map(about))


def show_verdicts(before: Row, after: Row) -> None:
    """Prints loss and lowest margin before and after, and the verdict after."""
    table = new_table("", "unit on its base", "merged", left=1)
    for name, field in ROWS.items():
        table.add_row(name, number(before[field]), number(after[field]))
    table.add_row("recited", *("yes" if is_recited(report) else "no" for report in (before, after)))
    stdout.print(table)
    stdout.print(headline(after))
