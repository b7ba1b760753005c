"""What a notebook shows of an object: coloured tokens of a verdict, tables and pictures of laws.

The colours are translucent and the text has the notebook's own colour, so that they suit dark and
light notebooks alike. No colour says anything alone: a wrong token stands in ‹ ›. Every text is
escaped, because tokens and names may come from strangers.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ..errors import TinymemError
from ..files import printable
from .one_line import formula, of_plan, of_recall, of_recital, of_training, of_verdict
from .plots import plot_fit
from .report import describe_run, headline, number, target_text, token_text
from .tables import about, constants, span

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..experiment.recall import Verdict
    from ..experiment.report import Result
    from ..law.bits import BitsLaw
    from ..law.fit import Fit
    from ..law.plan import Plan
    from ..law.power import Law
    from ..law.recall import RecallLaw
    from ..law.recite import RecitePlan

MOST = 1000  # tokens that are shown; of more, those around wrong ones, or else the first
AROUND = 8  # tokens shown before and after a wrong one of a longer target
MOST_WRONG = 10  # rows in the table of wrong tokens
SURE = (0.5, 0.8, 0.95)  # the probabilities above which a token is more and more blue
STYLE = """<style>
.tinymem table { border-collapse: collapse; margin: 0.5em 0 }
.tinymem th, .tinymem td { text-align: left; padding: 0.1em 1em 0.1em 0; vertical-align: top }
.tinymem th { font-weight: 600 }
.tinymem img { max-width: 100%; background: white }
.tinymem-tokens { font-family: monospace; line-height: 1.8; white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 30em; overflow-y: auto; margin: 0.5em 0 }
.tinymem .p1 { background: rgb(40 130 210 / 0.15) }
.tinymem .p2 { background: rgb(40 130 210 / 0.3) }
.tinymem .p3 { background: rgb(40 130 210 / 0.45) }
.tinymem .p0 { background: rgb(230 170 0 / 0.35); border-bottom: 2px dotted }
.tinymem .w { background: rgb(220 70 30 / 0.4); border-bottom: 2px solid }
</style>"""
LEGEND = """<span class="p1">p &gt; ½</span> <span class="p2">p &gt; 0.8</span>
<span class="p3">p &gt; 0.95</span> <span class="p0">likeliest, p ≤ ½</span>
<span class="w">‹another is likelier›</span>"""


class Html:
    """What `show` of a verdict or a result returns: HTML in a notebook, text anywhere else."""

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def show_tokens(thing: Verdict | Result, tokenizer: Tokenizer) -> Html:
    """The object with the texts of its tokens."""
    one: Any = thing
    verdict: Verdict | None = getattr(one, "verdict", one)
    text = "" if verdict is None else f"\n{target_text(verdict, tokenizer).plain}"
    return Html(html_of(thing, tokenizer) or "", f"{thing!r}{text.rstrip()}")


def html_of(thing: object, *tokenizer: Tokenizer) -> str | None:
    """The object as HTML. None if one line says all that there is to see."""
    for kind in type(thing).__mro__:
        if kind.__name__ in BLOCKS:
            return f'{STYLE}<div class="tinymem">{BLOCKS[kind.__name__](thing, *tokenizer)}</div>'
    return None


# --- Parts ---------------------------------------------------------------------------------------


def plain(text: object) -> str:
    """Text as HTML; control characters are shown and not obeyed."""
    return escape(printable(str(text)))


def paragraph(*lines: str) -> str:
    return f"<div>{'<br>'.join(map(plain, lines))}</div>"


def heading(line: str) -> str:
    return f"<div><strong>{plain(line)}</strong></div>"


def table(rows: Iterable[Sequence[object]], *head: str) -> str:
    """The first column names the rows; without a head, there is none."""
    cells = ["".join(f'<th scope="col">{plain(what)}</th>' for what in head)] if head else []
    for first, *values in rows:
        row = "".join(f"<td>{plain(value)}</td>" for value in values)
        cells.append(f'<th scope="row">{plain(first)}</th>{row}')
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def tokens(verdict: Verdict, tokenizer: Tokenizer | None = None) -> str:
    """The target tokens, their texts or without a tokenizer their ids; then the wrong ones."""
    starts, spans, last = set(accumulate(verdict.lengths)), list[str](), -1
    for t in some_of(verdict):
        if t in starts:
            spans.append("\n")
        spans += ["…"] * (t != last + 1) + [token(verdict, t, tokenizer)]
        last = t
    spans += ["…"] * (last + 1 < len(verdict.targets))
    between = "" if tokenizer else " "
    hint = "" if tokenizer else "; these are ids, and .show(tokenizer) has the texts"
    key = f"<div>{LEGEND}{hint}</div>"
    return (
        f'{key}<div class="tinymem-tokens">{between.join(spans)}</div>{wrong(verdict, tokenizer)}'
    )


def some_of(verdict: Verdict) -> Sequence[int]:
    """Places of the tokens that are shown."""
    every = range(len(verdict.targets))
    if len(every) <= MOST or not verdict.wrong:
        return every[:MOST]
    near = {t + n for t in verdict.wrong for n in range(-AROUND, AROUND + 1)}
    return sorted(near.intersection(every))[:MOST]


def token(verdict: Verdict, t: int, tokenizer: Tokenizer | None) -> str:
    """One token; its title says the numbers, and what is likelier."""
    right, p, target = verdict.margins[t] > 0, verdict.probabilities[t], verdict.targets[t]
    kind = f"p{sum(p > limit for limit in SURE)}" if right else "w"
    title = f"{verdict.positions[t]}: id {target}, margin {verdict.margins[t]:.2f}, p {p:.2f}"
    if not right:
        title += f"; likeliest {name(verdict.predicted[t], tokenizer)}"
    text = plain(token_text(tokenizer, target) if tokenizer else target).replace("⏎", "⏎\n")
    text = text if right else f"‹{text}›"
    return f'<span class="{kind}" title="{plain(title)}">{text}</span>'


def name(token: int, tokenizer: Tokenizer | None) -> str:
    return f"‹{token_text(tokenizer, token)}›" if tokenizer else f"id {token}"


def wrong(verdict: Verdict, tokenizer: Tokenizer | None) -> str:
    """A table of the tokens with the lowest margins, and what is likelier."""
    rows = []
    for t in verdict.wrong[:MOST_WRONG]:
        ids = (name(i, tokenizer) for i in (verdict.targets[t], verdict.predicted[t]))
        rows.append((t, *ids, number(verdict.margins[t]), number(verdict.probabilities[t])))
    if not rows:
        return ""
    few = f", the first {MOST_WRONG}" if len(verdict.wrong) > MOST_WRONG else ""
    title = f"{len(verdict.wrong):,} wrong tokens{few}:"
    return paragraph(title) + table(rows, "place", "token", "likeliest", "margin", "p")


def picture(fit: Fit) -> str:
    """The plots of a fit as an inline PNG; nothing if matplotlib is not installed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "law.png")
        try:
            plot_fit(fit, path)
        except TinymemError:
            return ""
        data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="the runs and the law" src="data:image/png;base64,{data}">'


