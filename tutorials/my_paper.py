"""The paper once more, with nothing but your mymem.py: a law and a recall curve on `tiny`.

    python tutorials/my_paper.py                        # after the last rung; about two minutes
    python tutorials/my_paper.py --fast                 # rough numbers, in ten seconds
    python tutorials/my_paper.py --from-library 1-3     # with tinymem's rungs 1 to 3, not yours

Your own `sweep` records the runs in a folder (--out), so Ctrl-C loses at most the run that it
interrupts, and the same command goes on. At the end your figures stand beside those of tinymem's
recorded runs, and a picture shows both results.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from rich import box, progress
from rich.console import Console
from rich.table import Table

import tinymem as tm

HERE = Path(__file__).parent
LN2 = math.log(2)
RANK = 2  # of the recall curves
COLOURS = {"plain": "#D55E00", "margin": "#0072B2"}


class Plan(NamedTuple):
    """What is measured. Lengths are in tokens."""

    ranks: list[int]
    lengths: list[int]
    steps: int
    recall: dict[str, list[int]]  # objective: the lengths of its curve
    recall_steps: int
    seeds: list[int]
    draws: int


FULL = Plan(
    ranks=[1, 2, 4, 8],
    lengths=[32, 64, 128],
    steps=100,
    recall={"plain": [8, 12, 16, 20, 24, 32], "margin": [16, 24, 32, 40, 48, 64]},
    recall_steps=200,
    seeds=[0, 1],
    draws=500,
)
FAST = Plan(
    ranks=[1, 2, 4],
    lengths=[8, 16, 24],
    steps=8,
    recall={"plain": [4, 10, 24], "margin": [4, 10, 24]},
    recall_steps=25,
    seeds=[0],
    draws=50,
)


def main() -> None:
    options = read_options()
    plan = FAST if options.fast else FULL
    out = options.out or Path("my-paper-fast" if options.fast else "my-paper")
    console = Console()
    mymem = load(options.mymem, options.from_library)
    try:
        out.mkdir(parents=True, exist_ok=True)
        law_rows, recall_rows = measure(mymem, plan, out, Console(stderr=True))
        show_law(mymem, plan, law_rows, console)
        show_recall(mymem, plan, recall_rows, console)
        draw(mymem, plan, law_rows, recall_rows, out / "my_paper.png")
    except NotImplementedError as error:
        sys.exit(f"{options.mymem}: not written yet: {error}. See --from-library")
    except KeyboardInterrupt:
        sys.exit(f"Stopped. The finished runs are in {out}; the same command goes on")
    text = f"The picture is {out / 'my_paper.png'}, and the rows are beside it.\n"
    text += (
        "tutorials/00_the_whole_paper.py is one way to have written all this. Read it now, and\n"
    )
    console.print(f"{text}compare it with yours.", soft_wrap=True)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A law and a recall curve with your mymem.py.")
    parser.add_argument("--mymem", type=Path, default=HERE / "mymem.py", help="your file")
    parser.add_argument("--from-library", default="", help="rungs to take from tinymem: 1-3 or 1,2")
    parser.add_argument("--fast", action="store_true", help="a tiny grid, in ten seconds")
    parser.add_argument("--out", type=Path, help="folder of the rows and the picture (my-paper)")
    options = parser.parse_args()
    numbers = []
    for part in filter(None, options.from_library.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            parser.error(f"--from-library {options.from_library}: expected rungs such as 1-3")
        numbers += range(int(first), int(last or first) + 1)
    if not set(numbers) <= set(range(1, 10)):
        parser.error(f"--from-library {options.from_library}: the rungs are 1 to 9")
    options.from_library = sorted(set(numbers))
    return options


def load(path: Path, from_library: list[int]) -> ModuleType:
    """The student's module, with these rungs of tinymem in place of theirs."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        sys.exit(f"--mymem {path}: cannot be read ({error.strerror})")
    mymem = ModuleType("mymem")
    mymem.__file__ = str(path)
    sys.modules["mymem"] = mymem
    exec(compile(text, str(path), "exec"), vars(mymem))
    if from_library:
        from checks.library import RUNGS  # beside this file

        for number in from_library:
            vars(mymem).update(RUNGS[number])
    return mymem


# --- Measuring ------------------------------------------------------------------------------------


