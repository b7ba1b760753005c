"""What a person sees of one run on stdout: losses, bits, recall, the target, stubborn tokens."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict

Row = dict[str, Any]  # the report of a run, or a finished cell of a sweep
stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)
SHOW_ALL = 256  # target tokens up to which the whole target is printed
AROUND = 8  # tokens printed before and after a stubborn one of a longer target
MOST_STUBBORN = 10  # rows in the table of stubborn tokens
KINDS = {100: "random tokens", 0: "tokens of text", None: "tokens"}
RUN = """[bold]{model}[/], {where}, site {site}, rank {rank}: {trainable_parameters:,} parameters
{length:,} {kind}{many}; {method}, {steps:,} steps, {rate}, seed {seed}, {device} {dtype}"""
AGREES = "[green]As reported[/]: the reloaded unit has the verdict of the run"
DIFFERS = "[bold red]Not as reported[/]: the verdict differs from that of the run"
HEADLINES = {
    "diverged": "[bold red]Diverged[/]: the loss ended above where it began; use a lower --lr",
    "oom": "[bold red]Out of memory[/]: use a shorter target or a smaller base model",
    "proof": "[bold green]Certified[/]: every token has p > ½, so greedy decoding recites them all",
    "exact": "[bold green]Recalled[/], not certified: decoding is exact, but some p are ≤ ½",
    "failed": "[bold yellow]Not certified[/]: decoding fails; the stubborn tokens have p ≤ ½",
}


def number(value: float | None) -> str:
    """Three decimals, one digit if it is smaller than 0.001, a dash if there is none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.0e}"


def new_table(*columns: str, left: int = 0) -> Table:
    """A table without lines; the first `left` columns are aligned to the left, the others right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
    return table


def row_line(row: Row) -> str:
    """One finished cell of a sweep in one line, the most important first."""
    random = "" if row["ratio"] in (None, 100) else f", {row['ratio']} % random"
    text = f"rank {row['rank']:3}, length {row['length']:4}{random}, {row['method']}"
    text += f", seed {row['seed']}: "
    if row["status"] != "ok":
        return f"{text}[bold red]{row['status']}[/]"
    text += f"loss {row['base_loss']:.2f} → [bold]{number(row['final_loss'])}[/]"
    text += ", [green]certified[/]" if row["certified"] else ""
    text += "" if row["converged"] else ", [yellow]not converged[/]"
    bits = row["memorized_bits_per_parameter"]
    memorized = "" if bits is None else f", {bits:.2f} memorized bits per parameter"
    return f"{text}, {row['wall_seconds']:.0f} s{memorized}"


def show_report(report: Row) -> None:
    """Prints what was trained, then losses, bits and recall, and last the verdict in one line."""
    layer, length, ratio = report["layer"], report["length"], report["ratio"]
    several = f"layers {', '.join(map(str, layer))}" if isinstance(layer, list) else ""
    words = {"model": escape(report["model"]), "where": several or f"layer {layer}"}
    words["kind"] = KINDS.get(ratio, f"tokens, {ratio} % of them random")
    words["many"] = f" in {report['memories']:,} memories" if report["memories"] > 1 else ""
    words["rate"] = "L-BFGS" if report["lr"] is None else f"learning rate {report['lr']:.3g}"
    stdout.print(RUN.format_map(report | words))
    loss = f"{number(report['base_loss'])} → [bold]{number(report['final_loss'])}[/]"
    moving = "" if report["converged"] else ", [yellow]not converged[/]"
    stdout.print(f"loss        {loss} nats per token{moving}")
    for name, prefix in (("stored", ""), ("memorized", "memorized_")):
        if (bits := report[f"{name}_bits"]) is not None:
            each = f"[bold]{report[f'{prefix}bits_per_parameter']:.2f}[/]"
            stdout.print(f"{name:<12}{bits:,.0f} bits, {each} bits per parameter")
    if report["certified_fraction"] is not None:
        sure, right = (round(report[f] * length) for f in ("certified_fraction", "token_accuracy"))
        lowest, error = number(report["min_probability"]), report["first_error"]
        recall = "[green]exact[/]" if error is None else f"first error at position {error}"
        stdout.print(f"p > ½       {sure:,} of {length:,} tokens, lowest p {lowest}")
        stdout.print(f"recall      {right:,} of {length:,} tokens right when decoding, {recall}")
        for name, prefix, least in (("memories", "", 2), ("held out", "held_out_", 1)):
            if (count := report[f"{prefix}memories"]) >= least:
                whole = round(count * report[f"{prefix}exact_match"])
                stdout.print(f"{name:<12}{whole:,} of {count:,} memories recited whole")
    stdout.print(headline(report))


def headline(report: Row) -> str:
    """The verdict in one line."""
    if (status := report["status"]) in HEADLINES:
        return HEADLINES[status]
    early = status == "interrupted"
    start = f"[yellow]Interrupted[/] after {report['steps']:,} steps. " if early else ""
    if report["certified_fraction"] is None:
        return f"{start}There is no verdict"
    decoding = "exact" if report["recall_exact"] else "failed"
    return start + HEADLINES["proof" if report["certified"] else decoding]


def colour(p: float) -> str:
    return "green" if p > 0.5 else "yellow" if p > 0.1 else "bold red"


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token on its own, with control characters made visible."""
    text, visible = tokenizer.decode([token]), {"\n": "⏎", "\t": "⇥"}
    return "".join(c if c.isprintable() else visible.get(c, "·") for c in text) or "·"


