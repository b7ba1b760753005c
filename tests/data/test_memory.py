"""Memories: files written by hand, and properties that hold for several seeds."""

import json
import math

import pytest
import torch

import tinymem as tm
from tinymem.data.batch import Batch
from tinymem.data.memory import Memory, random_memory, text_memory
from tinymem.data.read import read_memories
from tinymem.errors import DataError
from tinymem.files import read_text


@pytest.fixture(scope="module")
def tokenizer():
    return tm.load("tiny")[1]


def test_random_memories_are_seeded_ids_without_special_tokens(tokenizer):
    memory = random_memory(tokenizer, 5000, seed=3)
    assert (
        memory == random_memory(tokenizer, 5000, seed=3) != random_memory(tokenizer, 5000, seed=4)
    )
    assert memory.length == 5000 and memory.ratio == 100
    assert (
        set(memory.target_ids) <= set(tokenizer.plain_ids) and 0 not in memory.target_ids
    )  # <|endoftext|>
    assert memory.entropy == math.log(2047)
    # 5,000 uniform draws from 2,047 tokens miss about 2047·e^(−5000/2047) = 178 of them.
    assert 140 < 2047 - len(set(memory.target_ids)) < 220


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


def test_every_form_of_data_file(tokenizer, tmp_path):
    rows = [
        {"prompt": "Ann Lee:", "completion": "12"},
        {"id": 7, "query": "Ann Lee:", "target": "12", "target_len": 2},  # the paper's PhoneBook
        {"question": "Ann Lee:", "matching": "12"},  # the paper's long context
        {"prompt_ids": [5, 6], "target_ids": [7, 2047]},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    memories = read_memories(path, tokenizer)
    assert memories[0] == memories[1] == memories[2]
    assert tokenizer.decode(memories[0].prompt_ids) == "Ann Lee:"
    assert tokenizer.decode(memories[0].target_ids) == "12"
    assert memories[3] == Memory([5, 6], [7, 2047])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: "),
        ("[" * 100_000, "line 2: "),
        ("[1]", "line 2: expected a JSON object"),
        ("{}", "line 2: expected one of the pairs .* found nothing"),
        ('{"prompt": "a"}', "line 2: expected one of the pairs .* found 'prompt'"),
        ('{"prompt": "a", "completion": 5}', "line 2: .* must be text"),
        ('{"prompt": "", "completion": "b"}', "line 2: the prompt is empty"),
        ('{"prompt": "a", "completion": ""}', "line 2: the text is empty"),
        ('{"prompt_ids": [1], "target_ids": []}', "line 2: target_ids must be"),
        ('{"prompt_ids": [1], "target_ids": [2048]}', "line 2: token id 2048 is beyond .* 2047"),
        ('{"prompt_ids": [-1], "target_ids": [1]}', "line 2: prompt_ids must be"),
    ],
)
def test_a_bad_line_is_named(tokenizer, tmp_path, line, message):
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n' + line)
    with pytest.raises(DataError, match=message) as caught:
        read_memories(path, tokenizer)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields", [{"ratio": 250}, {"ratio": "x"}, {"entropy": math.nan}, {"entropy": "x"}]
)
def test_what_a_memory_says_of_itself_is_checked(fields):
    with pytest.raises(DataError, match=next(iter(fields))):
        Memory([1], [2], **fields)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        read_text(tmp_path / "latin")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read"):
        read_text(tmp_path)


def test_a_batch_by_hand():
    """Two memories. The state at a position predicts the token after it."""
    batch = Batch([Memory([1, 2], [3, 4]), Memory([5], [6, 7, 8])], 10, torch.device("cpu"))
    assert batch.ids.tolist() == [[1, 2, 3], [5, 6, 7]]
    assert [t.tolist() for t in batch.rows] == [[0, 0, 1, 1, 1], [1, 2, 0, 1, 2]]
    assert batch.targets.tolist() == [3, 4, 6, 7, 8]
