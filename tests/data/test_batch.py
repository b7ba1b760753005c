"""Memories side by side. Oracle: the next token of each memory, looked up one memory at a time."""

import numpy as np
import pytest
import torch

from tests.toy import toy_memory
from tinymem.data import batch as batches
from tinymem.data.batch import Batch, sequences_per_pass
from tinymem.data.memory import Memory
from tinymem.errors import DataError

CPU = torch.device("cpu")
MEMORIES = [toy_memory(length, prompt, seed=length) for length, prompt in ((9, 2), (4, 7), (5, 1))]


def test_a_batch_by_hand():
    """Two memories. The state at a position predicts the token after it."""
    batch = Batch([Memory([1, 2], [3, 4]), Memory([5], [6, 7, 8])], 10, torch.device("cpu"))
    assert batch.ids.tolist() == [[1, 2, 3], [5, 6, 7]]
    assert [t.tolist() for t in batch.rows] == [[0, 0, 1, 1, 1], [1, 2, 0, 1, 2]]
    assert batch.targets.tolist() == [3, 4, 6, 7, 8]


@pytest.mark.parametrize("indices", [None, [0], [2, 0], [1, 2], [1, 0, 2]])
def test_each_row_is_the_place_before_its_target(indices):
    """For the whole batch and for selections of it, in any order."""
    batch = Batch(MEMORIES, 128, CPU)
    part = batch.select(None if indices is None else np.array(indices))
    chosen = MEMORIES if indices is None else [MEMORIES[n] for n in indices]
    read = []  # token ids up to and including the row, and the target after them
    for memory, place, target in zip(*part.rows, part.targets, strict=True):
        read.append((*part.ids[memory, : place + 1].tolist(), target.item()))
    expected = [
        (*m.prompt_ids, *m.target_ids[: t + 1]) for m in chosen for t in range(len(m.target_ids))
    ]
    assert read == expected
    assert part.ids.shape[1] == max(len(m.prompt_ids) + m.length - 1 for m in chosen)
    assert torch.equal(batch.targets[part.tokens], part.targets)
    assert torch.equal(batch.ids[part.members, : part.ids.shape[1]], part.ids)


def test_a_subset_is_a_batch_of_its_own():
    subset = Batch(MEMORIES, 128, CPU).subset(np.array([2, 1]))
    alone = Batch([MEMORIES[2], MEMORIES[1]], 128, CPU)
    assert subset.members == subset.tokens == slice(None)
    assert torch.equal(subset.ids, alone.ids) and torch.equal(subset.targets, alone.targets)
    for ours, theirs in zip(subset.rows, alone.rows, strict=True):
        assert torch.equal(ours, theirs)
    again = subset.select(np.array([1]))  # counted in the subset, not in the first batch
    assert again.members.tolist() == [1] and again.tokens.tolist() == [5, 6, 7, 8]


def test_a_memory_longer_than_the_context_is_refused():
    Batch([toy_memory(7, prompt=3)], 10, CPU)
    with pytest.raises(DataError, match=r"memory 2: 3 prompt tokens \+ 8 target tokens = 11"):
        Batch([toy_memory(7, prompt=3), toy_memory(8, prompt=3)], 10, CPU)


def test_sequences_per_pass(monkeypatch):
    monkeypatch.setattr(batches, "POSITIONS", 100)
    assert [sequences_per_pass(n) for n in (1, 30, 100, 101, 500)] == [100, 3, 1, 1, 1]
