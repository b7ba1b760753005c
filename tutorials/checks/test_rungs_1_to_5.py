"""The checks of rungs 1 to 5: tokens, the unit, the loss, the training loop, and the verdict."""

import numpy as np
import pytest

from checks.grading import require, several, whole_numbers

points = pytest.mark.points


@pytest.mark.rung1
@points(2)
def test_rung1_the_targets_are_the_target_tokens(mymem, seed):
    random = np.random.default_rng(seed)
    prompt, target = (random.integers(99, size=n).tolist() for n in (3, 4))
    out = several(mymem.call("inputs_and_targets", prompt, target), 3, "(ids, rows, targets)")
    targets = whole_numbers(out[2], "targets")
    require(targets == target, f"The targets should be {target}, not {targets}")
