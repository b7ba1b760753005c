"""Lesson 2. A frozen transformer

You need       lesson 1, and `python tutorials/02_a_frozen_transformer.py`
You will see   one transformer that can be GPT-2, Llama, Qwen2, Qwen3 or GPT-NeoX, and the choices
               in which they differ; that the output at a position does not depend on later tokens;
               a loader that refuses an incomplete checkpoint; how rotary embeddings encode position
Explains       tinymem/base/model.py, tinymem/base/rope.py, tinymem/base/families.py,
               tinymem/base/weights.py
Time           5 seconds to run, 60 minutes with the exercise
"""

# %% Idea
# A base model is a function from token ids to a score (a *logit*) for every possible next token. It
# is *frozen*: training never changes its weights. One file implements five families of models,
# because they differ in only a few choices: the kind of norm, how positions are encoded, whether
# the MLP is gated, and which layers have a bias.
#
# The weights are read from disk. A loader that ignored a missing tensor would spoil an experiment
# without any warning. So every parameter of the model must be in the checkpoint, and every tensor
# of the checkpoint must either be used or be known to be unnecessary.

# %% Shapes
#   ids [B, T] → embed → h [B, T, d] → layers 0 … n−1 → norm → lm_head → logits [B, T, V]
#   queries, keys and values of a layer   [B, heads, T, D]; there may be fewer key and value heads
#   logits at position t                  the scores for token t + 1

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
from tinymem.base.model import Model
from tinymem.base.rope import rope_frequencies, rotate

sizes = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
# The same sizes under the names that GPT-2 uses.
older = {"vocab_size": 2048, "n_embd": 256, "n_inner": 768, "n_layer": 4, "n_head": 4}
older |= {"n_positions": 1024, "tie_word_embeddings": False}
FAMILIES = {"gpt2": older, **dict.fromkeys(("llama", "qwen2", "qwen3", "gpt_neox"), sizes)}

# %% Run: five families side by side
configs = {
    name: read_config({"model_type": name, **raw}, name)[0] for name, raw in FAMILIES.items()
}
choices = ["norm", "rotary_dim", "gated_mlp", "num_kv_heads", "fused_qkv", "qkv_bias", "qk_norm"]
print(f"{'':17}" + "".join(f"{name:>12}" for name in configs))
for choice in [*choices, "parallel_residual"]:
    values = [str(asdict(config)[choice]) for config in configs.values()]
    print(f"{choice:17}" + "".join(f"{value:>12}" for value in values))
for name, config in configs.items():
    with torch.device("meta"):  # the meta device has shapes but no numbers
        model = Model(config)
    sizes_of = {path: p.numel() for path, p in model.named_parameters()}
    attention, mlps = (sum(n for path, n in sizes_of.items() if p in path) for p in ("attn", "mlp"))
    total = sum(sizes_of.values())
    print(f"{name:9} {total:10,} parameters: {attention:,} in attention, {mlps:,} in MLPs")

# %% Run: real weights
model, tokenizer = tm.load("tiny")
ids = torch.tensor([tokenizer.encode("In the beginning God created the heaven and the")])
with torch.no_grad():
    logits = model(ids)
top = logits[0, -1].softmax(-1).topk(3)
guesses = ", ".join(f"{tokenizer.decode([i])!r} {p:.2f}" for p, i in zip(*top, strict=True))
print(f"\nids {list(ids.shape)} → logits {list(logits.shape)}")
print(f"most probable tokens after {tokenizer.decode(ids[0, -2:])!r}: {guesses}")
assert tokenizer.decode([logits[0, -1].argmax()]) == " earth"

# The output at a position does not depend on later tokens: when the token at position 5 changes,
# the logits at positions 0 to 4 stay the same. This is why one parallel pass over a sequence gives
# the same losses as reading it token by token. Lesson 5 uses this fact.
other = ids.clone()
other[0, 5] = 77
with torch.no_grad():
    change = (model(other) - logits).abs().amax(-1)[0]
assert change[:5].max() == 0 and change[5:].min() > 0

# %% Run: a loader that refuses an incomplete checkpoint
with tempfile.TemporaryDirectory() as work:
    folder = Path(shutil.copytree(SHIPPED["tiny"], Path(work) / "damaged"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.2.mlp.c_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    try:
        tm.load(folder)
        raise AssertionError("a damaged checkpoint was loaded")
    except tm.CheckpointError as error:
        print("without one tensor:", str(error).replace(work, "…"))
        assert "transformer.h.2.mlp.c_proj.weight" in str(error)

# %% Run: rotary embeddings
# A rotary embedding rotates queries and keys by an angle that grows with the position. The dot
# product of a query at position i and a key at position j then depends on i − j only.
config, T = configs["llama"], 48
random = torch.Generator().manual_seed(0)
q, k = torch.randn(2, 1, config.head_dim, generator=random)
angles = torch.outer(torch.arange(T).float(), rope_frequencies(config)).repeat(1, 2)
turned = [rotate(v.expand(T, -1), angles.cos(), angles.sin()) for v in (q, k)]
scores = turned[0] @ turned[1].T  # [T, T]: the same q and k at every pair of positions
for distance in range(1 - T, T):
    diagonal = scores.diagonal(distance)
    assert diagonal.max() - diagonal.min() < 1e-3, "the same distance should give the same score"

fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
image = left.imshow(scores.numpy(), cmap="viridis", origin="lower")
left.set(xlabel="position j of the key", ylabel="position i of the query")
left.set_title("q·k for the same q and k")
fig.colorbar(image, ax=left)
right.plot(torch.arange(T), scores[:, 0], color="#0072B2")
right.set(xlabel="distance i − j (positions)", ylabel="q·k", title="q·k depends on i − j only")
fig.savefig("02_a_frozen_transformer.png", dpi=110)

# %% What you should see
# The table has one column of choices for each family, and nothing else distinguishes the five
# models. After "the heaven and the" the shipped model predicts " earth", because it was trained on
# the King James Bible. A change at position 5 leaves the logits at positions 0 to 4 exactly as they
# were. The damaged checkpoint is refused with one line that names the missing tensor. In the
# picture every diagonal has one colour: a rotary embedding encodes only the distance between two
# positions.

# %% Exercise
# Write `rotate(x, positions, theta)`, the half-split form of the rotary embedding. Then:
#
#     pytest tutorials -m ex2
