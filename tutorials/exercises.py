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

from torch import Tensor

# --- Exercise 2: a frozen transformer -------------------------------------------------------------


def rotate(x: Tensor, positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary position embedding of x [T, D] (D even) at positions [T], in its half-split form.

    Component i < D/2 is rotated together with component i + D/2. At position p the angle is
    p · theta^(−2i/D), and the pair (a, b) becomes (a cos − b sin, b cos + a sin).
    """
    raise NotImplementedError("Exercise 2: rotate")


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


# --- Exercise 9: bits per parameter ---------------------------------------------------------------


def stored_bits(base_loss: float, loss: float, length: int) -> float:
    """Bits that the unit saves in encoding `length` target tokens; losses in nats per token."""
    raise NotImplementedError("Exercise 9: stored_bits")


def memorized_bits(entropy: float, loss: float, length: int) -> float:
    """Bits that the unit knows about a random target; `entropy` in nats per token; at least 0."""
    raise NotImplementedError("Exercise 9: memorized_bits")


# --- Exercise 11: making it fast ------------------------------------------------------------------


def logits_from_cache(model, layer: int, h: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Logits [1, T, V] of a model with a unit beside the MLP of `layer`, from cached activations.

    h [1, T, d] is the output of that layer in the base model, without a unit. x [1, T, d] is the
    input of its MLP. Compute only the layers above. See `Model.run` and `Model.head`.
    """
    raise NotImplementedError("Exercise 11: logits_from_cache")


# --- Exercise 12: your own model (the capstone) ---------------------------------------------------

MY_TEXT = ""  # a text of your choice with 40 to 200 tokens of the shipped tokenizer
# The smallest rank, from 2 to 32, that certifies the text. Predict it from sweeps of other memories
# or of pieces of the text.
MY_RANK = 0

# A rank r certifies the text if report["certified"] is true after
# `tinymem.memorize(model, tinymem.text_memory(tokenizer, MY_TEXT), rank=r, steps=300)`.
# The prediction is accepted if it is within a factor of 1.5.
