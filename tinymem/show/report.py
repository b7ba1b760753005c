"""What a person sees of one run on stdout: losses, bits, verdict, the target, stubborn tokens."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..files import printable

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict

Row = dict[str, Any]  # the report of a run, or a finished cell of a sweep
SHOW_ALL = 256  # target tokens up to which the whole target is printed
AROUND = 8  # tokens printed before and after a stubborn one of a longer target
MOST_STUBBORN = 10  # rows in the table of stubborn tokens
KINDS = {100: "random tokens", 0: "tokens of text", None: "tokens"}
RUN = """[bold]{model}[/], {where}, site {site}, rank {rank}: {trainable_parameters:,} parameters
{length:,} {kind}{many}; {method}, {steps:,} steps, {rate}, seed {seed}, {device} {dtype}"""
ENDED = {
    "recited": "early: the memory was recited (--full trains to the last step)",
    "certified": "early: every p > ½",
    "still": "early: the loss stood still (--full trains to the last step)",
}
AGREES = "[green]As reported[/]: the reloaded unit has the verdict of the run"
DIFFERS = "[bold red]Not as reported[/]: the verdict differs from that of the run"
HEADLINES = {
    "diverged": "[bold red]Diverged[/]: the loss ended above where it began; use a lower --lr",
    "oom": "[bold red]Out of memory[/]: use a shorter target or a smaller base model",
    "recited": "[bold green]Recited[/]: proof from one pass, lowest margin {lowest} logits",
    "thin": "[bold yellow]Recited, but thin[/]: "
    "{dtype} rounding can undo the lowest margin, {lowest} logits",
    "rounding": "[bold yellow]Undecided[/]: "
    "pass and decoding differ by rounding, lowest margin {lowest} logits",
    "failed": "[bold yellow]Not recited[/]: "
    "{wrong:,} of {length:,} argmaxes are wrong, first error at position {first_error}",
}
CERTIFIED = "\n[bold green]Certified[/]: every p > ½, the paper's stronger proof"
LEGEND = "[green]p > ½[/]  [yellow]likeliest, p ≤ ½[/]  [bold red]‹another is likelier›[/]"


class Terminal(Console):
    """A console on which control characters in a text are shown and not obeyed."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))

    def on_broken_pipe(self) -> None:  # rich would end the process here
        raise


stderr = Terminal(stderr=True, highlight=False, emoji=False)
stdout = Terminal(highlight=False, emoji=False)


def note(message: str) -> None:
    """Prints a message on stderr."""
    stderr.print(message, markup=False, soft_wrap=True)


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
    if row["certified"] or row["verbatim"]:  # the first implies the second
        text += f", [green]{'certified' if row['certified'] else 'recited'}[/]"
    text += "" if row["converged"] else ", [yellow]not converged[/]"
    bits = row["memorized_bits_per_parameter"]
    memorized = "" if bits is None else f", {bits:.2f} memorized bits per parameter"
    return f"{text}, {row['wall_seconds']:.0f} s{memorized}"


def name_layers(layers: list[int]) -> str:
    """ "3, 7", or "0 to 29" for layers that follow one another."""
    first, last = layers[0], layers[-1]
    if len(layers) > 3 and layers == list(range(first, last + 1)):
        return f"{first} to {last}"
    return ", ".join(map(str, layers))


def describe_run(report: Row) -> str:
    """What was trained, on what and how, and why it ended early, in lines with markup."""
    layer, ratio = report["layer"], report["ratio"]
    several = f"layers {name_layers(layer)}" if isinstance(layer, list) else ""
    words = {k: escape(" ".join(v.split())) for k, v in report.items() if isinstance(v, str)}
    words["where"] = several or f"layer {layer}"
    words["kind"] = KINDS.get(ratio, f"tokens, {ratio} % of them random")
    words["many"] = f" in {report['memories']:,} memories" if report["memories"] > 1 else ""
    words["rate"] = "L-BFGS" if report["lr"] is None else f"learning rate {report['lr']:.3g}"
    ended = ENDED.get(report["ended"])
    return RUN.format_map(report | words) + (f"\nended       {ended}" if ended else "")


def kinds_of_bits(report: Row) -> list[tuple[str, float, str]]:
    """(name, bits per parameter, all bits in words) of each kind that is known.

    Those of a run that ended early are lower bounds, but a recited memory is there whole.
    """
    prefixes = {"stored": "", "memorized": "memorized_", "recited": "calibrated_"}
    if report["readout_temperature"] is not None:
        del prefixes["recited"]
    rows = []
    for name, prefix in prefixes.items():
        if (bits := report[f"{prefix}bits_per_parameter"]) is not None:
            least = "at least " if report.get("ended") in ENDED and name != "recited" else ""
            rows.append((name, bits, f"{least}{bits * report['trainable_parameters']:,.0f} bits"))
    return rows


def show_report(report: Row) -> None:
    """Prints what was trained, then losses, bits and recall, and last the verdict."""
    length = report["length"]
    stdout.print(describe_run(report))
    show_bits(report)
    if report["certified_fraction"] is not None:
        shares = "argmax_accuracy", "certified_fraction", "token_accuracy"
        above, sure, right = (f"{round(report[f] * length):,} of {length:,} tokens" for f in shares)
        margin, p = number(report["min_margin"]), number(report["min_probability"])
        error = report["first_error"]
        recall = "[green]exact[/]" if error is None else f"first error at position {error}"
        stdout.print(f"margin > 0  {above}, lowest {margin} logits")
        stdout.print(f"p > ½       {sure}, lowest p {p}")
        stdout.print(f"recall      {right} right when decoding, {recall}")
        for name, prefix, least in (("memories", "", 2), ("held out", "held_out_", 1)):
            if (count := report[f"{prefix}memories"]) >= least:
                whole = round(count * report[f"{prefix}exact_match"])
                stdout.print(f"{name:<12}{whole:,} of {count:,} memories recited whole")
    stdout.print(headline(report))


