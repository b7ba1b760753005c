"""`tinymem data`, as a user types it."""

import json

import pytest

from tinymem.base.checkpoint import open_checkpoint
from tinymem.data.memory import random_memory, text_memory


def test_data_is_written_and_read_back(tinymem, tmp_path):
    for kind, options in {
        "random": ["--length", "9"],
        "phonebook": ["--count", "3"],
        "long-context": ["--text", tmp_path / "text", "--length", "6", "--ratios", "0,50"],
    }.items():
        (tmp_path / "text").write_text("It was a dark and stormy night in the harbour town.")
        code, printed, _ = tinymem("data", kind, *options)
        assert code == 0 and all(json.loads(line) for line in printed.splitlines())
        file = tmp_path / f"{kind}.jsonl"
        code, nothing, err = tinymem("data", kind, *options, "--out", file)
        assert code == 0 and not nothing and "memories in" in err
        assert file.read_text(encoding="utf-8") == printed
        assert tinymem("probe", "--data", file, "--steps", "1", "--json")[0] == 0


@pytest.mark.parametrize(("flag", "chat"), [("--chat", True), ("--no-chat", False)])
def test_seed_prompt_and_chat_template(tinymem, tmp_path, chatty, flag, chat):
    text = "It was a dark and stormy night in the harbour town."
    (tmp_path / "text").write_text(text)
    tokenizer = open_checkpoint(chatty).tokenizer
    how = {"seed": 3, "prompt": "Sing:", "chat": chat}
    options = ["--seed", 3, "--prompt", "Sing:", flag, "--model", chatty, "--length", 5]
    row = json.loads(tinymem("data", "random", *options)[1])
    memory = random_memory(tokenizer, 5, **how)
    assert row["prompt_ids"] == list(memory.prompt_ids)
    assert row["target_ids"] == list(memory.target_ids)
    more = ["--text", tmp_path / "text", "--ratios", "60"]
    row = json.loads(tinymem("data", "long-context", *options, *more)[1])
    memory = text_memory(tokenizer, text, length=5, ratio=60, **how)
    assert row["prompt_ids"] == list(memory.prompt_ids)
    assert row["target_ids"] == list(memory.target_ids)


def test_the_rule_and_its_held_out_pairs(tinymem, tmp_path):
    code, _, _ = tinymem(
        "data", "rule", "--count", 6, "--held-out", 4, "--out", tmp_path / "rule.jsonl"
    )
    held = tmp_path / "rule.held-out.jsonl"
    assert code == 0 and len(held.read_text().splitlines()) == 4
    options = ["--held-out", held, "--steps", "2", "--json"]
    report = json.loads(tinymem("probe", "--data", tmp_path / "rule.jsonl", *options)[1])
    assert (report["memories"], report["held_out_memories"]) == (6, 4)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "Missing command"),
        (["random", "--length", "0"], "length is 0"),
        (["phonebook", "--count", "99999"], "only 20480 names"),
        (["rule", "--count", "101", "--limit", "10", "--out", "x"], "there are 100"),
        (["long-context", "--text", "nowhere.txt"], "nowhere.txt"),
        (["phonebook", "--out", "no/such/folder/x"], "not a folder"),
    ],
)
def test_data_that_cannot_be_had_is_one_line(tinymem, args, words):
    code, out, err = tinymem("data", *args)
    assert code == 2 and words in err and err.count("\n") == 1 and not out
