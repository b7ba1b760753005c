"""What a person sees of a sweep, of its laws and of a plan: tables on stdout."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from statistics import fmean

from rich.columns import Columns
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ..law.bits import BitsLaw
from ..law.fit import Fit
from ..law.plan import Plan
from ..law.power import Law
from ..law.recall import is_recited, width_of
from ..law.recite import RecitePlan
from .axes import LABELS, PERCENT, YARDSTICKS, group
from .report import Row, new_table, number, stdout

MARKS = """green: recited (every margin > 0); bold: certified too (every p > ½); *: not converged;
!: diverged or out of memory"""
SCALE = "For scale, bits per parameter that others measured:"
UNFIXED = "use --no-offset, or add ranks and lengths"
RECALL = """width: the length that 10 % of the runs recite, divided by the one that 90 % recite.
This recall law is tinymem's own, not the paper's"""
MEASURES = """R²: of ΔL; log R²: of ln ΔL; error: mean error of ΔL; rank left out: mean error
of ΔL at ranks that were left out of the fit, one after another"""

MEASURED = "law", "constants", "R²", "log R²", "error", "rank left out"


# --- A sweep -------------------------------------------------------------------------------------


def show_grid(rows: Sequence[Row]) -> None:
    """Prints final loss, bits and recall by rank and length, for each method and ratio."""
    for (method, ratio), some in group(rows, itemgetter("method", "ratio")).items():
        known = all(row["memorized_bits"] is not None for row in some if row["status"] == "ok")
        fields = ["final_loss", "memorized_bits_per_parameter" if known else "bits_per_parameter"]
        fields += ["exact_match"] * any(row["memories"] > 1 for row in some)
        fields += ["held_out_exact_match"] * any(row["held_out_memories"] for row in some)
        random = "" if ratio is None else f", {ratio} % random tokens"
        seeds = len({row["seed"] for row in some})
        means = f", means of {seeds} seeds" if seeds > 1 else ""
        stdout.print(f"\n[bold]{method}[/]{random}: by rank and length{means}")
        parts = [Group(LABELS[field], by_rank_and_length(some, field)) for field in fields]
        stdout.print(Columns(parts, padding=(1, 4)))
    stdout.print(MARKS, SCALE, *(what for *_, what in YARDSTICKS), sep="\n", style="dim")


def by_rank_and_length(rows: Sequence[Row], field: str) -> Table:
    """One field as a table: a row for each rank, a column for each length."""
    cells, lengths = group(rows, itemgetter("rank", "length")), sorted({r["length"] for r in rows})
    table = new_table("rank", *(f"{length:,} " for length in lengths))  # room for a mark
    for rank in sorted({row["rank"] for row in rows}):
        values = [grid_cell(cells.get((rank, length), []), field) for length in lengths]
        table.add_row(f"[dim]{rank}[/]", *values)
    return table


def grid_cell(rows: Sequence[Row], field: str) -> str:
    """The mean over the seeds of one rank and length, with marks for runs that fell short."""
    good = [row for row in rows if row["status"] == "ok"]
    marks = "" if all(row["converged"] for row in good) else "*"
    marks += "!" if len(good) < len(rows) else ""
    if not good:
        return marks or "– "
    mean = fmean(row[field] for row in good)
    share = f"{100 * mean:.0f}" if field in PERCENT else f"{mean:.2f}"
    text = (number(mean) if field == "final_loss" else share) + (marks or " ")
    if not all(row["verbatim"] for row in good):
        return text
    bold = "bold " * all(row["certified"] for row in good)
    return f"[{bold}green]{text}[/]"


# --- Laws ----------------------------------------------------------------------------------------


def show_fits(fits: Sequence[Fit], refused: Mapping[str, str]) -> None:
    """Prints the laws of each group of rows, and how well they hold."""
    for fit in fits:
        if isinstance(fit.law, str):
            stdout.print(f"[bold]{about(fit)}[/]\nNo power law: {escape(fit.law)}")
        else:
            show_power_law(fit, fit.law)
            show_measures(fit)
        stdout.print()
    show_recall(fits)
    if any(not isinstance(fit.law, str) for fit in fits):
        stdout.print(f"[dim]{MEASURES}[/]")
    for name, reason in refused.items():
        stdout.print(f"[yellow]Not fitted:[/] {escape(name)}: {escape(reason)}")


def about(fit: Fit) -> str:
    """What the rows of a fit have in common, for rich: `tiny, layer 2, site mlp, sft`."""
    return escape(words(fit))


def words(fit: Fit) -> str:
    """What the rows of a fit have in common, as plain text."""
    form = {"model": "{}", "layer": "layer {}", "site": "site {}", "method": "{}"}
    parts = [form[name].format(value) for name, value in fit.key.items() if value is not None]
    return " ".join(", ".join(parts).split())


def show_power_law(fit: Fit, law: Law) -> None:
    """Prints which runs were fitted, the formula, and the intervals of its constants."""
    moving = f", [yellow]{fit.n_unconverged} of them not converged[/]" if fit.n_unconverged else ""
    stdout.print(f"[bold]{about(fit)}[/]\n{runs(law)} fitted{moving}")
    if parts := left_out(fit, law):
        stdout.print(f"left out: {escape(', '.join(parts))}")
    stdout.print(f"\n{formula(law, fit.offset)}")
    ends = intervals(law, fit.offset)
    table = new_table("", *ends)
    table.add_row("[dim]95 % interval[/]", *ends.values())
    stdout.print(table)
    if law.at_bound:
        stdout.print(f"[yellow]These cells do not fix b[/]: {UNFIXED}")


def left_out(fit: Fit, law: Law) -> list[str]:
    """How many runs were not fitted, by reason."""
    reasons = {"saturated (final loss ≤ ln 2)": law.n_saturated} | fit.skipped
    return [f"{count} {reason}" for reason, count in reasons.items() if count]


def formula(law: Law, offset: bool) -> str:
    """The fitted law as an equation; offset: whether b was fitted."""
    b = f" {'+' if law.b >= 0 else '−'} {abs(law.b):.3f}" if offset else ""
    right = f"{law.C:.4g} · r^{law.alpha:.3f} · ℓ^{-law.beta:.3f}{b}"
    return f"ΔL = {right} nats per token".replace("^-", "^−")


def intervals(law: Law, offset: bool) -> dict[str, str]:
    """The 95 % interval of each fitted constant, by the constant's symbol."""
    names = {"C": "C", "α": "alpha", "β": "beta"} | ({"b": "b"} if offset else {})
    return {symbol: span(*law.ci[name]) for symbol, name in names.items()}


