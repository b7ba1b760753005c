# %% [markdown]
# # 2. A frozen transformer
#
# **How does a model turn the tokens that it has read into a prediction of the next one?**
#
# ![Tokens pass a stack of layers, each with attention and an MLP; layer 2 of 4 is marked](pictures/ideas/02.svg)
#
# Each token becomes a vector, and a stack of layers adds to it. Attention mixes in earlier
# positions. The MLP, a small network of two matrices with a nonlinear function between them, works
# at each position alone. From the last vector the *head* of the model, one more matrix, computes a
# score for every possible next token. All of it is frozen, and memories are written beside the MLP
# of the marked layer.
#
# - **You need:** [lesson 1](01_what_to_remember.py)
# - **Time:** 2 seconds to run, 1.5 hours with the practice
# - **Read afterwards:** tinymem/base/model.py, tinymem/base/rope.py, tinymem/base/families.py,
#   tinymem/base/weights.py

# %% [markdown]
# ## Idea
#
# A base model is a function from token ids to a score for every possible next token, its *logit*.
# The *softmax* turns the logits $z$ of a position into probabilities, which are positive and add up
# to 1: $p_j = e^{z_j} / \sum_k e^{z_k}$.
#
# *Attention* mixes information from earlier positions. Every position $i$ has a query $q_i$, a key
# $k_i$ and a value $v_i$, each of $D$ numbers. A position looks for keys that fit its query, and
# takes a mean of their values, with weights $a_{ij}$ from the scores
# $s_{ij} = q_i \cdot k_j / \sqrt{D}$:
#
# $$a_{ij} = \frac{e^{s_{ij}}}{\sum_{k \le i} e^{s_{ik}}}$$
#
# The sum has only positions $k \le i$, so no position sees a later one: this is the *causal mask*.
# A layer has several such *attention heads*, each with queries, keys and values of its own.
#
# ## Shapes
#
# | symbol | shape | meaning |
# |---|---|---|
# | ids, $h$ | [B, T], [B, T, d] | B sequences of T tokens, and a vector of d numbers (the *width*) for each position |
# | $q$, $k$, $v$ | [B, heads, T, D] | queries, keys and values of a layer |
# | $a$ | [T, T] | attention weights of one head; each row adds up to 1 |
# | logits | [B, T, V] | the scores at position t are for token t + 1; V is the size of the vocabulary |
#
# ## Real weights
#
# `tiny` is a small GPT-2. What does it expect after half a sentence from the Bible?

# %%
import math
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file, save_file

import tinymem as tm
from tinymem.base.checkpoint import SHIPPED
from tinymem.base.families import read_config
from tinymem.base.rope import rope_frequencies, rotate

model, tokenizer = tm.load("tiny", device="cpu")
model.requires_grad_(False)  # frozen: no weight has a gradient
layers, d, D = model.config.num_layers, model.config.hidden_size, model.config.head_dim
print(f"tiny: {sum(p.numel() for p in model.parameters()):,} parameters, width {d};", end=" ")
print(f"layer {layers * 2 // 3} of {layers} is the marked one")
ids = torch.tensor([tokenizer.encode("In the beginning God created the heaven and the")])
tokens = [tokenizer.decode([i]) for i in ids[0].tolist()]
logits = model(ids)
p, best = logits[0, -1].softmax(-1).max(-1)
print(f"ids {list(ids.shape)} → logits {list(logits.shape)}; most probable", end=" ")
print(f"after {''.join(tokens[-2:])!r}: {tokenizer.decode([best])!r}, p = {p:.2f}")
assert tokenizer.decode([logits[0, -1].argmax()]) == " earth"

# %% [markdown]
# ## One head by hand
#
# The first layer reads $h$, the vector of each token plus the vector of its position. GPT-2 has one
# matrix $W$ for the queries, keys and values of all heads. The function computes head 0 from its
# rows. A hook, which torch calls in the forward pass, gets the same numbers out of the model.

