"""Text <-> token ids: the checkpoint's own tokenizer.json and chat template."""

import json
from pathlib import Path

import tokenizers

from ..errors import CheckpointError, DataError, first_line


class Tokenizer:
    """`encode`, `decode`, and the prompt in the form that the base model expects."""

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        chat_template: str | None = None,
        names: dict | None = None,
    ):
        self.core, self.chat_template = core, chat_template
        self.names = names or {}  # bos_token, eos_token, … as the chat template asks for them
        vocabulary = core.get_vocab(with_added_tokens=True).values()
        special = {i for i, token in core.get_added_tokens_decoder().items() if token.special}
        self.largest_id = max(vocabulary, default=-1)
        self.plain_ids = sorted(set(vocabulary) - special)  # what random memories are drawn from

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Reads tokenizer.json and, where there are any, the chat template and special tokens.

        Raises CheckpointError if tokenizer.json is absent or damaged.
        """
        path = folder / "tokenizer.json"
        if not path.exists():
            raise CheckpointError(
                f"{folder}: no tokenizer.json; save one with transformers' AutoTokenizer (use_fast=True)"
            )
        try:
            core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f"{path}: not a tokenizer ({first_line(error)}); download it again"
            ) from error
        core.no_padding()
        core.no_truncation()
        settings: dict = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json", "chat_template.json"):
            if (folder / name).exists():
                try:
                    settings |= json.loads((folder / name).read_text(encoding="utf-8"))
                except (ValueError, TypeError, RecursionError) as error:
                    raise CheckpointError(
                        f"{folder / name}: not a JSON object ({first_line(error)})"
                    ) from error
        template = settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            named = [t for t in template if isinstance(t, dict) and t.get("name") == "default"]
            template = named[0].get("template") if named else None
        if (folder / "chat_template.jinja").exists():
            template = (folder / "chat_template.jinja").read_text(
                encoding="utf-8", errors="replace"
            )
        if not isinstance(template, str | None):
            raise CheckpointError(
                f"{folder}: the tokenizer's chat_template is {template!r}, expected a text"
            )
        names = {}
        for key, value in settings.items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                names[key] = value
        return cls(core, template, names)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the model expects around a text (Llama's <s>, say)."""
        try:
            return self.core.encode(text, add_special_tokens=special).ids
        except (UnicodeEncodeError, TypeError) as error:
            raise DataError("the text is not valid Unicode; save it as UTF-8") from error

    def decode(self, ids: list[int]) -> str:
        return self.core.decode(list(map(int, ids)), skip_special_tokens=False)

    def render_chat(self, message: str) -> str:
        """The chat template around one user message, up to where the model's answer begins.

        Raises CheckpointError if the template cannot be rendered.
        """
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def fail(reason: str):
            raise TemplateError(reason)

        # A template comes with a download, so it runs in jinja2's sandbox, as transformers does it.
        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        env.filters["tojson"] = lambda value, **how: json.dumps(
            value, **{"ensure_ascii": False, **how}
        )
        env.globals["raise_exception"] = fail
        env.globals["strftime_now"] = lambda form: (
            "1 January 2026"
        )  # a memory's key must not change
        try:
            return env.from_string(self.chat_template).render(
                messages=[{"role": "user", "content": message}],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.names,
            )
        except Exception as error:  # a template is a program, it can fail in any way
            raise CheckpointError(
                f"the chat template fails: {first_line(error)}; use --no-chat"
            ) from error

    def prompt_ids(self, prompt: str, chat: bool = True) -> list[int]:
        """Ids of a prompt: through the chat template where there is one, else as plain text.

        Raises DataError for an empty prompt: position 0 is an attention sink in many models, and a
        unit cannot steer what follows it.
        """
        if not prompt.strip():
            raise DataError("the prompt is empty; a memory needs a key, give it at least one word")
        if chat and self.chat_template:
            return self.encode(self.render_chat(prompt), special=False)
        return self.encode(prompt)
