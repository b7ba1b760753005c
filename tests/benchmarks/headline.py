"""Times what `tinymem probe` does: a run that ends early, against the paper's recipe to its end."""

from dataclasses import replace
from statistics import median

from tinymem.cli import options as opt
from tinymem.cli.source import make_recipe
from tinymem.experiment.probe import Result, memorize

from .bases import Base
from .measure import Rows, seconds

TARGETS = {  # ratios on two cores: 571 s / 45 s at rank 8, and 571 s / 150 s at rank 1
    ("SmolLM2", 8): 12.0,
    ("SmolLM2", 1): 3.8,
}
NEAR = 0.2  # nats per token that the early run may end above the full one, if neither recites
PART = 20  # steps of a full run that are timed where it is slow


def probe(base: Base, rows: Rows, rank: int, length: int, whole: bool) -> None:
    """Both runs, with their verdicts. whole: do all steps of the full run, and compare the ends."""
    memory, results = base.memory(length), dict[str, Result]()
    early = make_recipe(opt.Probe(rank=rank), rank, "sft", 0)
    paper = make_recipe(opt.Probe(rank=rank, full=True), rank, "sft", 0)

    def run(name: str, recipe) -> float:
        def once() -> None:
            results[name] = memorize(base.model, memory, recipe=recipe)

        return seconds(once, base.device)

    ours = run("early", early)
    if whole:
        theirs = run("full", paper)
    else:
        parts = [replace(paper, steps=steps) for steps in (PART, 2 * PART)]
        short, longer = (median(run("part", part) for _ in range(3)) for part in parts)
        theirs = short + (longer - short) / PART * (paper.steps - PART)  # the verdict counts once
    report = results["early"].report
    case = f"{length} tokens, rank {rank}"
    note = f"ended: {report['ended']}, after {report['steps']} evaluations, {ours:.1f} s"
    note += "" if whole else f"; full: computed from {2 * PART} of {paper.steps:,} steps"
    target = TARGETS.get((base.name, rank)) if base.device.type == "cpu" else None
    rows.add("probe", base.label, case, "full run", ours, theirs, target=target, note=note)
    if whole:
        compare(base, rows, case, results)


def compare(base: Base, rows: Rows, case: str, results: dict[str, Result]) -> None:
    """1 if both runs have the same verdict, and the early one no higher a loss, if not recited."""
    early, full = (results[name].report for name in ("early", "full"))
    same = early["recall_exact"] == full["recall_exact"]
    near = early["recall_exact"] or early["final_loss"] <= full["final_loss"] + NEAR
    note = f"losses {early['final_loss']:.3f} and {full['final_loss']:.3f} nats per token"
    note += f"; recited: {early['recall_exact']} and {full['recall_exact']}"
    about = ("probe", base.label, f"{case}, same end", "full run")
    rows.add(*about, value=float(same and near), target=1.0, note=note)