# %%
layer, T = model.layers[0], ids.shape[1]
W, bias = layer.self_attn.qkv_proj.weight, layer.self_attn.qkv_proj.bias  # [3 d, d], [3 d]
later = torch.ones(T, T).triu(1).bool()  # True where position j comes after position i


def head(h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """h [T, d] -> the output of head 0 of the first layer [T, D], and its weights [T, T]."""
    x = layer.input_layernorm(h)  # mean 0 and variance 1 in each vector, then scale and shift
    q, k, v = (x @ W[n : n + D].T + bias[n : n + D] for n in (0, d, 2 * d))
    scores = q @ k.T / math.sqrt(D)
    a = scores.masked_fill(later, -torch.inf).softmax(-1)
    return a @ v, a


E, P = model.embed_tokens.weight, model.embed_positions.weight[:T]  # tokens and positions
by_hand, a = head(E[ids[0]] + P)
seen = []
hook = layer.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
model(ids), hook.remove()
apart = (by_hand - seen[0][0, :, :D]).abs().max()
print(f"head 0 by hand and in the model: they differ by at most {apart:.0e}")
print(f"the last token, {tokens[-1]!r}, gives {a[-1, 10]:.0%} of its attention to {tokens[10]!r}")
assert apart < 1e-5 and a[-1].argmax() == 10
assert torch.allclose(a.sum(-1), torch.ones(T)) and not a[later].any()

# %% [markdown]
# ## Positions
#
# The weights $a_{ij}$ depend on the tokens, but not on their positions. So GPT-2 adds a learned
# vector $P_t$ at position $t$. Without this vector, the output of this head at the last position
# does not depend on the order of the earlier tokens.

# %%
swapped = ids[0, [0, 1, 2, 3, 4, 10, 6, 7, 8, 9, 5, 11, 12]]  # " God" and " heaven" exchanged
for name, positions in (("with", P), ("without", torch.zeros_like(P))):
    change = (head(E[swapped] + positions)[0] - head(E[ids[0]] + positions)[0])[-1].norm()
    print(
        f"two earlier tokens exchanged, {name} positions: the head's output changes by {change:.2f}"
    )
    assert (change < 1e-5) == (name == "without")

# %% [markdown]
# ## No position sees a later one
#
# Because of the causal mask, one parallel pass gives the same losses as reading token by token.
# Lesson 5 needs this.

# %%
other = ids.clone()
other[0, 5] = 77
change = (model(other) - logits).abs().amax(-1)[0]
print(f"token 5 changes; the logits before it change by at most {change[:5].max():.1f}")
assert change[:5].max() == 0 and change[5:].min() > 0

# %% [markdown]
# ## A loader that refuses an incomplete checkpoint
#
# The weights come from a file, the checkpoint. If a weight matrix were missing, the results would
# be meaningless.

# %%
with tempfile.TemporaryDirectory() as work:
    folder = Path(shutil.copytree(SHIPPED["tiny"], Path(work) / "damaged"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.2.mlp.c_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    try:
        tm.load(folder)
        raise AssertionError("a damaged checkpoint was loaded")
    except tm.CheckpointError as error:
        print("without one tensor:", str(error).replace(work, "…").replace("\\", "/"))

# %% [markdown]
# ## The step to Llama
#
# One file implements six families of models, because they differ in few choices. The code prints
# those of five for a model with four attention heads (Llama is by Meta, Qwen by Alibaba).
#
# | row | meaning |
# |---|---|
# | `norm` | how a vector is rescaled before attention and before the MLP: `layernorm` as in the code above; `rmsnorm` divides by the root of the mean square and subtracts nothing |
# | `rotary_dim` | how many numbers of a head are rotated (see below); 0: a learned vector instead |
# | `gated_mlp` | True: the MLP has a third matrix, and its output is multiplied with that of the first, number by number |
# | `num_kv_heads` | how many heads have keys and values of their own; with 2 for 4 heads, which some families allow, two heads share each |
# | `qkv_bias` | whether a constant vector is added to queries, keys and values |
# | `qk_norm` | whether each query and key is rescaled before their dot product |
# | `parallel_residual` | True: attention and the MLP read the same vector; False: the MLP reads it after attention was added |
#
# Instead of $P_t$, Llama *rotates* queries and keys by an angle that grows with the position. Their
# dot product then depends on the distance $i - j$ only. The code puts one $q$ and one $k$ at all
# positions.

# %%
sizes = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}
configs = {"gpt2": model.config}
for name in ("llama", "qwen2", "qwen3", "gpt_neox"):
    configs[name] = read_config({"model_type": name, **sizes}, name)[0]
print(f"\n{'':17}" + "".join(f"{name:>12}" for name in configs))
CHOICES = ("norm", "rotary_dim", "gated_mlp", "num_kv_heads", "qkv_bias", "qk_norm")
for choice in (*CHOICES, "parallel_residual"):
    values = (str(getattr(config, choice)) for config in configs.values())
    print(f"{choice:17}" + "".join(f"{value:>12}" for value in values))

random, span = torch.Generator().manual_seed(0), 48
q, k = torch.randn(2, 1, configs["llama"].head_dim, generator=random)
angles = torch.outer(torch.arange(span).float(), rope_frequencies(configs["llama"])).repeat(1, 2)
turned = [rotate(v.expand(span, -1), angles.cos(), angles.sin()) for v in (q, k)]
products = turned[0] @ turned[1].T  # [span, span]
diagonals = [products.diagonal(distance) for distance in range(1 - span, span)]
spread = max(values.max() - values.min() for values in diagonals)
print(f"rotated q·k differ by at most {spread:.0e} at one distance", end=" ")
print(f"and by {products.max() - products.min():.1f} between distances")
assert spread < 1e-3

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.2), layout="constrained")
left.imshow(a.numpy(), cmap="Blues", vmin=0)
left.set(yticks=range(T), yticklabels=tokens, title="attention weights of one head (tiny)")
left.set_xticks(range(T), tokens, rotation=90)
fig.colorbar(right.imshow(products.numpy()), ax=right)
right.set(xlabel="position j of the key", ylabel="position i of the query")
right.set_title("rotated q·k, the same q and k everywhere")
fig.savefig("02_a_frozen_transformer.png", dpi=110)

