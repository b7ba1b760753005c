"""Memories from files of JSON lines, written by hand here: every form, and every bad line."""

import json

import pytest

from tinymem.data.memory import Memory
from tinymem.data.read import read_memories
from tinymem.errors import DataError


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


def test_an_empty_file_is_refused(tokenizer, tmp_path):
    (tmp_path / "d.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match="no memories"):
        read_memories(tmp_path / "d.jsonl", tokenizer)
