"""Tokenizers as they are found in a folder: what belongs together, and what cannot be used.

Oracle: transformers on the same folder. By hand: the growth of replacements. Property: a damaged or
hostile tokenizer ends in a CheckpointError, within seconds and without a panic in this process.
"""

import json
import time
from pathlib import Path

import pytest
from tokenizers import AddedToken
from transformers import AutoConfig, AutoTokenizer

from tests.base.test_tokenizer import TEXTS
from tests.checkpoints import MERGES, OLD_ORACLE, TOKENS, VOCAB, WORDS, build, tokenizer
from tinymem.base import vocabulary
from tinymem.base.checkpoint import open_checkpoint
from tinymem.base.tokenizer import Tokenizer
from tinymem.base.vocabulary import growth, read_tokenizer
from tinymem.data.memory import random_memory
from tinymem.data.read import read_memories
from tinymem.errors import CheckpointError, DataError

WHOLE = json.loads(tokenizer(bos=False).to_str())
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}


def token(content: str, **flags) -> dict:
    names = ("lstrip", "rstrip", "normalized", "single_word")
    return {"content": content, **dict.fromkeys(names, False), "special": True, **flags}


def write(folder: Path, kind: str = "llama", **files) -> Path:
    AutoConfig.for_model(kind).save_pretrained(folder)
    for name, value in files.items():
        name = name.replace("__", ".")
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return folder


# --- Tokens that only other files add ------------------------------------------------------------

NEW = {"268": token("[NEW]"), "269": token("<plain>", special=False, normalized=True)}
CONFIGS = {
    "nothing": {},
    "new": {"added_tokens_decoder": NEW},
    "changed": {"added_tokens_decoder": {"266": token("<|user|>", lstrip=True, rstrip=True)}},
    "named": {"pad_token": "[PAD]", "unk_token": "<unk>", "mask_token": "[MASK]"},
    "object": {"pad_token": {"__type": "AddedToken", **token("[PAD]", lstrip=True)}},
    "in the vocabulary": {"pad_token": "the"},
    "additional": {"additional_special_tokens": ["[A]", "[B]", "<s>"]},
    "extra": {"extra_special_tokens": {"image_token": "[A]"}},
    "of the model": {"image_token": "[A]"},
    "all": {
        "pad_token": "[PAD]",
        "additional_special_tokens": ["[A]"],
        "added_tokens_decoder": NEW,
    },
    "bos": {"add_bos_token": True, "bos_token": "<s>"},  # without effect beside a tokenizer.json
    "split": {"split_special_tokens": True},
}
FILES = {
    "added_tokens.json": {"added_tokens__json": {"[A]": 268, "<plain>": 269}},
    "named too": {
        "added_tokens__json": {"[A]": 268},
        "tokenizer_config__json": FAST | {"pad_token": "[A]"},
    },
    "special_tokens_map": {
        "special_tokens_map__json": {"pad_token": token("[PAD]"), "eos_token": "</s>"}
    },
}
ADDED = ("[NEW]", "<plain>", "[PAD]", "<unk>", "[MASK]", "the", "[A]", "[B]", "<|endoftext|>")


def same_as_transformers(folder: Path, kind: str) -> None:
    core, _ = vocabulary.build(folder, kind)
    ours, theirs = Tokenizer(core), AutoTokenizer.from_pretrained(folder)
    for text in (*TEXTS.values(), *(f"say {word} to the {word}thing" for word in ADDED)):
        for special in (True, False):
            expected = theirs(text, add_special_tokens=special)["input_ids"]
            assert ours.encode(text, special) == expected, text
    assert not set(theirs.all_special_ids) & set(ours.plain_ids)


@pytest.mark.parametrize(
    "files",
    [*({"tokenizer_config__json": FAST | c} for c in CONFIGS.values()), *FILES.values()],
    ids=[*CONFIGS, *FILES],
)
def test_added_tokens_equal_transformers(files, tmp_path):
    settings = files.get("tokenizer_config__json", {})
    if OLD_ORACLE and {"image_token", "extra_special_tokens"} & set(settings):
        pytest.skip("transformers 4 adds no tokens of these fields")
    files = {"tokenizer_config__json": FAST, "tokenizer__json": tokenizer().to_str(), **files}
    same_as_transformers(write(tmp_path, **files), "llama")


def test_a_token_with_two_ids_is_refused(tmp_path):
    settings = {"added_tokens_decoder": {"300": token("[NEW]")}}
    write(tmp_path, tokenizer__json=WHOLE, tokenizer_config__json=settings)
    with pytest.raises(CheckpointError, match=r"'\[NEW\]' has the id 300 in its settings, 268"):
        Tokenizer.from_folder(tmp_path)


