"""Converts text to token ids and back, and puts a prompt into the model's own chat format.

Both come with the checkpoint: tokenizer.json, and a chat template in one of several files.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Core

from ..errors import CheckpointError, DataError, first_line
from .folder import checked, present, read_json, read_text

CHAT = {"add_generation_prompt": True, "tools": None, "documents": None}  # for a chat template


class Tokenizer:
    """A checkpoint's tokenizer.

    chat_template: a jinja2 template, or None. names: bos_token, eos_token, … for the template.
    largest_id: the largest token id. plain_ids: the ids of all tokens but the special ones, sorted;
    random memories are drawn from them.
    """

    def __init__(
        self, core: Core, chat_template: str | None = None, names: dict[str, str] | None = None
    ):
        self.core, self.chat_template, self.names = core, chat_template, names or {}
        vocabulary = core.get_vocab(with_added_tokens=True).values()
        special = {i for i, token in core.get_added_tokens_decoder().items() if token.special}
        self.largest_id: int = max(vocabulary, default=-1)
        self.plain_ids: list[int] = sorted(set(vocabulary) - special)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Read tokenizer.json and, where there are any, the chat template and special tokens.

        Raises CheckpointError if tokenizer.json is absent, or a file is damaged.
        """
        if not present(folder, "tokenizer.json"):
            advice = "make one with transformers: AutoTokenizer.from_pretrained, save_pretrained"
            raise CheckpointError(f"{folder}: no tokenizer.json; {advice}")
        path = checked(folder, "tokenizer.json")
        try:
            core = Core.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            problem = f"not a tokenizer ({first_line(error)}); download it again"
            raise CheckpointError(f"{path}: {problem}") from error
        core.no_padding()
        core.no_truncation()
        settings: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json", "chat_template.json"):
            if present(folder, name):
                settings |= read_json(folder, name)
        texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in settings.items()}
        names = {k: v for k, v in texts.items() if k.endswith("_token") and isinstance(v, str)}
        return cls(core, find_chat_template(folder, settings), names)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds the tokens that the model expects around a text (<s>)."""
        try:
            return self.core.encode(text, add_special_tokens=special).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise DataError("the text is not valid Unicode; save it as UTF-8") from error

    def decode(self, ids: list[int]) -> str:
        return self.core.decode(list(map(int, ids)), skip_special_tokens=False)

    def prompt_ids(self, prompt: str, chat: bool = True) -> list[int]:
        """Ids of a prompt: through the chat template where there is one, else as plain text.

        Raises DataError for an empty prompt. Position 0 is an attention sink in many models, and a
        unit cannot steer what follows it.
        """
        if not prompt.strip():
            raise DataError("the prompt is empty; a memory needs a key, give it at least one word")
        if chat and self.chat_template:
            return self.encode(self.render_chat(prompt), special=False)
        return self.encode(prompt)

    def render_chat(self, message: str) -> str:
        """The chat template around one user message, up to where the model's answer begins.

        Raises CheckpointError if the template cannot be rendered.
        """
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment as Sandbox

        def fail(reason: str) -> None:
            raise TemplateError(reason)

        # The template comes with a download, so it runs in jinja2's sandbox, as in transformers.
        env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        env.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
        # A fixed date, because the key of a memory must stay the same.
        env.globals |= {"raise_exception": fail, "strftime_now": lambda form: "1 January 2026"}
        chat = [{"role": "user", "content": message}]
        try:
            template = env.from_string(self.chat_template or "")
            return template.render(messages=chat, **CHAT, **self.names)
        except Exception as error:  # a template is a program, and can fail in any way
            problem = f"the chat template fails: {first_line(error)}; use --no-chat"
            raise CheckpointError(problem) from error


def find_chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """The template in chat_template.jinja, or else in the settings; the default one of several."""
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
        template = named[0].get("template") if named else None
    if present(folder, "chat_template.jinja"):
        template = read_text(folder, "chat_template.jinja")
    if not isinstance(template, str | None):
        raise CheckpointError(f"{folder}: chat_template is {template!r}, expected a text")
    return template
