"""The law and its fit. Oracles: examples by hand, planted constants, simulated coverage."""

import math

import numpy as np
import pytest

from tests.law.planted import LENGTHS, RANKS, noisy
from tinymem.law.power import CONSTANTS, PowerLaw, fit_law, measure, middle_95

# --- By hand, and planted ------------------------------------------------------------------------


def test_the_example_of_the_docstring():
    example = PowerLaw(8, 0.5, 0.5, 1)
    assert example.predict(4, 64) == 3
    assert example.rank_for(64, 3) == pytest.approx(4)
    assert example.length_for(4, 3) == pytest.approx(64)
    ranks, lengths = np.repeat([1, 4, 16], 3), np.tile([16, 64, 256], 3)
    deltas = [3, 2, 1.5, 5, 3, 2, 9, 5, 3]  # 8 √r / √ℓ + 1
    law = fit_law(ranks, lengths, deltas, draws=20)
    assert law.constants == pytest.approx((8, 0.5, 0.5, 1), rel=1e-9)
    assert law.predict(4, 64) == pytest.approx(3) and law.rank_for(64, 3) == pytest.approx(4)
    plane = fit_law(ranks, lengths, np.array(deltas) - 1, offset=False, draws=20)
    assert plane.constants == pytest.approx((8, 0.5, 0.5, 0), rel=1e-12) and plane.ci["b"] == (0, 0)


@pytest.mark.parametrize("C", [0.5, 8, 300])
@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.1, 0.15), (0.34, 0.29), (0.67, 0.72), (1.2, 1.1), (0.9, 0.1)]
)
@pytest.mark.parametrize("b", [-0.5, -0.01, 0, 0.01, 1, 10])
def test_planted_constants_come_back(C, alpha, beta, b):
    lowest = PowerLaw(C, alpha, beta, 0).predict(1, 512)
    b = max(b, -0.8 * lowest)  # so that every ΔL is above 0
    deltas = PowerLaw(C, alpha, beta, b).predict(RANKS, LENGTHS)
    law = fit_law(RANKS, LENGTHS, deltas, draws=2)
    assert (law.C, law.alpha, law.beta) == pytest.approx((C, alpha, beta), rel=1e-6)
    assert law.b == pytest.approx(b, rel=1e-6, abs=1e-9 * lowest)
    assert not law.at_bound and law.r2 == pytest.approx(1) and law.mape < 1e-6


# --- Properties ----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [False, True])
def test_units_order_and_repetition(offset):
    deltas = noisy((20, 0.6, 0.7, 0.5), 0.03, seed=7)

    def fit(*cells):
        return np.array(fit_law(*cells, offset=offset, draws=2).constants)

    base = fit(RANKS, LENGTHS, deltas)
    tripled, quadrupled = base * [3, 1, 1, 3], base * [4 ** base[2], 1, 1, 1]
    assert fit(RANKS, LENGTHS, 3 * deltas) == pytest.approx(tripled, rel=1e-6)  # units of ΔL
    assert fit(RANKS, 4 * LENGTHS, deltas) == pytest.approx(quadrupled, rel=1e-6)  # units of length
    order = np.random.default_rng(0).permutation(25)
    assert fit(RANKS[order], LENGTHS[order], deltas[order]) == pytest.approx(base, rel=1e-6)
    assert fit(*(np.tile(a, 2) for a in (RANKS, LENGTHS, deltas))) == pytest.approx(base, rel=1e-6)
    assert fit(RANKS.tolist(), LENGTHS.astype(int), deltas.reshape(5, 5)) == pytest.approx(base)


def test_predict_rank_and_length_are_each_others_inverse():
    law = fit_law(RANKS, LENGTHS, noisy((20, 0.6, 0.7, 0.5), 0.03, seed=8), draws=2)
    deltas = law.predict(RANKS, LENGTHS)
    assert deltas.shape == (25,)
    assert law.rank_for(LENGTHS, deltas) == pytest.approx(RANKS)
    assert law.length_for(RANKS, deltas) == pytest.approx(LENGTHS)
    assert isinstance(law.predict(2, 64), float) and isinstance(law.rank_for(64, 2.0), float)


def test_what_cannot_be_reached():
    law = PowerLaw(8, 0.5, 0.5, 1)
    assert law.rank_for(64, 1) == law.rank_for(64, 0.5) == 0  # b alone is enough
    assert law.length_for(4, 1) == math.inf  # and it is enough at any length
    for alpha in (0, -0.5):  # more rank does not help
        assert PowerLaw(8, alpha, 0.5, 1).rank_for(64, 3) == math.inf
        assert PowerLaw(8, alpha, 0.5, 1).rank_for(64, 0.5) == 0
    assert PowerLaw(8, 0.5, 0, 1).length_for(4, 3) == math.inf  # more length does no harm
    assert PowerLaw(8, 1e-5, 0.5, 1).rank_for(64, 30) == math.inf  # beyond the largest float
    assert law.rank_for([64, 64, 256], [3, 0.5, 3]).tolist() == pytest.approx([4, 0, 16])