def test_unknown_fields_of_a_token_are_not_printed(tmp_path, capfd):
    settings = {"added_tokens_decoder": {"268": token("[NEW]", strange="\x1b]0;title\x07")}}
    write(tmp_path, tokenizer__json=WHOLE, tokenizer_config__json=settings)
    assert Tokenizer.from_folder(tmp_path).encode("[NEW]") == [268]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("value", [7, [], {"x": token("a")}, {"268": 7}, {"268": {"content": 5}}])
def test_damaged_settings(value, tmp_path):
    settings = {"added_tokens_decoder": value, "extra_special_tokens": 5}
    write(tmp_path, tokenizer__json=WHOLE, tokenizer_config__json=settings)
    with pytest.raises(CheckpointError):
        Tokenizer.from_folder(tmp_path)


# --- vocab.json and merges.txt -------------------------------------------------------------------

MERGED = {
    "vocab__json": {word: i for i, word in enumerate(WORDS)},
    "merges__txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES),
}
END = {"264": token("<|endoftext|>"), "265": token("<|im_start|>")}
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True, "add_eos_token": True}
BESIDE = [{}, {"add_bos_token": True}, ENDS, {"add_prefix_space": True}]
BESIDE += [{"added_tokens_decoder": END}, {"pad_token": "[PAD]"}]


@pytest.mark.parametrize("settings", BESIDE, ids=repr)
@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "qwen3"])
def test_vocabulary_and_merges_equal_transformers(kind, settings, tmp_path):
    if OLD_ORACLE and (kind == "qwen3" or settings in BESIDE[2:4]):
        pytest.skip("transformers 4 has no qwen3, and reads these settings for some models only")
    named = "GPT2Tokenizer" if kind == "gpt2" else "Qwen2TokenizerFast"
    settings = settings | ({"tokenizer_class": named} if settings else {})
    same_as_transformers(write(tmp_path, kind, **MERGED, tokenizer_config__json=settings), kind)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("llama", {}), ("gpt_neox", {}), ("gpt2", {"tokenizer_class": "LlamaTokenizer"}), ("", {})],
)
def test_other_vocabularies_are_refused(kind, settings, tmp_path):
    write(tmp_path, **MERGED, tokenizer_config__json=settings)
    with pytest.raises(CheckpointError, match=r"no tokenizer.json; make one with transformers"):
        Tokenizer.from_folder(tmp_path, kind)


def test_a_vocabulary_without_merges(tmp_path):
    write(tmp_path, "gpt2", vocab__json=MERGED["vocab__json"])
    with pytest.raises(CheckpointError, match=r"no merges.txt"):
        Tokenizer.from_folder(tmp_path, "gpt2")


# --- Tokens without an embedding -----------------------------------------------------------------


@pytest.fixture
def padded(tmp_path):
    """A model with VOCAB rows, and a tokenizer with tokens that were added beyond them."""
    build(tmp_path, "llama")
    core = tokenizer()
    core.add_tokens([f"more{i}" for i in range(VOCAB - TOKENS)])
    core.add_special_tokens([AddedToken("[PAD]", special=True)])
    core.add_tokens(["beyond"])
    core.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_padding_token_beyond_the_embedding(padded):
    tokens = open_checkpoint(padded).tokenizer
    assert tokens.core.token_to_id("[PAD]") == VOCAB
    assert tokens.largest_id == max(tokens.plain_ids) == VOCAB - 1
    assert max(random_memory(tokens, 5000).target_ids) < VOCAB
    assert max(tokens.encode("the more3 thing")) == VOCAB - 1
    for text, name in (("the [PAD]", r"'\[PAD\]', id 272"), ("beyond", "'beyond', id 273")):
        with pytest.raises(DataError, match=f"no embedding for a token of the text .{name}"):
            tokens.encode(text)
    rows = padded / "rows.jsonl"
    for row in ({"prompt_ids": [1], "target_ids": [VOCAB]}, {"prompt": "[PAD]", "completion": "a"}):
        rows.write_text(json.dumps(row))
        with pytest.raises(DataError, match=r"line 1: (token id 272 is beyond|.*no embedding)"):
            read_memories(rows, tokens)


def test_the_tokenizer_of_another_model(padded):
    whole = json.loads((padded / "tokenizer.json").read_text())
    whole["model"]["vocab"]["another"] = VOCAB
    (padded / "tokenizer.json").write_text(json.dumps(whole | {"added_tokens": []}))
    with pytest.raises(CheckpointError, match=r"of another model .ids up to 272 for a vocabulary"):
        open_checkpoint(padded)


# --- What cannot be used -------------------------------------------------------------------------


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


