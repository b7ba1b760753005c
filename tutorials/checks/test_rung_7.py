"""The checks of rung 7: a cell, and a sweep that can be killed. All inputs are drawn from --seed.

The sweeps train nothing: each of their rows is made up.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from checks import expected, scenarios_rungs_6_to_9 as scenarios
from checks.cells import right_rows
from checks.expected import drawn, whole
from checks.grading import first_of, kind_of, near, number, require, truth
from checks.ladder import rung
from checks.values import MODEL, TOKENIZER, Raised

points = pytest.mark.points
KEYS = ("rank", "length", "seed", "parameters", "base_loss", "final_loss", "recited")


def row_of(value: object) -> dict:
    require(isinstance(value, dict), f"A row should be a dict, not {kind_of(value)}")
    missing = [name for name in KEYS if name not in value]
    require(not missing, f"The row has no {', '.join(missing)}; it has {', '.join(value)}")
    return value


def require_row(row: dict, right: dict, what: str) -> None:
    for name in KEYS[:4]:
        value = number(row[name], name)
        hints = {
            "A and B have 2 · d · r parameters": name == "parameters",
        }
        message = f"{what}: {name} should be {right[name]}, not {value:g}{first_of(hints)}"
        require(value == right[name], message)
    for name in ("base_loss", "final_loss"):
        value = number(row[name], name)
        hints = {
            "That is the loss before the last step": name == "final_loss"
            and near(value, right["last_mean"], 1e-3),
            "That is the loss before the training": near(value, right["base_loss"], 1e-3),
            "That is the loss after the training": near(value, right["final_loss"], 1e-3),
            "That is a sum over the tokens": near(value, right[name] * right["length"], 1e-2),
        }
        message = f"{what}: {name} should be {right[name]:.3f}, not {value:.3f}{first_of(hints)}"
        hint = ". Are the target, the unit, the steps and the objective those that were asked for?"
        message += hint if name == "final_loss" and not first_of(hints) else ""
        require(near(value, right[name], 2e-3), message, keeps=0.5 * (name == "final_loss"))
    recited = truth(row["recited"], "recited")
    message = f"{what}: recited should be {right['recited']}, which judge says after the training"
    require(recited == right["recited"], message, keeps=0.5)


@rung(7)
@points(1.5)
def test_rung7_a_cell_and_its_row(mymem, seed):
    generator = drawn(seed)
    number_of = whole(1, 10**6, generator)
    # One cell that is recited, with the objective `plain`; one that is not, with another objective.
    for rank, length, steps, plain in ((8, 2, 14, True), (2, whole(4, 6, generator), 3, False)):
        args = [rank, length, number_of], steps
        found = mymem.run(scenarios.cell, MODEL, TOKENIZER, *args, plain)
        what = f"run_cell with rank {rank}, length {length}, {steps} steps"
        what += "" if plain else " and an objective of the check's own"
        message = f"{what} did not use the objective that it was given"
        require(plain or found["calls"], message, keeps=0.5)
        row = row_of(found["row"])
        objective = expected.plain if plain else scenarios.every_second
        (right,) = right_rows(found, ([rank], length, number_of), steps, objective)
        require_row(row, right, what)


def require_attached(found: dict) -> None:
    message = "run_cell did not run the model with a unit in it. Call attach before you train"
    require(found["attached"], message)


@rung(7)
def test_rung7_the_unit_is_taken_out_in_the_end(mymem, seed):
    cell = 2, 3, whole(1, 10**6, drawn(seed))
    found = mymem.run(scenarios.cell_with_error, MODEL, TOKENIZER, *cell, "")
    row_of(found["row"])
    require_attached(found)
    message = "After run_cell the model still has a unit, so that the next cell would not begin"
    require(found["taken_out"], f"{message} with the base model. Call detach in the end")


@rung(7)
def test_rung7_the_unit_is_taken_out_after_an_error(mymem, seed):
    number_of = whole(1, 10**6, drawn(seed))
    for error, what in (("planned", "an error"), ("kill", "Ctrl-C, a KeyboardInterrupt,")):
        found = mymem.run(scenarios.cell_with_error, MODEL, TOKENIZER, 2, 3, number_of, error)
        require(found["calls"] > 1, "run_cell did not use the objective that it was given")
        require_attached(found)
        message = f"After {what} in the second step, the model still has the unit. Detach it in a"
        require(found["taken_out"], f"{message} `finally:` block")
        message = f"run_cell hides {what} that occurs in a step. Let it reach the caller"
        require(found["raised"], message, keeps=0.5)


def grid_of(seed: int) -> list[list[int]]:
    """Ranks, lengths and seeds: two or three of each, in no order."""
    random = np.random.default_rng(seed)
    return [
        (1 + random.choice(99, size=n, replace=False)).tolist()
        for n in random.permutation([2, 2, 3])
    ]


def lines_in(text: str) -> list[dict]:
    """The rows in a file. A line that is no row does not count."""
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows


def require_lines(text: str, what: str) -> None:
    """Fails if there is something behind a row, on its line."""
    message = f"{what}, two rows are on one line of the file. Write a newline after each row"
    for line in text.splitlines():
        try:
            _, end = json.JSONDecoder().raw_decode(line)
        except ValueError:
            continue
        require(not line[end:].strip(), message)


def key(row: object) -> tuple:
    """Rank, length and seed; as a text if it is something else than a number."""
    found = [row.get(name) if isinstance(row, dict) else None for name in KEYS[:3]]
    return tuple(one if isinstance(one, (int, float)) else str(one) for one in found)


class Sweep:
    """A sweep of a grid by the student, called several times on one file."""

    def __init__(self, mymem, path: Path, grid: list[list[int]]):
        self.mymem, self.path, self.grid = mymem, path, grid
        self.cells = list(itertools.product(*grid))
        self.stamp, self.measured = 0, {}

    def call(self, what: str, stop_at: int | None = None, foreign: str = "") -> dict:
        """Calls it again. Fails if a finished combination is run again, or one is left out."""
        args = self.path, self.grid, self.stamp, stop_at, foreign
        found = self.mymem.run(scenarios.swept, *args, catch=True)
        if isinstance(found, Raised):
            cut = "JSONDecodeError" in found.text and "cut" in what
            hint = first_of({"A line that a kill has cut short is no JSON": cut})
            require(False, f"{what}, sweep raised {found.text}{hint}")
        require_lines(found["end"], what)
        before = (found["files"] or [""])[0]
        hint = first_of({"Does each row end with a newline?": before[-1:] not in ("", "\n")})
        calls = [tuple(cell) for cell in found["calls"]]
        again = [cell for cell in calls if cell in self.measured]
        twice = [cell for cell in set(calls) if calls.count(cell) > 1]
        odd = [cell for cell in calls if cell not in self.cells]
        where = "(rank, length, seed) ="
        require(not odd, f"{what}, run was called with {odd[:1]}, which is not in the grid")
        message = f"{what}, {where} {again[:1]} was run again, although it was finished"
        require(not again, message + hint)
        require(not twice, f"{what}, {where} {twice[:1]} was run twice")
        for number_of, cell in enumerate(calls, start=1):
            self.measured[cell] = self.stamp + number_of
        self.stamp += 100
        if stop_at is None:
            left = sorted(set(self.cells) - set(self.measured))
            require(
                not left, f"{what}, {where} {left[:1]} was not run. Each seed is a run of its own"
            )
            self.require_rows(what, found)
        return found

    def require_rows(self, what: str, found: dict) -> None:
        """The rows that were returned, and those in the file, are those that were measured."""
        rows = found["rows"]
        message = f"{what}, the sweep should return a list of rows, not {kind_of(rows)}"
        require(isinstance(rows, (list, tuple)), message)
        for where, some in (("among the rows", rows), ("in the file", lines_in(found["end"]))):
            keys = [key(row) for row in some]
            twice = [cell for cell in self.cells if keys.count(cell) > 1]
            lost = [cell for cell in self.cells if cell not in keys]
            lists = f"(rank, length, seed) = {(lost or twice)[:1]}"
            glued = where == "in the file" and "kill" in what
            hint = ". Was it appended to the line that was cut short?" if glued else ""
            require(not lost, f"{what}, there is no row of {lists} {where}{hint}")
            require(not twice, f"{what}, there are two rows of {lists} {where}")
            stamps = {key(row): row.get("stamp") for row in some}
            changed = [cell for cell in self.cells if stamps[cell] != self.measured[cell]]
            message = f"{what}, the row of {changed[:1]} {where} is not the one that run returned"
            require(not changed, message)
        extra = [key(row) for row in rows if key(row) not in self.cells]
        message = f"{what}, the sweep returned a row of {extra[:1]}, which is not in the grid."
        require(not extra, f"{message} The file may hold rows of other combinations")


@rung(7)
def test_rung7_each_combination_is_run_once(mymem, seed, tmp_path):
    sweep = Sweep(mymem, tmp_path / "rows.jsonl", grid_of(seed))
    found = sweep.call("In a new file")
    for number_of, text in enumerate([*found["files"][1:], found["end"]], start=1):
        message = f"When {number_of} rows were finished, {len(lines_in(text))} were in the file."
        message += " Append each row as soon as run returns it, and close or flush the file"
        require(len(lines_in(text)) == number_of, message, keeps=0.5)
    require(not sweep.call("Called again")["calls"], "A finished sweep should run nothing")


def not_for_json(row: dict) -> list[str]:
    """The values of a row that json does not write."""
    odd = []
    for name, value in row.items():
        try:
            json.dumps(value)
        except TypeError:
            odd.append(f"{name} is {kind_of(value)}")
    return odd


@rung(7)
@points(0.5)
def test_rung7_a_sweep_of_your_own_cells(mymem, seed, tmp_path):
    grid = [[1, 2], [2], [whole(1, 10**6, drawn(seed))]]
    cells = list(itertools.product(*grid))
    row = row_of(mymem.run(scenarios.row_of_a_cell, MODEL, TOKENIZER, list(cells[0])))
    odd = not_for_json(row)
    message = f"The row of run_cell cannot be written as JSON: {', '.join(odd)}. Its values must be"
    require(not odd, f"{message} plain numbers, True or False: use .item()")
    path = tmp_path / "rows.jsonl"
    found = mymem.run(scenarios.sweep_of_own_cells, MODEL, TOKENIZER, path, grid)
    rows = found["rows"] if isinstance(found["rows"], (list, tuple)) else []
    require_lines(found["end"], "After a sweep of your own cells")
    for where, some in (("returned", rows), ("in the file", lines_in(found["end"]))):
        keys = [key(one) for one in some]
        message = f"After a sweep of your own cells {cells} (rank, length, seed), the rows {where}"
        require(sorted(map(str, keys)) == sorted(map(str, cells)), f"{message} are of {keys}")


@rung(7)
def test_rung7_a_killed_sweep_goes_on(mymem, seed, tmp_path):
    sweep = Sweep(mymem, tmp_path / "rows.jsonl", grid_of(seed))
    for stop_at in (whole(1, 4, drawn(seed)), 2):
        found = sweep.call("Before the kill", stop_at=stop_at)
        message = "Ctrl-C, a KeyboardInterrupt from run, did not stop the sweep. Do not catch it"
        require(found["killed"], message)
    sweep.call("After the kill")


@rung(7)
def test_rung7_a_line_that_was_cut_short(mymem, seed, tmp_path):
    sweep = Sweep(mymem, tmp_path / "rows.jsonl", grid_of(seed))
    sweep.call("Before the kill", stop_at=whole(2, 5, drawn(seed)))
    content = scenarios.text_of(sweep.path).encode().rstrip(b"\n")
    message = (
        "When the sweep was killed, no row was in the file. Append each as soon as it is there"
    )
    require(content, message)
    start = content.rfind(b"\n") + 1
    last = [key(row) for row in lines_in(content[start:].decode())]
    require(last in [[cell] for cell in sweep.cells], "The last line of the file is no row")
    sweep.path.write_bytes(content[: whole(start + 1, len(content) - 1, drawn(seed + 1))])
    del sweep.measured[last[0]]
    sweep.call("After a kill that cut the last line short")
    sweep.call("Called again after such a kill")


@rung(7)
def test_rung7_rows_of_other_combinations(mymem, seed, tmp_path):
    ranks, lengths, seeds = grid_of(seed)
    all_of_it = Sweep(mymem, tmp_path / "rows.jsonl", [ranks, lengths, seeds])
    all_of_it.call("In a new file")
    other = {"rank": 1000, "length": 1, "seed": 1, "parameters": 1, "recited": False}
    other |= {"base_loss": 9.0, "final_loss": 5.0, "stamp": -1}
    # Another process writes while the second sweep adds a rank to one of the lengths.
    part = Sweep(mymem, all_of_it.path, [[ranks[0], 500], lengths[:1], seeds])
    part.measured = {cell: s for cell, s in all_of_it.measured.items() if cell in part.cells}
    part.stamp = all_of_it.stamp
    found = part.call("For a part of the grid and a new rank", foreign=json.dumps(other) + "\n")
    there = {key(row) for row in lines_in(found["end"])}
    message = "A row that another process appended during the sweep is lost. Append to the file,"
    require(key(other) in there, f"{message} and never write all of it again")
    lost = [cell for cell in all_of_it.cells if cell not in there]
    require(not lost, f"The file has lost the row of (rank, length, seed) = {lost[:1]}")
