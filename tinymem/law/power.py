"""The Parametric Memory Law (arXiv 2605.30260), and its fit to measured runs.

    ΔL(r, ℓ) = C · r^α · ℓ^(−β) + b

Glossary
    r, ℓ       rank of the memory unit; length of the memory in tokens
    ΔL         loss reduction L₀ − L of the memory, in nats per token
    L₀, L      loss before and after training, in nats per token
    C          the scale of the loss reduction, in nats per token
    α, β       how ΔL grows with the rank, and how it shrinks with the length
    b          the offset, in nats per token: the part of ΔL that does not depend on rank and length
    run        one training: its rank, its length and its ΔL
    cell       a rank and a length; its runs are its seeds
    saturated  said of a run whose final loss L is at most ln 2; such runs are left out of the fit

Example: C = 8, α = β = ½, b = 1. Rank 4 on 64 tokens gives 8 · 2 / 8 + 1 = 3 nats per token.
Inverted, the rank that gives 3 nats per token on 64 tokens is ((3 − 1) / 8 · 8)² = 4.

The fit. Cells scatter around the law by a percentage of ΔL, so ΔL is compared on a log scale: the
constants minimise Σ (ln ΔL − ln prediction)² over the runs. With b = 0 the law is a plane,
ln ΔL = ln C + α ln r − β ln ℓ, and ordinary least squares gives it in closed form. Otherwise b has
to be searched for, and each step of the search is such a least-squares problem (offset.py). The
intervals come from a bootstrap that treats a cell, not a run, as one observation (cells.py).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from ..shown import Shown
from .cells import (
    all_and_without_each,
    cells_of,
    left_out,
    scattered,
    unsaturated_runs,
    what_is_missing,
)
from .offset import leverages, solve

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
        return np.where(gain <= 0, 0.0, np.where(np.greater(self.alpha, 0), rank, np.inf))[()]

    def length_for(self, rank: ArrayLike, delta_loss: ArrayLike) -> Numbers:
        """The length (a real number) at which this rank reduces the loss by `delta_loss`.

        ℓ = (C r^α / (ΔL − b))^(1/β); infinite where ΔL ≤ b, or where more length does no harm.
        """
        gain = np.subtract(delta_loss, self.b)
        with np.errstate(all="ignore"):
            length = np.power(self.C * np.power(rank, self.alpha) / gain, np.divide(1, self.beta))
        return np.where((gain > 0) & np.greater(self.beta, 0), length, np.inf)[()]


@dataclass(frozen=True)
class Measures:
    """How well a law fits the unsaturated runs."""

    r2: float  # R² of ΔL
    r2_log: float  # R² of ln ΔL; NaN if a prediction is not positive
    mape: float  # mean absolute error of ΔL, in percent
    leave_one_rank_out: float | None  # mape where each rank is predicted by a fit without it
    n: int  # unsaturated runs
    n_cells: int  # cells that they belong to: the observations that the intervals rest on
    n_saturated: int  # runs left out


@dataclass(frozen=True, repr=False)
class Law(Shown, Measures, PowerLaw):
    """The fitted law. Intervals are of 95 %, from a bootstrap of the cells."""

    ci: dict[str, tuple[float, float]]  # the interval of each constant
    at_bound: bool  # the cells do not determine b: the search ended at the edge of its interval
    draws: np.ndarray = field(repr=False, compare=False)  # bootstrap constants [draws, 4]
    # For each unsaturated run: how far its ln ΔL lies from the law, residual / √(1 − leverage), and
    # ΔL by a law that was fitted without its cell.
    deviations: np.ndarray = field(repr=False, compare=False)
    without_cell: np.ndarray = field(repr=False, compare=False)


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
    """Fit ΔL = C r^α ℓ^−β + b to runs; offset=False fixes b at 0.

    Runs of equal rank and length are the seeds of a cell.
    saturated: for each run, whether its final loss was at most ln 2. By the paper's convention such
    runs are left out: their ΔL is close to L₀ and says little about the rank. This biases the fit
    slightly, because close to saturation the runs with the larger ΔL are the ones left out.
    draws, seed: of the bootstrap, from which the intervals come.
    Raises LawError, which says what is missing, for cells that do not determine the constants.
    """
    n_saturated, (ranks, lengths, deltas) = unsaturated_runs(
        ranks=ranks, lengths=lengths, delta_losses=delta_losses, saturated=saturated
    )
    rank, length, seeds, cell = cells_of(ranks, lengths)
    n_constants = 4 if offset else 3
    if missing := what_is_missing(rank, length, n_constants, deltas):
        note = f" ({n_saturated} saturated runs do not count)" if n_saturated else ""
        raise LawError(missing + note)

    # The first fit is to all cells. One without each rank follows, if its cells are enough for it.
    included = all_and_without_each(rank)
    if any(what_is_missing(rank[some], length[some], n_constants) for some in included[1:]):
        included = included[:1]
    columns = np.stack([np.ones(len(rank)), np.log(rank), -np.log(length)], axis=1)
    log_deltas = np.bincount(cell, np.log(deltas)) / seeds
    many = np.tile(log_deltas, (len(included), 1))
    constants, at_edge = solve(columns, many, included * seeds, offset, rough=False)
    predicted = np.array([PowerLaw(*fit).predict(rank, length) for fit in constants])

    # The bootstrap fits cells that the law might have given.
    log_predicted = np.log(np.maximum(predicted[0], 1e-3 * np.exp(log_deltas)))
    leverage = leverages(columns, constants[0], seeds, offset)
    deviations = left_out(log_deltas - log_predicted, leverage)
    noise = scattered(deviations, n_constants, draws, seed)
    log_drawn, weights = log_predicted + np.clip(noise, -20, 20), np.tile(seeds, (draws, 1))
    drawn, drawn_at_edge = solve(columns, log_drawn, weights, offset, rough=True)
    return Law(
        **dict(zip(CONSTANTS, constants[0].tolist(), strict=True)),
        **vars(measure(deltas, predicted[:, cell], included[:, cell], len(rank), n_saturated)),
        ci={name: middle_95(values) for name, values in zip(CONSTANTS, drawn.T, strict=True)},
        at_bound=bool(at_edge[0] or drawn_at_edge.mean() > 0.025),
        draws=drawn,
        deviations=(deviations * np.sqrt(1 - leverage) - log_deltas)[cell] + np.log(deltas),
        without_cell=np.exp(log_deltas - deviations)[cell],
    )


def measure(
    deltas: np.ndarray,
    predicted: np.ndarray,
    included: np.ndarray,
    n_cells: int,
    n_saturated: int,
) -> Measures:
    """Measures a law by what it predicts for the unsaturated runs.

    predicted, included [fits, runs]: what each fit predicts, and which runs it was fitted to. The
    first was fitted to all of them; each of the others, if there are any, to all but one rank's.
    """
    with np.errstate(all="ignore"):  # ln of a negative prediction is NaN, and so is its R²
        pairs = (deltas, predicted[0]), (np.log(deltas), np.log(predicted[0]))
        r2, r2_log = (1 - ((y - p) ** 2).sum() / ((y - y.mean()) ** 2).sum() for y, p in pairs)
    errors = 100 * np.abs(predicted - deltas) / deltas
    left_out = float(errors[~included].mean()) if len(included) > 1 else None
    mape = float(errors[0].mean())
    return Measures(float(r2), float(r2_log), mape, left_out, len(deltas), n_cells, n_saturated)


def middle_95(values: np.ndarray) -> tuple[float, float]:
    """The interval of the middle 95 % of the values. Not interpolated: some may be infinite."""
    low = np.quantile(values, 0.025, method="lower")
    return float(low), float(np.quantile(values, 0.975, method="higher"))
