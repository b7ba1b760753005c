"""The arithmetic of a run and of a verdict, whatever the program around it has switched on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_dtypes() -> Iterator[None]:
    """Without autocast: in the dtypes of the tensors themselves."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    for kind in kinds:
        torch.set_autocast_enabled(kind, False)
    try:
        yield
    finally:
        for kind in kinds:
            torch.set_autocast_enabled(kind, True)


@contextmanager
def with_gradients() -> Iterator[None]:
    """As outside of torch.no_grad, torch.inference_mode and torch.autocast."""
    with torch.inference_mode(False), torch.enable_grad(), own_dtypes():
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 numbers in float32 arithmetic: without autocast and without TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with own_dtypes():
            yield
    finally:
        torch.set_float32_matmul_precision(before)
