"""Reports and saved runs. Oracles: the contract's list of fields, and bits worked out by hand."""

import dataclasses
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.toy import toy_memory, toy_model
from tinymem.data.memory import Memory
from tinymem.errors import AdapterError
from tinymem.experiment import probe
from tinymem.experiment.probe import memorize
from tinymem.experiment.report import (
    VERDICT_FIELDS,
    Report,
    count_bits,
    recall_report,
)
from tinymem.experiment.saved import read_run, save_run
from tinymem.training.margin import THIN, THIN_IN_BFLOAT16
from tinymem.training.recipe import Recipe
from tinymem.unit.adapter import (
    OWN_FILE,
    PEFT_CONFIG,
    PEFT_FILE,
    load_adapter,
    read_unit,
    save_adapter,
)
from tinymem.unit.lora import Unit

# What users' scripts and graders of courses rely on; a report may have more.
CONTRACT = """
    model rank length ratio layer site method seed steps lr device dtype trainable_parameters
    base_loss final_loss delta_loss stored_bits bits_per_parameter memorized_bits converged
    certified_fraction certified verbatim recall_exact token_accuracy first_error min_probability
    min_margin first_uncertified readout_temperature calibrated_loss status wall_seconds version
"""
FIELDS = set(re.findall(r"\w+", CONTRACT))
IDS = torch.arange(24)[None]


def finished_run(**options):
    """(model, recipe, result) of a short run on random tokens."""
    recipe = Recipe(**({"rank": 2, "steps": 5, "lr": 0.05} | options))
    model = toy_model()
    memory = dataclasses.replace(toy_memory(10), ratio=100, entropy=math.log(97))
    return model, recipe, memorize(model, memory, recipe=recipe)


# --- Fields --------------------------------------------------------------------------------------


def test_a_report_has_the_contracts_fields_each_with_its_meaning():
    fields = {f.name: f for f in dataclasses.fields(Report)}
    assert set(fields) >= FIELDS and set(VERDICT_FIELDS) <= set(fields)
    for field in fields.values():
        assert field.metadata["meaning"] and isinstance(field.metadata["unit"], str)
    _, _, result = finished_run()
    assert list(result.report) == list(fields)


def test_the_report_of_a_run_says_what_was_run():
    model, _, result = finished_run(seed=3, method="memft-ot")
    report = result.report
    facts = {"model": model.name, "rank": 2, "length": 10, "memories": 1, "ratio": 100, "layer": 2}
    facts |= {"site": "mlp", "method": "memft-ot", "seed": 3, "steps": 5, "optimizer": "adamw"}
    facts |= {"lr": 0.05, "device": "cpu", "dtype": "float32", "status": "ok"}
    facts |= {"trainable_parameters": 2 * 64 * 2, "entropy": math.log(97)}
    assert report.items() >= facts.items()
    for name in VERDICT_FIELDS:
        assert report[name] == getattr(result.verdict, name)


def test_several_memories_layers_and_sites_in_one_report():
    memories = [dataclasses.replace(toy_memory(4), ratio=100), toy_memory(6, seed=1)]
    options = {"sites": ("q_proj", "v_proj"), "layers": (3, 1)}
    report = memorize(toy_model(), memories, rank=1, steps=1, **options).report
    assert (report["length"], report["memories"]) == (10, 2)
    assert (report["layer"], report["site"]) == ([1, 3], "q_proj,v_proj")
    assert report["ratio"] is None and report["entropy"] is None  # of one memory it is unknown


@pytest.mark.parametrize("broken", [False, True])
def test_a_report_is_json_without_nan(monkeypatch, broken):
    """A loss that is NaN has diverged; no number and no verdict is reported for it."""
    real = probe.train

    def train_and_break(model, units, *args, **options):
        done = real(model, units, *args, **options)
        units[0].parameters()[1].data.fill_(math.nan)
        return done

    if broken:
        monkeypatch.setattr(probe, "train", train_and_break)
    _, _, result = finished_run()
    report = result.report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    judged = ("final_loss", "delta_loss", "stored_bits", "memorized_bits", *VERDICT_FIELDS)
    judged += ("calibrated_bits_per_parameter",)
    unknown = {name for name in judged if report[name] is None}
    if broken:
        assert unknown == set(judged)
        assert (report["status"], report["converged"]) == ("diverged", False)
    else:
        assert unknown <= {"first_error"} and report["status"] == "ok"
        assert report["argmax_accuracy"] < 1 and not report["thin"]


# --- Bits ----------------------------------------------------------------------------------------


