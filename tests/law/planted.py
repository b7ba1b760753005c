"""A grid of 25 cells, and the loss reductions that a planted law gives there."""

import numpy as np

from tinymem.law.power import PowerLaw

RANKS, LENGTHS = (
    axis.ravel().astype(float) for axis in np.meshgrid([1, 2, 4, 8, 16], [32, 64, 128, 256, 512])
)


def noisy(constants, noise, seed, ranks=RANKS, lengths=LENGTHS):
    """ΔL of runs that scatter around the law by `noise` (0.03 is 3 %)."""
    scatter = noise * np.random.default_rng(seed).normal(size=len(ranks))
    return PowerLaw(*constants).predict(ranks, lengths) * np.exp(scatter)
