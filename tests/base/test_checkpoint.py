"""The loader: what real files look like, and what broken or hostile ones may not do.

Oracle: transformers, for files with the quirks of the hub's own gpt2 and Pythia. Property: a load gives
exactly the stored values or a CheckpointError of one line that names the file and what is wrong in it;
under a seeded attack on every byte of a header, and on every field of a config, never anything else.
"""

import json
import math
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken

from tests.checkpoints import (
    CONTEXT,
    HEADS,
    LAYERS,
    TOKENS,
    VOCAB,
    WIDTH,
    build,
    edit_json,
    tokenizer,
)
from tinymem.base.checkpoint import load, open_checkpoint
from tinymem.base.families import read_config
from tinymem.base.progress import Progress
from tinymem.errors import CheckpointError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBED, HEAD, FIRST = (
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.layers.0.self_attn.q_proj.weight",
)


def refused(folder, *words: str) -> str:
    """Loading fails with one line that holds every one of `words`; the line."""
    with pytest.raises(CheckpointError) as caught:
        load(folder, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def edit_weights(folder: Path, change, name: str = WEIGHTS) -> None:
    """Apply `change`, which edits a dict of tensors in place, to a safetensors file."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(
        {k: v.clone().contiguous() for k, v in tensors.items()}, folder / name, {"format": "pt"}
    )


def shard(folder: Path) -> list[str]:
    """Split the weights of `folder` into an index and two files."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file, {"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return list(parts)


def draw_ids(length: int = 40) -> torch.Tensor:
    return torch.randint(VOCAB, (1, length), generator=torch.Generator().manual_seed(3))


def values(model) -> dict[str, torch.Tensor]:
    return {name: p.clone() for name, p in model.named_parameters()}


def same(one: dict, two: dict) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


# What real files look like


@torch.no_grad()
def test_gpt2_as_on_the_hub(tmp_path):
    oracle = build(tmp_path, "gpt2", vocab_size=VOCAB)
    clean, _ = load(tmp_path, device="cpu")

    def as_on_the_hub(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for i in range(LAYERS):
            tensors[f"h.{i}.attn.bias"] = torch.ones(CONTEXT, CONTEXT).tril()[None, None]
            tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
        assert "wte.weight" in tensors and "lm_head.weight" not in tensors

    edit_weights(tmp_path, as_on_the_hub)
    fields = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": CONTEXT,
        "n_embd": WIDTH,
        "n_head": HEADS,
        "n_layer": LAYERS,
        "n_positions": CONTEXT,
        "vocab_size": VOCAB,
    }
    (tmp_path / "config.json").write_text(json.dumps(fields))
    model, _ = load(tmp_path, device="cpu")
    assert model.config == clean.config
    assert model.weight_hash == clean.weight_hash  # neither prefix nor buffers count
    assert (model(draw_ids()) - oracle(draw_ids()).logits).abs().max() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("pct, base", [(0.25, 10_000), (0.5, 300)])
def test_pythia_as_on_the_hub(pct, base, tmp_path):
    oracle = build(tmp_path, "gpt_neox", rotary_pct=pct, rotary_emb_base=base)
    clean, _ = load(tmp_path, device="cpu")

    def add_buffers(tensors):
        for i in range(LAYERS):
            attention = f"gpt_neox.layers.{i}.attention"
            mask = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).tril()[None, None]
            tensors[f"{attention}.bias"] = mask if i else mask.to(torch.uint8)
            tensors[f"{attention}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)

    edit_weights(tmp_path, add_buffers)
    older = {"rotary_pct": pct, "rotary_emb_base": base, "torch_dtype": "float16"}
    edit_json(
        tmp_path / "config.json", drop=("rope_parameters", "dtype", "attention_bias"), **older
    )
    model, _ = load(tmp_path, device="cpu")
    assert model.config == clean.config
    assert model.weight_hash == clean.weight_hash
    assert (model(draw_ids()) - oracle(draw_ids()).logits).abs().max() < 1e-4


def test_llama_with_frequencies_stored_and_a_pickle_beside(folder, tmp_path):
    clean, _ = load(folder, device="cpu")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_weights(folder, lambda tensors: tensors.update({name: torch.ones(4)}))
    # Meta's own files ship in original/, and some repositories keep a .bin next to the safetensors.
    (folder / "original").mkdir()
    witness = tmp_path / "unpickled"
    for place in (folder / "original" / "consolidated.00.pth", folder / "pytorch_model.bin"):
        place.write_bytes(pickle.dumps(Bomb(witness)))
    model, _ = load(folder, device="cpu")
    assert same(values(model), values(clean)) and not witness.exists()


def test_the_vocabulary_may_be_padded(pristine):
    model, tokens = load(pristine, device="cpu")
    assert model.config.vocab_size == VOCAB > tokens.largest_id + 1 == TOKENS


def test_shards_equal_the_single_file(pristine, tmp_path):
    one, _ = load(pristine, device="cpu")
    build(
        tmp_path / "shards", "llama", shard_size="20KB"
    )  # by transformers, in as many as it likes
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    two, _ = load(tmp_path / "shards", device="cpu")
    assert same(values(one), values(two)) and one.weight_hash == two.weight_hash


def test_own_shards_equal_the_single_file(folder):
    one, _ = load(folder, device="cpu")
    shard(folder)
    two, _ = load(folder, device="cpu")
    assert same(values(one), values(two)) and one.weight_hash == two.weight_hash


@pytest.mark.parametrize("kind", ["default", "linear", "llama3"])
@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_older_and_newer_rope_fields(kind, key, folder):
    fields = {
        "default": {},
        "linear": {"factor": 2.0},
        "llama3": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    }[kind]
    config = folder / "config.json"
    parameters = {"rope_type": kind, "rope_theta": 123.0, **fields}
    edit_json(config, drop=("rope_theta", "rope_scaling"), rope_parameters=parameters)
    newer = load(folder, device="cpu")[0].config
    scaling = {key: kind, **fields} if fields else None
    edit_json(config, drop=("rope_parameters",), rope_theta=123.0, rope_scaling=scaling)
    older = load(folder, device="cpu")[0].config
    assert older == newer and newer.rope_theta == 123.0
    assert (newer.rope_scaling is None) == (kind == "default")


def test_the_model_is_frozen_named_and_in_eval_mode(pristine):
    model, _ = load(pristine, device="cpu")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.name == str(pristine) and model.dtype == torch.float32
    assert all(p.device.type == "cpu" for p in model.parameters())


def test_bfloat16_is_the_rounded_checkpoint(pristine):
    wide, narrow = (
        load(pristine, device="cpu", dtype=dtype)[0] for dtype in ("float32", "bfloat16")
    )
    assert narrow.dtype == torch.bfloat16
    assert same({name: p.bfloat16() for name, p in values(wide).items()}, values(narrow))


def test_float16_and_float64_files(folder):
    stored = load_file(folder / WEIGHTS)
    for dtype in (torch.float16, torch.float64, torch.bfloat16):
        save_file({name: t.to(dtype) for name, t in stored.items()}, folder / WEIGHTS)
        model, _ = load(folder, device="cpu")
        assert model.dtype == torch.float32
        assert model.embed_tokens.weight.equal(stored[EMBED].to(dtype).float())


class Seen(Progress):
    """Keeps the items that pass, by what is done with them."""

    def __init__(self):
        self.items = {}

    def track(self, items, what):
        self.items[what] = list(items)
        return self.items[what]


def test_progress_sees_every_tensor(pristine):
    seen = Seen()
    load(pristine, device="cpu", progress=seen)
    assert len(seen.items["loading weights"]) == len(load_file(pristine / WEIGHTS))


def test_opening_reads_no_weights(folder):
    (folder / WEIGHTS).write_bytes(b"not weights")
    checkpoint = open_checkpoint(folder)
    shapes = checkpoint.shapes()
    assert {p.device.type for p in shapes.parameters()} == {"meta"}
    assert shapes.embed_tokens.weight.shape == (VOCAB, WIDTH) and len(shapes.layers) == LAYERS
    assert (shapes.name, shapes.family) == (str(folder), checkpoint.family)
    assert checkpoint.tokenizer.largest_id == TOKENS - 1
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.weights("cpu")


def test_one_checkpoint_gives_independent_models(pristine):
    checkpoint = open_checkpoint(pristine)
    one, two = checkpoint.weights("cpu"), checkpoint.weights("cpu", "bfloat16")
    assert one.weight_hash == two.weight_hash and one.dtype != two.dtype
    assert one.embed_tokens.weight.data_ptr() != two.embed_tokens.weight.data_ptr()
    assert same(values(one), values(load(pristine, device="cpu")[0]))


# The hash says which weights


def test_weight_hash(folder):
    first = load(folder, device="cpu")[0].weight_hash
    assert len(first) == 64
    assert load(folder, device="cpu", dtype="bfloat16")[0].weight_hash == first  # of what is stored
    edit_weights(folder, lambda tensors: None)  # the same values, written anew
    assert load(folder, device="cpu")[0].weight_hash == first

    def nudge(tensors):
        tensors[FIRST].view(-1)[7] = torch.nextafter(tensors[FIRST].view(-1)[7], torch.tensor(9.0))

    edit_weights(folder, nudge)
    assert load(folder, device="cpu")[0].weight_hash != first


def test_weight_hash_knows_where_a_tensor_belongs(folder):
    first = load(folder, device="cpu")[0].weight_hash

    def swap(tensors):
        other = FIRST.replace("q_proj", "k_proj")
        tensors[FIRST], tensors[other] = tensors[other], tensors[FIRST]

    edit_weights(folder, swap)
    assert load(folder, device="cpu")[0].weight_hash != first


def test_weight_hash_of_a_tied_head(tmp_path):
    build(tmp_path, "llama", tie_word_embeddings=True)
    without = load(tmp_path, device="cpu")[0]
    edit_weights(tmp_path, lambda tensors: tensors.update({HEAD: tensors[EMBED].clone()}))
    stated = load(tmp_path, device="cpu")[0]
    assert stated.weight_hash == without.weight_hash
    assert stated.lm_head.weight is stated.embed_tokens.weight


# Weights that are refused


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def test_a_pickle_is_never_loaded(folder, tmp_path):
    witness = tmp_path / "unpickled"
    torch.save({EMBED: Bomb(witness)}, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    refused(folder, "pytorch_model.bin", WEIGHTS, "save_pretrained")
    assert not witness.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert witness.exists()  # it would have gone off


def test_no_weights_at_all(folder):
    (folder / WEIGHTS).unlink()
    refused(folder, str(folder), "no weights")


def test_the_weights_are_a_folder(folder):
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()
    refused(folder, WEIGHTS)


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "C:\\x.safetensors",
        "..\\x.safetensors",
        "sub/x.safetensors",
        "x\0.safetensors",
        "x.safetensors\n",
        ".safetensors",
        "pytorch_model.bin",
        "",
        7,
        None,
        ["x.safetensors"],
    ],
    ids=repr,
)
def test_an_index_that_leads_elsewhere(name, folder):
    shard(folder)
    (folder.parent / "x.safetensors").write_bytes(b"")
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    edit_json(folder / INDEX, weight_map={**places, FIRST: name})
    refused(folder, INDEX, FIRST, repr(name), "not a plain")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}', "7"]
)
def test_an_index_that_is_none(text, folder):
    shard(folder)
    (folder / INDEX).write_text(text)
    refused(folder, INDEX, "index")


