"""Benchmark data: the properties of each row, and files that are read back as the same memories."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest

import tinymem as tm
from tinymem.data import benchmarks as data
from tinymem.data.benchmarks import (
    long_context_rows,
    phonebook_rows,
    random_rows,
    rule_rows,
    to_lines,
    write_rows,
)
from tinymem.data.memory import Memory, random_memory, text_memory
from tinymem.data.read import read_memories
from tinymem.errors import DataError

TEXT = "The miller's daughter counted the sacks twice, and wrote both numbers on the door. " * 20


def as_memory(row: dict) -> Memory:
    return Memory(row["prompt_ids"], row["target_ids"], row["ratio"], row["entropy"])


def test_random_rows_are_the_memories_that_the_probe_draws(tokenizer):
    rows = random_rows(tokenizer, 64, count=3, seed=5, prompt="Say it:")
    assert [row["seed"] for row in rows] == [5, 6, 7]
    for row in rows:
        assert as_memory(row) == random_memory(tokenizer, 64, seed=row["seed"], prompt="Say it:")
        assert row["ratio"] == 100 and row["entropy"] == math.log(len(tokenizer.plain_ids))
    assert len({tuple(row["target_ids"]) for row in rows}) == 3
    (longer,) = random_rows(tokenizer, 100, seed=5)
    assert longer["target_ids"][:64] == rows[0]["target_ids"]


def test_long_context_rows_are_text_memories_and_nested(tokenizer):
    rows = long_context_rows(tokenizer, TEXT, 200, seed=2, prompt="Say it:")
    assert [row["ratio"] for row in rows] == [0, 20, 40, 60, 80, 100]
    plain = np.array(tokenizer.encode(TEXT)[:200])
    before = np.zeros(200, dtype=bool)  # which tokens of the previous row are random
    ids = plain
    for row in rows:
        how = {"length": 200, "ratio": row["ratio"], "seed": 2, "prompt": "Say it:"}
        assert as_memory(row) == text_memory(tokenizer, TEXT, **how)
        assert row["entropy"] == (math.log(2047) if row["ratio"] == 100 else None)
        assert (np.array(row["target_ids"])[before] == ids[before]).all()
        ids = np.array(row["target_ids"])
        before = ids != plain
        assert 0 <= 2 * row["ratio"] - before.sum() <= 2  # a random id may equal the old one
    assert len(long_context_rows(tokenizer, TEXT, None, [40])[0]["target_ids"]) == len(
        tokenizer.encode(TEXT)
    )


def test_a_template_is_used_unless_chat_is_off(tokenizer):
    core = tokenizer.core
    chatty = tm.Tokenizer(core, "User: {{ messages[0].content }} Answer:")
    for make in (random_rows, lambda t, n, **how: long_context_rows(t, TEXT, n, [0], **how)):
        on, off = (
            make(chatty, 4, prompt="Say it:", chat=chat)[0]["prompt_ids"] for chat in (True, False)
        )
        assert chatty.decode(on) == "User: Say it: Answer:" and chatty.decode(off) == "Say it:"


def test_phonebook_names_are_distinct_and_numbers_random():
    rows = phonebook_rows(16_000, seed=1)
    assert len({row["prompt"] for row in rows}) == 16_000
    assert all(re.fullmatch(r"[A-Z][a-z]+ [A-Z][a-z]+:", row["prompt"]) for row in rows)
    # Numbers that begin with 1 belong to nobody in North America.
    assert all(re.fullmatch(r"1[0-9]{9}", row["completion"]) for row in rows)
    for place in range(1, 10):  # 1,600 times each digit, within five standard deviations of 38
        counts = Counter(row["completion"][place] for row in rows)
        assert len(counts) == 10 and all(abs(n - 1600) < 190 for n in counts.values())
    # Neighbouring digits are independent: 160 times each pair, within five deviations of 12.6.
    pairs = Counter(row["completion"][4:6] for row in rows)
    assert len(pairs) == 100 and all(abs(n - 160) < 64 for n in pairs.values())
    assert rows[:250] == phonebook_rows(250, seed=1)
    names = [{row["prompt"] for row in phonebook_rows(250, seed)} for seed in (1, 2)]
    assert len(names[0] & names[1]) < 30  # 250 · 250 / 20,480 = 3 are expected by chance


def test_a_phonebook_ends_with_its_names():
    given, surnames = json.loads(data.NAMES.read_text(encoding="utf-8")).values()
    assert len(set(given)) == len(given) == 128 and len(set(surnames)) == len(surnames) == 160
    assert len({row["prompt"] for row in phonebook_rows(20_480)}) == 20_480
    with pytest.raises(DataError, match=r"20481 entries .* only 20480 names"):
        phonebook_rows(20_481)


def test_rule_rows_follow_the_rule_and_hold_out():
    training, held_out = rule_rows(300, 100, seed=1, limit=20)  # all 400 pairs
    points = []
    for row in training + held_out:
        x, y = map(int, re.fullmatch(r"f\((\d+),(\d+)\)=", row["prompt"]).groups())
        assert row["completion"] == str(7 + 5 * y + 3 * x)
        points.append((x, y))
    assert len(training) == 300 and sorted(points) == [(x, y) for x in range(20) for y in range(20)]
    assert points != sorted(points)
    fewer, same = rule_rows(10, 100, seed=1, limit=20)
    assert same == held_out and fewer == training[:10]
    assert rule_rows(5, 0)[1] == []
    assert {"prompt": "f(12,7)=", "completion": "78"} in rule_rows(10_000, 0)[0]


@pytest.mark.parametrize(
    "form", [phonebook_rows(200), rule_rows(200, 0)[0]], ids=["phonebook", "rule"]
)
def test_texts_tokenized_apart_are_those_tokenized_together(tokenizer, form):
    for row in form:
        apart = tokenizer.encode(row["prompt"]) + tokenizer.encode(row["completion"])
        assert apart == tokenizer.encode(row["prompt"] + row["completion"])
        digits = row["completion"]
        assert len(tokenizer.encode(digits)) == len(digits)  # each digit is one token


def test_same_seed_same_rows(tokenizer):
    makers = [
        lambda seed: random_rows(tokenizer, 32, seed=seed),
        lambda seed: long_context_rows(tokenizer, TEXT, 32, [60], seed=seed),
        lambda seed: phonebook_rows(5, seed),
        lambda seed: rule_rows(5, 5, seed)[0],
        lambda seed: rule_rows(5, 5, seed)[1],
    ]
    for make in makers:
        assert make(3) == make(3)
        without_seed = [[{**row, "seed": None} for row in make(seed)] for seed in (3, 4)]
        assert without_seed[0] != without_seed[1]


def test_rows_come_back_from_a_file_as_the_same_memories(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = random_rows(tokenizer, 20, count=2) + long_context_rows(tokenizer, TEXT, 20)
    write_rows(rows, path)
    assert read_memories(path, tokenizer) == [as_memory(row) for row in rows]
    assert (
        path.read_text("utf-8") == to_lines(rows) and to_lines(rows).count("\n") == len(rows) == 8
    )
    texts = (
        phonebook_rows(3)
        + rule_rows(3, 0)[0]
        + [{"prompt": "Où ?", "completion": "là\u2028-bas\n"}]
    )
    write_rows(texts, str(path))
    assert "Où" in path.read_text("utf-8")
    for memory, row in zip(read_memories(path, tokenizer), texts, strict=True):
        assert tokenizer.decode(memory.prompt_ids) == row["prompt"]
        assert tokenizer.decode(memory.target_ids) == row["completion"]


def test_the_papers_files_are_read(tokenizer, tmp_path):
    path = tmp_path / "paper.jsonl"
    rows = [  # PhoneBook for Llama and for Qwen; long context, with many lines in one target
        {"id": 41, "query": "Hugh Lane:", "target": "7000000013", "target_len": 4},
        {"id": 7, "query": "Ada Marsh:", "target": "6000000250", "target_len": 10},
        {
            "question": "Recite what you hold.",
            "matching": "TITLE\nOF A PAPER\n\nIt was dawn: naïve \ufffd.",
        },
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    memories = read_memories(path, tokenizer)
    texts = [tokenizer.decode(m.target_ids) for m in memories]
    assert texts == ["7000000013", "6000000250", rows[2]["matching"]]
    assert [tokenizer.decode(m.prompt_ids) for m in memories[:2]] == ["Hugh Lane:", "Ada Marsh:"]


@pytest.mark.parametrize(
    ("fields", "ratio", "entropy"),
    [
        ({}, None, None),
        ({"ratio": None, "entropy": None}, None, None),
        ({"ratio": 40}, 40, None),
        ({"ratio": 100, "entropy": 7}, 100, 7.0),
        ({"ratio": 100, "entropy": 7.5, "seed": 1, "note": "mine"}, 100, 7.5),
    ],
)
def test_ids_may_say_what_they_are(tokenizer, tmp_path, fields, ratio, entropy):
    write_rows([{"prompt_ids": [5], "target_ids": [6, 7], **fields}], tmp_path / "d.jsonl")
    (memory,) = read_memories(tmp_path / "d.jsonl", tokenizer)
    assert memory == Memory([5], [6, 7], ratio, entropy)
    assert type(memory.entropy) is (float if entropy else type(None))


@pytest.mark.parametrize(
    "fields",
    [{"ratio": 101}, {"ratio": 20.5}, {"ratio": True}, {"ratio": "20"}]
    + [{"entropy": e} for e in (-1, 60, "7", True, math.nan, [7], 10**400)],
    ids=lambda fields: json.dumps(fields)[:20],
)
def test_what_ids_say_wrongly_is_named(tokenizer, tmp_path, fields):
    good = {"prompt_ids": [5], "target_ids": [6]}
    write_rows([good, {**good, **fields}], tmp_path / "d.jsonl")
    with pytest.raises(DataError, match=rf"d\.jsonl, line 2: {next(iter(fields))} is "):
        read_memories(tmp_path / "d.jsonl", tokenizer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: random_rows(t, 8, count=0), "count is 0"),
        (lambda t: random_rows(t, 0), "length is 0"),
        (lambda t: random_rows(t, 8, seed=-1), "seed -1"),
        (lambda t: random_rows(t, 8, prompt=" "), "prompt is empty"),
        (lambda t: long_context_rows(t, TEXT, 8, [0, 20, 0]), r"\[0, 20, 0\].* each of them once"),
        (lambda t: long_context_rows(t, TEXT, 8, []), "at least one"),
        (lambda t: long_context_rows(t, TEXT, 8, [0, 120]), "ratio is 120"),
        (lambda t: long_context_rows(t, TEXT, 8, [-20]), "ratio is -20"),
        (lambda t: long_context_rows(t, TEXT, 8, seed=-1), "seed is -1"),
        (lambda t: long_context_rows(t, TEXT, 10**6), "the text has"),
        (lambda t: long_context_rows(t, "", 8), "text is empty"),
        (lambda t: phonebook_rows(0), "count is 0"),
        (lambda t: phonebook_rows(1, seed=-1), "seed is -1"),
        (lambda t: rule_rows(0, 5), "count is 0"),
        (lambda t: rule_rows(5, -1), "held_out is -1"),
        (lambda t: rule_rows(5, 5, seed=-1), "seed is -1"),
        (lambda t: rule_rows(90, 11, limit=10), r"90 \+ 11 pairs .* there are 100"),
        (lambda t: rule_rows(1, 0, limit=0), "limit is 0"),
        (lambda t: rule_rows(1, 0, limit=10**9), "limit is 1000000000; expected 1000 or less"),
    ],
)
def test_rows_that_cannot_be_made(tokenizer, call, message):
    with pytest.raises(DataError, match=message):
        call(tokenizer)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write_rows(phonebook_rows(2), path)
    old = path.read_bytes()

    def full(self, content):
        self.open("wb").write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(type(path), "write_bytes", full)
        write_rows(phonebook_rows(50), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError):  # cannot be written as JSON
        write_rows([{"prompt": object()}], path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
