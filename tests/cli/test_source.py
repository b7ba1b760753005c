"""Where memories come from: which options go together, and which memories they give."""

import hashlib
import io
import json
import math
import sys
from pathlib import Path

import pytest

import tinymem as tm
from tinymem.base.checkpoint import open_checkpoint
from tinymem.cli.options import SourceOptions
from tinymem.cli.source import check_source, describe, read_content, read_source
from tinymem.data.memory import PROMPT
from tinymem.errors import DataError
from tinymem.files import TEXT_LIMIT

TEXT = "It was a dark and stormy night in the harbour town, and the lamps were out."


@pytest.fixture(scope="module")
def tokenizer():
    return open_checkpoint("tiny").tokenizer


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture
def rows(tmp_path):
    rows = [{"prompt_ids": [n], "target_ids": [n + 7, n + 8]} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows.jsonl"


def test_random_tokens(tokenizer):
    make, held_out = read_source(SourceOptions(), None, tokenizer, context=1024)
    (memory,) = make(None, None, 5)
    assert memory == tm.random_memory(tokenizer, 128, seed=5) and held_out == []
    (short,) = make(9, 100, 5)
    assert short.length == 9 and short.ratio == 100
    assert short.entropy == math.log(len(tokenizer.plain_ids))
    assert short.prompt_ids == tuple(tokenizer.prompt_ids(PROMPT, True))


def test_a_prompt_of_ones_own(tokenizer):
    make, _ = read_source(SourceOptions(prompt="Sing:"), None, tokenizer, context=1024)
    assert make(3, None, 0)[0].prompt_ids == tuple(tokenizer.prompt_ids("Sing:", True))


@pytest.mark.parametrize("chat", [True, False])
def test_the_chat_template_is_used_unless_it_is_declined(chatty, tmp_path, chat):
    tokenizer = open_checkpoint(chatty).tokenizer
    (tmp_path / "rows").write_text('{"prompt": "Sing:", "completion": "Sing, goddess"}')
    files = SourceOptions(data=tmp_path / "rows", held_out=tmp_path / "rows", chat=chat)
    make, held_out = read_source(files, None, tokenizer, context=1024)
    drawn, _ = read_source(SourceOptions(prompt="Sing:", chat=chat), None, tokenizer, context=1024)
    for memory in (*make(None, None, 0), *held_out, *drawn(4, None, 0)):
        prompt = tokenizer.decode(memory.prompt_ids)
        assert prompt == ("Question: Sing: Answer:" if chat else "Sing:")


def test_a_text(tokenizer):
    make, _ = read_source(SourceOptions(), TEXT, tokenizer, context=1024)
    assert make(None, None, 0) == [tm.text_memory(tokenizer, TEXT)]
    assert make(5, 50, 3) == [tm.text_memory(tokenizer, TEXT, length=5, ratio=50, seed=3)]
    assert tokenizer.decode(make(None, 0, 0)[0].target_ids) == TEXT


def test_a_file_of_memories(tokenizer, rows):
    options = SourceOptions(data=rows, held_out=rows)
    make, held_out = read_source(options, None, tokenizer, context=1024)
    assert [m.target_ids for m in held_out] == [(7, 8), (8, 9), (9, 10), (10, 11)]
    assert make(None, None, 0) == held_out
    assert make(5, None, 0) == held_out[:2]  # the whole ones that fit
    assert make(1, None, 0)[0].target_ids == (7,)  # a first one that does not fit is cut


@pytest.mark.parametrize(
    ("given", "lengths", "ratios", "words"),
    [
        ({"data": Path("a"), "text": Path("b")}, [], [], "--data and --text exclude"),
        ({"data": Path("a"), "prompt": "b"}, [], [], "--data and --prompt exclude"),
        ({"data": Path("a")}, [], [100], "--data and --ratio exclude"),
        ({}, [], [101], "--ratio is 101; it is a percentage"),
        ({}, [], [-1], "--ratio is -1; it is a percentage"),
        ({}, [], [99], "--ratio 99 needs a text"),
        ({}, [3, 0], [], "--length is 0; a memory has at least one token"),
    ],
)
def test_options_that_cannot_be(given, lengths, ratios, words):
    with pytest.raises(DataError, match=words):
        check_source(SourceOptions(**given), lengths, ratios)


def test_lengths_beyond_the_context_are_refused_before_they_are_drawn(tokenizer):
    make, _ = read_source(SourceOptions(), None, tokenizer, context=64)
    with pytest.raises(DataError, match="exceed the context of 64"):
        make(10**12, None, 0)


def test_stdin_is_read_as_utf_8(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("ΔL".encode())))
    assert read_content(Path("-")) == "ΔL"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(DataError, match="stdin: not UTF-8 at byte 0"):
        read_content(Path("-"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * (TEXT_LIMIT + 1))))
    with pytest.raises(DataError, match="stdin: longer than"):
        read_content(Path("-"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="no stdin"):
        read_content(Path("-"))


def test_rows_tell_the_source(rows):
    """A file goes in by the start of its SHA-256, so that a changed file is another source."""
    assert describe(SourceOptions(prompt="Sing:", chat=False), TEXT) == {
        "prompt": "Sing:",
        "chat": False,
        "text": hashlib.sha256(TEXT.encode()).hexdigest()[:16],
        "data": None,
        "held_out": None,
    }
    digest = hashlib.sha256(rows.read_bytes()).hexdigest()[:16]
    about = describe(SourceOptions(data=rows, held_out=rows), None)
    assert about["data"] == about["held_out"] == digest and about["text"] is None
