"""What a person sees of a sweep, its laws and a plan: tables on stdout."""

from rich.columns import Columns
from rich.markup import escape
from rich.table import Table

from ..law.bits import BitsLaw
from ..law.fit import Fit
from ..law.plan import Plan
from ..law.power import Law
from .report import number, stdout

SCALE = """for scale, in bits per parameter: 2 knowledge stored by pretraining
(Allen-Zhu & Li 2024), 3.6 whole-model memorization (Morris et al. 2025),
0.7 to 1.7 one trained input vector (Kuratov et al. 2025)"""


def show_grid(rows: list[dict]) -> None:
    """Final loss, bits and recall by rank and length, means over seeds, for each method and ratio."""
    groups = list(dict.fromkeys((row["method"], row["ratio"]) for row in rows))
    for method, ratio in groups:
        group = [r for r in rows if (r["method"], r["ratio"]) == (method, ratio)]
        random = "" if ratio is None else f", {ratio} % random tokens"
        known = all(row["memorized_bits"] is not None for row in group if row["status"] == "ok")
        columns = {"final loss (nats)": "final_loss"}
        if known:
            columns["memorized bits per parameter"] = "memorized_bits_per_parameter"
        else:
            columns["stored bits per parameter"] = "bits_per_parameter"
        if any(row["memories"] > 1 for row in group):
            columns["recited whole"] = "exact_match"
        if any(row["held_out_memories"] for row in group):
            columns["held out"] = "held_out_exact_match"
        stdout.print(f"\n[bold]{method}[/]{random}: by rank and length")
        stdout.print(
            Columns(
                [by_rank_and_length(group, *column) for column in columns.items()], padding=(1, 4)
            )
        )
    stdout.print(
        "[dim]green: every token certified; * had not converged; ! diverged or out of memory[/]"
    )
    stdout.print(f"[dim]{SCALE}[/]")


def by_rank_and_length(rows: list[dict], title: str, field: str) -> Table:
    lengths = sorted({row["length"] for row in rows})
    style = {"title": title, "title_justify": "left", "title_style": "", "min_width": len(title)}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", **style)
    for name in ("rank", *map(str, lengths)):
        table.add_column(name, justify="right", no_wrap=True)
    for rank in sorted({row["rank"] for row in rows}):
        cells = [
            [r for r in rows if (r["rank"], r["length"]) == (rank, length)] for length in lengths
        ]
        table.add_row(f"[dim]{rank}[/]", *(grid_cell(cell, field) for cell in cells))
    return table


def grid_cell(rows: list[dict], field: str) -> str:
    good = [row for row in rows if row["status"] == "ok"]
    marks = ("" if all(row["converged"] for row in good) else "*") + (
        "!" if len(good) < len(rows) else ""
    )
    if not good:
        return marks or "–"
    mean = sum(row[field] for row in good) / len(good)
    form = {
        "final_loss": number,
        "exact_match": "{:.0%}".format,
        "held_out_exact_match": "{:.0%}".format,
    }
    text = form.get(field, "{:.2f}".format)(mean) + marks
    return f"[green]{text}[/]" if all(row["certified"] for row in good) else text


