"""From rows to laws: which rows are used, which belong together. Oracle: `fit_law` on columns."""

import dataclasses
import json
import math

import numpy as np
import pytest

from tinymem.errors import LawError
from tinymem.law.bits import BitsLaw, fit_bits
from tinymem.law.fit import fit_rows
from tinymem.law.power import LN2, Law, fit_law

BASE, ENTROPY, EACH = 12.0, 7.6, 512  # L₀, H, parameters per rank
GRID = [(rank, length) for rank in (1, 2, 4, 8, 16) for length in (32, 64, 128, 256, 512)]


def planted_row(rank, length, C=30.0, noise=0.0, **fields):
    """A row as a sweep writes it; ΔL = C r^0.6 ℓ^−0.5 + 0.5, up to the ceiling L₀ − 0.05."""
    random = np.random.default_rng([rank, length, int(C)])
    delta = (C * rank**0.6 * length**-0.5 + 0.5) * math.exp(noise * random.normal())
    final = max(BASE - delta, 0.05)
    row = {"model": "m", "layer": 2, "site": "mlp", "method": "sft", "ratio": 100, "seed": 0}
    row |= {"rank": rank, "length": length, "trainable_parameters": EACH * rank, "entropy": ENTROPY}
    row |= {"base_loss": BASE, "final_loss": final, "delta_loss": BASE - final}
    return row | {"status": "ok", "converged": True} | fields


def planted(**fields):
    return [planted_row(rank, length, **fields) for rank, length in GRID]


def fit_one(rows, **options):
    fits, refused = fit_rows(rows, **{"draws": 20} | options)
    assert not refused and len(fits) == 1
    return fits[0]


def columns(rows, *names):
    return [[row[name] for row in rows] for name in names]


# --- One group -----------------------------------------------------------------------------------


def test_rows_written_by_hand():
    """8 √r / √ℓ + 1, and nothing in the rows that is not needed."""
    rows = [
        {"rank": r, "length": n, "delta_loss": 8 * (r / n) ** 0.5 + 1}
        for r in (1, 4, 16)
        for n in (16, 64, 256)
    ]
    fit = fit_one(rows)
    assert fit.law.constants == pytest.approx((8, 0.5, 0.5, 1), rel=1e-6)
    assert fit.key == {"model": None, "layer": None, "site": None, "method": None}
    assert fit.rows == rows and fit.saturated == [False] * 9
    assert fit.by_ratio == {} and fit.skipped == {}
    assert fit.bits.startswith("9 of 9 parameters are missing")
    losses = [
        {
            "rank": r["rank"],
            "length": r["length"],
            "base_loss": 11,
            "final_loss": 11 - r["delta_loss"],
        }
        for r in rows
    ]
    assert fit_one(losses).law.constants == pytest.approx((8, 0.5, 0.5, 1), rel=1e-6)


def test_the_laws_are_those_of_the_columns():
    rows = planted(noise=0.03)
    fit, full = fit_one(rows, seed=3), [row["final_loss"] <= LN2 for row in rows]
    cells = columns(rows, "rank", "length", "delta_loss")
    assert fit.saturated == full and 2 < sum(full) < 10
    assert fit.law == fit_law(*cells, saturated=full, draws=20, seed=3)
    cells = columns(rows, "trainable_parameters", "length", "base_loss", "entropy", "delta_loss")
    ranks = columns(rows, "rank")[0]
    assert fit.bits == fit_bits(*cells, saturated=full, ranks=ranks, draws=20, seed=3)
    assert (
        (fit.bits.n, fit.bits.n_saturated)
        == (fit.law.n, fit.law.n_saturated)
        == (25 - sum(full), sum(full))
    )
    assert fit_one(rows, offset=False).law == fit_law(
        *columns(rows, "rank", "length", "delta_loss"), saturated=full, offset=False, draws=20
    )


