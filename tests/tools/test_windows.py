"""The audit of a document. Oracle: transformers' generate(), window by window."""

import pytest
import torch

from tests.checkpoints import build, draw_ids
from tests.toy import toy_model
from tinymem.base.checkpoint import load
from tinymem.base.model import greedy
from tinymem.base.progress import SILENT, Progress
from tinymem.errors import DataError
from tinymem.tools import windows
from tinymem.tools.windows import Audit, Document, audit
from tinymem.unit.lora import Unit

K, N = 8, 12


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A model, a document of which parts are what it says by itself, and what transformers'
    model decodes in each window, without and with a token before the context.
    """
    folder = tmp_path_factory.mktemp("windows") / "gpt2"
    oracle = build(folder, "gpt2")
    model, _ = load(folder)
    ids = draw_ids(90)[0].tolist()
    for start in (20, 29, 60):
        ids[start : start + N] = generate(oracle, [ids[start - K : start]])[0]
    contexts = [ids[start - K : start] for start in range(K, len(ids) - N + 1)]
    decoded = {b: generate(oracle, [[*b, *context] for context in contexts]) for b in ((), (3,))}
    return model, ids, decoded


def generate(oracle, prompts):
    new = oracle.generate(torch.tensor(prompts), max_new_tokens=N, do_sample=False)
    return new[:, len(prompts[0]) :].tolist()


def before_first_error(decoded, wanted):
    return next((t for t in range(N) if decoded[t] != wanted[t]), N)


@pytest.mark.parametrize("at_once", [1, 50, 10_000])
def test_every_window_is_recited_as_far_as_transformers_decodes_it(case, monkeypatch, at_once):
    model, ids, decoded = case
    monkeypatch.setattr(windows, "AT_ONCE", at_once)
    monkeypatch.setattr(windows, "thin_for", lambda dtype: 1e9)  # so that every margin is thin
    for before, answers in decoded.items():
        found = audit(model, None, Document(ids, list(before), K, N, stride=1), SILENT)
        pairs = [(answer, ids[K + n : K + n + N]) for n, answer in enumerate(answers)]
        assert found.right == [before_first_error(*pair) for pair in pairs]
        assert len(set(found.right)) > 3 and found.thin == len(found.recited)
    assert {29, 60} <= set(audit(model, None, Document(ids, [], K, N, 1), SILENT).recited)


def made(recited, length=200, window=50):
    """An audit in which the windows at these places are recited, and all others fail at once."""
    document = Document([0] * length, [], 32, window, 1)
    right = [window if start in recited else 0 for start in document.starts]
    return Audit(document, right, 0, None, False)


def test_spans_by_hand():
    assert made([]).spans == [] and made([]).longest == 0
    assert made([32]).spans == [(32, 82)]
    found = made([32, 42, 92, 143])  # the first three overlap or touch
    assert found.spans == [(32, 142), (143, 193)] and found.longest == 110
    assert found.recited == [32, 42, 92, 143] and found.as_dict()["recited"] == 4


def test_the_windows_of_a_document_by_hand():
    document = Document(list(range(100)), [7], context=3, window=5, stride=40)
    assert document.starts == [3, 43, 83]
    assert document.memory(43).prompt_ids == (7, 40, 41, 42)
    assert document.memory(43).target_ids == (43, 44, 45, 46, 47)
    assert [m.target_ids[0] for m in document.spread(2)] == [3, 83]
    assert len(document.spread(10)) == 3
    assert Document(list(range(8)), [], 3, 5).starts == [3]  # it just fits


def test_what_is_recited_without_the_adapter_too(case):
    """A unit that changes the logits: the audit with it, and of the recited windows without it."""
    model, ids, _ = case
    unit = Unit.create(model, 2, sites=("c_attn",), layers=(0, 1))
    for p in unit.parameters():
        torch.nn.init.normal_(p, 0, 0.15, generator=torch.Generator().manual_seed(1))
    with unit.attached(model):
        ids = [*ids[:40], *greedy(model, torch.tensor([ids[32:40]]), N)[0].tolist(), *ids[52:]]
    document = Document(ids, [], K, N, 1)
    bare = audit(model, None, document, SILENT)
    found = audit(model, unit, document, SILENT)
    with unit.attached(model):
        same = audit(model, None, document, SILENT)
    assert found.right == same.right != bare.right and bare.base_recited is None
    assert 0 < found.base_recited < len(found.recited)
    assert found.base_recited == len(set(found.recited) & set(bare.recited))
    assert audit(model, None, document, SILENT) == bare  # the base is as it was


def test_ties_are_not_recited_and_small_margins_are_thin():
    """Two rows of the head are equal, or nearly so: a margin of 0, and one of less than 0.001."""
    for difference, recited, thin in ((0, False, 0), (1e-5, True, 1), (1e-1, True, 0)):
        model = toy_model()
        head, ids = model.lm_head.weight.data, [5, 6, 7, 8]
        x = model.norm(model.run(model.embed(torch.tensor([ids[:3]]))))[0, -1]
        head[8] = 2 * x / x.norm()  # by far the likeliest after 5, 6, 7
        head[4] = head[8] * (1 - difference)
        found = audit(model, None, Document(ids, [], 3, 1), SILENT)
        assert (found.right == [1], found.thin) == (recited, thin)


def test_ctrl_c_keeps_the_windows_that_were_judged(case, monkeypatch):
    class Impatient(Progress):
        def track(self, items, what):
            for number, item in enumerate(items):
                if number == 2:
                    raise KeyboardInterrupt
                yield item

    model, ids, _ = case
    monkeypatch.setattr(windows, "AT_ONCE", 5 * (K + N))
    document = Document(ids, [], K, N, 1)
    found = audit(model, Unit.create(model, 1), document, Impatient())
    assert found.interrupted and found.base_recited is None
    assert found.right == audit(model, None, document, SILENT).right[:10]
    assert not hasattr(model.layers[1].mlp, "lora")  # the unit is out


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"stride": 0}, "--stride is 0"),
        ({"window": -1}, "--window is -1"),
        ({"context": 0}, "--context is 0"),
        ({"context": 100, "window": 100}, "201 tokens of prompt, context and window exceed"),
        ({"context": 50, "window": 60}, "the text has 100 tokens, fewer than 50"),
    ],
)
def test_windows_that_are_not_possible(sizes, words):
    with pytest.raises(DataError, match=words):
        Document([1] * 100, [1], **sizes).check(200)
