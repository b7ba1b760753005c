"""Memories from a file of JSON lines."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..base.tokenizer import Tokenizer
from ..errors import DataError, first_line
from ..files import TEXT_LIMIT, read_text
from .memory import Memory

FILE_LIMIT = 10 * TEXT_LIMIT  # in bytes; a line may have TEXT_LIMIT
TEXT_PAIRS = (("prompt", "completion"), ("query", "target"), ("question", "matching"))
ID_PAIR = ("prompt_ids", "target_ids")
TURN = ["user", "assistant"]
LINES = "a data file has one JSON object a line"


def read_memories(path: Path, tokenizer: Tokenizer, *, chat: bool = True) -> list[Memory]:
    """One memory a line: a pair of texts (see TEXT_PAIRS), a chat of one turn, or a pair of ids.

    A chat is {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]},
    or has the first of these messages in a list "prompt" and the second in a list "completion".
    Raises DataError that names file, line and reason, and CheckpointError for the chat template.
    """
    chat, rows = chat and tokenizer.chat_template is not None, {}
    for number, line in enumerate(read_text(path, FILE_LIMIT).split("\n"), start=1):
        if line.strip():
            with errors_name(path, number):
                rows[number] = parse_row(line, tokenizer)
    if not rows:
        raise DataError(f"{path}: no memories; {LINES}")
    prompts = [row[0] for row in rows.values() if isinstance(row, tuple)]
    texts = iter(tokenizer.render_chats(prompts) if chat and prompts else prompts)  # all at once
    memories = []
    for number, row in rows.items():
        with errors_name(path, number):
            if isinstance(row, tuple):
                row = Memory(tokenizer.encode(next(texts), special=not chat), row[1])
            memories.append(row)
    return memories


@contextmanager
def errors_name(path: Path, line: int) -> Iterator[None]:
    """Whatever is wrong with a line becomes a DataError that names it."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: {first_line(error)}") from error


def parse_row(line: str, tokenizer: Tokenizer) -> Memory | tuple[str, list[int]]:
    """The memory of one line, or the text of its prompt and the ids of its target."""
    if len(line) > TEXT_LIMIT:
        raise DataError(f"longer than {TEXT_LIMIT:,} characters; {LINES}")
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{error.msg} at character {error.pos + 1}; {LINES}") from None
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object; {LINES}")
    if set(ID_PAIR) <= set(row):
        memory = Memory(row["prompt_ids"], row["target_ids"], row.get("ratio"), row.get("entropy"))
        largest, last = max(*memory.prompt_ids, *memory.target_ids), tokenizer.largest_id
        if largest > last:
            raise DataError(f"token id {largest} is beyond the tokenizer's last id, {last}")
        return memory
    prompt, target = text_pair(row)
    if not prompt.strip() or not target.strip():
        part = "text" if prompt.strip() else "prompt"
        raise DataError(f"the {part} is empty; a memory has a key and at least one token")
    return prompt, tokenizer.encode(target, special=False)


def text_pair(row: dict[str, Any]) -> tuple[str, str]:
    """The texts of prompt and target. Raises DataError."""
    for key, value in TEXT_PAIRS:
        if key in row and value in row:
            pair = row[key], row[value]
            if key == "prompt" and all(isinstance(part, list) for part in pair):
                return one_turn(row, [part[0] if len(part) == 1 else part for part in pair])
            if not all(isinstance(part, str) for part in pair):
                raise DataError(f"{key!r} and {value!r} must be text")
            return pair
    if isinstance(row.get("messages"), list):
        return one_turn(row, row["messages"])
    pairs = ", ".join(f"{key}/{value}" for key, value in (*TEXT_PAIRS, ID_PAIR))
    found = f"{', '.join(map(repr, row)) or 'nothing':.200}"
    raise DataError(f"expected one of the pairs {pairs}, or messages; found {found}")


def one_turn(row: dict[str, Any], messages: list[Any]) -> tuple[str, str]:
    """The contents of a user's message and the answer to it. Raises DataError for another chat."""
    known = all(isinstance(message, dict) for message in messages)
    roles = [message.get("role") for message in messages] if known else "something else"
    if roles != TURN or row.get("tools"):
        problem = "expected one user message, one assistant message and no tools"
        raise DataError(f"{problem}; found {roles!s:.80}")
    fields = [{k: v for k, v in message.items() if v is not None} for message in messages]
    if any(set(f) != {"role", "content"} or not isinstance(f["content"], str) for f in fields):
        raise DataError("a message must have a 'role' and a 'content', a text, and nothing else")
    return fields[0]["content"], fields[1]["content"]