def measure(
    mymem: ModuleType, plan: Plan, out: Path, console: Console
) -> tuple[list[dict], dict[str, list[dict]]]:
    """The rows of the law, and those of the recall curve of each objective."""
    model, tokenizer = tm.load("tiny", device="cpu", dtype="float32")
    sweeps = [("the law", "plain", plan.ranks, plan.lengths, plan.steps)]
    for name, lengths in plan.recall.items():
        sweeps.append((f"recall with {name}", name, [RANK], lengths, plan.recall_steps))
    texts = "{task.description}", "{task.percentage:3.0f} %", "left"
    what, percent, left = map(progress.TextColumn, texts)
    columns = what, progress.BarColumn(24), percent, progress.TimeRemainingColumn(), left
    results = []
    shown = {"console": console, "speed_estimate_period": 300, "transient": True}
    with progress.Progress(*columns, **shown) as bars:
        costs = [len(s[2]) * sum(map(cost_of, s[3])) * len(plan.seeds) * s[4] for s in sweeps]
        bar = bars.add_task("", total=sum(costs))
        for number, (title, name, ranks, lengths, steps) in enumerate(sweeps):
            objective, path = getattr(mymem, name), out / f"{name}-{steps}-steps.jsonl"
            finished = path.read_bytes().count(b"\n") if path.exists() else 0
            share = finished / (len(ranks) * len(lengths) * len(plan.seeds))
            bars.update(bar, completed=sum(costs[:number]) + min(share, 1) * costs[number])

            def run(rank, length, seed, title=title, objective=objective, steps=steps) -> dict:
                bars.update(bar, description=f"{f'{title}: rank {rank}, {length} tokens':37}")
                row = mymem.run_cell(model, tokenizer, rank, length, seed, steps, objective)
                bars.advance(bar, cost_of(length) * steps)
                return row

            results.append(mymem.sweep(path, ranks, lengths, plan.seeds, run))
    return results[0], dict(zip(plan.recall, results[1:], strict=True))


def cost_of(length: int) -> int:
    """Positions of one step: the prompt has about 10 tokens."""
    return length + 10


def recorded(name: str, wanted: Callable[[dict], bool]) -> list[dict]:
    """Runs that tinymem has recorded, with the keys of a row of rung 7."""
    path = HERE / "reproduction" / "rows" / f"{name}.jsonl"
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["parameters"], row["recited"] = row["trainable_parameters"], row["recall_exact"]
    return [row for row in rows if wanted(row)]


# --- Showing --------------------------------------------------------------------------------------


