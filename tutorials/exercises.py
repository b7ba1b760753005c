"""The short exercises. You edit this file, and mymem.py for the ladder.

Each function belongs to the lesson of the same number and raises NotImplementedError until you
write it. Check one exercise, or all of them, from the folder that contains tutorials/:

    pytest tutorials -m ex2
    pytest tutorials -m "ex2 or ex5 or ex7 or ex9 or ex11 or ex12"
    python tutorials/hint.py ex2        # a first hint; call it again for the next one

Shapes are in brackets: N target tokens, V tokens in the vocabulary, T positions, width d, rank r, D
numbers in one attention head. Losses are in nats and logarithms are natural, unless a docstring
says bits. Keep the names of the functions and the order of their arguments, and do not change the
tensors that a function is given. You may add functions of your own. Most answers can be found in
the library, in the files that the lesson explains. You learn more if you look there afterwards.
"""

from torch import Tensor

# --- Exercise 2: a frozen transformer -------------------------------------------------------------


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One head of causal attention: queries [S, D], keys and values [T, D] -> [S, D].

    The queries are those of the last S of T positions. S = T when a text is read in one pass, and
    S = 1 when one more token is decoded and the earlier keys and values have been kept. The score
    of position j for position i is q_i · k_j / √D. Position i sees the positions j ≤ i only: there
    its weights are the softmax of the scores, and at later positions they are 0. The result at i is
    the sum of the values, each multiplied by its weight. Write it without torch's
    scaled_dot_product_attention.
    """
    raise NotImplementedError("Exercise 2: attention")


def rotate(x: Tensor, positions: Tensor, theta: float = 10_000.0) -> Tensor:
    """Rotary position embedding of x [T, D] (D even) at positions [T], in its half-split form.

    The shipped model adds a learned vector for each position to its input. Llama has no such
    vectors: it rotates the queries and the keys of every head instead. Component i < D/2 is rotated
    together with component i + D/2. At position p the angle is p · theta^(−2i/D), and the pair
    (a, b) becomes (a cos − b sin, b cos + a sin).
    """
    raise NotImplementedError("Exercise 2: rotate")


# --- Exercise 5: one half is enough ---------------------------------------------------------------


def recalled_below_one_half(model, memory) -> dict:
    """Options with which this memory is recited although one of its tokens has p ≤ ½.

    The memory is a tinymem.Memory of 16 to 32 random tokens, and the model is the shipped one. With
    the options that you return, for example {"rank": 2, "steps": 150},
    `tinymem.memorize(model, memory, **options)` writes the memory in at most 400 steps, so that
    greedy decoding recites it completely (`recall_exact` in the report) but `min_probability` is at
    most one half. The options may be rank, steps, lr and seed.

    When this is graded, two pairs of a short and a long memory are drawn. A pair has its two points
    if it works for both memories. The same options do not work for every length, so search for
    them.

    Your function has 120 seconds of computing for each memory (`--limit` changes this), enough for
    at least 30 trainings. The memory is trained again when it is graded, and another machine
    rounds differently, so leave a little room: a `min_margin` above 0.01 and a `min_probability`
    below 0.49.
    """
    raise NotImplementedError("Exercise 5: recalled_below_one_half")


# --- Exercise 7: measuring capacity ---------------------------------------------------------------


def check_sweep(sweep, folder) -> None:
    """A test of a sweep, written as for pytest: raises AssertionError if the sweep has a bug.

    `sweep(folder, ranks, lengths, seeds)` trains each combination that is not in the folder yet
    (for one step, in this exercise). It returns the rows of exactly these combinations, in another
    order each time. Each row is a dict with at least `rank`, `length`, `seed`, `base_loss` (without
    a unit), `final_loss` and `wall_seconds`. When it is called again with the same folder, with the
    same grid or with another, it trains only what is new. Each seed has its own memory. With the
    same seed, a longer memory begins with the shorter one.

    Your test must fail for each of six sweeps with a bug, and each that it finds is one point. It
    must also pass, every time, for a sweep that works: if it fails for that once, no bug counts.
    The bugs are drawn from a list that you do not see. Consider what can go wrong when a sweep is
    started again with another grid, when it has several seeds, and when only a part of the grid is
    run. A cell that is trained twice has the same losses both times, but not the same
    `wall_seconds`. `folder` is an empty directory (a pathlib.Path). Each call of the sweep may use
    it or any folder inside of it. Keep the grids small: ranks up to 32, lengths up to 64, and at
    most 300 combinations in all calls together.
    """
    raise NotImplementedError("Exercise 7: check_sweep")


# --- Exercise 9: bits per parameter ---------------------------------------------------------------


def stored_bits(base_loss: float, loss: float, length: int) -> float:
    """Bits that the unit saves when `length` tokens are encoded; losses in nats per token."""
    raise NotImplementedError("Exercise 9: stored_bits")


def memorized_bits(entropy: float, loss: float, length: int) -> float:
    """Bits that the unit knows about a random target; `entropy` in nats per token; at least 0."""
    raise NotImplementedError("Exercise 9: memorized_bits")


def bits_of(report: dict) -> float | None:
    """The bits that are known to be in a unit about its target, from the report of its run.

    If the target is not completely random, `entropy` is None: nobody knows how much there was to
    learn, so the answer is None. A random target that is recited (`recall_exact`) can be read from
    the unit completely, whatever its loss is. In all other cases memorized_bits of `final_loss`
    counts. The report is a dict with `entropy`, `final_loss`, `recall_exact` and `length`.
    """
    raise NotImplementedError("Exercise 9: bits_of")


# --- Exercise 11: making it fast ------------------------------------------------------------------


def logits_from_cache(model, layer: int, h: Tensor, x: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Logits [1, T, V] of a model with a unit beside the MLP of `layer`, from cached activations.

    h [1, T, d] is the output of that layer in the base model, without a unit. x [1, T, d] is the
    input of its MLP. Compute only the layers above. Two methods of the model are useful:
    `help(tinymem.Model.run)` and `help(tinymem.Model.head)`.
    """
    raise NotImplementedError("Exercise 11: logits_from_cache")


