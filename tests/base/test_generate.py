"""What a model says. Oracle: transformers' generate(do_sample=False), with the same end ids."""

import json

import pytest
import torch

import tinymem as tm
from tests.checkpoints import build, draw_ids, edit_json
from tests.toy import toy_model
from tinymem.base.checkpoint import load

TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"


def texts_by_transformers(oracle, tokenizer, ids: torch.Tensor, end_ids: list[int]) -> str:
    """The text without the token that ends it."""
    options = {"do_sample": False, "max_new_tokens": 40, "pad_token_id": 0}
    out = oracle.generate(ids, eos_token_id=end_ids or None, **options)[0, ids.shape[1] :].tolist()
    return tokenizer.decode(out[:-1] if out[-1] in end_ids else out)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gpt_neox"])
def test_equals_transformers_and_ends_where_it_does(kind, tmp_path):
    oracle = build(tmp_path, kind)
    prompt = draw_ids(9)
    model, tokenizer = load(tmp_path, device="cpu")
    whole = tm.generate(model, prompt[0].tolist(), 40)
    assert whole == texts_by_transformers(oracle, tokenizer, prompt, [])
    said = tm.greedy(model, prompt, 40)[0].tolist()
    for place in (0, 7, 39):  # end with a token that comes there, or already before
        edit_json(tmp_path / "config.json", eos_token_id=[said[place], 3])
        model, tokenizer = load(tmp_path, device="cpu")
        shorter = tm.generate(model, prompt[0], 40)
        ends = [said[place], 3]
        assert shorter == texts_by_transformers(oracle, tokenizer, prompt, ends)
        end = min(said.index(i) for i in ends if i in said)
        assert shorter == tokenizer.decode(said[:end])


def test_the_ids_that_end_a_text(folder):
    for name in ("config.json", "generation_config.json"):
        (folder / name).exists() or (folder / name).write_text("{}")
    edit_json(folder / "config.json", eos_token_id=1)
    edit_json(folder / "generation_config.json", eos_token_id=[2, None, "x", True])
    settings = {"eos_token": {"content": "<|end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load(folder, device="cpu")[1].end_ids == {1, 2, 267}
    (folder / "generation_config.json").write_text("{damaged")
    (folder / "tokenizer_config.json").write_text("{}")
    assert load(folder, device="cpu")[1].end_ids == {1}


def test_a_text_goes_through_the_chat_template(folder):
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    model, tokenizer = load(folder, device="cpu")
    inside = tokenizer.encode("<|user|>the king<|end|>", special=False)
    assert tm.generate(model, "the king", 12) == tm.generate(model, inside, 12)
    plain = tm.generate(model, "the king", 12, chat=False)
    assert plain == tm.generate(model, tokenizer.encode("the king"), 12)
    assert plain != tm.generate(model, inside, 12)


def test_a_unit_changes_what_is_said():
    model, tokenizer = tm.load("tiny", device="cpu")
    memory = tm.text_memory(tokenizer, "Call me Ishmael. Some years ago", prompt="Who are you?")
    result = tm.memorize(model, memory, rank=8, steps=120, stop_when_recited=True)
    before = tm.generate(model, "Who are you?", memory.length)
    with result.unit.attached(model):
        assert (
            tm.generate(model, "Who are you?", memory.length) == "Call me Ishmael. Some years ago"
        )
    assert tm.generate(model, "Who are you?", memory.length) == before


def test_bad_prompts_are_refused_before_anything_is_computed(pristine):
    model, _ = load(pristine, device="cpu")
    model.forward = model.run = None  # whatever computes would fail
    for prompt in ([], [-1], [272], [0.5], ["the"]):
        with pytest.raises(tm.DataError, match="token id from 0 to 271"):
            tm.generate(model, prompt)
    with pytest.raises(tm.DataError, match="the prompt is empty"):
        tm.generate(model, " ")
    for tokens in (0, 160, 10**12):
        with pytest.raises(
            tm.DataError, match="expected 1 to 159, because 1 of the context of 160"
        ):
            tm.generate(model, [5], tokens)
    with pytest.raises(tm.DataError, match=r"no tokenizer; tm\.load"):
        tm.generate(toy_model(), [1])
