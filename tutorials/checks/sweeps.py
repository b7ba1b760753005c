"""A sweep that works, and sweeps with one bug each: what check_sweep of exercise 7 is tried on.

A sweep is a function (folder, ranks, lengths, seeds) -> rows. The docstring of a sweep with a bug
completes the sentence "your test passes for a sweep that …".
"""

import functools
import itertools
import json
import random
from collections.abc import Iterable
from pathlib import Path

import tinymem as tm
from checks.server import load_shipped

Row = dict[str, float]
Cell = tuple[int, int, int]  # rank, length, seed


def cell(row: Row) -> Cell:
    return int(row["rank"]), int(row["length"]), int(row["seed"])


@functools.cache  # many sweeps train the same cells
def losses(rank: int, length: int, seed: int) -> tuple[float, float]:
    """The base loss and the loss after one step, in nats per token."""
    model, tokenizer = load_shipped()
    memory = tm.random_memory(tokenizer, length, seed=seed)
    report = tm.memorize(model, memory, rank=rank, steps=1, seed=seed).report
    return report["base_loss"], report["final_loss"]


class Sweeps:
    """The rows of a folder are in the file rows.jsonl, one for each finished cell."""

    def read(self, folder: Path) -> dict[Cell, Row]:
        path = Path(folder) / "rows.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {cell(row): row for row in map(json.loads, lines)}

    def write(self, folder: Path, rows: Iterable[Row]) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (Path(folder) / "rows.jsonl").write_text(text, encoding="utf-8")

    def train(self, one: Cell) -> Row:
        base, final = losses(*one)
        row = dict(zip(("rank", "length", "seed"), one, strict=True))
        seconds = random.uniform(0.02, 0.05)  # the losses may come from the cache
        return row | {"base_loss": base, "final_loss": final, "wall_seconds": seconds}

    def good(self, folder, ranks, lengths, seeds):
        done = self.read(folder)
        cells = list(itertools.product(ranks, lengths, seeds))
        done |= {one: self.train(one) for one in cells if one not in done}
        self.write(folder, done.values())
        return [done[one] for one in cells]

    # --- With a bug -------------------------------------------------------------------------------

    def trains_again(self, folder, ranks, lengths, seeds):
        """trains finished cells a second time when it is started again"""
        self.write(folder, [])
        return self.good(folder, ranks, lengths, seeds)

    def forgets_other_grids(self, folder, ranks, lengths, seeds):
        """loses the finished cells of another grid in the same folder, and trains them again"""
        rows = self.good(folder, ranks, lengths, seeds)
        self.write(folder, rows)
        return rows

    def returns_other_grids(self, folder, ranks, lengths, seeds):
        """also returns the rows of another grid in the same folder, which were not asked for"""
        self.good(folder, ranks, lengths, seeds)
        return list(self.read(folder).values())

    def returns_only_new(self, folder, ranks, lengths, seeds):
        """returns only the new rows when it is started again"""
        before = self.read(folder)
        return [row for row in self.good(folder, ranks, lengths, seeds) if cell(row) not in before]

    def repeats_a_row(self, folder, ranks, lengths, seeds):
        """returns a row twice when it is started again"""
        before = self.read(folder)
        rows = self.good(folder, ranks, lengths, seeds)
        return rows + [row for row in rows if cell(row) in before][:1]

    def drops_a_row(self, folder, ranks, lengths, seeds):
        """loses the last row when there are several"""
        rows = self.good(folder, ranks, lengths, seeds)
        return rows[:-1] if len(rows) > 1 else rows

    def mixes_seeds(self, folder, ranks, lengths, seeds):
        """uses the memory, the unit and the losses of the first seed for every seed"""
        rows = self.good(folder, ranks, lengths, seeds[:1])
        return [row | {"seed": seed} for seed in seeds for row in rows]

    def ignores_the_seed_of_finished_cells(self, folder, ranks, lengths, seeds):
        """takes a cell for finished when another seed of it is, and returns the losses of that"""
        done = {one[:2]: row for one, row in self.read(folder).items()}
        rows = self.good(folder, ranks, lengths, seeds)
        return [done.get(cell(row)[:2], row) | {"seed": row["seed"]} for row in rows]

    def ignores_the_rank(self, folder, ranks, lengths, seeds):
        """trains every rank with the smallest one"""
        rows = {cell(row): row for row in self.good(folder, ranks, lengths, seeds)}
        return [rows[(min(ranks), *one[1:])] | {"rank": one[0]} for one in rows]

    def ignores_the_length(self, folder, ranks, lengths, seeds):
        """writes the shortest memory for every length"""
        rows = {cell(row): row for row in self.good(folder, ranks, lengths, seeds)}
        return [rows[one[0], min(lengths), one[2]] | {"length": one[1]} for one in rows]

    def swaps_losses(self, folder, ranks, lengths, seeds):
        """gives one row the final loss of another row"""
        rows = self.good(folder, ranks, lengths, seeds)
        pairs = zip(rows, rows[1:] + rows[:1], strict=True)
        return [row | {"final_loss": other["final_loss"]} for row, other in pairs]

    def starts_from_the_last_unit(self, folder, ranks, lengths, seeds):
        """starts each cell from the unit of the cell before it, instead of a new one"""
        rows = self.good(folder, ranks, lengths, seeds)
        return [row | {"final_loss": row["final_loss"] - 0.3 * n} for n, row in enumerate(rows)]

    def measures_the_base_loss_late(self, folder, ranks, lengths, seeds):
        """measures the base loss with the trained unit attached"""
        rows = self.good(folder, ranks, lengths, seeds)
        return [row | {"base_loss": row["final_loss"]} for row in rows]


BUGS = [name for name in vars(Sweeps) if name.partition("_")[2] and not name.startswith("_")]