def runs(law: Law) -> str:
    """How many runs were fitted: `15 runs`, or `45 runs in 15 cells` where cells have seeds."""
    return f"{law.n} runs" + (f" in {law.n_cells} cells" if law.n_cells < law.n else "")


def show_measures(fit: Fit) -> None:
    """Prints all laws of a fit side by side: constants, R², errors; and why one is missing."""
    laws: dict[str, Law | BitsLaw | str] = {"power law": fit.law}
    laws |= {f"  {ratio} % random": law for ratio, law in fit.by_ratio.items()}
    laws |= {"constant bits": fit.bits}
    table = new_table(*MEASURED, left=2)
    for name, law in laws.items():
        if not isinstance(law, str):
            table.add_row(name, *measured(law, fit.offset))
    stdout.print("", table, sep="\n")
    for name, law in laws.items():
        if isinstance(law, str):
            stdout.print(f"[dim]No law for {name.strip()}: {escape(law)}[/]")


def measured(law: Law | BitsLaw, offset: bool) -> list[str]:
    """What `MEASURED` names after the law's name."""
    blind = law.leave_one_rank_out
    last = "–" if blind is None else f"{blind:.1f} %"
    measures = f"{law.r2:.3f}", f"{law.r2_log:.3f}", f"{law.mape:.1f} %"
    return [constants(law, offset), *measures, last]


def constants(law: Law | BitsLaw, offset: bool) -> str:
    """The constants of a law in a few words."""
    if isinstance(law, BitsLaw):
        return "κ {:.3f} ({:.3f} to {:.3f})".format(law.kappa, *law.ci)
    b = f", b {round(law.b, 2) + 0.0:.2f}" if offset else ""
    return f"α {law.alpha:.2f}, β {law.beta:.2f}{b}"


def show_recall(fits: Sequence[Fit]) -> None:
    """Prints how long a memory half of the runs of each rank recite, or the bound of the rows."""
    judged = [fit for fit in fits if any(is_recited(row) is not None for row in fit.rows)]
    if not judged:
        return
    laws = {recall_name(fit, judged): fit.recall for fit in judged}
    found = {name: law.as_dict() for name, law in laws.items() if not isinstance(law, str)}
    ranks = list(dict.fromkeys(rank for law in found.values() for rank in law["length_50"]))
    ranks.sort(key=float)
    columns = [f"rank {rank}" for rank in ranks] + ["grows as", "width", "recited"]
    table = new_table("", *columns, left=1)
    for name, law in found.items():
        lengths, bits = law["length_50"], law["bits_per_parameter"]
        narrow, wide = (width_of(s) for s in reversed(law["ci"]["s"]))
        power, ends = "–", ""
        if law["rank_exponent"] is not None:
            low, high = law["ci"]["rank_exponent"]
            power, ends = f"rank^{law['rank_exponent']:.2g}", span(low, high, 2)
        points = [f"{lengths[rank]:,.0f}" if rank in lengths else "" for rank in ranks]
        last = [power, f"{law['width']:.2g}", f"{law['n_recited']} of {law['n']}"]
        table.add_row(name, *points, *last)
        stored = [f"{bits[rank]:.2f}" if bits.get(rank) else "" for rank in ranks]
        below = (*stored, ends, span(narrow, wide, 2))
        table.add_row("", *(f"[dim]{text}[/]" for text in below))
    title = "[bold]Half of the runs recite so many tokens whole[/]"
    stdout.print(f"{title} [dim](and below, so many bits per parameter; 95 % intervals)[/]", table)
    for name, reason in laws.items():
        if isinstance(reason, str):
            stdout.print(f"[dim]{name}: {escape(reason)}[/]")
    for fit in judged:
        if fit.loads:
            deviances = " and ".join(f"{value:.1f} by {name}" for name, value in fit.loads.items())
            stdout.print(
                f"[dim]Deviance of {recall_name(fit, judged)}: {deviances} per parameter[/]"
            )
    stdout.print(f"[dim]{RECALL}[/]\n")


