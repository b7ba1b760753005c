"""The exercises: the only file that you edit.

Each function belongs to the lesson of the same number and raises NotImplementedError until you write it.
Check one exercise, or all of them, from the folder that holds tutorials/:

    pytest tutorials -m ex3
    pytest tutorials

Shapes are in brackets: N target tokens, V tokens in the vocabulary, T positions, d width, r rank. Losses are
in nats, and logarithms natural, unless a docstring says bits. Keep the names and the order of the arguments;
write as many functions of your own as you like. The library has most of the answers, in the file that the
lesson explains; you learn more if you look there afterwards.
"""

import torch
from torch import Tensor

# --- Exercise 1: what to remember ------------------------------------------------------------------


def inputs_and_targets(
    prompt_ids: list[int], target_ids: list[int]
) -> tuple[list[int], list[int], list[int]]:
    """What the model reads, and where it has to predict what.

    Returns (ids, rows, targets): the token ids that go into the model; the positions whose output is
    judged, one for each target token; and the token that each of them should predict: three lists. The
    output at position t has seen ids[0], …, ids[t]. No id goes in that nothing is predicted from.
    """
    raise NotImplementedError("Exercise 1: inputs_and_targets")


# --- Exercise 2: a frozen transformer --------------------------------------------------------------


def rotate(x: Tensor, positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary position embedding of x [T, D] (D even) at positions [T], in the half-split layout.

    Component i < D/2 is turned together with component i + D/2, at position p by the angle
    p · theta^(−2i/D):  (a, b) becomes (a cos − b sin, b cos + a sin).
    """
    raise NotImplementedError("Exercise 2: rotate")


# --- Exercise 3: the memory unit -------------------------------------------------------------------


def new_unit(d_in: int, d_out: int, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A [d_in, r], uniform between −1/√r and 1/√r and drawn with the generator; and B [r, d_out].

    A fresh unit must change nothing, and yet be able to learn.
    """
    raise NotImplementedError("Exercise 3: new_unit")


def unit_output(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """x [T, d_in] -> x A B [T, d_out], without ever holding anything of d_in · d_out numbers."""
    raise NotImplementedError("Exercise 3: unit_output")


# --- Exercise 4: writing a memory ------------------------------------------------------------------


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss −ln softmax(logits)[target] of each token [N], nats, from logits [N, V] and targets [N].

    Out of exp, log, sum, max and indexing alone: no softmax, logsumexp or cross_entropy. Adding 1000 to
    all logits, or to those of one token, must change nothing.
    """
    raise NotImplementedError("Exercise 4: token_losses")


# --- Exercise 5: one half is enough ----------------------------------------------------------------


def certified(logits: Tensor, targets: Tensor) -> bool:
    """Is every target token's probability above one half? logits [N, V] of one parallel pass, targets [N]."""
    raise NotImplementedError("Exercise 5: certified")


def verbatim(logits: Tensor, targets: Tensor) -> bool:
    """Will greedy decoding recite the target? From the same logits, without decoding."""
    raise NotImplementedError("Exercise 5: verbatim")


def recalled_below_one_half(tokenizer) -> tuple:
    """A counter-example: a memory that is recalled although a token of it has p ≤ ½.

    Returns (memory, options): a tinymem.Memory of at least 16 target tokens, and the options with which
    `tinymem.memorize(model, memory, **options)` writes it into the shipped model so that greedy decoding
    recites all of it (`recall_exact`), but `min_probability` is at most one half. At most 400 steps. Choose
    one with some room: it is trained again where it is graded, and another machine rounds differently.
    """
    raise NotImplementedError("Exercise 5: recalled_below_one_half")


# --- Exercise 6: MemFT -----------------------------------------------------------------------------


def memft_ot_weights(losses: Tensor, threshold: float) -> Tensor:
    """Only-threshold weights [N] from losses [N]: 1 where the token's p is below the threshold, else 0.

    If no token's p is below it, all weigh 1. No gradient may flow through the weights.
    """
    raise NotImplementedError("Exercise 6: memft_ot_weights")


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w ℓ / Σ w, a scalar. Where all weights are 0 it is 0, and so is its gradient: neither is nan."""
    raise NotImplementedError("Exercise 6: weighted_mean")


# --- Exercise 7: measuring capacity ----------------------------------------------------------------


def check_sweep(sweep, folder) -> None:
    """A test of a sweep, as you would write it for pytest: raises AssertionError if the sweep has a bug.

    `sweep(folder, ranks, lengths, seeds)` trains every combination that the folder does not hold yet (for one
    step, in this exercise) and returns the rows of all of them, in any order, each a dict with at least
    `rank`, `length`, `seed`, `base_loss`, `final_loss` and `wall_seconds`. Called again with the same folder
    it must go on where it was. The memory of a seed is of that seed, and longer ones begin with the shorter
    ones.

    Your test must pass with a sweep that works, and fail with each of several that do not: think of what can
    go wrong when a sweep is started again, with several seeds, or with a part of the grid alone. What was
    trained twice has the same losses, but not the same `wall_seconds`. `folder` is an empty directory (a
    pathlib.Path) for you to use. Keep the grids small.
    """
    raise NotImplementedError("Exercise 7: check_sweep")


# --- Exercise 8: the law ---------------------------------------------------------------------------


def fit_plane(ranks, lengths, delta_losses) -> tuple[float, float, float]:
    """(C, α, β) of ΔL = C r^α ℓ^(−β), from numpy arrays of equal size: least squares of ln ΔL.

    ln ΔL = ln C + α ln r − β ln ℓ is a plane. Solve the normal equations (Xᵀ X) θ = Xᵀ y yourself, with
    numpy.linalg.solve.
    """
    raise NotImplementedError("Exercise 8: fit_plane")


def rank_for(C: float, alpha: float, beta: float, length: float, delta_loss: float) -> float:
    """The rank, a real number, at which the law gives ΔL for a memory of this length."""
    raise NotImplementedError("Exercise 8: rank_for")


# --- Exercise 9: bits per parameter ----------------------------------------------------------------


def stored_bits(base_loss: float, loss: float, length: int) -> float:
    """Bits that the unit saves in describing a target of `length` tokens; losses in nats a token."""
    raise NotImplementedError("Exercise 9: stored_bits")


def memorized_bits(entropy: float, loss: float, length: int) -> float:
    """Bits that the unit knows of a random target with `entropy` nats a token; never below 0."""
    raise NotImplementedError("Exercise 9: memorized_bits")


# --- Exercise 10: making it fast -------------------------------------------------------------------


def logits_from_cache(model, layer: int, h: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Logits [1, T, V] of a model with a unit beside the MLP of `layer`, from what does not change.

    h [1, T, d] leaves that layer of the base model, without a unit; x [1, T, d] is what its MLP reads.
    Only the layers above may be computed. See `Model.run` and `Model.head`.
    """
    raise NotImplementedError("Exercise 10: logits_from_cache")


# --- Exercise 11: your own model (the capstone) ----------------------------------------------------

MY_TEXT = ""  # 40 to 200 tokens of the shipped tokenizer, of your own choice
# The smallest rank, 2 to 32, that certifies it: predicted from sweeps of other memories, or of pieces of it.
MY_RANK = 0

# "Certifies": `tinymem.memorize(model, tinymem.text_memory(tokenizer, MY_TEXT), rank=r, steps=300)` has
# report["certified"]. A prediction within a factor of 1.5 counts.
