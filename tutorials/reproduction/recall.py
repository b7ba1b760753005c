"""Makes the tables and pictures of recall.md: how much each method recites.

    python tutorials/reproduction/recall.py

The rows (rows/*.jsonl) were written by `tinymem sweep`, with the commands in recall.md; this script
trains nothing. It writes the tables into recall.md below a mark, the recall laws into
recall-laws.json, and the pictures beside them. One of the laws goes into the package, for `tinymem
judge`.
"""

from __future__ import annotations

import math
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean

from tables import HERE, rows_of, table

from tinymem.errors import LawError
from tinymem.files import json_text
from tinymem.law.fit import Fit, fit_rows
from tinymem.law.recall import RecallLaw, compare_loads, recall_of
from tinymem.show import axes
from tinymem.show.recall import plot_recall, siblings
from tinymem.tools import capacity

MARK = "<!-- Below this line, recall.py writes. -->"
TARGETS = ("tiny-margin", "smollm2-margin")
BOOKS = ("tiny-phonebook-margin", "smollm2-phonebook-margin")
STUDIES = ("tiny-recall", "tiny-recall-long", "smollm2-margin")
LN2 = math.log(2)


def by_method(row: dict) -> tuple[int, int, int, int]:
    """Rows are sorted by steps, rank, length and method."""
    method = list(axes.METHOD_LOOKS).index(row["method"])
    return row["setting"]["steps"], row["rank"], row["length"], method


def span(values: list[float], form: str = "{:.2f}") -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def percent(rows: list[dict], field: str) -> str:
    return f"{100 * fmean(row[field] for row in rows):.1f}"


def target_table(rows: list[dict]) -> str:
    """How many of the seeds are recited whole, for each task and method."""
    lines = []
    groups = axes.group(sorted(rows, key=by_method), by_method)
    for (steps, rank, length, _), some in groups.items():
        tokens = length / some[0]["trainable_parameters"]
        bits = tokens * some[0]["entropy"] / LN2
        recited = sum(row["recall_exact"] for row in some)
        counted = f"{recited} of {len(some)}"
        line = [str(rank), str(length), f"{steps:,}", f"{bits:.2f}", some[0]["method"]]
        line.append(f"**{counted}**" if recited == len(some) else counted)
        line += [percent(some, "argmax_accuracy"), percent(some, "token_accuracy")]
        line.append(span([row["min_margin"] for row in some]))
        line.append(f"{fmean(row['final_loss'] for row in some):.2f}")
        lines.append(line)
    head = ["rank", "tokens", "steps", "bits per parameter", "method", "recited whole"]
    more = ["argmaxes right, %", "decoded right, %", "lowest margin (logits)", "final loss"]
    return table(head + more, lines)


def book_table(rows: list[dict]) -> str:
    """Entries of a PhoneBook that are recited, by rank and method: every seed, and the mean."""
    lines = []
    for (_, rank, _, _), some in axes.group(sorted(rows, key=by_method), by_method).items():
        shares = [round(row["exact_match"] * row["memories"]) for row in some]
        line = [str(rank), some[0]["method"], ", ".join(map(str, shares)), f"{fmean(shares):.1f}"]
        lines.append([*line, percent(some, "argmax_accuracy"), percent(some, "certified_fraction")])
    count = rows[0]["memories"]
    head = ["rank", "method", f"entries recited of {count}, by seed", "mean"]
    return table([*head, "argmaxes right, %", "p > ½, %"], lines)


def step_table(groups: dict[int, list[dict]]) -> str:
    """Of how many seeds the memory is recited after a run of so many steps."""
    every = [row for rows in groups.values() for row in rows]
    lines = []
    for rank, method in sorted({(row["rank"], row["method"]) for row in every}):
        line = [str(rank), method]
        for rows in groups.values():
            own = [row for row in rows if (row["rank"], row["method"]) == (rank, method)]
            line.append(f"{sum(row['recall_exact'] for row in own)} of {len(own)}")
        lines.append(line)
    return table(["rank", "method", *(f"{steps} steps" for steps in groups)], lines)


def law_table(fits: list[Fit]) -> str:
    """The recall law of each method, and the 50 % point of each rank alone."""
    lines = []
    for fit in fits:
        law, method = fit.recall, fit.key["method"]
        if not isinstance(law, RecallLaw):
            lines.append([method, law, "", "", ""])
            continue
        exponent = "–"
        if law.rank_exponent is not None:
            low, high = law.ci["rank_exponent"]
            exponent = f"{law.rank_exponent:.1f} ({low:.2f} to {high:.2f})"
        line = [method, f"{law.n_recited} of {law.n}", exponent, f"{law.width:.2f}"]
        lines.append([*line, "; ".join(halves(fit.rows))])
    head = ["method", "recited", "rank exponent (95 %)", "length at 10 % / length at 90 %"]
    return table([*head, "each rank alone: half of the runs recite"], lines)


def halves(rows: list[dict]) -> list[str]:
    """The length that half of the runs of each rank recite, with its interval, and its bits."""
    found = []
    for rank, own in sorted(axes.group(rows, itemgetter("rank")).items()):
        P, bits = own[0]["trainable_parameters"], own[0]["entropy"] / LN2
        try:
            law = recall_of(own)
        except LawError as error:
            found.append(f"rank {rank}: {error}")
            continue
        tokens = f"{law.load_50 * P:.0f} tokens ({ends(law, P)})"
        found.append(f"rank {rank}: {tokens}, {law.load_50 * bits:.2f} bits a parameter")
    return found