# --- Intervals -----------------------------------------------------------------------------------


def test_an_interval_of_anything():
    law = fit_law(RANKS, LENGTHS, noisy((20, 0.6, 0.7, 0.5), 0.03, seed=2), draws=300)
    assert law.draws.shape == (300, 4) and list(law.ci) == list(CONSTANTS)
    assert middle_95(law.draws[:, 1]) == law.ci["alpha"]
    drawn = [PowerLaw(*constants) for constants in law.draws]
    low, high = middle_95(np.array([one.rank_for(128, 3.0) for one in drawn]))
    assert low < law.rank_for(128, 3.0) < high < 1.2 * low
    # For a ΔL near b the length is infinite in some draws; no end of the interval is NaN.
    low, high = middle_95(np.array([one.length_for(1, law.b) for one in drawn]))
    assert 0 < low < high == math.inf
    assert middle_95(np.arange(41)) == (1, 39)


def test_seeds():
    deltas = noisy((20, 0.6, 0.7, 0.5), 0.03, seed=2)
    one, again, other = (fit_law(RANKS, LENGTHS, deltas, draws=50, seed=seed) for seed in (0, 0, 1))
    assert one == again and np.array_equal(one.draws, again.draws)
    assert one.constants == other.constants and one.ci != other.ci


# --- Saturated cells -----------------------------------------------------------------------------


@pytest.mark.parametrize("b", [0, 0.5])
def test_without_scatter_saturated_cells_change_nothing(b):
    truth = (40, 0.6, 0.7, b)
    deltas = PowerLaw(*truth).predict(RANKS, LENGTHS)
    full = deltas >= 8
    deltas = np.minimum(deltas, 8)
    law = fit_law(RANKS, LENGTHS, deltas, saturated=full, offset=b > 0, draws=2)
    assert law.constants == pytest.approx(truth, rel=1e-6)
    assert (law.n, law.n_saturated) == ((~full).sum(), full.sum())
    assert fit_law(RANKS, LENGTHS, deltas, draws=2).r2 < 0.99  # a fit that includes them is bad


def test_leaving_saturated_cells_out_biases_the_fit_slightly():
    """With 15 % scatter and a limit in the middle of the grid, α and β come out 2 to 10 % low."""
    truth, errors = (40, 0.6, 0.7, 0), []
    ranks, lengths = np.tile(RANKS, 3), np.tile(LENGTHS, 3)
    for seed in range(40):
        deltas = noisy(truth, 0.15, seed, ranks, lengths)
        law = fit_law(ranks, lengths, deltas, saturated=deltas >= 5, offset=False, draws=2)
        errors.append([law.alpha / 0.6 - 1, law.beta / 0.7 - 1])
    bias = np.mean(errors, axis=0)
    assert (bias < -0.02).all() and (bias > -0.10).all()


# --- Measures ------------------------------------------------------------------------------------


def test_measures_by_hand():
    """ΔL 1, 2, 3 predicted as 1, 2, 4. Squared errors 0, 0, 1 of a variance of 2; 0, 0, 33.3 %."""
    deltas, logs = np.array([1.0, 2, 3]), np.log([1, 2, 3])
    included = np.array([[True, True, True], [False, True, True], [True, False, False]])
    found = measure(deltas, np.array([[1, 2, 4], [1.5, 2, 3], [1, 2.5, 3.6]]), included, 2, 7)
    assert (found.r2, found.mape) == pytest.approx((0.5, 100 / 9))
    assert found.r2_log == pytest.approx(1 - math.log(4 / 3) ** 2 / (3 * logs.var()))
    assert found.leave_one_rank_out == pytest.approx((50 + 25 + 20) / 3)
    assert (found.n, found.n_cells, found.n_saturated) == (3, 2, 7)
    found = measure(deltas, np.array([[-0.1, 2, 3]]), included[:1], 3, 0)
    assert found.r2 == pytest.approx(1 - 1.21 / 2) and math.isnan(found.r2_log)
    assert found.leave_one_rank_out is None


@pytest.mark.parametrize("offset", [False, True])
def test_leave_one_rank_out_is_what_it_says(offset):
    deltas = noisy((20, 0.6, 0.7, 0.5), 0.05, seed=4)
    law, errors = fit_law(RANKS, LENGTHS, deltas, offset=offset, draws=2), []
    for rank in (1, 2, 4, 8, 16):
        seen = rank != RANKS
        without = fit_law(RANKS[seen], LENGTHS[seen], deltas[seen], offset=offset, draws=2)
        errors.extend(abs(without.predict(rank, LENGTHS[~seen]) / deltas[~seen] - 1))
    assert law.leave_one_rank_out == pytest.approx(100 * np.mean(errors), rel=1e-4)
    assert law.leave_one_rank_out > law.mape
    few = RANKS < 8  # three ranks; without one of them two remain, which is not enough for a fit
    small = fit_law(RANKS[few], LENGTHS[few], deltas[few], offset=offset, draws=2)
    assert small.leave_one_rank_out is None
