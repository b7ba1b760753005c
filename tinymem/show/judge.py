"""What a person sees of `tinymem judge`: what the adapter changes, the verdict, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.text import Text

from .report import (
    MOST_STUBBORN,
    Row,
    headline,
    new_table,
    number,
    show_tokens,
    stdout,
    stubborn_table,
    token_text,
)

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict

BEFORE = 8  # tokens that are printed before the first wrong one
MOST_ROWS = 20  # of a table of memories
MOST_SPANS = 10  # of a table of recited stretches
LABEL = 12  # characters before each value
REMARKS = {
    "nothing": "[bold red]The adapter changes nothing[/]: not one logit moves; is its B zero?",
    "broken": "[bold red]The adapter breaks the model[/]: its logits are infinite or NaN",
    "base": "[bold yellow]Another base?[/] The adapter names {base}, and this is {model}",
    "worse": "[bold yellow]The adapter makes this less likely[/]: another text, or another base?",
}

ANSWERS = {  # to --expect, if it is met and if not
    ("recited", True): "[bold green]As expected[/]: all of it is recited",
    ("recited", False): "[bold red]Not as expected[/]: not all of it is recited",
    ("not-recited", True): "[bold green]As expected[/]: none of it is recited",
    ("not-recited", False): "[bold red]Not as expected[/]: it is recited, or parts of it are",
}


def show_judged(
    report: Row, memories: Sequence[Memory], verdict: Verdict, tokenizer: Tokenizer
) -> None:
    """Prints what is judged, what the adapter changes, the verdict, and what is missing."""
    show_beginning(report)
    length = report["length"]
    shares = "argmax_accuracy", "certified_fraction", "token_accuracy"
    above, sure, right = (f"{round(report[f] * length):,} of {length:,} tokens" for f in shares)
    show_line("margin > 0", f"{above}, lowest {number(report['min_margin'])} logits")
    show_line("p > ½", f"{sure}, lowest p {number(report['min_probability'])}")
    show_line("decoding", f"{right} right")
    if report["memories"] > 1:
        whole = round(report["memories"] * report["exact_match"])
        show_line("memories", f"{whole:,} of {report['memories']:,} recited whole")
    stdout.print(headline(report))
    if report["base_verbatim"]:
        stdout.print("The base recites it without the adapter, too")
    if report["memories"] > 1:
        return show_memories(report, memories, verdict, tokenizer)
    if verdict.first_error is not None:
        show_first_error(verdict, verdict.first_error, tokenizer)
    if 2 * len(verdict.wrong) < report["length"]:
        show_tokens(verdict, tokenizer)
    else:  # there is nothing to read in the target
        show_stubborn(verdict, tokenizer)


def show_audit(report: Row, ids: Sequence[int], tokenizer: Tokenizer) -> None:
    """Prints which windows of a document are recited, and where; ids: of the document."""
    show_beginning(report)
    windows = report["windows"]
    count, recited, spans = windows["count"], windows["recited"], windows["spans"]
    share = f" ({100 * recited / count:.1f} %)" if recited else ""
    show_line("recited", f"{recited:,} of {count:,} windows{share}")
    if windows["base_recited"] is not None and recited:
        show_line("base", f"recites {windows['base_recited']:,} of these, without the adapter")
    if recited:
        show_line("longest", f"{windows['longest']:,} tokens")
        show_line("map", map_of(spans, len(ids), max(20, min(stdout.width, 100) - LABEL)))
    some = "all" if recited == count else "some"
    line = f"[bold green]Recited[/]: {some} of the windows" if recited else ""
    early = report["status"] == "interrupted"
    so_far = f" so far, {count:,} of {windows['planned']:,} were judged" if early else ""
    stdout.print((line or "[bold yellow]Not recited[/]: none of the windows") + so_far)
    if thin := windows["thin"]:
        stdout.print(f"{thin:,} of them are thin: {report['dtype']} rounding can undo it")
    if recited:
        show_spans(spans, ids, tokenizer)


def show_expected(report: Row) -> None:
    """Prints whether the answer is the one of --expect, if there is one."""
    if report["as_expected"] is not None:
        stdout.print(f"\n{ANSWERS[report['expected'], report['as_expected']]}")


# --- Parts ---------------------------------------------------------------------------------------


def show_line(name: str, value: str) -> None:
    stdout.print(f"{name:<{LABEL}}{value}")


def show_beginning(report: Row) -> None:
    """Prints remarks about the adapter, then what is judged, losses and capacity."""
    named = {name: escape(str(report[name])) for name in ("base", "model", "adapter")}
    for remark in remarks_of(report):
        stdout.print(REMARKS[remark].format_map(named))
    stdout.print(f"[bold]{named['model']}[/]{adapter_words(report)}")
    stdout.print(what(report))
    before, after = report["base_loss"], report["final_loss"]
    start = "" if before is None else f"{number(before)} → "
    windows = f" ({report['windows']['compared']} of the windows)" if report["windows"] else ""
    if report["adapter"] is not None:
        show_line("adapter", f"moves a logit by up to {number(report['adapter_change'])}")
    show_line("loss", f"{start}[bold]{number(after)}[/] nats per token{windows}")
    if report["capacity"] is not None and not report["windows"] and not loses(report):
        show_capacity(report, report["capacity"])


def remarks_of(report: Row) -> list[str]:
    """What must be known before anything else: keys of REMARKS."""
    change = report["adapter_change"]
    if report["adapter"] is None:
        return []
    found = {
        "nothing": change == 0,
        "broken": change is None,
        "base": report["same_base"] is False,
        "worse": loses(report) and report["verbatim"] is False,
    }
    return [name for name, holds in found.items() if holds]


def loses(report: Row) -> bool:
    """Whether the loss is higher with the adapter than without it."""
    return report["delta_loss"] is not None and report["delta_loss"] < 0


def adapter_words(report: Row) -> str:
    if report["adapter"] is None:
        return ""
    layer = report["layer"]
    where = f"{len(layer)} layers" if isinstance(layer, list) else f"layer {layer}"
    size = f"rank {report['rank']}, {where}, {report['trainable_parameters']:,} parameters"
    return f" with [bold]{escape(report['adapter'])}[/]: {size}"


def what(report: Row) -> str:
    """How much is judged, and in which arithmetic."""
    many = ""
    if windows := report["windows"]:
        many = "; windows of {window} after {context}, one each {stride}".format_map(windows)
    elif report["memories"] > 1:
        many = f" in {report['memories']:,} memories"
    return f"{report['length']:,} tokens{many}; {report['device']} {report['dtype']}"


def show_capacity(report: Row, capacity: Row) -> None:
    """Prints the load of the adapter beside that of a recorded study, and the rank it needs."""
    load, most = capacity["load"], capacity["load_50"]
    if report["bits_per_parameter"] is not None:
        each = f"[bold]{report['bits_per_parameter']:.2g}[/] per parameter"
        study = f"(in a study: {capacity['bits_per_parameter_50']:.2f})"
        show_line("stored", f"{report['stored_bits']:,.0f} bits of this, {each} {study}")
    fill = "not full" if load <= capacity["load_90"] else "too much" if load > most else "full"
    study = f"[bold]{fill}[/] (in a study: {most:.2g})"
    show_line("load", f"{load:.2g} tokens per parameter, {study}")
    if (needed := capacity["rank_needed"]) is not None:
        about = "{model}, random tokens, site {site}, {method}".format_map(capacity["study"])
        show_line("rank", f"{needed:,} would do, by that study: {about}")


def show_first_error(verdict: Verdict, at: int, tokenizer: Tokenizer) -> None:
    """Prints the first token that decoding gets wrong, with the text before it."""
    before = verdict.targets[max(0, at - BEFORE) : at]
    wanted, said = (token_text(tokenizer, ids[at]) for ids in (verdict.targets, verdict.decoded))
    line = Text("… " if at > BEFORE else "")
    line.append("".join(token_text(tokenizer, token) for token in before), "green")
    line.append(f"‹{wanted}›", "bold red")
    line.append(f"  decoded: ‹{said}›")
    stdout.print(line)


def show_memories(
    report: Row, memories: Sequence[Memory], verdict: Verdict, tokenizer: Tokenizer
) -> None:
    """Prints a table of the memories, the worst first, and one of stubborn tokens."""
    table = new_table("memory", "tokens", "loss", "margin", "right", "first error", "text")
    table.columns[-1].justify = "left"
    rows = sorted(report["by_memory"], key=lambda row: row["min_margin"])
    for row in rows[:MOST_ROWS]:
        text = beginning(tokenizer, memories[row["memory"]].target_ids, stdout.width - 58)
        error = "–" if row["first_error"] is None else str(row["first_error"])
        right = f"{100 * row['argmax_accuracy']:.0f} %"
        numbers = number(row["final_loss"]), number(row["min_margin"]), right, error
        table.add_row(str(row["memory"]), str(row["length"]), *numbers, text)
    stdout.print("\n[dim]The memories, worst first:[/]", table, sep="\n")
    if (more := len(rows) - MOST_ROWS) > 0:
        stdout.print(f"[dim]… and {more:,} more; --json has all[/]")
    show_stubborn(verdict, tokenizer)


def show_stubborn(verdict: Verdict, tokenizer: Tokenizer) -> None:
    """Prints a table of the tokens that are wrong or, if they are right, have p ≤ ½."""
    if count := len(verdict.stubborn):
        few = f"; the first {MOST_STUBBORN}" if count > MOST_STUBBORN else ""
        stdout.print(f"\n[dim]{count:,} stubborn tokens{few}:[/]")
        stdout.print(stubborn_table(verdict, tokenizer))


def beginning(tokenizer: Tokenizer, ids: Sequence[int], width: int) -> Text:
    """The text of the first tokens, as much as fits in so many characters."""
    text = Text("".join(token_text(tokenizer, token) for token in ids[:width]))
    text.truncate(max(width, 20), overflow="ellipsis")
    return text


def map_of(spans: Sequence[Sequence[int]], length: int, width: int) -> str:
    """A document in `width` characters: # where all of it is recited, + some of it, . nothing.

    By hand, 10 tokens in 5 characters: the spans [2, 5] and [8, 10] give ".#+.#".
    """
    marks = []
    for n in range(width):
        low, high = n * length / width, (n + 1) * length / width
        inside = sum(max(0.0, min(high, end) - max(low, start)) for start, end in spans)
        marks.append("." if inside == 0 else "#" if inside >= 0.999 * (high - low) else "+")
    return "".join(marks)


def show_spans(spans: Sequence[Sequence[int]], ids: Sequence[int], tokenizer: Tokenizer) -> None:
    """Prints a table of recited stretches, the longest first."""
    table = new_table("from", "to", "tokens", "text")
    table.columns[-1].justify = "left"
    for start, end in sorted(spans, key=lambda span: span[0] - span[1])[:MOST_SPANS]:
        text = beginning(tokenizer, ids[start:end], stdout.width - 26)
        table.add_row(f"{start:,}", f"{end - 1:,}", f"{end - start:,}", text)
    few = f"; the longest {MOST_SPANS}" if len(spans) > MOST_SPANS else ""
    stretches = "stretch" if len(spans) == 1 else "stretches"
    stdout.print(f"\n[dim]{len(spans):,} recited {stretches}{few}:[/]", table, sep="\n")
