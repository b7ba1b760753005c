"""`tinymem judge`: does a model, or an adapter on its base, recite a text or memories?"""

import os
import time
from pathlib import Path
from typing import Any

from ..base.checkpoint import Checkpoint, locate, open_checkpoint
from ..base.folder import present
from ..data.memory import PROMPT, Memory, check_fits, text_memory
from ..data.read import read_memories
from ..errors import AdapterError, DataError
from ..show.judge import show_judged
from ..show.progress import Bars
from ..tools.judge import by_memory, describe_adapter, judge_memories, judge_report
from ..unit.adapter import download_unit, find_unit, load_adapter, read_header
from ..unit.peft import read_config
from . import options as opt
from .output import print_json
from .source import find_base, read_content

DO = {"recited": all, "not-recited": lambda recited: not any(recited)}


def judge(options: opt.Judge) -> int:
    start = time.monotonic()
    check_options(options)
    content = None if options.text is None else read_content(options.text)
    folder = None if options.adapter is None else download_unit(options.adapter, None)
    named = {} if folder is None else named_base(folder)
    checkpoint = open_base(options, folder, named)
    memories = read_judged(options, content, checkpoint)
    with Bars() as bars:
        model = checkpoint.weights(options.device, options.dtype, bars)
        unit = None if folder is None else load_adapter(model, folder).detach()
        judged = judge_memories(model, unit, memories, bars)
    adapter = describe_adapter(options.adapter, unit)
    report = judge_report(model, adapter, judged, time.monotonic() - start)
    rows = by_memory(judged.verdict)
    # A text counts as recited, or as not recited, if pass and decoding agree about it.
    signs = [row[name] for row in rows for name in ("verbatim", "recall_exact")]
    as_expected = DO[options.expect](signs) if options.expect else None
    report |= {"base": named.get("model"), "by_memory": rows}
    report |= {"expected": options.expect, "as_expected": as_expected}
    if options.json:
        print_json(report)
    else:
        show_judged(report, memories, judged.verdict, checkpoint.tokenizer)
    return 1 if as_expected is False else 0


def check_options(options: opt.Judge) -> None:
    """Raises DataError for options that lack something or exclude each other."""
    if (options.text is None) == (options.data is None):
        raise DataError("give one of --text FILE and --data FILE.jsonl: what is to be recited")
    if options.data is not None and options.prompt is not None:
        raise DataError("--data and --prompt exclude each other; --data has whole memories")


def named_base(folder: Path) -> dict[str, Any]:
    """Name and revision of the base model that an adapter's own files name; None: not named.

    Raises AdapterError.
    """
    path = find_unit(folder)
    if about := read_header(path.parent):
        report = about.get("report")
        revision = report.get("revision") if isinstance(report, dict) else None
        named = {"model": about.get("base"), "revision": revision}
    else:
        config = read_config(path.parent)
        named = {"model": config.get("base_model_name_or_path"), "revision": config.get("revision")}
    return {key: value if isinstance(value, str) else None for key, value in named.items()}


def open_base(options: opt.Judge, folder: Path | None, named: dict[str, Any]) -> Checkpoint:
    """The model that is judged, or that the adapter is attached to. Raises a TinymemError."""
    if options.model:
        if os.path.isdir(options.model) and not present(locate(options.model), "config.json"):
            find_adapter_at_model(Path(options.model))
        return open_checkpoint(options.model, options.revision)
    if folder is None:
        raise DataError("give the model with --model, or an adapter with --adapter")
    if named["model"] is None:
        raise AdapterError(f"{folder}: does not name its base; give the base with --model")
    name, revision = find_base(named, folder, "", options.revision)
    return open_checkpoint(name, revision)


def find_adapter_at_model(folder: Path) -> None:
    """Raises AdapterError if --model names the folder of an adapter."""
    try:
        find_unit(folder)
    except AdapterError:
        return
    raise AdapterError(f"--model {folder}: an adapter, not a model; give it with --adapter")


def read_judged(options: opt.Judge, text: str | None, checkpoint: Checkpoint) -> list[Memory]:
    """The memories to judge. Raises DataError."""
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    if options.data is not None:
        return check_fits(read_memories(options.data, tokenizer, chat=options.chat), config)
    prompt = PROMPT if options.prompt is None else options.prompt
    memory = text_memory(tokenizer, text or "", prompt=prompt, chat=options.chat)
    return check_fits(memory, config)
