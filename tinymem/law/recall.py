"""The recall law: the probability that a unit recites a memory whole, as a function of the load.

    P(recited) = 1 / (1 + (load / load_50)^s),    load_50 ~ P^(γ − 1)

It is tinymem's own law, not the paper's: a logistic curve in ln load, with three constants.

Glossary
    P        trainable parameters of the unit
    load     tokens: ℓ / P, tokens of the memory per parameter; or
             bits: ℓ · H / (P ln 2), bits per parameter, with H the entropy in nats per token
    load_50  the load of which half of the runs recite everything, for a unit of middle size (the
             geometric mean of the smallest and the largest measured P)
    s        steepness: 10 % recite 81^(1/s) times the load that 90 % recite
    γ        rank exponent: the length that half of the runs recite grows as P^γ. With γ = 1, one
             number of tokens per parameter would hold for all ranks
    cell     the runs of one rank and length, which differ in their seeds

The capacity of a perceptron is counted in patterns per weight, whatever a pattern is about: 2 for
random ones (Cover 1965; Gardner 1988). A token that is to be the argmax is such a pattern, so
tokens per parameter are the natural load. `compare_loads` asks the data which of the two it is.

The fit (logistic.py) is by likelihood on a grid, with weak priors of s and of γ (normal, 1 ± 1).

    constants  the maximum of likelihood times priors
    ci         profile likelihood without the priors. Where every load below some value is recited
               and none above it, the interval of load_50 contains the whole gap, and that of s has
               no upper end. Runs of one cell may resemble each other; the intervals are the wider
               for it
    draws      ln load_50, s and γ from the posterior. The mean of their curves is the chance of a
               fresh run. Ranks outside the measured ones are never taken to be better, per
               parameter, than the nearest measured one
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from ..shown import Shown
from .cells import as_floats, check_draws
from .logistic import Surface, draw, interval, overdispersion, probability, surface

LN2 = math.log(2)
EXPONENTS = np.linspace(0, 4, 41)  # the grid of γ
PRIOR = -((EXPONENTS - 1) ** 2) / 2  # of γ, as a logarithm


@dataclass(frozen=True, repr=False)
class RecallLaw(Shown):
    """P(recited) = 1 / (1 + (load / load_50)^s), fitted to runs. Intervals are of 95 %."""

    load_50: float  # the load of which half of the runs of a unit of middle size recite everything
    s: float  # steepness
    rank_exponent: float | None  # γ; None if only one P was measured
    ci: dict[str, tuple[float, float]]  # the interval of each of the three
    n: int  # runs
    n_recited: int  # of them
    separated: bool  # every run below some multiple of load_50 was recited, and none above it
    dispersion: float  # how much runs of one cell resemble each other; 1: not at all
    deviance: float  # −2 ln likelihood of the best curve, to compare definitions of the load
    bits_per_token: float | None  # H / ln 2, where the load is ℓ / P and H is known
    parameters_per_rank: float | None
    measured: tuple[float, ...]  # the different P, in order
    draws: np.ndarray = field(repr=False, compare=False)  # ln load_50, s, γ of curves [draws, 3]

    @property
    def width(self) -> float:
        """The load that 10 % of the runs recite, divided by the load that 90 % recite."""
        return width_of(self.s)

    def half(self, parameters: ArrayLike) -> np.ndarray:
        """load_50 for units of so many parameters."""
        gamma = 1 if self.rank_exponent is None else self.rank_exponent
        return self.load_50 * np.exp((gamma - 1) * size_of(parameters, self.measured))

    def predict(self, load: ArrayLike, parameters: ArrayLike) -> np.ndarray:
        """P(recited) on the fitted curve."""
        return probability(np.log(load), np.log(self.half(parameters)), self.s)

    def chance(self, load: ArrayLike, parameters: float) -> np.ndarray:
        """P(recited) of a fresh run: the mean of the curves that the measured runs allow."""
        middle, s, exponent = self.draws.T
        nearest = min(max(parameters, self.measured[0]), self.measured[-1])
        gains = [(exponent - 1) * size_of(P, self.measured) for P in (parameters, nearest)]
        return probability(np.log(load)[..., None], middle + np.minimum(*gains), s).mean(-1)

    def as_dict(self) -> dict[str, Any]:
        """The fields without the draws, the width, and by rank the length that half of the runs
        recite, with its bits per parameter, as far as they are known.
        """
        fields = {name: value for name, value in vars(self).items() if name != "draws"}
        lengths, bits = dict[str, float](), dict[str, float | None]()
        for parameters in self.measured:
            if each := self.parameters_per_rank:
                rank, load = f"{parameters / each:g}", float(self.half(parameters))
                lengths[rank] = load * parameters
                bits[rank] = load * self.bits_per_token if self.bits_per_token else None
        return {**fields, "width": self.width, "length_50": lengths, "bits_per_parameter": bits}


def fit_recall(
    loads: ArrayLike,
    recited: ArrayLike,
    parameters: ArrayLike,
    *,
    cells: ArrayLike | None = None,
    bits_per_token: float | None = None,
    parameters_per_rank: float | None = None,
    unit: str = "",
    draws: int = 1000,
) -> RecallLaw:
    """Fit the curve to runs: the load of each, whether the memory was recited whole, and P.

    cells: a number for each run, the same for runs of one rank and length; without it, runs of
    equal load and P are a cell. bits_per_token, parameters_per_rank: kept in the law, to express
    its 50 % point in other units. unit: of the load, for messages. draws: number of curves.
    Raises LawError, with the bound that follows, if all runs were recited or none.
    """
    check_draws(draws, 0)
    columns = as_floats(loads=loads, recited=recited, parameters=parameters)
    load, hit, P = columns.values()
    positive = all((np.isfinite(each) & (each > 0)).all() for each in (load, P))
    if not (positive and load.size == hit.size == P.size):
        raise LawError("every run needs a load and parameters above 0, and whether it was recited")
    if hit.all() or not hit.any():
        raise LawError(f"{bound(load, hit)} {unit}".rstrip())
    x, measured = np.log(load), tuple(np.unique(P).tolist())
    cell = np.unique(load + 1j * P if cells is None else np.ravel(cells), return_inverse=True)[1]
    # A surface of the likelihood for each γ. If only one P was measured, they are all the same.
    size, several = size_of(P, measured), len(measured) > 1
    scaled = [x - (gamma - 1) * size for gamma in EXPONENTS]
    same = [] if several else [surface(x, hit)] * len(scaled)
    surfaces = same or [surface(each, hit, 30) for each in scaled]
    best = int(np.argmax([one.density().max() for one in surfaces] + PRIOR))
    middle, s = surfaces[best].peak()
    dispersion, most = overdispersion(hit, probability(scaled[best], middle, s), cell.ravel())
    drawn = draw(surfaces, PRIOR, dispersion, draws)
    ci = intervals(surfaces, most)
    if not several:
        del ci["rank_exponent"]
    return RecallLaw(
        load_50=math.exp(middle),
        s=s,
        rank_exponent=float(EXPONENTS[best]) if several else None,
        ci=ci,
        n=hit.size,
        n_recited=int(hit.sum()),
        separated=bool(scaled[best][hit == 1].max() < scaled[best][hit == 0].min()),
        dispersion=dispersion,
        deviance=-2 * float(surfaces[best].likelihood.max()),
        bits_per_token=bits_per_token,
        parameters_per_rank=parameters_per_rank,
        measured=measured,
        draws=np.column_stack([drawn[:, :2], EXPONENTS[drawn[:, 2].astype(int)]]),
    )


def intervals(surfaces: Sequence[Surface], most: float) -> dict[str, tuple[float, float]]:
    """Of each constant, where the deviance is at most so far above the smallest of all surfaces."""
    highest = [float(one.likelihood.max()) for one in surfaces]
    rooms = [most - 2 * (max(highest) - one) for one in highest]  # what γ leaves the other two
    inside = [(one, room) for one, room in zip(surfaces, rooms, strict=True) if room >= 0]
    middles = [interval(one.middles, one.likelihood.max(1), room) for one, room in inside]
    log_s = [interval(one.log_s, one.likelihood.max(0), room) for one, room in inside]
    finer = np.linspace(EXPONENTS[0], EXPONENTS[-1], 401)
    ci = {
        name: (float(np.exp(min(pairs)[0])), float(np.exp(max(high for _, high in pairs))))
        for name, pairs in (("load_50", middles), ("s", log_s))
    }
    low, high = interval(finer, np.interp(finer, EXPONENTS, highest), most)
    return ci | {"rank_exponent": (max(low, 0.0), high)}


def bound(load: np.ndarray, hit: np.ndarray) -> str:
    """What runs that were all recited, or all not recited, say about the limit."""
    if hit.all():
        return f"all {hit.size} runs are recited: the limit is above {load.max():.3g}"
    return f"none of {hit.size} runs is recited: the limit is below {load.min():.3g}"


def width_of(s: float) -> float:
    return math.exp(math.log(81) / s) if s else math.inf


def size_of(parameters: ArrayLike, measured: Sequence[float]) -> np.ndarray:
    """ln P less its middle in the measured runs: ln load_50 changes by (γ − 1) times it."""
    return np.log(parameters) - (math.log(measured[0]) + math.log(measured[-1])) / 2


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
        [row["trainable_parameters"] for row in rows],
        cells=cells,
        bits_per_token=the_one(bits) if load == "tokens" else None,
        parameters_per_rank=the_one([row["trainable_parameters"] / row["rank"] for row in rows]),
        unit=f"{load} per parameter",
    )


def compare_loads(rows: Sequence[dict]) -> dict[str, RecallLaw]:
    """One curve over all rows with the load in tokens, and one in bits, over the same rows.

    The smaller deviance is the better load; a difference of 4 is weak evidence, one of 10 strong
    (both curves have as many constants, so that the difference is also one of AIC).
    """
    known = [row for row in rows if row.get("entropy")]
    return {load: recall_of(known, load) for load in ("tokens", "bits")}


def the_one(values: Sequence[float]) -> float | None:
    """The value, if all are the same number."""
    known = np.array(values)
    return float(known[0]) if known.size and np.ptp(known) <= 1e-9 * known[0] else None
