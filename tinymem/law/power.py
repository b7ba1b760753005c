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
to be searched for, and each step of the search is such a least-squares problem (offset.py).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from .cells import all_and_without_each, unsaturated_cells, what_is_missing
from .offset import solve

LN2 = math.log(2)
CONSTANTS = ("C", "alpha", "beta", "b")
Numbers = float | np.ndarray  # one number, or an array of them


@dataclass(frozen=True)
class PowerLaw:
    """ΔL = C r^α ℓ^−β + b, and its solutions for r and ℓ; each takes numbers or arrays of them."""

    C: float
    alpha: float
    beta: float
    b: float

    @property
    def constants(self) -> tuple[float, float, float, float]:
        return self.C, self.alpha, self.beta, self.b

    def predict(self, rank: ArrayLike, length: ArrayLike) -> Numbers:
        """ΔL in nats per token."""
        return self.C * np.power(rank, self.alpha) * np.power(length, -self.beta) + self.b

    def rank_for(self, length: ArrayLike, delta_loss: ArrayLike) -> Numbers:
        """The rank (a real number) that reduces the loss of `length` tokens by `delta_loss`.

        r = ((ΔL − b) / C · ℓ^β)^(1/α); 0 where ΔL ≤ b, infinite where more rank does not help.
        """
        gain = np.subtract(delta_loss, self.b)
        with np.errstate(all="ignore"):
            rank = np.power(gain / self.C * np.power(length, self.beta), np.divide(1, self.alpha))
        return np.where(gain <= 0, 0.0, rank if self.alpha > 0 else np.inf)[()]

    def length_for(self, rank: ArrayLike, delta_loss: ArrayLike) -> Numbers:
        """The length (a real number) at which this rank reduces the loss by `delta_loss`.

        ℓ = (C r^α / (ΔL − b))^(1/β); infinite where ΔL ≤ b, or where more length does no harm.
        """
        gain = np.subtract(delta_loss, self.b)
        with np.errstate(all="ignore"):
            length = np.power(self.C * np.power(rank, self.alpha) / gain, np.divide(1, self.beta))
        return np.where(gain > 0, length if self.beta > 0 else np.inf, np.inf)[()]


@dataclass(frozen=True)
class Measures:
    """How well a law fits the unsaturated cells."""

    r2: float  # R² of ΔL
    r2_log: float  # R² of ln ΔL; NaN if a prediction is not positive
    mape: float  # mean absolute error of ΔL, in percent
    leave_one_rank_out: float | None  # mape where each rank is predicted by a fit without it
    n: int  # unsaturated cells
    n_saturated: int  # cells left out


@dataclass(frozen=True)
class Law(Measures, PowerLaw):
    """The fitted law. Intervals are of 95 %, from a bootstrap."""

    ci: dict[str, tuple[float, float]]  # the interval of each constant
    at_bound: bool  # the cells do not determine b: the search ended at the edge of its interval
    draws: np.ndarray = field(repr=False, compare=False)  # bootstrap constants [draws, 4]


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
        ranks=ranks, lengths=lengths, delta_losses=delta_losses, saturated=saturated
    )
    n, n_constants = len(deltas), 4 if offset else 3
    if missing := what_is_missing(ranks, lengths, n_constants):
        note = f" ({n_saturated} saturated cells do not count)" if n_saturated else ""
        raise LawError(missing + note)

    # The first fit is to all cells. One without each rank follows, if its cells are enough for it.
    included = all_and_without_each(ranks)
    if any(what_is_missing(ranks[some], lengths[some], n_constants) for some in included[1:]):
        included = included[:1]
    columns = np.stack([np.ones(n), np.log(ranks), -np.log(lengths)], axis=1)
    log_deltas = np.tile(np.log(deltas), (len(included), 1))
    constants, sigma, at_edge = solve(columns, log_deltas, included, offset, rough=False)
    predicted = np.array([PowerLaw(*fit).predict(ranks, lengths) for fit in constants])

    # The bootstrap fits runs that the law might have given. A few cells do not determine their
    # scatter well, so each draw has a scatter of its own, as in Student's t distribution:
    # σ √(n / χ²), where χ² has n − n_constants degrees of freedom.
    random = np.random.default_rng(seed)
    scatter = sigma[0] * np.sqrt(n / random.chisquare(n - n_constants, size=(draws, 1)))
    noise = np.clip(random.normal(size=(draws, n)) * scatter, -20, 20)
    log_drawn = np.log(np.maximum(predicted[0], 1e-3 * deltas)) + noise
    everything = np.full(noise.shape, True)
    drawn, _, drawn_at_edge = solve(columns, log_drawn, everything, offset, rough=True)
    return Law(
        **dict(zip(CONSTANTS, constants[0].tolist(), strict=True)),
        **vars(measure(deltas, predicted, included, n_saturated)),
        ci={name: middle_95(values) for name, values in zip(CONSTANTS, drawn.T, strict=True)},
        at_bound=bool(at_edge[0] or drawn_at_edge.mean() > 0.025),
        draws=drawn,
    )


def measure(
    deltas: np.ndarray, predicted: np.ndarray, included: np.ndarray, n_saturated: int
) -> Measures:
    """Measures a law by what it predicts for the unsaturated cells.

    predicted, included [fits, cells]: what each fit predicts, and which cells it was fitted to. The
    first was fitted to all cells; each of the others, if there are any, to all but one rank's.
    """
    with np.errstate(all="ignore"):  # ln of a negative prediction is NaN, and so is its R²
        pairs = (deltas, predicted[0]), (np.log(deltas), np.log(predicted[0]))
        r2, r2_log = (1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum() for y, p in pairs)
    errors = 100 * np.abs(predicted - deltas) / deltas
    left_out = float(errors[~included].mean()) if len(included) > 1 else None
    mape = float(errors[0].mean())
    return Measures(float(r2), float(r2_log), mape, left_out, len(deltas), n_saturated)


def middle_95(values: np.ndarray) -> tuple[float, float]:
    """The interval of the middle 95 % of the values. Not interpolated: some may be infinite."""
    low = np.quantile(values, 0.025, method="lower")
    return float(low), float(np.quantile(values, 0.975, method="higher"))