def show_bits(report: Row) -> None:
    """Prints the losses, and the bits that follow from them."""
    before, after = report["base_loss"], report["final_loss"]
    if after is None:  # not judged
        stdout.print(f"loss        {number(before)} nats per token without the unit")
        return
    loss = f"{number(before)} → [bold]{number(after)}[/]"
    early = report["ended"] in ENDED  # says itself why the loss is what it is
    moving = "" if report["converged"] or early else ", [yellow]not converged[/]"
    stdout.print(f"loss        {loss} nats per token{moving}")
    for name, bits, total in kinds_of_bits(report):
        stdout.print(f"{name:<12}{total}, [bold]{bits:.2f}[/] bits per parameter")
    if (T := report["readout_temperature"]) is not None:
        best = report["calibrated_bits_per_parameter"]
        each = "" if best is None else f", [bold]{best:.2f}[/] bits per parameter"
        loss = f"{number(report['calibrated_loss'])} nats per token at temperature {number(T)}"
        stdout.print(f"readout     {loss}{each}")


def headline(report: Row) -> str:
    """The verdict in one line; an interruption and the certificate have lines of their own."""
    if (status := report["status"]) in HEADLINES:
        return HEADLINES[status]
    early = status == "interrupted"
    start = f"[yellow]Interrupted[/] after {report['steps']:,} steps" if early else ""
    if report["certified_fraction"] is None:
        return f"{start}, before the verdict" if early else "There is no verdict"
    start += "\n" if early else ""
    wrong = round((1 - report["argmax_accuracy"]) * report["length"])
    words = report | {"wrong": wrong, "lowest": number(report["min_margin"])}
    words["dtype"] = escape(report["dtype"])
    recited = "thin" if report["thin"] else "recited"
    kind = recited if report["verbatim"] else "failed"
    kind = kind if report["verbatim"] == report["recall_exact"] else "rounding"
    return start + HEADLINES[kind].format_map(words) + CERTIFIED * report["certified"]


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token on its own, with control characters made visible."""
    text, visible = tokenizer.decode([token]), {"\n": "⏎", "\t": "⇥"}
    return "".join(c if c.isprintable() else visible.get(c, "·") for c in text) or "·"


def show_tokens(verdict: Verdict, tokenizer: Tokenizer) -> None:
    """Prints the target, coloured by how each token fares, and a table of the stubborn ones."""
    if target := target_text(verdict, tokenizer):
        stdout.print(f"\n[dim]The target:[/]  {LEGEND}", target, sep="\n")
    wrong, count = len(verdict.wrong), len(verdict.stubborn)
    kinds = {
        "wrong argmax" + "es" * (wrong != 1): wrong,
        f"right token{'s' * (count - wrong != 1)} with p ≤ ½ (not certified)": count - wrong,
    }
    if parts := [f"{number:,} {kind}" for kind, number in kinds.items() if number]:
        few = f"; the first {MOST_STUBBORN}" if count > MOST_STUBBORN else ""
        stdout.print(f"\n[dim]{', '.join(parts)}{few}:[/]")
        stdout.print(stubborn_table(verdict, tokenizer))


def colour(verdict: Verdict, t: int) -> str:
    """Of token t: is its argmax wrong, right, or even certified?"""
    certified = "green" if verdict.probabilities[t] > 0.5 else "yellow"
    return certified if verdict.margins[t] > 0 else "bold red"


def target_text(verdict: Verdict, tokenizer: Tokenizer) -> Text:
    """The target, one memory a line, wrong tokens in ‹ ›; if long, only what is near them."""
    shown, wrong = list(range(len(verdict.targets))), set(verdict.wrong)
    if len(shown) > SHOW_ALL:
        near = {t + n for t in verdict.wrong[:SHOW_ALL] for n in range(-AROUND, AROUND + 1)}
        shown = sorted(near.intersection(shown))
    starts = set(accumulate(verdict.lengths))
    text = Text()
    for last, t in zip([-1, *shown], shown, strict=False):
        if t in starts:
            text.append("\n")
        if t != last + 1:
            text.append(" … ", "dim")
        token = token_text(tokenizer, verdict.targets[t])
        text.append(f"‹{token}›" if t in wrong else token, colour(verdict, t))
    if shown and shown[-1] < len(verdict.targets) - 1:
        text.append(" …", "dim")
    return text


def stubborn_table(verdict: Verdict, tokenizer: Tokenizer) -> Table:
    """The first stubborn tokens, and what the model would rather say."""
    table = new_table("position", "token", "likeliest token there", "margin", "p", left=3)
    memories = [n for n, length in enumerate(verdict.lengths) for _ in range(length)]
    for t in verdict.stubborn[:MOST_STUBBORN]:
        place = f"{verdict.positions[t]} of memory {memories[t]}" if memories[-1] else str(t)
        target, predicted = verdict.targets[t], verdict.predicted[t]
        token, other = (token_text(tokenizer, i).replace(" ", "␣") for i in (target, predicted))
        instead = Text("the same", "dim") if predicted == target else Text(other)
        margin, p = number(verdict.margins[t]), number(verdict.probabilities[t])
        table.add_row(place, Text(token), instead, margin, Text(p, colour(verdict, t)))
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
