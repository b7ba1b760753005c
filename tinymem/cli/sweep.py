"""`tinymem sweep` measures a grid of runs, one row of results.jsonl for each."""

import itertools
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from . import options as opt
from .source import Source, open_source

if TYPE_CHECKING:
    from ..training.recipe import Recipe


@opt.with_groups
def sweep(
    *,
    ranks: Annotated[str, opt.option("Ranks of the units.")] = "1,2,4,8",
    lengths: Annotated[
        str | None,
        opt.option("Target tokens.", default="32,64,128 random, or all of --text or --data"),
    ] = None,
    ratios: Annotated[
        str | None, opt.option("Percentages of random tokens.", default="100, or 0 with --text")
    ] = None,
    methods: Annotated[str, opt.option("Some of sft, memft-ot and memft-sw.")] = "sft",
    seeds: Annotated[str, opt.option("Seeds of random tokens and initial weights.")] = "0",
    base: opt.BaseOptions,
    memories: opt.SourceOptions,
    training: opt.RecipeOptions,
    out: Annotated[Path, opt.output("Folder of the rows; started again, a sweep goes on there.")],
    json_: opt.Json = False,
) -> int:
    """Measure a grid of ranks, lengths, ratios, methods and seeds.

    Lists are separated by commas. A sweep that is started again goes on.
    With several devices: torchrun --nproc-per-node 2 -m tinymem sweep …
    """
    opt.check_parent(out)
    if lengths is None and memories.text is None and memories.data is None:
        lengths = "32,64,128"
    axes: dict[str, Any] = {
        "ranks": opt.parse_list("--ranks", ranks),
        "lengths": opt.parse_list("--lengths", lengths) or (None,),
        "ratios": opt.parse_list("--ratios", ratios) or (None,),
        "methods": opt.parse_names(methods),
        "seeds": opt.parse_list("--seeds", seeds),
    }
    for rank, method, seed in itertools.product(axes["ranks"], axes["methods"], axes["seeds"]):
        recipe = training.recipe(rank=rank, method=method, seed=seed)  # raises for a wrong value
    source = open_source(memories, axes["lengths"], axes["ratios"])
    rows = run_grid(axes, base, source, training, recipe, out)
    if rows is None:
        return 0
    if json_:
        opt.print_json(rows)
    else:
        from ..show.report import stdout
        from ..show.tables import show_grid

        show_grid(rows)
        again = f"fit it with: tinymem fit {shlex.quote(str(out))}"
        stdout.print(f"\nSaved in {out}; {again}", soft_wrap=True, markup=False)
    return 0 if any(row["status"] == "ok" for row in rows) else 1


def run_grid(
    axes: dict[str, Any],
    base: opt.BaseOptions,
    source: Source,
    training: opt.RecipeOptions,
    recipe: "Recipe",
    out: Path,
) -> list[dict[str, Any]] | None:
    """The rows of the grid; None in all but the first of several workers, which shows them."""
    from ..base.checkpoint import open_checkpoint
    from ..data.memory import check_fits
    from ..experiment.grid import check_grid, make_grid
    from ..experiment.sweep import run_sweep
    from ..experiment.workers import Workers
    from ..show.progress import Bars
    from ..unit.sites import unit_shapes

    checkpoint = open_checkpoint(base.model, base.revision)
    shapes = checkpoint.shapes()  # enough to find what cannot work, before weights are read
    recipe = replace(recipe, layers=training.layers(shapes.config.num_layers))
    for rank in axes["ranks"]:
        unit_shapes(shapes, rank, recipe.sites, recipe.layers)
    make, held_out = source.read(checkpoint.tokenizer, shapes.config.context)
    grid = make_grid(make, **axes)
    check_grid(grid, shapes)
    if held_out:
        check_fits(held_out, shapes.config)
    workers, device = Workers(), base.device.value
    if workers.count > 1 and device != "cpu":
        device = workers.device(device)
    with Bars(quiet=workers.rank > 0) as bars:
        model = checkpoint.weights(device, base.dtype.value, bars)
        more: Any = {"held_out": held_out, "workers": workers, "progress": bars}
        rows = run_sweep(model, grid, out, recipe=recipe, source=source.about(), **more)
    return rows if workers.rank == 0 else None
