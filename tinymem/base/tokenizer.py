"""Converts text to token ids and back, and puts a prompt into the model's own chat format.

Both come with the checkpoint: tokenizer.json, and a chat template in one of several files.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Core

from ..errors import CheckpointError, DataError, first_line
from .folder import checked, present, read_json
from .template import find_template, render_chats

SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """A checkpoint's tokenizer.

    chat_template: a jinja2 template, or None. names: bos_token, eos_token, … for the template.
    where: the file of the template, for messages.
    largest_id: the largest token id. plain_ids: the ids of all tokens but the special ones, sorted;
    random memories are drawn from them.
    """

    def __init__(
        self,
        core: Core,
        chat_template: str | None = None,
        names: dict[str, str] | None = None,
        where: str = "",
    ):
        self.core, self.chat_template, self.where = core, chat_template, where
        self.names = names or {}
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
        template, where = find_template(folder, settings)
        return cls(core, template, names, where)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds the tokens that the model expects around a text (<s>)."""
        if half := SURROGATE.search(text):
            problem = f"U+{ord(half[0]):04X}, a lone surrogate, which is half of a character"
            where = f"character {half.start() + 1} of the text"
            raise DataError(f"{where} is {problem}; it is not Unicode, save it as UTF-8")
        return self.core.encode(text, add_special_tokens=special).ids

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
            return self.encode(self.render_chats([prompt])[0], special=False)
        return self.encode(prompt)

    def render_chats(self, messages: Sequence[str]) -> list[str]:
        """The chat template around each message; faster than one by one.

        Raises CheckpointError if the template cannot be rendered.
        """
        return render_chats(self.chat_template or "", self.names, self.where, messages)