def test_bits_by_hand():
    """10 tokens, L₀ = 5 ln 2, L = 2 ln 2 and at best 1 ln 2, H = 4 ln 2, 60 parameters."""
    ln2 = math.log(2)
    memory = dataclasses.replace(toy_memory(10), ratio=100, entropy=4 * ln2)
    bits = count_bits([memory], 60, base_loss=5 * ln2, loss=2 * ln2, best_loss=ln2)
    assert bits == {
        "length": 10,
        "trainable_parameters": 60,
        "entropy": pytest.approx(4 * ln2),
        "delta_loss": pytest.approx(3 * ln2),
        "stored_bits": pytest.approx(30),
        "bits_per_parameter": pytest.approx(0.5),
        "memorized_bits": pytest.approx(20),
        "memorized_bits_per_parameter": pytest.approx(1 / 3),
        "calibrated_bits_per_parameter": pytest.approx(1 / 2),
    }


def test_memorized_bits_are_never_below_zero():
    """Above H the unit knows nothing about the memory, though it has unlearned a part of L₀ − H."""
    memory = dataclasses.replace(toy_memory(10), ratio=100, entropy=math.log(97))
    bits = count_bits([memory], 60, base_loss=7.0, loss=6.0, best_loss=5.0)
    assert bits["memorized_bits"] == bits["memorized_bits_per_parameter"] == 0
    assert bits["calibrated_bits_per_parameter"] == 0
    assert bits["stored_bits"] > 0
    report = memorize(toy_model(), memory, rank=1, steps=1).report
    assert report["final_loss"] > report["entropy"] and report["memorized_bits"] == 0


def test_entropy_of_several_memories_is_their_mean_by_length():
    memories = [dataclasses.replace(toy_memory(n), entropy=float(n)) for n in (2, 6)]
    assert count_bits(memories, 1, 9.0, 1.0, 0.0)["entropy"] == pytest.approx((2 * 2 + 6 * 6) / 8)
    mixed = count_bits([memories[0], toy_memory(6)], 1, 9.0, 1.0, 0.0)
    assert math.isnan(mixed["entropy"]) and math.isnan(mixed["memorized_bits"])
    assert math.isnan(mixed["calibrated_bits_per_parameter"])
    assert mixed["stored_bits"] == pytest.approx(8 * 8 / math.log(2))


def test_bits_of_a_run_that_was_not_judged_are_unknown():
    memory = dataclasses.replace(toy_memory(10), entropy=3.0)
    for base_loss, loss, unknown in ((5.0, math.nan, 6), (math.nan, 1.0, 3)):
        bits = count_bits([memory], 60, base_loss, loss, loss)
        assert sum(map(math.isnan, bits.values())) == unknown and bits["entropy"] == 3.0


def test_bits_of_a_run():
    _, _, result = finished_run(steps=40)
    report = result.report
    gain = report["base_loss"] - report["final_loss"]
    assert report["delta_loss"] == pytest.approx(gain)
    assert report["stored_bits"] == pytest.approx(gain * 10 / math.log(2))
    assert report["bits_per_parameter"] == pytest.approx(report["stored_bits"] / 256)
    known = max(0, math.log(97) - report["final_loss"]) * 10 / math.log(2)
    assert report["memorized_bits"] == pytest.approx(known) and known > 0
    best = max(0, math.log(97) - report["calibrated_loss"]) * 10 / math.log(2) / 256
    assert report["calibrated_bits_per_parameter"] == pytest.approx(best) and best > known / 256
    assert memorize(toy_model(), toy_memory(10), rank=2, steps=2).report["memorized_bits"] is None


def test_a_memory_that_is_recited_is_there_whole():
    """ℓ · H / ln 2 bits, although the loss at T = 1 is not 0."""
    _, _, result = finished_run(rank=8, steps=150)
    report = result.report
    assert report["verbatim"] and report["final_loss"] > 0 and report["calibrated_loss"] is None
    whole = 10 * math.log(97) / math.log(2) / (2 * 64 * 8)
    assert report["calibrated_bits_per_parameter"] == pytest.approx(whole)
    assert report["memorized_bits_per_parameter"] < whole


# --- Saved runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "layers", "name"), [(("mlp",), None, OWN_FILE), (("q_proj",), (1, 2), PEFT_FILE)]
)
def test_a_saved_run_is_read_back_whole(tmp_path, sites, layers, name):
    model, memory = toy_model(), toy_memory(12)
    recipe = Recipe(rank=4, sites=sites, layers=layers, steps=60, lr=0.05)
    result = memorize(model, memory, recipe=recipe)
    save_run(result, model, recipe, tmp_path)
    present = {p.name for p in tmp_path.iterdir()}
    assert present == {name, "report.json"} | ({PEFT_CONFIG} if name == PEFT_FILE else set())
    about = read_unit(tmp_path)[1]
    assert about["base_weight_hash"] == model.weight_hash
    assert about["recipe"]["steps"] == 60 and about["rank"] == 4
    memories, report = read_run(tmp_path)
    assert memories == [memory] and report == json.loads((tmp_path / "report.json").read_text())
    fresh = toy_model()
    unit = load_adapter(fresh, tmp_path)
    assert unit.model is fresh
    result.unit.attach(model)
    assert torch.equal(fresh(IDS), model(IDS))


