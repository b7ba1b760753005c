"""Builds the tokenizer of a checkpoint's folder, with the same ids as transformers.

It is in tokenizer.json; that of GPT-2 and Qwen2 may instead be in vocab.json and merges.txt.
Further tokens stand in tokenizer_config.json, special_tokens_map.json or added_tokens.json.
"""

import hashlib
import json
import math
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from ..errors import CheckpointError, first_line
from .folder import (
    OLDER_TOKENIZER,
    TOKENIZER,
    TOKENIZER_SETTINGS,
    checked,
    present,
    read_json,
)
from .limited import LimitError, call_limited

VOCABULARY, MERGES = OLDER_TOKENIZER
CONFIG, SPECIAL, ADDED = TOKENIZER_SETTINGS[:3]
LIMITS: dict[str, Any] = {"seconds": 20.0, "megabytes": 2048}  # usual are 0.2 to 1 s, 300 MB
# The most by which the steps of a tokenizer may make a text longer, and what single steps may.
MOST_GROWTH, GROWTH = 100.0, {"ByteLevel": 2.0, "Precompiled": 8.0}
NAMED = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
END = "<|endoftext|>"
GPT2 = {"bos_token": END, "eos_token": END, "unk_token": END}
QWEN2 = {"eos_token": END, "unk_token": END, "pad_token": END}
# For vocab.json and merges.txt: model_type -> class in tokenizer_config.json, special tokens.
KNOWN = {"gpt2": ("GPT2", GPT2), "qwen2": ("Qwen2", QWEN2), "qwen3": ("Qwen2", QWEN2)}
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")  # others are printed to stdout
PASSED: set[str] = set()  # hashes of tokenizers that have passed `probe` in this process


def read_tokenizer(
    folder: Path, family: str, trusted: bool = False
) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of a checkpoint, and the fields of tokenizer_config.json and its relatives.

    family: model_type of config.json. trusted: the folder came with tinymem.
    Raises CheckpointError if there is none, if a file is damaged, and if encoding or decoding short
    texts crashes, does not end or fills the memory.
    """
    names = (TOKENIZER, VOCABULARY, MERGES, ADDED, CONFIG, SPECIAL)
    digest = hashlib.sha256(family.encode())
    for name in names:
        if present(folder, name):
            digest.update(name.encode() + checked(folder, name).read_bytes())
    if not trusted and digest.hexdigest() not in PASSED:
        try:
            if problem := call_limited(probe, str(folder), family, **LIMITS):
                raise CheckpointError(problem)
        except LimitError as error:
            problem = f"its tokenizer cannot be used ({error}); do not trust this checkpoint"
            raise CheckpointError(f"{folder}: {problem}") from error
        PASSED.add(digest.hexdigest())
    return build(folder, family)


def build(folder: Path, family: str) -> tuple[Tokenizer, dict[str, Any]]:
    """Reads the files, without limits on time and memory. Raises CheckpointError."""
    settings = read_json(folder, CONFIG) if present(folder, CONFIG) else {}
    if present(folder, SPECIAL) and "added_tokens_decoder" not in settings:
        settings = settings | read_json(folder, SPECIAL)
    try:
        if present(folder, TOKENIZER):
            core = Tokenizer.from_file(str(checked(folder, TOKENIZER)))
        else:
            core, settings = from_merges(folder, family, settings)
        add_tokens(core, folder, settings)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception
        problem = f"not a tokenizer ({first_line(error)}); download it again"
        raise CheckpointError(f"{folder / TOKENIZER}: {problem}") from error
    core.no_padding()
    core.no_truncation()
    core.encode_special_tokens = settings.get("split_special_tokens") is True
    if isinstance(core.model, models.BPE):
        core.model.dropout = None  # it splits words at random, for the training of a model
    return core, settings


def from_merges(
    folder: Path, family: str, settings: dict[str, Any]
) -> tuple[Tokenizer, dict[str, Any]]:
    """A byte-level BPE from vocab.json and merges.txt, and the settings with its defaults."""
    kind, defaults = KNOWN.get(family, ("", {}))
    settings = defaults | settings
    named = str(settings.get("tokenizer_class") or kind).removesuffix("Fast")
    same = family in KNOWN and named.removesuffix("Tokenizer") == kind
    if not present(folder, VOCABULARY) or not same:
        advice = "make one with transformers: AutoTokenizer.from_pretrained, save_pretrained"
        raise CheckpointError(f"{folder}: no {TOKENIZER}; {advice}")
    files = [str(checked(folder, name)) for name in (VOCABULARY, MERGES)]
    core = Tokenizer(models.BPE.from_file(*files))
    prefix = settings.get("add_prefix_space") is True
    core.pre_tokenizer, core.decoder = ByteLevel(add_prefix_space=prefix), decoders.ByteLevel()
    if kind == "Qwen2":
        parts = [Split(Regex(QWEN2_WORDS), "isolated"), ByteLevel(prefix, use_regex=False)]
        core.pre_tokenizer, core.normalizer = Sequence(parts), normalizers.NFC()
    around = ["$A"]
    for place, key in ((0, "bos_token"), (2, "eos_token")):
        if settings.get(f"add_{key}") is True and settings.get(key):
            around.insert(place, content(settings[key]))
    ends = [text for text in around if text != "$A"]
    core.add_special_tokens(ends)
    pairs = [(text, core.token_to_id(text)) for text in set(ends)]
    core.post_processor = processors.TemplateProcessing(around, special_tokens=pairs)
    return core, settings


def add_tokens(core: Tokenizer, folder: Path, settings: dict[str, Any]) -> None:
    """Adds the tokens that only the settings and added_tokens.json have.

    Raises CheckpointError if a token would get another id than the one that is written there.
    """
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    named = [settings[key] for key in NAMED if settings.get(key)]
    named += [
        v for k, v in settings.items() if k.endswith("_token") and k not in NAMED and content(v)
    ]
    named += list(extra.values() if isinstance(extra, dict) else extra)
    special = {content(token) for token in named}
    listed = {int(i): t for i, t in settings.get("added_tokens_decoder", {}).items()}
    if "added_tokens_decoder" not in settings and present(folder, ADDED):
        for text, i in read_json(folder, ADDED).items():
            listed[i] = {"content": text, "special": text in special}
    core.add_tokens([added(listed[i]) for i in sorted(listed)])
    for i, token in listed.items():
        found = core.token_to_id(content(token))
        if found != i:
            problem = f"token {content(token)!r} has the id {i} in its settings, {found} elsewhere"
            raise CheckpointError(f"{folder}: {problem}; save the tokenizer again")
    known = {token.content for token in core.get_added_tokens_decoder().values()}
    core.add_tokens([added(token) for token in named if content(token) not in known])


def content(token: object) -> str:
    """The text of a token that is written as a text or as an object; "" if it is neither."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def added(token: object) -> AddedToken:
    """A token with its flags; it is special unless it says otherwise."""
    flags = {k: token[k] for k in FLAGS if k in token} if isinstance(token, dict) else {}
    return AddedToken(**{"special": True} | flags | {"content": content(token)})


