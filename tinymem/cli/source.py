"""Where memories come from: random tokens, a natural text, or a file of memories."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import DataError
from ..files import decode_text, read_text
from .options import DEFAULT_PROMPT, SourceOptions

if TYPE_CHECKING:
    from ..base.tokenizer import Tokenizer
    from ..data.memory import Memory


class Memories(NamedTuple):
    """What a source gives for one tokenizer."""

    make: Callable[[int | None, int | None, int], list["Memory"]]  # from (length, ratio, seed)
    held_out: list["Memory"]  # judged, but not trained on


@dataclass(frozen=True)
class Source:
    """Checked options of a source, with its text in memory; `open_source` makes one."""

    options: SourceOptions
    content: str | None  # of --text

    def read(self, tokenizer: "Tokenizer", context: int) -> Memories:
        """The memories as token ids, for a model with this context. Raises DataError.

        `make` is asked for a length, or for None: 128 random tokens, or all of the text or file.
        """
        from ..data.memory import first_tokens, random_memory, text_memory
        from ..data.read import read_memories

        data, held_out, chat = self.options.data, self.options.held_out, self.options.chat
        prompt = DEFAULT_PROMPT if self.options.prompt is None else self.options.prompt
        others = [] if held_out is None else read_memories(held_out, tokenizer, chat=chat)
        whole = [] if data is None else read_memories(data, tokenizer, chat=chat)

        def make(length: int | None, ratio: int | None, seed: int) -> list["Memory"]:
            if data is not None:
                return whole if length is None else first_tokens(whole, length)
            if length is not None and length >= context:  # before so many are drawn
                raise DataError(
                    f"--length {length} and a prompt exceed the model's context of {context}"
                )
            shape: Any = {"length": length, "seed": seed, "prompt": prompt, "chat": chat}
            if self.content is not None:
                return [text_memory(tokenizer, self.content, ratio=ratio or 0, **shape)]
            return [random_memory(tokenizer, **shape | {"length": length or 128})]

        return Memories(make, others)

    def about(self) -> dict[str, object]:
        """What distinguishes these memories from others; it goes into the rows of a sweep."""
        options = self.options
        files = {"data": options.data, "held_out": options.held_out}
        return {
            "prompt": options.prompt,
            "chat": options.chat,
            "text": None if self.content is None else short_hash(self.content.encode()),
            **{name: path and short_hash(path.read_bytes()) for name, path in files.items()},
        }


def open_source(
    options: SourceOptions, lengths: Sequence[int | None], ratios: Sequence[int | None]
) -> Source:
    """Checks the options against each other and reads the text; needs no model.

    lengths, ratios: all that will be asked for; None where the default is.
    Raises DataError for options that exclude each other, and for a text that cannot be read.
    """
    given = [ratio for ratio in ratios if ratio is not None]
    if options.data is not None:
        others = {"--text": options.text, "--ratio": given or None, "--prompt": options.prompt}
        for flag, value in others.items():
            if value is not None:
                raise DataError(
                    f"--data and {flag} exclude each other; the file holds whole memories"
                )
    for ratio in given:
        if not 0 <= ratio <= 100:
            raise DataError(f"--ratio is {ratio}; it is a percentage, 0 to 100")
        if options.text is None and ratio != 100:
            raise DataError(
                f"--ratio {ratio} needs a natural text to mix random tokens into; use --text"
            )
    for length in lengths:
        if length is not None and length < 1:
            raise DataError(f"--length is {length}; a memory has at least one token")
    return Source(options, None if options.text is None else read_content(options.text))


def read_content(path: Path) -> str:
    """The text of a UTF-8 file, or of stdin for the path "-". Raises DataError."""
    if str(path) != "-":
        return read_text(path)
    if sys.stdin is None:
        raise DataError("--text -: there is no stdin to read")
    return decode_text(sys.stdin.buffer.read(), "stdin")


def short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