def test_skipped_rows_are_counted_by_reason():
    rows = planted()
    rows[0] |= {"status": "diverged", "delta_loss": None, "final_loss": None}
    rows[1] |= {"status": "oom", "delta_loss": None, "base_loss": None, "final_loss": None}
    rows[2] |= {"status": "oom", "delta_loss": 3.0}
    rows[3] |= {"delta_loss": 0.0}
    rows[4] |= {"delta_loss": -0.5}
    rows[5] |= {"delta_loss": math.nan}
    rows[6] |= {"status": None, "converged": False}
    rows[-5] |= {"converged": False}  # rank 16, length 32: saturated
    fit = fit_one(rows)
    assert fit.saturated[-5] and fit.rows == rows[6:]
    assert fit.skipped == {"diverged": 1, "oom": 2, "no loss reduction": 2, "loss not finite": 1}
    assert fit.n_unconverged == 1


def test_a_final_loss_follows_from_the_other_two():
    rows = planted()
    without = [{name: value for name, value in row.items() if name != "final_loss"} for row in rows]
    assert fit_one(without).saturated == fit_one(rows).saturated
    rows[0] |= {"final_loss": 0.694, "delta_loss": BASE - 0.694}
    rows[1] |= {"final_loss": 0.693, "delta_loss": BASE - 0.693}
    assert fit_one(rows, offset=False).saturated[:2] == [False, True]  # ln 2 = 0.69315
    unknown = [
        {k: v for k, v in row.items() if k in ("rank", "length", "delta_loss")} for row in rows
    ]
    assert not any(fit_one(unknown).saturated)


def test_constant_bits_need_to_know_every_unsaturated_row():
    rows, full = planted(), [row["final_loss"] <= LN2 for row in planted()]
    saturated = full.index(True)
    rows[saturated] |= {"entropy": None, "trainable_parameters": None}
    assert isinstance(fit_one(rows).bits, BitsLaw) and fit_one(rows).bits.n_saturated == sum(full)
    rows[full.index(False)] |= {"entropy": None}
    assert fit_one(rows).bits.startswith(f"1 of {full.count(False)} entropies are missing")


def test_several_ratios_have_a_law_together_and_one_each():
    rows = (
        planted(ratio=100) + planted(ratio=0, C=20.0, entropy=None) + planted(ratio=50, C=25.0)[:3]
    )
    fit = fit_one(rows)
    assert len(fit.rows) == 53 and list(fit.by_ratio) == [0, 50, 100]
    assert [fit.by_ratio[ratio].C for ratio in (0, 100)] == pytest.approx([20, 30])
    assert "3 different ranks" in fit.by_ratio[50]
    cells = columns(rows, "rank", "length", "delta_loss")
    assert fit.law == fit_law(*cells, saturated=fit.saturated, draws=20)
    assert "entropies are missing" in fit.bits


# --- Groups --------------------------------------------------------------------------------------


def test_rows_of_another_model_layer_site_or_method_are_another_group():
    changes = ({}, {"model": "n"}, {"layer": [1, 2]}, {"site": "q_proj"}, {"method": "memft-ot"})
    rows = [row for n, change in enumerate(changes) for row in planted(C=20.0 + n, **change)]
    order = np.random.default_rng(0).permutation(len(rows))
    fits, refused = fit_rows([rows[n] for n in order], draws=2)
    assert len(fits) == 5 and not refused
    found = {json.dumps(fit.key): fit.law.C for fit in fits}
    for n, change in enumerate(changes):
        key = {"model": "m", "layer": 2, "site": "mlp", "method": "sft"} | change
        assert found[json.dumps(key)] == pytest.approx(20 + n)
    assert fits[-1].key["method"] == "memft-ot"  # of as many rows as the others


def test_most_rows_come_first():
    rows = planted(method="sft")[:20] + planted(method="memft-ot") + planted(method="memft-sw")[:20]
    assert [fit.key["method"] for fit in fit_rows(rows, draws=2)[0]] == [
        "memft-ot",
        "sft",
        "memft-sw",
    ]


