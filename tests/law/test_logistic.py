"""The logistic curve on a grid. Oracles: likelihoods by hand, Newton's method, a table of t."""

import math

import numpy as np
import pytest

from tinymem.law.logistic import (
    Surface,
    draw,
    interval,
    overdispersion,
    probability,
    student_975,
    surface,
)


def runs(n=2000, middle=1.0, s=5.0):
    random = np.random.default_rng(0)
    x = random.choice(np.linspace(0, 2, 21), n)
    return x, (random.random(n) < probability(x, middle, s)).astype(float)


def newton(x, hit):
    """Maximum likelihood of ln(p / (1 − p)) = a − s x, by Newton's method."""
    X, theta = np.stack([np.ones(len(x)), -x], axis=1), np.zeros(2)
    for _ in range(30):
        p = 1 / (1 + np.exp(-X @ theta))
        theta = theta + np.linalg.solve(X.T @ (X * (p * (1 - p))[:, None]), X.T @ (hit - p))
    return theta[0] / theta[1], theta[1]


def test_the_peak_is_that_of_newtons_method():
    """With 2,000 runs the prior hardly counts, and the grid is fine enough for three digits."""
    x, hit = runs()
    middle, s = surface(x, hit, points=200).peak()
    assert (middle, s) == pytest.approx(newton(x, hit), rel=0.01)


def test_the_likelihood_by_hand():
    """x = 0: two of three succeed; x = 1: one of three. At middle ½ and s = 2 ln 2, p is 2/3 at 0
    and 1/3 at 1, which are the shares themselves, so that no curve is likelier.
    """
    one = surface(np.array([0.0, 0, 0, 1, 1, 1]), np.array([1.0, 1, 0, 1, 0, 0]))
    assert probability([0, 1], 0.5, 2 * math.log(2)) == pytest.approx([2 / 3, 1 / 3])
    assert one.likelihood.max() == pytest.approx(
        4 * math.log(2 / 3) + 2 * math.log(1 / 3), abs=0.01
    )
    row, column = np.abs(one.middles - 0.5).argmin(), np.abs(one.log_s).argmin()
    p = probability([0, 0, 0, 1, 1, 1], one.middles[row], math.exp(one.log_s[column]))
    by_hand = np.log([p[0], p[1], 1 - p[2], p[3], 1 - p[4], 1 - p[5]]).sum()
    assert one.likelihood[row, column] == pytest.approx(by_hand)


def test_separated_runs_have_a_peak_in_the_gap_and_no_steepest_curve():
    x = np.repeat([0.0, 0.1, 0.5, 0.7], 3)
    one = surface(x, (x < 0.3).astype(float))
    middle, s = one.peak()
    assert 0.1 < middle < 0.5 and 5 < s < 100
    assert one.likelihood.max() == pytest.approx(0, abs=1e-6)
    low, high = interval(one.middles, one.likelihood.max(1), 3.84)
    assert low < 0.11 and high > 0.49
    assert interval(one.log_s, one.likelihood.max(0), 3.84)[1] == math.inf


def test_the_ends_of_an_interval():
    grid, profile = np.arange(7.0), np.array([-9, -4, -1, 0, -1, -4, -9.0])
    assert interval(grid, profile, 4) == (2, 4)  # the deviance is twice the drop
    assert interval(grid, profile, 8) == (1, 5)
    assert interval(grid[2:5], profile[2:5], 4) == (-math.inf, math.inf)


def test_runs_that_always_agree_are_overdispersed():
    """At p = ½, ten groups of ten runs that agree vary ten times as much as independent runs."""
    group = np.repeat(np.arange(10), 10)
    hit = (group % 2).astype(float)
    assert overdispersion(hit, np.full(100, 0.5), group)[0] == pytest.approx(10)
    within = np.tile([0.0, 1.0], 50)
    assert overdispersion(within, np.full(100, 0.5), group)[0] == 1
    # nine degrees of freedom: t is 2.262
    assert overdispersion(within, np.full(100, 0.5), group)[1] == pytest.approx(2.262**2, rel=0.01)


def test_students_t():
    """Quantiles from a table."""
    for degrees, t in ((3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e6, 1.960)):
        assert student_975(degrees) == pytest.approx(t, rel=0.01)


def test_curves_are_drawn_by_their_probability():
    """A flat likelihood over ln s leaves its prior, normal around ln 8; the second of two surfaces
    is e times as likely.
    """
    middles, log_s = np.linspace(2, 4, 201), np.linspace(-6, 10, 401)
    flat = Surface(middles, log_s, np.zeros((201, 401)))
    drawn = draw([flat, flat], np.array([0.0, 1.0]), 1.0, 20_000)
    assert len(drawn) == 20_000
    assert drawn[:, 0].mean() == pytest.approx(3, abs=0.02) and drawn[:, 0].min() == 2
    assert np.log(drawn[:, 1]).mean() == pytest.approx(math.log(8), abs=0.02)
    assert np.log(drawn[:, 1]).std() == pytest.approx(1, abs=0.02)
    assert drawn[:, 2].mean() == pytest.approx(math.e / (1 + math.e), abs=1e-3)
