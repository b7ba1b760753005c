"""The hub's own gpt2, as it is laid out there, by the command that a first user types.

It has the real one's files, names, buffers, config and 50,257 ids; only width and depth are small.
Oracle: transformers, on the folder that was downloaded.
"""

import json
import os
import subprocess
import sys
from itertools import islice, product
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import save
from tokenizers.pre_tokenizers import ByteLevel

from tests.hub_server import Hub, Repo
from tinymem.base.checkpoint import load

ROOT = Path(__file__).parents[2]
WIDTH, LAYERS, IDS, CONTEXT = 32, 3, 50_257, 1024
CONFIG = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": WIDTH,
    "n_head": 2,
    "n_layer": LAYERS,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": IDS,
}
OTHERS = (  # formats and notes beside it, none of which may be asked for
    *("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot"),
    *("64.tflite", "64-8bits.tflite", "64-fp16.tflite", "README.md", ".gitattributes"),
    *("onnx/decoder_model.onnx", "onnx/config.json"),
)
NEEDED = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
NEEDED |= {"generation_config.json"}


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """256 bytes and 50,000 merges of two of them; <|endoftext|> comes last, as in GPT-2."""
    letters = sorted(ByteLevel.alphabet())
    merges = list(islice(product(letters, letters), 50_000))
    tokens = [*letters, *(a + b for a, b in merges), "<|endoftext|>"]
    return {token: i for i, token in enumerate(tokens)}, merges


def tokenizer() -> bytes:
    core = tokenizers.Tokenizer(tokenizers.models.BPE(*vocabulary()))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", special=True)])
    return core.to_str().encode()


def weights() -> bytes:
    """With the buffers and without the prefix and the head that a file of today would have."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"wte.weight": [IDS, WIDTH], "wpe.weight": [CONTEXT, WIDTH]}
    for i in range(LAYERS):
        linears = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 4}
        for name, times in linears.items():
            shapes[f"h.{i}.{name}.weight"] = [WIDTH, times * WIDTH]
            shapes[f"h.{i}.{name}.bias"] = [times * WIDTH]
        shapes[f"h.{i}.mlp.c_proj.weight"] = [4 * WIDTH, WIDTH]
        shapes[f"h.{i}.mlp.c_proj.bias"] = [WIDTH]
    tensors = {name: torch.randn(s, generator=draw) * WIDTH**-0.5 for name, s in shapes.items()}
    for norm in ("ln_f", *(f"h.{i}.ln_{n}" for i in range(LAYERS) for n in (1, 2))):
        tensors |= {f"{norm}.weight": torch.ones(WIDTH), f"{norm}.bias": torch.zeros(WIDTH)}
    for i in range(LAYERS):
        tensors[f"h.{i}.attn.bias"] = torch.ones(CONTEXT, CONTEXT).tril()[None, None]
    return save(tensors, {"format": "pt"})


@pytest.fixture(scope="module")
def gpt2():
    ids, merges = vocabulary()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    files = {
        "config.json": json.dumps(CONFIG, indent=2).encode(),
        "model.safetensors": weights(),
        "tokenizer.json": tokenizer(),
        "tokenizer_config.json": b'{"model_max_length": 1024}',
        "generation_config.json": b'{"eos_token_id": 50256}',
        "vocab.json": json.dumps(ids).encode(),
        "merges.txt": "\n".join(lines).encode(),
        **dict.fromkeys(OTHERS, b"\x80\x04.never download me"),
    }
    repo = Repo(files)
    hub = Hub({"gpt2": Repo({}, moved="openai-community/gpt2"), "openai-community/gpt2": repo})
    yield hub, repo.revisions()["main"][0]
    hub.stop()


def probe(home: Path, url: str) -> dict:
    """The report of `tinymem probe --model gpt2 --rank 8` in a process that knows one hub."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    env |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": url, "HF_HOME": str(home)}
    command = ["probe", "--model", "gpt2", "--rank", "8"]
    run = [sys.executable, "-m", "tinymem", *command, "--steps", "2", "--device", "cpu", "--json"]
    done = subprocess.run(run, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@torch.no_grad()
def test_probe_of_gpt2_as_typed(gpt2, tmp_path):
    hub, commit = gpt2
    report = probe(tmp_path, hub.url)
    assert (report["model"], report["revision"]) == ("gpt2", commit)
    assert (report["rank"], report["layer"], report["length"]) == (8, LAYERS * 2 // 3, 128)
    assert report["trainable_parameters"] == 2 * WIDTH * 8
    settings = {"special_tokens_map.json", "added_tokens.json"}
    templates = {"chat_template.json", "chat_template.jinja"}
    index = {"model.safetensors.index.json"}
    assert NEEDED <= hub.asked() <= NEEDED | settings | templates | index, hub.asked()

    (folder,) = tmp_path.glob("hub/models--gpt2/snapshots/*")
    assert {path.name for path in folder.iterdir()} == NEEDED
    model, tokens = load(folder, device="cpu")
    assert tokens.plain_ids == list(range(IDS - 1))  # all but <|endoftext|>
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(IDS, (1, 100), generator=torch.Generator().manual_seed(0))
    assert (model(ids) - oracle(ids).logits).abs().max() < 1e-4
