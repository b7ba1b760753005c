"""`tinymem sweep` measures a grid of runs, one row of results.jsonl for each."""

from dataclasses import asdict
from typing import Any

from ..experiment.grid import Grid
from ..experiment.rows import RESULTS, read_rows
from ..experiment.sweep import run_sweep
from ..experiment.workers import Workers
from ..show.progress import Bars
from ..show.tables import show_grid
from . import options as opt
from .output import check_output, check_room, print_json, show_saved
from .source import describe, parse_list, parse_names, prepare

ROW_BYTES = 4096  # at least the size of a row on disk


def sweep(options: opt.Sweep) -> int:
    check_output(options.out, html=options.html)
    random = options.text is None and options.data is None
    lengths = "32,64,128" if random and options.lengths is None else options.lengths
    checkpoint, recipe, grid, held_out, text = prepare(
        options,
        ranks=parse_list("--ranks", options.ranks),
        lengths=parse_list("--lengths", lengths) or (None,),
        ratios=parse_list("--ratios", options.ratios) or (None,),
        methods=parse_names(options.methods),
        seeds=parse_list("--seeds", options.seeds),
    )
    check_room(options.out, len(grid) * ROW_BYTES)
    workers, device = Workers(), str(options.device)
    if workers.count > 1 and device != "cpu":
        device = workers.device(device)
    source = describe(options, text)
    more: Any = {"recipe": recipe, "source": source, "held_out": held_out, "workers": workers}
    with Bars(quiet=workers.rank > 0) as bars:
        model = checkpoint.weights(device, options.dtype, bars)
        try:
            rows = run_sweep(model, grid, options.out, progress=bars, **more)
        except KeyboardInterrupt:
            write_page(options, grid, workers)
            raise
    write_page(options, grid, workers)
    if workers.rank > 0:  # the first worker shows the rows of all
        return 0
    if options.json:
        print_json(rows)
    else:
        show_grid(rows)
        show_saved(options.out, "fit it with: tinymem fit")
    return 0 if any(row["status"] == "ok" for row in rows) else 1


def write_page(options: opt.Sweep, grid: Grid, workers: Workers) -> None:
    """Writes the page that --html asks for, with all rows of the folder, as `fit --html` does.

    Cells of the grid without a row are shown as missing. Of several workers only the first writes.
    """
    if options.html is None or workers.rank > 0:
        return
    from ..show.grid import sweep_page

    results = options.out / RESULTS
    rows, _ = read_rows(results) if results.exists() else ([], [])
    sweep_page(options.html, rows, cells=map(asdict, grid))
