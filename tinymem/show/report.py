"""What a person sees: progress while a run goes on, and its verdict, in colour."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..base.tokenizer import Tokenizer
from ..data.memory import Memory
from ..experiment.recall import Verdict

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)
SHOW_ALL = 256  # tokens up to which the whole target is printed
AROUND = 8  # tokens shown on each side of a stubborn one in longer targets


# --- Progress, on stderr ------------------------------------------------------------------------


class Bars:
    """Progress bars with time left, one for each stage of a command; gone when it is done.

    `watch` and `on_metrics` are what checkpoint.load, memorize and judge take by these names.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet

    def __enter__(self) -> "Bars":
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}{task.fields[state]}"),
            *(TimeElapsedColumn(), TextColumn("[dim]left[/]"), TimeRemainingColumn()),
            console=stderr,
            transient=True,
            disable=self.quiet or not stderr.is_terminal,  # a log file gets no bars
        )
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def watch(self, items: Iterable, what: str = "decoding") -> Iterable:
        """Passes items through, under a bar of their own."""
        items = list(items)
        task = self.progress.add_task(what, total=len(items), state="")
        for item in items:
            yield item
            self.progress.advance(task)
        self.progress.remove_task(task)

    track = watch

    def on_metrics(self) -> Callable[[float, float, float], None]:
        """For one run: shows how far it is, loss and share of tokens above one half."""
        task = self.progress.add_task("writing", total=100, state="")

        def show(done: float, loss: float, share: float) -> None:
            state = f" %  loss [bold]{loss:.3f}[/]  p>½ [bold]{share:4.0%}[/]"
            self.progress.update(task, completed=round(100 * done), state=state)

        return show


class GridBars:
    """Follows a sweep: one bar with the time left of the whole grid, and a line for each finished cell."""

    def __init__(self, bars: Bars):
        self.bars = bars

    def start(self, done: int, todo: int, cost: int) -> None:
        self.cost, self.count, self.total = cost, done, done + todo
        if done and not self.bars.quiet:
            stderr.print(f"{done} of {self.total} cells are there already; {todo} to do")
        columns = (
            TextColumn("sweep"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:3.0f} %"),
        )
        columns += (
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
        )
        self.bars.progress.columns = (*columns, TimeRemainingColumn(elapsed_when_finished=False))
        self.bars.progress.speed_estimate_period = 300  # seconds; cells differ, so look back far
        self.task = self.bars.progress.add_task("", total=cost, state="")

    def torn(self, note: str) -> None:
        if not self.bars.quiet:
            stderr.print(note, markup=False, soft_wrap=True)

    def metrics(self, cells, cost: float, loss: float, share: float) -> None:
        one = cells[0]
        what = f"rank {one.rank}, {one.method}" if len(cells) == 1 else f"{len(cells)} cells"
        state = f" length {one.length}, {what}: loss [bold]{loss:.3f}[/]"
        self.bars.progress.update(
            self.task, completed=cost, state=state + f"  p>½ [bold]{share:4.0%}[/]"
        )

    def row(self, row: dict, cost: int) -> None:
        self.count += 1
        self.bars.progress.update(self.task, completed=cost)
        stderr.print(row_line(row), soft_wrap=True)


def row_line(row: Mapping[str, Any]) -> str:
    """One finished cell in one line, the most important first."""
    ratio = "" if row["ratio"] in (None, 100) else f", {row['ratio']} % random"
    cell = f"rank {row['rank']:3}, length {row['length']:4}{ratio}, {row['method']}, seed {row['seed']}: "
    if row["status"] != "ok":
        return cell + f"[bold red]{row['status']}[/]"
    bits = row["memorized_bits_per_parameter"]
    parts = [
        f"loss {row['base_loss']:.2f} → [bold]{number(row['final_loss'])}[/]",
        "[green]certified[/]" if row["certified"] else "",
        "" if row["converged"] else "[yellow]not converged[/]",
        f"{row['wall_seconds']:.0f} s",
        "" if bits is None else f"{bits:.2f} memorized bits per parameter",
    ]
    return cell + ", ".join(part for part in parts if part)


# --- The verdict, on stdout ----------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three decimals, or one digit of what is smaller than that."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.0e}"


