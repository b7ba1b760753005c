"""A library of your own: how much can a LoRA remember?

You write this file rung by rung: each lesson names its rungs. A function raises NotImplementedError
until you write it. Check a rung, or all of them, from the folder that contains tutorials/:

    pytest tutorials -m rung4
    pytest tutorials -m rung4 --from-library 1-3    # with tinymem's rungs 1 to 3 instead of yours
    python tutorials/hint.py rung4                  # a first hint; call it again for the next one

Take nothing from tinymem but `tm.load`. After the last rung, `python tutorials/my_paper.py`
measures a law and a recall curve with your file, and 00_the_whole_paper.py is one way to write it.

Shapes are in brackets: N target tokens, V tokens in the vocabulary, T positions, width d, rank r.
Losses are in nats. Keep names and the order of arguments; add functions of your own. A function
does not change the lists and tensors that it is given.
"""

from pathlib import Path

import torch  # noqa: F401
from torch import Tensor, nn

import tinymem as tm

# --- Rung 1: tokens and targets (lesson 1) --------------------------------------------------------


def draw_tokens(plain_ids: list[int], count: int, seed: int) -> list[int]:
    """`count` token ids, each drawn uniformly from plain_ids, independently of the others.

    The same seed always gives the same ids, and other seeds give others. With the same seed, the
    first 5 ids of a draw of 10 are those of a draw of 5.
    """
    raise NotImplementedError("Rung 1: draw_tokens")


def inputs_and_targets(prompt_ids: list[int], target_ids: list[int]) -> tuple[list, list, list]:
    """(ids, rows, targets): the input of the model, and the positions that predict the target.

    The model's output at position t depends on ids[0], …, ids[t], and predicts the token after
    them. `rows` has one position in ids for each target token, and `targets` has the token to be
    predicted there. The last element of rows is the last position of ids.
    """
    raise NotImplementedError("Rung 1: inputs_and_targets")


# --- Rung 2: the memory unit (lessons 2 and 3) ----------------------------------------------------


class LoRA(nn.Module):
    """A frozen part of the model with a unit of rank r beside it: part(x) + x A B.

    Its attributes are the parameters `A` [d, r] and `B` [r, d], and `part`. A starts at values that
    are drawn uniformly between −1/√r and 1/√r, and the seed decides them. B starts so that a new
    unit does not change the output.
    """

    def __init__(self, part: nn.Module, width: int, rank: int, seed: int):
        super().__init__()
        raise NotImplementedError("Rung 2: LoRA.__init__")

    def forward(self, x: Tensor) -> Tensor:
        """x [..., d] -> [..., d], without a tensor of d · d numbers."""
        raise NotImplementedError("Rung 2: LoRA.forward")


def attach(model: tm.Model, rank: int, seed: int) -> LoRA:
    """Freezes the model, puts a new unit beside the MLP of one layer, and returns the unit.

    The layer is model.layers[model.config.num_layers * 2 // 3]; replace its `mlp` by the unit. Then
    only A and B require a gradient. `model.config.hidden_size` is the width d.
    """
    raise NotImplementedError("Rung 2: attach")


def detach(model: tm.Model, unit: LoRA) -> None:
    """Takes the unit out again, and puts back what was in its place. The unit keeps A and B."""
    raise NotImplementedError("Rung 2: detach")


# --- Rung 3: the loss of a token (lesson 4) -------------------------------------------------------


