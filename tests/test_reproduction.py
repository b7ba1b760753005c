"""The recorded measurements: the laws follow from the rows, and the page shows every picture."""

import json
from pathlib import Path

import pytest

from tinymem.experiment.rows import read_rows
from tinymem.law.fit import fit_rows

FOLDER = Path(__file__).parents[1] / "tutorials" / "reproduction"
LAWS = json.loads((FOLDER / "laws.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", LAWS)
def test_a_recorded_law_is_that_of_its_rows(name):
    rows, _ = read_rows(FOLDER / "rows" / f"{name.removesuffix('-from-64')}.jsonl")
    fits, _ = fit_rows(
        [row for row in rows if row["length"] >= 64 * name.endswith("-from-64")],
        offset=LAWS[name][0]["offset"],
        draws=10,
    )
    assert len(fits) == len(LAWS[name])
    for fit, recorded in zip(fits, LAWS[name], strict=True):
        law = fit.as_dict()
        for field in ("C", "alpha", "beta", "b", "r2", "mape"):
            assert law[field] == pytest.approx(recorded[field], rel=1e-4), field
        assert (law["n"], law["n_saturated"]) == (recorded["n"], recorded["n_saturated"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("rows/*.jsonl")), ids=lambda path: path.stem)
def test_rows_are_whole(path):
    rows, torn = read_rows(path)
    assert rows and not torn
    assert all(row["status"] == "ok" and row["setting_hash"] for row in rows)
    assert not any("/" in row["model"] for row in rows)  # names of models, not paths


def test_every_picture_is_shown_and_is_there():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    pictures = {path.name for path in FOLDER.glob("*.png")}
    assert pictures and all(f"]({name})" in text for name in pictures)
