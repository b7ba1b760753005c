"""Measures whether this CPU multiplies bfloat16 faster than float32 (AMX and AVX512-BF16 do)."""

import time

import torch

from ..base.model import Model

ROWS, TOKENS, REPEATS = 8192, 128, 5
LARGE = 50_000_000  # parameters below which a run is short anyway
WORTH_IT = 1.6


@torch.no_grad()
def bfloat16_gain(model: Model) -> float:
    """How many times as fast a part of the model's largest product is in bfloat16.

    1.0 without a measurement: for a small model, on a GPU, or if the model is not float32.
    """
    weight = model.lm_head.weight[:ROWS]
    large = sum(p.numel() for p in model.parameters()) >= LARGE
    if not large or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return 1.0
    fastest = []
    for dtype in (torch.float32, torch.bfloat16):
        w, x = weight.to(dtype), torch.ones(TOKENS, weight.shape[1], dtype=dtype)
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            torch.mm(x, w.t())
            times.append(time.perf_counter() - start)
        fastest.append(min(times))
    return fastest[0] / fastest[1]
