"""The search over b and the least squares. Oracles: numpy's lstsq, a plain Levenberg-Marquardt."""

import math

import numpy as np
import pytest

from tests.law.planted import LENGTHS, RANKS, noisy
from tinymem.law.offset import least_squares, solve
from tinymem.law.power import PowerLaw, fit_law


def test_without_offset_it_is_lstsq():
    deltas = noisy((20, 0.6, 0.7, 0), 0.1, seed=1)
    columns = np.stack([np.ones(25), np.log(RANKS), -np.log(LENGTHS)], axis=1)
    expected = np.linalg.lstsq(columns, np.log(deltas), rcond=None)[0]
    law = fit_law(RANKS, LENGTHS, deltas, offset=False, draws=2)
    assert (math.log(law.C), law.alpha, law.beta) == pytest.approx(expected, rel=1e-10)
    rest = np.log(deltas) - columns @ expected
    assert law.r2_log == pytest.approx(1 - rest.var() / np.log(deltas).var())


def marquardt(residuals, start):
    """Levenberg-Marquardt: damped least squares of any residuals, with a numerical gradient."""
    at, damping = np.array(start, float), 1e-3
    for _ in range(300):
        rest = residuals(at)
        steps = 1e-6 * np.maximum(np.abs(at), 1e-3)
        slope = np.stack(
            [(residuals(at + d) - residuals(at - d)) / (2 * d.sum()) for d in np.diag(steps)], 1
        )
        damped = np.vstack([slope, math.sqrt(damping) * np.diag(np.linalg.norm(slope, axis=0))])
        new = at - np.linalg.lstsq(damped, np.r_[rest, np.zeros(len(at))], rcond=None)[0]
        better = (residuals(new) ** 2).sum() < (rest**2).sum()
        at, damping = (new, damping / 3) if better else (at, damping * 3)
    return at


@pytest.mark.parametrize(("b", "noise"), [(0.5, 0.03), (-0.1, 0.03), (1, 0.1), (0, 0.05)])
def test_with_offset_it_is_nonlinear_least_squares_of_the_logarithm(b, noise):
    truth = (20, 0.6, 0.7, b)
    deltas = noisy(truth, noise, seed=3)

    def residuals(at):
        return np.log(deltas) - np.log(PowerLaw(*at).predict(RANKS, LENGTHS))

    law = fit_law(RANKS, LENGTHS, deltas, draws=2)
    assert law.constants == pytest.approx(marquardt(residuals, truth), rel=1e-4, abs=1e-5)


def test_the_search_says_when_the_data_do_not_fix_b():
    straight = 5 + np.log(RANKS) - 0.5 * np.log(LENGTHS)  # the limit b → −∞
    assert fit_law(RANKS, LENGTHS, straight, draws=2).at_bound
    clear = noisy((20, 0.6, 0.7, 0.5), 0.03, seed=9)
    assert not fit_law(RANKS, LENGTHS, clear, draws=100).at_bound
    ranks, lengths = (
        a.ravel().astype(float) for a in np.meshgrid([1, 2, 4, 8], [32, 64, 128, 256])
    )
    vague = fit_law(ranks, lengths, noisy((8, 0.34, 0.29, 1), 0.1, 3, ranks, lengths), draws=200)
    assert vague.at_bound and -1 < vague.b < 1  # only the interval shows that b is not determined
    assert vague.ci["b"][0] < -50
    assert not fit_law(RANKS, LENGTHS, straight, offset=False, draws=2).at_bound


def test_least_squares_is_lstsq_of_each_row():
    random = np.random.default_rng(0)
    columns, values = random.normal(size=(12, 3)), random.normal(size=(4, 12))
    weights = random.uniform(0.1, 2, size=(4, 12))
    for found, w, y in zip(least_squares(columns, weights, values), weights, values, strict=True):
        expected = np.linalg.lstsq(columns * np.sqrt(w)[:, None], y * np.sqrt(w), rcond=None)[0]
        assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("offset", [False, True])
def test_fits_side_by_side_do_not_influence_each_other(offset):
    """Also where each leaves other cells out, which count as if they were not there."""
    columns = np.stack([np.ones(25), np.log(RANKS), -np.log(LENGTHS)], axis=1)
    deltas = [noisy((20, 0.6, 0.7, 0.5 * seed), 0.05, seed) for seed in range(4)]
    included = np.array([rank != RANKS for rank in (1, 2, 4, 99)])
    together, _ = solve(columns, np.log(deltas), included, offset, rough=False)
    for one, delta, some in zip(together, deltas, included, strict=True):
        alone = fit_law(RANKS[some], LENGTHS[some], delta[some], offset=offset, draws=2)
        assert one == pytest.approx(alone.constants, rel=1e-5, abs=1e-5)
