"""Pictures: what is drawn is what was measured. The artists of each figure are read back."""

import math
import re
import sys
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from tinymem.errors import TinymemError
from tinymem.show.axes import BLUE, METHOD_LOOKS, ORANGE, RED, figure
from tinymem.show.plots import heat_map, plot_law, plot_methods, plot_run
from tinymem.training.memft import LN2
from tinymem.training.recipe import METHODS
from tinymem.training.record import Training

RANKS, LENGTHS, SEEDS = (1, 2, 4, 8, 16), (16, 32, 64, 128, 256), (0, 1, 2)
L0, H = 12.5, 7.6
SMALL = {"ranks": (1, 4, 16), "lengths": (16, 64, 256), "seeds": (0,)}


def planted(ranks=RANKS, lengths=LENGTHS, seeds=SEEDS, *, gain=1.0, **fields) -> list[dict]:
    """Rows of a sweep that follows ΔL = 35 r^0.4 ℓ^−0.35, with 3 % noise, up to nearly L₀."""
    random, rows = np.random.default_rng(0), []
    for rank, length, seed in ((r, n, s) for r in ranks for n in lengths for s in seeds):
        law = gain * 35 * rank**0.4 * length**-0.35 * math.exp(random.normal(0, 0.03))
        delta = min(law, L0 - 0.1 - random.uniform(0, 0.02))
        loss, parameters = L0 - delta, 512 * rank
        memorized = max(0.0, H - loss) * length / LN2
        row = {
            "model": "tiny",
            "rank": rank,
            "length": length,
            "ratio": 100,
            "layer": 2,
            "site": "mlp",
        }
        row |= {"method": "sft", "seed": seed, "memories": 1, "trainable_parameters": parameters}
        row |= {"base_loss": L0, "entropy": H, "final_loss": loss, "delta_loss": delta}
        row |= {
            "bits_per_parameter": delta * length / LN2 / parameters,
            "memorized_bits": memorized,
        }
        row |= {
            "memorized_bits_per_parameter": memorized / parameters,
            "converged": random.random() > 0.1,
        }
        share = 1.0 if loss < 0.4 else math.exp(-loss / 3)
        row |= {"certified_fraction": share, "certified": share == 1, "exact_match": share**3}
        rows.append(row | {"token_accuracy": share**2, "status": "ok"} | fields)
    return rows


def power_law(C: float = 35.0, b: float = 0.0) -> SimpleNamespace:
    """What pictures ask of a law."""
    law = SimpleNamespace(
        C=C, alpha=0.4, beta=0.35, b=b, r2=0.9876, mape=3.21, n=40, n_saturated=35
    )
    law.predict = lambda rank, length: C * np.power(rank, 0.4) * np.power(length, -0.35) + b
    return law


def constant_bits() -> SimpleNamespace:
    law = SimpleNamespace(kappa=0.5, r2=0.95, mape=8.76)
    law.predict = lambda P, length, base, entropy: np.minimum(
        base, base - entropy + law.kappa * P * LN2 / length
    )
    return law


def fitted(rows: list[dict], **fields) -> SimpleNamespace:
    """What `tinymem fit` makes of rows, as far as pictures ask for it."""
    saturated = [row.get("final_loss", math.inf) <= LN2 for row in rows]
    key = {name: rows[0].get(name) for name in ("model", "layer", "site", "method")}
    parts = {
        "key": key,
        "rows": rows,
        "saturated": saturated,
        "law": power_law(),
        "bits": "not random",
        "recall": "not judged",
    }
    return SimpleNamespace(**parts | {"by_ratio": {}} | fields)


def panel(fig, title: str):
    """The one panel with this in its title."""
    (ax,) = [ax for ax in fig.axes if title in ax.get_title()]
    return ax


def points(ax) -> list[tuple]:
    """(x, y, the artist) of its points: of lines without a line."""
    sets = [line for line in ax.lines if line.get_linestyle() == "None"]
    return [(x, y, line) for line in sets for x, y in zip(*line.get_data(), strict=True)]


