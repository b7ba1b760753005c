"""Units on disk. Oracle: peft, which loads what tinymem writes and writes what tinymem loads."""

import json
import shutil
import struct
import warnings
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load as from_bytes, save_file

from tests.toy import toy_model
from tinymem.base.checkpoint import load
from tinymem.errors import AdapterError
from tinymem.unit.adapter import (
    OWN_FILE,
    PEFT_CONFIG,
    PEFT_FILE,
    load_adapter,
    read_header,
    read_unit,
    save_adapter,
)
from tinymem.unit.lora import Unit

IDS = torch.arange(24)[None]
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
}


def checkpoint(folder, kind):
    """Saves a small random checkpoint with transformers and returns its model."""
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    elif kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64
        )
        model = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.GPTNeoXConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=64,
        )  # fmt: skip
        model = transformers.GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.mul_(6)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return model.eval()


def grown(unit, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for lora in unit.loras.values():
        lora.B.data.copy_(torch.randn(lora.B.shape, generator=generator) * 0.3)
    return unit


KINDS = [
    ("llama", ("q_proj", "v_proj", "down_proj"), (0, 2)),
    ("gpt2", ("c_attn",), (1,)),
    ("gpt2", ("c_attn", "attn.c_proj", "c_fc"), (0, 1, 2)),
    ("gpt_neox", ("query_key_value", "dense_4h_to_h"), (0, 1)),
]


@pytest.mark.parametrize(("kind", "sites", "layers"), KINDS)
def test_peft_loads_our_linear_units_with_equal_logits(tmp_path, kind, sites, layers):
    theirs = checkpoint(tmp_path, kind)
    model, _ = load(tmp_path)
    unit = grown(Unit.create(model, 3, sites=sites, layers=layers))
    save_adapter(unit, model, tmp_path / "run")
    before = model(IDS)
    after = unit.attach(model).model(IDS)
    assert (after - before).abs().max() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft only warns about missing keys
        loaded = peft.PeftModel.from_pretrained(theirs, tmp_path / "run")
    with torch.no_grad():
        assert torch.allclose(loaded(IDS).logits, after, atol=1e-4)
    assert (
        sum(p.numel() for n, p in loaded.named_parameters() if "lora_" in n)
        == unit.trainable_parameters()
    )


@pytest.mark.parametrize(("kind", "sites", "layers"), KINDS)
@pytest.mark.parametrize("rslora", [False, True])
def test_we_load_pefts_units_with_equal_logits(tmp_path, kind, sites, layers, rslora):
    theirs = checkpoint(tmp_path, kind)
    names = list(sites) if kind == "gpt2" else [site.rpartition(".")[2] for site in sites]
    config = peft.LoraConfig(
        r=4, lora_alpha=10, target_modules=names,
        layers_to_transform=None if kind == "gpt2" else list(layers), use_rslora=rslora,
        fan_in_fan_out=kind == "gpt2", task_type="CAUSAL_LM",
    )  # fmt: skip
    wrapped = peft.get_peft_model(theirs, config)
    torch.manual_seed(3)
    for name, p in wrapped.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.2)
    wrapped.save_pretrained(tmp_path / "run")
    model, _ = load(tmp_path)
    load_adapter(model, tmp_path / "run")
    with torch.no_grad():
        assert torch.allclose(wrapped.eval()(IDS).logits, model(IDS), atol=1e-4)


def saved(folder, sites=("mlp",)):
    model = toy_model()
    save_adapter(grown(Unit.create(model, 3, sites=sites)), model, folder)
    path = folder / (OWN_FILE if sites == ("mlp",) else PEFT_FILE)
    tensors = from_bytes(path.read_bytes())  # a copy, since the tests write to the file
    about = read_unit(folder)[1] | {"tensors_hash": None}  # the tests change the tensors
    return path, tensors, {"format": "pt", "tinymem": json.dumps(about)}