# --- Objects -------------------------------------------------------------------------------------


def html_of_verdict(verdict: Verdict, tokenizer: Tokenizer | None = None) -> str:
    return heading(of_verdict(verdict)) + tokens(verdict, tokenizer)


def html_of_result(result: Result, tokenizer: Tokenizer | None = None) -> str:
    """The headline, losses and bits, and the tokens."""
    if not result.report:
        return paragraph(repr(result))
    from .figures import run_figures  # imports torch, which a result has imported already

    first, *more = Text.from_markup(headline(result.report)).plain.strip().splitlines()
    about_it = Text.from_markup(describe_run(result.report)).plain.splitlines()
    parts = [heading(first), paragraph(*more, *about_it), table(run_figures(result.report))]
    if result.verdict is None:
        return "".join([*parts, paragraph(of_training(result.training))])
    return "".join([*parts, tokens(result.verdict, tokenizer)])


def html_of_law(law: Law) -> str:
    return constants_of(law) + measures({"power law": law}, offset=bool(law.b))


def constants_of(law: Law) -> str:
    """The formula, and the constants with their intervals."""
    names = {"C": "C", "alpha": "α, of the rank", "beta": "β, of the length", "b": "b"}
    rows = [(names[n], f"{getattr(law, n):.4g}", span(*law.ci[n])) for n in names]
    loose = ["These cells do not determine b; add ranks and lengths"] if law.at_bound else []
    shown = table(rows if law.b else rows[:3], "constant", "value", "95 % interval")
    raised = re.sub(r"\^([^·< ]+)", r"<sup>\1</sup>", heading(f"{formula(law)} nats per token"))
    return raised + paragraph(*loose) + shown


