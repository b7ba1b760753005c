"""The experiment from memory to report: what is learned, what is refused, and how runs may end."""

import dataclasses
import sys

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.base.checkpoint import load
from tinymem.base.progress import Progress
from tinymem.data.memory import Memory, random_memory
from tinymem.errors import DataError, RecipeError
from tinymem.experiment import probe
from tinymem.experiment.probe import memorize, memorize_together
from tinymem.training.prefix import Prefix
from tinymem.training.recipe import Recipe
from tinymem.unit.lora import Unit

LR = 0.05

# --- What is learned -----------------------------------------------------------------------------


def test_a_random_network_memorizes():
    report = memorize(toy_model(), toy_memory(24), rank=8, steps=200, lr=LR).report
    assert report["certified"] and report["recall_exact"] and report["status"] == "ok"
    assert report["final_loss"] < 0.2 < report["base_loss"]


def test_the_same_seed_gives_the_same_report_bit_for_bit():
    def run(seed):
        options = {"rank": 2, "steps": 30, "seed": seed, "dropout": 0.1}
        report = memorize(toy_model(), toy_memory(), **options).report
        return {key: value for key, value in report.items() if key != "wall_seconds"}

    assert run(0) == run(0)
    assert run(0)["final_loss"] != run(1)["final_loss"]


def test_several_memories_in_one_unit():
    memories = [toy_memory(6, prompt=4, seed=s) for s in range(3)]
    memories.append(toy_memory(9, prompt=2, seed=9))
    report = memorize(toy_model(), memories, rank=8, steps=200, lr=LR).report
    assert (report["length"], report["memories"], report["recall_exact"]) == (27, 4, True)


def test_held_out_memories_are_judged_and_not_trained():
    memories = [toy_memory(6, seed=n) for n in range(3)]
    options = {"held_out": memories[2:], "rank": 4, "steps": 150, "lr": LR}
    report = memorize(toy_model(), memories[:2], **options).report
    assert (report["exact_match"], report["held_out_exact_match"]) == (1.0, 0.0)
    assert report["held_out_memories"] == 1 and report["held_out_loss"] > report["final_loss"] + 1


