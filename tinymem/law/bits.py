"""A law with one constant to hold against the power law: every parameter holds κ bits.

    ΔL = min(L₀, (L₀ − H) + κ · P · ln 2 / ℓ)

Uniformly random tokens cost the base model L₀, more than their entropy H. Unlearning its prior, L₀ − H, is
nearly free of rank; what is left to learn are bits, and P parameters hold κ P of them, P κ ln 2 / ℓ nats
for each of ℓ tokens (P, L₀, ΔL as in law.py; all losses in nats per token). tinymem's, not the paper's.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import LawError
from .power import LN2, measures, middle_95, read_cells


@dataclass(frozen=True)
class BitsLaw:
    """ΔL = min(L₀, (L₀ − H) + κ P ln 2 / ℓ): unlearning the base model's prior is free, the rest is bits."""

    kappa: float  # bits per parameter
    r2: float  # this and the rest as in Law, over the same cells
    r2_log: float
    mape: float
    n: int
    n_saturated: int
    ci: tuple[float, float]  # of kappa
    leave_one_rank_out: float | None

    def predict(
        self, parameters: ArrayLike, length: ArrayLike, base_loss: ArrayLike, entropy: ArrayLike
    ):
        """ΔL in nats per token."""
        cells = (np.asarray(column, float) for column in (parameters, length, base_loss, entropy))
        return constant_bits(self.kappa, *cells)[()]


def constant_bits(kappa, parameters, length, base_loss, entropy):
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
    """Fit κ to the unsaturated cells. Without `ranks`, leave_one_rank_out goes by number of parameters.

    ΔL − (L₀ − H) = κ · P ln 2 / ℓ is a line through the origin. Its errors, too, are some percent of ΔL:
    with both sides divided by ΔL it reads u = κ v + noise, and κ = Σ u v / Σ v².
    """
    cells = {
        "parameters": parameters,
        "lengths": lengths,
        "base_losses": base_losses,
        "entropies": entropies,
    }
    cells |= {"delta_losses": delta_losses, "ranks": parameters if ranks is None else ranks}
    n_saturated, _, P, length, base, entropy, delta, rank = read_cells(saturated, False, **cells)
    if len(delta) < 2:
        raise LawError(
            "the constant-bits law needs at least 2 unsaturated cells, found 1; add cells"
        )
    if bad := int((~np.isfinite(base + entropy)).sum()):
        raise LawError(
            f"{bad} of {len(delta)} cells have no base loss or no entropy; leave those cells out"
        )
    u, v = (delta - (base - entropy)) / delta, P * LN2 / length / delta

    def fit(cells):
        return (u[cells] @ v[cells]) / (v[cells] @ v[cells])

    kappa, held, blind = fit(delta > 0), [rank == one for one in np.unique(rank)], None
    if len(held) >= 4:
        blind = np.select(
            held, [constant_bits(fit(~one), P, length, base, entropy) for one in held]
        )
    random = np.random.default_rng(seed)
    scatter = np.sqrt(((u - kappa * v) ** 2).sum() / random.chisquare(len(u) - 1, size=draws))
    drawn = kappa + random.normal(size=draws) * scatter / math.sqrt(v @ v)
    return BitsLaw(
        float(kappa),
        *measures(delta, constant_bits(kappa, P, length, base, entropy)),
        n=len(delta),
        n_saturated=n_saturated,
        ci=middle_95(drawn),
        leave_one_rank_out=None if blind is None else measures(delta, blind)[2],
    )
