"""`tinymem judge`: does a model, or an adapter on its base, recite a text, memories, a document?"""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..base.checkpoint import Checkpoint, open_checkpoint
from ..base.folder import present
from ..base.model import Model
from ..base.tokenizer import Tokenizer
from ..data.memory import PROMPT, Memory, check_fits, text_memory
from ..data.read import read_memories
from ..errors import AdapterError, DataError
from ..show.judge import show_audit, show_expected, show_judged
from ..show.progress import Bars
from ..show.report import Row
from ..tools.judge import Judged, judge_document, judge_memories, judge_report
from ..tools.windows import Document
from ..unit.adapter import download_unit, find_unit, load_adapter, read_header
from ..unit.lora import Unit
from ..unit.peft import read_config
from . import options as opt
from .output import check_output, print_json
from .source import find_base, read_content

WINDOWS = {"context": "--context", "window": "--window", "stride": "--stride"}


def judge(options: opt.Judge) -> int:
    start = time.monotonic()
    check_options(options)
    check_output(html=options.html)
    content = None if options.text is None else read_content(options.text)
    folder = None if options.adapter is None else find_adapter(options.adapter)
    named = {} if folder is None else named_base(folder)
    checkpoint = open_base(options, folder, named)
    target = read_target(options, content, checkpoint)
    with Bars() as bars:
        model = checkpoint.weights(options.device, options.dtype, bars)
        unit = None if folder is None else load_adapter(model, folder).detach()
        if isinstance(target, Document):
            judged = judge_document(model, unit, target, bars)
        else:
            judged = judge_memories(model, unit, target, bars)
    about = {"adapter": options.adapter, **about_base(named, checkpoint.name)}
    report = judge_report(model, unit, judged, about, time.monotonic() - start)
    as_expected = None
    if options.expect and report["status"] == "ok":
        some, every = any(judged.recited), all(judged.recited)
        as_expected = every if options.expect == "recited" else not some
    report |= {"expected": options.expect, "as_expected": as_expected}
    try:
        show(report, judged, checkpoint.tokenizer, options.json)
    finally:  # whatever becomes of stdout
        if options.html is not None:
            write_html(options.html, report, judged, model, unit, checkpoint.tokenizer)
    if report["status"] == "interrupted":
        return 130
    return 1 if as_expected is False else 0


def show(report: Row, judged: Judged, tokenizer: Tokenizer, json: bool) -> None:
    if json:
        print_json(report)
    elif judged.verdict is not None:
        show_judged(report, judged.memories, judged.verdict, tokenizer)
    elif judged.audit is not None:
        show_audit(report, judged.audit.document.ids, tokenizer)
    if not json:
        show_expected(report)


def write_html(
    path: Path, report: Row, judged: Judged, model: Model, unit: Unit | None, tokenizer: Tokenizer
) -> None:
    """Writes the page of what was judged; of memories with the likeliest tokens at each place."""
    from ..show.document import document_page, memories_page
    from ..tools.likeliest import likeliest

    if judged.audit is not None:
        document_page(path, report, tokenizer, judged.audit.document.ids, judged.audit.right)
    if judged.verdict is not None:
        with Bars() as bars, unit.attached(model) if unit else nullcontext():
            found = likeliest(model, judged.memories, progress=bars)
        compared, own = judged.compared, (judged.memories, judged.verdict)
        base = compared.base_losses, compared.base_margins
        memories_page(path, report, tokenizer, *own, base, found)


def check_options(options: opt.Judge) -> None:
    """Raises DataError for options that lack something or exclude each other."""
    if (options.text is None) == (options.data is None):
        raise DataError("give one of --text FILE and --data FILE.jsonl: what is to be recited")
    if options.data is not None:
        for name, flag in {"prompt": "--prompt", **WINDOWS}.items():
            if getattr(options, name) is not None:
                raise DataError(f"--data and {flag} exclude each other; --data has whole memories")


# --- The model and the adapter -------------------------------------------------------------------


def find_adapter(name: str) -> Path:
    """The folder of an adapter's file, downloaded if the name is a hub id. Raises AdapterError."""
    return find_unit(download_unit(name, None)).parent


def named_base(folder: Path) -> dict[str, Any]:
    """What an adapter's own files say about its base model: its name and revision, if any.

    `hashed`: whether they have a hash of its weights, which `load_adapter` compares.
    Raises AdapterError.
    """
    if about := read_header(folder):
        report = about.get("report")
        revision = report.get("revision") if isinstance(report, dict) else None
        named = {"model": about.get("base"), "revision": revision}
    else:
        config = read_config(folder)
        named = {"model": config.get("base_model_name_or_path"), "revision": config.get("revision")}
    texts = {key: value if isinstance(value, str) else None for key, value in named.items()}
    return texts | {"hashed": bool(about)}


def open_base(options: opt.Judge, folder: Path | None, named: dict[str, Any]) -> Checkpoint:
    """The model that is judged, or that the adapter is attached to. Raises a TinymemError."""
    given = options.model
    if given:
        if os.path.isdir(given) and not present(Path(given), "config.json"):
            refuse_adapter(Path(given))
        return open_checkpoint(given, options.revision)
    if folder is None:
        raise DataError("give the model with --model, or an adapter with --adapter")
    if not named["model"]:
        raise AdapterError(f"{folder}: does not name its base; give the base with --model")
    return open_checkpoint(*find_base(named, folder, "", options.revision))


def refuse_adapter(folder: Path) -> None:
    """Raises AdapterError if a folder that --model names is an adapter's."""
    try:
        find_unit(folder)
    except AdapterError:
        return  # open_checkpoint says what it lacks
    raise AdapterError(f"--model {folder}: an adapter and not a model; give it with --adapter")


def about_base(named: dict[str, Any], model: str) -> dict[str, Any]:
    """The fields `base` and `same_base` of the report; None without an adapter.

    A folder and a hub id are taken to be the same model if the last parts of the names are.
    """
    base = named.get("model")
    if not base:
        return {"base": None, "same_base": None}
    last = [os.path.basename(os.path.normpath(name)).lower() for name in (base, model)]
    folders = os.path.isdir(base) and os.path.isdir(model)
    same = os.path.samefile(base, model) if folders else last[0] == last[1]
    return {"base": base, "same_base": named["hashed"] or same}


# --- What is to be recited -----------------------------------------------------------------------


def read_target(
    options: opt.Judge, text: str | None, checkpoint: Checkpoint
) -> list[Memory] | Document:
    """The memories to judge, or the document to audit. Raises DataError."""
    tokenizer, config = checkpoint.tokenizer, checkpoint.config
    if options.data is not None:
        return check_fits(read_memories(options.data, tokenizer, chat=options.chat), config)
    given = {name: getattr(options, name) for name in WINDOWS}
    if sizes := {name: value for name, value in given.items() if value is not None}:
        before = tokenizer.encode("")[:1]  # <s>, where texts begin with it
        if options.prompt is not None:
            before = tokenizer.prompt_ids(options.prompt, options.chat)
        document = Document(tokenizer.encode(text or "", special=False), before, **sizes)
        document.check(config.context)
        return document
    prompt = PROMPT if options.prompt is None else options.prompt
    memory = text_memory(tokenizer, text or "", prompt=prompt, chat=options.chat)
    if len(memory.prompt_ids) + memory.length > config.context:
        size = f"{memory.length:,} tokens and the prompt exceed the context of {config.context:,}"
        raise DataError(f"--text: {size}; audit it with --context 32 --window 50")
    return check_fits(memory, config)