def measures(laws: dict[str, Law | BitsLaw | str], offset: bool) -> str:
    """Laws side by side; those that there are not, with the reason."""
    rows, reasons = [], []
    for what, law in laws.items():
        if isinstance(law, str):
            reasons.append(f"No law for {what}: {law}")
            continue
        left = law.leave_one_rank_out
        blind = "–" if left is None else f"{left:.1f} %"
        counts = f"{law.n:,}, and {law.n_saturated:,} saturated"
        rows.append(
            (what, constants(law, offset), f"{law.r2:.3f}", f"{law.mape:.1f} %", blind, counts)
        )
    head = "law", "constants", "R²", "mean error", "error at ranks left out", "runs"
    return (table(rows, *head) if rows else "") + (paragraph(*reasons) if reasons else "")


def html_of_bits(law: BitsLaw) -> str:
    return measures({"constant bits": law}, offset=False)


def html_of_recall(law: RecallLaw) -> str:
    """The lengths that half of the runs of each rank recite."""
    found = law.as_dict()
    bits = found["bits_per_parameter"]
    rows = [
        (rank, f"{length:,.0f}", number(bits.get(rank)))
        for rank, length in found["length_50"].items()
    ]
    head = "rank", "tokens that half of the runs recite", "bits per parameter"
    return heading(of_recall(law)) + (table(rows, *head) if rows else "")


def html_of_fit(fit: Fit) -> str:
    """The laws of the rows, and their picture."""
    title = Text.from_markup(about(fit)).plain
    laws: dict[str, Law | BitsLaw | str] = {"power law": fit.law}
    laws |= {f"{ratio} % random": law for ratio, law in fit.by_ratio.items()}
    laws |= {"constant bits": fit.bits}
    law = "" if isinstance(fit.law, str) else constants_of(fit.law)
    recall = fit.recall
    known = (
        paragraph(f"No recall law: {recall}") if isinstance(recall, str) else html_of_recall(recall)
    )
    start = paragraph(title) if title else ""
    return f"{start}{law}{measures(laws, fit.offset)}{known}{picture(fit)}"


def html_of_plan(plan: Plan | RecitePlan) -> str:
    """The answer, its neighbours, and what speaks against it."""
    line = of_plan(plan) if hasattr(plan, "certificate") else of_recital(plan)  # type: ignore
    low, high = ("∞" if end is None else f"{end:,}" for end in plan.interval)
    rows: list[tuple[str, str]] = [
        (f"rank {rank:,}", f"{100 * p:.0f} % of fresh runs") for rank, p in plan.by_rank.items()
    ]
    what = "ranks that they need" if plan.asked == "rank" else "tokens that they hold"
    rows.append((f"95 % of fresh runs, {what}", f"{low} to {high}"))
    if plan.parameters is not None:
        rows.append(("size", f"{plan.parameters:,} parameters, {plan.bytes:,} bytes in float32"))
    rows += [("careful", warning) for warning in plan.warnings]
    return heading(line) + table(rows)


BLOCKS: dict[str, Callable[..., str]] = {
    **{"Verdict": html_of_verdict, "Result": html_of_result},
    **{"Law": html_of_law, "BitsLaw": html_of_bits, "RecallLaw": html_of_recall},
    **{"Fit": html_of_fit, "Plan": html_of_plan, "RecitePlan": html_of_plan},
}
