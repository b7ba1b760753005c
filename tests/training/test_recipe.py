"""Recipes: values that are refused, the learning rate, weighting and the schedule of memories."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.errors import RecipeError
from tinymem.training.recipe import METHODS, Recipe, auto_lr, schedule

# --- Fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"rank": 2.5},
        {"rank": True},
        {"steps": 0},
        {"seed": -1},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": 1e38},
        {"lr": "auto"},
        {"method": "memft"},
        {"optimizer": "sgd"},
        {"zero_active": "none"},
        {"dropout": 1.0},
        {"clip": -1.0},
        {"clip": None},
        {"layers": "2"},
        {"sites": [1]},
        {"boundaries": (4, 3, 2, 1)},
        {"boundaries": (1, 2, 3)},
        {"lr": 0.1, "optimizer": "lbfgs"},
        {"dropout": 0.1, "optimizer": "lbfgs"},
        {"batch_size": 1, "optimizer": "lbfgs"},
    ],
)
def test_values_that_no_run_could_use_are_refused(options):
    with pytest.raises(RecipeError, match=next(iter(options))) as caught:
        Recipe(**options)
    assert "\n" not in str(caught.value)


def test_single_values_become_tuples_and_numpy_numbers_become_ints():
    assert Recipe(sites="c_attn", layers=3) == Recipe(sites=("c_attn",), layers=(3,))
    assert Recipe(rank=np.int64(2)).rank == 2 and type(Recipe(rank=np.int64(2)).rank) is int


# --- The learning rate ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "rate"),
    [
        (4096, 0.01),  # the paper's
        (2048, 0.02),
        (576, 0.01 * 4096 / 576),  # SmolLM2-135M: 0.071
        (410, 0.01 * 4096 / 410),  # just below the cap
        (409, 0.1),  # the rule would give 0.1001
        (256, 0.1),  # the shipped model; the rule would give 0.16
        (64, 0.1),
    ],
)
def test_the_default_learning_rate_follows_the_width_up_to_a_cap(width, rate):
    with torch.device("meta"):
        model = toy_model(layers=1)
    model.config = dataclasses.replace(model.config, hidden_size=width)
    assert auto_lr(model) == Recipe().learning_rate(model) == pytest.approx(rate, rel=1e-9)


def test_a_given_learning_rate_is_kept_and_lbfgs_has_none():
    model = toy_model(layers=1)
    assert Recipe(lr=0.5).learning_rate(model) == 0.5
    assert Recipe(optimizer="lbfgs").learning_rate(model) is None


# --- Which tokens count, and which runs train together -------------------------------------------


@pytest.mark.parametrize(
    ("method", "zero_active", "memories", "expected"),
    [
        ("sft", "sft", 1, ("sft", "")),
        ("sft", "zero", 3, ("sft", "")),
        ("memft-ot", "sft", 1, ("memft-ot", "sft")),
        ("memft-ot", "zero", 1, ("memft-ot", "zero")),
        ("memft-ot", "zero", 3, ("memft-ot", "zero")),
        ("memft-sw", "zero", 1, ("memft-sw", "")),
        ("memft-sw", "sft", 3, ("memft-ot", "zero")),  # the curriculum of the paper's PhoneBook
    ],
)
def test_the_weighting_of_tokens(method, zero_active, memories, expected):
    assert Recipe(method=method, zero_active=zero_active).weighting(memories) == expected


def test_runs_with_the_same_shapes_share_a_batch_key():
    base, one = Recipe(steps=3), [toy_memory(5)]
    key = base.batch_key(one)
    for change in (
        *({"rank": 3}, {"seed": 1}, {"lr": 0.2}, {"clip": 0.1}, {"zero_active": "zero"}),
        *({"method": method} for method in METHODS),
    ):
        assert dataclasses.replace(base, **change).batch_key([toy_memory(5, seed=1)]) == key
    for change in ({"steps": 4}, {"dropout": 0.1}, {"layers": (1,)}, {"stop_when_certified": True}):
        assert dataclasses.replace(base, **change).batch_key(one) != key
    for memory in (toy_memory(6), toy_memory(5, prompt=4)):
        assert base.batch_key([memory]) != key
    assert base.batch_key(one * 2) != key


@pytest.mark.parametrize(
    ("change", "memories"),
    [({"batch_size": 1}, 2), ({"optimizer": "lbfgs"}, 1), ({"method": "memft-sw"}, 2)],
)
def test_runs_that_must_train_alone_have_no_batch_key(change, memories):
    assert Recipe(**change).batch_key([toy_memory(5)] * memories) is None


# --- The schedule --------------------------------------------------------------------------------


def seen(recipe, count):
    """For each step, the memories in each of its minibatches."""
    return [
        [list(range(count)) if part is None else part.tolist() for part in step]
        for step in schedule(recipe, count)
    ]


def test_minibatches_see_every_memory_once_an_epoch():
    recipe = Recipe(epochs=3, batch_size=2, accumulate=2)
    steps = seen(recipe, 7)
    assert [len(step) for step in steps] == [2, 2] * 3  # 7 memories: minibatches of 2, 2, 2, 1
    assert recipe.steps_per_epoch(7) == 2
    epochs = [[*itertools.chain(*steps[2 * n], *steps[2 * n + 1])] for n in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    assert seen(recipe, 7) == steps != seen(dataclasses.replace(recipe, seed=1), 7)


def test_a_full_batch_sees_all_memories_in_every_step():
    assert seen(Recipe(steps=4), 3) == [[[0, 1, 2]]] * 4 == seen(Recipe(epochs=4), 3)
    assert list(schedule(Recipe(steps=2), 3)) == [[None]] * 2
    assert Recipe(steps=4).steps_per_epoch(3) == 1


def test_steps_end_a_run_in_the_middle_of_an_epoch():
    assert len(seen(Recipe(steps=5, batch_size=2), 6)) == 5


def test_the_curriculum_shows_more_memories_stage_by_stage():
    recipe = Recipe(method="memft-sw", epochs=15)  # an epoch of a full batch is one step
    stages = [step[0] for step in seen(recipe, 10)]
    assert [len(stage) for stage in stages] == [2, 4, 6, 8] + [10] * 11
    assert all(set(a) <= set(b) for a, b in itertools.pairwise(stages))
    recipe = dataclasses.replace(recipe, boundaries=(2, 3, 4, 6))
    assert [len(stage[0]) for stage in seen(recipe, 10)] == [2, 2, 4, 6, 8, 8] + [10] * 9


def test_the_curriculum_in_minibatches():
    recipe = Recipe(method="memft-sw", epochs=15, batch_size=4, boundaries=(2, 3, 4, 6))
    steps = seen(recipe, 10)
    # 2 memories for two epochs, then 4, 6, 8, 8, and 10: 1, 1, 1, 2, 2, 2 and 3 steps an epoch
    sizes = [len(part) for step in steps for part in step]
    assert sizes == [2, 2, 4, 4, 2, 4, 4, 4, 4] + [4, 4, 2] * 9
    assert seen(dataclasses.replace(recipe, method="memft-ot"), 10) != steps


@pytest.mark.parametrize("batch_size", [None, 4])
def test_a_single_memory_has_no_curriculum(batch_size):
    recipe = Recipe(method="memft-sw", epochs=15, batch_size=batch_size)
    assert seen(recipe, 1) == [[[0]]] * 15


def test_only_a_steady_run_of_lbfgs_may_stop_when_it_stands_still():
    Recipe(optimizer="lbfgs", stop_when_still=True)
    for options in ({}, {"optimizer": "lbfgs", "method": "margin"}):
        with pytest.raises(RecipeError, match="stop_when_still needs lbfgs and one of sft, memft"):
            Recipe(stop_when_still=True, **options)
