"""Lesson 2. A frozen transformer

You need       lesson 1, and python tutorials/02_a_frozen_transformer.py
You will see   one transformer that is GPT-2, Llama, Qwen2, Qwen3 or GPT-NeoX, and the few choices in
               which these differ; that no position sees what comes after it; how positions turn; and a
               loader that refuses a checkpoint with one tensor missing
Explains       tinymem/base/model.py, tinymem/base/families.py, tinymem/base/checkpoint.py
Time           5 seconds to run, 60 minutes with the exercise
"""

# %% Idea
# A base model is a function from token ids to a score for every possible next token. It is *frozen*:
# training never changes its weights. Five families of models are one file here, because they differ in a
# few choices only: which norm, how positions get in, whether the MLP has a gate, where there are biases.
# Weights come from disk, and a loader that guesses would ruin an experiment without a word. So every
# tensor must be used or be known to be of no use, and every parameter must be filled.

# %% Shapes
#   ids [B, T] → embed → h [B, T, d] → layers 0 … n−1 → norm → lm_head → logits [B, T, V]
#   queries, keys, values of a layer   [B, heads, T, D]; heads of keys and values may be fewer
#   logits at position t               the scores of token t + 1

# %% Code
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file, save_file

import tinymem as tm
from tinymem.base.checkpoint import SHIPPED
from tinymem.base.families import read_config
from tinymem.base.model import Model, rope_frequencies, rotate

sizes = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
older = {
    "vocab_size": 2048,
    "n_embd": 256,
    "n_inner": 768,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 1024,
}
older |= {"tie_word_embeddings": False}  # GPT-2 has names of its own
FAMILIES = {"gpt2": older, **dict.fromkeys(("llama", "qwen2", "qwen3", "gpt_neox"), sizes)}

# %% Run: five families side by side
configs = {
    name: read_config({"model_type": name, **raw}, name)[0] for name, raw in FAMILIES.items()
}
choices = ("norm", "rotary_dim", "gated_mlp", "num_kv_heads", "fused_qkv", "qkv_bias", "qk_norm")
print(f"{'':17}" + "".join(f"{name:>12}" for name in configs))
for choice in (*choices, "parallel_residual"):
    print(
        f"{choice:17}" + "".join(f"{asdict(config)[choice]!s:>12}" for config in configs.values())
    )
for name, config in configs.items():
    with torch.device("meta"):  # shapes without numbers
        model = Model(config)
    parts = {
        part: sum(p.numel() for n, p in model.named_parameters() if part in n)
        for part in ("attn", "mlp")
    }
    total = sum(p.numel() for p in model.parameters())
    print(f"{name:9} {total:10,} parameters: attention {parts['attn']:,}, MLPs {parts['mlp']:,}")

# %% Run: real weights
model, tokenizer = tm.load("tiny")
ids = torch.tensor([tokenizer.encode("In the beginning God created the heaven and the")])
with torch.no_grad():
    logits = model(ids)
top = logits[0, -1].softmax(-1).topk(3)
likely = ", ".join(f"{tokenizer.decode([i])!r} {p:.2f}" for p, i in zip(*top, strict=True))
print(f"\nids {list(ids.shape)} → logits {list(logits.shape)}")
print(f"after {tokenizer.decode(ids[0, -2:])!r}: {likely}")
assert tokenizer.decode([logits[0, -1].argmax()]) == " earth"

# No position sees what comes after it: a change at position 5 leaves the logits at 0 … 4 as they were.
# This is why one parallel pass gives the same losses as reading token by token (lesson 5 leans on it).
other = ids.clone()
other[0, 5] = 77
with torch.no_grad():
    change = (model(other) - logits).abs().amax(-1)[0]
assert change[:5].max() == 0 and change[5:].min() > 0

# %% Run: a loader that refuses
with tempfile.TemporaryDirectory() as work:
    folder = Path(shutil.copytree(SHIPPED["tiny"], Path(work) / "damaged"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.2.mlp.c_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    try:
        tm.load(folder)
        raise AssertionError("a damaged checkpoint was loaded")
    except tm.CheckpointError as error:
        print("one tensor missing:", str(error).replace(work, "…"))
        assert "transformer.h.2.mlp.c_proj.weight" in str(error)

# %% Run: how positions turn
# Rotary embedding turns queries and keys by an angle that grows with the position. The product of a query
# at i and a key at j then depends on i − j alone.
config, T = configs["llama"], 48
random = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 1, config.head_dim, generator=random)
angles = torch.outer(torch.arange(T).float(), rope_frequencies(config)).repeat(1, 2)
scores = (
    rotate(q.expand(T, -1), angles.cos(), angles.sin())
    @ rotate(k.expand(T, -1), angles.cos(), angles.sin()).T
)
for distance in range(1 - T, T):
    diagonal = scores.diagonal(distance)
    assert diagonal.max() - diagonal.min() < 1e-3, "the same distance should give the same score"

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
image = left.imshow(scores.numpy(), cmap="viridis", origin="lower")
left.set(
    xlabel="position j of the key",
    ylabel="position i of the query",
    title="q·k, the same q and k everywhere",
)
fig.colorbar(image, ax=left)
right.plot(torch.arange(T), scores[:, 0], color="#0072B2")
right.set(xlabel="distance i − j (positions)", ylabel="q·k", title="every diagonal is one number")
fig.savefig("02_a_frozen_transformer.png", dpi=110)

# %% What you should see
# One column of choices for each family, and models that are the same but for them. " earth" after "the
# heaven and the": the shipped model has read the King James Bible. A change at position 5 leaves
# positions 0 to 4 exactly as they were. The damaged checkpoint is refused in one line that names the
# tensor. And diagonal stripes: rotary positions know distances only.

# %% Exercise
# Write `rotate(x, positions, theta)`: the half-split rotary embedding. Then:
#
#     pytest tutorials -m ex2