def span(low: float, high: float, digits: int = 3) -> str:
    return f"{low:.{digits}g} to {high:.{digits}g}".replace("inf", "∞")


def recall_name(fit: Fit, fits: Sequence[Fit]) -> str:
    """The method, if nothing else distinguishes the fits; otherwise all that does."""
    others = {str({**one.key, "method": None}) for one in fits}
    return escape(str(fit.key["method"])) if len(others) == 1 and fit.key["method"] else about(fit)


# --- A plan --------------------------------------------------------------------------------------


def show_plan(plan: Plan, fit: Fit) -> None:
    """Prints the answer, what it rests on, and what speaks against it."""
    goal = f"at {plan.loss:.3g} nats per token" if plan.loss is not None else "every one certified"
    share = f"{100 * plan.probability:.0f} % of fresh runs"
    chance = f"in {share}" if plan.rank is not None else f"that often: even the largest in {share}"
    stdout.print(f"{answer(plan, 'holds')}, {goal}, {chance}")
    show_range(plan, "hold")
    if plan.loss is not None:
        stdout.print(f"loss {plan.base_loss:.3f} → {plan.loss:.3f} nats per token")
    stdout.print(f"[dim]by the law of {about(fit)}[/]")
    if plan.constant_bits is not None:
        other = (
            f"rank {plan.constant_bits:,}"
            if plan.asked == "rank"
            else f"{plan.constant_bits:,} tokens"
        )
        stdout.print(f"[dim]The constant-bits law gives {other}[/]")
    if plan.right_left_out is not None:
        share = f"{100 * plan.right_left_out:.0f} % of the measured runs"
        stdout.print(f"[dim]Without its own cell, it is right about {share}[/]")
    show_warnings(plan)


def show_recital(plan: RecitePlan, fit: Fit) -> None:
    """Prints the answer of a plan by the recall law, and what speaks against it."""
    share = f"{100 * (plan.probability or plan.recite):.0f} % of fresh runs"
    stdout.print(f"{answer(plan, 'recites')} word for word, in {share}")
    show_range(plan, "recite")
    stdout.print(f"[dim]by the recall law of {about(fit)}[/]")
    if plan.kept is not None:
        recited, runs = plan.kept
        text = (
            f"{recited} of {runs} measured runs to which other ranks promise as much were recited"
        )
        stdout.print(f"[dim]{text}[/]")
    show_warnings(plan)


def answer(plan: Plan | RecitePlan, holds: str) -> str:
    """The rank and the length, with the one that was asked for in green."""
    rank = "No rank" if plan.rank is None else f"Rank {plan.rank:,}"
    length = "any length" if plan.length is None else f"{plan.length:,} tokens"
    if plan.asked == "rank":
        return f"[bold green]{rank}[/] {holds} {length}"
    return f"{rank} {holds} [bold green]{length}[/]"


def show_range(plan: Plan | RecitePlan, hold: str) -> None:
    """Prints the neighbours' probabilities, what 95 % of fresh runs need or hold, and the size."""
    if plan.by_rank:
        stdout.print(", ".join(f"rank {r:,}: {100 * p:.0f} %" for r, p in plan.by_rank.items()))
    low, high = ("∞" if end is None else f"{end:,}" for end in plan.interval)
    for_rank = plan.asked == "rank"
    middle = f"need rank {low} to {high}" if for_rank else f"{hold} {low} to {high} tokens"
    stdout.print(f"[dim]95 % of fresh runs {middle}[/]")
    if plan.parameters is not None:
        stdout.print(f"{plan.parameters:,} parameters, {plan.bytes:,} bytes in float32")


def show_warnings(plan: Plan | RecitePlan) -> None:
    for warning in plan.warnings:
        stdout.print(f"[yellow]careful:[/] {escape(warning)}")
