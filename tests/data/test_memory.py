"""Memories: random ones, texts and what a memory accepts. Properties over seeds and ratios."""

import math

import numpy as np
import pytest
import torch

from tests.toy import toy_memory
from tinymem.data.memory import Memory, first_tokens, random_memory, text_memory
from tinymem.errors import DataError


def test_random_memories_are_seeded_ids_without_special_tokens(tokenizer):
    memory = random_memory(tokenizer, 5000, seed=3)
    assert (
        memory == random_memory(tokenizer, 5000, seed=3) != random_memory(tokenizer, 5000, seed=4)
    )
    assert memory.length == 5000 and memory.ratio == 100
    assert set(memory.target_ids) <= set(tokenizer.plain_ids)
    assert 0 not in memory.target_ids  # <|endoftext|>
    assert memory.entropy == math.log(2047)
    # 5,000 uniform draws from 2,047 tokens miss about 2047·e^(−5000/2047) = 178 of them.
    assert 140 < 2047 - len(set(memory.target_ids)) < 220


def test_a_random_memory_of_few_different_tokens(tokenizer):
    digits = random_memory(tokenizer, 400, seed=5, vocabulary=10)
    assert len(set(digits.target_ids)) == 10 and digits.entropy == math.log(10)
    assert set(digits.target_ids) <= set(tokenizer.plain_ids)
    other = random_memory(tokenizer, 400, seed=6, vocabulary=10)
    assert set(digits.target_ids) != set(other.target_ids)  # the ten are drawn anew
    one = random_memory(tokenizer, 3, vocabulary=1)
    assert len(set(one.target_ids)) == 1 and one.entropy == 0
    for wrong in (0, 2048):
        with pytest.raises(DataError, match=f"vocabulary is {wrong}; expected 1 to 2,047 tokens"):
            random_memory(tokenizer, 3, vocabulary=wrong)


@pytest.mark.parametrize("ratio", [0, 20, 50, 100])
def test_ratio_replaces_that_share_of_a_text(tokenizer, ratio):
    text = "In the beginning God created the heaven and the earth. " * 20
    plain = text_memory(tokenizer, text, length=200)
    mixed = text_memory(tokenizer, text, length=200, ratio=ratio, seed=1)
    changed = sum(a != b for a, b in zip(plain.target_ids, mixed.target_ids, strict=True))
    assert abs(changed - 2 * ratio) <= 2  # a random id may equal the old one
    assert (mixed.entropy is not None) == (ratio == 100)
    assert tokenizer.decode(plain.target_ids) == tokenizer.decode(tokenizer.encode(text)[:200])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "empty"),
        (" \n\t", {}, "empty"),
        ("some words", {"length": 100}, "the text has"),
        ("some words", {"length": 0}, "length 0"),
        ("some words", {"ratio": 101}, "percentage"),
        ("some words", {"prompt": ""}, "prompt is empty"),
        ("some words", {"prompt": "  "}, "prompt is empty"),
        ("lone \ud800 surrogate", {}, "Unicode"),
    ],
)
def test_texts_that_cannot_be_memories(tokenizer, text, options, message):
    with pytest.raises(DataError, match=message):
        text_memory(tokenizer, text, **options)


@pytest.mark.parametrize(
    "fields", [{"ratio": 250}, {"ratio": "x"}, {"entropy": math.nan}, {"entropy": "x"}]
)
def test_what_a_memory_says_of_itself_is_checked(fields):
    with pytest.raises(DataError, match=next(iter(fields))):
        Memory([1], [2], **fields)


def test_first_tokens_takes_whole_memories_or_cuts_the_first():
    memories = [toy_memory(length, seed=length) for length in (3, 4, 5)]
    for length, expected in ((3, 1), (6, 1), (7, 2), (11, 2), (12, 3), (100, 3)):
        assert first_tokens(memories, length) == memories[:expected], length
    (cut,) = first_tokens(memories, 2)
    assert cut.prompt_ids == memories[0].prompt_ids and cut.target_ids == memories[0].target_ids[:2]


@pytest.mark.parametrize("ids", [[], "12", [1.5], [True], [-1], None])
def test_memories_are_lists_of_ids(ids):
    with pytest.raises(DataError, match="target_ids"):
        Memory([1], ids)


def test_ids_may_be_arrays_tensors_or_lists():
    expected = Memory([1], [3, 4])
    assert Memory(np.array([1]), [np.int64(3), 4]) == Memory(torch.tensor([1]), (3, 4)) == expected
    assert expected.prompt_ids == (1,) and type(expected.target_ids[0]) is int
