"""Converts text to token ids and back, and puts a prompt into the model's own chat format.

Both come with the checkpoint; vocabulary.py and template.py read them.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenizers import Tokenizer as Core

from ..errors import CheckpointError, DataError, first_line
from ..shown import Shown
from .folder import GENERATION, present, read_json
from .template import find_template, render_chats
from .vocabulary import read_tokenizer

SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(Shown):
    """A checkpoint's tokenizer.

    chat_template: a jinja2 template, or None. names: bos_token, eos_token, … for the template.
    where: the file of the template, for messages. size: rows of the model's embedding, by default
    one for each id.
    largest_id: the largest token id that has a row. plain_ids: the ids of all tokens that have one
    but the special ones, sorted; random memories are drawn from them. end_ids: of tokens that end
    a text.
    """

    def __init__(
        self,
        core: Core,
        chat_template: str | None = None,
        names: dict[str, str] | None = None,
        where: str = "",
        size: int | None = None,
        end_ids: Collection[int] = (),
    ):
        self.core, self.chat_template, self.where = core, chat_template, where
        self.names, self.end_ids = names or {}, frozenset(end_ids)
        ids = set(core.get_vocab(with_added_tokens=True).values())
        self.size: int = max(ids, default=-1) + 1 if size is None else size
        ids = {i for i in ids if i < self.size}
        special = {i for i, token in core.get_added_tokens_decoder().items() if token.special}
        self.largest_id: int = max(ids, default=-1)
        self.plain_ids: list[int] = sorted(ids - special)

    @classmethod
    def from_folder(
        cls, folder: Path, family: str = "", size: int | None = None, trusted: bool = False
    ) -> "Tokenizer":
        """Read the tokenizer and, where there are any, the chat template and special tokens.

        family: model_type of config.json; size: its vocabulary; trusted: it came with tinymem.
        Raises CheckpointError if there is no tokenizer, if a file is damaged, if the tokenizer
        cannot be used, and if it is another model's. Tokens that were added to the vocabulary may
        lie beyond the embedding, such as a padding token; they are refused where they are used.
        """
        core, settings = read_tokenizer(folder, family, trusted)
        if present(folder, "chat_template.json"):
            settings = settings | read_json(folder, "chat_template.json")
        texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in settings.items()}
        names = {k: v for k, v in texts.items() if k.endswith("_token") and isinstance(v, str)}
        template, where = find_template(folder, settings)
        ends = find_end_ids(folder, core, names.get("eos_token", ""))
        found = cls(core, template, names, where, size, ends)
        own = set(core.get_vocab(with_added_tokens=False).values())
        largest = max(own - set(core.get_added_tokens_decoder()), default=-1)
        if largest >= found.size:
            ids = f"ids up to {largest} for a vocabulary of {size}"
            raise CheckpointError(f"{folder}: the tokenizer of another model ({ids})")
        if len(found.plain_ids) < 2:
            problem = "its tokenizer has fewer than two tokens that are not special"
            raise CheckpointError(f"{folder}: {problem}; download it again")
        return found

    def __deepcopy__(self, memo: object) -> "Tokenizer":
        return self  # it never changes, and the copy of a model need not copy it

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds the tokens that the model expects around a text (<s>).

        Raises DataError for text that is not Unicode or has a token without an embedding, and
        CheckpointError if the tokenizer fails.
        """
        if half := SURROGATE.search(text):
            problem = f"U+{ord(half[0]):04X}, a lone surrogate, which is half of a character"
            where = f"character {half.start() + 1} of the text"
            raise DataError(f"{where} is {problem}; it is not Unicode, save it as UTF-8")
        with failures("encode this text"):
            ids: list[int] = self.core.encode(text, add_special_tokens=special).ids
        largest = max(ids, default=-1)
        if largest >= self.size:
            token = f"{self.core.id_to_token(largest)!r}, id {largest}"
            raise DataError(f"the model has no embedding for a token of the text ({token})")
        return ids

    def decode(self, ids: list[int]) -> str:
        with failures("decode these ids"):
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


def find_end_ids(folder: Path, core: Core, eos_token: str) -> set[int]:
    """Ids that end a text by the tokenizer, by config.json or by generation_config.json.

    A damaged generation_config.json counts as absent, as in transformers; nothing else is in it
    that tinymem needs.
    """
    found = [core.token_to_id(eos_token)]
    for name in ("config.json", GENERATION):
        with suppress(CheckpointError):
            ids = read_json(folder, name).get("eos_token_id")
            found += ids if isinstance(ids, list) else [ids]
    return {i for i in found if type(i) is int}


@contextmanager
def failures(what: str) -> Iterator[None]:
    """An error of the tokenizers library, or a panic of its code, becomes a CheckpointError."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            problem = f"the tokenizer cannot {what} ({first_line(error)})"
            raise CheckpointError(f"{problem}; is it complete?") from error
        raise
