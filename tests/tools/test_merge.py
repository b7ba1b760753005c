"""Merged weights. Oracles: peft's merge_and_unload, transformers and safetensors, on random models.

Property: the folder is complete or not there, wherever writing ends.
"""

import json
import shutil
import warnings

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import OLD_ORACLE, build, draw_ids, edit_json
from tests.unit.test_peft import written_by_peft
from tinymem.base.checkpoint import load, open_checkpoint
from tinymem.errors import AdapterError, CheckpointError
from tinymem.tools import merge
from tinymem.tools.merge import list_tensors, split_files, write_merged
from tinymem.unit.adapter import read_adapter
from tinymem.unit.lora import Unit

KINDS = {  # kind -> settings of the base, of the adapter
    "gpt2": ({"tie_word_embeddings": True}, {"target_modules": "all-linear"}),
    "llama": ({"tie_word_embeddings": False}, {"target_modules": ["q_proj", "down_proj"]}),
    "qwen3": (
        {"tie_word_embeddings": True},
        {"target_modules": "all-linear", "rank_pattern": {"k_proj": 2}, "use_rslora": True},
    ),
    "gpt_neox": ({"tie_word_embeddings": False}, {"target_modules": ["query_key_value", "dense"]}),
}
IDS = draw_ids(24)