def doubled(letter: str) -> dict:
    step = replace({"String": letter}, 2 * letter)
    return {"type": "Sequence", "normalizers": [step] * 40}


def split(expression: str) -> dict:
    rest = {"behavior": "Isolated", "invert": False}
    return {"type": "Split", "pattern": {"Regex": expression}, **rest}


def model(**fields) -> dict:
    return {"model": fields, "added_tokens": []}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": False}
HOSTILE = {
    "empty": model(type="BPE", vocab={}, merges=[]),
    "one token": model(type="BPE", vocab={"a": 0}, merges=[]),
    "negative id": model(type="BPE", vocab={"a": 0, "b": -1}, merges=[]),
    "no unknown token": model(type="WordLevel", vocab={"a": 0, "b": 1}, unk_token="nope"),
    "no unknown piece": model(type="Unigram", vocab=[["a", 0.0], ["b", 1.0]], unk_id=None),
    "grows": {"normalizer": doubled("e")},
    "grows for some": {"normalizer": doubled("é")},
    "grows at once": {"normalizer": replace({"String": "e"}, "e" * 1_000_000)},
    "grows as bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTES] * 40}},
    "grows back": {"decoder": {"type": "Sequence", "decoders": doubled("e")["normalizers"]}},
    "slow expression": {"pre_tokenizer": split("(a+)+$")},
    "slow normalizer": {"normalizer": replace({"Regex": "(x+x+)+y"}, "")},
    "no expression": {"pre_tokenizer": split("(")},
    "failing decoder": {"decoder": {"type": "Strip", "content": "a", "start": 9, "stop": 9}},
    "crash": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
    "unknown id": {
        "post_processor": {"type": "BertProcessing", "sep": ["x", 9999], "cls": ["y", 1]}
    },
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_tokenizers_that_cannot_be_used(change, tmp_path, capfd):
    (tmp_path / "tokenizer.json").write_text(json.dumps(WHOLE | change), "utf-8")
    start = time.monotonic()
    with pytest.raises((CheckpointError, DataError)) as caught:
        Tokenizer.from_folder(tmp_path, size=VOCAB).encode("Recite the memory word for word:")
    assert time.monotonic() - start < 10 and "\n" not in str(caught.value)
    assert "panicked" not in capfd.readouterr().err


@pytest.mark.parametrize("first", [True, False])
def test_what_is_written_twice_is_no_way_around(first, tmp_path):
    """Growth is read from the tokenizer itself: another parser might see another file."""
    twice = [f'"normalizer": {json.dumps(doubled("e"))}']
    twice.insert(first, '"normalizer": null')
    rest = json.dumps({k: v for k, v in WHOLE.items() if k != "normalizer"})[1:]
    (tmp_path / "tokenizer.json").write_text("{" + ", ".join([*twice, rest]))
    try:
        ids = Tokenizer.from_folder(tmp_path).encode("eee")
    except CheckpointError as error:
        assert "grow without end" in str(error)
    else:
        assert ids == tokenizer(bos=False).encode("eee").ids


def test_a_tokenizer_is_tried_once(tmp_path, monkeypatch):
    for name in ("one", "two"):
        write(tmp_path / name, tokenizer__json=WHOLE)
        read_tokenizer(tmp_path / name, "llama")
        monkeypatch.setattr(vocabulary, "call_limited", None)
    changed = WHOLE | {"normalizer": {"type": "NFC"}}
    write(tmp_path / "three", tokenizer__json=changed)
    with pytest.raises(TypeError):
        read_tokenizer(tmp_path / "three", "llama")


def test_words_are_not_split_at_random(tmp_path):
    changed = WHOLE | {"model": WHOLE["model"] | {"dropout": 0.5}}
    write(tmp_path, tokenizer__json=changed)
    tokens = Tokenizer.from_folder(tmp_path)
    expected = tokenizer(bos=False).encode(TEXTS["long"]).ids
    assert [tokens.encode(TEXTS["long"]) for _ in range(3)] == [expected] * 3


def test_growth_by_hand():
    assert growth(None) == growth({"type": "NFC"}) == growth({"type": "Split"}) == 1
    assert growth(replace({"String": " "}, "▁")) == growth(replace({"String": "ab"}, "c")) == 1
    assert growth(replace({"String": "ab"}, "cde")) == 1.5
    assert growth(replace({"Regex": "x*"}, "yy")) == 3  # an empty match before each character
    assert growth(replace({"Regex": "x*"}, "")) == growth(replace({"String": ""}, "")) == 1
    assert growth(doubled("e")) == 2**40
    nested = {"type": "Sequence", "normalizers": [doubled("a"), [replace({"String": "a"}, "bbb")]]}
    assert growth(nested) == 3 * 2**40
