"""Objects as one line. Oracle: lines written by hand, from numbers that stand beside them."""

from dataclasses import replace

import pytest

import tinymem as tm
from tests.law.planted import LENGTHS, RANKS, noisy
from tests.toy import toy_memory, toy_model
from tinymem.experiment.report import Result
from tinymem.law.fit import fit_rows
from tinymem.law.plan import plan_length, plan_rank
from tinymem.law.recall import fit_recall
from tinymem.law.recite import RecitePlan
from tinymem.show.one_line import WIDTH

TWO_TOKENS = dict(losses=[0.1, 0.3], predicted=[5, 6], targets=[5, 6], lengths=[2])
SURE = tm.Verdict(**TWO_TOKENS, margins=[3.5, 2.25], decoded=[5, 6], probabilities=[0.9, 0.74])
REPORT = dict(rank=8, length=1280, method="margin", status="ok", verbatim=True, final_loss=0.28)
REPORT |= dict(bits_per_parameter=0.55, calibrated_bits_per_parameter=0.34)
ROWS = [
    dict(model="tiny", layer=2, site="mlp", method="sft", rank=int(r), length=int(n))
    | dict(base_loss=12.0, delta_loss=d, trainable_parameters=int(r) * 512)
    for r, n, d in zip(RANKS, LENGTHS, noisy((8, 0.5, 0.5, 1), 0.02, 0), strict=True)
]


@pytest.fixture(scope="module")
def fit() -> tm.Fit:
    return fit_rows(ROWS)[0][0]


def test_a_tokenizer(pristine):
    tokenizer = tm.load(pristine, device="cpu")[1]
    assert repr(tokenizer) == "Tokenizer(264 plain tokens, no chat template)"


def test_a_memory():
    memory = tm.Memory([1], range(1500), ratio=100)
    assert repr(memory) == "Memory(1 prompt token, 1,500 target tokens, 100 % random)"
    assert repr([tm.Memory([1, 2], [3])]) == "[Memory(2 prompt tokens, 1 target token)]"


def test_a_unit():
    model = toy_model()
    unit = tm.Unit.create(model, 2)
    assert repr(unit) == "Unit(rank 2, layers.2.mlp, 256 parameters)"
    sites = dict(sites=["q_proj", "v_proj"], layers=[0, 1])
    wide = tm.Unit.create(model, 2, **sites).attach(model)
    where = "4 LoRAs in layers 0 to 1"
    assert (
        repr(wide) == f"Unit(rank 2, {where}, {wide.trainable_parameters()} parameters, attached)"
    )
    wide.merge()
    assert repr(wide).endswith("parameters, merged)")


def test_a_verdict():
    line = "2 tokens, recited, lowest margin 2.250 logits, loss 0.200 nats"
    assert repr(SURE) == f"Verdict({line}, certified)"
    wrong = replace(SURE, margins=[3.5, -0.5], predicted=[5, 7], decoded=[5, 7], lengths=[1, 1])
    wrong = replace(wrong, probabilities=[0.9, 0.3])
    outcome = "not recited: 1 wrong argmaxes, first error at 0"
    assert repr(wrong) == f"Verdict(2 tokens in 2 memories, {outcome}, loss 0.200 nats)"


def test_a_result():
    unit = tm.Unit.create(toy_model(), 2)
    line = "rank 8, 1,280 tokens, margin: recited, loss 0.280 nats, 0.34 bits/parameter"
    assert repr(Result(REPORT, [], unit)) == f"Result({line})"
    worse = {"status": "diverged", "verbatim": False, "calibrated_bits_per_parameter": None}
    line = "margin: diverged, not recited, loss 0.280 nats, 0.55 bits/parameter"
    assert repr(Result(REPORT | worse, [], unit)) == f"Result(rank 8, 1,280 tokens, {line})"
    none = {"status": "oom", "final_loss": None}
    assert repr(Result(REPORT | none, [], unit)) == "Result(rank 8, 1,280 tokens, margin: oom)"
    assert repr(Result({}, [], unit)).startswith("Result(no report, rank 2, layers.2.mlp")


def test_a_run_that_was_made_says_so_in_few_characters():
    result = tm.memorize(toy_model(), toy_memory(4), rank=1, steps=2)
    assert repr(result).startswith("Result(rank 1, 4 tokens, sft: ")
    assert repr(result.training).startswith("Training(sft, 2 steps, ok, loss ")
    assert repr(result.verdict).startswith("Verdict(4 tokens, ")


def test_laws_and_their_fit(fit):
    law, constants = fit.law, r"ΔL = {:.3g}·r^{:.2f}·ℓ^−{:.2f} + {:.3g}"
    text = constants.format(law.C, law.alpha, law.beta, law.b)
    assert repr(law) == f"Law({text}, R² {law.r2:.3f}, 25 runs)"
    assert repr(fit) == f"Fit(tiny, 2, mlp, sft: {text}, R² {law.r2:.3f}, 25 runs)"
    assert repr(fit_rows(ROWS, offset=False)[0][0].law).count("+") == 0
    recall = fit_recall([0.01, 0.02, 0.03, 0.04], [1, 1, 0, 0], [512] * 4, parameters_per_rank=512)
    half = recall.half(512) * 512
    line = f"half of the runs recite {half:,.0f} tokens at rank 1; 2 of 4 recited"
    assert repr(recall) == f"RecallLaw({line})"
    known = replace(fit, recall=recall, law="6 cells are missing")
    assert repr(known) == "Fit(tiny, 2, mlp, sft: no power law; with a recall law)"


def test_plans(fit):
    plan = plan_rank(fit, 100, loss=6.0)
    share = f"in {100 * plan.probability:.0f} % of fresh runs"
    assert repr(plan) == f"Plan(rank {plan.rank} for 100 tokens, at 6.000 nats, {share})"
    longest = plan_length(fit, 4, loss=6.0)
    assert repr(longest).startswith(f"Plan({longest.length} tokens at rank 4, at 6.000 nats, in ")
    fields = dict(asked="rank", rank=None, length=10**6, by_rank={}, interval=(None, None))
    fields |= dict(parameters=None, bytes=None, kept=None, recite=0.9)
    never = RecitePlan(**fields, probability=None)
    line = "no rank for 1,000,000 tokens, recited, in 90 % of fresh runs"
    assert repr(never) == f"RecitePlan({line})"


def test_a_line_stays_one_line_whatever_a_stranger_wrote(fit):
    key = {"model": "a\nb\x1b[31m" + "c" * 500, "layer": 2, "site": "mlp", "method": "sft"}
    text = repr(replace(fit, key=key))
    assert text.isprintable() and len(text) <= WIDTH and "a b\\x1b[31mccc" in text
    unit = tm.Unit.create(toy_model(), 2)
    long = repr(Result(REPORT | {"method": "x" * 500}, [], unit))
    assert len(long) == WIDTH and long.endswith("x…)")


def test_a_class_of_ones_own_is_described_as_the_class_it_extends():
    class Mine(tm.Unit):
        """A unit with more to it."""

    unit = Mine(tm.Unit.create(toy_model(), 2).loras)
    assert repr(unit) == "Mine(rank 2, layers.2.mlp, 256 parameters)"
