"""Checks the cells of a grid: are they numbers, and do they determine the law's constants?"""

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError


def unsaturated_cells(
    saturated: ArrayLike | None, **columns: ArrayLike
) -> tuple[int, list[np.ndarray]]:
    """The number of saturated cells, and each column without them as an array of floats.

    Raises LawError for columns that are not numbers, differ in size or are out of range.
    """
    try:
        arrays = {name: np.asarray(column, float).ravel() for name, column in columns.items()}
        size = len(arrays["lengths"])
        full = np.zeros(size, bool) if saturated is None else np.ravel(saturated).astype(bool)
    except (TypeError, ValueError) as error:
        raise LawError(f"{', '.join(columns)} must be numbers ({error})") from error
    sizes = {name: len(array) for name, array in (*arrays.items(), ("saturated", full))}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{count} {name}" for name, count in sizes.items())
        raise LawError(f"found {found}; every cell needs one of each")
    if full.all():
        raise LawError(f"none of {size} cells is unsaturated; add longer memories or smaller ranks")
    for name in ("parameters", "ranks", "lengths"):
        if name in arrays and not (np.isfinite(arrays[name]) & (arrays[name] >= 1)).all():
            raise LawError(f"{name} must be 1 or more")
    arrays = {name: array[~full] for name, array in arrays.items()}
    deltas = arrays["delta_losses"]
    if bad := int((~(np.isfinite(deltas) & (deltas > 0))).sum()):
        raise LawError(
            f"{bad} of {len(deltas)} loss reductions are not above 0; leave those cells out"
        )
    return int(full.sum()), list(arrays.values())


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
