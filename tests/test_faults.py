"""Faults 1 to 15: files, texts and options that a user may hand to the command line.

Each is answered by one line on stderr that names what is wrong, with exit code 2 and nothing
written; or it is harmless, and the command works. Every test breaks a small checkpoint that loads,
so that it could not pass if the break were not noticed. Faults 16 to 31, which meet a run that is
under way, are in test_faults_of_runs.py.
"""

import json
import math
import pickle
import struct

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from tests.base.test_weights import FIRST, Bomb, shard
from tests.checkpoints import CONTEXT, INDEX, WEIGHTS, build, edit_json, edit_weights
from tests.experiment.sweeps import run_command

QUICK = ("--steps", "2", "--rank", "2")
HEAD, EMBED = "lm_head.weight", "model.embed_tokens.weight"


def refused(*args, words: tuple[str, ...] = ()) -> str:
    """Asserts one line, exit code 2 and an empty stdout; returns the line."""
    code, out, err = run_command(*args)
    assert (code, out) == (2, "") and err.startswith("tinymem: ") and err.count("\n") == 1, err
    for word in words:
        assert word in err, err
    return err


def probe_refused(folder, *words, more=()) -> str:
    return refused("probe", "--model", folder, "--length", "4", *QUICK, *more, words=words)


def probe_works(folder, *more) -> dict:
    args = ("--model", folder, *QUICK, "--json", *([] if more else ["--length", "4"]))
    code, out, err = run_command("probe", *args, *more)
    assert code == 0, err
    return json.loads(out)


