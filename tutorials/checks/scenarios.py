"""What takes several calls of the student's code, and what has to be watched while it runs.

The first argument of each function is the module of the student. The functions return plain values
(values.py), and judge nothing: the checks judge, in another process, where the seed is.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Watch(TorchDispatchMode):
    """Records the names of torch's operations and the size of the largest tensor they create."""

    def __init__(self):
        super().__init__()
        self.largest, self.names = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for one in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(one, torch.Tensor):
                self.largest = max(self.largest, one.numel())
        return out
