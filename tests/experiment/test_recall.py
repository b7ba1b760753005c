"""The verdict. Oracles: decoding without a cache, and the definitions of margin and certificate.

Margins are also compared with those of transformers' logits, in test_readout.py.
"""

import math

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tinymem.base.progress import SILENT
from tinymem.data.batch import Batch
from tinymem.data.memory import Memory
from tinymem.experiment.probe import memorize
from tinymem.experiment.recall import Verdict, judge, judge_units, teacher_forced
from tinymem.unit.lora import Unit


def slow_decode(model, memory):
    """Greedy decoding that computes the whole sequence again for each token."""
    ids = list(memory.prompt_ids)
    for _ in range(memory.length):
        ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(memory.prompt_ids) :]


def written(rank=4, length=24, steps=120):
    model = toy_model()
    memory = toy_memory(length)
    result = memorize(model, memory, rank=rank, steps=steps, lr=0.05)
    return result.unit.attach(model).model, memory, result.verdict


def test_decoding_equals_decoding_without_a_cache():
    for rank, steps in ((8, 150), (1, 40)):  # the first recites, the second does not
        model, memory, verdict = written(rank=rank, steps=steps)
        assert verdict.decoded == slow_decode(model, memory)
        assert judge(model, memory) == verdict


def test_margins_above_zero_mean_exact_recall_and_nothing_else_does():
    """Over bases, ranks and steps, converged or not; and certified implies recited."""
    seen = set()
    for seed, rank, steps in [(s, r, n) for s in range(3) for r in (1, 2, 4) for n in (25, 80)]:
        model, memory = toy_model(seed), toy_memory(16, seed=seed)
        verdict = memorize(model, memory, rank=rank, steps=steps, lr=0.05).verdict
        above = [m > 0 for m in verdict.margins]
        assert all(above) == verdict.verbatim == verdict.recall_exact
        assert above == [a == b for a, b in zip(verdict.predicted, verdict.targets, strict=True)]
        assert verdict.first_error == (None if all(above) else above.index(False))
        assert verdict.recall_exact or not verdict.certified
        assert verdict.certified == (verdict.certified_fraction == 1) == (not verdict.stubborn)
        seen.add((verdict.recall_exact, verdict.certified))
    assert seen == {(True, True), (True, False), (False, False)}


def test_a_tie_is_not_recited():
    """Two tokens with the same row of the head have the same logit, and decoding takes the first.

    The verdict must not depend on which of the two that is.
    """
    model = toy_model()
    memory = memorize(model, toy_memory(1), rank=8, steps=60, lr=0.05)
    unit, (low, high) = memory.unit.attach(model), sorted((memory.verdict.targets[0], 50))
    model.lm_head.weight[50] = model.lm_head.weight[memory.verdict.targets[0]]
    for token in (low, high):
        verdict = judge(model, Memory(memory.memories[0].prompt_ids, [token]))
        assert verdict.margins == [0] and not verdict.verbatim and not verdict.certified
        assert verdict.recall_exact == (token == low) and verdict.wrong == verdict.stubborn == [0]
    unit.detach()


def test_losses_are_those_of_the_whole_pass():
    model, memory = toy_model(), toy_memory(12, prompt=5)
    ids = torch.tensor([memory.prompt_ids + memory.target_ids])
    expected = -model(ids).log_softmax(-1)[0, 4:-1].gather(1, ids[0, 5:, None]).squeeze(1)
    verdict = judge(model, memory)
    assert torch.allclose(torch.tensor(verdict.losses), expected, atol=1e-5)
    assert torch.allclose(torch.tensor(verdict.probabilities), expected.neg().exp(), atol=1e-6)


def test_losses_of_a_bfloat16_base_are_in_float32():
    """As if its weights, which are rounded to bfloat16, had been stored in float32."""
    half, memory = toy_model().to(torch.bfloat16), toy_memory(12)
    wide = toy_model().to(torch.bfloat16).to(torch.float32)
    ours, expected = judge(half, memory), judge(wide, memory)
    assert ours.losses == pytest.approx(expected.losses, abs=1e-5)  # in bfloat16 about 2e-2
    assert ours.decoded == expected.decoded


def test_chunks_do_not_change_the_verdict(monkeypatch):
    model, batch = toy_model(), Batch([toy_memory(30)], 128, torch.device("cpu"))
    whole = teacher_forced(model, batch)
    assert len(whole.states) == len(whole.margins) == 30
    monkeypatch.setattr("tinymem.training.loss.CHUNK", 97 * 7)  # 7 rows at a time
    parts = teacher_forced(model, batch)
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def verdict(**fields) -> Verdict:
    given = dict(
        losses=[0.1, 0.2, 0.3, 0.4],
        margins=[3.0, 2.0, 1.0, 0.5],
        predicted=[5, 6, 7, 8],
        decoded=[5, 6, 7, 8],
        targets=[5, 6, 7, 8],
        lengths=[4],
        probabilities=[0.9, 0.8, 0.7, 0.6],
    )
    return Verdict(**(given | fields))


