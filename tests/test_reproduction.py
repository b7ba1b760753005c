"""The recorded measurements: the laws follow from the rows, and the page shows every picture."""

import json
import sys
from pathlib import Path

import numpy as np
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
    pages = (FOLDER / name for name in ("README.md", "recall.md"))
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    pictures = {path.name for path in FOLDER.glob("*.png")}
    assert pictures and all(f"]({name})" in text for name in pictures)


def test_the_page_about_the_paper_is_that_of_the_rows(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import paper

    text = (FOLDER / "paper.md").read_text(encoding="utf-8")
    assert paper.page() == text and "nan" not in text
    assert all(f"`{name}`" in text for name in ("tiny-methods", "tiny-transition", "tiny-places"))


def test_the_rank_correlation(monkeypatch):
    """By hand, with 1 − 6 Σ d² / (n (n² − 1)), and with equal values sharing their mean rank."""
    monkeypatch.syspath_prepend(FOLDER)
    from paper import spearman

    def of(firsts, errors, length=100):
        pairs = zip(firsts, errors, strict=True)
        rows = [{"first_uncertified": a, "first_error": b, "length": length} for a, b in pairs]
        return spearman(rows)

    assert of([1, 2, 3, 9], [0, 50, 70, 80]) == pytest.approx(1)
    assert of([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(1 - 6 * 4 / 60)
    assert of([1, 2, 3, None], [4, 3, 2, 1]) == pytest.approx(-1)  # none counts as the end
    assert of([0, 0, 1], [5, 7, None]) == pytest.approx(3**0.5 / 2)  # ranks 1.5, 1.5, 3
    assert np.isnan(of([0, 0, 0], [1, 2, 3])) and np.isnan(of([1, 2], [1, 2]))


def test_the_picture_of_learning_rates(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from draw import plot_rates

    def curve(ax, label):
        (line,) = [line for line in ax.lines if line.get_label() == label]
        return line

    rows = []
    for model, rank, lr, steps, seed in np.ndindex(2, 2, 3, 2, 2):
        loss = (1 + lr) / (1 + steps) + 0.1 * seed
        row = {
            "model": f"m{model}",
            "rank": rank + 1,
            "length": 64,
            "final_loss": loss,
            "status": "ok",
        }
        rows.append(row | {"lr": 10.0 ** (lr - 3), "steps": 300 * (steps + 1)})
    rows.append(rows[0] | {"lr": 3.0, "final_loss": 99.0, "status": "diverged"})
    fig = plot_rates(rows, tmp_path / "a.png", marks={"m0": 0.01})
    assert len(fig.axes) == 4
    ax, other = (fig.axes[n] for n in (0, 2))  # of the two models, both at rank 1
    assert (ax.get_title(), other.get_title()[:10]) == ("m0, rank 1, 64 tokens", "m1, rank 1")
    assert curve(ax, "600").get_xydata().tolist() == pytest.approx(
        np.array([(0.001, 0.55), (0.01, 1.05), (0.1, 1.55)])
    )
    assert curve(ax, "default: 0.01").get_xdata() == [0.01, 0.01]
    assert curve(ax, "diverged").get_xdata().tolist() == [3.0]
    assert 3.0 not in curve(ax, "300").get_xdata()  # although it has a final loss
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["0.001", "0.01", "0.1", "3"] and ax.get_xscale() == ax.get_yscale() == "log"
    assert not any("default" in str(line.get_label()) for line in other.lines)
    only = [row | {"status": "diverged", "final_loss": None} for row in rows[:2]]
    assert len(plot_rates(only, tmp_path / "b.png").axes) == 1


def test_the_page_about_recall_is_that_of_its_rows(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "recall", raising=False)
    import recall

    text = (FOLDER / "recall.md").read_text(encoding="utf-8")
    assert text.split(recall.MARK)[1] == "\n\n" + "\n\n".join(recall.sections()) + "\n"
    shipped = recall.capacity.PATH.read_text(encoding="utf-8")
    assert recall.shipped_law() == shipped  # the law that `tinymem judge` shows
