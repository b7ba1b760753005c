"""Runs and verdicts within torch's contexts. Oracle: the same run and verdict outside of them."""

import contextlib

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.base.arithmetic import full_precision, with_gradients
from tinymem.base.checkpoint import load
from tinymem.data.memory import random_memory
from tinymem.errors import RecipeError
from tinymem.experiment.probe import memorize
from tinymem.experiment.recall import judge
from tinymem.unit.lora import Unit

CONTEXTS = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_run_and_a_verdict_within_a_context(name):
    model = toy_model()
    outside = memorize(model, toy_memory(), rank=2, steps=30, lr=0.05)
    with CONTEXTS[name]():
        inside = memorize(model, toy_memory(), rank=2, steps=30, lr=0.05)
    same = {"wall_seconds": 0}
    assert inside.report | same == outside.report | same and inside.verdict == outside.verdict
    outside.unit.attach(model)
    with CONTEXTS[name]():
        assert judge(model, toy_memory()) == outside.verdict


@pytest.mark.parametrize("name", CONTEXTS)
def test_a_model_that_was_loaded_within_a_context(name):
    with CONTEXTS[name]():
        model, tokenizer = load("tiny", device="cpu")
        unit = Unit.create(model, 1)
    report = memorize(model, random_memory(tokenizer, 8), rank=2, steps=5).report
    assert report["final_loss"] < report["base_loss"]
    memory = random_memory(tokenizer, 8)
    assert judge(unit.attach(model).model, memory).loss == pytest.approx(report["base_loss"])


def test_a_model_that_cannot_train_is_refused():
    with torch.inference_mode():
        model = toy_model()
    with pytest.raises(RecipeError, match="inference_mode; make it outside"):
        memorize(model, toy_memory(), rank=2, steps=5)


def test_the_settings_of_the_program_come_back():
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        for context in (with_gradients, full_precision):
            with contextlib.suppress(ZeroDivisionError), context():
                assert not torch.is_autocast_enabled("cpu")
                assert torch.is_grad_enabled() == (context is with_gradients)
                raise ZeroDivisionError
            assert torch.is_autocast_enabled("cpu") and not torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
