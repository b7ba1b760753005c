"""The recall law. Oracles: planted curves, cases by hand, coverage in simulation."""

import json
import math

import numpy as np
import pytest

from tinymem.errors import LawError
from tinymem.files import json_text
from tinymem.law.fit import fit_rows
from tinymem.law.power import Law
from tinymem.law.recall import compare_loads, fit_recall, is_recited, recall_of

LN2 = math.log(2)


def p_recited(load, load_50, s):
    return 1 / (1 + (load / load_50) ** s)


def runs(load_50=0.06, s=8.0, n=4000, seed=0):
    """30 loads from a sixth to six times load_50, and whether each run was recited."""
    random = np.random.default_rng(seed)
    loads = load_50 * np.exp(random.choice(np.linspace(-1.8, 1.8, 30), n))
    return loads, random.random(n) < p_recited(loads, load_50, s), np.ones(n)


def row(rank, length, recited, entropy=7.6, **fields):
    parameters = {"rank": rank, "length": length, "trainable_parameters": 512 * rank}
    return parameters | {"entropy": entropy, "recall_exact": recited, "delta_loss": 5.0} | fields


# --- The curve -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("load_50", "s"), [(0.06, 3.0), (0.06, 8.0), (1.5, 20.0)])
def test_a_planted_curve_is_found(load_50, s):
    law = fit_recall(*runs(load_50, s, seed=1))
    assert law.load_50 == pytest.approx(load_50, rel=0.03) and law.s == pytest.approx(s, rel=0.1)
    for name, truth in (("load_50", load_50), ("s", s)):
        assert law.ci[name][0] < truth < law.ci[name][1]
    loads = load_50 * np.array([0.5, 1.0, 1.3])
    assert law.predict(loads, 1) == pytest.approx(p_recited(loads, law.load_50, law.s))
    assert law.width == pytest.approx(81 ** (1 / law.s)) and not law.separated


def test_the_width_by_hand():
    """s = 2: 1 / (1 + 3²) = 10 % at three times load_50, 90 % at a third of it: a ratio of 9."""
    law = fit_recall(*runs(1.0, 2.0))
    high, low = law.load_50 * math.sqrt(law.width), law.load_50 / math.sqrt(law.width)
    assert law.predict([low, high], 1) == pytest.approx([0.9, 0.1])
    assert law.width == pytest.approx(9, rel=0.2)


def test_loads_in_another_unit_give_the_same_curve():
    loads, *others = runs(n=60)
    one, other = fit_recall(loads, *others), fit_recall(11 * loads, *others)
    assert other.load_50 == pytest.approx(11 * one.load_50, rel=1e-6) and other.s == one.s
    assert other.chance(0.55, 1) == pytest.approx(float(one.chance(0.05, 1)), abs=1e-3)


def test_separated_runs_have_a_finite_curve_and_an_interval_that_spans_the_gap():
    for number in (4, 12):
        loads = [0.01, 0.02, 0.03, 0.06, 0.08, 0.1] * number
        law = fit_recall(loads, [load < 0.05 for load in loads], [9] * len(loads))
        low, high = law.ci["load_50"]
        assert law.separated and 0.03 < law.load_50 < 0.06 and math.isfinite(law.s)
        assert low <= 0.03 * 1.01 and high >= 0.06 / 1.01
        assert law.ci["s"][1] == math.inf and law.deviance == pytest.approx(0, abs=1e-6)
        assert "Infinity" not in json_text(law.as_dict())


@pytest.mark.parametrize(
    ("recited", "words"),
    [
        (True, "all 3 runs are recited: the limit is above 0.05 tokens"),
        (False, "none of 3 runs is recited: the limit is below 0.01 tokens"),
    ],
)
def test_without_both_outcomes_there_is_a_bound(recited, words):
    with pytest.raises(LawError, match=f"^{words}$"):
        fit_recall([0.01, 0.02, 0.05], [recited] * 3, [9] * 3, unit="tokens")


@pytest.mark.parametrize("loads", [[1, 2], [1, 2, 0], [1, 2, math.nan]])
def test_bad_loads(loads):
    with pytest.raises(LawError, match="load and parameters above 0"):
        fit_recall(loads, [True, False, True], [9] * len(loads))