# --- Exercise 12: your own model (the capstone) ---------------------------------------------------

# Your number is what your teacher gives you, or any number from 1 to 9999 if you learn alone. It
# draws your text, of 60 to 150 tokens:
#
#     python tutorials/my_text.py NUMBER                    # prints the text and its length
#     python tutorials/my_text.py NUMBER --out my_text.txt  # also writes it to a file
#
# Which is the smallest rank that recites it? A run recites if `recall_exact` is true in its report
# after
#
#     tinymem.memorize(model, tinymem.text_memory(tokenizer, text), rank=rank, seed=seed,
#                      method="margin", steps=300)
#
# on the shipped model. A rank is sufficient if two of the three seeds 0, 1, 2 recite. The rank that
# you look for is the smallest sufficient one.
MY_NUMBER = 0

# First predict, without training a unit on the whole text. Take the recall curve of your rung 9, or
# tinymem.recite_rank, and runs of other memories or of pieces of the text. (What rung 9 calls
# `parameters` and `recited`, the report of a run calls `trainable_parameters` and `recall_exact`.)
# The load is the largest number of tokens per parameter that your curve allows; a unit of rank r
# beside an MLP of the shipped model has 512 r parameters. The rank is the smallest one with at most
# that load. (If tinymem.recite_rank gives you the rank, the load is length / (512 rank).) The
# interval, from low to high, should contain the smallest sufficient rank with a probability of 90
# %. An interval gets all points if it has two ranks, or if high is at most 1.5 low, and fewer if it
# is wider: 2 to 4 keeps three quarters. A wrong prediction costs only 2 of the 8 points if you
# explain it. A wrong measurement costs more, because nothing can then be compared with it.
MY_PREDICTION = {"load": 0.0, "rank": 0, "low": 0, "high": 0}

# Then measure: for each rank that you tried, how many of the three seeds recite. The smallest
# sufficient rank and the rank below it must be among them.
MY_MEASUREMENT = {}  # for example {2: 0, 3: 1, 4: 3}

# Last, explain the miss, which is the difference between prediction and measurement:
#     ratio             the predicted rank divided by the smallest sufficient one
#     base_loss         the loss of your text without a unit, in nats per token
#     random_base_loss  the same for as many random tokens, tinymem.random_memory(tokenizer, length,
#                       seed=MY_NUMBER)
#     control           how many of three memories of as many random tokens are recited at the
#                       smallest sufficient rank of your text: tinymem.random_memory(tokenizer,
#                       length, seed=0), then seed=1 and seed=2, which also seed the units
#     weakest           one rank below the smallest sufficient rank, with seed 0: the position (from
#                       0) of the token with the lowest margin; see `margins` of a result's verdict
#     margin            its margin there, in logits
#     because           "chance"  the interval contains the smallest sufficient rank
#                       "kind"    it does not, and the prediction was too high because the text is
#                                 easier than random tokens: control is 0 or 1
#                       "curve"   it does not, and the kind of text does not explain why
MY_MISS = {
    "ratio": 0.0,
    "base_loss": 0.0,
    "random_base_loss": 0.0,
    "control": 0,
    "weakest": 0,
    "margin": 0.0,
    "because": "",
}