def test_the_base_is_left_as_it_was():
    model = toy_model()
    before = {name: p.clone() for name, p in model.named_parameters()}
    memorize(model, toy_memory(), rank=2, steps=5)
    after = dict(model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_float32_unit_on_a_bfloat16_base():
    model = toy_model().to(torch.bfloat16)
    result = memorize(model, toy_memory(), rank=8, steps=150, lr=LR)
    assert result.report["dtype"] == "bfloat16" and result.report["certified"]
    assert all(p.dtype == torch.float32 for p in result.unit.parameters())


# --- What is refused -----------------------------------------------------------------------------


def test_unknown_options_are_errors():
    with pytest.raises(TypeError, match="learning_rate"):
        memorize(toy_model(), toy_memory(), learning_rate=1.0)


def test_options_replace_fields_of_the_recipe():
    report = memorize(toy_model(), toy_memory(), recipe=Recipe(rank=1, steps=2), rank=4).report
    assert (report["rank"], report["steps"]) == (4, 2)


def test_a_memory_beyond_the_context_is_refused():
    too_long = r"3 prompt tokens \+ 126 target tokens = 129.*context of 128.*125"
    with pytest.raises(DataError, match=too_long):
        memorize(toy_model(), toy_memory(126))
    memorize(toy_model(), toy_memory(125), rank=1, steps=1)
    with pytest.raises(DataError, match="memory 2: "):
        memorize(toy_model(), [toy_memory(5), toy_memory(126)])


def test_what_is_not_a_memory_of_this_model_is_refused():
    model = toy_model()
    for memories in ([], "hello", [1, 2], None):
        with pytest.raises(DataError, match="expected a Memory"):
            memorize(model, memories, rank=1)
    with pytest.raises(DataError, match="token id 97 is beyond the model's vocabulary of 97"):
        memorize(model, Memory([1], [97]), rank=1)


def test_runs_that_cannot_train_together_are_refused():
    model, base = toy_model(), Recipe(steps=3)
    for other, length in (
        (dataclasses.replace(base, steps=4), 5),
        (dataclasses.replace(base, dropout=0.1), 5),
        (dataclasses.replace(base, optimizer="lbfgs"), 5),
        (base, 6),
    ):
        with pytest.raises(RecipeError, match="cannot be trained together"):
            memorize_together(model, [toy_memory(5), toy_memory(length)], [base, other])


# --- How a run may end ---------------------------------------------------------------------------


def test_a_run_that_ends_above_its_base_loss_has_diverged():
    report = memorize(toy_model(), toy_memory(), rank=2, steps=8, lr=100.0).report
    assert report["status"] == "diverged" and not report["converged"]
    assert report["final_loss"] > report["base_loss"]


def test_a_run_that_recites_has_not_diverged_whatever_its_loss(monkeypatch):
    monkeypatch.setattr(probe, "measure_base", lambda *_: [0.0])
    options = {"rank": 4, "steps": 25, "lr": LR}
    report = memorize(toy_model(2), toy_memory(16, seed=2), **options).report
    assert report["verbatim"] and not report["certified"] and report["final_loss"] > 0
    assert report["status"] == "ok"


def test_out_of_memory_is_a_status(monkeypatch):
    def fail(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(probe, "train", fail)
    model = toy_model()
    report = memorize(model, toy_memory(), rank=2, steps=5).report
    assert report["status"] == "oom" and report["final_loss"] is None and report["base_loss"] > 0
    Unit.create(model, 1).attach(model)  # no unit was left attached


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_a_run_that_ends_while_activations_are_cached(monkeypatch, error, status):
    def fail(*args):
        raise error

    monkeypatch.setattr(Prefix, "_below", fail)
    model = toy_model()
    report = memorize(model, toy_memory(), rank=2, steps=5).report
    assert (report["status"], report["steps"], report["final_loss"]) == (status, 0, None)
    Unit.create(model, 1).attach(model)  # no unit was left attached


def test_ctrl_c_before_the_first_step(monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "teacher_forced", interrupt)
    model = toy_model()
    report = memorize(model, toy_memory(), rank=2, steps=5).report
    assert (report["status"], report["steps"]) == ("interrupted", 0)
    assert report["base_loss"] is None
    Unit.create(model, 1).attach(model)  # no unit was left attached


def test_ctrl_c_keeps_what_every_run_has_learned():
    class InterruptsAt40Percent(Progress):
        def training(self, step, steps, loss, certified, recited):
            if step == 0.4 * steps:
                raise KeyboardInterrupt

    recipes = [Recipe(rank=rank, steps=50, lr=LR) for rank in (1, 3, 8)]
    memories, progress = [toy_memory(8)] * 3, InterruptsAt40Percent()
    results = memorize_together(toy_model(), memories, recipes, progress=progress)
    assert [(r.report["status"], r.report["steps"]) for r in results] == [("interrupted", 20)] * 3
    assert all(r.unit.parameters()[1].any() for r in results)
    assert all(r.verdict is None and r.report["final_loss"] is None for r in results)
    assert all(r.training.losses[-1] < r.training.losses[0] - 1 for r in results)


@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError(), "oom"), (KeyboardInterrupt(), "interrupted")]
)
def test_runs_that_were_not_judged_have_no_verdict(monkeypatch, error, status):
    """The second of two runs is trained, but the program ends while it is judged."""
    real = probe.judge_units

    def judge_the_first(*args):
        yield next(iter(real(*args)))
        raise error

    monkeypatch.setattr(probe, "judge_units", judge_the_first)
    model, recipes = toy_model(), [Recipe(rank=1, steps=20, lr=LR), Recipe(rank=8, steps=20, lr=LR)]
    first, second = memorize_together(model, [toy_memory(8)] * 2, recipes)
    assert first.report["status"] == "ok" and first.verdict.loss == first.report["final_loss"]
    assert second.report["status"] == status and second.verdict is None
    assert second.report["certified"] is None and second.report["steps"] == 20
    assert second.unit.parameters()[1].any()  # what it has learned can still be saved
    Unit.create(model, 1).attach(model)  # no unit was left attached


@pytest.fixture(scope="module")
def tiny():
    return load("tiny", device="cpu")


@pytest.mark.parametrize("lr", [1e3, 1e5])
@pytest.mark.parametrize(("length", "rank", "steps"), [(32, 2, 20), (64, 8, 30), (8, 8, 20)])
def test_a_learning_rate_far_too_high_is_not_ok(tiny, lr, length, rank, steps):
    model, tokenizer = tiny
    for seed in (0, 1):
        memory = random_memory(tokenizer, length, seed=seed)
        report = memorize(model, memory, rank=rank, lr=lr, steps=steps, seed=seed).report
        assert report["status"] == "diverged"


@pytest.mark.parametrize(
    ("length", "steps", "lr"), [(32, 1, None), (32, 3, None), (200, 12, None), (32, 10, 1)]
)
def test_a_short_run_is_ok(tiny, length, steps, lr):
    model, tokenizer = tiny
    memory = random_memory(tokenizer, length)
    assert memorize(model, memory, rank=2, lr=lr, steps=steps).report["status"] == "ok"


def test_interrupted_at_any_moment_no_unit_is_left():
    """Ctrl-C at every 40th line of Python that a short run executes."""
    model, lines = toy_model(layers=2), 0
    before = dict(model.named_modules())

    def count(frame, event, arg):
        nonlocal lines
        lines += event == "line" and "tinymem" in frame.f_code.co_filename
        if lines == stop:
            raise KeyboardInterrupt
        return count

    stop, ends = None, set()
    for stop in [0, *range(1, 10_000, 41)]:
        lines = 0
        sys.settrace(count)
        try:
            ends.add(memorize(model, toy_memory(4), rank=1, steps=2).report["status"])
        except KeyboardInterrupt:  # before the run began, or while its report was made
            ends.add("raised")
        finally:
            sys.settrace(None)
        assert dict(model.named_modules()) == before
        if stop > lines:
            break
    assert ends == {"ok", "interrupted", "raised"}
