"""Makes plans from sweeps of `tiny`, and the fresh runs that show how often they come true.

    python tutorials/reproduction/plans.py FOLDER

One large sweep gives plans for 20 lengths. Twelve small sweeps, each with random lengths and a seed
of its own, give ten plans each: how well a plan is calibrated shows only over many sweeps. Each
plan is made for a probability of 90 %, that is, for the smallest rank or the largest length with at
least this probability. Its fresh runs have seeds, and memories, that no sweep had,
and lengths that its own sweep did not have. FOLDER gets the rows of the sweeps and of the fresh
runs; a fresh row has a field `plan`, with what was promised before the run.
"""

from __future__ import annotations

import json
import math
import sys
from collections import defaultdict
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from tables import rows_of, table

from tinymem.cli.app import app
from tinymem.experiment.rows import read_rows
from tinymem.files import json_text
from tinymem.law.fit import fit_rows
from tinymem.law.plan import Plan, plan_length, plan_rank

LOSS = 1.5  # nats per token, the goal of some of the plans
LENGTHS = (40, 44, 48, 52, 56, 60, 68, 72, 76, 80, 88, 96, 104, 112, 120, 136, 144, 152, 168, 184)


def sweep(out: Path, ranks: list[int], lengths: list[int], seeds: list[int], steps: int) -> None:
    """`tinymem sweep`, without its progress and tables."""
    grid = {"--ranks": ranks, "--lengths": lengths, "--seeds": seeds}
    options = [text for name, some in grid.items() for text in (name, ",".join(map(str, some)))]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        app(
            ["sweep", *options, "--steps", str(steps), "--out", str(out)],
            standalone_mode=False,
        )


def large(folder: Path) -> None:
    """One sweep of 72 runs; plans for 20 lengths and two goals, with five runs each."""
    sweep(folder / "large", [2, 4, 6, 8, 12, 16], [32, 64, 128, 256], [0, 1, 2], 400)
    (fit, *_), _ = fit_rows(read_rows(folder / "large")[0], offset=False)
    for first_seed, goal in ((10, None), (20, LOSS)):
        for length in LENGTHS:
            plan = plan_rank(fit, length, goal)
            fresh(folder, "large", plan, list(range(first_seed, first_seed + 5)), 400)


def small(folder: Path, number: int) -> None:
    """A sweep of 24 runs with one seed; ten plans, with two runs each."""
    random, name = np.random.default_rng(number), f"small-{number}"
    parts = np.geomspace(16, 80, 5)
    lengths = [round(np.exp(random.uniform(*np.log(parts[n : n + 2])))) for n in range(4)]
    sweep(folder / name, [2, 3, 4, 6, 8, 12], lengths, [100 + number], 200)
    (fit, *_), _ = fit_rows(read_rows(folder / name)[0], offset=False)
    others = [n for n in range(lengths[0] + 1, lengths[-1]) if n not in lengths]
    asked = random.choice(others, 4, replace=False).tolist()
    plans = [plan_rank(fit, length, goal) for goal in (None, LOSS) for length in asked[:2]]
    plans += [plan_length(fit, int(random.integers(3, 8)), goal) for goal in (None, LOSS)]
    more = random.choice(np.arange(3, 9), 2, replace=False).tolist()
    plans += [plan_length(fit, rank, goal) for rank in more for goal in (None, LOSS)]
    for order, plan in enumerate(plans):
        seeds = [1000 + 20 * number + 2 * order, 1001 + 20 * number + 2 * order]
        if plan.rank and plan.length and plan.length not in lengths:
            fresh(folder, name, plan, seeds, 200)


def fresh(folder: Path, name: str, plan: Plan, seeds: list[int], steps: int) -> None:
    """Runs what was planned, and adds the rows and the promise to fresh.jsonl."""
    path, out = folder / "fresh.jsonl", folder / f"{name}-fresh"
    cells = [(plan.rank, plan.length, seed) for seed in seeds]
    if path.exists() and cells[0] in map(cell, read_rows(path)[0]):
        return
    sweep(out, [plan.rank], [plan.length], seeds, steps)
    promise = {"sweep": name, "asked": plan.asked, "loss": plan.loss}
    promise |= {"certificate": plan.certificate, "probability": plan.probability}
    rows = [row | {"plan": promise} for row in read_rows(out)[0] if cell(row) in cells]
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            del row["_where"]
            file.write(json_text(row) + "\n")
    print(json.dumps(promise), [row["certified"] for row in rows], file=sys.stderr)


def cell(row: dict) -> tuple[int, int, int]:
    return row["rank"], row["length"], row["seed"]


# --- The section of the page ---------------------------------------------------------------------


def came_true(row: dict) -> bool:
    plan = row["plan"]
    return row["certified"] if plan["certificate"] else row["final_loss"] <= plan["loss"]


def exact_interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Clopper and Pearson 1934): 2.5 % lie beyond either end."""
    ends = []
    for above, share in ((count, 0.025), (count + 1, 0.975)):
        low, high = 0.0, 1.0
        for _ in range(50):  # the probability of `above` or more rises with p
            p = (low + high) / 2
            reached = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(above, n + 1))
            low, high = (p, high) if reached < share else (low, p)
        ends.append(p)
    return ends[0], ends[1]


def section() -> str:
    """How often plans came true, by the kind of plan."""
    kinds = defaultdict(list)
    for row in rows_of("tiny-plans-fresh"):
        plan = row["plan"]
        sweeps = "one of 72 runs" if plan["sweep"] == "large" else "twelve of 24 runs"
        goal = "certificate" if plan["certificate"] else f"{plan['loss']} nats"
        for kind in ((sweeps, goal, plan["asked"]), ("all", "", "")):
            kinds[kind].append(row)
    lines = []
    for kind, rows in sorted(kinds.items(), key=lambda item: (item[0][0] == "all", item[0])):
        count = sum(map(came_true, rows))
        low, high = exact_interval(count, len(rows))
        promised = sum(row["plan"]["probability"] for row in rows) / len(rows)
        plans = {(row["plan"]["sweep"], row["rank"], row["length"]) for row in rows}
        shares = f"{100 * promised:.1f} %", f"{100 * count / len(rows):.1f} %"
        interval = f"{100 * low:.0f} to {100 * high:.0f} %"
        lines.append([*kind, str(len(plans)), str(len(rows)), *shares, interval])
    head = ["sweeps", "goal", "planned", "plans", "fresh runs", "promised", "came true"]
    text = (
        "Plans for a probability of 90 %. A whole rank mostly has more, so the mean of what was"
        " promised is given beside what came true, with its exact 95 % interval. The runs of a plan"
        " resemble each other, and the plans of a sweep share its constants: the interval, which"
        " counts every run as an observation of its own, is too narrow."
    )
    return (
        f"## tiny-plans: what plans promise\n\n{text}\n\n{table([*head, '95 % interval'], lines)}"
    )


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    large(folder)
    for number in range(12):
        small(folder, number)


if __name__ == "__main__":
    main()
