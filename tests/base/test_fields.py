"""The fields of a config.json: which values are accepted, and which are refused by name.

Property: whatever a field of the config becomes, a load gives finite logits or a CheckpointError of
one line, and never another exception. A config that transformers would read, but that model.py does
not compute exactly, is refused.
"""

import json
import math
from pathlib import Path

import pytest

from tests.checkpoints import CONTEXT, LAYERS, WIDTH, build, draw_ids, edit_json, refused
from tinymem.base.checkpoint import load
from tinymem.base.families import read_config
from tinymem.errors import CheckpointError

CONFIG_FAULTS = {
    "quantised": (
        "llama",
        {"quantization_config": {"quant_method": "gptq"}},
        ("quantised", "gptq"),
    ),
    "unknown": ("llama", {"model_type": "mamba"}, ("model_type", "mamba", "gpt2")),
    "yarn": ("llama", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, ("rope", "yarn")),
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
    "no window": ("mistral", {"sliding_window": 0}, ("sliding_window", "0")),
    "negative window": ("mistral", {"sliding_window": -1}, ("sliding_window", "-1")),
    "layer types": (  # transformers fails: use_sliding_window is false, so there is no window
        "qwen3",
        {"layer_types": ["full_attention", "sliding_attention"]},
        ("sliding_attention", "full_attention"),
    ),
    "unknown layer types": (
        "qwen2",
        {"layer_types": ["chunked_attention"] * LAYERS},
        ("layer_types", "chunked_attention"),
    ),
    "no number of layers": (
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "max_window_layers": "1",
            "layer_types": None,
        },
        ("max_window_layers", "'1'"),
    ),
    "size of a head": ("gpt_neox", {"head_dim": 16}, ("head_dim", "16", "8")),
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
    """rewrite(kind, changes, drop): the folder of a family, its config changed for one test."""
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


@pytest.mark.parametrize("text", ["", "{", "not json", "\xff", "[" * 100_000])
def test_config_that_is_not_json(text, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refused(folder, "config.json", "JSON" if text.isascii() else "UTF-8")


@pytest.mark.parametrize("text", ["[]", "7", '"llama"', "null"])
def test_config_that_is_not_an_object(text, folder):
    (folder / "config.json").write_text(text)
    refused(folder, "config.json", "JSON object")
