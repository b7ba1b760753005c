"""The search over the offset b, with the least-squares fit of the other constants inside it.

The law's constants minimise Σ (ln ΔL − ln prediction)². `fit_planes` finds the best ln C, α and β
for a given b, and `minimise` looks for the b at which they fit best.

`fit_law` needs many fits to the same grid: to all cells, to all cells but those of one rank, and
to every bootstrap draw. They are solved side by side, as arrays [fits, cells], because a Python
loop over a thousand small fits would be slow.
"""

import math
from collections.abc import Callable

import numpy as np

GOLDEN = (math.sqrt(5) - 1) / 2
SCAN_POINTS = 20  # values that are tried before the golden-section search begins


def solve(
    columns: np.ndarray, log_deltas: np.ndarray, weights: np.ndarray, offset: bool, rough: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the law to each row of log_deltas.

    columns [cells, 3]: 1, ln r, −ln ℓ. log_deltas [fits, cells]: ln ΔL, the mean over the seeds.
    weights [fits, cells]: the number of seeds, or 0 where a fit leaves the cell out.
    offset=False fixes b at 0. rough=True takes fewer steps, which is enough for the draws of a
    bootstrap.
    Returns the constants C, α, β, b [fits, 4], and at_edge [fits], whether b ended at an edge of
    the searched interval.

    b is searched from just below the smallest ΔL of the fit's cells down to −10 times the largest.
    At that lower end the law is nearly ΔL = a + α' ln r − β' ln ℓ, and hardly any data could tell
    it from the limit b → −∞. The variable of the search is x = ln(smallest ΔL − b).
    """
    newton_steps, golden_steps = (2, 18) if rough else (16, 48)
    b, at_edge = np.zeros(len(log_deltas)), np.full(len(log_deltas), False)
    if offset:
        smallest = np.exp(np.where(weights > 0, log_deltas, np.inf).min(1))
        largest = np.exp(np.where(weights > 0, log_deltas, -np.inf).max(1))
        first, last = np.log(1e-6 * smallest), np.log(smallest + 10 * largest)

        def score(x: np.ndarray) -> np.ndarray:
            return fit_planes(columns, smallest - np.exp(x), log_deltas, weights, newton_steps)[1]

        x = minimise(score, first, last, golden_steps)
        b, at_edge = smallest - np.exp(x), np.minimum(x - first, last - x) < 0.01
    plane = fit_planes(columns, b, log_deltas, weights, newton_steps)[0]
    return np.column_stack([np.exp(plane[:, 0]), plane[:, 1:], b]), at_edge


def minimise(
    score: Callable[[np.ndarray], np.ndarray], first: np.ndarray, last: np.ndarray, steps: int
) -> np.ndarray:
    """The x [fits], from first to last, at which the score of each fit is lowest.

    A scan of the interval comes first, then a golden-section search around the best point.
    """
    scan = first + (last - first) * np.linspace(0, 1, SCAN_POINTS)[:, None]
    best, fits = np.array([score(x) for x in scan]).argmin(0), np.arange(len(first))
    low, high = (scan[np.clip(best + side, 0, SCAN_POINTS - 1), fits] for side in (-1, 1))
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = score(left), score(right)
    for _ in range(steps):  # keep the part of the interval around the lower score
        go_left = at_left < at_right
        low, high = np.where(go_left, low, left), np.where(go_left, right, high)
        new = np.where(go_left, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_new = score(new)
        left, right = np.where(go_left, new, right), np.where(go_left, left, new)
        at_left, at_right = np.where(go_left, at_new, at_right), np.where(go_left, at_left, at_new)
    return (low + high) / 2


def fit_planes(
    columns: np.ndarray, b: np.ndarray, log_deltas: np.ndarray, weights: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """ln C, α and β of each fit [fits, 3] for its given b [fits].

    Also returns the negative log-likelihood [fits] of normally distributed residuals of ln ΔL, by
    which values of b are compared.

    The first guess is the plane ln(ΔL − b) = ln C + α ln r − β ln ℓ. An error of one percent of ΔL
    is ΔL / (ΔL − b) percent of ΔL − b, hence the weights ((ΔL − b) / ΔL)². Gauss-Newton steps then
    minimise the residuals of ln ΔL. Residuals of ln(ΔL − b) would not do to compare values of b:
    they shrink towards 0 for b → −∞, however badly the law fits.
    """
    b, deltas = b[:, None], np.exp(log_deltas)
    gap = np.maximum(deltas - b, 1e-3 * deltas)
    plane = least_squares(columns, weights * (gap / deltas) ** 2, np.log(gap))
    best = np.full((len(b), 4), np.inf)  # ln C, α, β and the score of the best step
    previous = best[:, 3:]
    for _ in range(steps + 1):
        power = np.exp(np.clip(plane @ columns.T, -50, 50))
        # With b < 0 a prediction can be negative; it is raised, because it has no logarithm.
        prediction = np.maximum(power + b, 1e-3 * deltas)
        residuals = log_deltas - np.log(prediction)
        sigma = np.sqrt((weights * residuals**2).sum(1) / weights.sum(1))[:, None] + 1e-30
        surprise = (residuals / sigma) ** 2 / 2 + np.log(sigma)
        score = (weights * surprise).sum(1, keepdims=True)
        best = np.where(score < best[:, 3:], np.hstack([plane, score]), best)
        if (np.abs(score - previous) < 1e-9).all():
            break
        previous, slope = score, power / prediction  # slope: d ln(prediction) / d(plane)
        plane = plane + least_squares(columns, weights * slope**2, residuals / slope)
    return best[:, :3], best[:, 3]


def least_squares(columns: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """θ = (Xᵀ W X)⁻¹ Xᵀ W y for each row of weights and values [fits, cells]; returns [fits, 3]."""
    k = columns.shape[1]
    products = (columns[:, :, None] * columns[:, None, :]).reshape(-1, k * k)
    square = (weights @ products).reshape(-1, k, k)
    trace = np.trace(square, axis1=1, axis2=2)[:, None, None]
    square += 1e-14 * trace * np.eye(k)  # keeps the matrix invertible where cells hardly differ
    return np.linalg.solve(square, ((weights * values) @ columns)[:, :, None])[:, :, 0]


def leverages(
    columns: np.ndarray, constants: np.ndarray, seeds: np.ndarray, offset: bool
) -> np.ndarray:
    """The share of each cell's own noise that the fit follows [cells], from 0 to 1.

    It is the diagonal of J (Jᵀ J)⁻¹ Jᵀ, where J holds the derivatives of the cells' ln predictions
    with respect to ln C, α, β and b, times √seeds.
    """
    power = np.exp(columns @ [np.log(constants[0]), *constants[1:3]])
    slopes = np.column_stack([power[:, None] * columns, *([np.ones(len(power))] * offset)])
    slopes *= (np.sqrt(seeds) / np.maximum(power + constants[3], 1e-3 * power))[:, None]
    basis = np.linalg.qr(slopes / np.linalg.norm(slopes, axis=0))[0]
    return np.minimum((basis**2).sum(1), 1)
