"""Tables of a sweep, of laws and of a plan: the numbers on the screen are those that were given."""

import re
from dataclasses import replace
from math import log

import pytest

from tinymem.law.fit import fit_rows
from tinymem.law.plan import Plan, plan_length, plan_rank
from tinymem.law.recite import recite_length, recite_rank
from tinymem.show.tables import grid_cell, show_fits, show_grid, show_plan, show_recital

CELL = {"rank": 1, "length": 32, "method": "sft", "ratio": 100, "seed": 0, "memories": 1}
CELL |= {"status": "ok", "converged": True, "certified": False, "held_out_memories": 0}
CELL |= {"verbatim": False}
CELL |= {"final_loss": 1.25, "memorized_bits": 10.0, "memorized_bits_per_parameter": 0.5}
CELL |= {"bits_per_parameter": 0.75, "exact_match": 0.5, "held_out_exact_match": None}


def cells(**fields: object) -> list[dict]:
    """Rows of two ranks, two lengths and two seeds; the final loss says which is which."""
    return [
        CELL
        | {"rank": rank, "length": length, "seed": seed, "final_loss": rank + length / 1000 + seed}
        | fields
        for rank in (1, 16)
        for length in (32, 1024)
        for seed in (0, 1)
    ]


def test_a_sweep_is_shown_by_rank_and_length_as_means_of_its_seeds(capsys):
    show_grid(cells())
    out = capsys.readouterr().out
    assert "sft, 100 % random tokens: by rank and length, means of 2 seeds" in out
    table = [re.split(" {2,}", line.strip())[:3] for line in out.splitlines()]
    assert ["1", "1.532", "2.524"] in table and ["16", "16.532", "17.524"] in table
    assert "memorized bits per parameter" in out and "memories recited" not in out
    assert any(line.split()[:3] == ["rank", "32", "1,024"] for line in out.splitlines())


def test_each_method_has_tables_of_its_own(capsys):
    text = {"ratio": 0, "memorized_bits": None, "memorized_bits_per_parameter": None}
    show_grid([*cells(), *cells(method="memft-ot", **text)])
    out = capsys.readouterr().out
    first, second = out.split("memft-ot, 0 % random tokens")
    assert "memorized bits" in first and "stored bits" not in first
    assert "stored bits per parameter" in second and "memorized bits" not in second


def test_memories_recited_whole_and_held_out_ones(capsys):
    show_grid(cells(memories=4, held_out_memories=2, held_out_exact_match=0.25))
    out = capsys.readouterr().out
    assert "\nmemories recited whole (%)" in out and "held-out memories recited whole (%)" in out
    assert out.split().count("50") == out.split().count("25") == 4  # each rank and length


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ([{}], "1.250 "),
        ([{}, {"final_loss": 2.25}], "1.750 "),
        ([{"converged": False}, {}], "1.250*"),
        ([{}, {"status": "diverged", "final_loss": 99.0}], "1.250!"),
        ([{"status": "oom", "final_loss": None}], "!"),
        ([], "– "),
        ([{"verbatim": True}], "[green]1.250 [/]"),
        ([{"verbatim": True, "certified": True}], "[bold green]1.250 [/]"),
        ([{"verbatim": True, "certified": True}, {"verbatim": True}], "[green]1.250 [/]"),
        ([{"verbatim": True, "certified": True}, {}], "1.250 "),
    ],
)
def test_marks_of_a_cell(fields, text):
    assert grid_cell([CELL | one for one in fields], "final_loss") == text


def planted(ratios: tuple[int, ...] = (100,), **fields: object) -> list[dict]:
    """Rows that follow ΔL = 14 r^0.5 ℓ^−0.4 + 0.8, shorter where fewer tokens are random."""
    rows = []
    for rank, length, ratio in (
        (r, n, q) for r in (1, 2, 4, 8) for n in (16, 64, 256) for q in ratios
    ):
        delta = min((14 * rank**0.5 * length**-0.4 + 0.8) * ratio / 100, 11.8)
        row = {"rank": rank, "length": length, "ratio": ratio, "delta_loss": delta, "seed": 0}
        row |= {"base_loss": 12.0, "final_loss": 12.0 - delta, "certified": delta > 11.4}
        row |= {"trainable_parameters": 512 * rank, "entropy": 7.6, "converged": rank < 8}
        row |= {"model": "tiny", "layer": 2, "site": "mlp", "method": "sft", "status": "ok"}
        rows.append(row | fields)
    return rows


