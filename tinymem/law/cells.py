"""Checks the cells of a grid: are they numbers, and do they determine the law's constants?

Also chooses the cells of the fits that leave out one rank each.
"""

from typing import Any

import numpy as np

from ..errors import LawError


def unsaturated_cells(**columns: Any) -> tuple[int, list[np.ndarray]]:
    """The number of saturated cells, and each column but `saturated` without them, as floats.

    Raises LawError for columns that are not numbers, differ in size or are out of range.
    """
    if columns["saturated"] is None:
        columns["saturated"] = np.zeros(np.size(columns["lengths"]))
    try:
        arrays = {name: np.ravel(np.asarray(column, float)) for name, column in columns.items()}
    except (TypeError, ValueError) as error:
        raise LawError(f"{', '.join(columns)} must be numbers ({error})") from error
    if len({array.size for array in arrays.values()}) > 1:
        found = ", ".join(f"{array.size} {name}" for name, array in arrays.items())
        raise LawError(f"found {found}; every cell needs one of each")
    full = arrays.pop("saturated") != 0
    if (size := (~full).sum()) == 0:
        what = f"none of {full.size} cells is unsaturated"
        raise LawError(f"{what}; add longer memories or smaller ranks")
    cells = {name: array[~full] for name, array in arrays.items()}
    for name, array in cells.items():
        if bad := size - (np.isfinite(array) & (array > 0)).sum():
            what = f"{bad} of {size} {name} are missing, infinite or not above 0"
            raise LawError(f"{what}; leave those cells out")
    return int(full.sum()), list(cells.values())


def what_is_missing(ranks: np.ndarray, lengths: np.ndarray, constants: int) -> str:
    """Why these cells do not determine so many constants; empty if they do."""
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
    return ""


def all_and_without_each(ranks: np.ndarray) -> np.ndarray:
    """Which cells each fit includes [fits, cells]: the first one all, then all but one rank's."""
    return np.stack([ranks > 0, *(ranks != rank for rank in np.unique(ranks))])
