"""Opening and loading a checkpoint: what each step reads, and which names and files are refused."""

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken

from tests.checkpoints import (
    LAYERS,
    TOKENS,
    VOCAB,
    WEIGHTS,
    WIDTH,
    refused,
    same_weights,
    tokenizer,
)
from tinymem.base.checkpoint import load, open_checkpoint
from tinymem.base.progress import Progress
from tinymem.errors import CheckpointError


def test_the_vocabulary_may_be_padded(pristine):
    model, tokens = load(pristine, device="cpu")
    assert model.config.vocab_size == VOCAB > tokens.largest_id + 1 == TOKENS


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
    assert same_weights(wide.bfloat16(), narrow)


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
    assert same_weights(one, load(pristine, device="cpu")[0])


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_absent_files(name, folder):
    (folder / name).unlink()
    refused(folder, str(folder), name)


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {"type": "BPE"}}', "\xff"])
def test_a_damaged_tokenizer(text, folder):
    (folder / "tokenizer.json").write_bytes(text.encode("latin-1"))
    refused(folder, "tokenizer.json", "download it again")


def test_the_vocabulary_may_fill_the_embedding(folder):
    core = tokenizer()
    core.add_tokens([AddedToken(f"more{i}") for i in range(VOCAB - TOKENS)])
    core.save(str(folder / "tokenizer.json"))
    assert load(folder, device="cpu")[1].largest_id == VOCAB - 1


def test_names_that_are_no_checkpoint(folder, tmp_path):
    refused(folder / WEIGHTS, WEIGHTS, "file, not a folder")
    refused(tmp_path / "absent", "absent", "does not exist")
    refused("./absent", "./absent", "does not exist")
    refused("some/where/deep", "some/where/deep", "does not exist")
    refused("~/absent-checkpoint", "absent-checkpoint", "does not exist")
    refused("~nobody-of-that-name/x", "nobody-of-that-name", "does not exist")
    refused("..\\absent", "absent", "does not exist")
    refused(tmp_path, str(tmp_path), "config.json")
    for nonsense in ("not a name!", "a\0b", "x" * 5000, "-", "a--b", "name."):
        refused(nonsense, "hub id")
    refused("ünïcode", "ünïcode")  # older versions of huggingface_hub ask for it
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
