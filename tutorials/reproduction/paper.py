"""Computes tinymem's figures for paper.md, which compares them with those of the paper.

The text of the page, the paper's figures and the judgements are in paper.template.md, written by
hand. Each {name} in it stands for a figure that is computed here from rows/*.jsonl. In the same
way, map.template.md becomes the map of the paper in the README.md of the course.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from statistics import fmean, median

import numpy as np
from plans import came_true
from tables import HERE, rows_of, table

from tinymem.law.fit import Fit, fit_rows
from tinymem.law.power import Law

METHODS = ("sft", "memft-ot", "memft-sw")
BANDS = (0, 0.1, 0.5, 0.8, 0.95, 1)  # shares of certified tokens, from one to below the next
FEW = 10  # runs: for fewer, no correlation is shown


MAP = "<!-- The table is made by reproduction/draw.py, from map.template.md. -->\n\n"


@cache
def figures() -> dict[str, str]:
    """The text of every {name}."""
    parts = (law_figures, threshold_figures, method_figures, rule_figures, setting_figures)
    parts += (figures_beyond_the_paper,)
    return {name: text for part in parts for name, text in part().items()}


def filled(template: str) -> str:
    return (HERE / template).read_text(encoding="utf-8").format_map(figures())


def page() -> str:
    """The text of paper.md."""
    return filled("paper.template.md")


def with_map(course: str) -> str:
    """The README.md of the course with the map of the paper below its mark."""
    before, _, after = course.partition(MAP)
    rest = after[after.index("\n\n") :]
    return before + MAP + filled("map.template.md").rstrip("\n") + rest


def select(rows: list[dict], **wanted: object) -> list[dict]:
    """The rows that have these values, in the row itself or in its setting."""
    return [
        row
        for row in rows
        if all((row["setting"] | row).get(name) == value for name, value in wanted.items())
    ]


def mean(rows: list[dict], field: str) -> float:
    return fmean(row[field] for row in rows)


def spread(values: list[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}"


# --- The law -------------------------------------------------------------------------------------


def fit(name: str, offset: bool = False, draws: int = 2) -> Fit:
    return fit_rows(rows_of(name), offset=offset, draws=draws)[0][0]


def quality(law: Law) -> str:
    return f"R² {law.r2:.3f}, mean error {law.mape:.1f} % ({law.n_cells} cells)"


def exponents(law: Law) -> str:
    return f"α {law.alpha:.2f}, β {law.beta:.2f}"


def law_figures() -> dict[str, str]:
    mixed, mixed_b = fit("tiny-ratios"), fit("tiny-ratios", offset=True)
    ratios = [law for law in mixed.by_ratio.values() if isinstance(law, Law)]
    laws = {name: fit(name).law for name in ("tiny-from-64", "smollm2", "tiny-book-law")}
    book_b = fit("tiny-book-law", offset=True, draws=1000)  # the only one with an interval
    return {
        "law_mixed": quality(mixed.law),
        "law_mixed_b": f"R² {mixed_b.law.r2:.3f}, mean error {mixed_b.law.mape:.1f} %",
        "base_text": f"{mean(select(mixed.rows, ratio=0), 'base_loss'):.1f}",
        "base_random": f"{mean(select(mixed.rows, ratio=100), 'base_loss'):.1f}",
        "law_ratios": f"R² {spread([law.r2 for law in ratios], '.3f')}, mean error "
        f"{spread([law.mape for law in ratios], '.1f')} %",
        "law_ratio_cells": spread([law.n_cells for law in ratios], "d"),
        "law_tiny": quality(laws["tiny-from-64"]),
        "law_tiny_left_out": f"{laws['tiny-from-64'].leave_one_rank_out:.1f} %",
        "law_smollm2": quality(laws["smollm2"]),
        "law_book": quality(laws["tiny-book-law"]),
        "law_book_b": quality(book_b.law),
        "book_b": f"{book_b.law.b:.2f}",
        "book_b_ends": "95 % interval {:.2f} to {:.2f}".format(*book_b.law.ci["b"]),
        "book_prior": f"{mean(book_b.rows, 'base_loss') - math.log(10):.2f}",
        "exponents_tiny": exponents(laws["tiny-from-64"]),
        "exponents_smollm2": exponents(laws["smollm2"]),
        "exponents_book": exponents(laws["tiny-book-law"]),
        "lowest_loss": f"{min(row['final_loss'] for row in rows_of('tiny')):.3f}",
    }


# --- The threshold -------------------------------------------------------------------------------


def positions(row: dict) -> tuple[float, float]:
    """First p ≤ ½ and first decoding error, as shares of the length; 1 where there is none."""
    found = row["first_uncertified"], row["first_error"]
    first, error = (1.0 if at is None else at / row["length"] for at in found)
    return first, error


def with_both(rows: list[dict]) -> list[dict]:
    """The runs that have a token with p ≤ ½ and an error."""
    return [row for row in rows if None not in (row["first_uncertified"], row["first_error"])]


def spearman(rows: list[dict]) -> float:
    """Rank correlation of the two positions; equal values share their mean rank.

    NaN for fewer than three runs, or if one of the positions is the same in all of them.
    """
    sides = []
    for side in np.array([positions(row) for row in rows]).reshape(-1, 2).T:
        ordered = np.sort(side)
        sides.append(np.searchsorted(ordered, side) + np.searchsorted(ordered, side, "right"))
    if len(rows) < 3 or any(np.ptp(side) == 0 for side in sides):
        return float("nan")
    return float(np.corrcoef(*sides)[0, 1])


def correlation_table(rows: list[dict]) -> str:
    below = [row for row in rows if not row["certified"]]
    groups = {"all runs": rows, "all that are not certified": below}
    for low, high in pairwise(BANDS):
        some = [row for row in below if low <= row["certified_fraction"] < high]
        groups[f"{100 * low:.0f} to {100 * high:.0f} %"] = some
    lines = []
    for name, some in groups.items():
        both = with_both(some)
        equal = sum(row["first_uncertified"] == row["first_error"] for row in both)
        medians = (median(side) for side in zip(*map(positions, some), strict=True))
        rho = (spearman(of) if len(of) >= FEW else float("nan") for of in (some, both))
        lines.append(
            [
                name,
                *map(str, (len(some), sum(row["recall_exact"] for row in some))),
                *(f"{100 * share:.0f} %" for share in medians),
                f"{equal} of {len(both)}",
                *("–" if np.isnan(x) else f"{x:.2f}" for x in rho),
            ]
        )
    head = ["tokens with p > ½", "runs", "recited", "first p ≤ ½ (median)"]
    head += ["first error (median)", "both at one token", "ρ, all runs", "ρ, runs with both"]
    return table(head, lines)


def threshold_figures() -> dict[str, str]:
    names = sorted(path.stem for path in (HERE / "rows").glob("*.jsonl"))
    rows = [row for name in names for row in rows_of(name) if row["method"] in METHODS]
    certified, recited = select(rows, certified=True), select(rows, recall_exact=True)
    margins = [row for row in rows if row.get("min_margin") is not None]
    single = select(rows, model="tiny", memories=1)
    moving = rows_of("tiny-transition")
    return {
        "runs": str(len(rows)),
        "certified": str(len(certified)),
        "certified_recited": str(len(select(certified, recall_exact=True))),
        "recited": str(len(recited)),
        "recited_below": str(len(recited) - len(select(recited, certified=True))),
        "margins": str(len(margins)),
        "margins_right": str(sum((r["min_margin"] > 0) == r["recall_exact"] for r in margins)),
        "loss_recited": f"{max(r['final_loss'] for r in select(single, recall_exact=True)):.2f}",
        "loss_failed": f"{min(r['final_loss'] for r in select(single, recall_exact=False)):.2f}",
        "moving": str(len(moving)),
        "moving_certified": str(len(select(moving, certified=True))),
        "rho": f"{spearman(moving):.2f}",
        "rho_below": f"{spearman(select(moving, certified=False)):.2f}",
        "rho_both": f"{spearman(with_both(moving)):.2f}",
        "correlations": correlation_table(moving),
    }


# --- The methods, the rule, the setting ----------------------------------------------------------


def by_rank(rows: list[dict], field: str) -> str:
    """For each method the mean of a field over the seeds, in %, with a column for each rank."""
    ranks = sorted({row["rank"] for row in rows})
    lines = []
    for method in METHODS:
        cells = (select(rows, method=method, rank=rank) for rank in ranks)
        lines.append([method, *(f"{100 * mean(some, field):.0f}" for some in cells)])
    return table(["method \\ rank", *map(str, ranks)], lines)


def share(rows: list[dict], method: str, field: str) -> str:
    """The mean of a field at rank 4, in %."""
    return f"{100 * mean(select(rows, method=method, rank=4), field):.0f}"


def method_figures() -> dict[str, str]:
    rows, small, large = map(rows_of, ("tiny-methods", "tiny-phonebook", "smollm2-phonebook"))
    done = (len(select(rows, rank=8, method=name, certified=True)) for name in METHODS)
    shares = (f"{100 * mean(select(large, method=name), 'exact_match'):.0f}" for name in METHODS)
    return {
        "methods_certified": ", ".join(map(str, done)),
        "methods": by_rank(rows, "token_accuracy"),
        "share_sft": share(rows, "sft", "token_accuracy"),
        "share_ot": share(rows, "memft-ot", "token_accuracy"),
        "share_sw": share(rows, "memft-sw", "token_accuracy"),
        "book_shares": ", ".join(share(small, name, "exact_match") for name in METHODS),
        "book_smollm2": ", ".join(shares),
        "book": by_rank(small, "exact_match"),
    }


def rule_figures() -> dict[str, str]:
    rows = rows_of("tiny-rule") + rows_of("smollm2-rule")
    return {
        f"rule_{name}": f"{100 * max(row[field] for row in rows):.0f}"
        for name, field in (("trained", "exact_match"), ("held_out", "held_out_exact_match"))
    }


def setting_figures() -> dict[str, str]:
    here = {"rank": 4, "length": 128, "steps": 400}
    rows = select(rows_of("tiny-places") + rows_of("tiny"), **here)
    mlp = select(rows, site="mlp")
    losses = [mean(select(mlp, layer=layer, dropout=0.0), "final_loss") for layer in range(4)]
    rates = select(rows_of("tiny-rates"), rank=8, steps=1000)
    rates.sort(key=lambda row: row["lr"])
    return {
        "loss_layers": ", ".join(f"{loss:.2f}" for loss in losses),
        "loss_default": f"{losses[2]:.2f}",
        "loss_attention": f"{mean(select(rows, site='c_attn'), 'final_loss'):.2f}",
        "loss_dropout": f"{mean(select(mlp, dropout=0.1), 'final_loss'):.2f}",
        "loss_rates": ", ".join(f"{row['final_loss']:.2f} at {row['lr']:g}" for row in rates),
    }


# --- What is not in the paper --------------------------------------------------------------------


def figures_beyond_the_paper() -> dict[str, str]:
    unsaturated = [row for row in rows_of("smollm2") if row["final_loss"] > math.log(2)]
    margin, fresh = rows_of("tiny-margin"), rows_of("tiny-plans-fresh")
    recited = {}
    for method in ("margin", "sft"):
        runs = select(margin, method=method, rank=3, length=128, steps=1000)
        recited[method] = f"{len(select(runs, recall_exact=True))} of {len(runs)}"
    return {
        "bits_smollm2": spread([row["memorized_bits_per_parameter"] for row in unsaturated], ".2f"),
        "margin_recites": recited["margin"],
        "sft_recites": recited["sft"],
        "plans_true": str(sum(map(came_true, fresh))),
        "plans_runs": str(len(fresh)),
    }
