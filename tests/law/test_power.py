"""The laws. Oracles: numpy's lstsq, a plain Levenberg–Marquardt, the likelihood written out cell by cell."""

import math

import numpy as np
import pytest

from tinymem.errors import LawError
from tinymem.law.bits import fit_bits
from tinymem.law.power import (
    LN2,
    delta_loss_at,
    fit_law,
    length_at,
    measures,
    middle_95,
    rank_at,
    upper_tail,
)

NAMES = ("C", "alpha", "beta", "b")
RANKS, LENGTHS = (
    a.ravel().astype(float) for a in np.meshgrid([1, 2, 4, 8, 16], [32, 64, 128, 256, 512])
)


def noisy(constants, noise, seed, ranks=RANKS, lengths=LENGTHS):
    """Runs of a planted law, each some percent off."""
    scatter = noise * np.random.default_rng(seed).normal(size=len(ranks))
    return delta_loss_at(*constants, ranks, lengths) * np.exp(scatter)


# --- By hand, and planted ------------------------------------------------------------------------


def test_the_example_of_the_docstring():
    assert delta_loss_at(8, 0.5, 0.5, 1, 4, 64) == 3
    assert rank_at(8, 0.5, 0.5, 1, 64, 3) == pytest.approx(4)
    assert length_at(8, 0.5, 0.5, 1, 4, 3) == pytest.approx(64)
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
    lowest = delta_loss_at(C, alpha, beta, 0, 1, 512)
    b = max(b, -0.8 * lowest)  # ΔL must stay above 0
    law = fit_law(RANKS, LENGTHS, delta_loss_at(C, alpha, beta, b, RANKS, LENGTHS), draws=2)
    assert (law.C, law.alpha, law.beta) == pytest.approx((C, alpha, beta), rel=1e-6)
    assert law.b == pytest.approx(b, rel=1e-6, abs=1e-9 * lowest)
    assert not law.at_bound and law.r2 == pytest.approx(1) and law.mape < 1e-6


# --- Oracles -------------------------------------------------------------------------------------


def test_without_offset_it_is_lstsq():
    deltas = noisy((20, 0.6, 0.7, 0), 0.1, seed=1)
    columns = np.stack([np.ones(25), np.log(RANKS), -np.log(LENGTHS)], axis=1)
    expected = np.linalg.lstsq(columns, np.log(deltas), rcond=None)[0]
    law = fit_law(RANKS, LENGTHS, deltas, offset=False, draws=2)
    assert (math.log(law.C), law.alpha, law.beta) == pytest.approx(expected, rel=1e-10)
    rest = np.log(deltas) - columns @ expected
    assert law.r2_log == pytest.approx(1 - rest.var() / np.log(deltas).var())


