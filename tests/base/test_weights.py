"""Copying the weights: what is read, how it is hashed, and what is refused.

Oracle: the stored tensors themselves. Property: a load gives exactly the stored values, or a
CheckpointError of one line that names the file and what is wrong in it; so it is for every byte of
a file's header that is changed. The peak of memory is measured in a process of its own.
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
from safetensors.torch import load as from_bytes, load_file, save_file

from tests.checkpoints import (
    INDEX,
    TOKENS,
    VOCAB,
    WEIGHTS,
    WIDTH,
    build,
    edit_json,
    edit_weights,
    refused,
    same_weights,
)
from tinymem.base.checkpoint import load
from tinymem.errors import CheckpointError

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FIRST = "model.layers.0.self_attn.q_proj.weight"


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


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


def test_shards_equal_the_single_file(pristine, tmp_path):
    one, _ = load(pristine, device="cpu")
    build(
        tmp_path / "shards", "llama", shard_size="20KB"
    )  # by transformers, in as many as it likes
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    two, _ = load(tmp_path / "shards", device="cpu")
    assert same_weights(one, two) and one.weight_hash == two.weight_hash


def test_own_shards_equal_the_single_file(folder):
    one, _ = load(folder, device="cpu")
    shard(folder)
    two, _ = load(folder, device="cpu")
    assert same_weights(one, two) and one.weight_hash == two.weight_hash


def test_float16_and_float64_files(folder):
    stored = from_bytes((folder / WEIGHTS).read_bytes())  # the file itself is written below
    for dtype in (torch.float16, torch.float64, torch.bfloat16):
        save_file({name: t.to(dtype) for name, t in stored.items()}, folder / WEIGHTS)
        model, _ = load(folder, device="cpu")
        assert model.dtype == torch.float32
        assert model.embed_tokens.weight.equal(stored[EMBED].to(dtype).float())


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


def test_pickles_beside_the_weights_are_ignored(folder, tmp_path):
    # Meta's own files ship in original/; some repositories keep a .bin next to the safetensors.
    clean, _ = load(folder, device="cpu")
    witness = tmp_path / "unpickled"
    (folder / "original").mkdir()
    for path in (folder / "original" / "consolidated.00.pth", folder / "pytorch_model.bin"):
        path.write_bytes(pickle.dumps(Bomb(witness)))
    model, _ = load(folder, device="cpu")
    assert same_weights(model, clean) and not witness.exists()


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
    refused(folder, INDEX, f"{FIRST} in {elsewhere}")


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
    "a name of two lines": (lambda t: t.update({"a\nb": torch.ones(1)}), ("'a\\nb'",)),
    "a long name": (lambda t: t.update({"a" * 10**5: torch.ones(1)}), ("a" * 100,)),
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
    for name in (WEIGHTS, "tokenizer.json"):  # the tokenizer is read first
        (folder / name).write_text(text)
        refused(folder, name, "git-lfs pointer", "git lfs pull")


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
    """A checkpoint of 69 MiB in float32, and the size of each of its tensors in MiB.

    Its largest tensors, of 10 MiB, are read one after the other: those of the MLPs.
    """
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 512, "intermediate_size": 5120, "vocab_size": 300}
    oracle = build(folder, "llama", **sizes)
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
