"""The Parametric Memory Law (arXiv 2605.30260), and its fit to measured runs.

    ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b

Glossary
    r, ℓ       rank of the memory unit; length of the memory in tokens
    ΔL         loss reduction L₀ − L of the memory, in nats per token
    L₀, L      loss before and after training, in nats per token
    C          the scale of the loss reduction, in nats per token
    α, β       how ΔL grows with the rank, and how it shrinks with the length
    b          the offset, in nats per token: the part of ΔL that does not depend on rank and length
    cell       one run: its rank, its length and its ΔL
    saturated  said of a cell whose final loss L is at most ln 2; such cells are left out of the fit

Example: C = 8, α = β = ½, b = 1. Rank 4 on 64 tokens gives 8 · 2 / 8 + 1 = 3 nats per token.
Inverted, the rank that gives 3 nats per token on 64 tokens is ((3 − 1) / 8 · 8)² = 4.

The fit. Runs scatter around the law by a percentage of ΔL, so ΔL is compared on a log scale: the
constants minimise Σ (ln ΔL − ln prediction)². With b = 0 the law is a plane,
ln ΔL = ln C + α ln r − β ln ℓ, and ordinary least squares gives it in closed form. Otherwise b has
to be searched for, and each step of the search is such a least-squares problem (solver.py).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from .cells import unsaturated_cells, what_is_missing
from .solver import solve

LN2 = math.log(2)
CONSTANTS = ("C", "alpha", "beta", "b")
Numbers = float | np.ndarray  # one number, or an array of them


def delta_loss_at(
    C: Numbers, alpha: Numbers, beta: Numbers, b: Numbers, rank: Numbers, length: Numbers
) -> np.ndarray:
    """ΔL = C r^α ℓ^−β + b."""
    return C * np.power(rank, alpha) * np.power(length, np.negative(beta)) + b


def rank_at(
    C: Numbers, alpha: Numbers, beta: Numbers, b: Numbers, length: Numbers, delta_loss: Numbers
) -> np.ndarray:
    """r = ((ΔL − b) / C · ℓ^β)^(1/α); 0 where ΔL ≤ b, infinite where more rank does not help."""
    with np.errstate(all="ignore"):
        rank = np.power((delta_loss - b) / C * np.power(length, beta), 1 / np.asarray(alpha, float))
    return np.where(np.less_equal(delta_loss, b), 0.0, np.where(np.greater(alpha, 0), rank, np.inf))


def length_at(
    C: Numbers, alpha: Numbers, beta: Numbers, b: Numbers, rank: Numbers, delta_loss: Numbers
) -> np.ndarray:
    """ℓ = (C r^α / (ΔL − b))^(1/β); infinite where ΔL ≤ b, or where more length does no harm."""
    with np.errstate(all="ignore"):
        length = np.power(C * np.power(rank, alpha) / (delta_loss - b), 1 / np.asarray(beta, float))
    return np.where(np.greater(delta_loss, b) & np.greater(beta, 0), length, np.inf)


@dataclass(frozen=True)
class Law:
    """The fitted law. Measures are over the unsaturated cells; intervals are 95 %, by bootstrap."""

    C: float
    alpha: float
    beta: float
    b: float
    r2: float  # R² of ΔL
    r2_log: float  # R² of ln ΔL; NaN if a prediction is not positive
    mape: float  # mean absolute error of ΔL, in percent
    n: int  # unsaturated cells
    n_saturated: int  # cells left out
    ci: dict[str, tuple[float, float]]  # the interval of each constant
    leave_one_rank_out: float | None  # mape where each rank is predicted by a fit without it
    at_bound: bool  # the cells do not determine b: the search ended at the edge of its interval
    draws: np.ndarray = field(repr=False, compare=False)  # bootstrap constants [draws, 4]

    @property
    def constants(self) -> tuple[float, float, float, float]:
        return self.C, self.alpha, self.beta, self.b

    def predict(self, rank: ArrayLike, length: ArrayLike) -> Numbers:
        """ΔL in nats per token."""
        return delta_loss_at(*self.constants, *floats(rank, length))[()]

    def rank_for(self, length: ArrayLike, delta_loss: ArrayLike) -> Numbers:
        """The rank (a real number) that reduces the loss of `length` tokens by `delta_loss`."""
        return rank_at(*self.constants, *floats(length, delta_loss))[()]

    def length_for(self, rank: ArrayLike, delta_loss: ArrayLike) -> Numbers:
        """The length (a real number) at which this rank reduces the loss by `delta_loss`."""
        return length_at(*self.constants, *floats(rank, delta_loss))[()]

    def interval(self, function: Callable[..., np.ndarray]) -> tuple[float, float]:
        """The 95 % interval of function(C, alpha, beta, b), called once with four arrays [draws].

        law.interval(lambda C, alpha, beta, b: rank_at(C, alpha, beta, b, 128, 9.0)) belongs to
        law.rank_for(128, 9.0).
        """
        return middle_95(function(*self.draws.T))


def fit_law(
    ranks: ArrayLike,
    lengths: ArrayLike,
    delta_losses: ArrayLike,
    *,
    saturated: ArrayLike | None = None,
    offset: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> Law:
    """Fit ΔL = C r^α ℓ^−β + b to cells; offset=False fixes b at 0.

    saturated: for each cell, whether its final loss was at most ln 2. Such cells are left out:
    their ΔL says how much there was to remember, not how much the unit could hold. This biases the
    fit slightly, because close to saturation the runs with the larger ΔL are the ones left out.
    draws, seed: of the bootstrap, from which the intervals come.
    Raises LawError, which says what is missing, for cells that do not determine the constants.
    """
    n_saturated, (ranks, lengths, deltas) = unsaturated_cells(
        saturated, ranks=ranks, lengths=lengths, delta_losses=delta_losses
    )
    n_constants = 4 if offset else 3
    if missing := what_is_missing(ranks, lengths, n_constants):
        note = f" ({n_saturated} saturated cells do not count)" if n_saturated else ""
        raise LawError(missing + note)

    # Fit 0 is to all cells. One fit without each rank follows, if its cells are enough for a fit.
    included = [ranks > 0, *(ranks != rank for rank in np.unique(ranks))]
    if any(what_is_missing(ranks[some], lengths[some], n_constants) for some in included[1:]):
        included = included[:1]
    columns = np.stack([np.ones(len(ranks)), np.log(ranks), -np.log(lengths)], axis=1)
    log_deltas = np.tile(np.log(deltas), (len(included), 1))
    constants, sigma, at_edge = solve(columns, log_deltas, np.array(included), offset, rough=False)
    C, alpha, beta, b = constants.T[:, :, None]  # each [fits, 1]
    predicted = delta_loss_at(C, alpha, beta, b, ranks, lengths)  # [fits, cells]
    leave_one_rank_out = None
    if len(included) > 1:
        predicted_left_out = np.select([~some for some in included[1:]], list(predicted[1:]))
        leave_one_rank_out = measures(deltas, predicted_left_out)[2]

    log_deltas = bootstrap_runs(predicted[0], deltas, sigma[0], n_constants, draws, seed)
    everything = np.full(log_deltas.shape, True)
    drawn, _, drawn_at_edge = solve(columns, log_deltas, everything, offset, rough=True)
    return Law(
        C[0].item(),
        alpha[0].item(),
        beta[0].item(),
        b[0].item(),
        *measures(deltas, predicted[0]),
        n=len(deltas),
        n_saturated=n_saturated,
        ci={name: middle_95(values) for name, values in zip(CONSTANTS, drawn.T, strict=True)},
        leave_one_rank_out=leave_one_rank_out,
        at_bound=bool(at_edge[0] or drawn_at_edge.mean() > 0.025),
        draws=drawn,
    )


def bootstrap_runs(
    predicted: np.ndarray, deltas: np.ndarray, sigma: float, n_constants: int, draws: int, seed: int
) -> np.ndarray:
    """ln ΔL of runs that the fitted law might have given [draws, cells].

    A few cells do not determine their scatter well. So each draw has a scatter of its own, as in
    Student's t distribution: σ √(n / χ²), where χ² has n − n_constants degrees of freedom.
    """
    random, n = np.random.default_rng(seed), len(deltas)
    scatter = sigma * np.sqrt(n / random.chisquare(n - n_constants, size=(draws, 1)))
    noise = np.clip(random.normal(size=(draws, n)) * scatter, -20, 20)
    return np.log(np.maximum(predicted, 1e-3 * deltas)) + noise


def measures(deltas: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """R² of ΔL, R² of ln ΔL, and the mean absolute error of ΔL in percent."""
    with np.errstate(all="ignore"):  # ln of a negative prediction is NaN, and so is its R²
        pairs = (deltas, predicted), (np.log(deltas), np.log(predicted))
        r2, r2_log = (1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum() for y, p in pairs)
    return float(r2), float(r2_log), float(100 * (np.abs(predicted - deltas) / deltas).mean())


def middle_95(values: np.ndarray) -> tuple[float, float]:
    """The interval of the middle 95 % of the values. Not interpolated: some may be infinite."""
    ordered = np.sort(np.asarray(values, float))
    last = len(ordered) - 1
    return float(ordered[math.floor(0.025 * last)]), float(ordered[math.ceil(0.975 * last)])


def floats(*values: ArrayLike) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(value, float) for value in values)