def test_an_empty_index(folder):
    shard(folder)
    edit_json(folder / INDEX, weight_map={})
    refused(folder, str(folder), "missing tensors")


def test_an_absent_shard(folder):
    _, second = shard(folder)
    (folder / second).unlink()
    refused(folder, second, "incomplete")


def test_a_shard_without_a_promised_tensor(folder):
    shard(folder)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    edit_weights(folder, lambda tensors: tensors.pop(FIRST), places[FIRST])
    refused(folder, INDEX, FIRST)


def test_a_shard_with_a_tensor_of_another(folder):
    first, second = shard(folder)
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    elsewhere = second if places[FIRST] == first else first
    edit_weights(folder, lambda tensors: tensors.update({FIRST: torch.zeros(2)}), elsewhere)
    refused(folder, elsewhere, FIRST, places[FIRST])


def test_a_shard_with_a_tensor_that_the_index_lacks(folder):
    first, _ = shard(folder)
    edit_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(2)), first)
    refused(folder, first, "extra")


NORM = "model.layers.1.input_layernorm.weight"
TENSOR_FAULTS = {
    "missing": (lambda t: t.pop(FIRST), ("missing", "layers.0.self_attn.q_proj.weight")),
    "missing norm": (lambda t: t.pop(NORM), ("missing", "layers.1.input_layernorm.weight")),
    "missing head, untied": (lambda t: t.pop(HEAD), ("missing", "lm_head.weight")),
    "unknown": (lambda t: t.update({"model.rotary.x": torch.ones(1)}), ("model.rotary.x",)),
    "unknown module": (
        lambda t: t.update({"model.layers.0.moe.weight": torch.ones(1)}),
        ("layers.0.moe",),
    ),
    "unknown layer": (
        lambda t: t.update({FIRST.replace("0", "2"): t[FIRST]}),
        (FIRST.replace("0", "2"),),
    ),
    "layer 00": (
        lambda t: t.update({FIRST.replace("0", "00"): t[FIRST]}),
        (FIRST.replace("0", "00"),),
    ),
    "a bias too many": (
        lambda t: t.update({FIRST.replace("weight", "bias"): torch.ones(WIDTH)}),
        ("q_proj.bias",),
    ),
    "twice": (
        lambda t: t.update({FIRST.removeprefix("model."): t[FIRST].clone()}),
        (FIRST, "same"),
    ),
    "too narrow": (
        lambda t: t.update({FIRST: t[FIRST][:, 1:]}),
        (WEIGHTS, FIRST, f"[{WIDTH}, {WIDTH - 1}]"),
    ),
    "too flat": (
        lambda t: t.update({FIRST: t[FIRST].flatten()}),
        (WEIGHTS, FIRST, f"[{WIDTH * WIDTH}]"),
    ),
    "a scalar norm": (lambda t: t.update({NORM: torch.tensor(1.0)}), (WEIGHTS, NORM, "[]")),
    "transposed": (
        lambda t: t.update({EMBED: t[EMBED].t()}),
        (WEIGHTS, EMBED, f"[{WIDTH}, {VOCAB}]"),
    ),
    "vocabulary": (
        lambda t: t.update({HEAD: t[HEAD][:-1]}),
        (WEIGHTS, HEAD, f"[{VOCAB - 1}, {WIDTH}]"),
    ),
    "nan": (lambda t: t[FIRST].view(-1)[5].fill_(math.nan), (WEIGHTS, FIRST, "NaN")),
    "inf": (lambda t: t[FIRST].view(-1)[5].fill_(math.inf), (WEIGHTS, FIRST, "infinite")),
    "-inf": (lambda t: t[NORM][-1].fill_(-math.inf), (WEIGHTS, NORM, "infinite")),
    "nan in bfloat16": (
        lambda t: t.update({NORM: torch.full([WIDTH], math.nan).bfloat16()}),
        (WEIGHTS, NORM, "NaN"),
    ),
    "int8": (
        lambda t: t.update({FIRST: t[FIRST].to(torch.int8)}),
        (WEIGHTS, FIRST, "I8", "quantised"),
    ),
    "float8": (
        lambda t: t.update({FIRST: t[FIRST].to(torch.float8_e4m3fn)}),
        (WEIGHTS, FIRST, "F8", "quantised"),
    ),
    "nothing": (lambda t: t.clear(), ("missing",)),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_tensors_that_do_not_fit(fault, folder):
    change, words = TENSOR_FAULTS[fault]
    edit_weights(folder, change)
    refused(folder, str(folder), *words)


def test_a_tied_head_that_differs(tmp_path):
    build(tmp_path, "llama", tie_word_embeddings=True)

    def other(tensors):
        tensors[HEAD] = tensors[EMBED].clone()
        tensors[HEAD][3, 3] += 1e-6

    edit_weights(tmp_path, other)
    refused(tmp_path, WEIGHTS, HEAD, "ties")


def test_gpt2_weights_the_other_way_round(tmp_path):
    # GPT-2's files hold [in, out]; a checkpoint that was turned already must not be turned again.
    build(tmp_path, "gpt2")
    name = "transformer.h.0.attn.c_attn.weight"
    edit_weights(tmp_path, lambda tensors: tensors.update({name: tensors[name].t()}))
    refused(tmp_path, WEIGHTS, name, f"[{WIDTH}, {3 * WIDTH}]")


@pytest.mark.parametrize("length", ["0", "4", "100", "size // 2", "size - 1"])
def test_a_file_cut_short(length, folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: eval(length, {"size": len(data)})])
    refused(folder, WEIGHTS, "damaged", "download it again")


