"""`tinymem merge`: a folder that recites by itself. Oracle: transformers generates from it."""

import dataclasses
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import build, edit_json
from tests.unit.test_peft import written_by_peft
from tinymem.base.checkpoint import load
from tinymem.cli import merge as merge_file
from tinymem.unit.adapter import save_adapter
from tinymem.unit.lora import Unit

TRAIN = ("--layer", "all", "--rank", "4", "--length", "10", "--method", "margin", "--steps", "60")
KINDS = {
    "gpt2": "c_attn,c_fc",
    "llama": "q_proj,down_proj",
    "qwen3": "v_proj,o_proj",
    "gpt_neox": "query_key_value",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A function from a kind to the folder of a run on a random base, in a folder beside it."""
    done = {}

    def train(kind, tinymem):
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            build(folder / "base", kind, tie_word_embeddings=kind != "llama")
            where = ("--model", folder / "base", "--site", KINDS[kind], "--out", folder / "run")
            assert tinymem("probe", *TRAIN, *where)[0] == 0
            done[kind] = folder / "run"
        return done[kind]

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_generates_the_memory(tinymem, tmp_path, run, kind):
    folder = run(kind, tinymem)
    code, out, err = tinymem("merge", folder, "--out", tmp_path / "out", "--json")
    assert code == 0 and err == f"base model of this unit: {folder.parent / 'base'}\n"
    found = json.loads(out)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    (memory,) = merge_file.read_run(folder)[0]
    prompt = torch.tensor([memory.prompt_ids])
    ids = theirs.generate(prompt, max_new_tokens=memory.length, do_sample=False, pad_token_id=0)
    assert tuple(ids[0, prompt.shape[1] :].tolist()) == memory.target_ids
    # The lowest margin, by hand from transformers' logits
    whole = torch.tensor([memory.prompt_ids + memory.target_ids])
    logits = theirs(whole).logits[0, prompt.shape[1] - 1 : -1].detach()
    targets = torch.tensor(memory.target_ids)[:, None]
    right = logits.gather(1, targets)
    lowest = (right - logits.scatter(1, targets, -torch.inf).amax(1, keepdim=True)).min().item()
    report = json.loads((folder / "report.json").read_text())
    assert report["verbatim"] and found["before"]["min_margin"] == report["min_margin"] > 0
    assert found["after"]["min_margin"] == pytest.approx(lowest, abs=1e-4)
    assert found["after"]["final_loss"] == pytest.approx(report["final_loss"], abs=1e-4)
    assert found["after"]["recall_exact"] and not found["after"]["thin"]
    assert found["dtype"] == "float32" and found["shards"] == 1
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert found["changed"] == found["matrices"] == 2 * len(KINDS[kind].split(","))


def test_judge_gives_one_answer_for_the_unit_and_the_folder(tinymem, tmp_path, run):
    folder = run("llama", tinymem)
    assert tinymem("merge", folder, "--out", tmp_path / "out", "--dtype", "bfloat16")[0] == 0
    (memory,) = merge_file.read_run(folder)[0]
    row = {"prompt_ids": memory.prompt_ids, "target_ids": memory.target_ids}
    (tmp_path / "row.jsonl").write_text(json.dumps(row))
    data = ("--data", tmp_path / "row.jsonl", "--expect", "recited", "--json")
    unit = tinymem("judge", "--adapter", folder, *data)
    whole = tinymem("judge", "--model", tmp_path / "out", *data)
    assert unit[0] == whole[0] == 0
    unit, whole = (json.loads(one[1]) for one in (unit, whole))
    assert whole["min_margin"] != unit["min_margin"]
    assert whole["min_margin"] == pytest.approx(unit["min_margin"], abs=0.5)


def flip(monkeypatch, *, last):
    """The verdict on the unit, or the last one, is that one margin is not above 0."""
    real, calls = merge_file.judge, []

    def judge(*args):
        calls.append(args)
        verdict = real(*args)
        if (len(calls) == 2) != last:
            return verdict
        return dataclasses.replace(verdict, margins=[-0.1, *verdict.margins[1:]])

    monkeypatch.setattr(merge_file, "judge", judge)


def test_the_screen_and_the_exit_code(tinymem, tmp_path, run, monkeypatch):
    folder = run("llama", tinymem)
    base = folder.parent / "base"
    code, out, _ = tinymem("merge", folder, "--out", tmp_path / "same")
    assert code == 0 and f"merged into {base}: 4 of 4 matrices" in out
    assert "float32 weights in 1 file" in out and "Recited: proof from one pass" in out
    assert out.split("recited")[1].split()[:2] == ["yes", "yes"]
    assert f"tinymem judge --text FILE --model {tmp_path / 'same'}" in out
    flip(monkeypatch, last=True)
    code, out, _ = tinymem("merge", folder, "--out", tmp_path / "lost", "--dtype", "bfloat16")
    assert code == 1 and "No longer recited" in out and "merge with --dtype float32" in out
    assert out.split("recited")[1].split()[:2] == ["yes", "no"]
    assert (tmp_path / "lost" / "model.safetensors").exists()
    code, out, _ = tinymem("merge", folder, "--out", tmp_path / "lost2", "--json")
    assert code == 0 and json.loads(out)["after"]["verbatim"]  # flip counts both calls
    monkeypatch.undo()
    flip(monkeypatch, last=False)
    code, out, _ = tinymem("merge", folder, "--out", tmp_path / "won")
    assert code == 0 and "No longer" not in out


@pytest.fixture
def adapter(tmp_path, capsys):
    """The folders of a base and of an adapter by peft."""
    theirs = build(tmp_path / "base", "llama")
    written_by_peft(tmp_path / "adapter", theirs, target_modules=["q_proj", "v_proj"])
    capsys.readouterr()  # transformers' own progress
    return tmp_path / "base", tmp_path / "adapter"


def test_an_adapter_of_pefts_finds_its_base_and_has_no_verdict(tinymem, tmp_path, adapter):
    base, folder = adapter
    config = folder / "adapter_config.json"
    edit_json(config, base_model_name_or_path=str(base))
    code, out, err = tinymem("merge", folder, "--out", tmp_path / "one")
    assert code == 0 and err == f"base model of this unit: {base}\n"
    assert "4 of 4 matrices" in out and "recited" not in out and "judge any text on it" in out
    edit_json(config, base_model_name_or_path=None)
    code, out, err = tinymem("merge", folder, "--model", base, "--out", tmp_path / "two", "--json")
    found = json.loads(out)
    assert code == 0 and err == "" and found["before"] is None and found["after"] is None
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    edit_json(config, base_model_name_or_path="org/other")
    code, _, err = tinymem("merge", folder, "--model", base, "--out", tmp_path / "three")
    assert code == 0 and err == f"another base? the adapter names org/other, and this is {base}\n"


def test_an_adapter_that_changes_nothing_is_said_to(tinymem, tmp_path, adapter):
    base, folder = adapter
    weights = load_file(folder / "adapter_model.safetensors")
    for factor, dtype, words in ((0, "auto", "A B is zero"), (1e-20, "bfloat16", "to bfloat16")):
        less = {k: v * (factor if "lora_B" in k else 1) for k, v in weights.items()}
        save_file(less, folder / "adapter_model.safetensors")
        out = tmp_path / dtype
        code, text, _ = tinymem("merge", folder, "--model", base, "--dtype", dtype, "--out", out)
        assert code == 0 and "0 of 4 matrices" in text and words in text
        assert load_file(out / "model.safetensors").keys()


def test_a_unit_that_was_saved_without_a_memory(tinymem, tmp_path, pristine):
    model, _ = load(pristine)
    unit = Unit.create(model, 2, sites=("q_proj",))
    unit.loras["layers.1.self_attn.q_proj"].B.data.fill_(0.1)
    save_adapter(unit, model, tmp_path / "unit")
    code, out, err = tinymem("merge", tmp_path / "unit", "--out", tmp_path / "out", "--json")
    assert code == 0, err
    assert code == 0 and json.loads(out)["changed"] == 1 and json.loads(out)["after"] is None
    unit.attach(model)
    expected = unit.merge().state_dict()["layers.1.self_attn.q_proj.weight"]
    merged, _ = load(tmp_path / "out")
    assert merged.layers[1].self_attn.q_proj.weight.equal(expected)


def test_refusals_are_one_line_and_write_nothing(tinymem, tmp_path, adapter, run, capsys):
    base, folder = adapter
    config = folder / "adapter_config.json"
    assert tinymem("probe", "--steps", "1", "--length", "4", "--out", tmp_path / "mlp")[0] == 0
    build(tmp_path / "other", "llama", seed=1)
    build(tmp_path / "wider", "llama", hidden_size=64)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    unit, model = run("llama", tinymem), ("--model", base)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    for change, args, words in (
        ({}, (tmp_path / "mlp",), "an MLP is not a matrix that A B could be added to"),
        ({}, (tmp_path / "gone", *model), "is this a run's folder?"),
        ({}, (base, *model), "is this a run's folder?"),
        ({}, (unit, "--model", tmp_path / "other"), "with other weights than"),
        ({}, (folder, "--model", tmp_path / "wider"), "the base has 64 inputs"),
        ({"base_model_name_or_path": None}, (folder,), "give the base with --model"),
        ({"base_model_name_or_path": 3}, (folder,), "give the base with --model"),
        ({"base_model_name_or_path": "../base"}, (folder,), "give the base with --model"),
        ({"use_dora": True}, (folder, *model), "only plain LoRA is"),
        ({"modules_to_save": ["lm_head"]}, (folder, *model), "only plain LoRA is"),
        ({"target_modules": ["q_proj"]}, (folder, *model), "fit nowhere in this base"),
    ):
        text = config.read_text()
        edit_json(config, **change)
        code, out, err = tinymem("merge", *args, "--out", tmp_path / "out")
        assert code == 2 and not out and words in err.splitlines()[-1], err
        assert len(err.splitlines()) == 1 + err.startswith("base model"), err
        config.write_text(text)
    code, _, err = tinymem("merge", folder, *model, "--out", tmp_path / "full")
    assert code == 2 and "holds files already; choose another name" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_without_room_is_noticed_first(tinymem, tmp_path, adapter, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    base, folder = adapter
    before = sorted(tmp_path.rglob("*"))
    code, _, err = tinymem("merge", folder, "--model", base, "--out", tmp_path / "out")
    assert code == 1 and "MB are needed, and 0.001 MB are free" in err
    assert sorted(tmp_path.rglob("*")) == before