def test_a_group_that_cannot_be_fitted_is_named():
    lame = planted(method="memft-ot")[:10]
    fits, refused = fit_rows(planted() + lame, draws=2)
    assert len(fits) == 1 and list(refused) == ["m, 2, mlp, memft-ot"]
    assert "3 different ranks, found 1 and 2" in refused["m, 2, mlp, memft-ot"]
    with pytest.raises(
        LawError, match=r"^m, 2, mlp, memft-ot: the law needs at least 3 different ranks"
    ):
        fit_rows(lame)
    with pytest.raises(LawError, match=r"no row can be used \(25 diverged\)"):
        fit_rows(planted(status="diverged"))


# --- JSON ----------------------------------------------------------------------------------------


def test_as_dict_holds_the_laws():
    rows = planted(noise=0.03) + planted(noise=0.03, C=20.0, ratio=0, seed=1)
    rows[7] |= {"status": "oom"}
    fit = fit_one(rows)
    found = json.loads(json.dumps(fit.as_dict(), allow_nan=False))
    assert {name: found[name] for name in fit.key} == fit.key
    for name in (
        "C",
        "alpha",
        "beta",
        "b",
        "r2",
        "r2_log",
        "mape",
        "n",
        "n_saturated",
        "leave_one_rank_out",
    ):
        assert found[name] == getattr(fit.law, name), name
        assert found["by_ratio"]["0"][name] == getattr(fit.by_ratio[0], name), name
    assert found["ci"] == {name: list(ends) for name, ends in fit.law.ci.items()}
    assert (
        found["constant_bits"]["kappa"] == fit.bits.kappa and len(found["constant_bits"]["ci"]) == 2
    )
    assert found["offset"] is True and found["at_bound"] is fit.law.at_bound
    assert found["skipped"] == {"oom": 1} and found["n_unconverged"] == 0
    axes = {"ranks": [1, 2, 4, 8, 16], "lengths": [32, 64, 128, 256, 512]}
    assert found["grid"] == axes | {"ratios": [0, 100], "seeds": [0, 1]}


def test_a_law_that_does_not_exist_is_a_reason():
    found = fit_one(planted()[:15]).as_dict()  # three ranks
    assert found["leave_one_rank_out"] is None
    unknown = [{name: row[name] for name in ("rank", "length", "delta_loss")} for row in planted()]
    assert "25 of 25 parameters" in fit_one(unknown).as_dict()["constant_bits"]["reason"]


def test_loss_reductions_that_are_all_the_same_are_no_law():
    """There is no variance to explain, so that R² does not exist."""
    rows = [{"rank": r, "length": n, "delta_loss": 2.0} for r in (1, 2, 4) for n in (8, 16, 32)]
    for offset in (True, False):
        with pytest.raises(LawError, match=r"the same delta_loss, 2, whatever .*; measure it in"):
            fit_rows(rows, offset=offset)
    rows[4]["delta_loss"] = 2.001
    assert math.isfinite(fit_one(rows).law.r2)
    fit = fit_one(planted(ratio=0, delta_loss=2.0, final_loss=10.0) + planted())
    assert "the same delta_loss" in fit.by_ratio[0]


def test_an_offset_that_the_cells_do_not_determine_is_reported():
    rows = [
        {"rank": r, "length": n, "delta_loss": 5 + math.log(r / n**0.5)}
        for r in (1, 4, 16)
        for n in (16, 64, 256)
    ]
    found = fit_one(rows).as_dict()
    assert found["at_bound"] is True and found["b"] < -10
    found = fit_one(rows, offset=False).as_dict()
    assert found["at_bound"] is False and found["b"] == 0


