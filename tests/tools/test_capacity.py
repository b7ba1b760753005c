"""Is an adapter full? By hand, from the runs of the recorded study."""

import math

import pytest

from tinymem.tools.capacity import compare_with_study, read_law


def test_the_study_is_named_as_what_it_is():
    study, law = read_law()
    assert (study["model"], study["site"], study["method"]) == ("tiny", "mlp", "sft")
    assert study["ratio"] == 100 and study["name"] == "tiny-recall"
    assert law.measured == (512.0, 1024.0, 2048.0, 4096.0) and 0 < law.n_recited < law.n


def test_the_law_inside_the_study_by_hand():
    """P(recited) = 1 / (1 + (load / load_50)^s), with load_50 growing as P^(γ − 1)."""
    _, law = read_law()
    middle = math.sqrt(512 * 4096)
    found = compare_with_study(40, 2048, 4)
    half = law.load_50 * (2048 / middle) ** (law.rank_exponent - 1)
    assert found["load"] == 40 / 2048 and found["load_50"] == pytest.approx(half)
    ninety = 1 / (1 + (found["load_90"] / half) ** law.s)
    assert ninety == pytest.approx(0.9)
    assert found["bits_per_parameter_50"] == pytest.approx(half * math.log2(2047), rel=1e-3)


def test_outside_the_study_no_adapter_is_better_per_parameter():
    most = compare_with_study(10, 4096, 8)["load_50"]
    assert compare_with_study(10, 10**7, 16)["load_50"] == pytest.approx(most)
    assert compare_with_study(10, 256, 1)["load_50"] < compare_with_study(10, 512, 1)["load_50"]


@pytest.mark.parametrize(("length", "parameters", "rank"), [(128, 4096, 8), (5000, 40_000, 2)])
def test_the_rank_that_a_text_needs_is_the_smallest(length, parameters, rank):
    """90 % of the units of that rank recite this load, and fewer of one rank less."""
    needed = compare_with_study(length, parameters, rank)["rank_needed"]
    for r, enough in ((needed, True), (needed - 1, False)):
        found = compare_with_study(length, parameters // rank * r, r)
        assert (found["load"] <= found["load_90"]) == enough
    assert compare_with_study(length, parameters, None)["rank_needed"] is None
