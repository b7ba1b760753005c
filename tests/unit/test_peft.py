"""adapter_config.json. Oracle: peft itself, which writes and loads the same adapter."""

import contextlib
import json
import time
import warnings
from random import Random

import peft
import pytest
import torch
import transformers
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors.torch import load as from_bytes, save_file

from tests.toy import toy_model
from tests.unit.test_adapter import IDS, checkpoint, refused, saved
from tinymem.base.checkpoint import load, open_checkpoint
from tinymem.errors import AdapterError
from tinymem.unit.adapter import load_adapter, save_adapter
from tinymem.unit.peft import LIMITS, PEFT_CONFIG, find_places
from tinymem.unit.sites import linear_paths

# Older ones do not have patterns and exclusions as they are tested here.
get_pattern_key = getattr(peft.utils.other, "get_pattern_key", None)
if get_pattern_key is None:
    pytest.skip("a newer peft is the oracle of this", allow_module_level=True)

QKV = ["q_proj", "k_proj", "v_proj"]
UNSLOTH = (  # as Unsloth writes it for one model, spaces aside
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|dense).*?(?:q_proj|k_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|mlp)\.(?:(?:q_proj|up_proj)))"
)


def written_by_peft(folder, theirs, name="default", **settings):
    """An adapter with random A and B, saved by peft; returns peft's model."""
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 10, "task_type": "CAUSAL_LM"} | settings)
    wrapped = peft.get_peft_model(theirs, config, adapter_name=name).eval()
    torch.manual_seed(3)
    for key, p in wrapped.named_parameters():
        if "lora_" in key:
            p.data.normal_(0, 0.2)
    wrapped.save_pretrained(folder)
    return wrapped


def largest_difference(folder, wrapped):
    model, _ = load(folder.parent)
    load_adapter(model, folder)
    with torch.no_grad():
        return (wrapped(IDS).logits - model(IDS)).abs().max().item()


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint(folder, request.param)
    return request.param, folder