def refused(folder, message, model=None):
    model = model or toy_model()
    before = model(IDS)
    with pytest.raises(AdapterError, match=message) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert torch.equal(model(IDS), before)  # nothing was attached


@pytest.mark.parametrize("sites", [("mlp",), ("q_proj",)])
def test_tensors_that_do_not_fit(tmp_path, sites):
    path, good, metadata = saved(tmp_path, sites)
    first = sorted(good)[0]
    without = {k: v for k, v in good.items() if k != first}
    for tensors, message in (
        (without, "missing; the file has"),
        ({f"model.{k}": v for k, v in good.items()}, r"missing; the file has 'model\."),
        ({}, "missing"),
        (good | {"layers.0.mlp.lora_A": torch.zeros(2)}, "fit nowhere"),
        (good | {first: torch.zeros(5, 7)}, "the base has"),
        (good | {first: good[first].t().contiguous()}, "the base has"),
        (good | {first: torch.zeros(3)}, "the base has"),
        (good | {first: torch.zeros(1, *good[first].shape)}, "the base has"),
        (good | {first: torch.tensor(1.0)}, "the base has"),
        (good | {first: torch.zeros(0, 0)}, "the base has"),
        (good | {first: torch.zeros_like(good[first], dtype=torch.int64)}, "no floats"),
        (good | {first: torch.full_like(good[first], float("nan"))}, "NaN"),
        (good | {first: torch.full_like(good[first], float("inf"))}, "infinite"),
    ):
        save_file(tensors, path, metadata)
        refused(tmp_path, message)
    save_file(good, path, metadata)
    load_adapter(toy_model(), tmp_path)  # the undamaged one loads


def test_another_base_is_refused(tmp_path):
    saved(tmp_path)
    refused(tmp_path, "other weights", toy_model(seed=1))
    refused(tmp_path, "other weights", toy_model(layers=2))


def test_the_same_values_in_another_dtype_are_the_same_base(tmp_path):
    """A checkpoint saved again in a wider dtype; what rounding changes is another base."""
    theirs = checkpoint(tmp_path / "float32", "gpt2")
    theirs.to(torch.bfloat16).save_pretrained(tmp_path / "bfloat16")
    for name, dtype in (("wider", torch.float32), ("widest", torch.float64)):
        theirs.to(dtype).save_pretrained(tmp_path / name)
    theirs.to(torch.float16).save_pretrained(tmp_path / "narrower")  # too small for some values
    for name in ("bfloat16", "wider", "widest", "narrower"):
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    models = {path.name: load(path, device="cpu")[0] for path in tmp_path.iterdir()}
    same = {models[name].value_hash for name in ("bfloat16", "wider", "widest")}
    assert len(same) == 1 and len({model.weight_hash for model in models.values()}) == 5
    base = models["bfloat16"]
    save_adapter(grown(Unit.create(base, 2)), base, tmp_path / "run")
    for name in ("bfloat16", "wider", "widest"):
        load_adapter(models[name], tmp_path / "run").detach()
    for name in ("float32", "narrower"):
        refused(tmp_path / "run", "other weights", models[name])


def test_units_saved_before_there_was_a_hash_of_the_values(tmp_path):
    path, tensors, metadata = saved(tmp_path)
    about = json.loads(metadata["tinymem"])
    older = {key: about[key] for key in about if key not in ("tensors_hash", "base_value_hash")}
    save_file(tensors, path, metadata | {"tinymem": json.dumps(older)})
    load_adapter(toy_model(), tmp_path)
    refused(tmp_path, "other weights", toy_model(seed=1))


