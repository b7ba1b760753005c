"""A law with one constant, to compare with the power law: every parameter holds κ bits.

    ΔL = min(L₀, (L₀ − H) + κ · P · ln 2 / ℓ)

Uniformly random tokens cost the base model L₀, which is more than their entropy H. To unlearn the
model's prior, L₀ − H, takes almost no rank. What remains to be learned are bits: P parameters hold
κ P of them, which is κ P ln 2 / ℓ nats for each of ℓ tokens. P counts the unit's trainable
parameters; L₀ and ΔL are as in power.py, and all losses are in nats per token. This law is
tinymem's own, not the paper's.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from .cells import unsaturated_cells
from .power import LN2, Numbers, floats, measures, middle_95


@dataclass(frozen=True)
class BitsLaw:
    """The fitted constant-bits law. Its measures are defined as in Law, over the same cells."""

    kappa: float  # bits per parameter
    r2: float
    r2_log: float
    mape: float
    n: int
    n_saturated: int
    ci: tuple[float, float]  # the interval of kappa
    leave_one_rank_out: float | None

    def predict(
        self, parameters: ArrayLike, length: ArrayLike, base_loss: ArrayLike, entropy: ArrayLike
    ) -> Numbers:
        """ΔL in nats per token."""
        return constant_bits(self.kappa, *floats(parameters, length, base_loss, entropy))[()]


def constant_bits(
    kappa: float,
    parameters: np.ndarray,
    length: np.ndarray,
    base_loss: np.ndarray,
    entropy: np.ndarray,
) -> np.ndarray:
    """ΔL = min(L₀, (L₀ − H) + κ P ln 2 / ℓ)."""
    return np.minimum(base_loss, base_loss - entropy + kappa * parameters * LN2 / length)


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
    """Fit κ to the unsaturated cells.

    ranks: which cells leave_one_rank_out leaves out together; without it, those of one unit size.
    Raises LawError for fewer than two unsaturated cells, or for values that are missing.

    ΔL − (L₀ − H) = κ · P ln 2 / ℓ is a line through the origin, and here too the scatter is a
    percentage of ΔL. Divided by ΔL, the equation reads u = κ v + noise, and so κ = Σ u v / Σ v².
    """
    n_saturated, (P, length, base, entropy, delta, rank) = unsaturated_cells(
        saturated,
        parameters=parameters,
        lengths=lengths,
        base_losses=base_losses,
        entropies=entropies,
        delta_losses=delta_losses,
        ranks=parameters if ranks is None else ranks,
    )
    if len(delta) < 2:
        raise LawError("constant bits need at least 2 unsaturated cells, found 1; add cells")
    if bad := int((~np.isfinite(base + entropy)).sum()):
        raise LawError(
            f"{bad} of {len(delta)} cells have no base loss or no entropy; leave those cells out"
        )
    u, v = (delta - (base - entropy)) / delta, P * LN2 / length / delta

    def kappa_of(some: np.ndarray) -> float:
        return (u[some] @ v[some]) / (v[some] @ v[some])

    kappa = kappa_of(delta > 0)
    leave_one_rank_out = None
    if len(of_rank := [rank == one for one in np.unique(rank)]) >= 4:
        predicted = [constant_bits(kappa_of(~one), P, length, base, entropy) for one in of_rank]
        leave_one_rank_out = measures(delta, np.select(of_rank, predicted))[2]
    random = np.random.default_rng(seed)
    scatter = np.sqrt(((u - kappa * v) ** 2).sum() / random.chisquare(len(u) - 1, size=draws))
    drawn = kappa + random.normal(size=draws) * scatter / math.sqrt(v @ v)
    return BitsLaw(
        float(kappa),
        *measures(delta, constant_bits(kappa, P, length, base, entropy)),
        n=len(delta),
        n_saturated=n_saturated,
        ci=middle_95(drawn),
        leave_one_rank_out=leave_one_rank_out,
    )