LLAMA = [
    {"alpha_pattern": {"q_proj": 32}},
    {"alpha_pattern": {r"^model.layers.1.self_attn.q_proj": 3, "q_proj": 0.5, "v_proj": 7}},
    {"alpha_pattern": {r"model\.layers\.[02]\..*": 5}, "use_rslora": True},
    {"rank_pattern": {"q_proj": 2, r"layers\.\d+\.self_attn\.v_proj": 3}},
    {"rank_pattern": {"v_.*": 6}, "alpha_pattern": {"[qv]_proj": 6}, "use_rslora": True},
    {"exclude_modules": ["layers.0.self_attn.q_proj", "v_proj"]},
    {"exclude_modules": r".*\.1\..*"},
    {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    {"target_modules": "All-Linear"},
    {"target_modules": r".*\.(q_proj|v_proj)"},
    {"target_modules": r"model\.layers\.\d+\..*q_proj"},
    {"target_modules": r"^(?!.*(self_attn|down)).*proj$"},
    {"target_modules": UNSLOTH},
    {"layers_to_transform": 0},
    {"layers_to_transform": [0, 2], "layers_pattern": "layers"},
    {"layers_to_transform": [1], "layers_pattern": ["blocks", "model.layers"]},
    *({"init_lora_weights": how} for how in (False, "gaussian", "orthogonal", "eva", "mica")),
    {"modules_to_save": None, "bias": "none", "layers_pattern": None},
]
GPT2 = [
    {"target_modules": ["c_attn", "c_proj"], "alpha_pattern": {r"mlp\.c_proj": 3}},
    {"target_modules": ["c_attn"], "layers_to_transform": [1, 2], "layers_pattern": "h"},
    {"target_modules": "all-linear", "rank_pattern": {r"h\.\d\.attn\.c_proj": 7}},
]


def test_what_peft_computes_as_plain_lora(base, tmp_path_factory):
    """Equal logits in every case; and in each the adapter changes them."""
    kind, folder = base
    for settings in LLAMA if kind == "llama" else GPT2:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # EVA and MiCA say how they are meant to be used
            theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
            before = theirs(IDS).logits
            run = folder / "run"
            wrapped = written_by_peft(run, theirs, **{"target_modules": QKV} | settings)
        assert (wrapped(IDS).logits - before).abs().max() > 0.01, settings
        assert largest_difference(run, wrapped) < 1e-4, settings


def test_peft_chooses_the_same_modules_ranks_and_factors(tmp_path):
    """Random configs; oracle: peft's own functions, by which it decides for each module."""
    checkpoint(tmp_path, "llama")
    model, random = open_checkpoint(tmp_path).shapes(), Random(0)
    paths, chosen = dict(linear_paths(model)), 0
    keys = ["q_proj", "proj", "self_attn.v_proj", "layers.1.mlp.up_proj", "model.layers.0.mlp"]
    keys += [
        r".*_proj",
        r"[qk]_proj",
        r"\d\..*",
        r"^model\.layers\.[02]\..*",
        "down_proj$",
        "mlp..*",
    ]
    keys += [r".*\.(q_proj|up_proj)", "(?!model).*", "x", "", "model.layers.2.self_attn.q_proj"]

    def some(most):
        return random.sample(keys, random.randint(0, most))

    for _ in range(60):
        config = {"target_modules": random.choice([some(6), random.choice(keys), "all-linear"])}
        config["exclude_modules"] = random.choice([None, some(3), random.choice(keys)])
        if isinstance(config["target_modules"], list):
            config["layers_to_transform"] = random.choice([None, 0, 2, [], [1, 2]])
            if config["layers_to_transform"] is not None:
                config["layers_pattern"] = random.choice([None, "layers", ["h", "layers"], "h", []])
        config["rank_pattern"] = {key: random.randint(1, 9) for key in some(3)}
        config["alpha_pattern"] = {key: random.choice((0.5, 3, 16)) for key in some(3)}
        config |= {"r": 4, "lora_alpha": 10, "use_rslora": random.random() < 0.3}
        (tmp_path / PEFT_CONFIG).write_text(
            json.dumps({"peft_type": "LORA", "bias": "none"} | config)
        )
        theirs = peft.LoraConfig(**config)
        if theirs.target_modules == "all-linear":
            theirs.target_modules = ".*"
        expected = {}
        for path, name in paths.items():
            if check_target_module_exists(theirs, name):
                rank_key, alpha_key = (
                    get_pattern_key(p.keys(), name)
                    for p in (theirs.rank_pattern, theirs.alpha_pattern)
                )
                rank = theirs.rank_pattern.get(rank_key, 4)
                alpha = theirs.alpha_pattern.get(alpha_key, 10)
                expected[path] = (rank, alpha / (rank**0.5 if theirs.use_rslora else rank))
        chosen += bool(expected)
        try:
            assert find_places(model, tmp_path) == expected, config
        except AdapterError as error:
            assert not expected, (error, config)
    assert 15 < chosen < 55


def test_an_adapter_of_several_ranks_is_saved_as_peft_reads_it(tmp_path):
    theirs = checkpoint(tmp_path, "llama")
    settings = {
        "target_modules": QKV,
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 3},
    }
    written_by_peft(tmp_path / "one", theirs, **settings)
    model, _ = load(tmp_path)
    unit = load_adapter(model, tmp_path / "one")
    save_adapter(unit, model, tmp_path / "two")
    again = peft.PeftModel.from_pretrained(checkpoint(tmp_path, "llama"), tmp_path / "two")
    with torch.no_grad():
        assert torch.allclose(again(IDS).logits, model(IDS), atol=1e-4)
    other, _ = load(tmp_path)
    load_adapter(other, tmp_path / "two")
    assert torch.allclose(other(IDS), model(IDS), atol=1e-6)


def test_an_adapter_with_a_name_is_in_a_subfolder(tmp_path):
    theirs = checkpoint(tmp_path, "llama")
    wrapped = written_by_peft(tmp_path / "run", theirs, "poem", target_modules=QKV)
    assert (tmp_path / "run" / "poem" / PEFT_CONFIG).exists()
    assert largest_difference(tmp_path / "run", wrapped) < 1e-4
    wrapped.add_adapter("prose", peft.LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "run")
    with pytest.raises(AdapterError, match=r"poem/adapter_model.*prose/adapter_model.*name one"):
        largest_difference(tmp_path / "run", wrapped)