# --- Uncertainty ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "spread", "seeds"), [(5, 0.15, 2), (10, 0.15, 5), (80, 0, 2)])
def test_the_interval_covers_the_planted_50_percent_point(s, spread, seeds):
    """24 or 60 runs of 12 cells, whose ln load_50 deviates by `spread`. Runs of s = 80 are nearly
    always separated.
    """
    random, covered, count = np.random.default_rng(1), 0, 60
    lengths = (24, 32, 48, 64)
    grid = np.array([(r, n) for r in (2, 3, 4) for n in lengths for _ in range(seeds)])
    loads, cells = grid[:, 1] / grid[:, 0], grid[:, 0] * 1000 + grid[:, 1]
    for _ in range(60):
        truth = 16 * random.uniform(0.7, 1.4)
        shift = dict(zip(np.unique(cells), np.exp(random.normal(0, spread, 99)), strict=False))
        points = truth * np.array([shift[cell] for cell in cells])
        recited = random.random(len(loads)) < p_recited(loads, points, float(s))
        if recited.all() or not recited.any():
            count -= 1
            continue
        low, high = fit_recall(loads, recited, np.ones(len(loads)), cells=cells).ci["load_50"]
        covered += low <= truth <= high
    assert covered / count >= 0.92


def test_runs_of_a_cell_that_always_agree_widen_the_interval():
    """Ten copies of every run are no more information than one."""
    columns = runs(s=6.0, n=40)
    one = fit_recall(*columns, cells=np.arange(40))
    copies = [np.repeat(column, 10) for column in columns]
    ten = fit_recall(*copies, cells=np.repeat(np.arange(40), 10))
    assert one.dispersion < 2 and ten.dispersion > 5
    ratios = [law.ci["load_50"][1] / law.ci["load_50"][0] for law in (one, ten)]
    assert ratios[1] == pytest.approx(ratios[0], rel=0.3)


def test_the_chance_of_a_new_run_knows_that_the_curve_is_uncertain():
    few, many = fit_recall(*runs(n=16, seed=5)), fit_recall(*runs(n=4000))
    for law in (few, many):
        chances = law.chance([0.03, 0.05, 0.07], 1)
        assert (np.diff(chances) < 0).all()
    safe = [law.load_50 * 9 ** (-1 / law.s) for law in (few, many)]  # 90 % on the best curve
    assert few.chance(safe[0], 1) < 0.87 and many.chance(safe[1], 1) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("exponent", [0.6, 1.0, 1.8])
def test_the_rank_exponent(exponent):
    """Half of the runs of P parameters recite 100 (P / 1,000)^exponent tokens."""
    P = np.repeat([500, 1000, 2000, 4000], 60)
    length = 100 * (P / 1000) ** exponent * np.tile(np.geomspace(0.4, 2.5, 60), 4)
    ratio = length / (100 * (P / 1000) ** exponent)
    recited = np.random.default_rng(1).random(240) < p_recited(ratio, 1, 10.0)
    law = fit_recall(length / P, recited, P)
    low, high = law.ci["rank_exponent"]
    assert low <= exponent <= high and law.rank_exponent == pytest.approx(exponent, abs=0.15)
    assert (low <= 1 <= high) == (exponent == 1)
    for each in (500, 4000):  # the chance knows it
        limit = 100 * (each / 1000) ** exponent / each
        assert law.chance(limit * 0.7, each) > 0.85 and law.chance(limit * 1.4, each) < 0.15
        assert law.half(each) == pytest.approx(limit, rel=0.15)
        assert law.predict(law.half(each), each) == pytest.approx(0.5)


# --- Rows ----------------------------------------------------------------------------------------

ROWS = [row(rank, length, length / rank < 20) for rank in (2, 4) for length in (24, 48, 72, 96)]


def test_the_50_percent_point_in_three_units():
    """Between 18 and 24 tokens per rank: rank 4 recites 72 tokens, rank 2 does not recite 48."""
    law = recall_of(ROWS)
    found = law.as_dict()
    assert list(found["length_50"]) == ["2", "4"]
    assert 24 < found["length_50"]["2"] < 48 and 72 < found["length_50"]["4"] < 96
    for rank, length in found["length_50"].items():
        load = length / (512 * int(rank))
        assert law.predict(load, 512 * int(rank)) == pytest.approx(0.5)
        assert found["bits_per_parameter"][rank] == pytest.approx(load * 7.6 / LN2)
    assert (found["n"], found["n_recited"], found["separated"]) == (8, 4, True)
    assert "draws" not in found


