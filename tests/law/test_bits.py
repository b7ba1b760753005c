"""The constant-bits law. Oracles: an example by hand, numpy's lstsq, simulated coverage."""

import math

import numpy as np
import pytest

from tests.law.planted import LENGTHS, RANKS
from tinymem.errors import LawError
from tinymem.law.bits import fit_bits
from tinymem.law.power import LN2, fit_law, measure

P, BASE, ENTROPY = 512 * RANKS, np.full(25, 12.0), np.full(25, 7.6)
BITS = 12 - 7.6 + 0.5 * P * LN2 / LENGTHS
FULL = BITS > 12 - LN2


def test_constant_bits_by_hand():
    """512 parameters, κ = ½: 256 bits = 177.4 nats, or 2.773 a token, on top of 12 − 7.6."""
    law = fit_bits(
        P, LENGTHS, BASE, ENTROPY, np.minimum(BITS, 12), saturated=FULL, ranks=RANKS, draws=50
    )
    assert law.kappa == pytest.approx(0.5, rel=1e-9) and law.ci == pytest.approx((0.5, 0.5))
    assert law.predict(512, 64, 12, 7.6) == pytest.approx(4.4 + 256 * LN2 / 64)
    assert law.predict(512 * 99, 64, 12, 7.6) == 12  # no more than there is
    assert law.predict(P, LENGTHS, BASE, ENTROPY)[~FULL] == pytest.approx(BITS[~FULL])
    assert (law.n, law.n_saturated) == ((~FULL).sum(), FULL.sum())
    assert (
        law.r2 == law.r2_log == pytest.approx(1)
        and law.mape < 1e-9
        and law.leave_one_rank_out < 1e-9
    )


def test_constant_bits_is_lstsq_of_relative_errors_on_the_power_laws_cells():
    deltas = BITS * np.exp(0.05 * np.random.default_rng(0).normal(size=25))
    law = fit_bits(P, LENGTHS, BASE, ENTROPY, deltas, saturated=FULL, ranks=RANKS, draws=50)
    cells = ~FULL
    x, y = (P * LN2 / LENGTHS / deltas)[cells], ((deltas - (BASE - ENTROPY)) / deltas)[cells]
    assert law.kappa == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])
    predicted = law.predict(P, LENGTHS, BASE, ENTROPY)[cells]
    expected = measure(deltas[cells], predicted[None], cells[None, cells], 9, 0)
    assert (law.r2, law.r2_log, law.mape) == (expected.r2, expected.r2_log, expected.mape)
    errors = []
    for rank in np.unique(RANKS[cells]):
        seen, test = cells & (rank != RANKS), cells & (rank == RANKS)
        without = fit_bits(*(a[seen] for a in (P, LENGTHS, BASE, ENTROPY, deltas)), draws=2)
        errors.extend(
            abs(without.predict(*(a[test] for a in (P, LENGTHS, BASE, ENTROPY))) / deltas[test] - 1)
        )
    assert law.leave_one_rank_out == pytest.approx(100 * np.mean(errors))
    power = fit_law(RANKS, LENGTHS, deltas, saturated=FULL, draws=2)
    assert (power.n, power.n_saturated) == (law.n, law.n_saturated)
    few = cells & (RANKS < 8)
    assert (
        fit_bits(*(a[few] for a in (P, LENGTHS, BASE, ENTROPY, deltas))).leave_one_rank_out is None
    )


def test_the_interval_of_kappa_covers_it():
    cells, covered = (a[~FULL] for a in (P, LENGTHS, BASE, ENTROPY)), 0
    cells = list(cells)
    for seed in range(200):
        deltas = BITS[~FULL] * np.exp(0.03 * np.random.default_rng(seed).normal(size=(~FULL).sum()))
        low, high = fit_bits(*cells, deltas, draws=200, seed=seed).ci
        covered += low <= 0.5 <= high
    assert 180 <= covered <= 198


def test_the_interval_of_kappa_covers_it_if_seeds_share_what_the_law_misses():
    """Cells deviate by 3 %, seeds by 2 %: as single observations they would cover κ in 77 %."""
    cells, covered = [a[~FULL].repeat(3) for a in (P, LENGTHS, BASE, ENTROPY, BITS)], 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        noise = 0.03 * random.normal(size=(~FULL).sum()).repeat(3)
        noise += 0.02 * random.normal(size=len(noise))
        *others, deltas = cells
        low, high = fit_bits(*others, deltas * np.exp(noise), draws=200, seed=seed).ci
        covered += low <= 0.5 <= high
    assert 184 <= covered <= 198


def test_the_interval_of_kappa_covers_it_with_three_cells():
    """Two degrees of freedom are left. With Student's t the interval is 4.30 standard errors wide.

    With the scatter of the fit in every draw it would be 1.96 wide, and would cover κ in 81 %.
    """
    cells, covered = [a[~FULL][:3] for a in (P, LENGTHS, BASE, ENTROPY)], 0
    for seed in range(300):
        deltas = BITS[~FULL][:3] * np.exp(0.03 * np.random.default_rng(seed).normal(size=3))
        low, high = fit_bits(*cells, deltas, draws=300, seed=seed).ci
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"entropies": np.r_[math.nan, ENTROPY[1:]]},
            "1 of 25 entropies are missing",
        ),
        ({"delta_losses": np.r_[-1, BITS[1:]]}, "1 of 25 delta_losses"),
        ({"saturated": [True] * 25}, "none of 25 runs"),
        ({"saturated": [False] + [True] * 24}, "at least 2 unsaturated cells, found 1"),
        ({"parameters": 0 * P}, "25 of 25 parameters are missing, infinite or not above 0"),
        ({"ranks": [1, 2]}, "2 ranks"),
        ({"base_losses": [None] * 25}, "25 of 25 base_losses are missing"),
    ],
)
def test_refusals_of_constant_bits(change, words):
    cells = {
        "parameters": P,
        "lengths": LENGTHS,
        "base_losses": BASE,
        "entropies": ENTROPY,
        "delta_losses": BITS,
    }
    with pytest.raises(LawError, match=words):
        fit_bits(**cells | change)