PEFT_02 = {
    **{"base_model_name_or_path": "x", "bias": "none", "enable_lora": None, "inference_mode": True},
    **{"fan_in_fan_out": False, "lora_alpha": 16, "lora_dropout": 0.05, "merge_weights": False},
    **{"modules_to_save": None, "peft_type": "LORA", "r": 3, "task_type": "CAUSAL_LM"},
}
PEFT_05 = {
    **{"auto_mapping": None, "init_lora_weights": True, "layers_pattern": None, "revision": None},
    **{"layers_to_transform": None},
}
PEFT_10 = {
    **{"alpha_pattern": {}, "rank_pattern": {}, "loftq_config": {}, "megatron_config": None},
    **{"megatron_core": "megatron.core", "use_dora": False, "use_rslora": False},
    **{"layer_replication": None, "auto_mapping": {"base_model_class": "A", "parent_library": "b"}},
}
LATER = {
    **{"eva_config": None, "exclude_modules": None, "lora_bias": False, "corda_config": None},
    **{"trainable_token_indices": None, "use_qalora": False, "qalora_group_size": 16},
    **{"target_parameters": None, "peft_version": "0.18.0", "alora_invocation_tokens": None},
    **{"arrow_config": None, "ensure_weight_tying": False, "of_a_version_to_come": None},
}


def with_config(folder, **change):
    """A unit at q_proj of layer 2, whose adapter_config.json is another one."""
    saved(folder, ("q_proj",))
    path = folder / PEFT_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_configs_of_older_and_of_newer_versions(tmp_path):
    saved(tmp_path, ("q_proj",))
    config = {"target_modules": ["layers.2.self_attn.q_proj"]}
    for fields in (PEFT_02, PEFT_05, PEFT_10, LATER):
        config |= fields
        (tmp_path / PEFT_CONFIG).write_text(json.dumps(config))
        unit, model = load_adapter(toy_model(), tmp_path), toy_model()
        with_config(tmp_path)
        load_adapter(model, tmp_path)
        ours, theirs = model(IDS), unit.model(IDS)
        factor = 3 / 16  # our own config says alpha = r = 3
        for lora in unit.loras.values():
            lora.B.data *= factor
        assert not torch.equal(ours, theirs)
        assert torch.allclose(unit.model(IDS), ours, atol=1e-6)


