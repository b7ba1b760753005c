"""`tinymem fit` fits the law to a sweep; `tinymem plan` solves it for the rank or the length."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import LawError
from . import options as opt
from .source import read_content

if TYPE_CHECKING:
    from ..law.fit import Fit

Results = Annotated[Path, typer.Argument(help="Folder of a sweep, or a JSON Lines file of rows.")]
NoOffset = Annotated[bool, opt.option("Fit the law with b = 0.", "--no-offset")]


def fit(
    results: Results, no_offset: NoOffset = False, json_: opt.Json = False, plot: opt.Plot = None
) -> int:
    """Fit the Parametric Memory Law to a sweep: ΔL = C·r^α·ℓ^−β + b.

    r is the rank, ℓ the length in tokens and ΔL the loss reduction in nats per token.
    """
    if plot is not None:
        opt.check_plot(plot)
    fits, refused = read_fits(results, offset=not no_offset)
    if plot is not None:
        from ..show.plots import plot_law

        plot_law(fits, plot)
    if json_:
        laws = [one.as_dict() for one in fits]
        opt.print_json({**laws[0], "groups": laws, "refused": refused})
    else:
        from ..show.tables import show_fits

        show_fits(fits, refused)
    return 0


def plan(
    results: Results,
    length: Annotated[int | None, opt.option("Which rank does this length need?")] = None,
    rank: Annotated[int | None, opt.option("Which length does this rank hold?")] = None,
    text: Annotated[
        Path | None, opt.option("Which rank does this UTF-8 text need? - reads from stdin.")
    ] = None,
    loss: Annotated[
        float | None,
        opt.option("Final loss to reach, nats per token.", default="all tokens certified"),
    ] = None,
    method: Annotated[str | None, opt.option("Use the law of this method.")] = None,
    ratio: Annotated[int | None, opt.option("Use the law of this percentage.")] = None,
    no_offset: NoOffset = False,
    model: opt.MovedModel = None,
    device: opt.DeviceOption = opt.Device.auto,
    json_: opt.Json = False,
) -> int:
    """Solve the law of a sweep for the rank of a length or text, or for the length of a rank."""
    if [length, rank, text].count(None) != 2:
        raise LawError("give exactly one of --length, --rank and --text")
    for flag, value in (("--length", length), ("--rank", rank)):
        if value is not None and value < 1:
            raise LawError(f"{flag} is {value}; expected 1 or more")
    from ..law.plan import plan_length, plan_rank

    law = choose_fit(results, method, offset=not no_offset)
    base_loss = None
    if text is not None:
        length, base_loss = measure_text(read_content(text), law, model, device.value)
        ratio = 0 if ratio is None else ratio
    if rank is not None:
        answer = plan_length(law, rank, loss, ratio=ratio)
    else:
        assert length is not None  # one of the three is given
        answer = plan_rank(law, length, loss, ratio=ratio, base_loss=base_loss)
    if json_:
        opt.print_json(answer.as_dict())
    else:
        from ..show.tables import show_plan

        show_plan(answer, law)
    return 0


def read_fits(results: Path, offset: bool) -> tuple[list["Fit"], dict[str, str]]:
    """The laws of the rows; names torn lines on stderr. Raises LawError if there are no rows."""
    from ..experiment.rows import read_rows
    from ..law.fit import fit_rows

    rows, torn = read_rows(results)
    for message in torn:
        print(f"tinymem: {message}", file=sys.stderr)
    if not rows:
        raise LawError(f"{results}: no rows; run a sweep first")
    return fit_rows(rows, offset=offset)


def choose_fit(results: Path, method: str | None, offset: bool) -> "Fit":
    """The law of the method; without one, of the largest group of rows. Raises LawError."""
    fits, _ = read_fits(results, offset)
    for one in fits:
        if method in (None, one.key["method"]):
            return one
    known = ", ".join(str(one.key["method"]) for one in fits)
    raise LawError(f"{results}: no law of method {method!r}; there is one of {known}")


def measure_text(content: str, fit: "Fit", model: str | None, device: str) -> tuple[int, float]:
    """Tokens of a text and its loss on the sweep's base model, with the prompt of the sweep."""
    from ..base.checkpoint import open_checkpoint
    from ..data.batch import Batch
    from ..data.memory import check_fits, text_memory
    from ..experiment.recall import teacher_forced
    from ..show.progress import Bars

    row = fit.rows[0]
    name, setting = model or row.get("model"), row.get("setting") or {}
    if name is None:
        raise LawError("the rows do not name their base model; give it with --model")
    checkpoint = open_checkpoint(name, row.get("revision"))
    prompt, chat = setting.get("prompt"), setting.get("chat", True)
    prompt = opt.DEFAULT_PROMPT if prompt is None else prompt
    memory = text_memory(checkpoint.tokenizer, content, prompt=prompt, chat=chat)
    check_fits([memory], checkpoint.config)
    with Bars() as bars:
        base = checkpoint.weights(device, row.get("dtype", "auto"), bars)
    losses, _ = teacher_forced(base, Batch([memory], base.config.context, base.device))
    return memory.length, losses.mean().item()
