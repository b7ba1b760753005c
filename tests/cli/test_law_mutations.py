"""Rows that no sweep wrote: `fit` and `plan` answer, or say in one line what is wrong.

Oracle: numpy, whose warnings are errors here, and a strict JSON reader.
"""

import copy
import json
import math
import random
import warnings

import pytest

from tinymem.errors import TinymemError
from tinymem.law.fit import fit_rows
from tinymem.law.power import fit_law

DEEP = json.loads("[" * 300 + "]" * 300)
JUNK = [None, True, False, 0, -1, 1, 8.0, 8.5, 1e200, 1e300, -1e300, 1e-300, 5e-324, -0.0, 1e13]
JUNK += [math.nan, math.inf, -math.inf, 10**18, 10**400, -(2**70), "8", "", "NaN", "1e300", "ok"]
JUNK += [[], [1], [8.0, None], {}, {"a": {"b": [1]}}, DEEP, "x" * 500, "\x1b[2J\n", 12.0, 0.5]
FACTORS = [1e-320, 1e-200, 1e-13, 1e-6, 1e6, 1e11, 1e30, 1e200, 1e300, -1, -1e300, 0]


def planted() -> list[dict]:
    rows, noise = [], random.Random(0)
    for rank in (1, 2, 4, 8):
        for length in (16, 32, 64, 128):
            delta = min(14 * rank**0.5 * length**-0.4 * (1 + noise.gauss(0, 0.01)) + 0.8, 11.8)
            row = {"rank": rank, "length": length, "delta_loss": delta, "base_loss": 12.0}
            row |= {"final_loss": 12 - delta, "min_probability": delta / 12, "ratio": 100}
            row |= {"trainable_parameters": 512 * rank, "entropy": 7.6, "status": "ok", "seed": 0}
            row |= {"model": "tiny", "layer": 2, "site": "mlp", "method": "sft"}
            rows.append(row | {"recall_exact": delta > 9, "converged": True})
    return rows


def one_mutation(rows: list, g: random.Random) -> list:
    """A few fields, a whole column, fields that are gone, numbers of another size, other rows."""
    kind, names = g.randrange(5), list(rows[0])
    if kind == 0:
        for _ in range(g.randint(1, 2)):
            g.choice(rows)[g.choice(names)] = g.choice(JUNK)
    elif kind == 1:
        name, values = g.choice(names), g.choices(JUNK, k=g.randint(1, 3))
        for row in rows:
            row[name] = g.choice(values)
    elif kind == 2:
        for name in g.sample(names, g.randint(1, 10)):
            for row in rows:
                if g.random() < 0.9:
                    del row[name]
    elif kind == 3:
        name, factor = g.choice(["trainable_parameters", "entropy", *names[:6]]), g.choice(FACTORS)
        for row in rows:
            row[name] *= factor
    else:
        rows[g.randrange(len(rows))] = g.choice(JUNK)
    return rows[: g.randint(1, 16)] if g.random() < 0.2 else rows


def mutations(count: int, seed: int):
    for number in range(count):
        g = random.Random(f"{seed} {number}")
        yield number, g, one_mutation(planted(), g)


def test_mutated_rows_give_a_law_or_a_law_error():
    """100 mutated grids through the two functions."""
    found = {True: 0, False: 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, g, rows in mutations(100, seed=0):
            before, good = copy.deepcopy(rows), True
            columns = [
                [row.get(name) if isinstance(row, dict) else row for row in rows]
                for name in ("rank", "length", "delta_loss")
            ]
            for call in (
                lambda rows=rows: fit_rows(rows, draws=4),
                lambda c=columns, g=g: fit_law(*c, draws=4, offset=g.random() < 0.5),
            ):
                try:
                    call()
                except TinymemError as error:
                    good = False
                    assert len(str(error)) < 600 and "\n" not in str(error), number
            found[good] += 1
            assert repr(before) == repr(rows), number  # the caller's rows stay as they are
    assert min(found.values()) > 20


MODES = ["fit", "fit --json", "fit --no-offset --json", "plan --length 100 --json"]
MODES += ["plan --length 100 --loss 3 --json", "plan --rank 4 --loss 5", "plan --rank 4 --json"]
MODES += ["plan --length 60 --recite 0.9 --json", "plan --rank 4 --recite 0.5"]


def no_constant(name: str):
    raise AssertionError(f"{name} in JSON")


def test_mutated_files_give_an_answer_or_one_line(tinymem, tmp_path):
    """The same for files and the two commands, in each of their modes."""
    path, codes = tmp_path / "rows.json", []
    for number, _, rows in mutations(27, seed=1):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(json.dumps(rows, indent=1) if number % 4 == 0 else lines)
        command, *options = MODES[number % len(MODES)].split()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            code, out, err = tinymem(command, path, *options)
        codes.append(code)
        assert code in (0, 2) and err.count("\n") == (code == 2), (number, err)
        assert bool(out) == (code == 0) and "Infinity" not in out, number
        if code == 2 and "line" not in err:  # about all rows, not about one
            assert any(word in err for word in ("rows", "runs", "law", "cells", "loss")), err
        if code == 0 and "--json" in options:
            json.loads(out, parse_constant=no_constant)
    assert min(map(codes.count, (0, 2))) > 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rank,length,delta_loss\n1,2,3\n", "line 1: not JSON (Expecting value"),
        ('{\n  "rank": 1,\n  "length": 2\n}\n', "line 2: not JSON"),
        ("rank: 1\nlength: 2\n", "line 1: not JSON"),
        ("\x93NUMPY\x01", "line 1: not JSON"),
        ('[{"rank": 1}\n, 3]', "line 2: not a JSON object"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_other_formats_are_named_with_what_is_expected(tinymem, tmp_path, text, words):
    (tmp_path / "rows").write_text(text, encoding="utf-8")
    for more in (["fit"], ["plan", "--length", "9"]):
        code, out, err = tinymem(more[0], tmp_path / "rows", *more[1:])
        err = "".join(line for line in err.splitlines(True) if ": torn" not in line)
        assert code == 2 and not out and err.count("\n") == 1 and words in err
        assert "expected one JSON object a line, or the JSON array that sweep --json prints" in err


def test_fit_reads_what_sweep_prints(tinymem, tmp_path):
    args = ["--ranks", "1,2,3", "--lengths", "4,6,8", "--steps", "2", "--out", tmp_path / "grid"]
    code, out, _ = tinymem("sweep", *args, "--json")
    assert code == 0
    (tmp_path / "rows.json").write_text(out)
    by_line = tinymem("fit", tmp_path / "grid", "--json")
    assert by_line[0] == 0 and by_line == tinymem("fit", tmp_path / "rows.json", "--json")
    plans = [
        tinymem("plan", place, "--length", 8, "--loss", 10, "--json")
        for place in (tmp_path / "grid", tmp_path / "rows.json")
    ]
    assert plans[0][0] == 0 and plans[0] == plans[1]
