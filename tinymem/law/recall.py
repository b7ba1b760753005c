"""The recall law: the probability that a unit recites a memory whole, as a function of the load.

    P(recited) = 1 / (1 + (load / load_50)^s)

It is tinymem's own law, not the paper's: a logistic curve in ln load, with two constants.

Glossary
    load     tokens: ℓ / P, tokens of the memory per trainable parameter of the unit; or
             bits: ℓ · H / (P ln 2), bits per parameter, with H the entropy in nats per token
    load_50  the load of which half of the runs recite everything
    s        steepness: 10 % recite 81^(1/s) times the load that 90 % recite
    cell     the runs of one rank and length, which differ in their seeds

The capacity of a perceptron is counted in patterns per weight, whatever a pattern is about: 2 for
random ones (Cover 1965; Gardner 1988). A token that is to be the argmax is such a pattern, so
tokens per parameter are the natural load. `compare_loads` asks the data which of the two it is.

The fit. Often every load below some value is recited, and every load above it is not. Then the
likelihood rises for ever with s, and is the same for every load_50 in the gap. So s has a weak
prior: ln s is normal with mean ln 8 and standard deviation 1, which is 1.1 to 57 in 95 % of cases;
ln load_50 has a flat one. Both constants are evaluated on a grid, which always has a maximum.

    load_50, s  the maximum of likelihood times prior
    ci          profile likelihood without the prior. The interval of load_50 then contains the
                whole gap, and that of s may have no upper end. Runs of one cell may resemble each
                other, so the deviance is divided by the dispersion that the cells show, at least 1,
                and compared with F = t² (quasi-likelihood, McCullagh and Nelder 1989; the degrees
                of freedom as in Satterthwaite 1946)
    draws       of the posterior; the mean of their curves is the chance of a new run
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError

LN2 = math.log(2)
STEEPNESS = np.linspace(math.log(0.5), math.log(500), 40)  # the first grid of ln s
PRIOR = math.log(8)  # the mean of ln s


@dataclass(frozen=True)
class RecallLaw:
    """P(recited) = 1 / (1 + (load / load_50)^s), fitted to runs. Intervals are of 95 %."""

    load_50: float  # the load of which half of the runs recite everything
    s: float  # steepness
    ci: dict[str, tuple[float, float]]  # the interval of each of the two
    n: int  # runs
    n_recited: int  # of them
    separated: bool  # every run below some load was recited, and none above it
    dispersion: float  # how much runs of one cell resemble each other; 1: not at all
    deviance: float  # −2 ln likelihood of the best curve, to compare definitions of the load
    bits_per_token: float | None  # H / ln 2, where the load is ℓ / P and H is known
    parameters_per_rank: float | None
    draws: np.ndarray = field(repr=False, compare=False)  # of the posterior [draws, 2]

    @property
    def width(self) -> float:
        """The load that 10 % of the runs recite, divided by the load that 90 % recite."""
        return width_of(self.s)

    def predict(self, load: ArrayLike) -> np.ndarray:
        """P(recited) on the fitted curve."""
        return probability(np.log(load), math.log(self.load_50), self.s)

    def chance(self, load: ArrayLike) -> np.ndarray:
        """P(recited) of a new run: the mean of the curves that the measured runs allow."""
        middles, s = np.log(self.draws[:, 0]), self.draws[:, 1]
        return probability(np.log(load)[..., None], middles, s).mean(-1)

    def load_for(self, chance: float) -> float:
        """The largest load that a new run recites with this chance, between 0 and 1."""
        low, high = np.log(self.draws[:, 0].min()) - 50, np.log(self.draws[:, 0].max()) + 50
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.chance(np.exp(middle)) >= chance else (low, middle)
        return float(np.exp(low))

    def as_dict(self) -> dict[str, Any]:
        """The fields without the draws, and the 50 % point in bits and in tokens per rank."""
        bits, tokens = self.bits_per_token, self.parameters_per_rank
        return {
            **{name: value for name, value in vars(self).items() if name != "draws"},
            "width": self.width,
            "bits_per_parameter": self.load_50 * bits if bits else None,
            "tokens_per_rank": self.load_50 * tokens if tokens else None,
        }


def fit_recall(
    loads: ArrayLike,
    recited: ArrayLike,
    *,
    cells: ArrayLike | None = None,
    bits_per_token: float | None = None,
    parameters_per_rank: float | None = None,
    unit: str = "",
    draws: int = 1000,
) -> RecallLaw:
    """Fit the curve to runs: the load of each, and whether the memory was recited whole.

    cells: a number for each run, the same for runs of one rank and length; without it, runs of
    equal load are a cell. bits_per_token, parameters_per_rank: kept in the law, to express its 50 %
    point in other units. unit: of the load, for messages. draws: number of curves.
    Raises LawError, with the bound that follows, if all runs were recited or none.
    """
    load, hit = np.ravel(np.asarray(loads, float)), np.ravel(np.asarray(recited, float))
    if load.size != hit.size or not (np.isfinite(load) & (load > 0)).all():
        raise LawError("every run needs a load above 0, and whether it was recited")
    if hit.all() or not hit.any():
        raise LawError(f"{bound(load, hit)} {unit}".rstrip())
    x = np.log(load)
    middles, log_s, likelihood = log_likelihood(x, hit)
    density = likelihood - (log_s - PRIOR) ** 2 / 2
    best = np.unravel_index(density.argmax(), density.shape)
    middle, s = float(middles[best[0]]), math.exp(log_s[best[1]])
    group = np.unique(load if cells is None else np.ravel(cells), return_inverse=True)[1]
    dispersion, degrees = overdispersion(hit, probability(x, middle, s), group.ravel())
    inside = 2 * (likelihood.max() - likelihood) / dispersion <= student_975(degrees) ** 2
    return RecallLaw(
        load_50=math.exp(middle),
        s=s,
        ci={"load_50": ends(middles, inside.any(1)), "s": ends(log_s, inside.any(0))},
        n=hit.size,
        n_recited=int(hit.sum()),
        separated=bool(x[hit == 1].max() < x[hit == 0].min()),
        dispersion=dispersion,
        deviance=-2 * float(likelihood.max()),
        bits_per_token=bits_per_token,
        parameters_per_rank=parameters_per_rank,
        draws=posterior(middles, log_s, density + (1 / dispersion - 1) * likelihood, draws),
    )


def width_of(s: float) -> float:
    return math.exp(math.log(81) / s) if s else math.inf


def bound(load: np.ndarray, hit: np.ndarray) -> str:
    """What runs that were all recited, or all not recited, say about the limit."""
    if hit.all():
        return f"all {hit.size} runs are recited: the limit is above {load.max():.3g}"
    return f"none of {hit.size} runs is recited: the limit is below {load.min():.3g}"


def probability(x: ArrayLike, middle: ArrayLike, s: ArrayLike) -> np.ndarray:
    """1 / (1 + exp(s (x − middle))), where x and middle are logarithms of loads."""
    return 1 / (1 + np.exp(np.clip(np.multiply(s, np.subtract(x, middle)), -700, 700)))


def log_likelihood(x: np.ndarray, hit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grids of ln load_50 and ln s, and the log-likelihood on them [middles, s].

    They are wide, and in a second round finer where the likelihood is high.
    """
    places, run = np.unique(x, return_inverse=True)
    tries, hits = np.bincount(run.ravel()), np.bincount(run.ravel(), weights=hit)
    middles, log_s = np.linspace(places[0] - 10, places[-1] + 10, 120), STEEPNESS
    for again in (True, False):
        z = middles[:, None] - places
        # ln p = s z − ln(1 + e^(s z)), and ln(1 − p) = −ln(1 + e^(s z))
        each = ((hits * s * z - tries * np.logaddexp(0, s * z)).sum(1) for s in np.exp(log_s))
        likelihood = np.stack([*each], axis=1)
        if again:
            middles = refined(middles, likelihood.max(1), 80)
            log_s = refined(log_s, likelihood.max(0), 20)
    return middles, log_s, likelihood


