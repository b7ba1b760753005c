"""CUDA graphs: the hundreds of kernels of a step, recorded once and launched as one.

The kernels of a small model end sooner than the CPU can launch them. Every replay runs the same
kernels on the same memory, so a recorded step must not read a number back (.item()), and must not
branch on data.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

EAGER = 3  # calls before the recording: libraries set themselves up in the first ones
T = TypeVar("T")


class GraphedStep(Generic[T]):
    """A function without arguments, called as it is, or recorded and replayed if `record`.

    What a replay returns is the same memory each time, overwritten with new values.
    """

    def __init__(self, function: Callable[[], T], record: bool):
        self.function, self.record = function, record and torch.cuda.is_available()
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: T | None = None

    def __call__(self) -> T:
        if not self.record:
            return self.function()
        self.calls += 1
        if self.graph is None and self.calls > EAGER:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return self.result  # type: ignore[return-value]
        # Where gradients are summed is settled in the first calls. That must not be on the default
        # stream, which cannot be recorded.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = self.function()
        torch.cuda.current_stream().wait_stream(side)
        return result

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.result = self.function()
            self.graph = graph
        except RuntimeError:  # this device or driver cannot record: go on without
            self.record = False
            torch.cuda.synchronize()