def show_tokens(verdict: Verdict, tokenizer: Tokenizer) -> None:
    """Prints the target, coloured by p, and a table of the most stubborn tokens."""
    if target := target_text(verdict, tokenizer):
        colours = "[green]above ½[/]  [yellow]‹0.1 to ½›[/]  [bold red]‹below 0.1›[/]"
        stdout.print(f"\n[dim]The target, coloured by p:[/]  {colours}", target, sep="\n")
    if count := len(verdict.stubborn):
        few = f"; the {MOST_STUBBORN} with the lowest p" if count > MOST_STUBBORN else ""
        stdout.print(f"\n[dim]{count:,} stubborn token{'s' * (count > 1)}{few}:[/]")
        stdout.print(stubborn_table(verdict, tokenizer))


def target_text(verdict: Verdict, tokenizer: Tokenizer) -> Text:
    """The target, one memory a line, stubborn tokens in ‹ ›; if long, only what is near them."""
    count = len(verdict.targets)
    shown = list(range(count))
    if count > SHOW_ALL:
        near = {t + n for t in verdict.stubborn[:SHOW_ALL] for n in range(-AROUND, AROUND + 1)}
        shown = sorted(near.intersection(shown))
    starts = set(accumulate(verdict.lengths))
    text = Text()
    for last, t in zip([-1, *shown], shown, strict=False):
        if t in starts:
            text.append("\n")
        if t != last + 1:
            text.append(" … ", "dim")
        p, token = verdict.probabilities[t], token_text(tokenizer, verdict.targets[t])
        text.append(token if p > 0.5 else f"‹{token}›", colour(p))
    if shown and shown[-1] < count - 1:
        text.append(" …", "dim")
    return text


def stubborn_table(verdict: Verdict, tokenizer: Tokenizer) -> Table:
    """The stubborn tokens with the lowest p, and what the model would rather say."""
    table = new_table("position", "token", "likeliest token there", "p", left=3)
    many, lengths = len(verdict.lengths) > 1, enumerate(verdict.lengths)
    places = [f"{t} of memory {n}" if many else str(t) for n, size in lengths for t in range(size)]
    lowest = sorted(verdict.stubborn, key=verdict.probabilities.__getitem__)
    for t in lowest[:MOST_STUBBORN]:
        p, target, predicted = verdict.probabilities[t], verdict.targets[t], verdict.predicted[t]
        token, other = (token_text(tokenizer, i).replace(" ", "␣") for i in (target, predicted))
        instead = Text("the same", "dim") if predicted == target else Text(other)
        table.add_row(places[t], Text(token), instead, Text(number(p), colour(p)))
    return table


def show_recall(again: Row, memory: Memory, verdict: Verdict, tokenizer: Tokenizer) -> None:
    """Prints what a reloaded unit recites, and whether that is what its report says."""
    show_report(again)
    stdout.print(AGREES if again["agrees"] else DIFFERS)
    show_tokens(verdict, tokenizer)
    recited = verdict.decoded[: verdict.lengths[0]]
    stdout.print()
    for name, ids in (("prompt", list(memory.prompt_ids)), ("recited", recited)):
        stdout.print(Text(f"{name:<9}", "dim") + repr(tokenizer.decode(ids)), soft_wrap=True)
