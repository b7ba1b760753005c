"""The exercises. This is the only file that you edit.

Each function belongs to the lesson of the same number and raises NotImplementedError until you
write it. Check one exercise, or all of them, from the folder that contains tutorials/:

    pytest tutorials -m ex3
    pytest tutorials

Shapes are in brackets: N target tokens, V tokens in the vocabulary, T positions, width d, rank r.
Losses are in nats and logarithms are natural, unless a docstring says bits. Keep the names of the
functions and the order of their arguments; you may add functions of your own. Most answers can be
found in the library, in the files that the lesson explains. You learn more if you look there
afterwards.
"""

import torch
from torch import Tensor

# --- Exercise 1: what to remember -----------------------------------------------------------------


def inputs_and_targets(
    prompt_ids: list[int], target_ids: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """The input of the model, and the positions at which it predicts the target.

    Returns three lists (ids, rows, targets): the token ids that are the input of the model; the
    positions whose output is used, one for each target token; and the token that should be
    predicted at each of these positions. The output at position t depends on ids[0], …, ids[t].
    Leave out of ids every token that is not needed for a prediction.
    """
    raise NotImplementedError("Exercise 1: inputs_and_targets")


# --- Exercise 2: a frozen transformer -------------------------------------------------------------


def rotate(x: Tensor, positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary position embedding of x [T, D] (D even) at positions [T], in its half-split form.

    Component i < D/2 is rotated together with component i + D/2. At position p the angle is
    p · theta^(−2i/D), and the pair (a, b) becomes (a cos − b sin, b cos + a sin).
    """
    raise NotImplementedError("Exercise 2: rotate")


# --- Exercise 3: the memory unit ------------------------------------------------------------------


def new_unit(d_in: int, d_out: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A new unit (A, B): A [d_in, r] and B [r, d_out].

    A is uniform between −1/√r and 1/√r and is drawn with the generator. A new unit must not change
    the output of the model, but training must be able to change the unit.
    """
    raise NotImplementedError("Exercise 3: new_unit")


def unit_output(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """x [T, d_in] -> x A B [T, d_out], without creating a tensor of d_in · d_out numbers."""
    raise NotImplementedError("Exercise 3: unit_output")


# --- Exercise 4: writing a memory -----------------------------------------------------------------


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss −ln softmax(logits)[target] of each token [N], in nats.

    logits [N, V], targets [N]. Use exp, log, sum, max and indexing only: no softmax, logsumexp or
    cross_entropy. The losses must not change when 1000 is added to all logits, or to the logits of
    one token.
    """
    raise NotImplementedError("Exercise 4: token_losses")


# --- Exercise 5: one half is enough ---------------------------------------------------------------


def certified(logits: Tensor, targets: Tensor) -> bool:
    """Is the probability of every target token above one half?

    logits [N, V] from one parallel pass, targets [N].
    """
    raise NotImplementedError("Exercise 5: certified")


def verbatim(logits: Tensor, targets: Tensor) -> bool:
    """Will greedy decoding recite the target? Answer from the same logits, without decoding."""
    raise NotImplementedError("Exercise 5: verbatim")


def recalled_below_one_half(tokenizer) -> tuple:
    """A counter-example: a memory that is recalled although one of its tokens has p ≤ ½.

    Returns (memory, options). The memory is a tinymem.Memory with at least 16 target tokens. With
    the options, `tinymem.memorize(model, memory, **options)` writes it into the shipped model in at
    most 400 steps, so that greedy decoding recites it completely (`recall_exact`) but
    `min_probability` is at most one half. Leave a margin: the memory is trained again when it is
    graded, and another machine rounds differently.
    """
    raise NotImplementedError("Exercise 5: recalled_below_one_half")


# --- Exercise 6: MemFT ----------------------------------------------------------------------------


def memft_ot_weights(losses: Tensor, threshold: float) -> Tensor:
    """Only-threshold weights [N] from losses [N].

    The weight is 1 where the probability of the token is below the threshold, and 0 elsewhere. If
    no probability is below the threshold, all weights are 1. The weights carry no gradient.
    """
    raise NotImplementedError("Exercise 6: memft_ot_weights")


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w ℓ / Σ w, a scalar. If all weights are 0, the result and its gradient are 0, not nan."""
    raise NotImplementedError("Exercise 6: weighted_mean")


# --- Exercise 7: measuring capacity ---------------------------------------------------------------


def check_sweep(sweep, folder) -> None:
    """A test of a sweep, written as for pytest: raises AssertionError if the sweep has a bug.

    `sweep(folder, ranks, lengths, seeds)` trains each combination that is not in the folder yet
    (for one step, in this exercise). It returns the rows of all combinations, in any order. Each
    row is a dict with at least `rank`, `length`, `seed`, `base_loss`, `final_loss` and
    `wall_seconds`. When it is called again with the same folder, it continues where it stopped.
    Each seed has its own memory. With the same seed, a longer memory begins with the shorter one.

    Your test must pass for a sweep that works, and fail for each of several sweeps with a bug.
    Consider what can go wrong when a sweep is started again, when it has several seeds, and when
    only a part of the grid is run. A cell that is trained twice has the same losses both times, but
    not the same `wall_seconds`. `folder` is an empty directory (a pathlib.Path) that you may use.
    Keep the grids small.
    """
    raise NotImplementedError("Exercise 7: check_sweep")


# --- Exercise 8: the law --------------------------------------------------------------------------


def fit_plane(ranks, lengths, delta_losses) -> tuple[float, float, float]:
    """(C, α, β) of ΔL = C r^α ℓ^(−β), by least squares of ln ΔL, from numpy arrays of equal size.

    ln ΔL = ln C + α ln r − β ln ℓ is a plane. Solve the normal equations (Xᵀ X) θ = Xᵀ y yourself,
    with numpy.linalg.solve.
    """
    raise NotImplementedError("Exercise 8: fit_plane")


def rank_for(C: float, alpha: float, beta: float, length: float, delta_loss: float) -> float:
    """The rank (a real number) at which the law predicts this ΔL for a memory of this length."""
    raise NotImplementedError("Exercise 8: rank_for")


# --- Exercise 9: bits per parameter ---------------------------------------------------------------


def stored_bits(base_loss: float, loss: float, length: int) -> float:
    """Bits that the unit saves in encoding `length` target tokens; losses in nats per token."""
    raise NotImplementedError("Exercise 9: stored_bits")


def memorized_bits(entropy: float, loss: float, length: int) -> float:
    """Bits that the unit knows about a random target; `entropy` in nats per token; at least 0."""
    raise NotImplementedError("Exercise 9: memorized_bits")


# --- Exercise 10: making it fast ------------------------------------------------------------------


def logits_from_cache(model, layer: int, h: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Logits [1, T, V] of a model with a unit beside the MLP of `layer`, from cached activations.

    h [1, T, d] is the output of that layer in the base model, without a unit. x [1, T, d] is the
    input of its MLP. Compute only the layers above. See `Model.run` and `Model.head`.
    """
    raise NotImplementedError("Exercise 10: logits_from_cache")


# --- Exercise 11: your own model (the capstone) ---------------------------------------------------

MY_TEXT = ""  # a text of your choice with 40 to 200 tokens of the shipped tokenizer
# The smallest rank, from 2 to 32, that certifies the text. Predict it from sweeps of other memories
# or of pieces of the text.
MY_RANK = 0

# A rank r certifies the text if report["certified"] is true after
# `tinymem.memorize(model, tinymem.text_memory(tokenizer, MY_TEXT), rank=r, steps=300)`.
# The prediction is accepted if it is within a factor of 1.5.
