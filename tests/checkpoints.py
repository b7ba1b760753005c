"""Tiny random checkpoints, written by transformers itself, for tests that need a model on disk.

    oracle = build(folder, "qwen2", tie_word_embeddings=True)

writes config.json, model.safetensors and tokenizer.json into `folder` and returns transformers'
model, in float32 and evaluation mode. Everything follows from `seed`. The weights are larger than
transformers' initial ones, with which the logits of a tiny model are nearly zero and a comparison
would pass on anything. The other functions damage a checkpoint, or assert how loading it fails.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from tinymem.base.checkpoint import load
from tinymem.errors import CheckpointError

# Older ones do not read rope_parameters, and cannot rotate an odd number of components.
OLD_ORACLE = int(transformers.__version__.partition(".")[0]) < 5
needs_new_oracle = pytest.mark.skipif(OLD_ORACLE, reason="transformers 5 is the oracle of this")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CONTEXT = 160
SPECIAL = ("<s>", "</s>", "<|user|>", "<|end|>")
# Byte-level, so that every text has ids; with a few merges, so that tokens are not just bytes.
MERGES = (
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("a", "n"),
    ("an", "d"),
    ("i", "n"),
    ("in", "g"),
    ("Ġ", "Ġ"),
)
WORDS = sorted(ByteLevel.alphabet()) + [a + b for a, b in MERGES]
TOKENS = len(WORDS) + len(SPECIAL)  # 268
VOCAB = TOKENS + 4  # as in many real checkpoints, the embedding is padded beyond the tokenizer

WIDTH, LAYERS, HEADS, INNER = 32, 2, 4, 48
SIZES = {
    "gpt2": {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT},
    "other": {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
    },
    "mistral": {"sliding_window": None, "num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}

# An original context of 32 puts the 96 tested positions where llama3's scaling acts: of the
# wavelengths 6.3, 20, 63, … one is kept, one lies in the transition, and the others are stretched.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10_000.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 10_000.0}


def tokenizer(bos: bool = True) -> tokenizers.Tokenizer:
    """A byte-level BPE with four special tokens; with `bos`, "<s>" is put before every text."""
    core = tokenizers.Tokenizer(BPE({word: i for i, word in enumerate(WORDS)}, list(MERGES)))
    core.pre_tokenizer = ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(text, special=True) for text in SPECIAL])
    if bos:
        core.post_processor = TemplateProcessing(
            "<s> $A", "<s> $A $B", [("<s>", core.token_to_id("<s>"))]
        )
    return core


def randomise(model: torch.nn.Module, seed: int) -> None:
    """New weights that make logits, attention and normalisation vary widely."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = torch.randn(p.shape, generator=draw)
            if p.dim() == 2:
                p.copy_(1.5 * noise * p.shape[-1] ** -0.5)
            else:  # norm weights around 1, biases around 0
                p.copy_(
                    0.2 * noise + (1 if "norm" in name or "ln_" in name else 0) * (p.mean() > 0.5)
                )


def build(
    folder: Path,
    kind: str,
    *,
    seed: int = 0,
    tokens: bool = True,
    shard_size: str = "1GB",
    **settings,
) -> transformers.PreTrainedModel:
    """Write a tiny checkpoint of model_type `kind`; `settings` are fields of its config.json.

    shard_size: as in save_pretrained, "20KB" gives an index and several shards.
    """
    if kind not in transformers.CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} does not have {kind}")
    sizes = SIZES["gpt2"] if kind == "gpt2" else SIZES["other"] | SIZES.get(kind, {})
    no_ids = {"bos_token_id": None, "eos_token_id": None}  # nothing may stop a greedy decode
    config = transformers.AutoConfig.for_model(
        kind, **{"vocab_size": VOCAB, **no_ids, **sizes, **settings}
    )
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    randomise(model, seed)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, max_shard_size=shard_size)
    if tokens:
        tokenizer().save(str(folder / "tokenizer.json"))
    return model


def edit_json(path: Path, drop: tuple[str, ...] = (), **changes) -> None:
    """Set and remove fields of a JSON file."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in value.items() if k not in drop}), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict], object], name: str = WEIGHTS) -> None:
    """Apply `change`, which edits a dict of tensors in place, to a safetensors file."""
    tensors = load_file(folder / name)
    change(tensors)
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / name, {"format": "pt"})


def refused(folder: Path | str, *words: str) -> None:
    """Assert that loading fails with one line that holds every one of `words`."""
    with pytest.raises(CheckpointError) as caught:
        load(folder, device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def draw_ids(length: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """Random token ids, long [batch, length]."""
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def same_weights(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    """Whether two models have equal parameters of the same names."""
    one, two = dict(one.named_parameters()), dict(two.named_parameters())
    return one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)
