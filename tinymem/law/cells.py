"""Checks of input; the cells of a grid: do they determine the law's constants, how do they scatter?

A cell is a rank and a length; the runs of one cell are its seeds. No law holds exactly, and the
seeds of a cell share what the law misses there: three seeds of one cell are less than three
observations. So the bootstrap (`scattered`) treats a cell as one observation, not a run.
"""

from numbers import Integral, Real
from typing import Any

import numpy as np

from ..errors import LawError, first_line

LARGEST = 10**12  # no rank, length or loss comes near it; larger ones would overflow when squared
MOST_DRAWS = 10**6


def is_number(value: object) -> bool:
    """Whether it is a float or an int of at most 64 bits, of numpy too; a bool is not a number."""
    if isinstance(value, Integral):
        return not isinstance(value, bool) and abs(int(value)) < 1 << 63
    return isinstance(value, Real)


def whole_number(name: str, value: Any, most: int = LARGEST, least: int = 1) -> int:
    """The value as an integer; 8.0 counts as 8. Raises LawError if it is not within the limits."""
    if is_number(value) and least <= value <= most and value % 1 == 0:
        return int(value)
    expected = f"expected a whole number from {least} to {most:,}"
    raise LawError(f"{name} is {shown(value)}; {expected}")


def check_draws(draws: int, seed: int) -> None:
    """Raises LawError if a bootstrap cannot have so many draws, or such a seed."""
    whole_number("draws", draws, MOST_DRAWS)
    whole_number("seed", seed, 2**63 - 1, least=0)


def shown(value: object) -> str:
    """A value as Python writes it, but not more of it than one line of a message holds."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an int of thousands of digits, a list in a list in …
        return "too large"
    return text if len(text) <= 60 else text[:60] + "…"


def as_floats(**columns: Any) -> dict[str, np.ndarray]:
    """Each column as an array [runs]. Raises LawError if one is not of numbers."""
    try:
        return {name: np.ravel(np.asarray(column, float)) for name, column in columns.items()}
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LawError(f"{', '.join(columns)} must be numbers ({first_line(error)})") from error


def unsaturated_runs(**columns: Any) -> tuple[int, list[np.ndarray]]:
    """The number of saturated runs, and each column but `saturated` without them, as floats.

    Raises LawError for columns that are not numbers, differ in size or are out of range.
    """
    if columns["saturated"] is None:
        del columns["saturated"]
    arrays = as_floats(**columns)
    if len({array.size for array in arrays.values()}) > 1:
        found = ", ".join(f"{array.size} {name}" for name, array in arrays.items())
        raise LawError(f"found {found}; every run needs one of each")
    full = arrays.pop("saturated", np.zeros(arrays["lengths"].size)) != 0
    if (size := (~full).sum()) == 0:
        what = f"none of {full.size} runs is unsaturated"
        raise LawError(f"{what}; add longer memories or smaller ranks")
    runs = {name: array[~full] for name, array in arrays.items()}
    for name, array in runs.items():
        if bad := size - (np.isfinite(array) & (array > 0)).sum():
            what = f"{bad} of {size} {name} are missing, infinite or not above 0"
            raise LawError(f"{what}; leave those runs out")
        if array.max() > LARGEST or array.min() < 1 / LARGEST:
            found = f"from {array.min():.3g} to {array.max():.3g}"
            raise LawError(f"{name} are {found}; expected from {1 / LARGEST:g} to {LARGEST:g}")
    return int(full.sum()), list(runs.values())


def cells_of(
    ranks: np.ndarray, lengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The cells of these runs: their ranks, lengths and numbers of seeds; and each run's cell."""
    (rank, length), cell, seeds = np.unique(
        np.stack([ranks, lengths]), axis=1, return_inverse=True, return_counts=True
    )
    return rank, length, seeds, cell.ravel()


def what_is_missing(
    ranks: np.ndarray, lengths: np.ndarray, constants: int, deltas: np.ndarray | None = None
) -> str:
    """Why these cells do not determine so many constants; empty if they do.

    deltas: ΔL of their runs, if these have to differ.
    """
    for name, values in (("ranks", np.unique(ranks)), ("lengths", np.unique(lengths))):
        if len(values) < 3:
            found = " and ".join(f"{value:g}" for value in values)
            return f"the law needs at least 3 different {name}, found {found}; add {name}"
    if (size := len(ranks)) <= constants:
        fewer = " or fix b at 0 (offset=False, --no-offset)" if constants == size == 4 else ""
        needed = f"{constants} constants need at least {constants + 1} cells"
        return f"{needed}, found {size}; add cells{fewer}"
    columns = np.stack([np.log(ranks), np.log(lengths)], axis=1)
    if np.linalg.svd(columns - columns.mean(0), compute_uv=False)[1] < 1e-6:
        return "rank and length change together in every cell; add cells where only one changes"
    if deltas is not None and np.ptp(deltas) <= 1e-9 * np.max(deltas):
        same = f"all cells have the same delta_loss, {np.max(deltas):.3g}"
        return f"{same}, whatever their rank and length; measure it in each cell"
    return ""


def all_and_without_each(ranks: np.ndarray) -> np.ndarray:
    """Which cells each fit includes [fits, cells]: the first one all, then all but one rank's."""
    return np.stack([ranks > 0, *(ranks != rank for rank in np.unique(ranks))])


def left_out(residuals: np.ndarray, leverage: np.ndarray) -> np.ndarray:
    """How far each cell lies from a fit without it, to first order: residual / (1 − leverage).

    leverage: the share of a cell's own noise that the fit follows, from 0 to 1. A constant that
    rests on a single cell leaves it no residual; it then gets the typical size.
    """
    alone = leverage > 1 - 1e-6
    typical = np.sqrt((residuals**2).mean() / max(1 - leverage.mean(), 1e-9))
    return np.where(alone, typical, residuals / np.where(alone, 1, 1 - leverage))


def scattered(deviations: np.ndarray, constants: int, draws: int, seed: int) -> np.ndarray:
    """Deviations [draws, cells] that the cells might have had instead of these [cells].

    The wild bootstrap by cells (Wu 1986; Cameron, Gelbach and Miller 2008): each cell keeps the
    size of its own deviation, times a random number of a standard normal distribution. This allows
    any scatter, also one that depends on the rank, and keeps the seeds of a cell together.
    deviations: those of `left_out` (HC3, MacKinnon and White 1985).
    A few cells do not determine their scatter well, so each draw has a factor of its own, as in
    Student's t distribution: √(f / χ²) with f = cells − constants degrees of freedom.
    """
    check_draws(draws, seed)
    random, freedom = np.random.default_rng(seed), len(deviations) - constants
    factors = np.sqrt(freedom / random.chisquare(freedom, size=(draws, 1)))
    return deviations * random.normal(size=(draws, len(deviations))) * factors
