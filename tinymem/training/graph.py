"""CUDA graphs: the hundreds of kernels of a step, recorded once and launched as one.

A small model's kernels are done sooner than the CPU can launch them. What is recorded must do the same
to the same pieces of memory every time: no number is read back, nothing depends on the data.
"""

from collections.abc import Callable

import torch

EAGER = 3  # calls before recording: libraries set themselves up in the first


class Replay:
    """A function without arguments and result; called as it is, or recorded and replayed if `record`."""

    def __init__(self, function: Callable[[], None], record: bool):
        self.function, self.record = function, record and torch.cuda.is_available()
        self.calls, self.graph = 0, None

    def __call__(self) -> None:
        if not self.record:
            self.function()
            return
        self.calls += 1
        if self.graph is None and self.calls > EAGER:
            self._capture()
        if self.graph is not None:
            self.graph.replay()
            return
        side = (
            torch.cuda.Stream()
        )  # where gradients are summed is settled in the first calls: not on the
        side.wait_stream(torch.cuda.current_stream())  # default stream, which cannot be recorded
        with torch.cuda.stream(side):
            self.function()
        torch.cuda.current_stream().wait_stream(side)

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self.function()
            self.graph = graph
        except RuntimeError:  # this device or driver cannot: go on as before
            self.record = False
            torch.cuda.synchronize()