def target_logits(model: tm.Model, prompt_ids: list[int], target_ids: list[int]) -> Tensor:
    """Logits [N, V] of the target tokens, each given the true tokens before it, in one pass.

    model(ids [1, T]) returns logits [1, T, V]. Training needs their gradient.
    """
    raise NotImplementedError("Rung 3: target_logits")


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The loss −ln softmax(logits)[target] of each token [N], in nats, with its gradient.

    logits [N, V], targets [N]. Use exp, log, sum, max and indexing only: no softmax, logsumexp or
    cross_entropy. The losses must not change when 1000 is added to all logits of a token.
    """
    raise NotImplementedError("Rung 3: token_losses")


def plain(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    """The objective of plain fine-tuning: the mean loss, a scalar.

    An objective gets the progress of the training, from 0 in the first step to nearly 1 in the
    last. This one does not use it.
    """
    raise NotImplementedError("Rung 3: plain")


# --- Rung 4: a training loop (lesson 4) -----------------------------------------------------------


def write(
    model: tm.Model,
    unit: LoRA,
    prompt_ids: list[int],
    target_ids: list[int],
    steps: int,
    lr: float = 0.1,
    objective=plain,
) -> list[float]:
    """Writes the memory into the attached unit: only A and B change.

    Returns the mean loss of the target before each step, a float, whatever the objective is. Each
    step minimizes objective(logits, targets, step / steps) with torch's AdamW, without weight
    decay. The norm of the gradient of A and B together is clipped to 1. The learning rate falls in
    a straight line: it is lr · (1 − step / steps) in step 0, 1, …, steps − 1.
    """
    raise NotImplementedError("Rung 4: write")


# --- Rung 5: decode and judge (lesson 5) ----------------------------------------------------------


def greedy(model: tm.Model, prompt_ids: list[int], count: int) -> list[int]:
    """The `count` tokens after the prompt, each the most probable one. No gradient is stored."""
    raise NotImplementedError("Rung 5: greedy")


def margins(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each target minus the largest other logit [N]; logits [N, V], targets [N]."""
    raise NotImplementedError("Rung 5: margins")


def judge(model: tm.Model, prompt_ids: list[int], target_ids: list[int]) -> dict:
    """What one pass over the true tokens proves, and what decoding gives. No gradient is stored.

    The keys with floats: `loss`, the mean loss (nats per token); `lowest_p`, the lowest probability
    of a target token; `lowest_margin`. With bools: `certified`, True if every p is above ½;
    `recited`, True if every target token is more probable than all others in this pass, so that
    greedy decoding must give the target. With a list: `decoded`, the ids that decoding gives.
    """
    raise NotImplementedError("Rung 5: judge")


# --- Rung 6: MemFT and margin (lessons 6 and 10) --------------------------------------------------


def memft_ot_weights(losses: Tensor, threshold: float = 0.5) -> Tensor:
    """Only-threshold weights [N] of the losses [N]: 1 where p is below the threshold, 0 elsewhere.

    A loss is −ln p. If no p is below the threshold, all weights are 1. They carry no gradient.
    """
    raise NotImplementedError("Rung 6: memft_ot_weights")


