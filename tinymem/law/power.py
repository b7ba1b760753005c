"""The Parametric Memory Law (arXiv 2605.30260).

    ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b

Glossary
    r, ℓ       rank of the memory unit; length of the memory, in tokens
    ΔL         loss reduction L₀ − L of the memory, nats per token
    C, α, β    how much is remembered, what more rank adds to it, what more length takes from it
    b          offset, nats per token: what costs no rank (above 0), or what rank must first pay (below)
    L₀         loss before training, nats per token
    cell       one run, (r, ℓ) -> ΔL. Saturated if its final loss is at most ln 2: it learned all there was

By hand: C = 8, α = β = ½, b = 1. Rank 4 on 64 tokens: 8 · 2 / 8 + 1 = 3 nats per token. Turned round, the
rank for 3 nats per token on 64 tokens is ((3 − 1) / 8 · 8)² = 4.

How it is fitted. Runs scatter by some percent, not by some nats, so ΔL is compared on a log scale: the
constants minimise Σ (ln ΔL − ln prediction)². With b = 0 that is a plane, ln ΔL = ln C + α ln r − β ln ℓ:
ordinary least squares, in closed form. With b it is a search over that one number, closed form in each step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError

LN2 = math.log(2)
GOLDEN = (math.sqrt(5) - 1) / 2


def delta_loss_at(C, alpha, beta, b, rank, length):
    """ΔL = C r^α ℓ^−β + b. Each argument of these three functions may be an array."""
    return C * np.power(rank, alpha) * np.power(length, np.negative(beta)) + b


def rank_at(C, alpha, beta, b, length, delta_loss):
    """r = ((ΔL − b) / C · ℓ^β)^(1/α); 0 where b alone is enough, inf where more rank does not help."""
    with np.errstate(all="ignore"):
        rank = np.power((delta_loss - b) / C * np.power(length, beta), 1 / np.asarray(alpha, float))
    return np.where(np.less_equal(delta_loss, b), 0.0, np.where(np.greater(alpha, 0), rank, np.inf))


def length_at(C, alpha, beta, b, rank, delta_loss):
    """ℓ = (C r^α / (ΔL − b))^(1/β); inf where b alone is enough, or more length does no harm."""
    with np.errstate(all="ignore"):
        length = np.power(C * np.power(rank, alpha) / (delta_loss - b), 1 / np.asarray(beta, float))
    return np.where(np.greater(delta_loss, b) & np.greater(beta, 0), length, np.inf)


@dataclass(frozen=True)
class Law:
    """The fitted power law. Measures are over the unsaturated cells; intervals are 95 %, bootstrap."""

    C: float
    alpha: float
    beta: float
    b: float
    r2: float  # of ΔL
    r2_log: float  # of ln ΔL; nan if a prediction is not positive
    mape: float  # mean |error| of ΔL, percent
    n: int  # unsaturated cells
    n_saturated: int  # left out, or kept as "at least this much"
    ci: dict[str, tuple[float, float]]
    leave_one_rank_out: float | None  # mape, every rank predicted by a law that never saw it
    at_bound: (
        bool  # b, or an end of its interval, ran to the edge of the search: the data do not fix it
    )
    draws: np.ndarray = field(repr=False, compare=False)  # [draws, 4], the bootstrap's constants

    @property
    def constants(self) -> tuple[float, float, float, float]:
        return self.C, self.alpha, self.beta, self.b

    def predict(self, rank: ArrayLike, length: ArrayLike):
        """ΔL in nats per token."""
        return delta_loss_at(*self.constants, np.asarray(rank, float), np.asarray(length, float))[
            ()
        ]

    def rank_for(self, length: ArrayLike, delta_loss: ArrayLike):
        """The rank (a real number) that reduces the loss of `length` tokens by `delta_loss`."""
        return rank_at(*self.constants, np.asarray(length, float), np.asarray(delta_loss, float))[
            ()
        ]

    def length_for(self, rank: ArrayLike, delta_loss: ArrayLike):
        """The length (a real number) at which this rank reduces the loss by `delta_loss`."""
        return length_at(*self.constants, np.asarray(rank, float), np.asarray(delta_loss, float))[
            ()
        ]

    def interval(self, function: Callable[..., np.ndarray]) -> tuple[float, float]:
        """95 % of function(C, alpha, beta, b), which is called once, with four arrays [draws].

        law.interval(lambda *constants: rank_at(*constants, 128, 9.0)) is that of law.rank_for(128, 9.0).
        """
        return middle_95(function(*self.draws.T))


def fit_law(
    ranks: ArrayLike,
    lengths: ArrayLike,
    delta_losses: ArrayLike,
    *,
    saturated: ArrayLike | None = None,
    offset: bool = True,
    censored: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> Law:
    """Fit ΔL = C r^α ℓ^−β + b to cells; offset=False fixes b at 0.

    saturated: for each cell, was its final loss at most ln 2? Then ΔL is what the memory had to give,
    not what the unit could take. Such cells are left out, which bends the law a little: where the law
    meets the ceiling, it is the luckier runs that are missing. With censored=True they are kept as "at
    least this much", and their ΔL should be L₀ − ln 2, where saturation begins: what they reached
    themselves has their own luck in it. That assumes that ln ΔL scatters normally around the law, by as
    much in every cell, and that a memory with more to give would have gone on following it.

    Raises LawError, which says what is missing, for cells that cannot tell the constants apart.
    """
    cells = {"ranks": ranks, "lengths": lengths, "delta_losses": delta_losses}
    n_saturated, full, ranks, lengths, deltas = read_cells(saturated, censored, **cells)
    free = 4 if offset else 3
    if missing := what_is_missing(ranks[~full], lengths[~full], free):
        raise LawError(
            missing + (f" ({n_saturated} saturated cells do not count)" if n_saturated else "")
        )
    columns = np.stack([np.ones(len(ranks)), np.log(ranks), -np.log(lengths)], axis=1)

    # Problems of one size are solved side by side. Here: all cells, then all but one rank's.
    held = [ranks == rank for rank in np.unique(ranks[~full])]
    rest = [~full & ~one for one in held]
    if any(what_is_missing(ranks[cells], lengths[cells], free) for cells in rest):
        held = []
    keep = np.array([np.ones(len(ranks)), *(~one for one in held)], float)
    y, hidden = (np.broadcast_to(one, keep.shape) for one in (np.log(deltas), full))
    constants, sigma, stuck = search(columns, y, keep, hidden, offset, steps=16, looks=48)
    predicted = delta_loss_at(*constants.T[:, :, None], ranks, lengths)
    blind = np.select(held, predicted[1:]) if held else None

    # The bootstrap: runs that the fitted law might have given, fitted again. Each draw has a scatter of
    # its own, as in Student's t: few cells do not know theirs well.
    random, n = np.random.default_rng(seed), int((~full).sum())
    scatter = sigma[0] * np.sqrt(n / random.chisquare(n - free, size=(draws, 1)))
    noise = np.clip(random.normal(size=(draws, len(ranks))) * scatter, -20, 20)
    again = np.log(np.maximum(predicted[0], 1e-3 * deltas)) + noise
    hidden = full & (
        again > y[0]
    )  # a saturated cell hides what is above its mark, not what is below
    again, steps = np.where(hidden, y[0], again), 6 if full.any() else 2
    drawn, _, edges = search(columns, again, np.ones(again.shape), hidden, offset, steps, looks=18)

    return Law(
        *constants[0].tolist(),
        *measures(deltas[~full], predicted[0, ~full]),
        n=n,
        n_saturated=n_saturated,
        ci={k: middle_95(v) for k, v in zip(("C", "alpha", "beta", "b"), drawn.T, strict=True)},
        leave_one_rank_out=None if blind is None else measures(deltas[~full], blind[~full])[2],
        at_bound=bool(stuck[0] or edges.mean() > 0.025),
        draws=drawn,
    )


def least_squares(columns: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """θ = (Xᵀ W X)⁻¹ Xᵀ W y for each row of weights and values [rows, cells] -> [rows, constants]."""
    k = columns.shape[1]
    products = (columns[:, :, None] * columns[:, None, :]).reshape(-1, k * k)
    square = (weights @ products).reshape(-1, k, k)
    square += (
        1e-14 * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(k)
    )  # never singular
    return np.linalg.solve(square, ((weights * values) @ columns)[:, :, None])[:, :, 0]


def fit_planes(columns, b, y, keep, hidden, steps):
    """(ln C, α, β) for each row, given its b; the scatter σ; and −ln likelihood, to compare b's by.

    columns [cells, 3]: 1, ln r, −ln ℓ. b [rows]. The others [rows, cells]: y is ln ΔL, or at least y
    where `hidden`; keep is 1, or 0 for cells this row must not see.

    ln(ΔL − b) would be a plane, but its scatter is uneven: where ΔL is close to b, a percent of ΔL is a
    lot of ΔL − b. So each cell weighs ((ΔL − b) / ΔL)². It is judged by the residuals of ln ΔL, not of
    ln(ΔL − b): b → −∞ squeezes all of the latter to a point, and would always win. A few more least
    squares of what is left (Gauss-Newton) then find the plane that is best by that measure.

    Hidden cells (the censored regression known as Tobit) are filled in with what the fit so far expects
    above y, and fitted again, in turn. The farther the fit is above y, the less a hidden cell has to say:
    it counts as a `share` of a cell, which is Newton's step and needs far fewer turns than counting it
    in full (expectation and maximisation).
    """
    b, delta, use = b[:, None], np.exp(y), keep * ~hidden  # the first fit is to what was seen
    gap = np.maximum(delta - b, 1e-3 * delta)
    theta = least_squares(columns, use * (gap / delta) ** 2, np.log(gap))
    best = theta, np.full((len(y), 1), np.nan), np.full((len(y), 1), np.inf)
    filled, spread, share, before = y.copy(), np.zeros(y.shape), np.ones(y.shape), np.inf
    for _ in range(steps + 1):
        power = np.exp(np.clip(theta @ columns.T, -50, 50))
        prediction = np.maximum(
            power + b, 1e-3 * delta
        )  # where b < 0 it may leave the logarithm's domain
        mean = np.log(prediction)
        sigma = (
            np.sqrt((use * ((filled - mean) ** 2 + spread)).sum(1) / use.sum(1))[:, None] + 1e-30
        )
        z = (y - mean) / sigma
        surprise = z**2 / 2 + np.log(sigma)
        if hidden.any():
            marks, width = z[hidden], np.broadcast_to(sigma, y.shape)[hidden]
            ln_p, mills = upper_tail(marks)
            surprise[hidden] = -ln_p
            filled[hidden] = mean[hidden] + width * mills
            share[hidden] = np.clip(mills * (mills - marks), 1e-6, 1)
            spread[hidden] = width**2 * (1 - share[hidden])
            use = keep
        score = (keep * surprise).sum(1, keepdims=True)
        best = [
            np.where(score < best[2], new, old)
            for new, old in zip((theta, sigma, score), best, strict=True)
        ]
        if (np.abs(score - before) < 1e-9).all():
            break
        before, slope = (
            score,
            power / prediction,
        )  # slope: how much ln ΔL moves when the plane moves by 1
        theta = theta + least_squares(
            columns, use * share * slope**2, (filled - mean) / slope / share
        )
    return best[0], best[1][:, 0], best[2][:, 0]


def upper_tail(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln P(x > z) and E[x | x > z], the inverse Mills ratio, of a standard normal x."""
    large = np.maximum(
        z, 1
    )  # from 25 on p is nearly 0 in floating point, but its series is exact enough
    p = np.maximum(np.frompyfunc(math.erfc, 1, 1)(z / math.sqrt(2)).astype(float) / 2, 1e-300)
    ln_density = -(z**2) / 2 - math.log(2 * math.pi) / 2
    ln_p = np.where(z < 25, np.log(p), ln_density - np.log(large))
    return ln_p, np.where(z < 25, np.exp(ln_density - np.log(p)), large + 1 / large)


