"""`tinymem data` writes benchmark data as JSON Lines, one memory a line."""

from pathlib import Path
from typing import Any

from ..base.checkpoint import open_checkpoint
from ..data.benchmarks import (
    long_context_rows,
    phonebook_rows,
    random_rows,
    rule_rows,
    to_lines,
    write_rows,
)
from ..show.report import note
from . import options as opt
from .output import check_new_file
from .source import parse_list, read_content


def random(options: opt.Random) -> int:
    check_new_file(options.out)
    tokenizer = open_checkpoint(options.model).tokenizer
    key = {"prompt": options.prompt, "chat": options.chat, "vocabulary": options.vocabulary}
    rows = random_rows(tokenizer, options.length, options.count, options.seed, **key)
    return write_data(rows, options.out)


def long_context(options: opt.LongContext) -> int:
    check_new_file(options.out)
    ratios, text = parse_list("--ratios", options.ratios), read_content(options.text)
    tokenizer = open_checkpoint(options.model).tokenizer
    key = {"prompt": options.prompt, "chat": options.chat}
    rows = long_context_rows(tokenizer, text, options.length, ratios, options.seed, **key)
    return write_data(rows, options.out)


def phonebook(options: opt.Phonebook) -> int:
    check_new_file(options.out)
    return write_data(phonebook_rows(options.count, options.seed), options.out)


def rule(options: opt.Rule) -> int:
    out = options.out
    check_new_file(out)
    other = out.with_suffix(f".held-out{out.suffix}") if options.held_out else None
    check_new_file(other)
    rows, held_out = rule_rows(options.count, options.held_out, options.seed, options.limit)
    write_data(rows, out)
    try:
        return write_data(held_out, other) if other else 0
    except BaseException:
        out.unlink()  # both files or none, so that the same command can be given again
        raise


def write_data(rows: list[dict[str, Any]], out: Path | None) -> int:
    if out is None:
        print(to_lines(rows), end="")
        return 0
    write_rows(rows, out)
    note(f"{len(rows)} memories in {out}")
    return 0