def edit_header(path, change) -> None:
    """Apply `change` to the JSON header of a safetensors file, in place."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])


# --- Weights -------------------------------------------------------------------------------------


def test_fault_01_a_file_of_weights_that_is_cut(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for end in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        (folder / WEIGHTS).write_bytes(whole[:end])
        probe_refused(folder, WEIGHTS, "delete it and download it again", f"{end:,} bytes")
    (folder / WEIGHTS).write_bytes(whole)
    probe_works(folder)


def test_fault_02_a_header_of_an_absurd_length(folder):
    raw = (folder / WEIGHTS).read_bytes()
    for length in (2**63, 2**64 - 1, 200_000_000, len(raw) + 1, 0):
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length) + raw[8:])
        probe_refused(folder, WEIGHTS, "damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [0, 64]},
        {"data_offsets": [64, 0]},
        {"data_offsets": [-64, 0]},
        {"data_offsets": [2**70, 2**70 + 4]},
        {"shape": [2**40, 2**40]},
        {"shape": [-1, 32]},
        {"shape": []},
        {"dtype": "F64"},
        {"dtype": "OBJECT"},
    ],
    ids=str,
)
def test_fault_03_offsets_and_shapes_that_contradict_each_other(folder, change):
    edit_header(folder / WEIGHTS, lambda header: header[FIRST].update(change))
    probe_refused(folder, WEIGHTS)


def test_fault_04_an_index_that_points_elsewhere(folder, tmp_path):
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    (tmp_path / "x.safetensors").write_bytes(b"secret")
    (folder / "folder.safetensors").mkdir()
    names = ("../x.safetensors", str(tmp_path / "x.safetensors"), "a\\b.safetensors", "C:x")
    for name in (*names, "a\0.safetensors", "..", "", "pytorch_model.bin", 7, None, ["x"]):
        weight_map = index["weight_map"] | {FIRST: name}
        (folder / INDEX).write_text(json.dumps(index | {"weight_map": weight_map}))
        probe_refused(folder, INDEX, "do not trust this checkpoint")
    weight_map = index["weight_map"] | {FIRST: "folder.safetensors"}
    (folder / INDEX).write_text(json.dumps(index | {"weight_map": weight_map}))
    probe_refused(folder, "folder.safetensors")


def test_fault_05_an_index_that_does_not_agree_with_its_files(folder):
    one, two = shard(folder)
    whole = {name: (folder / name).read_bytes() for name in (one, two, INDEX)}
    places = json.loads(whole[INDEX])["weight_map"]
    (folder / one).unlink()
    probe_refused(folder, one, "incomplete")
    (folder / one).write_bytes(whole[one])
    other = {name: (two if file == one else one) for name, file in places.items()}
    for wrong in (places | {FIRST: other[FIRST]}, {k: v for k, v in places.items() if k != FIRST}):
        (folder / INDEX).write_text(json.dumps({"weight_map": wrong}))
        probe_refused(folder, FIRST, "does not agree with its files")
    (folder / INDEX).write_bytes(whole[INDEX])
    edit_weights(folder, lambda tensors: tensors.update({FIRST: torch.ones(32, 32)}), other[FIRST])
    probe_refused(folder, FIRST, "does not agree with its files")


def test_fault_06_pickles(folder, tmp_path):
    weights, witness = (folder / WEIGHTS).read_bytes(), tmp_path / "unpickled"
    (folder / WEIGHTS).unlink()
    for name in ("pytorch_model.bin", "consolidated.00.pth", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(Bomb(witness)))
        probe_refused(folder, name, "save_pretrained")
        (folder / name).rename(folder / WEIGHTS)
        probe_refused(folder, WEIGHTS, "damaged")
        (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).write_bytes(weights)
    unit = tmp_path / "unit"
    unit.mkdir()
    (unit / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(witness)))
    refused("recall", unit, words=("adapter_model.bin", "pickle"))
    assert not witness.exists()


def test_fault_07_tensors_that_do_not_fit(folder, tmp_path):
    whole = (folder / WEIGHTS).read_bytes()
    other = FIRST.replace("q_proj", "z_proj")
    for change, words in (
        (lambda tensors: tensors.pop(FIRST), ("missing", FIRST)),
        (lambda tensors: tensors.update({other: torch.ones(3)}), (other,)),
        (lambda tensors: tensors.update({FIRST: torch.ones(32, 31)}), (FIRST, "[32, 31]")),
        (lambda tensors: tensors.update({EMBED: tensors[EMBED].t()}), (EMBED, "shape")),
    ):
        edit_weights(folder, change)
        probe_refused(folder, *words)
        (folder / WEIGHTS).write_bytes(whole)
    build(tmp_path / "gpt2", "gpt2")
    loss = probe_works(tmp_path / "gpt2")["base_loss"]

    def strip(tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in (0, 1):  # buffers of the files on the hub
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, CONTEXT, CONTEXT)
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    edit_weights(tmp_path / "gpt2", strip)
    assert probe_works(tmp_path / "gpt2")["base_loss"] == loss
    for name in ("h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight"):  # stored as a Linear's
        before = (tmp_path / "gpt2" / WEIGHTS).read_bytes()
        edit_weights(tmp_path / "gpt2", lambda t, name=name: t.update({name: t[name].t()}))
        probe_refused(tmp_path / "gpt2", name, "shape")
        (tmp_path / "gpt2" / WEIGHTS).write_bytes(before)


def test_fault_08_tied_heads(folder, tmp_path):
    edit_weights(folder, lambda tensors: tensors.pop(HEAD))
    probe_refused(folder, HEAD, "missing")  # its config says that the head is its own
    build(tmp_path / "tied", "llama", tie_word_embeddings=True)
    assert HEAD not in load_file(tmp_path / "tied" / WEIGHTS)
    loss = probe_works(tmp_path / "tied")["base_loss"]
    edit_weights(tmp_path / "tied", lambda tensors: tensors.update({HEAD: tensors[EMBED] + 0}))
    assert probe_works(tmp_path / "tied")["base_loss"] == loss
    edit_weights(tmp_path / "tied", lambda tensors: tensors.update({HEAD: tensors[EMBED] + 1}))
    probe_refused(tmp_path / "tied", HEAD, "differ")


def test_fault_09_values_that_are_no_weights(folder):
    whole = (folder / WEIGHTS).read_bytes()
    for value in (math.nan, math.inf, -math.inf):
        edit_weights(folder, lambda tensors, value=value: tensors[FIRST].view(-1)[5:6].fill_(value))
        probe_refused(folder, FIRST)
        (folder / WEIGHTS).write_bytes(whole)
    huge = torch.full((32, 32), 1e300, dtype=torch.float64)  # infinite as float32
    edit_weights(folder, lambda tensors: tensors.update({FIRST: huge}))
    probe_refused(folder, FIRST)
    (folder / WEIGHTS).write_bytes(whole)
    edit_weights(folder, lambda tensors: [tensor.zero_() for tensor in tensors.values()])
    probe_refused(folder, "zero")


# --- Configuration and tokenizer -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mamba"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": "32"}, "hidden_size"),
        ({"hidden_size": -32}, "hidden_size"),
        ({"hidden_size": 1e400}, "hidden_size"),
        ({"num_attention_heads": 5, "head_dim": None}, "5 heads"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"hidden_act": "snake"}, "hidden_act"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
    ],
    ids=str,
)
def test_fault_10_a_config_that_cannot_be_used(folder, change, word):
    edit_json(folder / "config.json", **change)
    probe_refused(folder, "config.json" if "layers" not in word else str(folder), word)


def test_fault_10_a_window_that_slides_is_the_context(tmp_path):
    """Up to there, attention is full; beyond it, nothing would be exact."""
    how = {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 0}
    build(tmp_path / "qwen", "qwen2", **how)
    probe_works(tmp_path / "qwen")
    args = ("--model", tmp_path / "qwen", *QUICK, "--length", "11")
    refused("probe", *args, words=("context of 40",))


def test_fault_11_a_tokenizer_that_is_absent_or_of_another_model(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").unlink()
    probe_refused(folder, "tokenizer.json")
    for content in ("", "{}", text[: len(text) // 2], "\x00" * 100, "[" * 100_000):
        (folder / "tokenizer.json").write_text(content)
        probe_refused(folder, "tokenizer.json")
    core = tokenizers.Tokenizer.from_str(text)
    core.add_tokens([f"more{n}" for n in range(300)])
    core.save(str(folder / "tokenizer.json"))
    (folder.parent / "text").write_text("more299")  # an id for which there is no embedding
    code, out, err = run_command(
        "probe", "--model", folder, *QUICK, "--text", folder.parent / "text"
    )
    assert (code, out) == (2, "") and err.count("\n") == 1, err


# --- Data ----------------------------------------------------------------------------------------


def test_fault_12_random_tokens_are_ids_not_text(folder, tmp_path):
    path = tmp_path / "random.jsonl"
    assert run_command("data", "random", "--model", folder, "--length", "40", "--out", path)[0] == 0
    (row,) = map(json.loads, path.read_text().splitlines())
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = row["target_ids"]
    assert (
        core.encode(core.decode(ids), add_special_tokens=False).ids != ids
    )  # text would lose them
    again = probe_works(folder, "--data", path, "--out", tmp_path / "run")
    assert again["length"] == 40 and again["ratio"] == 100 and again["entropy"] is not None
    assert probe_works(folder, "--length", "40")["base_loss"] == again["base_loss"]
    raw = (tmp_path / "run" / "unit.safetensors").read_bytes()
    about = json.loads(
        json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"]["tinymem"]
    )
    assert about["memories"][0]["target_ids"] == ids


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"  \n\t \r\n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"caf\xe9", "byte 3"),
        (b"\xff\xfea\x00", "byte 0"),
        ("a\ud800".encode("utf-8", "surrogatepass"), "byte 1"),
    ],
    ids=repr,
)
def test_fault_13_texts_that_are_none(folder, tmp_path, content, word):
    (tmp_path / "text").write_bytes(content)
    args = ("probe", "--model", folder, *QUICK)
    refused(*args, "--text", tmp_path / "text", words=(word,))


def test_fault_13_texts_that_are_odd_but_whole(folder, tmp_path):
    for content in (b"a", b"\xef\xbb\xbfa b", b"a\0b", "\u202e½\U0001f600".encode(), b"a\r\nb"):
        (tmp_path / "text").write_bytes(content)
        assert probe_works(folder, "--text", tmp_path / "text")["length"] >= 1


def test_fault_13_lines_of_data_that_are_none(folder, tmp_path):
    path = tmp_path / "data.jsonl"
    good = '{"prompt": "a", "completion": "b"}\n'
    for line, word in (
        ('{"prompt": "a", "completion": ""}', "line 2"),
        ('{"prompt": " ", "completion": "b"}', "line 2"),
        ('{"prompt": "a", "completion": "\\ud800"}', "line 2"),
        ('{"prompt": "a"', "line 2"),
        ('{"prompt_ids": [1], "target_ids": [1e9]}', "line 2"),
        ('{"prompt_ids": [1], "target_ids": [99999999999999999999]}', "line 2"),
        ("[" * 100_000, "line 2"),
    ):
        path.write_text(good + line + "\n")
        refused("probe", "--model", folder, *QUICK, "--data", path, words=(str(path), word))
    path.write_text("")
    refused("probe", "--model", folder, *QUICK, "--data", path, words=(str(path),))
    with open(path, "wb") as file:
        file.truncate(3 << 30)  # a hole: it takes no room on the disk
    refused("probe", "--model", folder, *QUICK, "--data", path, words=(str(path),))
    refused("probe", "--model", folder, *QUICK, "--text", path, words=(str(path),))


def test_fault_14_a_memory_longer_than_the_context(folder, tmp_path):
    (tmp_path / "text").write_text("the and " * 200)
    args = ("probe", "--model", folder, *QUICK)
    refused(*args, "--text", tmp_path / "text", words=(f"context of {CONTEXT}", "shorten"))
    assert probe_works(folder, "--text", tmp_path / "text", "--length", "9")["length"] == 9
    for length in (CONTEXT, 10**6, 10**15):
        refused(*args, "--length", length, words=(f"context of {CONTEXT}",))
    refused(*args, "--length", "4", "--prompt", "and " * 300, words=(f"context of {CONTEXT}",))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rank", "0"], ("rank is 0",)),
        (["--rank", "33"], ("rank is 33", "1 to 32")),
        (["--layer", "-1"], ("layers 0 to 1",)),
        (["--layer", "2"], ("layers 0 to 1",)),
        (["--lr", "0"], ("lr is 0",)),
        (["--lr", "-1"], ("lr is -1",)),
        (["--lr", "nan"], ("lr is nan",)),
        (["--lr", "inf"], ("lr is inf",)),
        (["--steps", "0"], ("steps is 0",)),
        (["--seed", "-1"], ("seed is -1",)),
        (["--dropout", "1"], ("dropout is 1",)),
    ],
    ids=str,
)
def test_fault_15_options_that_no_run_could_use(folder, tmp_path, args, words, monkeypatch):
    from tinymem.base.checkpoint import Checkpoint

    monkeypatch.setattr(Checkpoint, "weights", lambda *_: pytest.fail("read the weights"))
    out = tmp_path / "run"
    refused("probe", "--model", folder, "--length", "4", *args, "--out", out, words=words)
    assert not out.exists()


def test_fault_15_cells_that_are_named_twice_run_once(folder, tmp_path):
    grid = ("--ranks", "1,1,2", "--lengths", "4,4", "--seeds", "0,0", "--steps", "2", "--json")
    code, out, _ = run_command("sweep", "--model", folder, *grid, "--out", tmp_path / "grid")
    assert code == 0 and [row["rank"] for row in json.loads(out)] == [1, 2]