def show_fits(fits: list[Fit], refused: dict[str, str]) -> None:
    """The laws of each group of rows, side by side with how well they hold."""
    for fit in fits:
        law = fit.law
        named = {"model": "{}", "layer": "layer {}", "site": "site {}", "method": "{}"}
        about = [
            form.format(fit.key[name]) for name, form in named.items() if fit.key[name] is not None
        ]
        stdout.print(f"[bold]{escape(', '.join(about))}[/]")
        stdout.print(
            f"{law.n} cells fitted; {law.n_saturated} saturated (loss ≤ ln 2) left out"
            + "".join(f"; {count} {escape(reason)}" for reason, count in fit.skipped.items())
            + (f"; [yellow]{fit.n_unconverged} had not converged[/]" if fit.n_unconverged else "")
        )
        stdout.print(
            f"\nΔL = {law.C:.4g} · r^{law.alpha:.3f} · ℓ^{-law.beta:.3f} {law.b:+.3f} nats per token"
        )
        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        for column in ("", "C", "α", "β", "b"):
            table.add_column(column, justify="right")
        ends = [law.ci[name] for name in ("C", "alpha", "beta", "b")]
        table.add_row("[dim]95 %[/]", *(f"{low:.3g} to {high:.3g}" for low, high in ends))
        stdout.print(table)
        if law.at_bound:
            stdout.print(
                "[yellow]b is not fixed by these cells[/]: use --no-offset, or add ranks and lengths"
            )
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("law", "constants", "R²", "ln R²", "error", "left out"):
            side = "left" if column in ("law", "constants") else "right"
            table.add_column(column, justify=side, no_wrap=True)
        for name, constants, one in every_law(fit):
            blind = "–" if one.leave_one_rank_out is None else f"{one.leave_one_rank_out:.1f} %"
            table.add_row(
                name, constants, f"{one.r2:.3f}", f"{one.r2_log:.3f}", f"{one.mape:.1f} %", blind
            )
        stdout.print()
        stdout.print(table)
        stdout.print(
            "[dim]error: of ΔL, mean; left out: of ranks that the fit did not see; ln R²: of ln ΔL[/]"
        )
        ratios = [(f"law of {ratio} % random tokens", law) for ratio, law in fit.by_ratio.items()]
        for name, law in (("constant-bits law", fit.bits), *ratios):
            if isinstance(law, str):
                stdout.print(f"[dim]no {name}: {escape(law)}[/]")
        stdout.print()
    for name, reason in refused.items():
        stdout.print(f"[yellow]not fitted[/] {escape(name)}: {escape(reason)}")


def every_law(fit: Fit) -> list[tuple[str, str, Law | BitsLaw]]:
    """(name, constants, law) of all that could be fitted, the power law first."""
    found = [("power law", exponents(fit.law), fit.law)]
    for ratio, law in fit.by_ratio.items():
        if not isinstance(law, str):
            found.append((f"  {ratio} % random", exponents(law), law))
    if not isinstance(fit.bits, str):
        low, high = fit.bits.ci
        found.append(
            ("constant bits", f"κ {fit.bits.kappa:.3f} ({low:.3f} to {high:.3f})", fit.bits)
        )
    return found


def exponents(law: Law) -> str:
    return f"α {law.alpha:.2f}, β {law.beta:.2f}, b {law.b:.2f}"


def show_plan(plan: Plan, fit: Fit) -> None:
    """The answer, what it rests on, and what speaks against it."""
    goal = "with certificate" if plan.certificate else "at that loss"
    low, high = ("∞" if end is None else f"{end:,}" for end in plan.interval)
    if plan.asked == "rank":
        what = "no rank" if plan.rank is None else f"rank {plan.rank:,}"
        stdout.print(
            f"[bold green]{what}[/] holds {plan.length:,} tokens {goal} [dim](95 %: {low} to {high})[/]"
        )
    else:
        what = "any length" if plan.length is None else f"{plan.length:,} tokens"
        stdout.print(
            f"rank {plan.rank:,} holds [bold green]{what}[/] {goal} [dim](95 %: {low} to {high})[/]"
        )
    if plan.parameters is not None:
        stdout.print(f"{plan.parameters:,} parameters, {plan.bytes:,} bytes in float32")
    stdout.print(f"loss {plan.base_loss:.3f} → {plan.loss:.3f} nats per token")
    if plan.constant_bits is not None:
        unit = "rank" if plan.asked == "rank" else "tokens"
        stdout.print(f"[dim]the constant-bits law says {unit} {plan.constant_bits:,}[/]")
    if plan.right is not None:
        stdout.print(
            f"[dim]of the {len(fit.rows)} measured cells, it calls {plan.right:.0%} right[/]"
        )
    for warning in plan.warnings:
        stdout.print(f"[yellow]careful:[/] {escape(warning)}")