NAN, INF = float("nan"), float("inf")
REFUSED = [
    *(({"lora_alpha": a}, "lora_alpha") for a in (NAN, INF, 1e39, -1, 0, "8", True, None, [8], {})),
    *(({"r": r}, "r = ") for r in (0, -4, 4.0, "4", True, None, [4], 10**40)),
    ({"r": 4, "lora_alpha": 4}, "the rank 4"),
    ({"rank_pattern": {"q_proj": 2}}, "the rank 2"),
    *(({"rank_pattern": p}, "rank_pattern") for p in ([1], "x", {"q_proj": 0}, {"q_proj": "2"})),
    *(({"alpha_pattern": p}, "alpha_pattern") for p in ([1], {"q_proj": NAN}, {"q_proj": -2})),
    ({"alpha_pattern": {"q_(proj": 2}}, "regular expressions"),
    ({"alpha_pattern": {"(a": 2}, "target_modules": ".*"}, "regular expressions"),
    *(({"init_lora_weights": how}, how) for how in ("pissa", "olora", "loftq", "corda", "lora_ga")),
    ({"init_lora_weights": ["eva"]}, "init_lora_weights"),
    ({"init_lora_weights": {}}, "init_lora_weights"),
    ({"exclude_modules": ["q_proj"]}, "match nothing"),
    ({"exclude_modules": r".*"}, "match nothing"),
    ({"exclude_modules": 3}, "exclude_modules"),
    ({"target_modules": None}, "match nothing"),
    ({"target_modules": [3]}, "target_modules"),
    ({"target_modules": {"a": 1}}, "target_modules"),
    ({"target_modules": "*"}, "regular expressions"),
    ({"target_modules": ".*", "layers_to_transform": [2]}, "layers_to_transform"),
    *(
        ({"layers_to_transform": n}, "layers_to_transform")
        for n in (-1, [2.0], ["2"], True, {"": 1})
    ),
    (
        {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": ["h"]},
        "match nothing",
    ),
    ({"layers_to_transform": [2], "layers_pattern": 5}, "layers_pattern"),
    ({"use_rslora": "yes"}, "use_rslora"),
    ({"use_dora": True}, "use_dora"),
    ({"peft_type": None}, "peft_type"),
    ({"bias": None}, "bias"),
    ({"x" * 10**5: "y" * 10**5}, "xxx"),
    ({"megatron_config": {"\x1b[2J": "\n"}}, "megatron_config"),
    ({"task_type": "z" * 10**6}, "larger than"),
]


def test_what_a_config_may_not_say(tmp_path):
    """Nothing is attached, and the one line names the file and the field."""
    for number, (change, message) in enumerate(REFUSED):
        with_config(tmp_path / str(number), **change)
        refused(tmp_path / str(number), message)
    for text in ("", "[]", "{", '{"r":' * 5000, '{"r": \ud800', "\x00", "null"):
        (tmp_path / "0" / PEFT_CONFIG).write_bytes(text.encode(errors="surrogatepass"))
        refused(tmp_path / "0", PEFT_CONFIG)
    (tmp_path / "0" / PEFT_CONFIG).unlink()
    refused(tmp_path / "0", PEFT_CONFIG)


HANG = ["(a+)+$", "(.*)*x", "(.|.)*(.|.)*!", "(.*.*.*.*.*.*.*.*.*.*.*.*)+!", r"(?:_|s|e|\w|\W)*!"]


@pytest.mark.parametrize("pattern", HANG)
def test_a_regular_expression_cannot_hang(tmp_path, monkeypatch, pattern):
    monkeypatch.setitem(LIMITS, "seconds", 0.3)
    start = time.monotonic()
    with_config(tmp_path, target_modules=pattern)
    refused(tmp_path, r"needs more than|match nothing")
    with_config(tmp_path, alpha_pattern={pattern: 3})
    with contextlib.suppress(AdapterError):  # a pattern that is done in time changes nothing
        load_adapter(toy_model(), tmp_path)
    assert time.monotonic() - start < 5


def test_values_without_room_in_float32(tmp_path):
    """Finite in the file, infinite where they would be used: cast, scaled or multiplied."""
    path, good, metadata = saved(tmp_path, ("q_proj",))
    A, B = sorted(good)
    wide = {name: value.double() for name, value in good.items()}
    save_file(wide, path, metadata)
    load_adapter(toy_model(), tmp_path)  # float64 is fine as such
    save_file(wide | {B: wide[B] * 1e300}, path, metadata)
    refused(tmp_path, "float32 has no room")
    for large, alpha in ((1e30, 3), (1e25, 1e29), (3e38, 3)):
        save_file(good | {A: good[A] * 0 + 1e9, B: good[B] * 0 + large}, path, metadata)
        with_alpha = json.loads((tmp_path / PEFT_CONFIG).read_text()) | {"lora_alpha": alpha}
        (tmp_path / PEFT_CONFIG).write_text(json.dumps(with_alpha))
        refused(tmp_path, "infinite in float32")


def test_a_flipped_bit_is_noticed(tmp_path):
    for sites in (("mlp",), ("q_proj",)):
        folder = tmp_path / sites[0]
        path, _, metadata = saved(folder, sites)
        content = bytearray(path.read_bytes())
        for place in (len(content) - 1, len(content) - 2, len(content) - 999):
            content[place] ^= 1
            path.write_bytes(content)
            refused(folder, "its tensors have changed")
            content[place] ^= 1
        path.write_bytes(content)
        load_adapter(toy_model(), folder)
        save_file(from_bytes(bytes(content)), path, metadata)  # no hash, as in older units
        load_adapter(toy_model(), folder)
