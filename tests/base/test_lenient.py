"""What transformers reads without harm is accepted, with equal logits.

Oracle: transformers, which reads the same folder and computes the whole context of our model.
"""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints import (
    CONTEXT,
    INDEX,
    LAYERS,
    OLD_ORACLE,
    WEIGHTS,
    build,
    draw_ids,
    edit_json,
    edit_weights,
    refused,
    same_weights,
)
from tinymem.base.checkpoint import load, open_checkpoint
from tinymem.base.config import ACTIVATIONS
from tinymem.base.progress import Progress

FULL, SLIDING = "full_attention", "sliding_attention"
ON = {"use_sliding_window": True}
WINDOWS = {  # name -> family, fields of its config.json, the context that is left
    "absent": ("mistral", {}, CONTEXT),
    "none": ("mistral", {"sliding_window": None}, CONTEXT),
    "equal to the context": ("mistral", {"sliding_window": CONTEXT}, CONTEXT),
    "longer": ("mistral", {"sliding_window": 4096}, CONTEXT),
    "one shorter": ("mistral", {"sliding_window": CONTEXT - 1}, CONTEXT - 1),
    "of Mistral 0.1": ("mistral", {"sliding_window": 20}, 20),
    "a flag that Mistral never reads": (
        "mistral",
        {"sliding_window": 20, "use_sliding_window": False, "layer_types": [FULL] * LAYERS},
        20,
    ),
    "of Llama, which never reads it": (
        "llama",
        {"sliding_window": 20, "layer_types": [SLIDING] * LAYERS, **ON},
        CONTEXT,
    ),
    "of GPT-NeoX": ("gpt_neox", {"sliding_window": 20}, CONTEXT),
    "of GPT-2": ("gpt2", {"sliding_window": 20}, CONTEXT),
    "off": ("qwen2", {"use_sliding_window": False, "sliding_window": 20}, CONTEXT),
    "no flag": ("qwen2", {"sliding_window": 20}, CONTEXT),
    "on": ("qwen2", {**ON, "sliding_window": 20, "max_window_layers": 0}, 20),
    "on, by default for no layer": ("qwen2", {**ON, "sliding_window": 20}, CONTEXT),
    "on, for the last layer": ("qwen3", {**ON, "sliding_window": 20, "max_window_layers": 1}, 20),
    "on, for no layer": (
        "qwen3",
        {**ON, "sliding_window": 20, "max_window_layers": LAYERS},
        CONTEXT,
    ),
    "on, null": ("qwen2", {**ON, "sliding_window": None, "max_window_layers": 0}, CONTEXT),
    "on, absent": ("qwen2", {**ON, "max_window_layers": 0}, CONTEXT),  # 4,096
    "types": ("qwen3", {**ON, "sliding_window": 20, "layer_types": [FULL] * LAYERS}, CONTEXT),
    "mixed types": ("qwen3", {**ON, "sliding_window": 20, "layer_types": [FULL, SLIDING]}, 20),
}


@torch.no_grad()
def compare(folder) -> float:
    """The largest difference to transformers' logits over the whole context of our model."""
    model, _ = load(folder, device="cpu")
    wide = {"torch_dtype" if OLD_ORACLE else "dtype": torch.float32}  # whatever the config says
    oracle = transformers.AutoModelForCausalLM.from_pretrained(folder, **wide)
    ids = draw_ids(model.config.context)
    return (model(ids) - oracle.eval()(ids, use_cache=False).logits).abs().max()


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name, tmp_path):
    if OLD_ORACLE and name == "on, by default for no layer":
        pytest.skip("transformers 5 is the oracle of this")
    kind, fields, context = WINDOWS[name]
    build(tmp_path, kind)
    edit_json(tmp_path / "config.json", drop=("sliding_window", "layer_types"))
    edit_json(tmp_path / "config.json", **fields)
    assert open_checkpoint(tmp_path).config.context == context
    assert compare(tmp_path) < 1e-4


@torch.no_grad()
def test_a_window_binds_where_the_context_ends(tmp_path):
    oracle = build(tmp_path, "mistral", sliding_window=20)
    full = build(tmp_path / "full", "mistral")
    difference = (oracle(draw_ids(21)).logits - full(draw_ids(21)).logits).abs().amax(-1)[0]
    assert difference[:20].max() < 1e-4 < difference[20]


def test_a_shorter_context_is_said_once(tmp_path):
    said = []

    class Listen(Progress):
        def warn(self, message: str) -> None:
            said.append(message)

    build(tmp_path, "mistral", sliding_window=20)
    load(tmp_path, device="cpu", progress=Listen())
    (message,) = said
    assert str(tmp_path) in message and "20 tokens" in message
    edit_json(tmp_path / "config.json", sliding_window=CONTEXT)
    load(tmp_path, device="cpu", progress=Listen())
    assert len(said) == 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, tmp_path):
    if name not in transformers.activations.ACT2FN:
        pytest.skip(f"transformers {transformers.__version__} does not have {name}")
    build(tmp_path, "llama", hidden_act=name)
    assert compare(tmp_path) < 1e-4


