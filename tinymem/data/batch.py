"""Memories side by side in one padded tensor, with the place of every target token."""

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .memory import Memory, check_context

POSITIONS = 1 << 14  # whose hidden states and keys are in memory at the same time


def sequences_per_pass(positions: int) -> int:
    """How many sequences of this length, in tokens, fit in one forward pass."""
    return max(1, POSITIONS // positions)


def count_up(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[5, 0], [2, 3] -> [5, 6, 0, 1, 2]: so many whole numbers from each start on."""
    return np.arange(counts.sum()) + np.repeat(starts - (counts.cumsum() - counts), counts)


class Batch:
    """M memories, padded on the right to T positions, with N target tokens in all.

    ids       long [M, T]   prompt and target without its last token: nothing is predicted from it
    rows      2 × long [N]  (memory, position) of the hidden state that predicts each target token
    targets   long [N]      the tokens to predict there, memory after memory
    members   of a selection: the memories' places [M] in the batch that they were selected from
    tokens    of a selection: the target tokens' places [N] there

    Padding needs no mask: attention is causal, so no position sees what comes after it.
    """

    def __init__(self, memories: Sequence[Memory], context: int, device: torch.device):
        """Raises DataError if a memory is longer than the context, in tokens."""
        check_context(memories, context)
        inputs = [torch.tensor([*m.prompt_ids, *m.target_ids[:-1]]) for m in memories]
        self.ids = pad_sequence(inputs, batch_first=True).to(device)
        self.targets = torch.tensor([i for m in memories for i in m.target_ids]).to(device)
        self.prompts = np.array([len(m.prompt_ids) for m in memories])
        self.lengths = np.array([m.length for m in memories])
        self.rows = self._rows()
        self.members: Tensor | slice = slice(None)
        self.tokens: Tensor | slice = slice(None)

    def _rows(self) -> tuple[Tensor, ...]:
        memory = np.repeat(np.arange(len(self.lengths)), self.lengths)
        rows = np.stack([memory, count_up(self.prompts - 1, self.lengths)])
        return torch.from_numpy(rows).to(self.ids.device).unbind()

    def select(self, indices: np.ndarray | None) -> "Batch":
        """The memories `indices`, in that order, padded no further than they need; None: all."""
        if indices is None:
            return self
        part, device = copy(self), self.ids.device
        part.prompts, part.lengths = self.prompts[indices], self.lengths[indices]
        first = (self.lengths.cumsum() - self.lengths)[indices]
        part.members = torch.from_numpy(indices).to(device)
        part.tokens = torch.from_numpy(count_up(first, part.lengths)).to(device)
        part.ids = self.ids[part.members, : (part.prompts + part.lengths).max() - 1]
        part.targets, part.rows = self.targets[part.tokens], part._rows()
        return part

    def subset(self, indices: np.ndarray) -> "Batch":
        """The memories `indices` as a batch of their own, no longer a selection."""
        part = self.select(indices)
        part.members = part.tokens = slice(None)
        return part
