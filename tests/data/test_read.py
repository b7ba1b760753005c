"""Memories from files of JSON lines, written by hand here: every form, and every bad line."""

import json
import time

import pytest

from tinymem.base.tokenizer import Tokenizer
from tinymem.cli.source import read_content
from tinymem.data.memory import Memory
from tinymem.data.read import read_memories
from tinymem.errors import DataError
from tinymem.files import TEXT_LIMIT


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
        ("[1]", "line 2: expected a JSON object; .* one JSON object a line"),
        ('{"prompt": "a", "completion": "b"},', "line 2: Extra data at character 35; .* a line"),
        ('{"prompt": "a",', "line 2: Expecting .* at character 16; .* one JSON object a line"),
        ("prompt,completion", "line 2: .* one JSON object a line"),
        ('{"prompt": "a", "completion": "x\\ud83d."}', "line 2: character 2 .* lone surrogate"),
        ('{"prompt": "a\\udc00", "completion": "x"}', "line 2: character 2 .* U.DC00, a lone"),
        ('{"prompt": "a", "completion": "nul\0"}', "line 2: Invalid control character"),
        ('{"prompt": [], "completion": []}', "line 2: expected one user message, one assistant"),
        ('{"messages": [7, 8]}', "line 2: expected one user message.* found something else"),
        ('{"messages": {}}', "line 2: expected one of the pairs"),
        ('{"prompt": [{"role": "user", "content": "a"}], "completion": "b"}', "must be text"),
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


def chat(*turns: str, **more) -> list[dict]:
    """ "user: Who?" -> [{"role": "user", "content": "Who?"}]."""
    return [dict(zip(("role", "content"), t.split(": "), strict=True), **more) for t in turns]


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("declined", [True, False])
def test_a_chat_of_one_turn_is_a_pair(tokenizer, tmp_path, declined):
    """What TRL's users have, in both of its forms."""
    asked, answer = chat("user: Who?"), chat("assistant: Nobody.", tool_calls=None)
    rows = [{"messages": asked + answer, "source": "x"}, {"prompt": asked, "completion": answer}]
    plain = {"prompt": "Who?", "completion": "Nobody."}
    chatty = Tokenizer(tokenizer.core, "<{{ messages[0].content }}>")
    path = write(tmp_path / "d.jsonl", plain, *rows)
    first, *others = read_memories(path, chatty, chat=not declined)
    assert others == [first, first]
    expected = "Who?" if declined else "<Who?>"
    assert first == Memory(tokenizer.encode(expected), tokenizer.encode("Nobody."))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": chat("system: Be.", "user: Who?", "assistant: I.")}, "'system', 'user'"),
        ({"messages": chat("user: Who?", "assistant: I.") * 2}, "'assistant', 'user'"),
        ({"messages": chat("user: Who?")}, "found .'user'.$"),
        ({"messages": chat("assistant: I.", "user: Who?")}, "'assistant', 'user'"),
        ({"messages": []}, "one user message"),
        ({"messages": chat("user: Who?", "assistant: I."), "tools": [{}]}, "no tools"),
        ({"messages": chat("user: Who?", "assistant: I.", name="x")}, "nothing else"),
        ({"messages": [{"role": "user"}, {"role": "assistant"}]}, "a 'content', a text"),
        ({"prompt": chat("user: A", "assistant: B"), "completion": []}, "one user message"),
        ({"messages": chat("user: ", "assistant: I.")}, "the prompt is empty"),
        (
            {"messages": [{"role": "user", "content": [{"text": "a"}]}, *chat("assistant: I.")]},
            "text",
        ),
    ],
)
def test_another_chat_is_refused(tokenizer, tmp_path, row, message):
    with pytest.raises(DataError, match=f"d.jsonl, line 1: .*{message}"):
        read_memories(write(tmp_path / "d.jsonl", row), tokenizer)


def test_many_prompts_are_rendered_together(tokenizer, tmp_path):
    rows = [{"prompt": f"Who is {n}?", "completion": f"{n}"} for n in range(200)]
    ids = {"prompt_ids": [1], "target_ids": [2]}
    path = write(tmp_path / "d.jsonl", *rows[:100], ids, *rows[100:])
    chatty = Tokenizer(tokenizer.core, "[{{ messages[0].content }}]")
    start = time.monotonic()
    memories = read_memories(path, chatty)
    assert time.monotonic() - start < 5  # a child process for each would take over 10 s
    assert memories.pop(100) == Memory([1], [2])
    texts = [(tokenizer.decode(m.prompt_ids), tokenizer.decode(m.target_ids)) for m in memories]
    assert texts == [(f"[Who is {n}?]", f"{n}") for n in range(200)]


def test_ids_need_no_template(tokenizer, tmp_path):
    path = write(tmp_path / "d.jsonl", {"prompt_ids": [1], "target_ids": [2]})
    failing = Tokenizer(tokenizer.core, "{{ raise_exception('never') }}")
    assert read_memories(path, failing) == [Memory([1], [2])]


def test_characters_that_end_no_line(tokenizer, tmp_path):
    """A line ends with a line feed, and with nothing else that Python takes for an end."""
    text = "a\u2028b\u2029c\x85d\x0be"
    row = json.dumps({"prompt": text, "completion": "x\0\ufeff"}, ensure_ascii=False)
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{row}\r\n\r\n{row}\r\n".encode())
    one, two = read_memories(path, tokenizer)
    assert one == two and tokenizer.decode(one.prompt_ids) == text
    assert tokenizer.decode(one.target_ids) == "x\0\ufeff"


def test_what_is_too_long_is_refused_before_it_is_read(tokenizer, tmp_path):
    path = write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "x" * TEXT_LIMIT})
    with pytest.raises(DataError, match="line 1: longer than 4,000,000"):
        read_memories(path, tokenizer)
    with path.open("r+b") as file:
        file.truncate(5 << 30)  # a hole, which takes no room on the disk
    for read in (lambda: read_memories(path, tokenizer), lambda: read_content(path)):
        with pytest.raises(DataError, match=r"longer than .* bytes"):
            read()


def test_an_empty_file_is_refused(tokenizer, tmp_path):
    (tmp_path / "d.jsonl").write_text("\n \n")
    with pytest.raises(DataError, match="no memories"):
        read_memories(tmp_path / "d.jsonl", tokenizer)
