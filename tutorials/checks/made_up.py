"""Rows that are made up for the checks of rungs 8 and 9, from a law with drawn constants."""

import itertools
import math

import numpy as np

RANKS, LENGTHS = (1, 2, 3, 5), (60, 110, 250)


def planted(random: np.random.Generator) -> tuple[float, float, float]:
    return tuple(float(random.uniform(*ends)) for ends in ((2, 5), (0.2, 0.6), (0.1, 0.3)))


def row(rank: int, length: int, seed: int, base: float, delta: float) -> dict:
    losses = {"base_loss": base, "final_loss": base - delta, "recited": False}
    cell = {"rank": rank, "length": length, "seed": seed, "parameters": 512 * rank}
    return cell | losses


def rows_of(constants, random, noise: float = 0.0, seeds: int = 1, copies: bool = False) -> list:
    """Rows of a law. `copies`: all seeds of a cell have the same ΔL."""
    C, alpha, beta = constants
    rows = []
    for rank, length in itertools.product(RANKS, LENGTHS):
        off = random.normal(size=seeds) * noise
        for seed, one in enumerate(off[:1].repeat(seeds) if copies else off):
            delta = C * rank**alpha * length**-beta * math.exp(one)
            rows.append(row(rank, length, seed, float(random.uniform(12, 13)), float(delta)))
    return [rows[i] for i in random.permutation(len(rows))]


def saturated(random: np.random.Generator) -> list[dict]:
    """Rows with a final loss of at most ln 2, whose ΔL follows no law."""
    found = []
    for _ in range(5):
        rank, length = int(random.integers(4, 30)), int(random.integers(10, 40))
        base, final = float(random.uniform(9, 10)), float(random.uniform(0.01, 0.68))
        found.append(row(rank, length, 0, base, base - final))
    return found
