"""Times whole runs: to the last step, until certified, with L-BFGS, and as a grid."""

import itertools
import math
from collections.abc import Callable
from statistics import median

from tinymem.experiment.probe import Result, memorize, memorize_together
from tinymem.experiment.recall import judge
from tinymem.training.recipe import Recipe

from .bases import Base
from .measure import Rows, alternate, seconds
from .peers import RANK, paper_step, peft_step, tinymem_step, trainer_step

SLICES = 10  # parts of a run; the peers take turns after each


def times(count: int, call: Callable[[], object]) -> Callable[[], list]:
    return lambda: [call() for _ in range(count)]


def run(base: Base, rows: Rows, length: int, steps: int, share: int) -> None:
    """A memft-ot run from the first step to the last, including what tinymem computes beforehand.

    peft computes all logits in every step, so all of its steps take the same time. One of `share`
    steps is timed.
    """
    memory, method, made = base.memory(length), "memft-ot", []
    ours = seconds(lambda: made.append(tinymem_step(base, memory, steps, method)), base.device)
    peft, theirs = peft_step(base, memory, steps, method), 0.0
    peft()  # a warm-up that is not timed, although that of tinymem is
    for _ in range(SLICES):
        ours += seconds(times(steps // SLICES, made[0]), base.device)
        theirs += share * seconds(times(steps // SLICES // share, peft), base.device)
    smollm2 = (base.name, length, base.device.type) == ("SmolLM2", 256, "cpu")
    note = f"peft: computed from one of {share} steps" if share > 1 else ""
    case = f"{length} tokens, {method}, {steps:,} steps"
    target = 2.0 if smollm2 else None
    rows.add("run", base.label, case, "peft", ours, theirs, target=target, note=note)


def certified(base: Base, rows: Rows, length: int, steps: int, whole: bool) -> None:
    """A run until certified, with its verdict, against `steps` steps of the paper without verdict.

    whole: do all steps of the paper and compare the verdicts. Otherwise multiply the median of a
    few steps.
    """
    memory, ours, theirs, results = base.memory(length), [], [], []
    paper, trained = paper_step(base, memory, steps)

    def until_certified() -> None:
        options = {"rank": RANK, "steps": steps, "stop_when_certified": True}
        results.append(memorize(base.model, memory, **options))

    rounds, part = (4, steps // 4) if whole else (3, 1)
    for done in range(rounds):
        if whole or not done:
            ours.append(seconds(until_certified, base.device))
        theirs.append(seconds(times(part, paper), base.device))
    total = sum(theirs) if whole else steps * median(theirs)
    case, report = f"{length} tokens, rank {RANK}", results[0].report
    note = f"certified: {report['certified']}, after {report['steps']:,} of {steps:,} steps"
    note += "" if whole else "; paper: computed as its median step × steps"
    fields = {"target": 10.0, "rounds": len(ours), "note": note}
    rows.add("certified", base.label, case, "paper", median(ours), total, **fields)
    if whole:
        unit = trained().attach(base.model)
        verdict = judge(base.model, memory)
        unit.detach()
        names = ("certified", "recall_exact")
        pairs = {name: (report[name], getattr(verdict, name)) for name in names}
        note = "; ".join(f"{name}: {mine} and {paper}" for name, (mine, paper) in pairs.items())
        same = float(all(mine == paper for mine, paper in pairs.values()))
        about = ("certified", base.label, f"{case}, same verdict", "paper")
        rows.add(*about, value=same, target=1.0, note=note)


def lbfgs(base: Base, rows: Rows, length: int, steps: int, seeds: int) -> None:
    """The evaluations that L-BFGS needs to reach the loss of AdamW after `steps` steps.

    An evaluation computes the loss and its gradient. The value is the median over the seeds.
    """
    case, counts, notes = f"{length} tokens, rank {RANK}", [], []
    for seed in range(seeds):
        memory, results = base.memory(length, seed), {}
        for optimizer in ("adamw", "lbfgs"):
            options = {"rank": RANK, "steps": steps, "optimizer": optimizer, "seed": seed}
            results[optimizer] = memorize(base.model, memory, **options)
        goal, losses = results["adamw"].report["final_loss"], results["lbfgs"].training.losses
        reached = next((n for n, loss in enumerate(losses, start=1) if loss <= goal), math.inf)
        counts.append(reached)
        last = results["lbfgs"].report["final_loss"]
        ends = f"AdamW ends at {goal:.4g} nats, L-BFGS at {last:.4g}"
        notes.append(f"seed {seed}: {ends}; L-BFGS reaches AdamW's loss after {reached}")
    count = median(counts)
    fields = {"target": 1 / 3, "at_most": True, "unit": "evaluations", "note": "; ".join(notes)}
    found = (count, count / steps) if math.isfinite(count) else (None, 1.0)
    about = ("lbfgs", base.label, case, "AdamW")
    rows.add(*about, found[0], steps, value=found[1], rounds=seeds, **fields)


def grid(base: Base, rows: Rows, length: int, steps: int, rounds: int = 3) -> None:
    """Ranks 1 to 8 × three seeds with verdicts, trained as one batch and one after another."""
    cells = list(itertools.product(range(1, 9), range(3)))
    memories = [base.memory(length, seed) for _, seed in cells]
    recipes = [Recipe(rank=rank, seed=seed, steps=steps) for rank, seed in cells]
    results: dict[str, list[Result]] = {}

    def together() -> None:
        results["together"] = memorize_together(base.model, [[m] for m in memories], recipes)

    def one_by_one() -> None:
        pairs = zip(memories, recipes, strict=True)
        results["single"] = [
            memorize(base.model, memory, recipe=recipe) for memory, recipe in pairs
        ]

    calls = {"together": together, "single": one_by_one}
    taken, done = alternate(calls, base.device, most=rounds)
    losses = [[r.report["final_loss"] for r in results[name]] for name in calls]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    note = f"{steps} steps; final losses differ by at most {apart:.1g} nats"
    case = f"8 ranks × 3 seeds, {length} tokens"
    target = 2.0 if base.name == "tiny" and base.device.type == "cpu" else None
    about = {"target": target, "rounds": done, "note": note}
    rows.add("grid", base.label, case, "one by one", *taken.values(), **about)


def grid_beside_peft(base: Base, rows: Rows, length: int, steps: int) -> None:
    """Ranks 1 to 16 for one memory, as one batch and one after another with peft; no verdicts."""
    memory, ranks = base.memory(length), range(1, 17)

    def together() -> None:
        recipes = [Recipe(rank=rank, steps=steps) for rank in ranks]
        times(steps, trainer_step(base, memory, recipes))()

    def peft() -> None:
        for rank in ranks:
            times(steps, peft_step(base, memory, steps, rank=rank))()

    times(3, peft_step(base, memory))()  # the first products on a device take longer
    taken = [seconds(call, base.device) for call in (together, peft)]
    case = f"16 ranks, {length} tokens, {steps} steps"
    target = 20.0 if base.name == "SmolLM2" else None
    rows.add("grid", base.label, case, "peft", *taken, target=target)