def marquardt(residuals, start):
    """Least squares of any residuals: lstsq of a numerical slope, damped."""
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
        return np.log(deltas) - np.log(delta_loss_at(*at, RANKS, LENGTHS))

    law = fit_law(RANKS, LENGTHS, deltas, draws=2)
    assert law.constants == pytest.approx(marquardt(residuals, truth), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("ceiling", [2.5, 5])
@pytest.mark.parametrize("offset", [False, True])
def test_the_censored_fit_is_the_most_likely_one(offset, ceiling):
    deltas = noisy((40, 0.6, 0.7, 0.5 * offset), 0.1, seed=5)
    full = deltas > ceiling
    deltas = np.minimum(deltas, ceiling)
    law = fit_law(RANKS, LENGTHS, deltas, saturated=full, censored=True, offset=offset, draws=2)

    def likelihood(constants):
        best = -math.inf
        for sigma in np.geomspace(0.05, 0.2, 200):
            total = 0.0
            for rank, length, delta, hidden in zip(RANKS, LENGTHS, deltas, full, strict=True):
                z = (math.log(delta) - math.log(delta_loss_at(*constants, rank, length))) / sigma
                tail = (1 - math.erf(z / math.sqrt(2))) / 2
                total += math.log(tail) if hidden else -z * z / 2 - math.log(sigma)
            best = max(best, total)
        return best

    assert 5 < full.sum() == law.n_saturated < 18
    top = likelihood(law.constants)
    for n, name in enumerate(NAMES[: 4 if offset else 3]):
        for factor in (0.996, 1.004):
            moved = np.array(law.constants)
            moved[n] *= factor
            assert likelihood(moved) < top, (name, factor)


def test_the_upper_tail_of_a_normal():
    """Oracle: the integrals, summed up."""
    for z in (-3.0, -0.5, 0.0, 1.0, 4.0):
        x = np.linspace(z, z + 20, 400_001)
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        p, mean = (
            np.convolve(f, [0.5, 0.5], "valid").sum() * (x[1] - x[0])
            for f in (density, x * density)
        )
        ln_p, mills = upper_tail(np.array([z]))
        assert (ln_p[0], mills[0]) == pytest.approx((math.log(p), mean / p), rel=1e-6)
    ln_p, mills = upper_tail(
        np.array([24.999, 25.001, -1e6, 1e6])
    )  # where the series takes over; far away
    assert ln_p[0] - ln_p[1] == pytest.approx(0.05, abs=0.005) and mills[1] - mills[0] < 0.005
    assert mills == pytest.approx([25.04, 25.04, 0, 1e6], rel=1e-4) and np.isfinite(ln_p).all()


# --- Properties ----------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [False, True])
def test_units_order_and_repetition(offset):
    deltas = noisy((20, 0.6, 0.7, 0.5), 0.03, seed=7)

    def fit(*cells):
        return np.array(fit_law(*cells, offset=offset, draws=2).constants)

    base = fit(RANKS, LENGTHS, deltas)
    assert fit(RANKS, LENGTHS, 3 * deltas) == pytest.approx(
        base * [3, 1, 1, 3], rel=1e-6
    )  # other units of ΔL
    assert fit(RANKS, 4 * LENGTHS, deltas) == pytest.approx(
        base * [4 ** base[2], 1, 1, 1], rel=1e-6
    )  # of length
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
    assert (
        rank_at(8, 0.5, 0.5, 1, 64, 1) == rank_at(8, 0.5, 0.5, 1, 64, 0.5) == 0
    )  # b alone is enough
    assert length_at(8, 0.5, 0.5, 1, 4, 1) == math.inf  # at any length
    assert (
        rank_at(8, 0, 0.5, 1, 64, 3) == rank_at(8, -0.5, 0.5, 1, 64, 3) == math.inf
    )  # rank does not help
    assert length_at(8, 0.5, 0, 1, 4, 3) == math.inf
    assert rank_at(8, 1e-5, 0.5, 1, 64, 30) == math.inf  # a rank beyond all numbers
    assert rank_at(np.array([8, 8]), 0.5, 0.5, np.array([1, 5]), 64, 3).tolist() == pytest.approx(
        [4, 0]
    )


def test_the_search_says_when_the_data_do_not_fix_b():
    straight = 5 + np.log(RANKS) - 0.5 * np.log(LENGTHS)  # the limit b → −∞
    assert fit_law(RANKS, LENGTHS, straight, draws=2).at_bound
    clear = noisy((20, 0.6, 0.7, 0.5), 0.03, seed=9)
    assert not fit_law(RANKS, LENGTHS, clear, draws=100).at_bound
    ranks, lengths = (
        a.ravel().astype(float) for a in np.meshgrid([1, 2, 4, 8], [32, 64, 128, 256])
    )
    vague = fit_law(ranks, lengths, noisy((8, 0.34, 0.29, 1), 0.1, 3, ranks, lengths), draws=200)
    assert (
        vague.at_bound and -1 < vague.b < 1 and vague.ci["b"][0] < -50
    )  # the estimate alone looks harmless
    assert not fit_law(RANKS, LENGTHS, straight, offset=False, draws=2).at_bound


# --- Intervals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("truth", "offset"), [((20, 0.6, 0.7, 0), False), ((20, 0.6, 0.7, 0.5), True)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(truth, offset):
    covered = np.zeros(4)
    for seed in range(200):
        law = fit_law(RANKS, LENGTHS, noisy(truth, 0.03, seed), offset=offset, draws=200, seed=seed)
        covered += [low <= t <= high for t, (low, high) in zip(truth, law.ci.values(), strict=True)]
    covered /= 200
    assert (covered[: 4 if offset else 3] >= 0.90).all() and (
        covered[: 4 if offset else 3] <= 0.99
    ).all()


def test_an_interval_of_anything():
    law = fit_law(RANKS, LENGTHS, noisy((20, 0.6, 0.7, 0.5), 0.03, seed=2), draws=300)
    assert law.draws.shape == (300, 4) and list(law.ci) == list(NAMES)
    assert law.interval(lambda C, alpha, beta, b: alpha) == law.ci["alpha"]
    low, high = law.interval(lambda *constants: rank_at(*constants, 128, 3.0))
    assert low < law.rank_for(128, 3.0) < high < 1.2 * low
    # at a loss near b, some draws have a larger b (rank 0) and no end is nan
    low, high = law.interval(lambda *constants: length_at(*constants, 1, law.b))
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
    deltas = delta_loss_at(*truth, RANKS, LENGTHS)
    full = deltas >= 8
    deltas = np.minimum(deltas, 8)
    for censored in (False, True):
        options = {"saturated": full, "censored": censored, "offset": b > 0, "draws": 2}
        law = fit_law(RANKS, LENGTHS, deltas, **options)
        assert law.constants == pytest.approx(truth, rel=1e-6)
        assert (law.n, law.n_saturated) == ((~full).sum(), full.sum())
    assert fit_law(RANKS, LENGTHS, deltas, draws=2).r2 < 0.99  # taken at face value, they do


def test_dropping_saturated_cells_bends_the_law_and_keeping_them_censored_does_not():
    """15 % scatter, a ceiling across the grid: of the cells near it, the lucky ones are missing."""
    truth, errors = (40, 0.6, 0.7, 0), {False: [], True: []}
    ranks, lengths = np.tile(RANKS, 3), np.tile(LENGTHS, 3)
    for seed in range(40):
        deltas = noisy(truth, 0.15, seed, ranks, lengths)
        full = deltas >= 5
        for censored, found in errors.items():
            options = {"saturated": full, "censored": censored, "offset": False, "draws": 2}
            law = fit_law(ranks, lengths, np.minimum(deltas, 5), **options)
            found.append([law.alpha / 0.6 - 1, law.beta / 0.7 - 1])
    dropped, kept = (np.mean(found, axis=0) for found in errors.values())
    assert (dropped < -0.02).all()
    assert (np.abs(kept) < 0.015).all()


def test_the_bootstrap_hides_what_would_be_hidden():
    """Were saturated cells at their ceiling in every draw, lucky or not, the draws would lean one way."""
    for seed in range(3):
        deltas = noisy((40, 0.6, 0.7, 0), 0.15, seed)
        options = {"saturated": deltas >= 5, "censored": True, "offset": False, "draws": 1000}
        law = fit_law(RANKS, LENGTHS, np.minimum(deltas, 5), **options)
        lean = (law.draws.mean(0) - law.constants)[1:3] / law.draws.std(0)[1:3]
        assert (np.abs(lean) < 0.15).all()


def test_a_saturated_cell_that_is_left_out_may_be_anything():
    deltas, full = delta_loss_at(20, 0.6, 0.7, 0.5, RANKS, LENGTHS), RANKS == 16
    deltas[full] = [math.nan, -1, 0, math.inf, 5]
    law = fit_law(RANKS, LENGTHS, deltas, saturated=full, draws=2)
    assert law.constants == pytest.approx((20, 0.6, 0.7, 0.5), rel=1e-6)
    with pytest.raises(LawError, match="4 of 25 loss reductions are not above 0"):
        fit_law(RANKS, LENGTHS, deltas, saturated=full, censored=True)


# --- Measures ------------------------------------------------------------------------------------


def test_measures_by_hand():
    """ΔL 1, 2, 3 predicted as 1, 2, 4: squares 0, 0, 1 of 2 in all; errors 0, 0, 33.3 %."""
    r2, r2_log, mape = measures(np.array([1.0, 2, 3]), np.array([1.0, 2, 4]))
    logs = np.log([1, 2, 3])
    assert (r2, mape) == pytest.approx((0.5, 100 / 9))
    assert r2_log == pytest.approx(1 - math.log(4 / 3) ** 2 / (3 * logs.var()))
    r2, r2_log, _ = measures(np.array([1.0, 2, 3]), np.array([-0.1, 2, 3]))
    assert r2 == pytest.approx(1 - 1.21 / 2) and math.isnan(r2_log)


@pytest.mark.parametrize("offset", [False, True])
def test_leave_one_rank_out_is_what_it_says(offset):
    deltas = noisy((20, 0.6, 0.7, 0.5), 0.05, seed=4)
    law, errors = fit_law(RANKS, LENGTHS, deltas, offset=offset, draws=2), []
    for rank in (1, 2, 4, 8, 16):
        seen = rank != RANKS
        blind = fit_law(RANKS[seen], LENGTHS[seen], deltas[seen], offset=offset, draws=2)
        errors.extend(abs(blind.predict(rank, LENGTHS[~seen]) / deltas[~seen] - 1))
    assert law.leave_one_rank_out == pytest.approx(100 * np.mean(errors), rel=1e-4)
    assert law.leave_one_rank_out > law.mape
    few = RANKS < 8
    assert (
        fit_law(RANKS[few], LENGTHS[few], deltas[few], offset=offset, draws=2).leave_one_rank_out
        is None
    )


# --- Refusals ------------------------------------------------------------------------------------

GRID = delta_loss_at(20, 0.6, 0.7, 0.5, RANKS, LENGTHS)


@pytest.mark.parametrize(
    ("ranks", "lengths", "deltas", "options", "words"),
    [
        (
            RANKS[RANKS < 4],
            LENGTHS[RANKS < 4],
            GRID[RANKS < 4],
            {},
            "3 different ranks, found 1 and 2; add ranks",
        ),
        (RANKS[:5], LENGTHS[:5], GRID[:5], {}, "3 different lengths, found 32; add lengths"),
        (
            [1, 2, 4, 8],
            [9, 8, 4, 6],
            [1, 2, 4, 3],
            {},
            r"4 constants need at least 5 cells, found 4.*no-offset",
        ),
        (
            [1, 2, 4],
            [9, 8, 4],
            [1, 2, 4],
            {"offset": False},
            "3 constants need at least 4 cells, found 3",
        ),
        (RANKS, LENGTHS, GRID, {"saturated": [True] * 25}, "none of 25 cells is unsaturated"),
        ([], [], [], {}, "none of 0 cells"),
        (
            RANKS,
            LENGTHS,
            GRID,
            {"saturated": RANKS > 2},
            r"found 1 and 2; add ranks \(15 saturated cells",
        ),
        (
            RANKS,
            LENGTHS,
            np.r_[0, -1, math.nan, math.inf, GRID[4:]],
            {},
            "found 25 ranks.*26 delta_losses",
        ),
        (
            RANKS,
            LENGTHS,
            np.r_[0, -1, math.nan, math.inf, GRID[4:25]],
            {},
            "4 of 25 loss reductions",
        ),
        (RANKS, LENGTHS[1:], GRID, {}, "found 25 ranks, 24 lengths, 25 delta_losses, 24 saturated"),
        (RANKS, LENGTHS, GRID, {"saturated": [True]}, "1 saturated"),
        (RANKS - 1, LENGTHS, GRID, {}, "ranks must be 1 or more"),
        (RANKS, np.r_[math.nan, LENGTHS[1:]], GRID, {}, "lengths must be 1 or more"),
        (["one"] * 25, LENGTHS, GRID, {}, "must be numbers"),
        (RANKS[:5].repeat(5), 8 * RANKS[:5].repeat(5), GRID, {}, "change together"),
    ],
)
@pytest.mark.parametrize("censored", [False, True])
def test_refusals(ranks, lengths, deltas, options, words, censored):
    if words.startswith("found 25 ranks.*26"):
        deltas = np.r_[deltas, 1.0]
    with pytest.raises(LawError, match=words) as error:
        fit_law(ranks, lengths, deltas, censored=censored, **options)
    assert "\n" not in str(error.value)


def test_the_fewest_cells_that_will_do():
    law = fit_law([1, 2, 4, 1], [9, 8, 4, 20], [1, 2, 4, 0.5], offset=False)
    assert (
        law.n == 4
        and law.leave_one_rank_out is None
        and law.ci["alpha"][0] < law.alpha < law.ci["alpha"][1]
    )
    law = fit_law([1, 2, 4, 1, 8], [9, 8, 4, 20, 7], [1, 2, 4, 0.5, 4.2])
    assert law.n == 5 and all(math.isfinite(end) for pair in law.ci.values() for end in pair)


# --- The constant-bits law -----------------------------------------------------------------------

P, BASE, ENTROPY = 512 * RANKS, np.full(25, 12.0), np.full(25, 7.6)
BITS = 12 - 7.6 + 0.5 * P * LN2 / LENGTHS
FULL = BITS > 12 - LN2


def test_constant_bits_by_hand():
    """512 parameters, κ = ½: 256 bits = 177.4 nats; over 64 tokens 2.773 each, on top of 12 − 7.6."""
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
    expected = measures(deltas[cells], law.predict(P, LENGTHS, BASE, ENTROPY)[cells])
    assert (law.r2, law.r2_log, law.mape) == expected
    errors = []
    for rank in np.unique(RANKS[cells]):
        seen, test = cells & (rank != RANKS), cells & (rank == RANKS)
        blind = fit_bits(*(a[seen] for a in (P, LENGTHS, BASE, ENTROPY, deltas)), draws=2)
        errors.extend(
            abs(blind.predict(*(a[test] for a in (P, LENGTHS, BASE, ENTROPY))) / deltas[test] - 1)
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"entropies": np.r_[math.nan, ENTROPY[1:]]},
            "1 of 25 cells have no base loss or no entropy",
        ),
        ({"delta_losses": np.r_[-1, BITS[1:]]}, "1 of 25 loss reductions"),
        ({"saturated": [True] * 25}, "none of 25"),
        ({"saturated": [False] + [True] * 24}, "at least 2 unsaturated cells, found 1"),
        ({"parameters": 0 * P}, "parameters must be 1 or more"),
        ({"ranks": [1, 2]}, "2 ranks"),
        ({"base_losses": [None] * 25}, "no base loss"),
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
