"""Wrong answers to the exercises, of the kind that students write. Each makes one mistake."""

import math

import torch
import torch.nn.functional as F

from tests import answer_key as key
from tests.course.wrong import Wrong, planted

WRONG, wrong, edit = planted()
# These get no points: options without a search, tests that fail for a sweep that works, and a
# capstone of nobody.
NOTHING = {"enough_for_the_longest", "enough_for_the_shortest", "a_name"}
NOTHING |= {"expects_an_order", "counts_its_calls", "writes_beside", "a_large_grid", "no_test"}


# --- Exercise 2 -----------------------------------------------------------------------------------

edit(
    "no_scale",
    *("ex2", "attention", "The division by √D is missing"),
    *(" / math.sqrt(q.shape[1])", ""),
)
edit("scale_by_d", "ex2", "attention", "You divided by D", "math.sqrt(q.shape[1])", "q.shape[1]")
edit("scale_by_t", "ex2", "attention", "You divided by the root of T", "q.shape[1]", "len(k)")
edit("finite_mask", "ex2", "attention", "should be −∞, not a finite number", "-math.inf", "-20")
edit(
    "no_mask",
    *("ex2", "attention", "which is later: its weight is"),
    *(".masked_fill(later, -math.inf)", ""),
)
edit(
    "mask_of_the_first_positions",
    *("ex2", "attention", "should read itself and all earlier positions"),
    *("triu(1 + len(k) - len(q))", "triu(1)"),
)
edit(
    "not_itself",
    *("ex2", "attention", "should read itself and all earlier positions"),
    *("triu(1 + len(k) - len(q))", "triu(len(k) - len(q))"),
)
edit(
    "softmax_over_the_queries",
    *("ex2", "attention", "The softmax goes over the positions that are seen"),
    *("scores.softmax(-1)", "scores.softmax(0).nan_to_num()"),
)


@wrong("ex2", "attention", "Later positions have to be excluded before the softmax")
def mask_after_softmax(q, k, v):
    later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
    return (q @ k.T / math.sqrt(q.shape[1])).softmax(-1).masked_fill(later, 0) @ v


@wrong("ex2", "attention", "attention uses torch's scaled_dot_product_attention")
def attention_of_torch(q, k, v):
    later = torch.ones(len(q), len(k), dtype=torch.bool).triu(1 + len(k) - len(q))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~later)


@wrong("ex2", "rotate", "Pairs of neighbours such as 0 and 1 are another form")
def interleaved(x, positions, theta=10_000.0):
    mixed = torch.cat([x[:, ::2], x[:, 1::2]], -1)
    return torch.stack(key.rotate(mixed, positions, theta).chunk(2, -1), -1).flatten(-2)


edit("other_way", "ex2", "rotate", "rotates in the other direction", "(positions", "(-positions")
edit("its_own_theta", "ex2", "rotate", "Use the argument theta", "theta **", "10_000.0 **")
edit("from_one", "ex2", "rotate", "are counted from 0", "arange(half)", "arange(1, half + 1)")
edit("half_the_exponent", "ex2", "rotate", "with a factor of 2", "/ half)", "/ 2 / half)")


@wrong("ex2", "rotate", "which yours has overwritten")
def overwrites_the_first_half(x, positions, theta=10_000.0):
    half = x.shape[-1] // 2
    angles = torch.outer(positions.float(), theta ** (-torch.arange(half) / half))
    out = x.clone()
    out[:, :half] = out[:, :half] * angles.cos() - out[:, half:] * angles.sin()
    out[:, half:] = out[:, half:] * angles.cos() + out[:, :half] * angles.sin()
    return out


edit(
    "one_sign_wrong",
    *("ex2", "rotate", "A rotation should not change the length of a vector"),
    *("angles.cos() + a", "angles.cos() - a"),
)


# --- Exercise 5 -----------------------------------------------------------------------------------


@wrong("ex5", "recalled_below_one_half", "It is certified, so it is not a counter-example")
def enough_for_the_longest(model, memory):
    return {"rank": 3, "steps": 300}


@wrong("ex5", "recalled_below_one_half", "is not recited: greedy decoding is wrong at token")
def enough_for_the_shortest(model, memory):
    return {"rank": 2, "steps": 300}


@wrong("ex5", "recalled_below_one_half", "others, the library would search for you")
def the_library_stops(model, memory, calls=[]):  # noqa: B006
    calls.append(1)
    if len(calls) <= 2:  # the first pair
        return key.recalled_below_one_half(model, memory)
    return {"rank": 3, "steps": 400, "stop_when_recited": True}


# --- Exercise 7 -----------------------------------------------------------------------------------


@wrong("ex7", "check_sweep", "in the same folder")
def never_another_grid(sweep, folder):
    grid = [1, 2], [4, 6], [0, 1]
    rows = {(r["rank"], r["length"], r["seed"]): r for r in sweep(folder / "all", *grid)}
    again = sweep(folder / "all", *grid)
    assert len(rows) == len(again) == 8
    for row in again:
        assert rows[row["rank"], row["length"], row["seed"]] == row
    (alone,) = sweep(folder / "alone", [2], [6], [1])
    for name in ("base_loss", "final_loss"):
        assert abs(alone[name] - rows[2, 6, 1][name]) < 1e-3
    assert rows[1, 4, 0]["base_loss"] == rows[2, 4, 0]["base_loss"]


@wrong("ex7", "check_sweep", "loses the last row")
def one_cell_alone(sweep, folder):
    (row,) = sweep(folder, [1], [4], [0])
    assert sweep(folder, [1], [4], [0])[0]["wall_seconds"] == row["wall_seconds"]
    (other,) = sweep(folder, [1], [4], [1])
    assert other["base_loss"] != row["base_loss"] != row["final_loss"]