def memft_ot(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    """The objective of MemFT: Σ w ℓ / Σ w, with the weights of the losses of this step."""
    raise NotImplementedError("Rung 6: memft_ot")


def temperature(progress: float) -> float:
    """The temperature of the objective margin: it falls from 1 to 0.01 as 0.01^(progress²)."""
    raise NotImplementedError("Rung 6: temperature")


def margin(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
    """The objective margin: T times the mean loss of logits / T, with T = temperature(progress)."""
    raise NotImplementedError("Rung 6: margin")


# --- Rung 7: a sweep (lesson 7) -------------------------------------------------------------------


def run_cell(
    model: tm.Model, tokenizer, rank: int, length: int, seed: int, steps: int, objective=plain
) -> dict:
    """One experiment: `length` random tokens are written into a new unit of this rank.

    The target is draw_tokens(tokenizer.plain_ids, length, seed), after the prompt
    tokenizer.encode("Recite the memory word for word:"). The seed is also that of the unit. The
    unit is taken out of the model in the end, even if an error occurs. Returns a row with the
    keys rank, length, seed, parameters (how many numbers A and B have), base_loss and final_loss
    (mean losses before and after the training, nats per token), and recited (of rung 5).
    """
    raise NotImplementedError("Rung 7: run_cell")


def sweep(path: Path, ranks: list[int], lengths: list[int], seeds: list[int], run) -> list[dict]:
    """The rows of all combinations, in any order. A sweep that was killed goes on where it stopped.

    run(rank, length, seed) gives the row of one combination. As soon as a row is finished, it is
    appended to the file `path`, as JSON on one line that ends with a newline, and its combination
    is never run again. If a kill has cut the last line short, it does not count, and its
    combination is run again. The file may hold rows of other combinations, and another process may
    append some while this one runs: they stay in the file and are not returned. The folder exists.
    """
    raise NotImplementedError("Rung 7: sweep")


# --- Rung 8: the law (lesson 8) -------------------------------------------------------------------


def fit_law(rows: list[dict]) -> tuple[float, float, float]:
    """(C, α, β) of ΔL = C r^α ℓ^(−β), by least squares of ln ΔL; ΔL = base_loss − final_loss.

    Rows with a final loss of at most ln 2 are left out. Write down the normal equations yourself: a
    solver for a square system, such as numpy.linalg.solve, may be used, but not lstsq or polyfit.
    """
    raise NotImplementedError("Rung 8: fit_law")


def bootstrap(rows: list[dict], draws: int, seed: int) -> dict[str, tuple[float, float]]:
    """95 % intervals of the exponents: {"alpha": (low, high), "beta": (low, high)}.

    A cell is a pair of rank and length, with the rows that fit_law does not leave out. Each of the
    `draws` takes as many cells as there are, with replacement, and fits a law to all of their rows.
    The seeds of a cell are drawn together, because they deviate from the law in the same way. A
    draw that determines no law is repeated: its ranks or lengths are all equal, or they change
    together, as in the cells (1, 32), (2, 64). An interval is from the 2.5 % to the 97.5 % quantile
    of the draws. The same seed gives the same intervals.
    """
    raise NotImplementedError("Rung 8: bootstrap")


# --- Rung 9: a plan (lessons 10 and 12) -----------------------------------------------------------


def rank_for_loss(rows: list[dict], length: int, loss: float = 0.6931) -> float:
    """The rank, a real number, at which the law of the rows predicts this final loss.

    L₀ of the new memory is the mean base loss of all rows, even of those that fit_law leaves out.
    """
    raise NotImplementedError("Rung 9: rank_for_loss")


def recall_curve(rows: list[dict]) -> tuple[float, float]:
    """(load_50, s) of P(recited) = 1 / (1 + (load / load_50)^s), load = length / parameters.

    This is the pair with the highest likelihood, the product of the probabilities that the curve
    gives to the rows' `recited`, with s between 0.5 and 20 and load_50 in the range of the loads. A
    grid search is good enough if the logarithm of its likelihood is within 0.01 of the highest one.
    """
    raise NotImplementedError("Rung 9: recall_curve")


def plan_rank(rows: list[dict], length: int, chance: float = 0.9) -> int:
    """The smallest whole rank for which recall_curve gives `length` tokens at least this chance.

    As in the rows, the number of parameters is proportional to the rank.
    """
    raise NotImplementedError("Rung 9: plan_rank")


# --- Stretch tasks, in any order ------------------------------------------------------------------


def save_bfloat16(unit: LoRA, path) -> None:
    """Stretch 1. Saves A and B in bfloat16, under these names, with safetensors."""
    raise NotImplementedError("Stretch 1: save_bfloat16")


def load_bfloat16(model: tm.Model, path) -> LoRA:
    """Stretch 1. Attaches the saved unit, with A and B in float32 again, and returns it."""
    raise NotImplementedError("Stretch 1: load_bfloat16")


def write_ranks(
    model: tm.Model, tokenizer, ranks: list[int], length: int, seed: int, steps: int
) -> list[dict]:
    """Stretch 2. The rows of run_cell for all ranks, from one training.

    Each forward pass of the training holds the memory once for every rank, as a batch [K, T], and
    the unit of a rank sees only its own sequence. The gradient of each unit is clipped by itself.
    """
    raise NotImplementedError("Stretch 2: write_ranks")


def better_schedule(progress: float) -> tuple[float, float]:
    """Stretch 3. (T, learning rate) of a better schedule for margin, when the steps are few.

    With 40 steps for 16 tokens at rank 2, the share of right tokens is 3 percentage points higher
    than with `temperature` and the learning rate of `write` (lr = 0.1). The rest is as in `write`.
    """
    raise NotImplementedError("Stretch 3: better_schedule")


def attach_attention(model: tm.Model, rank: int, seed: int) -> LoRA:
    """Stretch 4. Like attach, but beside `self_attn.o_proj`, the output projection of attention."""
    raise NotImplementedError("Stretch 4: attach_attention")