def test_a_law_with_its_intervals_and_measures(capsys):
    rows = [*planted(), *(row | {"status": "diverged"} for row in planted()[:2])]
    fits, refused = fit_rows(rows, draws=50)
    full = sum(row["final_loss"] <= log(2) for row in planted())
    show_fits(fits, refused)
    out = capsys.readouterr().out
    assert out.startswith("tiny, layer 2, site mlp, sft\n")
    assert f"{12 - full} runs fitted, {fits[0].n_unconverged} of them not converged\n" in out
    assert f"left out: {full} saturated (final loss ≤ ln 2), 2 diverged\n" in out
    assert "ΔL = 14 · r^0.500 · ℓ^−0.400 + 0.800 nats per token" in out
    assert re.search(r"power law +α 0.50, β 0.40, b 0.80 +1.000 +1.000 +0.0 %", out)
    assert re.search(r"95 % interval +14 to 14 +0.5 to 0.5 +0.4 to 0.4 +0.8 to 0.8", out)
    kappa = fits[0].bits.kappa
    assert f"constant bits  κ {kappa:.3f}" in out and "ratio" not in out


def test_without_the_offset_no_b_is_shown(capsys):
    show_fits(*fit_rows(planted(), offset=False, draws=50))
    out = capsys.readouterr().out
    assert re.search(r"ℓ\^−0.\d+ nats per token", out) and not re.search(r"\bb\b [−\d]", out)


def test_each_ratio_has_a_law_and_a_missing_one_has_a_reason(capsys):
    rows = [*planted((50, 100)), *planted((20,))[:2]]
    show_fits(*fit_rows([row | {"entropy": None} for row in rows], draws=50))
    out = capsys.readouterr().out
    assert re.search(r"  50 % random +α 0.50, β 0.40, b 0.40", out)
    assert "No law for 20 % random: " in out and "No law for constant bits: " in out


def test_groups_that_cannot_be_fitted_are_named(capsys):
    show_fits(*fit_rows([*planted(), *planted(method="[b]")[:3]], draws=50))
    assert "Not fitted: tiny, 2, mlp, [b]: " in " ".join(capsys.readouterr().out.split())


def test_a_law_that_does_not_determine_b_says_so(capsys):
    fits, _ = fit_rows(planted(), draws=50)
    show_fits([replace(fits[0], law=replace(fits[0].law, at_bound=True))], {})
    assert "These cells do not fix b: use --no-offset" in capsys.readouterr().out


def test_a_plan_for_a_rank(capsys):
    fit = fit_rows(planted(), draws=50)[0][0]
    plan = plan_rank(fit, 100, 5.0)
    show_plan(plan, fit)
    lines = capsys.readouterr().out.splitlines()
    truth = ((12 - 5 - 0.8) / 14 * 100**0.4) ** 2  # 7.8
    assert plan.rank == 8 == round(truth + 0.5)
    assert lines[0] == "Rank 8 holds 100 tokens, at 5 nats per token, in 98 % of fresh runs"
    assert lines[1] == "rank 6: 0 %, rank 7: 0 %, rank 8: 98 %, rank 9: 100 %, rank 10: 100 %"
    assert lines[2] == "95 % of fresh runs need rank 8 to 8"
    assert lines[3] == f"{512 * 8:,} parameters, {4 * 512 * 8:,} bytes in float32"
    assert lines[4] == "loss 12.000 → 5.000 nats per token"
    assert lines[5] == "by the law of tiny, layer 2, site mlp, sft"
    assert lines[6] == f"The constant-bits law gives rank {plan.constant_bits}"
    assert lines[7] == "Without its own cell, it is right about 100 % of the measured runs"


def test_a_plan_for_a_length_with_the_certificate(capsys):
    rows = planted()
    for row in rows:  # certified if the rank is above √(tokens / 8)
        row["min_probability"] = 1 / (1 + (row["length"] / 8 / row["rank"] ** 2) ** 2)
        row["certified"] = row["min_probability"] > 0.5
    fit = fit_rows(rows, draws=50)[0][0]
    plan = plan_length(fit, 3)
    show_plan(plan, fit)
    out = capsys.readouterr().out
    assert plan.length == 8 * 9
    assert out.startswith("Rank 3 holds 72 tokens, every one certified, in 100 % of fresh runs\n")
    assert "95 % of fresh runs hold 72 to 72 tokens\n" in out
    assert "→" not in out and "constant-bits" not in out