FIELDS = {  # that do not change the result at all, or not within the context
    "dynamic positions": {"rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "llama3 without its original context": {
        "rope_scaling": {
            **{"rope_type": "llama3", "factor": 8.0},
            **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        }
    },
    "of a Llama converted from elsewhere": {
        **{"rope_interleaved": False, "pretraining_tp": 2, "is_llama_config": True},
        **{"auto_map": {"AutoModelForCausalLM": "modeling.X"}, "use_cache": False},
        **{"attention_dropout": 0.1, "logits_soft_cap": 30.0, "partial_rotary_factor": 0.5},
    },
}


def test_gpt2_never_reads_the_size_of_a_head(tmp_path):
    build(tmp_path, "gpt2")
    edit_json(tmp_path / "config.json", head_dim=16)
    assert compare(tmp_path) < 1e-4


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_do_not_matter(name, folder):
    if OLD_ORACLE and name.startswith(("llama3", "of a Llama")):
        pytest.skip("transformers 5 is the oracle of this")
    edit_json(folder / "config.json", drop=("rope_parameters",), **FIELDS[name])
    assert compare(folder) < 1e-4


BUFFERS = (  # of older versions of transformers, of remote code, and of trl's value heads
    *("model.rotary_emb.inv_freq", "rotary_emb.inv_freq", "model.layers.0.self_attn.inv_freq"),
    *(f"model.layers.1.self_attn.rotary_emb.{n}" for n in ("inv_freq", "cos_cached", "sin_cached")),
    *("model.rotary_emb.original_inv_freq", "model.layers.0.self_attn.bias", "v_head.summary.bias"),
    *("model.layers.0.self_attn.masked_bias", "model.layers.0.attention.bias"),
)


def test_tensors_that_are_not_needed(folder):
    clean, _ = load(folder, device="cpu")
    edit_weights(folder, lambda tensors: tensors.update(dict.fromkeys(BUFFERS, torch.ones(4))))
    model, _ = load(folder, device="cpu")
    assert same_weights(model, clean) and model.weight_hash == clean.weight_hash


def index(folder, **entries: str | None) -> None:
    """Give a folder an index instead of one file, with entries added or (None) left out."""
    file = "model-00001-of-00001.safetensors"
    (folder / WEIGHTS).rename(folder / file)
    names = dict.fromkeys(load_file(folder / file), file) | entries
    listed = {name: file for name, file in names.items() if file}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))


def test_an_index_that_lists_what_is_not_needed(tmp_path):
    build(tmp_path, "llama", tie_word_embeddings=True)
    clean, _ = load(tmp_path, device="cpu")
    edit_weights(tmp_path, lambda tensors: tensors.update({BUFFERS[0]: torch.ones(4)}))
    file = "model-00001-of-00001.safetensors"
    index(tmp_path, **{"lm_head.weight": file, BUFFERS[1]: file, BUFFERS[0]: None})
    model, _ = load(tmp_path, device="cpu")
    assert same_weights(model, clean)
    assert compare(tmp_path) < 1e-4


def test_an_index_that_promises_a_head_which_is_needed(folder):
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    index(folder, **{"lm_head.weight": "model-00001-of-00001.safetensors"})
    refused(folder, INDEX, "lm_head.weight")


# --- Numbers ---------------------------------------------------------------------------------


def test_values_beyond_the_range_of_the_arithmetic(folder):
    name = "model.norm.weight"
    stored = {n: t.clone() for n, t in load_file(folder / WEIGHTS).items()}  # it is replaced below
    for value, dtype, fits in (
        (1e300, torch.float64, ()),
        (-1e39, torch.float64, ()),
        (3.4e38, torch.float32, ("float32",)),  # the largest of bfloat16 is 3.39e38
        (1e38, torch.float64, ("float32", "bfloat16")),
        (6e4, torch.float16, ("float32", "bfloat16")),
    ):
        changed = stored[name].to(dtype)
        changed[3] = value
        save_file(stored | {name: changed}, folder / WEIGHTS)
        for target in ("float32", "bfloat16"):
            if target in fits:
                assert load(folder, device="cpu", dtype=target)[0].norm.weight.isfinite().all()
            else:
                with pytest.raises(ValueError, match=f"{name} has values beyond .*{target}"):
                    load(folder, device="cpu", dtype=target)


def blank(part: str):
    return lambda tensors: [t.zero_() for name, t in tensors.items() if part in name]


@pytest.mark.parametrize(
    "part", ["", "embed_tokens", "lm_head", "model.norm", "layers.1.", "proj.weight"]
)
def test_zeros_of_a_damaged_file(part, folder):
    edit_weights(folder, blank(part))
    refused(folder, WEIGHTS, "zeros", "download it again")


@pytest.mark.parametrize(
    "part", ["layers.1.mlp.", "o_proj", "q_proj", "down_proj", "k_norm", "post_attention_layernorm"]
)
def test_zeros_that_are_accepted(part, folder):
    edit_weights(folder, blank(part))
    assert compare(folder) < 1e-4


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2"])
def test_biases_of_zero_are_accepted(kind, tmp_path):
    build(tmp_path, kind)
    edit_weights(tmp_path, blank(".bias"))
    assert compare(tmp_path) < 1e-4