@wrong("ex7", "check_sweep", "when it is started again")
def never_started_again(sweep, folder):
    rows = sweep(folder, [1, 2], [4], [0, 1])
    assert len(rows) == 4
    assert len({row["base_loss"] for row in rows}) == 2
    assert len({row["final_loss"] for row in rows}) == 4
    (alone,) = sweep(folder / "alone", [2], [4], [1])
    assert any(alone["final_loss"] == row["final_loss"] for row in rows)


@wrong("ex7", "check_sweep", "Your test passes for a sweep that")
def no_test(sweep, folder):
    sweep(folder, [1], [4], [0])


@wrong("ex7", "check_sweep", "fails for a sweep that works, so no bug counts: AssertionError")
def expects_an_order(sweep, folder):
    rows = sweep(folder, [2, 1], [4, 6], [0])
    assert [row["rank"] for row in rows] == [2, 2, 1, 1]


@wrong("ex7", "check_sweep", "fails for a sweep that works, so no bug counts: AssertionError")
def counts_its_calls(sweep, folder, calls=[]):  # noqa: B006, the guess that every second one works
    calls.append(1)
    assert len(calls) % 2


@wrong("ex7", "check_sweep", "ValueError: check_sweep may use folders inside of `folder` only")
def writes_beside(sweep, folder):
    key.check_sweep(sweep, folder)
    sweep(folder.parent / "beside", [1], [4], [0])


@wrong("ex7", "check_sweep", "ValueError: the ranks should be from 1 to 32")
def a_large_grid(sweep, folder):
    sweep(folder, [1], [4], range(301))


# --- Exercise 9 -----------------------------------------------------------------------------------

edit("nats", "ex9", "stored_bits", "These are nats", " / LN2", "")
edit("for_one_token", "ex9", "stored_bits", "That is the value for one token", " * length", "")
edit("below_zero", "ex9", "memorized_bits", "knows 0 bits", "max(0.0, entropy", "float(entropy")
edit(
    "entropy_forgotten", "ex9", "memorized_bits", "bits per token, which", "entropy - loss", "loss"
)
edit(
    "recited_by_its_loss",
    *("ex9", "bits_of", "can be read from the unit completely"),
    *('0.0 if report["recall_exact"] else report["final_loss"]', 'report["final_loss"]'),
)


@wrong("ex9", "bits_of", "bits_of should return None")
def bits_of_a_text(report):
    if report["entropy"] is None:
        return 0.0
    return key.bits_of(report)


# --- Exercise 11 ----------------------------------------------------------------------------------


@wrong("ex11", "logits_from_cache", "should be computed, but")
def all_layers(model, layer, h, x, A, B):
    model.run(h)
    return key.logits_from_cache(model, layer, h, x, A, B)


edit(
    "changes_h", "ex11", "logits_from_cache", "but h changed", "h + x @ A @ B", "h.add_(x @ A @ B)"
)
edit("own_layer_again", "ex11", "logits_from_cache", "own layer was computed again", " + 1", "")
edit("no_norm", "ex11", "logits_from_cache", "last norm is missing", "model.head", "model.lm_head")
edit("no_unit", "ex11", "logits_from_cache", "The unit is missing", " + x @ A @ B", "")
edit("unit_reads_h", "ex11", "logits_from_cache", "not h", "x @ A", "h @ A")


# --- Exercise 12: values instead of functions -----------------------------------------------------


def value(title: str, name: str, says: str, text: str) -> None:
    WRONG[title] = Wrong("ex12", name, says, text)


value("rank_of_another_load", "MY_PREDICTION", "which is rank", "MY_PREDICTION['load'] = 0.3\n")
value(
    "missed_without_a_word",
    *("MY_PREDICTION", "does not contain the smallest sufficient rank"),
    "MY_PREDICTION.update(rank=3, low=3)\n",
)
value("everything", "MY_PREDICTION", "but it is wide", "MY_PREDICTION.update(low=1, high=32)\n")
value("never_measured", "MY_MEASUREMENT", "but fewer did", "MY_MEASUREMENT[1] = 1\n")
value(
    "never_tried_the_rank_below",
    *("MY_MEASUREMENT", "A prediction can only be compared with a measured rank"),
    "MY_MEASUREMENT = {2: 0, 3: 3}\n",
)
value("other_sign", "MY_MISS", "Its sign is the other one", "MY_MISS['margin'] *= -1\n")
value("nothing_below", "MY_MEASUREMENT", "but not rank 1, one below", "del MY_MEASUREMENT[1]\n")
value("loss_in_bits", "MY_MISS", "That is in bits", "MY_MISS['base_loss'] /= LN2\n")
value("loss_with_a_unit", "MY_MISS", "A unit was attached", "MY_MISS['base_loss'] = 0.4\n")
value("ratio_upside_down", "MY_MISS", "so the ratio is", "MY_MISS['ratio'] **= -1\n")
value("control_not_run", "MY_MISS", "was another number", "MY_MISS['control'] = 3\n")
value("because_of_the_text", "MY_MISS", "does not go together", "MY_MISS['because'] = 'kind'\n")
value("any_token", "MY_MISS", "tokens have a lower margin than token 3", "MY_MISS['weakest'] = 3\n")
value("margin_as_p", "MY_MISS", "with seed 0 is not 0.10 logits", "MY_MISS['margin'] = 0.1\n")
value("a_name", "MY_NUMBER", "should be a whole number from 1 to 9999", "MY_NUMBER = 'Ada'\n")
