"""Puts a prompt into the model's own chat format.

The chat template comes with the checkpoint. It is a program in jinja2's language, so it runs in
jinja2's sandbox, as in transformers, and in a child process with limits (limited.py). What it may
use beside jinja2's own is what transformers offers: `raise_exception`, `strftime_now`, `tojson`
without HTML, `break` and `continue`, `generation` blocks.
"""

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .folder import present, read_text
from .limited import LimitError, call_limited

CHAT = {"add_generation_prompt": True, "tools": None, "documents": None}
SECONDS, MEGABYTES = 5.0, 512  # usual are 0.001 s a prompt, and 20 MB
LONGEST = 1_000_000  # characters that a template may add to a prompt
TODAY = datetime(2026, 1, 1)  # fixed, because the key of a memory must stay the same


def find_template(folder: Path, settings: dict[str, Any]) -> tuple[str | None, str]:
    """The chat template, None if there is none, and the file that it is in.

    It is in chat_template.jinja, or else in the settings; the default one of several.
    """
    template, path = settings.get("chat_template"), folder / "chat_template.jinja"
    if isinstance(template, list):
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    if present(folder, path.name):
        return read_text(folder, path.name), str(path)
    if not isinstance(template, str | None):
        raise CheckpointError(f"{folder}: chat_template is {template!r:.80}, expected a text")
    own = "chat_template.json" if present(folder, "chat_template.json") else "tokenizer_config.json"
    return template, str(folder / own)


def render_chats(
    template: str, names: dict[str, str], where: str, messages: Sequence[str]
) -> list[str]:
    """Each message of a user in the chat format, up to where the model's answer begins.

    names: bos_token, eos_token, … for the template. where: the template's file.
    All messages are rendered in one child process, whose start takes about 0.06 s.
    Raises CheckpointError if the template cannot be rendered within the limits.
    """
    try:
        return in_child(template, tuple(names.items()), tuple(messages))
    except LimitError as error:
        problem = f"the chat template fails: {error}; use --no-chat"
        raise CheckpointError(f"{where}: {problem}") from error


@lru_cache(maxsize=8)  # the runs of a sweep have one prompt
def in_child(
    template: str, names: tuple[tuple[str, str], ...], messages: tuple[str, ...]
) -> list[str]:
    limits: Any = {"seconds": SECONDS + len(messages) / 100, "megabytes": MEGABYTES}
    return call_limited(render, template, dict(names), messages, **limits)


def render(template: str, names: dict[str, str], messages: list[str]) -> list[str]:
    """Renders in this process, without limits on time and memory."""
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

    def fail(reason: str) -> None:
        raise TemplateError(reason)

    env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, generation()])
    env.filters["tojson"] = to_json
    env.globals |= {"raise_exception": fail, "strftime_now": format_today}
    program, texts = env.from_string(template), []
    for message in messages:
        chat = [{"role": "user", "content": message}]
        texts.append(program.render(messages=chat, **CHAT, **names))
        if len(texts[-1]) > LONGEST + len(message):
            raise TemplateError(f"it adds more than {LONGEST:,} characters to a prompt")
    return texts


def generation() -> type:
    """The block that marks what a model writes, for training; it is rendered as its content."""
    from jinja2.ext import Extension
    from jinja2.nodes import Node, Scope
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return Scope(body, lineno=line)

    return Generation


def to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    style: Any = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **style)


def format_today(form: str) -> str:
    """TODAY by the directives of strftime; `%-d`, without the zero, on Windows too."""

    def one(match: re.Match[str]) -> str:
        if match[2] == "s":  # seconds since 1970, which strftime counts in the machine's time zone
            return "1767225600"
        text = TODAY.strftime(f"%{match[2]}")
        return (text.lstrip("0") or "0") if match[1] else text

    return re.sub(r"%(-?)(.)", one, form, flags=re.DOTALL)
