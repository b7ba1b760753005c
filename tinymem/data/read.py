"""Memories from a file of JSON lines."""

import json
from dataclasses import replace
from pathlib import Path

from ..base.tokenizer import Tokenizer
from ..errors import DataError, first_line
from ..files import read_text
from .memory import Memory, text_memory

TEXT_PAIRS = (("prompt", "completion"), ("query", "target"), ("question", "matching"))
ID_PAIR = ("prompt_ids", "target_ids")


def read_memories(path: Path, tokenizer: Tokenizer, *, chat: bool = True) -> list[Memory]:
    """One memory a line: a pair of texts (see TEXT_PAIRS) or {"prompt_ids", "target_ids"}.

    Raises DataError that names file, line and reason.
    """
    memories = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            memories.append(parse_memory(json.loads(line), tokenizer, chat))
        except (ValueError, RecursionError) as error:  # both JSONDecodeError and DataError
            raise DataError(f"{path}, line {number}: {first_line(error)}") from error
    if not memories:
        raise DataError(f"{path}: no memories; expected one JSON object a line")
    return memories


def parse_memory(row: object, tokenizer: Tokenizer, chat: bool) -> Memory:
    """The memory of one line. Raises DataError."""
    if not isinstance(row, dict):
        raise DataError("expected a JSON object")
    if set(ID_PAIR) <= set(row):
        memory = Memory(row["prompt_ids"], row["target_ids"], row.get("ratio"), row.get("entropy"))
        largest, last = max(*memory.prompt_ids, *memory.target_ids), tokenizer.largest_id
        if largest > last:
            raise DataError(f"token id {largest} is beyond the tokenizer's last id, {last}")
        return memory
    for key, value in TEXT_PAIRS:
        if key in row and value in row:
            if not isinstance(row[key], str) or not isinstance(row[value], str):
                raise DataError(f"{key!r} and {value!r} must be text")
            memory = text_memory(tokenizer, row[value], prompt=row[key], chat=chat)
            return replace(memory, ratio=None)  # the file does not say how much of it is random
    pairs = ", ".join(f"{key}/{value}" for key, value in (*TEXT_PAIRS, ID_PAIR))
    found = ", ".join(map(repr, row)) or "nothing"
    raise DataError(f"expected one of the pairs {pairs}; found {found}")