def test_a_file_with_a_tail(folder):
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"\0")
    refused(folder, WEIGHTS, "damaged")


def test_a_git_lfs_pointer(folder):
    text = (
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 548105171\n"
    )
    (folder / WEIGHTS).write_text(text)
    refused(folder, WEIGHTS, "git-lfs pointer", "git lfs pull")


def test_any_byte_of_the_header_may_be_wrong(tmp_path):
    # Whatever one byte becomes, a load gives finite values or says why not.
    sizes = {
        "num_hidden_layers": 1,
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    build(tmp_path, "llama", tie_word_embeddings=True, vocab_size=TOKENS, **sizes)
    good = (tmp_path / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    draw = random.Random(0)
    outcomes = {"loaded": 0, "refused": 0}
    for place in range(end):
        value = draw.choice([v for v in range(256) if v != good[place]])
        (tmp_path / WEIGHTS).write_bytes(good[:place] + bytes([value]) + good[place + 1 :])
        try:
            model, _ = load(tmp_path, device="cpu")
        except CheckpointError as error:
            assert "\n" not in str(error), (place, value)
            outcomes["refused"] += 1
        else:
            assert all(p.isfinite().all() for p in model.parameters()), (place, value)
            outcomes["loaded"] += 1
    assert outcomes["refused"] > 0.9 * end and end > 800


# Configs that are refused

CONFIG_FAULTS = {
    "quantised": (
        "llama",
        {"quantization_config": {"quant_method": "gptq"}},
        ("quantised", "gptq"),
    ),
    "unknown": ("llama", {"model_type": "mamba"}, ("model_type", "mamba", "gpt2")),
    "yarn": ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, ("rope", "yarn")),
    "dynamic": (
        "llama",
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        ("rope", "dynamic"),
    ),
    "longrope": ("llama", {"rope_parameters": {"rope_type": "longrope"}}, ("rope", "longrope")),
    "nonsense": (
        "llama",
        {"rope_parameters": {"rope_type": "spiral"}},
        ("rope", "spiral", "llama3"),
    ),
    "llama3 without": (
        "llama",
        {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
        ("low_freq",),
    ),
    "by layer": ("llama", {"rope_parameters": {"full_attention": {}}}, ("rope", "layer")),
    "partial rotary": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        ("partial_rotary_factor", "0.5"),
    ),
    "no rotary": ("gpt_neox", {"rope_parameters": None, "rotary_pct": 0.01}, ("rotary",)),
    "too much rotary": ("gpt_neox", {"rope_parameters": None, "rotary_pct": 1.5}, ("rotary",)),
    # transformers' Llama has no window and would ignore the field; whoever wrote it meant something by it.
    "llama window": ("llama", {"sliding_window": 64}, ("sliding", "64")),
    "mistral window": ("mistral", {"sliding_window": 4096}, ("sliding", "4096")),
    "mistral window, flag": (
        "mistral",
        {"sliding_window": 64, "use_sliding_window": False},
        ("sliding", "64"),
    ),
    "qwen2 window": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 64},
        ("sliding", "64"),
    ),
    "layer types": (
        "qwen3",
        {"layer_types": ["full_attention", "sliding_attention"]},
        ("sliding_attention",),
    ),
    "activation": ("llama", {"hidden_act": "swish9"}, ("hidden_act", "swish9", "silu")),
    "text for a number": ("llama", {"hidden_size": "32"}, ("hidden_size", "'32'")),
    "fraction": ("llama", {"num_hidden_layers": 2.5}, ("num_hidden_layers", "2.5")),
    "zero": ("llama", {"num_attention_heads": 0}, ("num_attention_heads", "0")),
    "negative": ("llama", {"vocab_size": -1}, ("vocab_size", "-1")),
    "true": ("llama", {"intermediate_size": True}, ("intermediate_size", "True")),
    "text for a flag": (
        "llama",
        {"tie_word_embeddings": "false"},
        ("tie_word_embeddings", "'false'"),
    ),
    "heads": (
        "llama",
        {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": None},
        (str(WIDTH), "5 heads"),
    ),
    "heads of gpt2": ("gpt2", {"n_head": 5}, (str(WIDTH), "5 heads")),
    "key heads": ("llama", {"num_key_value_heads": 3}, ("4 heads", "3 key-value heads")),
    "odd head": ("llama", {"head_dim": 7}, ("rotary", "7")),
    "scaled by layer": (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        ("scale_attn_by_inverse",),
    ),
    "unscaled": ("gpt2", {"scale_attn_weights": False}, ("scale_attn_weights",)),
    "nan": ("llama", {"rms_norm_eps": math.nan}, ("rms_norm_eps", "nan")),
    "infinite": ("llama", {"rope_parameters": {"rope_theta": math.inf}}, ("rope_theta", "inf")),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A checkpoint of each family, whose config.json the tests rewrite and put back."""
    place = tmp_path_factory.mktemp("families")
    for kind in ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gpt_neox"):
        build(place / kind, kind)
    return place


@pytest.fixture
def rewrite(families):
    """rewrite(kind, changes, drop) -> folder of that family with its config changed, for one test."""
    texts = {}

    def change(kind: str, changes: dict, drop: tuple[str, ...] = ()) -> Path:
        path = families / kind / "config.json"
        texts.setdefault(path, path.read_text())
        path.write_text(texts[path])
        edit_json(path, drop, **changes)
        return families / kind

    yield change
    for path, text in texts.items():
        path.write_text(text)


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_configs_that_are_refused(fault, rewrite):
    kind, changes, words = CONFIG_FAULTS[fault]
    load(rewrite(kind, {}), device="cpu")  # it is the change that is refused
    refused(rewrite(kind, changes), "config.json", *words)


@pytest.mark.parametrize(
    "kind, key",
    [
        *(("gpt2", key) for key in ("vocab_size", "n_embd", "n_head", "n_layer")),
        *(
            (kind, key)
            for kind in ("llama", "gpt_neox")
            for key in (
                *("model_type", "vocab_size", "hidden_size", "intermediate_size"),
                *("num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
            )
        ),
    ],
)
def test_sizes_have_no_defaults(kind, key, rewrite):
    refused(rewrite(kind, {}, drop=(key,)), "config.json", key)


def test_gpt2_without_a_context(rewrite):
    refused(rewrite("gpt2", {}, drop=("n_positions", "n_ctx")), "config.json", "n_positions")
    assert load(rewrite("gpt2", {"n_ctx": CONTEXT}, drop=("n_positions",)), device="cpu")


def test_windows_that_are_off(rewrite):
    for kind, changes in (
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 64}),
        ("qwen3", {"layer_types": ["full_attention"] * LAYERS}),
    ):
        assert load(rewrite(kind, changes), device="cpu")
    assert load(
        rewrite("qwen2", {"sliding_window": 64}, drop=("use_sliding_window",)), device="cpu"
    )
    # Mistral's own default is a window of 4096: silence does not mean none.
    refused(rewrite("mistral", {}, drop=("sliding_window",)), "config.json", "sliding", "4096")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen2", "gpt_neox"])
def test_any_field_of_the_config_may_be_wrong(kind, rewrite):
    # Of every type there is in JSON; a load or a CheckpointError, never another exception.
    wrong = (
        None,
        "x",
        "",
        -1,
        0,
        1.5,
        3,
        True,
        [],
        ["x"],
        {},
        {"x": 1},
        math.inf,
        math.nan,
        10**30,
    )
    clean = json.loads((rewrite(kind, {}) / "config.json").read_text())
    shape = read_config(clean, kind)[0]
    extra = (
        "rope_scaling",
        "quantization_config",
        "layer_types",
        "sliding_window",
        "use_sliding_window",
    )
    count = 0
    for key in (*clean, *extra):
        for value in wrong:
            try:
                if read_config({**clean, key: value}, kind)[0] == shape:
                    continue  # a field that does not matter, or its default
                model, _ = load(rewrite(kind, {key: value}), device="cpu")
                assert model(draw_ids(3)).isfinite().all(), (key, value)
            except CheckpointError as error:
                assert "\n" not in str(error), (key, value)
                count += 1
            except Exception as error:
                pytest.fail(f"{key} = {value!r}: {error!r}")
    assert count > 80


# Files and names


@pytest.mark.parametrize("text", ["", "{", "not json", "\xff", "[" * 100_000])
def test_config_that_is_not_json(text, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refused(folder, "config.json", "JSON")


@pytest.mark.parametrize("text", ["[]", "7", '"llama"', "null"])
def test_config_that_is_not_an_object(text, folder):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", "JSON object")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_absent_files(name, folder):
    (folder / name).unlink()
    refused(folder, str(folder), name)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {"type": "BPE"}}', "\xff"])
def test_a_damaged_tokenizer(text, folder):
    (folder / "tokenizer.json").write_bytes(text.encode("latin-1"))
    refused(folder, "tokenizer.json", "download it again")


def test_a_tokenizer_of_another_model(folder):
    core = tokenizer()
    core.add_tokens([AddedToken(f"more{i}") for i in range(VOCAB - TOKENS)])
    core.save(str(folder / "tokenizer.json"))
    load(folder, device="cpu")  # the last row of the embedding is used now
    core.add_tokens(["one more"])
    core.save(str(folder / "tokenizer.json"))
    refused(folder, str(folder), str(VOCAB), "tokenizer")


def test_names_that_are_no_checkpoint(folder, tmp_path):
    refused(folder / WEIGHTS, WEIGHTS, "file, not a folder")
    refused(tmp_path / "absent", "absent", "does not exist")
    refused("./absent", "./absent", "does not exist")
    refused("some/where/deep", "some/where/deep", "does not exist")
    refused("~/absent-checkpoint", "absent-checkpoint", "does not exist")
    refused("~nobody-of-that-name/x", "nobody-of-that-name", "does not exist")
    refused("..\\absent", "absent", "does not exist")
    refused(tmp_path, str(tmp_path), "config.json")
    for nonsense in ("not a name!", "a\0b", "x" * 5000, "-", "a--b", "name.", "ünïcode"):
        refused(nonsense, "hub id")
    refused(
        "no-one/nothing-here", "no-one/nothing-here", "cache", "HF_HUB_OFFLINE"
    )  # offline: see conftest.py


def test_devices_and_dtypes_that_do_not_exist(pristine):
    for device in ("gpu", "cuda:99", "", "meta"):
        with pytest.raises(CheckpointError, match="device"):
            load(pristine, device=device)
    for dtype in ("int8", "float16", ""):
        with pytest.raises(CheckpointError, match="bfloat16"):
            load(pristine, device="cpu", dtype=dtype)


# Memory

MEASURE = """
import re, sys
import torch
from tinymem.base.checkpoint import load, open_checkpoint

def status(key):  # MiB; of this process's own memory, while ru_maxrss starts from its parent's
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

torch.set_num_threads(1)
small, large, dtype = sys.argv[1:]
load(small, device="cpu", dtype=dtype)  # so that what is imported and allocated once is there
ballast = []
while status("VmHWM") - status("VmRSS") > 1:  # imports may have left a higher peak behind
    ballast.append(torch.ones(2**18))
before = status("VmRSS")
model, _ = load(large, device="cpu", dtype=dtype)
held = sum(p.nbytes for p in model.parameters()) / 2**20
print(status("VmHWM") - before, held)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, list[float]]:
    """A checkpoint of 59 MiB in float32, and the size of each of its tensors in MiB."""
    folder, sizes = (
        tmp_path_factory.mktemp("large"),
        {"hidden_size": 512, "intermediate_size": 1536},
    )
    oracle = build(folder, "llama", num_hidden_layers=3, vocab_size=5120, **sizes)
    return folder, [p.nbytes / 2**20 for p in oracle.parameters()]


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="needs Linux's /proc to measure memory"
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory_is_the_weights_and_one_tensor(dtype, pristine, large):
    folder, stored = large
    assert sum(stored) > 55
    run = [sys.executable, "-c", MEASURE, str(pristine), str(folder), dtype]
    root = Path(__file__).parents[2]  # where a checkout that is not installed finds tinymem
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=root)
    peak, held = map(float, done.stdout.split())
    assert held == pytest.approx(sum(stored) / (1 if dtype == "float32" else 2))
    allowance = 6  # MiB, for the tokenizer, the module tree and the allocator's rounding
    assert peak < held + max(stored) + allowance
    assert peak > 0.9 * held  # else it was not measured
