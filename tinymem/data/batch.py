"""Memories side by side in one padded tensor."""

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch

from .memory import Memory, check_context

POSITIONS = 1 << 14  # of hidden states and keys held at once


def together(positions: int) -> int:
    """How many sequences of so many positions are computed at once."""
    return max(1, POSITIONS // positions)


class Batch:
    """Memories side by side, padded on the right, with the place of every target token.

    ids       long [M, T]   prompt and target without its last token, which nothing follows
    rows      2 × long [N]  (memory, position) of the N states that predict a target token
    targets   long [N]      the tokens to predict there, memory after memory
    members   which memories of the whole batch these are: all of it, or what `select` picked
    tokens    likewise, which of its target tokens

    Padding needs no mask: attention is causal, so no position sees what comes after it.
    """

    def __init__(self, memories: Sequence[Memory], context: int, device: torch.device):
        """Raises DataError if a memory is longer than the context."""
        check_context(memories, context)
        inputs = [(m.prompt_ids + m.target_ids)[:-1] for m in memories]
        ids = torch.zeros(len(inputs), max(map(len, inputs)), dtype=torch.long)
        for row, sequence in zip(ids, inputs, strict=True):
            row[: len(sequence)] = torch.tensor(sequence)
        self.prompts = np.array([len(m.prompt_ids) for m in memories])
        self.lengths = np.array([m.length for m in memories])
        self.ids, self.members, self.tokens = ids.to(device), slice(None), slice(None)
        self.targets = torch.tensor([i for m in memories for i in m.target_ids]).to(device)
        self._place(np.arange(len(memories)))

    def _place(self, which: np.ndarray) -> np.ndarray:
        """Sets `rows` for the memories `which`; returns where their tokens are among all targets [N]."""
        lengths = self.lengths[which]
        t = np.arange(lengths.sum()) - np.repeat(
            lengths.cumsum() - lengths, lengths
        )  # place in its target
        memory = np.repeat(np.arange(len(which)), lengths)
        position = np.repeat(self.prompts[which] - 1, lengths) + t
        self.rows = tuple(
            torch.from_numpy(np.stack([memory, position])).to(self.ids.device).unbind()
        )
        return np.repeat((self.lengths.cumsum() - self.lengths)[which], lengths) + t

    def select(self, which: np.ndarray) -> "Batch":
        """The memories `which` alone, in that order, padded no further than they need."""
        part, device = copy(self), self.ids.device
        part.tokens = torch.from_numpy(part._place(which)).to(device)
        part.members = torch.from_numpy(which).to(device)
        part.prompts, part.lengths = self.prompts[which], self.lengths[which]
        part.ids = self.ids[part.members, : (part.prompts + part.lengths).max() - 1]
        part.targets = self.targets[part.tokens]
        return part

    def keep(self, which: np.ndarray) -> "Batch":
        """The memories `which` as a batch of their own."""
        part = self.select(which)
        part.members = part.tokens = slice(None)
        return part