# %% [markdown]
# ## What you should see
#
# - The model expects " earth" with a probability of 0.21. Head 0 gives 58 % of its attention at the
#   last token to " heaven". In the left picture, the white triangle is the causal mask.
# - When two earlier tokens are exchanged, the last output of head 0 changes by 0.81. Without the
#   vectors of the positions it changes by 0.00. When token 5 changes, the logits before it change
#   by 0.0. On the right every diagonal has one colour: a rotation encodes the distance alone.
#
# ## In three sentences
#
# A transformer has one vector for each position: attention adds information from earlier positions
# to it, an MLP adds what it computes from this position alone, and in the end one matrix turns the
# vector into logits. No position sees a later one, so one parallel pass predicts the next token at
# every position. GPT-2 learns a vector for each position, and Llama rotates queries and keys.
#
# ## The paper's claim
#
# | claim of the paper | where in tinymem | our number |
# |---|---|---|
# | The base models, Llama-3.1-8B and Qwen3-8B, are frozen | tinymem/base/model.py, `Model` | `tiny`: 3,944,960 parameters, width 256 |
# | The unit is in layer 24 of 36 (Qwen3) or 18 of 32 (Llama) | tinymem/unit/sites.py | layer 2 of 4 |
#
# ## Practice
#
# **Exercise 2**: write `attention` and Llama's `rotate` in `tutorials/exercises.py`.
#
# ```sh
# pytest tutorials -m ex2
# python tutorials/hint.py ex2
# ```
#
# ## Further reading
#
# - [Vaswani et al. 2017](https://arxiv.org/abs/1706.03762): the transformer
# - [Su et al. 2021](https://arxiv.org/abs/2104.09864): rotary position embeddings
