"""Which rank certifies a memory: where the least certain token passes p = ½.

    ln r = a + γ ln ℓ + k z,    z = ln(p / (1 − p)) of the least certain token

z is the log-odds of that token: negative if it is uncertain, 0 at p = ½. Near the threshold the
measured runs lie close to this plane, and at z = 0 it gives the rank that a run needs. The power
law would have to be stretched for this: certified runs are mostly saturated, and it was not fitted
to those. The plane is tinymem's own, not the paper's.

Example: 64 tokens at ranks 4 and 8 end at z = −2 and 2, 128 tokens at ranks 8 and 16 likewise, and
256 tokens at ranks 16 and 32. Then γ = 1, k = ln(2) / 4, and 64 tokens need rank √(4 · 8) = 5.7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .cells import cells_of, left_out, scattered
from .offset import least_squares

NEAR = 2.0  # log-odds: p from 0.12 to 0.88. Farther away the plane bends
CELLS = 6  # if fewer cells are that near, the nearest ones are taken
FIELDS = ("rank", "length", "min_probability", "certified")


@dataclass(frozen=True)
class Certificate:
    """The fitted plane; `ranks` and `lengths` say what fresh runs need, or hold."""

    draws: np.ndarray  # a and γ of each draw of the bootstrap [draws, 2]
    deviations: np.ndarray  # how far ln r of each near run lies from the plane [runs]
    right_left_out: float  # the share of runs that a plane without their cell judges correctly

    def ranks(self, length: float) -> np.ndarray:
        """The ranks (real numbers) that fresh runs of this length need."""
        middle = self.draws @ [1, np.log(length)]
        return np.exp(middle[:, None] + self.deviations).ravel()

    def lengths(self, rank: float) -> np.ndarray:
        """The largest lengths (real numbers) that fresh runs of this rank certify."""
        a, slope = self.draws.T[:, :, None]
        with np.errstate(all="ignore"):
            lengths = np.exp((np.log(rank) - a - self.deviations) / slope)
        return np.where(slope > 0, lengths, np.inf).ravel()


def fit_certificate(rows: Sequence[dict], draws: int = 1000, seed: int = 0) -> Certificate | None:
    """Fit the plane to the cells near the threshold, by least squares.

    Rows need rank, length, min_probability and certified. None if they do not determine the plane:
    if all runs are certified or none is, or if too few cells or lengths are measured.
    """
    columns = (np.array([row[n] for row in rows], float) for n in FIELDS)
    run_rank, run_length, p, certified = columns
    rank, length, seeds, cell = cells_of(run_rank, run_length)
    if len(rank) < CELLS or certified.mean() in (0, 1):
        return None
    odds = np.clip(p, 1e-12, 1 - 1e-9)
    z = np.log(odds / (1 - odds))
    mean_z = np.bincount(cell, z) / seeds
    near = np.abs(mean_z) <= max(NEAR, np.sort(np.abs(mean_z))[CELLS - 1])

    X, y = np.stack([np.ones(len(rank)), np.log(length), mean_z], axis=1), np.log(rank)
    few, weights = X[near], near * seeds
    leverage = (np.linalg.qr(few * np.sqrt(seeds[near])[:, None])[0] ** 2).sum(1)
    if np.linalg.matrix_rank(few) < 3 or leverage.max() > 1 - 1e-6:
        return None
    plane = least_squares(X, weights[None], y[None])[0]
    residuals = y - X @ plane
    apart = left_out(residuals[near], leverage)
    drawn = few @ plane + scattered(apart, 3, draws, seed)
    planes = least_squares(few, np.tile(seeds[near], (draws, 1)), drawn)

    # Runs deviate with their cell, residual / √(1 − leverage), and within it, through z.
    of_cell = np.zeros(len(rank))
    of_cell[near] = apart * np.sqrt(1 - leverage)
    deviations = (of_cell[cell] - plane[2] * (z - mean_z[cell]))[near[cell]]

    # Each cell is judged by a plane without it.
    others = least_squares(X, weights * (1 - np.eye(len(rank))), np.tile(y, (len(rank), 1)))
    enough = (X[:, :2] * others[:, :2]).sum(1) <= y
    right = float((enough[cell] == (certified == 1)).mean())
    return Certificate(planes[:, :2], deviations, right)