def make_table(title: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    return table


def show_law(mymem: ModuleType, plan: Plan, rows: list[dict], console: Console) -> None:
    theirs = recorded("tiny", lambda r: r["rank"] in FULL.ranks and r["length"] in FULL.lengths)
    columns = ("", "steps", "runs", "saturated", "C", "α [95 %]", "β [95 %]")
    table = make_table("The law: ΔL = C · r^α · ℓ^(−β)", columns)
    for who, some, steps in (("yours", rows, plan.steps), ("recorded", theirs, 400)):
        if not some:
            continue
        C, alpha, beta = mymem.fit_law(some)
        ends = mymem.bootstrap(some, plan.draws, 0)
        saturated = sum(row["final_loss"] <= LN2 for row in some)
        exponents = [
            f"{value:.2f} [{low:.2f}, {high:.2f}]"
            for value, (low, high) in ((alpha, ends["alpha"]), (beta, ends["beta"]))
        ]
        table.add_row(who, str(steps), str(len(some)), str(saturated), f"{C:.1f}", *exponents)
    console.print(table)
    length, largest = plan.lengths[-1], plan.ranks[-1]
    text = f"By your law, {length} tokens need rank {mymem.rank_for_loss(rows, length):.1f} for a"
    text += f" mean loss of ln 2 = 0.693 nats.\nThe largest rank that you measured is {largest}.\n"
    console.print(text, soft_wrap=True)


def curve_of(mymem: ModuleType, rows: list[dict]) -> tuple[float, float] | None:
    """None if all runs were recited or none, so that no curve can be fitted."""
    return mymem.recall_curve(rows) if len({row["recited"] for row in rows}) > 1 else None


def show_recall(
    mymem: ModuleType, plan: Plan, rows: dict[str, list[dict]], console: Console
) -> None:
    columns = ("", "objective", "steps", "recited", "half recite", "s", "rank for 100 tokens")
    table = make_table(f"The recall curve of rank {RANK}", columns)
    for name, own in rows.items():
        method = {"plain": "sft"}.get(name, name)
        theirs = recorded("tiny-recall", lambda r, m=method: (r["rank"], r["method"]) == (RANK, m))
        for who, some, steps in (("yours", own, plan.recall_steps), ("recorded", theirs, 600)):
            if not some:
                continue
            hits = f"{sum(row['recited'] for row in some)} of {len(some)}"
            curve = curve_of(mymem, some)
            cells = ["–", "–", "–"]
            if curve:
                tokens = curve[0] * some[0]["parameters"]
                cells = [f"{tokens:.0f} tokens", f"{curve[1]:.1f}", f"{mymem.plan_rank(some, 100)}"]
            table.add_row(who, name, str(steps), hits, *cells)
    console.print(table)
    text = "The rank for 100 tokens is the one at which 90 % of the runs recite them, if a token\n"
    text += (
        "costs as many parameters at every rank. More steps change both tables (lesson 8), and\n"
    )
    text += "the recorded runs have more.\n"
    console.print(text, soft_wrap=True)


def draw(
    mymem: ModuleType, plan: Plan, rows: list[dict], recall: dict[str, list[dict]], path: Path
) -> None:
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        sys.exit('No picture, because matplotlib is missing: pip install -e ".[plot]"')
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    draw_law(left, mymem.fit_law(rows), plan, rows)
    for name, own in recall.items():
        loads = np.array([row["length"] / row["parameters"] for row in own])
        offset = 0.02 if name == "margin" else -0.02  # so that points of both can be seen
        hits = np.array([row["recited"] for row in own]) + offset
        right.plot(loads, hits, "o", color=COLOURS[name], alpha=0.5)
        if curve := curve_of(mymem, own):
            x = np.geomspace(loads.min() / 2, loads.max() * 3, 200)
            y = 1 / (1 + (x / curve[0]) ** curve[1])
            right.plot(x, y, color=COLOURS[name], label=f"{name}: half at {curve[0]:.3f}")
        else:
            right.plot([], [], color=COLOURS[name], label=f"{name}: all runs or none recited")
    right.set(xscale="log", xlabel="load (tokens per parameter)", ylabel="probability of recall")
    right.set_title(f"Recall at rank {RANK}, {plan.recall_steps} steps\n(points: runs)")
    ticks = [t for t in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2) if right.get_xlim()[0] < t]
    right.set_xticks([t for t in ticks if t < right.get_xlim()[1]])
    right.minorticks_off()
    right.xaxis.set_major_formatter("{x:g}")
    right.legend(loc="center right", bbox_to_anchor=(1, 0.75))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_law(axes: Any, law: tuple[float, float, float], plan: Plan, rows: list[dict]) -> None:
    C, alpha, beta = law
    for length, colour in zip(plan.lengths, ("#0072B2", "#009E73", "#D55E00"), strict=True):
        axes.plot(
            plan.ranks,
            C * np.array(plan.ranks, float) ** alpha * length**-beta,
            color=colour,
            label=f"{length} tokens",
        )
        for row in rows:
            if row["length"] == length:
                fill = colour if row["final_loss"] > LN2 else "white"
                delta = row["base_loss"] - row["final_loss"]
                axes.plot(row["rank"], delta, "o", color=colour, mfc=fill)
    low, high = axes.get_ylim()
    step = 1 if high - low < 8 else 2
    ticks = range(math.ceil(low), math.floor(high) + 1, step)
    axes.set(xscale="log", yscale="log", xlabel="rank r", ylabel="ΔL (nats per token)")
    axes.set(xticks=plan.ranks, xticklabels=plan.ranks, yticks=ticks, yticklabels=ticks)
    axes.minorticks_off()
    title = f"ΔL = {C:.1f} · r^{alpha:.2f} · ℓ^(−{beta:.2f}), {plan.steps} steps"
    axes.set_title(f"{title}\n(hollow points: saturated, not fitted)")
    axes.legend()


if __name__ == "__main__":
    main()
