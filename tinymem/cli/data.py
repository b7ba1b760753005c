"""The command line of `tinymem data`: benchmark files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import options as opt

app = typer.Typer(help="Write benchmark data as JSON lines, for --data.")
Seed = Annotated[int, typer.Option(help="The same seed gives the same rows.")]
Out = Annotated[Path | None, typer.Option(help="File to write; stdout unless given.")]


@app.command("random", epilog="Example: tinymem data random --length 200 --out random.jsonl")
def random(
    length: Annotated[int, typer.Option(help="Target tokens.")] = 128,
    count: Annotated[int, typer.Option(help="Memories; all have the same prompt.")] = 1,
    seed: Seed = 0,
    model: opt.Model = "tiny",
    prompt: opt.Prompt = None,
    chat: opt.Chat = True,
    out: Out = None,
) -> int:
    """Token ids drawn uniformly from the model's vocabulary."""
    from ..data.benchmarks import random_rows
    from ..data.memory import PROMPT

    prompt = PROMPT if prompt is None else prompt
    write_data(random_rows(tokenizer_of(model), length, count, seed, prompt, chat), out)
    return 0


@app.command(
    "long-context", epilog="Example: tinymem data long-context --text book.txt --length 400"
)
def long_context(
    text: Annotated[str, typer.Option(help="A natural text (UTF-8), or - for stdin.")],
    length: Annotated[
        int | None, typer.Option(help="Target tokens; all of the text unless given.")
    ] = None,
    ratios: Annotated[str, typer.Option(help="Percents of random tokens.")] = "0,20,40,60,80,100",
    seed: Seed = 0,
    model: opt.Model = "tiny",
    prompt: opt.Prompt = None,
    chat: opt.Chat = True,
    out: Out = None,
) -> int:
    """One text, a growing share of its tokens random: r0 … r100."""
    from ..data.benchmarks import long_context_rows
    from ..data.memory import PROMPT

    shares = opt.parse_numbers("--ratios", ratios)
    content, prompt = opt.read_source(text), PROMPT if prompt is None else prompt
    write_data(
        long_context_rows(tokenizer_of(model), content, length, shares, seed, prompt, chat), out
    )
    return 0


@app.command("phonebook", epilog="Example: tinymem data phonebook --count 100 --out book.jsonl")
def phonebook(
    count: Annotated[int, typer.Option(help="Entries.")] = 100, seed: Seed = 0, out: Out = None
) -> int:
    """Names and ten-digit numbers, nobody's."""
    from ..data.benchmarks import phonebook_rows

    write_data(phonebook_rows(count, seed), out)
    return 0


@app.command("rule", epilog="Example: tinymem data rule --count 100 --held-out 50 --out rule.jsonl")
def rule(
    out: Annotated[
        Path, typer.Option(help="File to write; held-out pairs go to NAME.held-out.jsonl.")
    ],
    count: Annotated[int, typer.Option(help="Pairs to learn from.")] = 100,
    held_out: Annotated[int, typer.Option(help="Other pairs, to ask for.")] = 50,
    limit: Annotated[int, typer.Option(help="x and y are below it.")] = 100,
    seed: Seed = 0,
) -> int:
    """Pairs of the rule f(x, y) = 3x + 5y + 7, and held-out ones: was it the rule that was learned?"""
    from ..data.benchmarks import rule_rows

    training, other = rule_rows(count, held_out, seed, limit)
    write_data(training, out)
    if other:
        write_data(other, out.with_suffix(f".held-out{out.suffix}"))
    return 0


def tokenizer_of(model: str):
    from ..base.checkpoint import locate
    from ..base.tokenizer import Tokenizer

    return Tokenizer.from_folder(locate(model, None))


def write_data(rows: list[dict], out: Path | None) -> None:
    from ..data.benchmarks import to_lines, write_rows

    if out is None:
        sys.stdout.write(to_lines(rows))
        return
    opt.check_place(out)
    write_rows(rows, out)
    print(f"{len(rows)} memories in {out}", file=sys.stderr)