# --- Vocabularies --------------------------------------------------------------------------------


def size_of(row: dict) -> int:
    """Of how many tokens the target was drawn."""
    return round(math.exp(row["entropy"]))


def vocabulary_table(rows: list[dict]) -> str:
    """The 50 % point of each method for each vocabulary, and the gain of margin."""
    lines = []
    for size, some in sorted(axes.group(rows, size_of).items()):
        points, line = [], [f"{size:,}"]
        for method in ("sft", "margin"):
            own = [row for row in some if row["method"] == method]
            law, each = recall_of(own), own[0]["trainable_parameters"] / own[0]["rank"]
            points.append(law.load_50)
            line.append(f"{law.load_50 * each:.1f} ({ends(law, each)})")
            line.append(f"{law.load_50 * own[0]['entropy'] / LN2:.2f}")
        lines.append([*line, f"{points[1] / points[0]:.1f}"])
    head = ["tokens drawn from", "sft: tokens per rank (95 %)", "bits per parameter"]
    return table([*head, "margin: tokens per rank (95 %)", "bits per parameter", "gain"], lines)


def ends(law: RecallLaw, unit: float) -> str:
    """The interval of the 50 % point in this unit."""
    low, high = (end * unit for end in law.ci["load_50"])
    return f"{low:.0f} to {'∞' if math.isinf(high) else f'{high:.0f}'}"


def plot_vocabularies(rows: list[dict], path: Path) -> axes.Figure:
    """Share of right argmaxes by length, a panel for each vocabulary."""
    panels = [
        partial(
            axes.curves,
            rows=some,
            x="length",
            y="argmax_accuracy",
            series="method",
            title=f"drawn from {size:,} tokens",
        )
        for size, some in sorted(axes.group(rows, size_of).items())
    ]
    return axes.draw(panels, 4, path, axes.describe(rows[0], "model", "rank"))


def deviance_table(rows: list[dict]) -> str:
    """Which load explains recall over all vocabularies together, for each method."""
    lines = []
    for method in ("sft", "margin"):
        laws = compare_loads([row for row in rows if row["method"] == method])
        lines.append([method, *(f"{law.deviance:.1f}" for law in laws.values())])
    return table(["method", "deviance, load in tokens", "deviance, load in bits"], lines)


# --- The page ------------------------------------------------------------------------------------


def fits_of(name: str) -> list[Fit]:
    """The laws of the rows with as many steps as the first, sft first."""
    rows = rows_of(name)
    steps = rows[0]["setting"]["steps"]
    fits, _ = fit_rows([row for row in rows if row["setting"]["steps"] == steps], draws=200)
    return siblings(fits)


def sections() -> list[str]:
    """The part of the page below the mark."""
    parts = []
    for name in TARGETS:
        rows = rows_of(name)
        parts += [f"## {name}: what is recited on {rows[0]['model']}", target_table(rows)]
    for name in STUDIES:
        steps, fits = rows_of(name)[0]["setting"]["steps"], fits_of(name)
        title = f"## {name}: the recall law on {fits[0].key['model']}, {steps:,} steps"
        parts += [title, law_table(fits), f"![{name}]({name}.png)"]
    rows, name = rows_of("tiny-vocabulary"), "tiny-vocabulary"
    parts += [f"## {name}: targets drawn from a part of the vocabulary, rank 2"]
    parts += [vocabulary_table(rows), deviance_table(rows), f"![{name}]({name}.png)"]
    for name in BOOKS:
        rows = rows_of(name)
        parts += [f"## {name}: a PhoneBook on {rows[0]['model']}", book_table(rows)]
    groups = axes.group(
        sorted(rows_of("tiny-steps"), key=by_method), lambda row: row["setting"]["steps"]
    )
    return [*parts, "## tiny-steps: 128 tokens, runs of different lengths", step_table(groups)]


def shipped_law() -> str:
    """The recall law of tiny-recall by sft, and what was measured, as JSON text."""
    (fit,) = (fit for fit in fits_of("tiny-recall") if fit.key["method"] == "sft")
    assert isinstance(fit.recall, RecallLaw)
    row = fit.rows[0]
    study = {"name": "tiny-recall", **fit.key, "ratio": row["ratio"], "steps": row["steps"]}
    law = {name: value for name, value in vars(fit.recall).items() if name != "draws"}
    return json_text({"study": study, "law": rounded(law)}, indent=1) + "\n"


def rounded(value: object) -> object:
    """The same with six digits of each float, which do not depend on the machine."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def main() -> None:
    capacity.PATH.write_text(shipped_law(), encoding="utf-8")
    laws = {
        name: {fit.key["method"]: fit.as_dict()["recall"] for fit in fits_of(name)}
        for name in STUDIES
    }
    (HERE / "recall-laws.json").write_text(json_text(laws, indent=1) + "\n", encoding="utf-8")
    page = HERE / "recall.md"
    prose = page.read_text(encoding="utf-8").split(MARK)[0]
    page.write_text("\n\n".join([prose + MARK, *sections()]) + "\n", encoding="utf-8")
    for name in STUDIES:
        plot_recall(fits_of(name), HERE / f"{name}.png")
    plot_vocabularies(rows_of("tiny-vocabulary"), HERE / "tiny-vocabulary.png")


if __name__ == "__main__":
    main()