def show_report(report: dict) -> None:
    """Losses, bits and recall of one run."""
    layer = report["layer"]
    layers = f"layer {layer}" if isinstance(layer, int) else f"layers {', '.join(map(str, layer))}"
    kind = {100: "random tokens", 0: "tokens of text", None: "tokens"}.get(
        report["ratio"], f"tokens, {report['ratio']} % of them random"
    )
    many = f" in {report['memories']} memories" if report["memories"] > 1 else ""
    rate = "L-BFGS" if report["lr"] is None else f"lr {report['lr']:.3g}"
    stdout.print(
        f"[bold]{escape(report['model'])}[/]  {layers}, site {report['site']}, rank {report['rank']}: "
        f"{report['trainable_parameters']:,} parameters\n"
        f"{report['length']:,} {kind}{many}; {report['method']}, {report['steps']:,} steps, "
        f"{rate}, seed {report['seed']}, {report['device']} {report['dtype']}"
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    loss = f"{number(report['base_loss'])} → [bold]{number(report['final_loss'])}[/] nats per token"
    table.add_row("loss", loss + ("" if report["converged"] else "  [yellow]not converged[/]"))
    for name, bits, each in (
        ("stored", report["stored_bits"], report["bits_per_parameter"]),
        ("memorized", report["memorized_bits"], report["memorized_bits_per_parameter"]),
    ):
        if bits is not None:
            table.add_row(name, f"{bits:,.0f} bits, [bold]{each:.2f}[/] per parameter")
    if report["certified_fraction"] is not None:
        sure = round(report["certified_fraction"] * report["length"])
        lowest = report["min_probability"]
        table.add_row(
            "p above ½", f"{sure:,} of {report['length']:,} tokens; lowest p {number(lowest)}"
        )
        right = round(report["token_accuracy"] * report["length"])
        exact = (
            "[green]exact[/]"
            if report["recall_exact"]
            else f"first error at {report['first_error']}"
        )
        table.add_row(
            "recall", f"{right:,} of {report['length']:,} tokens right when decoding, {exact}"
        )
        for name, prefix in (("memories", ""), ("held out", "held_out_")):
            if (count := report[f"{prefix}memories"]) > (not prefix):
                whole = round(count * report[f"{prefix}exact_match"])
                table.add_row(name, f"{whole:,} of {count:,} memories recited whole")
    stdout.print(table)
    stdout.print(headline(report))


def headline(report: dict) -> str:
    if report["status"] == "diverged":
        return "[bold red]Diverged[/]: the loss ended above where it began; try a lower --lr"
    if report["status"] == "oom":
        return "[bold red]Out of memory[/]: shorten the target, or use a smaller base model"
    prefix = "[yellow]Interrupted[/]; up to there: " if report["status"] == "interrupted" else ""
    if report["certified_fraction"] is None:
        return f"{prefix}nothing to judge"
    if report["certified"]:
        return f"{prefix}[bold green]Certified[/]: every token has p > ½, so greedy decoding recites it all"
    if report["recall_exact"]:
        return (
            f"{prefix}[bold green]Recalled[/], not certified: exact, though not every p is above ½"
        )
    return f"{prefix}[bold yellow]Not certified[/]: the stubborn tokens below have p ≤ ½"


def colour(p: float) -> str:
    return "green" if p > 0.5 else "yellow" if p > 0.1 else "bold red"


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """A token on its own, control characters made visible."""
    text = tokenizer.decode([token])
    return (
        "".join(c if c.isprintable() else {"\n": "⏎", "\t": "⇥"}.get(c, "·") for c in text) or "·"
    )


def show_tokens(verdict: Verdict, tokenizer: Tokenizer) -> None:
    """The target, coloured by p, stubborn tokens in ‹ ›; of a long one, only what is around these."""
    count, stubborn = len(verdict.targets), verdict.stubborn
    shown = set(range(count))
    if count > SHOW_ALL:
        shown = {t for s in stubborn[:SHOW_ALL] for t in range(s - AROUND, s + AROUND + 1)}
    starts = {sum(verdict.lengths[:n]) for n in range(1, len(verdict.lengths))}
    line, last = Text(), -1
    for t in sorted(shown & set(range(count))):
        if t in starts:  # one memory a line
            line.append("\n")
        if t != last + 1:
            line.append(" … ", "dim")
        p, text = verdict.probabilities[t], token_text(tokenizer, verdict.targets[t])
        line.append(text if p > 0.5 else f"‹{text}›", colour(p))
        last = t
    if last not in (-1, count - 1):
        line.append(" …", "dim")
    if line:
        stdout.print()
        stdout.print(
            "[dim]The target, by p:[/]  [green]above ½[/]  [yellow]‹0.1 to ½›[/]  [bold red]‹below 0.1›[/]"
        )
        stdout.print(line)
    if not stubborn:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("position", "token", "p", "most likely instead"):
        table.add_column(name, justify="right" if name in ("position", "p") else "left")
    for t in sorted(stubborn, key=verdict.probabilities.__getitem__)[:10]:
        p, target, predicted = verdict.probabilities[t], verdict.targets[t], verdict.predicted[t]
        token, other = (token_text(tokenizer, i).replace(" ", "␣") for i in (target, predicted))
        note = Text("none, it is the likeliest", "dim") if predicted == target else Text(other)
        table.add_row(str(t), Text(token), Text(number(p), colour(p)), note)
    stdout.print()
    stdout.print(f"[dim]{len(stubborn)} stubborn tokens, the lowest first[/]")
    stdout.print(table)


def show_recall(
    again: dict, memories: list[Memory], verdict: Verdict, tokenizer: Tokenizer
) -> None:
    """A reloaded unit: what it recites, and whether that is what its report says."""
    show_report(again)
    if again["agrees"]:
        stdout.print("[green]As reported[/]: the reloaded unit gives the verdict of the run")
    else:
        stdout.print(
            "[bold red]Not as reported[/]: the reloaded unit gives another verdict than the run did"
        )
    show_tokens(verdict, tokenizer)
    stdout.print()
    stdout.print(
        Text("prompt   ", "dim") + repr(tokenizer.decode(memories[0].prompt_ids)), soft_wrap=True
    )
    decoded = tokenizer.decode(verdict.decoded[: verdict.lengths[0]])
    stdout.print(Text("recited  ", "dim") + repr(decoded), soft_wrap=True)
