"""What a person sees of `tinymem judge`: what the adapter changes, the verdict, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from .report import Row, headline, new_table, number, show_tokens, stdout, token_text

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict

BEFORE = 10  # tokens that are printed before the first wrong one
MOST_ROWS = 20  # of a table of memories


def show_judged(
    report: Row, memories: Sequence[Memory], verdict: Verdict, tokenizer: Tokenizer
) -> None:
    """Prints what is judged, what the adapter changes, the verdict, and what is missing."""
    if remark := remark_of(report):
        stdout.print(remark)
    stdout.print(what(report))
    show_numbers(report)
    stdout.print(headline(report))
    if report["memories"] > 1:
        show_memories(report, memories, tokenizer)
    elif verdict.first_error is not None:
        show_first_error(verdict, verdict.first_error, tokenizer)
    show_tokens(verdict, tokenizer)


def remark_of(report: Row) -> str:
    """What must be known before anything else: the adapter does nothing, or has another base."""
    change, named = report["adapter_change"], report["base"]
    if report["adapter"] is None:
        return ""
    remarks = []
    if change == 0:
        remarks.append("[bold red]The adapter changes nothing[/]: no logit moves")
    if named and named != report["model"]:
        other = f"the adapter names {escape(named)}, this is {escape(report['model'])}"
        remarks.append(f"[bold yellow]Another base?[/] {other}")
    return "\n".join(remarks)


def what(report: Row) -> str:
    """Model, adapter and length, in two lines."""
    line = f"[bold]{escape(report['model'])}[/]"
    if report["adapter"] is not None:
        layer = report["layer"]
        where = f"{len(layer)} layers" if isinstance(layer, list) else f"layer {layer}"
        size = f"rank {report['rank']}, {where}, {report['trainable_parameters']:,} parameters"
        line += f" with [bold]{escape(report['adapter'])}[/]: {size}"
    many = f" in {report['memories']:,} memories" if report["memories"] > 1 else ""
    return f"{line}\n{report['length']:,} tokens{many}; {report['device']} {report['dtype']}"


def show_numbers(report: Row) -> None:
    length, before, after = report["length"], report["base_loss"], report["final_loss"]
    if report["adapter"] is not None:
        change = number(report["adapter_change"])
        stdout.print(f"adapter     moves a logit by {change} at most")
    start = "" if before is None else f"{number(before)} → "
    stdout.print(f"loss        {start}[bold]{number(after)}[/] nats per token")
    if report["bits_per_parameter"] is not None:
        each = f"[bold]{report['bits_per_parameter']:.3g}[/] bits per parameter"
        stdout.print(f"stored      {report['stored_bits']:,.0f} bits of this, {each}")
    shares = "argmax_accuracy", "certified_fraction", "token_accuracy"
    above, sure, right = (f"{round(report[f] * length):,} of {length:,} tokens" for f in shares)
    stdout.print(f"margin > 0  {above}, lowest {number(report['min_margin'])} logits")
    stdout.print(f"p > ½       {sure}, lowest p {number(report['min_probability'])}")
    stdout.print(f"decoding    {right} right")
    if report["memories"] > 1:
        whole = round(report["memories"] * report["exact_match"])
        stdout.print(f"memories    {whole:,} of {report['memories']:,} recited whole")


def show_first_error(verdict: Verdict, at: int, tokenizer: Tokenizer) -> None:
    """Prints the first token that decoding gets wrong, with the text before it."""
    before = verdict.targets[max(0, at - BEFORE) : at]
    tokens = [token_text(tokenizer, t) for t in before]
    wanted, said = (token_text(tokenizer, t[at]) for t in (verdict.targets, verdict.decoded))
    line = Text(f"first error position {at}: " + ("… " if at > BEFORE else ""))
    line.append("".join(tokens), "green")
    line.append(f"‹{wanted}›", "bold red")
    line.append(f" decoded as ‹{said}›")
    stdout.print(line)


def show_memories(report: Row, memories: Sequence[Memory], tokenizer: Tokenizer) -> None:
    """Prints a table of the memories, the worst first."""
    table = new_table("memory", "tokens", "loss", "lowest margin", "right", "first error", "prompt")
    rows = sorted(report["by_memory"], key=lambda row: row["min_margin"])
    for row in rows[:MOST_ROWS]:
        prompt = memories[row["memory"]].prompt_ids
        text = "".join(token_text(tokenizer, i) for i in prompt[-12:])
        error = "–" if row["first_error"] is None else str(row["first_error"])
        right = f"{100 * row['argmax_accuracy']:.0f} %"
        numbers = number(row["final_loss"]), number(row["min_margin"]), right, error
        table.add_row(str(row["memory"]), str(row["length"]), *numbers, Text(text))
    more = len(rows) - MOST_ROWS
    stdout.print("\n[dim]The memories, worst first:[/]", table, sep="\n")
    if more > 0:
        stdout.print(f"[dim]… and {more:,} more; --json has all[/]")