def test_damaged_and_absent_files(tmp_path):
    for name in ("", "nowhere", "a\0b", "x" * 5000, "a\nb", str(tmp_path / "no" / "where")):
        with pytest.raises(AdapterError, match=r"no unit.safetensors"):
            load_adapter(toy_model(), name)
    refused(tmp_path, "no unit.safetensors")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    refused(tmp_path, "a pickle, is not loaded")
    path, _, _ = saved(tmp_path)
    content = path.read_bytes()
    for cut in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        refused(tmp_path, "damaged")
    path.write_bytes(content)
    (tmp_path / PEFT_FILE).write_bytes(content)
    refused(tmp_path, "holds several units")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "IA3"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"target_modules": ["nothing"]}, "match nothing"),
        ({"target_modules": "(["}, "cannot be read"),
        ({"lora_alpha": "much"}, "cannot be read"),
        ({"target_modules": 3}, "cannot be read"),
        ({"target_modules": ["q_proj"], "layers_to_transform": "x"}, "cannot be read"),
        ({"target_modules": ["q_proj", "k_proj"]}, "missing"),
    ],
)
def test_what_pefts_config_may_not_ask_for(tmp_path, change, message):
    saved(tmp_path, ("q_proj",))
    config = json.loads((tmp_path / PEFT_CONFIG).read_text())
    config["target_modules"] = ["q_proj"] if "target_modules" not in change else []
    config["layers_to_transform"] = [2]
    (tmp_path / PEFT_CONFIG).write_text(json.dumps(config | change))
    refused(tmp_path, message)


def test_a_file_larger_than_its_base_is_not_read(tmp_path, monkeypatch):
    """A file of holes; recall does not read the tensors at all."""
    path, _, metadata = saved(tmp_path)
    size, entry = 2**28, {"dtype": "F32", "shape": [64, 2**20], "data_offsets": [0, 2**28]}
    header = json.dumps({"__metadata__": metadata, "layers.2.mlp.lora_A": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with path.open("r+b") as file:
        file.truncate(8 + len(header) + size)
    assert read_header(tmp_path)["sites"] == ["mlp"]
    monkeypatch.setattr("tinymem.unit.adapter.read_unit", lambda _: pytest.fail("read"))
    refused(tmp_path, "larger than its base")


def test_links_that_lead_elsewhere(tmp_path):
    saved(tmp_path / "real", ("q_proj",))
    for number, name in enumerate((PEFT_FILE, PEFT_CONFIG)):
        for target in ("nowhere", tmp_path / "real" / name, "/dev/zero", name):
            folder = shutil.copytree(tmp_path / "real", tmp_path / f"{number}{hash(target)}")
            (folder / name).unlink()
            (folder / name).symlink_to(target)
            refused(folder, name)


def test_headers_that_say_nonsense(tmp_path):
    path, tensors, metadata = saved(tmp_path)
    about = json.loads(metadata["tinymem"])
    for change in ({"layers": ["x"]}, {"layers": [9]}, {"layers": None}, {"sites": ["q_proj"]}):
        save_file(tensors, path, metadata | {"tinymem": json.dumps(about | change)})
        refused(tmp_path, "the site mlp and a layer of this base")
    save_file(tensors, path, metadata | {"tinymem": json.dumps(about | {"format_version": 2})})
    refused(tmp_path, "newer tinymem")
    save_file(tensors, path, metadata | {"tinymem": "[]"})
    refused(tmp_path, "newer tinymem")
    save_file(tensors, path, {"format": "pt"})
    refused(tmp_path, "the site mlp")


def test_nothing_half_written(tmp_path, monkeypatch):
    """If the disk fills up while the unit is written, neither of its files is left."""

    def full(path, content):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    model = toy_model()
    with pytest.raises(OSError, match="No space"):
        save_adapter(Unit.create(model, 2), model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_unit_is_not_saved(tmp_path):
    model = toy_model()
    unit = Unit.create(model, 2)
    unit.loras["layers.2.mlp"].A.data[0, 0] = float("nan")
    with pytest.raises(AdapterError, match="nothing to save"):
        save_adapter(unit, model, tmp_path)
    assert list(tmp_path.iterdir()) == []
