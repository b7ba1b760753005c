"""A law with one constant, to compare with the power law: every parameter holds κ bits.

    ΔL = min(L₀, (L₀ − H) + κ · P · ln 2 / ℓ)

Uniformly random tokens cost the base model L₀, which is more than their entropy H. To unlearn the
model's prior, L₀ − H, takes almost no rank. What remains to be learned are bits: P parameters hold
κ P of them, which is κ P ln 2 / ℓ nats for each of ℓ tokens. P counts the unit's trainable
parameters; L₀ and ΔL are as in power.py, and all losses are in nats per token. This law is
tinymem's own, not the paper's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from ..shown import Shown
from .cells import all_and_without_each, cells_of, left_out, scattered, unsaturated_runs
from .power import LN2, Measures, Numbers, measure, middle_95


@dataclass(frozen=True)
class ConstantBits:
    """ΔL = min(L₀, (L₀ − H) + κ P ln 2 / ℓ), for numbers or arrays of them."""

    kappa: float  # bits per parameter

    def predict(
        self, parameters: ArrayLike, length: ArrayLike, base_loss: ArrayLike, entropy: ArrayLike
    ) -> Numbers:
        """ΔL in nats per token."""
        learned = self.kappa * LN2 * np.divide(parameters, length)
        return np.minimum(base_loss, np.subtract(base_loss, entropy) + learned)


@dataclass(frozen=True, repr=False)
class BitsLaw(Shown, Measures, ConstantBits):
    """The fitted constant-bits law."""

    ci: tuple[float, float]  # the 95 % interval of kappa


def fit_bits(
    parameters: ArrayLike,
    lengths: ArrayLike,
    base_losses: ArrayLike,
    entropies: ArrayLike,
    delta_losses: ArrayLike,
    *,
    saturated: ArrayLike | None = None,
    ranks: ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> BitsLaw:
    """Fit κ to the unsaturated runs.

    ranks: of the units; without them, one rank for each number of parameters. Runs of equal rank
    and length are the seeds of a cell.
    Raises LawError for fewer than two unsaturated cells, or for values that are missing.

    ΔL − (L₀ − H) = κ · P · ln 2 / ℓ is a line through the origin, and here too the scatter is a
    percentage of ΔL. Divided by ΔL, the equation reads u = κ v + noise, and so κ = Σ u v / Σ v².
    The interval comes from the bootstrap of power.py, in which a cell is one observation.
    """
    columns = {"parameters": parameters, "lengths": lengths, "base_losses": base_losses}
    columns |= {"entropies": entropies, "delta_losses": delta_losses}
    columns["ranks"] = parameters if ranks is None else ranks
    runs = unsaturated_runs(**columns, saturated=saturated)
    n_saturated, (P, length, base, entropy, delta, run_rank) = runs
    rank, _, _, cell = cells_of(run_rank, length)
    if len(rank) < 2:
        raise LawError("constant bits need at least 2 unsaturated cells, found 1; add cells")
    included = all_and_without_each(rank)
    if len(included) < 5:  # fewer than four ranks
        included = included[:1]
    u, v = (delta - (base - entropy)) / delta, P * LN2 / length / delta
    weight = np.bincount(cell, v**2)  # of each cell
    kappas = included @ np.bincount(cell, u * v) / (included @ weight)  # of each fit
    kappa = kappas[0].item()
    residuals = np.bincount(cell, v * (u - kappa * v)) / weight  # in bits per parameter
    deviations = left_out(residuals, weight / weight.sum())
    drawn = kappa + scattered(deviations, 1, draws, seed) @ weight / weight.sum()
    predicted = np.array([ConstantBits(one).predict(P, length, base, entropy) for one in kappas])
    measures = measure(delta, predicted, included[:, cell], len(rank), n_saturated)
    return BitsLaw(kappa, **vars(measures), ci=middle_95(drawn))
