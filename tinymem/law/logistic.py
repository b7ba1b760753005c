"""The fit of a logistic curve to runs that succeed or fail, on a grid of its two constants.

    p = 1 / (1 + exp(s (x − middle)))

Often every run below some x succeeds and every run above it fails. The likelihood then rises for
ever with s, and is the same for every middle in the gap, so that no Newton step ends. Therefore s
has a weak prior, and the constants are evaluated on a grid, which always has a maximum. ln s is
normal with mean ln 8 and standard deviation 1: 95 % of it is s from 1.1 to 57. The prior of the
middle is flat. x is the logarithm of a load; recall.py says which.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

STEEPNESS = math.log(0.5), math.log(500)  # the ends of the grid of ln s


class Surface(NamedTuple):
    """The log-likelihood of runs [middles, s]."""

    middles: np.ndarray
    log_s: np.ndarray
    likelihood: np.ndarray

    def density(self, dispersion: float = 1.0) -> np.ndarray:
        """Log-likelihood, divided by the dispersion, plus the logarithm of the prior of ln s."""
        return self.likelihood / dispersion - (self.log_s - math.log(8)) ** 2 / 2

    def peak(self) -> tuple[float, float]:
        """The middle and the s with the highest density."""
        middle, s = np.unravel_index(self.density().argmax(), self.likelihood.shape)
        return float(self.middles[middle]), math.exp(self.log_s[s])


def probability(x: ArrayLike, middle: ArrayLike, s: ArrayLike) -> np.ndarray:
    """The curve at x."""
    return 1 / (1 + np.exp(np.clip(np.multiply(s, np.subtract(x, middle)), -700, 700)))


def surface(x: np.ndarray, hit: np.ndarray, points: int = 50) -> Surface:
    """Of runs at x, and whether they succeed. The grids are wide, and finer where it is high.

    points: of the middles, where the likelihood is high; as many again where it is highest.
    """
    places, run = np.unique(x, return_inverse=True)
    tries, hits = np.bincount(run.ravel()), np.bincount(run.ravel(), weights=hit)
    middles = np.linspace(places[0] - 6, places[-1] + 6, 2 * points)
    log_s = np.linspace(*STEEPNESS, points // 2)
    for again in (True, False):
        likelihood = np.empty((len(middles), len(log_s)))
        for column, s in enumerate(np.exp(log_s)):
            z = s * (middles[:, None] - places)
            # ln p = z − ln(1 + e^z), and ln(1 − p) = −ln(1 + e^z)
            log = np.maximum(z, 0) + np.log(1 + np.exp(-np.abs(z)))
            likelihood[:, column] = z @ hits - log @ tries
        if again:
            middles = refined(middles, likelihood.max(1), points)
            log_s = refined(log_s, likelihood.max(0), points // 4)
    return Surface(middles, log_s, likelihood)


def refined(grid: np.ndarray, profile: np.ndarray, points: int) -> np.ndarray:
    """The grid with so many more points where the profile is high, and again near its maximum."""
    parts = [grid]
    for drop in (8, 1):
        high = np.flatnonzero(profile > profile.max() - drop)
        low, top = grid[max(high[0] - 1, 0)], grid[min(high[-1] + 1, len(grid) - 1)]
        parts.append(np.linspace(low, top, points))
    return np.unique(np.concatenate(parts))


def overdispersion(hit: np.ndarray, p: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """By how much more than chance the outcomes of a group resemble each other, at least 1; and the
    largest deviance, above the smallest one, of curves in the 95 % interval.

    The number of successes in a group has the variance Σ p (1 − p) if its runs are independent, and
    k times as much if k runs always have one outcome. The deviance divided by the dispersion is
    compared with F = t² (quasi-likelihood, McCullagh and Nelder 1989). The degrees of freedom are
    the number of groups whose outcome is open (Satterthwaite 1946), less 1, and at least 2.
    """
    excess, variance = np.bincount(group, hit - p), np.bincount(group, p * (1 - p))
    dispersion = max(1.0, float((excess**2).sum() / variance.sum()))
    degrees = max(2.0, float(variance.sum() ** 2 / (variance**2).sum()) - 1)
    return dispersion, dispersion * student_975(degrees) ** 2


def student_975(degrees: float) -> float:
    """Student's t at 97.5 % (Abramowitz and Stegun, 26.7.5); within 3 % from 2 degrees on."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def interval(grid: np.ndarray, profile: np.ndarray, most: float) -> tuple[float, float]:
    """Where the deviance is at most so far above the smallest; infinite beyond the grid's ends."""
    inside = 2 * (profile.max() - profile) <= most
    low, high = grid[inside][[0, -1]].tolist()
    return -math.inf if inside[0] else low, math.inf if inside[-1] else high


def draw(
    surfaces: Sequence[Surface], log_priors: np.ndarray, dispersion: float, draws: int
) -> np.ndarray:
    """Curves from the posterior: middle, s, and the number of the surface [draws, 3].

    They are taken at equal steps of the accumulated probability, without a random generator.
    """
    densities = [
        one.density(dispersion) + prior for one, prior in zip(surfaces, log_priors, strict=True)
    ]
    top = max(density.max() for density in densities)
    areas = [np.gradient(one.middles)[:, None] * np.gradient(one.log_s) for one in surfaces]
    weights = [np.exp(d - top) * area for d, area in zip(densities, areas, strict=True)]
    steps = np.cumsum([0, *(weight.sum() for weight in weights)])
    ends = np.round(draws * steps / steps[-1]).astype(int)
    parts = []
    for number, (one, weight) in enumerate(zip(surfaces, weights, strict=True)):
        total, count = weight.ravel().cumsum(), ends[number + 1] - ends[number]
        chosen = np.searchsorted(total, (np.arange(count) + 0.5) / max(count, 1) * total[-1])
        middle, s = np.unravel_index(chosen, weight.shape)
        parts.append(np.stack([one.middles[middle], np.exp(one.log_s[s]), 0 * s + number], axis=1))
    return np.concatenate(parts)
