"""The picture of the recall law: the artists of each figure are read back."""

import math

import numpy as np
import pytest

from tinymem.errors import TinymemError
from tinymem.law.fit import fit_rows
from tinymem.show.plots import plot_law
from tinymem.show.recall import ends_of, plot_recall, shares_of

LIMITS = {"sft": 16, "memft-ot": 16, "margin": 40}  # tokens per rank


def rows_of(method, limit, **fields):
    """Two seeds, of which the second recites a little more."""
    rows = []
    for rank in (2, 4, 8):
        for length in (16, 32, 64, 128, 256, 512):
            for seed in (0, 1):
                recited = length <= rank * limit * (1 + 0.3 * seed)
                row = {"rank": rank, "length": length, "seed": seed, "recall_exact": recited}
                row |= {"trainable_parameters": 512 * rank, "entropy": 7.6, "delta_loss": 5.0}
                rows.append(
                    row | {"model": "tiny", "layer": 2, "site": "mlp", "method": method} | fields
                )
    return rows


def fits_of(**fields):
    rows = [row for method, limit in LIMITS.items() for row in rows_of(method, limit, **fields)]
    return fit_rows(rows, draws=10)[0]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    fits = fits_of()
    path = tmp_path_factory.mktemp("recall") / "recall.png"
    fig = plot_recall(fits, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    return {fit.key["method"]: fit for fit in fits}, fig


def curve(ax, method):
    (line,) = [line for line in ax.lines if str(line.get_label()).startswith(f"{method}: ")]
    return line


def test_each_method_has_its_curve_and_its_50_percent_point(drawn):
    fits, fig = drawn
    ax = fig.axes[0]
    assert ax.get_xlabel() == "load at middle rank (bits per parameter)"
    for method, fit in fits.items():
        line, law = curve(ax, method), fit.recall
        x, y = line.get_data()
        loads = x / law.bits_per_token
        assert np.allclose(y, 100 * law.predict(loads, 512 * 4))
        assert line.get_label() == f"{method}: {law.load_50 * law.bits_per_token:.2g}"
        bars = [one for one in ax.lines if one is not line and one.get_color() == line.get_color()]
        (bar,) = bars
        ends = np.array(law.ci["load_50"]) * law.bits_per_token
        assert np.allclose(bar.get_xdata(), ends) and abs(bar.get_ydata()[0] - 50) < 4
    assert len({curve(ax, method).get_color() for method in fits}) == 3
    assert len({curve(ax, method).get_linestyle() for method in fits}) == 3


def test_every_cell_is_a_dot(drawn):
    fits, fig = drawn
    for dots, method in zip(fig.axes[0].collections, ("sft", "memft-ot", "margin"), strict=True):
        found = sorted(map(tuple, np.round(dots.get_offsets(), 6)))
        shift = found[0][1] % 50  # methods are drawn a little apart
        shift -= 50 * (shift > 25)
        cells, law = shares_of(fits[method].rows), fits[method].recall
        unit = law.bits_per_token * law.load_50
        expected = sorted(
            (load * unit / law.half(P), 100 * share + shift) for P, load, share, _ in cells
        )
        assert np.allclose(found, expected) and len(cells) == 18 and abs(shift) < 3


def test_the_length_that_each_rank_recites(drawn):
    """sft, rank 4: 64 tokens by both seeds, 128 by none. margin, rank 8: 256, and 512 by none."""
    fits, fig = drawn
    (ax,) = [ax for ax in fig.axes if "rank r" in ax.get_xlabel()]
    for method, rank, ends in (("sft", 4, [64, 128]), ("margin", 8, [256, 512])):
        colour = curve(ax, method).get_color()
        bars = [
            line for line in ax.lines if line.get_color() == colour and len(line.get_xdata()) == 2
        ]
        (bar,) = [line for line in bars if abs(math.log(line.get_xdata()[0] / rank)) < 0.1]
        assert list(bar.get_ydata()) == ends
        halves = fits[method].recall.as_dict()["length_50"]
        assert np.allclose(curve(ax, method).get_ydata(), [halves[r] for r in "248"])


def test_the_ends_of_a_rank():
    rows = [
        {"length": n, "recall_exact": some} for n, some in ((1, 1), (2, 1), (2, 0), (3, 0), (4, 0))
    ]
    rows = [row | {"recall_exact": bool(row["recall_exact"])} for row in rows]
    assert ends_of(rows) == (1, 3)
    assert ends_of(rows[:1]) == (1, None) and ends_of(rows[3:]) == (None, 3)
    assert ends_of([{"length": 9}]) == (None, None)


def test_shares_of_cells():
    rows = [{"length": 8, "trainable_parameters": 4, "recall_exact": n == 0} for n in range(4)]
    assert shares_of([*rows, {"length": 8, "trainable_parameters": 4}]) == [(4, 2.0, 0.25, 4)]


def test_text_is_in_tokens_per_parameter(tmp_path):
    fig = plot_recall(fits_of(entropy=None), tmp_path / "a.svg")
    assert fig.axes[0].get_xlabel() == "load at middle rank (tokens per parameter)"


def test_without_a_power_law_the_picture_of_a_fit_has_the_recall_law(tmp_path):
    rows = [row for row in rows_of("sft", 16) if row["rank"] > 2]
    fig = plot_law(fit_rows(rows)[0], tmp_path / "a.png")
    assert fig.get_suptitle() == "tiny, layer 2, mlp, sft: no power law"
    labels = [ax.get_xlabel() for ax in fig.axes]
    assert "load at middle rank (bits per parameter)" in labels and not any(
        "measured" in label for label in labels
    )


def test_nothing_recited_is_nothing_to_draw(tmp_path):
    rows = [
        {"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5}
        for r in (1, 2, 4)
        for n in (9, 30, 80)
    ]
    with pytest.raises(TinymemError, match="nothing to draw"):
        plot_recall(fit_rows(rows, draws=5)[0], tmp_path / "a.png")
