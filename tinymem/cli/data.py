"""`tinymem data` writes benchmark data as JSON Lines, one memory a line."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options as opt
from .source import read_content

app = typer.Typer(help="Write benchmark data, which probe and sweep read with --data.")
Seed = Annotated[int, opt.option("The same seed gives the same data.")]
Out = Annotated[Path | None, opt.output("File to write.", "--out", default="stdout")]


@app.command("random", epilog="Example: tinymem data random --length 200 --out random.jsonl")
def random(
    length: Annotated[int, opt.option("Target tokens.")] = 128,
    count: Annotated[int, opt.option("Memories, all with the same prompt.")] = 1,
    seed: Seed = 0,
    model: opt.ModelName = "tiny",
    prompt: opt.Prompt = opt.DEFAULT_PROMPT,
    chat: opt.Chat = True,
    out: Out = None,
) -> int:
    """Token ids that are drawn uniformly from the vocabulary of a model."""
    from ..base.checkpoint import open_checkpoint
    from ..data.benchmarks import random_rows

    tokenizer = open_checkpoint(model).tokenizer
    write_data(random_rows(tokenizer, length, count, seed, prompt, chat), out)
    return 0


@app.command(
    "long-context", epilog="Example: tinymem data long-context --text book.txt --length 400"
)
def long_context(
    text: Annotated[Path, opt.option("UTF-8 text file, or - for stdin.")],
    length: Annotated[int | None, opt.option("Target tokens.", default="the whole text")] = None,
    ratios: Annotated[str, opt.option("Percentages of random tokens.")] = "0,20,40,60,80,100",
    seed: Seed = 0,
    model: opt.ModelName = "tiny",
    prompt: opt.Prompt = opt.DEFAULT_PROMPT,
    chat: opt.Chat = True,
    out: Out = None,
) -> int:
    """A text in which more and more tokens are replaced by random ones: r0 to r100."""
    from ..base.checkpoint import open_checkpoint
    from ..data.benchmarks import long_context_rows

    shares, content = opt.parse_list("--ratios", ratios), read_content(text)
    tokenizer = open_checkpoint(model).tokenizer
    write_data(long_context_rows(tokenizer, content, length, shares, seed, prompt, chat), out)
    return 0


@app.command("phonebook", epilog="Example: tinymem data phonebook --count 100 --out book.jsonl")
def phonebook(
    count: Annotated[int, opt.option("Entries.")] = 100,
    seed: Seed = 0,
    out: Out = None,
) -> int:
    """Invented names, each with an invented number of ten digits."""
    from ..data.benchmarks import phonebook_rows

    write_data(phonebook_rows(count, seed), out)
    return 0


@app.command("rule", epilog="Example: tinymem data rule --count 100 --held-out 50 --out rule.jsonl")
def rule(
    out: Annotated[
        Path,
        opt.output("File to write; held-out pairs go to NAME.held-out.jsonl.", "--out"),
    ],
    count: Annotated[int, opt.option("Pairs to train on.")] = 100,
    held_out: Annotated[int, opt.option("Other pairs, to test on.")] = 50,
    limit: Annotated[int, opt.option("x and y are below this number.")] = 100,
    seed: Seed = 0,
) -> int:
    """Pairs of the rule f(x, y) = 3x + 5y + 7, and held-out pairs to see if a unit learned it."""
    from ..data.benchmarks import rule_rows

    training, other = rule_rows(count, held_out, seed, limit)
    write_data(training, out)
    if other:
        write_data(other, out.with_suffix(f".held-out{out.suffix}"))
    return 0


def write_data(rows: list[dict[str, Any]], out: Path | None) -> None:
    from ..data.benchmarks import to_lines, write_rows

    if out is None:
        sys.stdout.write(to_lines(rows))
        return
    opt.check_parent(out)
    write_rows(rows, out)
    print(f"{len(rows)} memories in {out}", file=sys.stderr)