def weights(folder):
    files = sorted(folder.glob("*.safetensors"))
    return {name: value for file in files for name, value in load_file(file).items()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def merged(base, adapter, out, dtype="auto", **more):
    checkpoint = open_checkpoint(base)
    unit = read_adapter(checkpoint.shapes(), adapter)
    return write_merged(checkpoint, list_tensors(checkpoint, dtype), unit, out, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A function from a kind to the folders of a base and of peft's adapter, and peft's model."""
    done = {}

    def make(kind):
        if kind not in done:
            folder, (settings, lora) = tmp_path_factory.mktemp(kind), KINDS[kind]
            theirs = build(folder / "base", kind, **settings)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peft sets fan_in_fan_out itself, and says so
                wrapped = written_by_peft(folder / "adapter", theirs, **lora)
            logits = wrapped(IDS).logits.detach()
            done[kind] = folder / "base", folder / "adapter", wrapped.merge_and_unload(), logits
        return done[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_equals_pefts_own_merge(made, tmp_path, kind):
    base, adapter, theirs, logits = made(kind)
    about = merged(base, adapter, tmp_path / "out")
    before, after, expected = weights(base), weights(tmp_path / "out"), theirs.state_dict()
    assert before.keys() == after.keys()
    assert ("lm_head.weight" in after) == (kind == "llama")
    changed = {name for name in after if not after[name].equal(before[name])}
    assert len(changed) == about.changed == about.matrices > 0
    for name, value in after.items():
        full = name if name in expected else f"{theirs.base_model_prefix}.{name}"
        full = full if full in expected else "lm_head.weight"  # NeoX: embed_out in files
        assert value.dtype == before[name].dtype
        torch.testing.assert_close(value, expected[full], atol=1e-6, rtol=0)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours, _ = load(tmp_path / "out")
    for model in (again, ours):
        found = model(IDS)
        found = found if isinstance(found, torch.Tensor) else found.logits
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=0)


def test_tokenizer_and_templates_come_along_and_nothing_else(made, tmp_path):
    base, adapter, *_ = made("llama")
    base = shutil.copytree(base, tmp_path / "base")
    texts = ("chat_template.jinja", "tokenizer_config.json", "added_tokens.json")
    for name in (*texts, "special_tokens_map.json", "vocab.json", "merges.txt", "tokenizer.model"):
        (base / name).write_text(f'{{"of": "{name}"}}')
    others = ("README.md", "pytorch_model.bin", "modeling.py", "consolidated.safetensors.bak")
    for name in others:
        (base / name).write_text("other")
    edit_json(base / "tokenizer_config.json", drop=("of",), eos_token="</s>")
    edit_json(base / "added_tokens.json", drop=("of",))
    about = merged(base, adapter, tmp_path / "out")
    kept = [name for name in names(base) if name not in others]
    assert "generation_config.json" in kept and names(tmp_path / "out") == kept
    for name in set(kept) - {"config.json", "model.safetensors"}:
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert about.bytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("stored", "asked", "written"),
    [
        ({torch.float32}, "auto", {torch.float32}),
        ({torch.bfloat16}, "auto", {torch.bfloat16}),
        ({torch.float16}, "auto", {torch.float16}),
        ({torch.float32, torch.bfloat16}, "auto", {torch.float32, torch.bfloat16}),
        ({torch.float32, torch.bfloat16}, "bfloat16", {torch.bfloat16}),
        ({torch.bfloat16}, "float32", {torch.float32}),
        ({torch.float32}, "float16", {torch.float16}),
    ],
)
@pytest.mark.parametrize("stated", ["bfloat16", "float64", None])
def test_dtypes(made, tmp_path, stored, asked, written, stated):
    """The sum is cast last; the config names what transformers shall load; buffers stay."""
    base, adapter, theirs, _ = made("gpt2")
    base = shutil.copytree(base, tmp_path / "base")
    wide = weights(base)
    kinds = {
        True: max(stored, key=lambda d: d.itemsize),
        False: min(stored, key=lambda d: d.itemsize),
    }
    tensors = {name: value.to(kinds[value.ndim == 1]) for name, value in wide.items()}
    buffers = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 5, 5, dtype=torch.bool),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
        "h.1.attn.bias": torch.ones(3, dtype=torch.uint8),
    }
    save_file(tensors | buffers, base / "model.safetensors", {"format": "pt"})
    edit_json(base / "config.json", drop=("dtype", "torch_dtype"))
    edit_json(base / "config.json", **({"torch_dtype": stated} if stated else {}))
    about = merged(base, adapter, tmp_path / "out", asked)
    after = weights(tmp_path / "out")
    for name, value in buffers.items():
        assert after[name].equal(value) and after[name].dtype == value.dtype
    assert {after[name].dtype for name in tensors} == written
    name = "transformer.h.0.attn.c_attn.weight"
    delta = theirs.state_dict()[name] - wide[name]
    exact = (tensors[name].float() + delta).to(after[name].dtype).float()
    step = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[after[name].dtype]
    torch.testing.assert_close(after[name].float(), exact, atol=step, rtol=0)
    assert (after[name].float() != exact).float().mean() < 0.01 or step == 1e-6
    same = [str(d).removeprefix("torch.") for d in written]
    widest = "float32" if "float32" in same else same[0]
    assert about.dtype == (stated if stated in same else widest)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {config.get(f) for f in ("dtype", "torch_dtype")} - {None} == {about.dtype}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", **{"torch_dtype" if OLD_ORACLE else "dtype": "auto"}
    )
    assert loaded.dtype == getattr(torch, about.dtype)


def test_many_files(made, tmp_path):
    """From a base of several files, and from one file; oracle: transformers reads the index."""
    base, adapter, _, logits = made("llama")
    several = shutil.copytree(base, tmp_path / "several")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    (several / "model.safetensors").unlink()
    theirs.save_pretrained(several, max_shard_size="20KB")
    assert len(list(several.glob("*.safetensors"))) > 3
    for number, source in enumerate((base, several)):
        out = tmp_path / f"out{number}"
        about = merged(source, adapter, out, most=30_000)
        files = sorted(out.glob("*.safetensors"))
        assert about.shards == len(files) > 3 and files[0].name.endswith(
            f"of-{len(files):05}.safetensors"
        )
        held = [load_file(file) for file in files]
        assert all(len(t) == 1 or sum(v.nbytes for v in t.values()) <= 30_000 for t in held)
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(v.nbytes for t in held for v in t.values())
        again = transformers.AutoModelForCausalLM.from_pretrained(out)
        torch.testing.assert_close(again(IDS).logits, logits, atol=1e-4, rtol=0)
        load(out)
    one = merged(several, adapter, tmp_path / "one")
    assert one.shards == 1 and (tmp_path / "one" / "model.safetensors").exists()


def test_a_tensor_larger_than_a_file_stands_alone():
    sizes = {"a": 3, "b": 9, "c": 2, "d": 2, "e": 1}
    tensors = [merge.Stored(n, None, [size], "U8", None, False) for n, size in sizes.items()]
    groups = split_files(tensors, 4).values()
    assert [[t.name for t in group] for group in groups] == [["a"], ["b"], ["c", "d"], ["e"]]
    assert list(split_files(tensors, 99)) == ["model.safetensors"]


STEPS = ("merge.merged_value", "merge.write_small_files", "system.sync", "system.replace")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left on device", "x")]
)
def test_an_end_at_any_step_leaves_nothing(made, tmp_path, monkeypatch, step, error):
    base, adapter, *_ = made("llama")
    module = merge if step.startswith("merge") else merge.system
    real, calls = getattr(module, step.partition(".")[2]), []

    def fail(*args):
        calls.append(args)
        if len(calls) == 3 or step in (STEPS[1], STEPS[3]):
            raise error
        return real(*args)

    monkeypatch.setattr(module, step.partition(".")[2], fail)
    with pytest.raises(type(error)) as caught:
        merged(base, adapter, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert "No space" not in str(caught.value) or str(caught.value).endswith(
        f"'{tmp_path / 'out'}'"
    )
    monkeypatch.undo()
    (tmp_path / "out").mkdir()  # an empty folder is filled
    merged(base, adapter, tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_what_a_kill_leaves_is_not_at_the_place(made, tmp_path, monkeypatch):
    """Stand-in for SIGKILL: nothing is cleaned up."""
    base, adapter, *_ = made("llama")
    monkeypatch.setattr(merge.system, "replace", lambda *_: 1 / 0)
    monkeypatch.setattr(merge.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(ZeroDivisionError):
        merged(base, adapter, tmp_path / "out")
    assert names(tmp_path) == [".out.part"]
    monkeypatch.undo()
    with pytest.raises(AdapterError, match=r"\.out\.part: another merge is writing there, or was"):
        merged(base, adapter, tmp_path / "out")
    assert names(tmp_path) == [".out.part"]


def test_values_that_a_dtype_has_no_room_for(made, tmp_path):
    base, adapter, *_ = made("llama")
    base = shutil.copytree(base, tmp_path / "base")
    tensors = weights(base)
    tensors["model.layers.0.self_attn.q_proj.weight"][3, 5] = 70_000
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"q_proj.weight has values beyond the range of float16"
    ):
        merged(base, adapter, tmp_path / "out", "float16")
    assert names(tmp_path) == ["base"]
    merged(base, adapter, tmp_path / "out", "bfloat16")


def test_the_site_mlp_is_refused(made, tmp_path):
    checkpoint = open_checkpoint(made("llama")[0])
    unit = Unit.create(load(made("llama")[0])[0], 2)
    with pytest.raises(AdapterError, match="only Linear sites can"):
        write_merged(checkpoint, list_tensors(checkpoint), unit, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