def probe(folder: str, family: str) -> str | None:
    """Encodes short texts of many kinds, and decodes every id. Raises whatever goes wrong.

    Returns the message if the files are refused before that.
    """
    try:
        core, _ = build(Path(folder), family)
    except CheckpointError as error:
        return str(error)
    for part in (core.normalizer, core.pre_tokenizer, core.decoder):
        if part is not None and growth(json.loads(part.__getstate__())) > MOST_GROWTH:
            raise ValueError("its replacements could make a text grow without end")
    for text in probe_texts():
        try:
            tokens = len(core.encode(text).ids)
        except Exception:
            continue  # it may lack tokens for this text; a panic of Rust code is no Exception
        if tokens > 1000 + 16 * len(text):  # usual are up to 4, the bytes of a character
            raise ValueError(f"it makes {tokens:,} tokens from {len(text):,} characters")
    ids = sorted(core.get_vocab().values())
    for start in range(0, len(ids), 1000):
        core.decode(ids[start : start + 1000], skip_special_tokens=False)
    return None


def growth(step: object) -> float:
    """By how much a step, as in tokenizer.json, with the steps in it can make a text longer."""
    if isinstance(step, list):
        return math.prod(map(growth, step))
    if not isinstance(step, dict):
        return 1.0
    factor, pattern = GROWTH.get(str(step.get("type")), 1.0), step.get("pattern")
    if step.get("type") == "Replace" and isinstance(pattern, dict):
        new, old = len(str(step.get("content"))), pattern.get("String")
        shrinks = new == 0 or (isinstance(old, str) and len(old) >= new)
        factor = 1.0 if shrinks else new / len(old) if old else new + 1
    return factor * math.prod(map(growth, step.values()))


def probe_texts() -> Iterator[str]:
    """Every ASCII character, repeated and between others, and most other characters once."""
    yield string.printable
    for letter in string.printable:
        yield f"{48 * letter}! the {letter}thing{letter} {letter}"
    codes = [*range(0xA0, 0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x30000, 61)]
    for start in range(0, len(codes), 512):
        yield "".join(map(chr, codes[start : start + 512]))
