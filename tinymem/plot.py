"""Pictures, with matplotlib (the extra `plot`)."""

from pathlib import Path

from .errors import TinymemError
from .probe import Result


def figure(columns: int):
    """An empty figure and its axes, drawn without a screen. Raises TinymemError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise TinymemError("pictures need matplotlib: pip install 'tinymem[plot]'") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(1, columns, figsize=(5.5 * columns, 4), layout="constrained")


def plot_run(result: Result, path: Path) -> None:
    """Left: loss and share of certified tokens over the steps. Right: p of every target token."""
    fig, (left, right) = figure(2)
    report, training, verdict = result.report, result.training, result.verdict
    left.plot(training.losses, color="tab:blue", lw=1.2)
    left.set(xlabel="step", ylabel="mean loss (nats per token)", ylim=(0, None))
    left.yaxis.label.set_color("tab:blue")
    share = left.twinx()
    share.plot([100 * s for s in training.certified], color="tab:green", lw=1.2)
    share.set(ylabel="tokens with p > ½ (%)", ylim=(0, 105))
    share.yaxis.label.set_color("tab:green")
    p = verdict.probabilities if verdict else []
    colours = ["tab:green" if q > 0.5 else "goldenrod" if q > 0.1 else "tab:red" for q in p]
    right.bar(range(len(p)), p, width=1.0, color=colours)
    right.axhline(0.5, color="black", lw=0.8, ls="--")
    right.set(xlabel="position in the target", ylabel="p of the token", ylim=(0, 1))
    sure = sum(q > 0.5 for q in p)
    right.set_title(f"{sure} of {len(p)} tokens above ½ (dashed)", fontsize=10)
    left.set_title(
        f"{report['model']}, rank {report['rank']}, {report['length']} tokens, {report['method']}",
        fontsize=10,
    )
    fig.savefig(path, dpi=130, format=path.suffix.removeprefix(".") or "png")