def saved_unit(folder):
    """A unit saved without a run: (file, tensors, header of the file)."""
    model = toy_model()
    save_adapter(Unit.create(model, 3), model, folder)
    path = folder / OWN_FILE
    return path, load_file(path), {"format": "pt", "tinymem": json.dumps(read_unit(folder)[1])}


def test_a_unit_without_a_run_has_no_memory_to_recall(tmp_path):
    saved_unit(tmp_path)
    with pytest.raises(AdapterError, match="carries no memory"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memories": []}, "carries no memory"),
        ({"memories": [{}]}, "carries no memory"),
        ({"report": [1]}, "carries no memory"),
        ({"report": {}}, "the report's model is None"),
        ({"memories": [{"prompt_ids": [], "target_ids": [2]}]}, "prompt_ids must be"),
        ({"memories": [{"prompt_ids": [1], "target_ids": [-2]}]}, "target_ids must be"),
        ({"recipe": {"rank": 0}}, "rank is 0"),
        ({"recipe": {"rank": 2, "of_a_version_to_come": 3, "method": "x"}}, "method is 'x'"),
    ],
)
def test_a_run_whose_header_lacks_what_recall_needs(tmp_path, change, message):
    path, tensors, metadata = saved_unit(tmp_path)
    _, _, result = finished_run()
    good = {"memories": [{"prompt_ids": [1], "target_ids": [2]}], "report": result.report}
    about = json.loads(metadata["tinymem"]) | good
    save_file(tensors, path, metadata | {"tinymem": json.dumps(about)})
    assert read_run(tmp_path)[0] == [Memory([1], [2])]
    save_file(tensors, path, metadata | {"tinymem": json.dumps(about | change)})
    with pytest.raises(AdapterError, match=message):
        read_run(tmp_path)


def test_memories_are_saved_as_ids(tmp_path):
    model, memory = toy_model(), Memory([1, 2], [3, 96], ratio=100, entropy=4.5)
    save_run(memorize(model, memory, rank=1, steps=2), model, Recipe(rank=1, steps=2), tmp_path)
    assert read_run(tmp_path)[0] == [memory]


@pytest.mark.parametrize("broken", ["nan", "untrained"])
def test_a_run_without_a_usable_unit_saves_its_report_alone(tmp_path, broken):
    model, recipe, result = finished_run()
    if broken == "nan":
        result.unit.parameters()[0].data[0, 0] = math.nan
    else:
        result = dataclasses.replace(result, training=type(result.training)())
    assert save_run(result, model, recipe, tmp_path) is False
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == result.report


def test_thin_is_recited_by_less_than_rounding_in_the_bases_dtype():
    model, _, result = finished_run(rank=8, steps=150)
    margins, half = result.verdict.margins, toy_model().to(torch.bfloat16)
    for lowest, base, thin in (
        *((THIN, model, True), (1.01 * THIN, model, False), (0.0, model, False)),
        *((THIN_IN_BFLOAT16, half, True), (1.01 * THIN_IN_BFLOAT16, half, False)),
        *((0.0, half, False), (-1.0, half, False)),
    ):
        verdict = dataclasses.replace(result.verdict, margins=[*margins[:-1], lowest])
        assert recall_report(result.report, result.memories, verdict, base)["thin"] == thin


def test_recall_agrees_unless_the_verdict_or_the_loss_is_another():
    model, _, result = finished_run(rank=8, steps=150)
    assert result.report["certified"]
    again = recall_report(result.report, result.memories, result.verdict, model)
    assert again == result.report | {"agrees": True}
    other = memorize(model, result.memories, rank=8, steps=1)
    again = recall_report(result.report, result.memories, other.verdict, model)
    assert not again["agrees"] and not again["certified"]
    for name in ("final_loss", "stored_bits", "calibrated_bits_per_parameter", *VERDICT_FIELDS):
        assert again[name] == other.report[name]
    near = result.report | {"final_loss": result.report["final_loss"] + 0.002}
    assert not recall_report(near, result.memories, result.verdict, model)["agrees"]


def test_a_report_from_before_there_were_margins_is_recalled(tmp_path):
    """Version 0.1.0 wrote no margins and nothing of a readout temperature."""
    model, recipe, result = finished_run(rank=8, steps=150)
    newer = ("min_margin", "thin", "argmax_accuracy", "first_uncertified")
    newer += ("readout_temperature", "calibrated_loss", "calibrated_bits_per_parameter")
    older = {name: value for name, value in result.report.items() if name not in newer}
    save_run(dataclasses.replace(result, report=older), model, recipe, tmp_path)
    memories, report = read_run(tmp_path)
    assert report == {**dict.fromkeys(newer), **older}
    again = recall_report(report, memories, result.verdict, model)
    assert again == result.report | {"agrees": True} and not again["thin"]
