"""From which rank on runs reach a goal: a plane through the runs near the goal.

    ln r = a + γ ln ℓ + k z

z says how far a run is beyond the goal; it is negative if it falls short:

    certificate    z = ln(p / (1 − p)) of the least certain token, which is 0 at p = ½
    final loss L*  z = ln(ΔL / ΔL*), where ΔL* = L₀ − L*

At z = 0 the plane gives the rank that a run needs. For a final loss the plane is the power law with
b = 0, solved for ln r: γ = β / α, k = 1 / α. But the law describes all unsaturated runs at once and
misses most regions by a few percent of ΔL; the plane is fitted near the goal. For the certificate,
to which the law has nothing to say, the plane is tinymem's own.

Example: 64 tokens at ranks 4 and 8 end at z = −2 and 2, 128 tokens at ranks 8 and 16 likewise, and
256 tokens at ranks 16 and 32. Then γ = 1, k = ln(2) / 4, and 64 tokens need rank √(4 · 8) = 5.7.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .cells import cells_of, left_out, scattered
from .offset import least_squares

CELLS = 6  # if fewer cells are near, the nearest ones are taken


@dataclass(frozen=True)
class Threshold:
    """The fitted plane; `ranks` and `lengths` say what fresh runs need, or hold."""

    draws: np.ndarray  # a and γ of each draw of the bootstrap [draws, 2]
    deviations: np.ndarray  # how far ln r of each near run lies from the plane [runs]
    right_left_out: float  # the share of runs that a plane without their cell judges correctly

    def ranks(self, length: float) -> np.ndarray:
        """The ranks (real numbers) that fresh runs of this length need."""
        middle = self.draws @ [1, np.log(length)]
        return np.exp(middle[:, None] + self.deviations).ravel()

    def lengths(self, rank: float) -> np.ndarray:
        """The largest lengths (real numbers) at which fresh runs of this rank get there."""
        a, slope = self.draws.T[:, :, None]
        with np.errstate(all="ignore"):
            lengths = np.exp((np.log(rank) - a - self.deviations) / slope)
        return np.where(slope > 0, lengths, np.inf).ravel()


def fit_threshold(
    ranks: ArrayLike,
    lengths: ArrayLike,
    z: ArrayLike,
    near: float,
    draws: int = 1000,
    seed: int = 0,
) -> Threshold | None:
    """Fit the plane to the cells with |z| ≤ near, by least squares.

    None if the runs do not determine it: if all of them reach the goal or none does, or if too few
    cells or lengths are measured.
    """
    ranks, lengths, z = (np.asarray(column, float) for column in (ranks, lengths, z))
    if (z > 0).all() or (z <= 0).all():  # also if there are none
        return None
    rank, length, seeds, cell = cells_of(ranks, lengths)
    if len(rank) < CELLS:
        return None
    mean_z = np.bincount(cell, z) / seeds
    close = np.abs(mean_z) <= max(near, np.sort(np.abs(mean_z))[CELLS - 1])

    X, y = np.stack([np.ones(len(rank)), np.log(length), mean_z], axis=1), np.log(rank)
    few, weights = X[close], close * seeds
    leverage = (np.linalg.qr(few * np.sqrt(seeds[close])[:, None])[0] ** 2).sum(1)
    if np.linalg.matrix_rank(few) < 3 or leverage.max() > 1 - 1e-6:
        return None
    plane = least_squares(X, weights[None], y[None])[0]
    residuals = y - X @ plane
    apart = left_out(residuals[close], leverage)
    drawn = few @ plane + scattered(apart, 3, draws, seed)
    planes = least_squares(few, np.tile(seeds[close], (draws, 1)), drawn)

    # Runs deviate with their cell, residual / √(1 − leverage), and within it, through z.
    of_cell = np.zeros(len(rank))
    of_cell[close] = apart * np.sqrt(1 - leverage)
    deviations = (of_cell[cell] - plane[2] * (z - mean_z[cell]))[close[cell]]

    # Each cell is judged by a plane without it.
    others = least_squares(X, weights * (1 - np.eye(len(rank))), np.tile(y, (len(rank), 1)))
    enough = (X[:, :2] * others[:, :2]).sum(1) <= y
    right = float((enough[cell] == (z > 0)).mean())
    return Threshold(planes[:, :2], deviations, right)
