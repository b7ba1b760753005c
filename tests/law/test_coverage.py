"""How often the intervals contain the planted constants. Oracle: simulation.

A cell's deviation from the law is shared by its seeds, as in the recorded grid of `tiny`, where it
has a standard deviation of 3.1 % of ΔL, and single seeds one of 2.0 %.
"""

import numpy as np
import pytest

from tests.law.planted import LENGTHS, RANKS
from tinymem.law.power import PowerLaw, fit_law, middle_95

CELLS, SEEDS = 0.031, 0.020
PLANE, CURVE = (17.6, 0.33, 0.22, 0), (17.5, 0.34, 0.22, 0.47)  # about those of `tiny`
UNSATURATED = PowerLaw(*PLANE).predict(RANKS, LENGTHS) < 11.8  # 17 cells, unsaturated on `tiny`
SMALL = (RANKS < 8) & (LENGTHS > 32) & (LENGTHS < 512)  # 3 x 3 cells
MIDDLE = (RANKS < 16) & (LENGTHS > 32)  # 4 x 4 cells


def runs_of(constants, seeds, slope, seed, ranks, lengths):
    """ΔL [cells, seeds]. slope: how the scatter depends on the rank; ±1 is a factor of three."""
    random = np.random.default_rng([seed, seeds])
    size = 3 ** (slope * (np.log(ranks) / np.log(ranks.max()) - 0.5))
    shared, own = random.normal(size=len(ranks)), random.normal(size=(seeds, len(ranks)))
    noise = size * (CELLS * shared + SEEDS * own)
    return (PowerLaw(*constants).predict(ranks, lengths) * np.exp(noise)).T


def covered(constants, times, cells, *, seeds, slope, draws=200):
    """The share of `times` simulated grids whose intervals contain the truth.

    The truth is the constants, and ΔL in the middle and at the largest rank and length.
    """
    ranks, lengths, offset = RANKS[cells], LENGTHS[cells], constants[3] != 0
    points = [np.median(ranks), ranks.max()], [np.median(lengths), lengths.max()]
    truth = [*constants[: 4 if offset else 3], *PowerLaw(*constants).predict(*points)]
    found = np.zeros(len(truth))
    for seed in range(times):
        deltas = runs_of(constants, seeds, slope, seed, ranks, lengths).ravel()
        columns = ranks.repeat(seeds), lengths.repeat(seeds), deltas
        law = fit_law(*columns, offset=offset, draws=draws, seed=seed)
        drawn = [
            PowerLaw(*law.draws.T).predict(rank, length)
            for rank, length in zip(*points, strict=True)
        ]
        ends = [*law.ci.values()][: len(truth) - 2] + [middle_95(values) for values in drawn]
        found += [low <= true <= high for true, (low, high) in zip(truth, ends, strict=True)]
    return found / times


@pytest.mark.parametrize(("seeds", "slope"), [(1, -1), (1, 1), (3, 0), (3, 1)])
@pytest.mark.parametrize("cells", [UNSATURATED, MIDDLE, SMALL], ids=["17", "16", "9"])
def test_intervals_without_offset_cover_the_truth(cells, seeds, slope):
    *found, corner = covered(PLANE, 300, cells, seeds=seeds, slope=slope)
    assert min(found) >= 0.92, found
    assert corner >= 0.89  # of the 17 cells, a single one has the largest rank


@pytest.mark.parametrize(("seeds", "slope"), [(3, 0), (3, -1), (1, 1)])
def test_intervals_with_offset_cover_the_truth(seeds, slope):
    *found, corner = covered(CURVE, 60, UNSATURATED, seeds=seeds, slope=slope, draws=100)
    assert min(found) >= 0.92, found
    assert corner >= 0.85


def test_intervals_do_not_cover_always():
    """Cells that scatter alike: the intervals are hardly wider than they need to be."""
    found = covered(PLANE, 200, RANKS > 0, seeds=3, slope=0)
    assert (found <= 0.985).all(), found


def test_five_cells_cover_the_constants():
    """Five cells and three constants leave two degrees of freedom, and high leverages."""
    ranks, lengths, found = np.array([1, 2, 4, 8, 2.0]), np.array([64, 32, 256, 128, 512.0]), 0
    for seed in range(300):
        deltas = runs_of(PLANE, 1, 0, seed, ranks, lengths)[:, 0]
        ci = fit_law(ranks, lengths, deltas, offset=False, draws=300, seed=seed).ci.values()
        found += np.array([low <= t <= high for t, (low, high) in zip(PLANE, ci, strict=True)])
    assert (found[:3] >= 0.92 * 300).all(), found


def test_a_seed_more_of_the_same_narrows_nothing():
    """Ten copies of each run are ten seeds that agree: as many observations as before."""
    deltas = runs_of(PLANE, 1, 0, 0, RANKS, LENGTHS)[:, 0]
    once = fit_law(RANKS, LENGTHS, deltas, offset=False, draws=200)
    many = fit_law(*(np.tile(a, 10) for a in (RANKS, LENGTHS, deltas)), offset=False, draws=200)
    assert many.constants == pytest.approx(once.constants) and (many.n, many.n_cells) == (250, 25)
    for name, ends in once.ci.items():
        assert many.ci[name] == pytest.approx(ends, rel=1e-6)
    assert np.tile(once.without_cell, 10) == pytest.approx(many.without_cell)


@pytest.mark.parametrize("offset", [False, True])
def test_a_law_without_the_cell_is_another_fit(offset):
    """A deviation is the geometric mean of the residual and of the one by that other fit."""
    deltas = runs_of((20, 0.6, 0.7, 0.5 * offset), 1, 0, 1, RANKS, LENGTHS)[:, 0]
    ranks, lengths, deltas = RANKS.repeat(2), LENGTHS.repeat(2), deltas.repeat(2)
    law = fit_law(ranks, lengths, deltas, offset=offset, draws=2)
    for cell in range(0, 50, 2):
        seen = (ranks != ranks[cell]) | (lengths != lengths[cell])
        alone = fit_law(ranks[seen], lengths[seen], deltas[seen], offset=offset, draws=2)
        expected = alone.predict(ranks[cell], lengths[cell])
        assert law.without_cell[cell] == pytest.approx(expected, rel=3e-3 if offset else 1e-9)
    residuals, others = (
        np.log(deltas / p) for p in (law.predict(ranks, lengths), law.without_cell)
    )
    assert law.deviations**2 == pytest.approx(residuals * others, rel=1e-6)
    assert (law.deviations * residuals >= 0).all()
