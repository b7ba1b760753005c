"""The pages of `tinymem judge`: of memories with their verdict, and of a document in windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from .figures import (
    Figures,
    loss_figure,
    memories_figure,
    report_fields,
    verdict_figures,
)
from .judge import REMARKS, adapter_words, loses, remarks_of, what
from .page import write_page
from .report import Row, headline, number
from .tokens import Likeliest, short, token_data, token_texts

MEANINGS = {  # of fields that a run does not have, or that mean something else there
    "adapter": "the adapter, as it was given",
    "base": "the base model that the adapter's own files name",
    "same_base": "whether that is this model",
    "base_loss": "mean loss without the adapter",
    "final_loss": "mean loss on what is judged",
    "adapter_change": "the largest change of a logit that the adapter makes",
    "expected": "recited or not-recited, if an answer was expected",
    "as_expected": "whether the answer is that one",
}

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory
    from ..experiment.recall import Verdict


def memories_page(
    path: Path,
    report: Row,
    tokenizer: Tokenizer,
    memories: Sequence[Memory],
    verdict: Verdict,
    base: tuple[Sequence[float], Sequence[float]],
    likeliest: Likeliest = (),
) -> None:
    """Writes the page of judged memories, a text being one memory. Raises OSError.

    report: of judge. base: losses and margins of every target token without the adapter, which the
    page shows if there is an adapter. likeliest: as tools/likeliest.py finds them, or empty.
    """
    title, *lines = [*remark_lines(report), *plain(headline(report))]
    tokens: dict[str, Any] = token_data(tokenizer, memories, verdict, likeliest)
    if report["adapter"] is not None:
        tokens["base_losses"] = [short(loss, 0) for loss in base[0]]
        tokens["base_margins"] = [short(margin, 0) for margin in base[1]]
    figures = [*beginning(report), *verdict_figures(report), *memories_figure(report)]
    data = {"lines": lines, **common(report, figures), "tokens": tokens}
    write_page(path, title, ("common.js", "tokens.js", "memories.js", "judge.js"), data)


def document_page(
    path: Path, report: Row, tokenizer: Tokenizer, ids: Sequence[int], right: Sequence[int]
) -> None:
    """Writes the page of a document that was audited in windows. Raises OSError.

    report: of judge, with `windows`. ids: of the document. right: for each window that was judged,
    its tokens before the first wrong one.
    """
    windows = report["windows"]
    count, recited = windows["count"], windows["recited"]
    some = "none" if not recited else "all" if recited == count else f"{recited:,}"
    verdict = f"{'Recited' if recited else 'Not recited'}: {some} of the {count:,} windows"
    title, *lines = [*remark_lines(report), verdict]
    if report["status"] == "interrupted":
        lines.append(f"Interrupted after {count:,} of {windows['planned']:,} windows")
    texts, breaks = token_texts(tokenizer, set(ids))
    figures = [*beginning(report), *window_figures(windows)]
    data = {
        "lines": lines,
        **common(report, figures),
        "tokens": {"texts": texts, "breaks": breaks, "targets": list(ids)},
        "windows": {**windows, "right": list(right)},
    }
    write_page(path, title, ("common.js", "tokens.js", "document.js"), data)


# --- Parts ---------------------------------------------------------------------------------------


def plain(markup: str) -> list[str]:
    """The lines of a text with markup, without it."""
    return Text.from_markup(markup).plain.strip().splitlines()


def remark_lines(report: Row) -> list[str]:
    """What must be known before anything else, such as that the adapter changes nothing."""
    named = {name: escape(str(report[name])) for name in ("base", "model", "adapter")}
    return [line for one in remarks_of(report) for line in plain(REMARKS[one].format_map(named))]


def common(report: Row, figures: Figures) -> dict[str, Any]:
    """What both pages have."""
    about = [*plain(f"{escape(report['model'])}{adapter_words(report)}"), what(report)]
    table = report_fields(report)
    for row in table:
        row[-1] = MEANINGS.get(row[0], row[-1])
    return {"about": about, "figures": figures, "fields": table}


def beginning(report: Row) -> Figures:
    """What the adapter changes, the loss, and how full the adapter is."""
    rows = []
    if report["adapter"] is not None:
        change = number(report["adapter_change"])
        rows.append(["adapter", change, "logits: the largest change of one"])
    name, value, note = loss_figure(report, "adapter")
    if report["windows"]:
        note += f", in {report['windows']['compared']} of the windows"
    rows.append([name, value, note])
    capacity = report["capacity"]
    if capacity is None or report["windows"] or loses(report):
        return rows
    load, most = capacity["load"], capacity["load_50"]
    full = "not full" if load <= capacity["load_90"] else "too much" if load > most else "full"
    rows.append(["load", f"{load:.2g}", f"tokens per parameter: {full} ({most:.2g} in a study)"])
    if report["bits_per_parameter"] is not None:
        study = f"{capacity['bits_per_parameter_50']:.2f} in a study"
        note = f"bits per parameter, {report['stored_bits']:,.0f} bits ({study})"
        rows.append(["stored", f"{report['bits_per_parameter']:.2g}", note])
    if (needed := capacity["rank_needed"]) is not None:
        about = "{model}, random tokens, site {site}, {method}".format_map(capacity["study"])
        rows.append(["rank needed", f"{needed:,}", f"by that study ({about})"])
    return rows


def window_figures(windows: Row) -> Figures:
    """How much of the document is recited."""
    count, recited = windows["count"], windows["recited"]
    note = f"of {windows['window']} tokens after {windows['context']}, one each {windows['stride']}"
    rows = [["windows recited", f"{recited:,} of {count:,}", note]]
    rows.append(["longest stretch", f"{windows['longest']:,}", "tokens"])
    if windows["base_recited"] is not None:
        rows.append(["without the adapter", f"{windows['base_recited']:,}", "of these are recited"])
    if windows["thin"]:
        rows.append(["thin", f"{windows['thin']:,}", "of these, which rounding can undo"])
    return rows
