"""Text to ids, and prompts through the checkpoint's chat template.

Oracle: transformers, for the ids of varied texts and of prompts in chat format. Hand example: the
ids of "the thing".
"""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.checkpoints import SPECIAL, TOKENS, WORDS, tokenizer
from tinymem.base.tokenizer import Tokenizer
from tinymem.errors import CheckpointError, DataError

TEXTS = {
    "plain": "The thing and the other thing.",
    "empty": "",
    "spaces": "  two  spaces,   three\ttab \n newline\r\n end  ",
    "only spaces": "    ",
    "accents": "naïve café, Ångström, Łódź",
    "combining": "e\u0301 is not é",
    "scripts": "日本語 العربية हिन्दी Ελληνικά",
    "emoji": "👍🏽 👨\u200d👩\u200d👧 🇨🇭",
    "control": "nul\0 bell\a escape\x1b del\x7f bom\ufeff",
    "separators": "line\u2028paragraph\u2029nbsp\u00a0.",
    "astral": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 \U0010ffff",
    "special inside": "say <|user|> and </s> and <|end|><|end|>, not <|other|>",
    "long": "the thing and " * 200,
}
CHATML = """{% for message in messages %}
{{ '<|user|>' + message['role'] + '\\n' + message['content'] + '<|end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|user|>assistant\\n' }}{% endif %}"""
MESSAGES = ("Where is the thing?", '  <b>"quoted" & ünïcödé</b> 👍\n{{ bos_token }}  ')


@pytest.fixture
def folder(tmp_path) -> Path:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def with_template(folder: Path, template, file: str = "tokenizer_config.json") -> Tokenizer:
    path = folder / file
    if file.endswith(".jinja"):
        path.write_text(template, encoding="utf-8")
    else:
        settings = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(settings | {"chat_template": template}))
    return Tokenizer.from_folder(folder)


@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no bos"])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_ids_equal_transformers(text, bos, folder):
    tokenizer(bos).save(str(folder / "tokenizer.json"))
    ours = Tokenizer.from_folder(folder)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>")
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.encode(text, special=False) == theirs(text, add_special_tokens=False)["input_ids"]
    assert ours.encode(text) == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    ids = ours.encode(text, special=False)
    assert ours.decode(ids) == text == theirs.decode(ids)  # byte-level: nothing is lost
    assert (ours.encode(text)[:1] == [ours.core.token_to_id("<s>")]) == bos


def test_ids_by_hand(folder):
    tokens = Tokenizer.from_folder(folder)
    # Merges are made in the order of their ranks: "th", "the", …; "in" comes before "Ġthe".
    words = ["<s>", "the", "Ġ", "th", "ing"]
    assert [tokens.core.id_to_token(i) for i in tokens.encode("the thing")] == words
    assert tokens.decode(tokens.encode("the thing")) == "<s>the thing"
    assert tokens.decode([]) == ""


def test_padding_and_truncation_of_the_file_are_off(folder):
    # Files saved after training often have both on; a memory would be cut or padded unnoticed.
    core = tokenizer()
    core.enable_truncation(4)
    core.enable_padding(length=64)
    core.save(str(folder / "tokenizer.json"))
    assert (
        Tokenizer.from_folder(folder).encode(TEXTS["long"]) == tokenizer().encode(TEXTS["long"]).ids
    )


def test_plain_ids_are_all_but_the_special_ones(folder):
    core = tokenizer()
    core.add_tokens(["added, not special"])
    core.save(str(folder / "tokenizer.json"))
    tokens = Tokenizer.from_folder(folder)
    special = {core.token_to_id(text) for text in SPECIAL}
    assert tokens.largest_id == TOKENS
    assert set(tokens.plain_ids) == set(range(TOKENS + 1)) - special
    assert tokens.plain_ids == sorted(tokens.plain_ids)
    assert len(tokens.plain_ids) == len(WORDS) + 1


@pytest.mark.parametrize("message", MESSAGES, ids=["plain", "odd"])
def test_prompts_in_chat_format_equal_transformers(message, folder):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": CHATML}]
    ours, theirs = with_template(folder, named), AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": message}]
    ids = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ours.prompt_ids(message) == ids
    assert ours.prompt_ids(message, chat=False) == theirs(message)["input_ids"]


def test_a_failing_template_can_be_left_out(folder):
    for file in ("tokenizer_config.json", "chat_template.jinja"):
        tokens = with_template(folder, "{{ raise_exception('never') }}", file)
        with pytest.raises(CheckpointError, match=f"{file}: the chat template fails: never; use"):
            tokens.prompt_ids("the")
        assert tokens.prompt_ids("the", chat=False) == tokens.encode("the")


def test_special_tokens_of_a_template_are_not_doubled(folder):
    tokens = with_template(folder, "{{ bos_token }}{{ messages[0].content }}")
    assert tokens.prompt_ids("the") == tokens.encode("the")  # one <s>, the template's own


def test_where_a_template_may_stand(folder):
    assert Tokenizer.from_folder(folder).chat_template is None
    assert with_template(folder, "A").chat_template == "A"
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    assert with_template(folder, named).chat_template == "D"
    assert with_template(folder, "P", "chat_template.json").chat_template == "P"
    assert with_template(folder, "Jü", "chat_template.jinja").chat_template == "Jü"
    assert (
        with_template(folder, named).chat_template == "Jü"
    )  # its own file wins, as in transformers


def test_special_tokens_with_settings(folder):
    # Older files store a token as an object, and may keep it in special_tokens_map.json.
    (folder / "tokenizer_config.json").write_text("{}")
    tokens = {
        "bos_token": {"content": "<s>", "lstrip": False},
        "eos_token": "</s>",
        "pad_token": None,
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    ours = with_template(folder, "{{ bos_token }}{{ eos_token }}{{ pad_token }}")
    assert ours.render_chats(["x"]) == ["<s></s>"]


@pytest.mark.parametrize("prompt", ["", " ", "\n\t ", "\u3000"], ids=repr)
@pytest.mark.parametrize("chat", [True, False])
def test_an_empty_prompt_is_refused(prompt, chat, folder):
    with pytest.raises(DataError, match="prompt is empty"):
        with_template(folder, CHATML).prompt_ids(prompt, chat)


@pytest.mark.parametrize("text", ["\ud800", "half an emoji \ud83d.", "\udcff"], ids=ascii)
def test_a_lone_surrogate_is_refused(text, folder):
    # What Python makes of undecodable bytes in arguments, and what "\ud800" in JSON becomes.
    tokens = with_template(folder, CHATML)
    for encode in (
        tokens.encode,
        tokens.prompt_ids,
        lambda text: tokens.prompt_ids(text, chat=False),
    ):
        with pytest.raises(DataError, match="Unicode"):
            encode(text)


@pytest.mark.parametrize(
    "name", ["special_tokens_map.json", "tokenizer_config.json", "chat_template.json"]
)
@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "\xff", "[" * 100_000])
def test_damaged_settings(name, text, folder):
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name) as caught:
        Tokenizer.from_folder(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template", [7, {"default": "x"}, [{"name": "default", "template": 7}]], ids=repr
)
def test_a_template_that_is_no_text(template, folder):
    with pytest.raises(CheckpointError, match="chat_template"):
        with_template(folder, template)
