"""The shipped model, and the lesson that makes it. Oracles: transformers, and the model's card."""

import importlib.util
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import transformers

import tinymem as tm
from tinymem.base.checkpoint import SHIPPED

TINY = SHIPPED["tiny"]
LESSON = Path(__file__).parents[2] / "tutorials" / "pretrain_tiny.py"


@pytest.fixture(scope="module")
def tiny():
    return tm.load("tiny")


def test_it_is_small_and_says_where_it_comes_from():
    assert (TINY / "model.safetensors").stat().st_size <= 8_000_000
    card = (TINY / "README.md").read_text(encoding="utf-8")
    record = json.loads((TINY / "training.json").read_text(encoding="utf-8"))
    for fact in ("text_sha256", "archive_sha256", "validation_loss", "minutes"):
        assert str(record[fact]) in card, fact


def test_it_is_a_checkpoint_like_any_other(tiny):
    model, tokenizer = tiny
    theirs = transformers.AutoModelForCausalLM.from_pretrained(TINY).float()
    text = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind 1609 — é!"
    ids = tokenizer.encode(text)
    assert ids == transformers.AutoTokenizer.from_pretrained(TINY)(text).input_ids
    assert tokenizer.decode(ids) == text
    ids = torch.tensor([ids])
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-4)


def test_it_learned_english(tiny):
    """Nats per token on a sentence that it has not seen, far below guessing, ln 2048 = 7.6."""
    model, tokenizer = tiny
    memory = tm.text_memory(
        tokenizer, "And when the king had heard these words, he rose and went to his house."
    )
    assert tm.judge(model, memory).loss < 5


def test_rank_8_certifies_128_random_tokens_and_rank_1_does_not(tiny):
    model, tokenizer = tiny
    memory = tm.random_memory(tokenizer, 128)
    good = tm.memorize(model, memory, rank=8, stop_when_certified=True)
    assert good.report["certified"] and good.report["recall_exact"]
    bad = tm.memorize(model, memory, rank=1, steps=100)
    assert not bad.report["certified"] and len(bad.verdict.stubborn) > 64


@pytest.fixture(scope="module")
def lesson():
    spec = importlib.util.spec_from_file_location("pretrain_tiny", LESSON)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lesson_trains_and_saves_a_loadable_checkpoint(lesson, tmp_path):
    """A few steps of the same training on a short text; the result loads as any checkpoint."""
    torch.manual_seed(0)
    text = "the quick brown fox jumps over the lazy dog 0123456789. " * 40
    tokenizer = lesson.train_tokenizer([text])
    stream = torch.tensor(tokenizer.encode(text).ids)
    assert stream.max() < 2048 and text.startswith(tokenizer.decode(stream[:9].tolist()))
    model = lesson.fresh_model()
    before = lesson.validation_loss(model, stream, 64)
    args = Namespace(lr=3e-3, steps=12, length=64, batch=2)
    lesson.train(model, stream, args, torch.Generator().manual_seed(0))
    after = lesson.validation_loss(model, stream, 64)
    assert after < before - 1
    lesson.save(model, tokenizer, tmp_path / "out")
    loaded, _ = tm.load(tmp_path / "out")
    ids = stream[None, :64]
    assert torch.allclose(loaded(ids), model(ids), atol=0.2)  # the file is bfloat16
    assert torch.equal(loaded(ids).argmax(-1)[:, -1:], model(ids).argmax(-1)[:, -1:])