def test_units_that_are_not_known():
    rows = [*ROWS, row(2, 24, True, entropy=None), row(3, 24, True, trainable_parameters=999)]
    found = recall_of(rows).as_dict()
    assert found["length_50"] == found["bits_per_parameter"] == {}
    with pytest.raises(LawError, match="1 of 10 rows have no entropy"):
        recall_of(rows, "bits")
    with pytest.raises(LawError, match="9 of 9 rows have no trainable_parameters"):
        recall_of([{"rank": 1, "length": 9, "recall_exact": n > 4} for n in range(9)])


def test_rows_that_do_not_say_what_was_recited_do_not_count():
    unknown = {"recall_exact": None, "verbatim": None}
    assert recall_of([*ROWS, row(2, 9, None), row(2, 9, None, **unknown)]).n == 8
    assert is_recited({"verbatim": True}) and is_recited({"recall_exact": False}) is False
    assert is_recited({"recall_exact": False, "verbatim": True}) is False
    with pytest.raises(LawError, match="no row says whether"):
        recall_of([row(2, 9, None)])


@pytest.mark.parametrize("better", ["tokens", "bits"])
def test_likelihood_decides_what_the_load_is(better):
    """Vocabularies of 10, 100 and 2,000 tokens; the limit is 20 tokens or 150 bits per rank."""
    rows = []
    for rank in (2, 4, 8):
        for H in (math.log(10), math.log(100), math.log(2000)):
            for per_rank in (8, 14, 18, 22, 28, 40):
                load, limit = (per_rank, 20) if better == "tokens" else (per_rank * H / LN2, 150)
                rows.append(row(rank, per_rank * rank, load < limit, entropy=H))
    laws = compare_loads(rows)
    other = "bits" if better == "tokens" else "tokens"
    assert laws[better].deviance < 1 and laws[other].deviance > 20
    fits, _ = fit_rows(rows)
    assert fits[0].loads == {load: law.deviance for load, law in laws.items()}


# --- Fits ----------------------------------------------------------------------------------------


def test_a_sweep_without_a_power_law_has_a_recall_law():
    (fit,), refused = fit_rows(ROWS)
    assert "3 different ranks" in fit.law and not refused
    assert fit.recall == recall_of(ROWS) and fit.loads == {}
    found = json.loads(json_text(fit.as_dict()))
    assert found["reason"] == fit.law and found["recall"]["load_50"] == fit.recall.load_50


def test_without_any_law_both_reasons_are_given():
    with pytest.raises(
        LawError, match=r"3 different ranks.*; all 4 runs are recited: .* 0.0352 tok"
    ):
        fit_rows([row for row in ROWS if row["recall_exact"]])


def test_fits_with_a_power_law_come_first():
    grid = [(rank, length) for rank in (1, 2, 4) for length in (16, 64, 256)]
    rows = [row(r, n, n / r < 20, delta_loss=8 * (r / n) ** 0.5 + 1) for r, n in grid]
    mixed = [
        *(one | {"method": "sft"} for one in ROWS * 2),
        *(one | {"method": "x"} for one in rows),
    ]
    fits, _ = fit_rows(mixed, draws=10)
    assert [fit.key["method"] for fit in fits] == ["x", "sft"]
    assert isinstance(fits[0].law, Law) and fits[0].recall.n == 9


def test_recall_exact_must_be_true_or_false():
    with pytest.raises(LawError, match="row 1: recall_exact is 'yes'; expected true or false"):
        fit_rows([row(2, 9, "yes")])


@pytest.mark.parametrize("loads", ["ab", [[1], [1, 2]], [10**400], [None, {}]])
def test_loads_that_are_no_numbers(loads):
    with pytest.raises(LawError, match="loads, recited, parameters must be numbers"):
        fit_recall(loads, [True, False], [1, 1])
    with pytest.raises(LawError, match="draws is 0"):
        fit_recall(*runs(), draws=0)