def test_by_hand():
    good = verdict()
    assert good.certified and good.verbatim and good.recall_exact and good.first_error is None
    assert good.loss == 0.25 and good.min_probability == 0.6 and good.token_accuracy == 1

    assert good.min_margin == 0.5 and good.argmax_accuracy == 1 and good.first_uncertified is None

    derailed = verdict(
        **{"decoded": [5, 0, 7, 0], "predicted": [5, 0, 7, 8]},
        **{"margins": [3.0, -0.2, 0.1, 0.5], "probabilities": [0.9, 0.4, 0.5, 0.6]},
    )
    assert derailed.wrong == [1] and derailed.argmax_accuracy == 0.75 and not derailed.verbatim
    assert derailed.stubborn == [1, 2]  # p = ½ is not enough, because two tokens may have it
    assert derailed.certified_fraction == 0.5 and not derailed.certified
    assert derailed.token_accuracy == 0.5 and derailed.first_error == 1
    assert derailed.min_margin == -0.2 and derailed.first_uncertified == 1


def test_wrong_tokens_come_before_those_that_only_lack_the_certificate():
    """Tokens 0 and 3 are wrong; 1 and 2 are the likeliest although p ≤ ½; 4 is certified."""
    margins, p = [-0.1, 0.2, 0.1, -2.0, 5.0], [0.3, 0.25, 0.4, 0.35, 0.9]
    five = verdict(margins=margins, probabilities=p, lengths=[5])
    assert five.wrong == [3, 0] and five.stubborn == [3, 0, 1, 2]


def test_one_half_itself_is_not_certified():
    """At p = ½ another token may be as likely, and greedy decoding may choose that one."""
    at, above = verdict(probabilities=[0.9, 0.5, 0.7, 0.6]), math.nextafter(0.5, 1)
    assert not at.certified and at.certified_fraction == 0.75 and at.stubborn == [1]
    just = verdict(probabilities=[0.9, above, 0.7, 0.6])
    assert just.certified and just.certified_fraction == 1 and just.stubborn == []


def test_sufficient_but_not_necessary():
    recited = verdict(probabilities=[0.9, 0.3, 0.7, 0.6])
    assert recited.stubborn == [1] and not recited.wrong
    assert recited.recall_exact and recited.verbatim and not recited.certified


def test_positions_count_within_each_memory():
    two = verdict(lengths=[1, 3], decoded=[5, 6, 0, 8], probabilities=[0.9, 0.9, 0.9, 0.2])
    assert two.positions == [0, 0, 1, 2]
    assert two.first_error == 1 and two.first_uncertified == 2
    assert two.exact_match == 0.5 and verdict(lengths=[2, 2]).exact_match == 1


def test_nan_is_never_certified_and_never_recited():
    nan = float("nan")
    assert not verdict(probabilities=[nan, 0.9, 0.9, 0.9]).certified
    assert verdict(probabilities=[0.9, nan, 0.9, 0.9]).stubborn == [1]
    assert not verdict(margins=[1.0, 1.0, nan, 1.0]).verbatim


def test_prompts_of_different_lengths_decode_as_if_alone():
    model = toy_model()
    memories = [Memory([1, 2], [3] * 5), Memory([4], [5] * 7), Memory([6, 7], [8] * 3)]
    together = judge(model, memories).decoded
    alone = [token for m in memories for token in slow_decode(model, m)]
    assert together == alone


def test_a_unit_judged_is_the_unit_attached():
    model, memory = toy_model(), toy_memory()
    base = judge(model, memory).loss
    unit = Unit.create(model, 2).attach(model)
    assert judge(model, memory).loss == base  # a new unit has B = 0
    unit.loras["layers.2.mlp"].B.data.normal_()
    assert judge(model, memory).loss != base


# --- Several units in one batch -------------------------------------------------------------------


@pytest.mark.parametrize("positions", [1 << 14, 60])
def test_units_judged_together_get_the_same_verdicts_as_alone(monkeypatch, positions):
    """Also in several parts, with dropout, with different ranks, and if one is not finite."""
    monkeypatch.setattr("tinymem.data.batch.POSITIONS", positions)
    model, memories = toy_model(), [[toy_memory(12, seed=n)] for n in range(5)]
    units = [Unit.create(model, rank=1 + n, seed=n, dropout=0.5) for n in range(5)]
    for n, unit in enumerate(units):
        unit.loras["layers.2.mlp"].B.data = torch.randn(1 + n, 64) * (math.nan if n == 3 else 0.3)
    for n, verdict in enumerate(judge_units(model, units, memories, SILENT)):
        units[n].attach(model).train(False)
        alone = judge(model, memories[n])
        units[n].detach()
        assert verdict.losses == pytest.approx(alone.losses, abs=1e-5, nan_ok=True)
        assert (verdict.predicted, verdict.decoded) == (alone.predicted, alone.decoded)
        assert (verdict.targets, verdict.lengths) == (alone.targets, alone.lengths)
        assert verdict.probabilities == pytest.approx(alone.probabilities, abs=1e-5, nan_ok=True)
        assert verdict.margins == pytest.approx(alone.margins, abs=1e-4, nan_ok=True)
        assert verdict.calibrated_loss == pytest.approx(
            alone.calibrated_loss, abs=1e-4, nan_ok=True
        )
    assert n == 4


@pytest.mark.parametrize("allowed", ["highest", "medium"])
def test_the_verdict_is_in_full_precision_and_restores_the_setting(monkeypatch, allowed):
    model, seen = toy_model(), []
    run, precision = type(model).run, torch.get_float32_matmul_precision

    def note_precision(*args, **options):
        seen.append(precision())
        return run(*args, **options)

    monkeypatch.setattr(type(model), "run", note_precision)
    before = precision()
    torch.set_float32_matmul_precision(allowed)
    try:
        judge(model, toy_memory(3))
        assert precision() == allowed and set(seen) == {"highest"} and len(seen) == 4
    finally:
        torch.set_float32_matmul_precision(before)