# --- Rows that are not valid ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": None}, "rank is None; expected a whole number from 1 to 1,000,000,000,000"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"rank": True}, "rank is True"),
        ({"length": "64"}, "length is '64'"),
        ({"length": 10**400}, "length is 1000"),
        ({"delta_loss": "3"}, "delta_loss is '3'; expected a number"),
        ({"delta_loss": True}, "delta_loss is True"),
        ({"base_loss": [1]}, r"base_loss is \[1\]"),
        ({"final_loss": {}}, "final_loss is {}"),
        ({"entropy": "high"}, "entropy is 'high'"),
        ({"ratio": "all"}, "ratio is 'all'"),
        ({"seed": [1]}, "seed is"),
        ({"entropy": math.inf}, "entropy is inf; expected a number"),
        ({"min_probability": "0.5"}, "min_probability is '0.5'"),
        ({"model": {"a": 1}}, "model is {'a': 1}; expected text or a number, or a list of them"),
        ({"layer": [[2]]}, r"layer is \[\[2\]\]"),
        ({"status": 1}, "status is 1; expected text"),
        ({"recall_exact": "x" * 999}, "recall_exact is 'xxx.*…; expected true or false"),
        (
            {"delta_loss": None, "final_loss": None},
            "has no delta_loss; give it, or base_loss and final_loss",
        ),
    ],
)
def test_a_bad_row_is_named(change, words):
    rows = planted()
    rows[3] |= change
    with pytest.raises(LawError, match="^row 4: " + words) as error:
        fit_rows(rows)
    assert "\n" not in str(error.value)
    rows[3] |= {"_where": "mine.jsonl, line 9"}
    with pytest.raises(LawError, match="^mine.jsonl, line 9: " + words):
        fit_rows(rows)


def test_whole_floats_and_numpys_numbers_are_numbers():
    """As jq and pandas write them: 8.0 for 8, and NaN for what is missing."""
    rows = planted(noise=0.03)
    law = fit_one(rows).law
    floats = [row | {"rank": float(row["rank"]), "length": np.int64(row["length"])} for row in rows]
    floats = [row | {"delta_loss": np.float64(row["delta_loss"])} for row in floats]
    gaps = [row | {"entropy": math.nan, "min_probability": np.float32("nan")} for row in floats]
    for changed in (floats, gaps):
        fit = fit_one(changed)
        assert fit.law == law and fit.as_dict()["grid"]["ranks"] == [1, 2, 4, 8, 16]
        assert {type(row["rank"]) for row in fit.rows} == {int}
    assert "entropies are missing" in fit.bits


def test_numbers_beyond_any_measurement():
    rows = planted()
    for name in ("delta_loss", "base_loss", "entropy", "trainable_parameters"):
        for value in (1e200, -1e300 if name != "delta_loss" else 1e13, 10**15):
            changed = [dict(row) for row in rows]
            changed[3][name] = value
            with pytest.raises(LawError, match=rf"row 4: {name} is .*; expected a number up to"):
                fit_rows(changed)
    rows[3] |= {"delta_loss": -1e300, "final_loss": 1e300}  # a run that got worse, and no mistake
    rows[4] |= {"status": "diverged", "final_loss": 1e30, "delta_loss": None}
    assert fit_one(rows).skipped == {"no loss reduction": 1, "diverged": 1}
    for change in ({"rank": 10**18}, {"length": 10**5000}, {"rank": 1e13}):
        with pytest.raises(LawError, match=r"is .*; expected a whole number from 1 to 1,000"):
            fit_rows([*rows, rows[9] | change])


@pytest.mark.parametrize("options", [{"draws": 0}, {"draws": 1.5}, {"draws": 10**9}, {"seed": -1}])
def test_draws_and_seeds(options):
    rows = planted()
    names = ("trainable_parameters", "length", "base_loss", "entropy", "delta_loss")
    (name,) = options
    for fit, *data in (
        (fit_rows, rows),
        (fit_law, *columns(rows, "rank", "length", "delta_loss")),
        (fit_bits, *columns(rows, *names)),
    ):
        with pytest.raises(LawError, match=f"^{name} is .*; expected a whole number from"):
            fit(*data, **options)


def test_nothing_to_fit():
    with pytest.raises(LawError, match="no rows"):
        fit_rows([])
    with pytest.raises(LawError, match="row 1: expected a dict"):
        fit_rows([[1, 2, 3]])


def test_a_law_and_its_fields():
    """Every field of the law is in `fit --json`, except its arrays."""
    fit = fit_one(planted())
    missing = {field.name for field in dataclasses.fields(Law)} - set(fit.as_dict())
    assert missing == {"draws", "deviations", "without_cell"}