def test_a_plan_without_an_answer_or_a_limit(capsys):
    fit = fit_rows(planted(), draws=50)[0][0]
    names = ["parameters", "bytes", "base_loss", "loss", "constant_bits", "right_left_out"]
    common = dict.fromkeys(names) | {"certificate": True, "by_rank": {}, "interval": (7, None)}
    show_plan(Plan("rank", None, 9, 0.25, **common, warnings=["[odd] grid"]), fit)
    out = capsys.readouterr().out
    assert out.startswith("No rank holds 9 tokens, every one certified, that often: even")
    assert "95 % of fresh runs need rank 7 to ∞\n" in out and out.endswith("careful: [odd] grid\n")
    show_plan(Plan("length", 3, None, 1.0, **common), fit)
    assert capsys.readouterr().out.startswith("Rank 3 holds any length, every one certified")


def recited(rows: list[dict], per_rank: int) -> list[dict]:
    """The rows, of which those with at most so many tokens per rank are recited."""
    return [row | {"recall_exact": row["length"] <= per_rank * row["rank"]} for row in rows]


def test_what_each_method_recites(capsys):
    """Half of the runs at √(16 · 32) = 23 tokens per rank, and more for the other method."""
    twice = recited(planted(method="margin"), 40)
    show_fits(*fit_rows([*recited(planted(), 16), *twice], draws=50))
    lines = [re.split(" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()]
    (sft,) = (line for line in lines if line[0] == "sft")
    (margin,) = (line for line in lines if line[0] == "margin")
    assert all(
        16 < float(one) / rank < 32 for one, rank in zip(sft[1:5], (1, 2, 4, 8), strict=True)
    )
    assert all(a < float(b) for a, b in zip(map(float, sft[1:5]), margin[1:5], strict=True))
    assert sft[-1] == "6 of 12" and margin[-1] == "8 of 12"
    bits = lines[lines.index(sft) + 1]
    assert float(bits[0]) == pytest.approx(float(sft[1]) / 512 * 7.6 / log(2), rel=0.05)
    low, high = (float(end.replace("∞", "inf")) for end in bits[4].split(" to "))
    assert low < 1 < high and sft[5].startswith("rank^")


def test_rows_without_a_power_law_show_the_recall_law(capsys):
    show_fits(*fit_rows(recited([row for row in planted() if row["rank"] > 2], 10)))
    out = capsys.readouterr().out
    assert out.startswith(
        "tiny, layer 2, site mlp, sft\nNo power law: the law needs at least 3 dif"
    )
    assert "\nsft " in out and "R²" not in out


def test_a_method_that_recites_everything_has_a_bound(capsys):
    show_fits(*fit_rows(recited(planted(), 1000), draws=50))
    out = " ".join(capsys.readouterr().out.split())
    assert "sft: all 12 runs are recited: the limit is above 0.5 tokens per parameter" in out


def test_one_rank_says_nothing_about_how_recall_grows(capsys):
    show_fits(*fit_rows(recited([row for row in planted() if row["rank"] == 2], 16), draws=50))
    (sft,) = (line.split() for line in capsys.readouterr().out.splitlines() if line[:4] == "sft ")
    assert sft[2] == "–"


def test_a_plan_by_the_recall_law(capsys):
    fit = fit_rows(recited(planted(), 16), draws=50)[0][0]
    plan = recite_rank(fit, 60)
    show_recital(plan, fit)
    lines = capsys.readouterr().out.splitlines()
    share = f"{100 * plan.probability:.0f} % of fresh runs"
    assert lines[0] == f"Rank {plan.rank} recites 60 tokens word for word, in {share}"
    assert f"rank {plan.rank}: {100 * plan.probability:.0f} %" in lines[1]
    assert lines[2] == "95 % of fresh runs need rank {} to {}".format(*plan.interval)
    assert lines[3] == f"{512 * plan.rank:,} parameters, {2048 * plan.rank:,} bytes in float32"
    assert lines[4] == "by the recall law of tiny, layer 2, site mlp, sft"
    recited_, runs = plan.kept
    assert lines[5].startswith(f"{recited_} of {runs} measured runs to which other ranks promise")
    nothing = replace(
        plan, rank=None, probability=None, by_rank={}, parameters=None, interval=(9, None)
    )
    show_recital(nothing, fit)
    out = capsys.readouterr().out
    assert out.startswith("No rank recites 60 tokens word for word, in 90 % of fresh runs\n95 % of")
    assert "need rank 9 to ∞" in out
    show_recital(recite_length(fit, 4), fit)
    assert capsys.readouterr().out.startswith("Rank 4 recites ")