def search(columns, y, keep, hidden, offset, steps, looks):
    """The b that fits best: a scan, then golden section, for all rows side by side.

    b runs from just below the row's smallest ΔL down to −10 times its largest. So far down the law is so
    nearly ΔL = a + α' ln r − β' ln ℓ that hardly any data tell it from b = −∞. What is searched is the
    logarithm of b's distance below the smallest ΔL. Returns (C, α, β, b) [rows, 4], σ [rows], and
    whether b ended at an edge [rows].
    """
    top = np.exp(np.where(keep > 0, y, np.inf).min(1))
    bottom = -10 * np.exp(np.where(keep > 0, y, -np.inf).max(1))
    first, last = np.log(1e-6 * top), np.log(top - bottom)

    def score(distance, steps=steps):
        return fit_planes(columns, top - np.exp(distance), y, keep, hidden, steps)[2]

    stuck, b = np.full(len(y), False), np.zeros(len(y))
    if offset:
        grid = first + (last - first) * np.linspace(0, 1, 20)[:, None]
        k = np.array([score(distance, min(steps, 4)) for distance in grid]).argmin(0)
        low, high = (grid[np.clip(k + i, 0, len(grid) - 1), np.arange(len(y))] for i in (-1, 1))
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        at_left, at_right = score(left), score(right)
        for _ in range(looks):  # drop what lies beyond the worse of the two looks
            down = at_left < at_right
            low, high = np.where(down, low, left), np.where(down, right, high)
            new = np.where(down, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
            at_new = score(new)
            left, right = np.where(down, new, right), np.where(down, left, new)
            at_left, at_right = np.where(down, at_new, at_right), np.where(down, at_left, at_new)
        distance = (low + high) / 2
        stuck = np.minimum(distance - first, last - distance) < 0.01
        b = top - np.exp(distance)
    theta, sigma, _ = fit_planes(columns, b, y, keep, hidden, steps)
    return np.column_stack([np.exp(theta[:, 0]), theta[:, 1:], b]), sigma, stuck


def measures(deltas: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """R² of ΔL, R² of ln ΔL, and the mean absolute error of ΔL in percent."""
    with np.errstate(all="ignore"):
        logs = np.log(deltas), np.log(predicted)  # nan below 0, and so is R² then
        r2s = [
            1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum()
            for y, p in ((deltas, predicted), logs)
        ]
    return float(r2s[0]), float(r2s[1]), float(100 * (np.abs(predicted - deltas) / deltas).mean())


def middle_95(values: np.ndarray) -> tuple[float, float]:
    """Between which 95 % of the values lie. No interpolation: they may be infinite."""
    ordered = np.sort(np.asarray(values, float))
    last = len(ordered) - 1
    return float(ordered[math.floor(0.025 * last)]), float(ordered[math.ceil(0.975 * last)])


def read_cells(saturated: ArrayLike | None, censored: bool, **columns: ArrayLike) -> list:
    """Number of saturated cells; and of the cells to use, which are saturated, and their columns."""
    try:
        columns = {name: np.asarray(column, float).ravel() for name, column in columns.items()}
        size = len(columns["lengths"])
        full = np.zeros(size, bool) if saturated is None else np.ravel(saturated).astype(bool)
    except (TypeError, ValueError) as error:
        raise LawError(f"{', '.join(columns)} must be numbers ({error})") from error
    sizes = {name: len(column) for name, column in (*columns.items(), ("saturated", full))}
    if len(set(sizes.values())) > 1:
        sizes = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise LawError(f"found {sizes}; there must be one of each for every cell")
    if not size or full.all():
        raise LawError(f"none of {size} cells is unsaturated; add longer memories or smaller ranks")
    for name in ("parameters", "ranks", "lengths"):
        if name in columns and not (np.isfinite(columns[name]) & (columns[name] >= 1)).all():
            raise LawError(f"{name} must be 1 or more")
    used = np.full(size, censored) | ~full
    deltas = columns["delta_losses"][used]
    if bad := int((~(np.isfinite(deltas) & (deltas > 0))).sum()):
        raise LawError(
            f"{bad} of {len(deltas)} loss reductions are not above 0; leave those cells out"
        )
    return [int(full.sum()), full[used], *(column[used] for column in columns.values())]


def what_is_missing(ranks: np.ndarray, lengths: np.ndarray, constants: int) -> str:
    """Why these cells cannot tell the constants apart; empty if they can."""
    for name, values in (("ranks", np.unique(ranks)), ("lengths", np.unique(lengths))):
        if len(values) < 3:
            found = " and ".join(f"{value:g}" for value in values)
            return f"the law needs at least 3 different {name}, found {found}; add {name}"
    if len(ranks) <= constants:
        fewer = " or fix b at 0 (offset=False, --no-offset)" if constants == len(ranks) == 4 else ""
        return f"{constants} constants need at least {constants + 1} cells, found {len(ranks)}; add cells{fewer}"
    columns = np.stack([np.ones(len(ranks)), np.log(ranks), np.log(lengths)], axis=1)
    if np.linalg.svd(columns - columns.mean(0), compute_uv=False)[1] < 1e-6:
        return "rank and length change together in every cell; add cells where only one of them changes"
    return ""