def refined(grid: np.ndarray, profile: np.ndarray, points: int) -> np.ndarray:
    """The grid with so many more points where the profile is high, and again near its maximum."""
    parts = [grid]
    for drop in (8, 1):
        high = np.flatnonzero(profile > profile.max() - drop)
        low, top = grid[max(high[0] - 1, 0)], grid[min(high[-1] + 1, len(grid) - 1)]
        parts.append(np.linspace(low, top, points))
    return np.unique(np.concatenate(parts))


def ends(grid: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """The interval of exp(grid) that is inside; it has no end where it leaves the grid."""
    low, high = np.exp(grid[inside][[0, -1]]).tolist()
    return 0.0 if inside[0] else low, math.inf if inside[-1] else high


def overdispersion(hit: np.ndarray, p: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """By how much the number of recited runs in a cell varies more than chance, at least 1; and its
    degrees of freedom, at least 2: the number of cells in which the outcome is open.

    The variance of that number is Σ p (1 − p) for independent runs. With k runs that always share
    one outcome it is k times as large.
    """
    excess, variance = np.bincount(group, hit - p), np.bincount(group, p * (1 - p))
    degrees = variance.sum() ** 2 / (variance**2).sum() - 1
    return max(1.0, float((excess**2).sum() / variance.sum())), max(2.0, float(degrees))


def student_975(degrees: float) -> float:
    """Student's t at 97.5 % (Abramowitz and Stegun, 26.7.5); within 3 % from 2 degrees on."""
    z = 1.959964
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def posterior(
    middles: np.ndarray, log_s: np.ndarray, log_density: np.ndarray, draws: int
) -> np.ndarray:
    """load_50 and s of curves [draws, 2], taken from the density on the grid at equal steps."""
    area = np.gradient(middles)[:, None] * np.gradient(log_s)
    total = (np.exp(log_density - log_density.max()) * area).ravel().cumsum()
    chosen = np.searchsorted(total, (np.arange(draws) + 0.5) / draws * total[-1])
    middle, s = np.unravel_index(chosen, area.shape)
    return np.exp(np.stack([middles[middle], log_s[s]], axis=1))


# --- From the rows of a sweep --------------------------------------------------------------------


def is_recited(row: dict) -> bool | None:
    """Whether decoding yields the whole memory; None if the row does not say."""
    recited = row.get("recall_exact")
    return row.get("verbatim") if recited is None else recited


def recall_of(rows: Sequence[dict], load: str = "tokens") -> RecallLaw:
    """The curve of rows of a sweep, with the load in "tokens" or "bits" per parameter.

    Rows that do not say whether their memory was recited do not count. Raises LawError.
    """
    rows = [row for row in rows if is_recited(row) is not None]
    if not rows:
        raise LawError("no row says whether its memory was recited; it needs recall_exact")
    for name in ["trainable_parameters"] + ["entropy"] * (load == "bits"):
        if missing := sum(not row.get(name) for row in rows):
            raise LawError(f"{missing} of {len(rows)} rows have no {name}; the load needs it")
    loads = [row["length"] / row["trainable_parameters"] for row in rows]
    bits = [(row.get("entropy") or math.nan) / LN2 for row in rows]
    if load == "bits":
        loads = [tokens * each for tokens, each in zip(loads, bits, strict=True)]
    cells = [hash((row["rank"], row["length"], row.get("entropy"))) for row in rows]
    return fit_recall(
        loads,
        [bool(is_recited(row)) for row in rows],
        cells=cells,
        bits_per_token=the_one(bits) if load == "tokens" else None,
        parameters_per_rank=the_one([row["trainable_parameters"] / row["rank"] for row in rows]),
        unit=f"{load} per parameter",
    )


def compare_loads(rows: Sequence[dict]) -> dict[str, RecallLaw]:
    """One curve over all rows with the load in tokens, and one in bits, over the same rows.

    The smaller deviance is the better load; a difference of 4 is weak evidence, one of 10 strong
    (both curves have two constants, so that the difference is also one of AIC).
    """
    known = [row for row in rows if row.get("entropy")]
    return {load: recall_of(known, load) for load in ("tokens", "bits")}


def the_one(values: Sequence[float]) -> float | None:
    """The value, if all are the same number."""
    known = np.array(values)
    return float(known[0]) if known.size and np.ptp(known) <= 1e-9 * known[0] else None