def curve(ax, label: str):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def frames(ax) -> Counter:
    """(x, y) of the framed cells of a heat map."""
    return Counter(tuple(np.round(line.get_xydata()[:4].mean(0)).astype(int)) for line in ax.lines)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A fit with everything in it, and its figure."""
    fit = fitted(planted(), bits=constant_bits())
    path = tmp_path_factory.mktemp("law") / "law.png"
    fig = plot_law([fit], path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 50_000
    return fit, fig


@pytest.mark.parametrize(("x", "series"), [("rank", "length"), ("length", "rank")])
def test_every_cell_is_a_point_and_the_lines_are_the_law(full, x, series):
    fit, fig = full
    ax = panel(fig, f"against {x}")
    drawn = {(x, y): line for x, y, line in points(ax)}
    assert len(points(ax)) == len(fit.rows)
    assert set(drawn) == {(row[x], row["delta_loss"]) for row in fit.rows}
    for row, saturated in zip(fit.rows, fit.saturated, strict=True):
        line = drawn[row[x], row["delta_loss"]]
        assert (line.get_markerfacecolor() == "none") == saturated
        assert line.get_marker() == ("o" if row["converged"] else "^")
    assert 0 < sum(fit.saturated) < len(fit.rows) and not all(row["converged"] for row in fit.rows)
    for value in {row[series] for row in fit.rows}:
        line = curve(ax, str(value))
        at = {x: line.get_xdata(), series: value}
        assert np.allclose(line.get_ydata(), fit.law.predict(at["rank"], at["length"]))
        of_value = [row for row in fit.rows if row[series] == value]
        assert {drawn[row[x], row["delta_loss"]].get_color() for row in of_value} == {
            line.get_color()
        }
    assert [label.get_text() for label in ax.get_xticklabels()] == [
        str(value) for value in (RANKS if x == "rank" else LENGTHS)
    ]


def test_predicted_against_measured(full):
    fit, fig = full
    ax = next(ax for ax in fig.axes if ax.get_xlabel().startswith("measured"))
    kept = [row for row, saturated in zip(fit.rows, fit.saturated, strict=True) if not saturated]
    power, bits = (line for line in ax.lines if line.get_linestyle() == "None")
    expected = fit.law.predict([row["rank"] for row in kept], [row["length"] for row in kept])
    assert np.array_equal(power.get_xdata(), [row["delta_loss"] for row in kept])
    assert np.allclose(power.get_ydata(), expected) and len(bits.get_ydata()) == len(kept)
    assert bits.get_ydata()[0] == pytest.approx(
        L0 - H + fit.bits.kappa * kept[0]["trainable_parameters"] * LN2 / kept[0]["length"]
    )
    assert power.get_color() != bits.get_color()
    assert power.get_label() == "power law: R² 0.988, mean error 3.2 %"
    assert bits.get_label() == "constant bits: R² 0.950, mean error 8.8 %"
    (diagonal,) = [line for line in ax.lines if line not in (power, bits)]
    assert np.array_equal(diagonal.get_xdata(), diagonal.get_ydata())


@pytest.mark.parametrize(
    ("title", "field", "form"),
    [("final loss", "final_loss", "{:.2f}"), ("decoding", "token_accuracy", "{:.0f}")],
)
def test_heat_maps_show_the_means_of_the_seeds(full, title, field, form):
    fit, fig = full
    ax = panel(fig, title)
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    framed = Counter()
    for (x, length), (y, rank) in ((a, b) for a in enumerate(LENGTHS) for b in enumerate(RANKS)):
        seeds = [row for row in fit.rows if (row["rank"], row["length"]) == (rank, length)]
        mean = np.mean([row[field] for row in seeds]) * (100 if field == "token_accuracy" else 1)
        assert texts.pop((x, y)) == form.format(mean)
        assert ax.images[0].get_array()[y, x] == pytest.approx(mean)
        framed[x, y] += (
            mean <= LN2 if field == "final_loss" else all(row["certified"] for row in seeds)
        )
    assert not texts and frames(ax) == +framed and 0 < sum(framed.values()) < 25


def test_almost_all_tokens_right_is_not_shown_as_all():
    rows = [row | {"token_accuracy": 0.999, "certified": False} for row in planted(**SMALL)]
    heat_map(ax := figure(1).subplots(), rows, "token_accuracy", "")
    assert {text.get_text() for text in ax.texts} == {"99"} and not frames(ax)


def test_a_cell_that_is_missing_stays_empty_and_ln_2_is_framed():
    rows = [row for row in planted(**SMALL) if (row["rank"], row["length"]) != (4, 64)]
    rows = [row | {"final_loss": LN2 if row["rank"] == 4 else LN2 + 0.001} for row in rows]
    heat_map(ax := figure(1).subplots(), rows, "final_loss", "")
    assert set(frames(ax)) == {(0, 1), (2, 1)}  # of rank 4
    assert len(ax.texts) == 8 and np.isnan(ax.images[0].get_array().filled(np.nan)[1, 1])


def test_bits_per_parameter_beside_the_yardsticks(full):
    fit, fig = full
    ax = panel(fig, "memorized bits per parameter")
    for rank in RANKS:
        line = curve(ax, str(rank))
        for length, mean in line.get_xydata():
            seeds = [row for row in fit.rows if (row["rank"], row["length"]) == (rank, length)]
            assert mean == pytest.approx(
                np.mean([row["memorized_bits_per_parameter"] for row in seeds])
            )
    assert len(points(ax)) == len(fit.rows)
    bands = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in ax.patches]
    assert np.allclose(bands, [(0.7, 1.7), (2, 2), (3.6, 3.6)])
    words = " ".join(text.get_text() for text in ax.texts)
    assert all(name in words for name in ("Kuratov", "Allen-Zhu", "Morris"))
    low, high = ax.get_ylim()
    assert low < 0.05 and high > 3.6


def test_labels_have_units_and_do_not_overlap(full, tmp_path):
    ranks, lengths = (
        (1, 2, 3, 4, 6, 8, 12, 14, 16, 32, 48, 64),
        (16, 24, 32, 48, 64, 128, 512, 1024, 1152, 2048),
    )
    many = fitted(planted(ranks, lengths, (0,)))
    for fig in (full[1], plot_law([many], tmp_path / "a.png")):
        for ax in fig.axes:
            for axis in (ax.xaxis, ax.yaxis):
                assert re.search(
                    r"nats|tokens|rank r|bits per parameter", axis.get_label().get_text()
                )
                labels = [label for label in axis.get_ticklabels() if label.get_text()]
                boxes = [label.get_window_extent() for label in labels]
                assert len(labels) > 1
                assert not any(a.overlaps(b) for a, b in pairwise(boxes))
                assert all(re.fullmatch(r"[\d,.]+", label.get_text()) for label in labels)


def test_the_title_is_the_law(full):
    formula = "$ΔL = 35\\;r^{0.40}\\;ℓ^{-0.35}$"
    counts = "fitted to 40 runs; 35 saturated ones left out"
    assert full[1].get_suptitle() == f"tiny, layer 2, mlp, sft:   {formula}\n{counts}"


def test_text_an_offset_and_a_strange_name(tmp_path):
    """Stored bits where memorized ones are unknown; negative predictions and dollars do no harm."""
    rows = planted(**SMALL, ratio=0, entropy=None, memorized_bits_per_parameter=None)
    rows = [row | {"model": "$HOME/a_$b", "layer": [1, 2]} for row in rows]
    fig = plot_law([fitted(rows, law=power_law(1234.5, b=-5.0))], tmp_path / "a.png")
    assert r"$ΔL = 1,234\;r^{0.40}\;ℓ^{-0.35}-5$" in fig.get_suptitle()
    ax = panel(fig, "stored bits per parameter")
    assert curve(ax, "1").get_ydata()[0] == rows[0]["bits_per_parameter"]


def test_rows_by_hand_have_three_panels(tmp_path):
    names = "rank", "length", "delta_loss"
    rows = [
        {name: row[name] for name in names} for row in planted(**SMALL) if row["final_loss"] > LN2
    ]
    fig = plot_law([fitted(rows)], tmp_path / "law.pdf")
    assert len(fig.axes) == 3 and len(points(fig.axes[0])) == len(rows)
    assert (tmp_path / "law.pdf").read_bytes().startswith(b"%PDF")


def test_of_several_ratios_the_one_with_most_rows_is_named(tmp_path):
    half = planted(**SMALL, gain=0.6, ratio=50)
    rows, own = planted(**SMALL | {"seeds": (0, 1)}) + half, power_law(C=21.0)
    for ratio, count, other in ((100, 18, {50: own}), (50, 9, {50: own})):
        some = rows if ratio == 100 else rows[:18:3] + half
        fig = plot_law([fitted(some, by_ratio=other)], tmp_path / "a.png")
        ax = panel(fig, f"against rank, {ratio} % random")
        assert len(points(ax)) == count
    line = curve(ax, "16")
    assert np.allclose(
        line.get_ydata(), own.predict(line.get_xdata(), 16)
    )  # its own law, not the common one
    ax = panel(fig, "by ratio, 64 tokens")
    assert {x for line in ax.lines for x in line.get_xdata()} == {50, 100}


def compared() -> list[dict]:
    gains = zip(METHODS, (1.0, 1.3, 1.15, 1.2), strict=True)
    return [
        row
        for method, gain in gains
        for row in planted(lengths=(16, 64, 256), gain=gain, method=method)
    ]


def test_methods_side_by_side(tmp_path):
    rows = compared()
    fits = [fitted([row for row in rows if row["method"] == method]) for method in METHODS]
    fits.append(fitted(planted(layer=1)))  # another layer: not for comparison
    fig = plot_law(fits, tmp_path / "law.png")
    alone = plot_methods(rows, tmp_path / "methods.svg")
    assert len(fig.axes) == 9 and len(alone.axes) == 3
    assert "<svg" in (tmp_path / "methods.svg").read_text(encoding="utf-8")
    fields = zip(("token_accuracy", "certified_fraction", "final_loss"), (100, 100, 1), strict=True)
    for number, (field, scale) in enumerate(fields):
        for ax in (fig.axes[6 + number], alone.axes[number]):
            assert (
                ax.get_title() == "64 tokens, 100 % random, one memory"
            )  # of equally many, the middle length
            for band, method in zip(ax.collections, sorted(METHODS), strict=True):
                line = curve(ax, method)
                assert tuple(line.get_xdata()) == RANKS
                for rank, mean in line.get_xydata():
                    seeds = [
                        r
                        for r in rows
                        if (r["rank"], r["length"], r["method"]) == (rank, 64, method)
                    ]
                    values = [scale * row[field] for row in seeds]
                    assert mean == pytest.approx(np.mean(values))
                    corners = [y for x, y in band.get_paths()[0].vertices if x == rank]
                    assert (min(corners), max(corners)) == pytest.approx((min(values), max(values)))


def test_every_method_has_its_own_colour_and_marker():
    assert METHOD_LOOKS.keys() == set(METHODS)
    for look in zip(*METHOD_LOOKS.values(), strict=True):
        assert len(set(look)) == len(METHODS)


def test_the_phone_book_is_also_judged_by_whole_memories(tmp_path):
    rows = [row | {"memories": row["length"] // 8} for row in compared()]
    fig = plot_methods(rows, tmp_path / "a.png")
    assert fig.axes[0].get_ylabel() == "memories recited whole (%)"
    assert len(fig.axes) == 4 and "8 memories" in fig.axes[0].get_title()


def test_methods_where_fields_are_missing(tmp_path):
    rows = [{"method": "sft", "rank": rank, "final_loss": 1 / rank} for rank in (1, 2)]
    (ax,) = plot_methods(rows, tmp_path / "a.png").axes
    assert curve(ax, "sft").get_xydata().tolist() == [[1, 1], [2, 0.5]]
    for nothing in ([], [{"rank": 1}], [{"rank": 1, "method": "sft", "final_loss": None}]):
        with pytest.raises(TinymemError, match="nothing to draw"):
            plot_methods(nothing, tmp_path / "b.png")


def run_of(p: np.ndarray) -> SimpleNamespace:
    """A run with this p [looks, tokens]."""
    trace = [(10 * n, row.tolist()) for n, row in enumerate(p)]
    shares = {"certified": [0.0, 0.5, 1.0], "recited": [np.nan, np.nan, np.nan]}
    training = Training(losses=[3.0, 2.0, 1.0], trace=trace, **shares)
    report = {"model": "tiny", "rank": 4, "length": p.shape[1], "method": "sft"}
    verdict = SimpleNamespace(probabilities=p[-1].tolist(), margins=(10 * p[-1] - 2).tolist())
    return SimpleNamespace(report=report, training=training, verdict=verdict)


def test_every_token_crosses_one_half_for_itself(tmp_path):
    p = np.linspace(0, 1, 20)[:, None] * np.linspace(0.1, 0.9, 30)
    p[0] = np.linspace(0.02, 0.01, 30)  # what ends lowest did not start lowest
    fig = plot_run(run_of(p), tmp_path / "run.png")
    assert fig.get_suptitle() == "tiny, rank 4, 30 tokens, sft"
    ax = next(ax for ax in fig.axes if ax.get_ylabel() == "p of each target token")
    (tokens,) = [part for part in ax.collections if isinstance(part, LineCollection)]
    assert np.allclose([path[:, 1] for path in tokens.get_segments()], p.T)
    assert [to_hex(c).upper() for c in tokens.get_colors()] == [
        BLUE if q > 0.5 else ORANGE for q in p[-1]
    ]
    assert curve(ax, "lowest at the end").get_ydata().tolist() == p[:, 0].tolist()
    assert curve(ax, "median").get_ydata()[-1] == pytest.approx(0.5)
    assert [0.5, 0.5] in [list(line.get_ydata()) for line in ax.lines]
    assert any(text.get_text() == "p = ½" and text.xy[1] == 0.5 for text in ax.texts)
    last = panel(fig, "26 of 30 margins above 0, lowest −1")
    heights = [patch.get_data().values for patch in last.patches]
    margins = 10 * p[-1] - 2
    assert np.allclose(np.sum(heights, axis=0), margins)
    right = (margins > 0) & (p[-1] > 0.5), (margins > 0) & (p[-1] <= 0.5), margins <= 0
    for patch, colour, some in zip(last.patches, (BLUE, ORANGE, RED), right, strict=True):
        assert to_hex(patch.get_facecolor()).upper() == colour
        assert (patch.get_data().values[~some] == 0).all() and some.any()


def test_the_share_of_recited_tokens_is_drawn_where_it_was_measured(tmp_path):
    run = run_of(np.full((1, 4), 0.7))
    for recited, names in (([np.nan] * 3, ["p > ½"]), ([0.2, 0.4, 1.0], ["p > ½", "margin > 0"])):
        run.training.recited = recited
        fig = plot_run(run, tmp_path / "a.png")
        shares = next(ax for ax in fig.axes if "share" in ax.get_ylabel())
        assert [line.get_label() for line in shares.lines] == names
        assert np.allclose(shares.lines[0].get_ydata(), [0, 50, 100])
    assert np.allclose(shares.lines[1].get_ydata(), [20, 40, 100])


def test_thousands_of_tokens_are_bands(tmp_path):
    p = np.random.default_rng(0).uniform(size=(20, 2000))
    fig = plot_run(run_of(p), tmp_path / "run.png")
    ax = next(ax for ax in fig.axes if ax.get_ylabel() == "p of each target token")
    assert [band.get_label()[:2] for band in ax.collections] == ["98", "80", "50"]
    assert max(y for _, y in ax.collections[1].get_paths()[0].vertices) == pytest.approx(
        np.percentile(p, 90, axis=1).max()
    )
    assert len(points(fig.axes[-1])) == 2000


def test_a_run_that_ended_early_shows_what_there_is(tmp_path):
    run = run_of(np.full((1, 4), 0.7))
    assert len(plot_run(run, tmp_path / "a.png").axes) == 4  # one of them is the right-hand scale
    run.training.trace, run.verdict = [], None
    assert len(plot_run(run, tmp_path / "a").axes) == 2
    assert (tmp_path / "a").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TinymemError, match=r"need matplotlib: pip install matplotlib$"):
        plot_methods(compared(), tmp_path / "a.png")


def test_one_rank_one_length_one_seed(tmp_path):
    (ax, *_) = plot_methods(planted((4,), (32,), (0,)), tmp_path / "a.png").axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4"]
