"""Wrong answers to the exercises, of the kind that students write.

The decorator `wrong(exercise, name, says)` marks a function that replaces the right answer `name`.
The checks must then give the student a message that contains `says`.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import tinymem as tm
from tests import answer_key as key

LN2 = math.log(2)


class Wrong(NamedTuple):
    exercise: int
    name: str  # the right answer that it replaces
    says: str  # part of the message that the student should receive


WRONG: dict[str, Wrong] = {}


def wrong(exercise: int, name: str, says: str):
    def register(function):
        WRONG[function.__name__] = Wrong(exercise, name, says)
        return function

    return register


# --- Exercise 1 -----------------------------------------------------------------------------------


@wrong(1, "inputs_and_targets", "It has read the token that it should predict")
def unshifted(prompt_ids, target_ids):
    ids = prompt_ids + target_ids
    return ids, list(range(len(prompt_ids), len(ids))), target_ids


@wrong(1, "inputs_and_targets", "no row for the other prompt tokens")
def prompt_too(prompt_ids, target_ids):
    ids = prompt_ids + target_ids
    return ids[:-1], list(range(len(ids) - 1)), ids[1:]


@wrong(1, "inputs_and_targets", "it should not be an input")
def last_token_goes_in(prompt_ids, target_ids):
    _, rows, targets = key.inputs_and_targets(prompt_ids, target_ids)
    return prompt_ids + target_ids, rows, targets


# --- Exercise 2 -----------------------------------------------------------------------------------


def turn(first, second, positions, theta, power=2.0):
    count = first.shape[-1]
    angle = positions[:, None].float() * theta ** (-power * torch.arange(count) / (2 * count))
    return first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()


@wrong(2, "rotate", "Pairs of neighbours such as 0 and 1 are another form")
def interleaved(x, positions, theta=10_000.0):
    return torch.stack(turn(x[:, ::2], x[:, 1::2], positions, theta), -1).flatten(-2)


@wrong(2, "rotate", "rotates in the other direction")
def other_way(x, positions, theta=10_000.0):
    return torch.cat(turn(*x.chunk(2, -1), -positions, theta), -1)


@wrong(2, "rotate", "with a factor of 2")
def half_the_exponent(x, positions, theta=10_000.0):
    return torch.cat(turn(*x.chunk(2, -1), positions, theta, power=1.0), -1)


@wrong(2, "rotate", "A rotation should not change the length of a vector")
def one_sine_too_few_signs(x, positions, theta=10_000.0):
    first, second = x.chunk(2, -1)
    return torch.cat(
        [turn(first, -second, positions, theta)[0], turn(first, second, positions, theta)[1]], -1
    )


# --- Exercise 3 -----------------------------------------------------------------------------------


@wrong(3, "new_unit", "With B = 0 the output is 0 for every A")
def random_b(d_in, d_out, rank, generator):
    A, B = key.new_unit(d_in, d_out, rank, generator)
    return A, B.data.uniform_(-0.1, 0.1, generator=generator)


@wrong(3, "new_unit", "neither of them ever changes")
def both_zero(d_in, d_out, rank, generator):
    return torch.zeros(d_in, rank), torch.zeros(rank, d_out)


@wrong(3, "new_unit", "the bound for the transposed matrix")
def bound_of_the_input(d_in, d_out, rank, generator):
    A = torch.empty(d_in, rank).uniform_(-(d_in**-0.5), d_in**-0.5, generator=generator)
    return A, torch.zeros(rank, d_out)


@wrong(3, "new_unit", "Use the generator to draw A")
def global_random_numbers(d_in, d_out, rank, generator):
    return (2 * torch.rand(d_in, rank) - 1) / math.sqrt(rank), torch.zeros(rank, d_out)


@wrong(3, "unit_output", "Multiply from the left")
def dense_product(x, A, B):
    return x @ (A @ B)


@wrong(3, "unit_output", "without a factor")
def alpha_over_rank(x, A, B):
    return x @ A @ B * (16 / A.shape[1])


# --- Exercise 4 -----------------------------------------------------------------------------------


@wrong(4, "token_losses", "First subtract from each row its own largest logit")
def no_shift(logits, targets):
    return logits.exp().sum(-1).log() - logits[torch.arange(len(targets)), targets]


@wrong(4, "token_losses", "First subtract from each row its own largest logit")
def one_shift_for_all(logits, targets):
    return no_shift(logits - logits.max(), targets)


@wrong(4, "token_losses", "These are bits")
def bits(logits, targets):
    return key.token_losses(logits, targets) / LN2


@wrong(4, "token_losses", "Wrong sign")
def log_probabilities(logits, targets):
    return -key.token_losses(logits, targets)


@wrong(4, "token_losses", "not []")
def mean_loss(logits, targets):
    return key.token_losses(logits, targets).mean()


@wrong(4, "token_losses", "The answer uses torch's log_softmax")
def by_torch(logits, targets):
    return F.cross_entropy(logits, targets, reduction="none")


# --- Exercise 5 -----------------------------------------------------------------------------------


@wrong(5, "certified", "although the mean loss is 0.41 nats")
def mean_below_ln2(logits, targets):
    return bool(key.token_losses(logits, targets).mean() < LN2)


@wrong(5, "certified", "although each target is the most probable token")
def argmax_certifies(logits, targets):
    return key.verbatim(logits, targets)


@wrong(5, "verbatim", "even where p is below one half")
def threshold_for_verbatim(logits, targets):
    return key.certified(logits, targets)


@wrong(5, "verbatim", "the first target is not the most probable token")
def last_token_decides(logits, targets):
    return bool(logits[-1].argmax() == targets[-1])


@wrong(5, "recalled_below_one_half", "so it is not a counter-example")
def certified_memory(tokenizer):
    return tm.random_memory(tokenizer, 16), dict(rank=8, steps=100)


@wrong(5, "recalled_below_one_half", "greedy decoding is wrong at token")
def forgotten_memory(tokenizer):
    return tm.random_memory(tokenizer, 16), dict(rank=1, steps=10)


# --- Exercise 6 -----------------------------------------------------------------------------------


@wrong(6, "memft_ot_weights", "You compared the loss with the threshold for the probability")
def loss_against_probability(losses, threshold):
    active = losses.detach() > threshold
    return (active | ~active.any()).float()


@wrong(6, "memft_ot_weights", "all weights should be 1 (plain fine-tuning)")
def no_fallback(losses, threshold):
    return (losses.detach() > -math.log(threshold)).float()


@wrong(6, "memft_ot_weights", "So the weights should be")
def soft_threshold(losses, threshold):
    return torch.sigmoid(10 * (losses + math.log(threshold)))


@wrong(6, "memft_ot_weights", "Compute them from losses.detach()")
def not_detached(losses, threshold):
    active = losses > -math.log(threshold)
    return torch.where(active | ~active.any(), losses / losses, 0 * losses)


@wrong(6, "weighted_mean", "Divide by the sum of the weights")
def mean_over_all(losses, weights):
    return (weights * losses).mean()


@wrong(6, "weighted_mean", "it is nan")
def nan_mean(losses, weights):
    return (weights * losses).sum() / weights.sum()


@wrong(6, "weighted_mean", "but it is [nan")
def nan_gradient(losses, weights):
    return torch.where(weights.sum() > 0, (weights * losses).sum() / weights.sum(), 0.0)


# --- Exercise 7 -----------------------------------------------------------------------------------


@wrong(7, "check_sweep", "when it is started again")
def never_started_again(sweep, folder):
    rows = sweep(folder, [1, 2], [4], [0, 1])
    assert len(rows) == 4
    assert len({row["base_loss"] for row in rows}) == 2
    assert len({row["final_loss"] for row in rows}) == 4


@wrong(7, "check_sweep", "a sweep that loses the last row")
def one_cell_alone(sweep, folder):
    (row,) = sweep(folder, [1], [4], [0])
    assert sweep(folder, [1], [4], [0])[0]["wall_seconds"] == row["wall_seconds"]


@wrong(7, "check_sweep", "Your test fails for a sweep that works: AssertionError")
def expects_an_order(sweep, folder):
    rows = sweep(folder, [1, 2], [4, 6], [0])
    assert [row["rank"] for row in rows] == [1, 1, 2, 2]


# --- Exercise 8 -----------------------------------------------------------------------------------


@wrong(8, "fit_plane", "Wrong sign")
def sign_of_beta(ranks, lengths, delta_losses):
    C, alpha, beta = key.fit_plane(ranks, lengths, delta_losses)
    return C, alpha, -beta


@wrong(8, "fit_plane", "That is ln C")
def log_of_c(ranks, lengths, delta_losses):
    C, alpha, beta = key.fit_plane(ranks, lengths, delta_losses)
    return math.log(C), alpha, beta


@wrong(8, "fit_plane", "different bases")
def log10_and_exp(ranks, lengths, delta_losses):
    C, alpha, beta = key.fit_plane(ranks, lengths, delta_losses)
    return math.exp(math.log10(C)), alpha, beta


@wrong(8, "fit_plane", "Do you fit the logarithm of ΔL")
def squares_of_delta(ranks, lengths, delta_losses):
    C, alpha, beta = key.fit_plane(ranks, lengths, delta_losses)
    for _ in range(20):  # Gauss-Newton steps
        fit = C * ranks**alpha * lengths**-beta
        slopes = np.stack([fit / C, fit * np.log(ranks), -fit * np.log(lengths)], 1)
        C, alpha, beta = (C, alpha, beta) + np.linalg.lstsq(slopes, delta_losses - fit, rcond=None)[
            0
        ]
    return C, alpha, beta


@wrong(8, "rank_for", "take the α-th root")
def no_root(C, alpha, beta, length, delta_loss):
    return delta_loss / C * length**beta


@wrong(8, "rank_for", "the rank grows with the length")
def length_the_wrong_way(C, alpha, beta, length, delta_loss):
    return (delta_loss / C * length**-beta) ** (1 / alpha)


# --- Exercise 9 -----------------------------------------------------------------------------------


@wrong(9, "stored_bits", "These are nats")
def nats(base_loss, loss, length):
    return (base_loss - loss) * length


@wrong(9, "stored_bits", "That is the value for one token")
def for_one_token(base_loss, loss, length):
    return (base_loss - loss) / LN2


@wrong(9, "memorized_bits", "knows 0 bits")
def below_zero(entropy, loss, length):
    return (entropy - loss) * length / LN2


@wrong(9, "memorized_bits", "differ by 5.000 bits per token")
def entropy_forgotten(entropy, loss, length):
    return max(0.0, loss * length / LN2)


# --- Exercise 10 ----------------------------------------------------------------------------------


@wrong(10, "logits_from_cache", "so only")
def all_layers(model, layer, h, x, A, B):
    model.run(h)
    return key.logits_from_cache(model, layer, h, x, A, B)


@wrong(10, "logits_from_cache", "own layer was computed again")
def own_layer_again(model, layer, h, x, A, B):
    return model.head(model.run(h + x @ A @ B, layer))


@wrong(10, "logits_from_cache", "The last norm is missing")
def no_norm(model, layer, h, x, A, B):
    return model.lm_head(model.run(h + x @ A @ B, layer + 1))


@wrong(10, "logits_from_cache", "The unit is missing")
def no_unit(model, layer, h, x, A, B):
    return model.head(model.run(h, layer + 1))


@wrong(10, "logits_from_cache", "not h")
def unit_reads_h(model, layer, h, x, A, B):
    return model.head(model.run(h + h @ A @ B, layer + 1))


# --- Exercise 11: values instead of functions ----------------------------------------------------

rank_of_noise = 8  # from a sweep of random tokens
rank_with_mean_below_2_nats = 2  # from a law asked for a mean loss
rank_with_a_fraction = 4.6
short_text = "To be, or not to be."
WRONG["rank_of_noise"] = Wrong(11, "MY_RANK", "is too large: rank 5")
WRONG["rank_with_mean_below_2_nats"] = Wrong(11, "MY_RANK", "is too small: rank 3")
WRONG["rank_with_a_fraction"] = Wrong(11, "MY_RANK", "an integer from 2 to 32")
WRONG["short_text"] = Wrong(11, "MY_TEXT", "it should have 40 to 200")
