"""Wrong answers to rungs 6 to 9 and to the stretch tasks. Each makes one mistake."""

import itertools
import json
import math

import torch

from tests import answer_key as key
from tests.course.wrong import planted

WRONG, wrong, edit = planted()
LN2 = math.log(2)


# --- Rung 6: MemFT and margin ---------------------------------------------------------------------


@wrong("rung6", "memft_ot_weights", "These are the tokens above the threshold")
def above_the_threshold(losses, threshold=0.5):
    above = losses.detach() < -math.log(threshold)
    return (above | above.all()).float()


@wrong(
    "rung6", "memft_ot_weights", "You compared the loss with the threshold, which is one for the"
)
def loss_against_probability(losses, threshold=0.5):
    below = losses.detach() > threshold
    return (below | ~below.any()).float()


@wrong("rung6", "memft_ot_weights", "Is that the logarithm to base 10?")
def logarithm_to_base_10(losses, threshold=0.5):
    below = losses.detach() > -math.log10(threshold)
    return (below | ~below.any()).float()


@wrong("rung6", "memft_ot_weights", "but all weights are alike")
def always_one(losses, threshold=0.5):
    return torch.ones_like(losses)


@wrong("rung6", "memft_ot_weights", "The threshold that is given is not used")
def always_one_half(losses, threshold=0.5):
    return key.memft_ot_weights(losses)


@wrong("rung6", "memft_ot_weights", "A weight is 1 or 0, nothing between")
def soft_threshold(losses, threshold=0.5):
    losses = losses.detach()
    soft = torch.sigmoid(10 * (losses + math.log(threshold)))
    return soft if (losses > -math.log(threshold)).any() else torch.ones_like(losses)


@wrong("rung6", "memft_ot_weights", "With weights of 0, Σ w ℓ / Σ w is 0 / 0")
def no_fallback(losses, threshold=0.5):
    return (losses.detach() > -math.log(threshold)).float()


@wrong("rung6", "memft_ot_weights", "The weights carry a gradient")
def not_detached(losses, threshold=0.5):
    below = losses > -math.log(threshold)
    return torch.where(below | ~below.any(), losses / losses, 0 * losses)


@wrong("rung6", "memft_ot", "Divide by Σ w")
def mean_over_all(logits, targets, progress):
    losses = key.token_losses(logits, targets)
    return (key.memft_ot_weights(losses) * losses).mean()


@wrong("rung6", "memft_ot", "This is the mean of all losses")
def without_weights(logits, targets, progress):
    return key.plain(logits, targets, progress)


@wrong("rung6", "memft_ot", "it has no gradient with respect to the logits")
def detached_objective(logits, targets, progress):
    return key.memft_ot(logits.detach(), targets, progress)


@wrong("rung6", "temperature", "The exponent is progress²")
def geometric(progress):
    return 0.01**progress


@wrong("rung6", "temperature", "The temperature is 1 in the beginning")
def rising(progress):
    return key.temperature(1 - progress)


@wrong("rung6", "margin", "Multiply by T, or the gradient grows as T falls")
def without_the_factor(logits, targets, progress):
    return key.token_losses(logits / key.temperature(progress), targets).mean()


@wrong("rung6", "margin", "Divide the logits by T, not the losses")
def divided_losses(logits, targets, progress):
    T = key.temperature(progress)
    return T * (key.token_losses(logits, targets) / T).mean()


@wrong("rung6", "margin", "Divide the logits by T. You multiplied them")
def multiplied_logits(logits, targets, progress):
    T = key.temperature(progress)
    return T * key.token_losses(logits * T, targets).mean()


# --- Rung 7: a sweep ------------------------------------------------------------------------------


def edit_cell(title: str, says: str, old: str, new: str) -> None:
    edit(title, "rung7", "run_cell", says, old, new)


edit_cell(
    "last_mean_of_the_training",
    "That is the loss before the last step",
    "        write(model, unit, prompt, target, steps, objective=objective)\n"
    "        final = judge(model, prompt, target)\n",
    "        means = write(model, unit, prompt, target, steps, objective=objective)\n"
    "        final = judge(model, prompt, target) | {'loss': means[-1]}\n",
)
edit_cell(
    "units_of_one_seed",
    "Are the target, the unit, the steps and the objective those that were asked for?",
    "attach(model, rank, seed)",
    "attach(model, rank, 0)",
)
edit_cell(
    "always_plain", "did not use the objective that it was given", ", objective=objective", ""
)


@wrong("rung7", "run_cell", "did not run the model with a unit in it")
def row_without_a_run(model, tokenizer, rank, length, seed, steps, objective=None):
    for step in range(steps if objective else 0):
        objective(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), step / steps)
    cell = {"rank": rank, "length": length, "seed": seed, "parameters": 512 * rank}
    return cell | {"base_loss": 12.0, "final_loss": 1.0, "recited": False}


edit_cell("never_detached", "the model still has a unit, so that", "detach(model, unit)", "pass")
edit_cell(
    "detached_if_all_goes_well",
    "Detach it in a `finally:` block",
    "    finally:\n        detach(model, unit)\n",
    "    except ZeroDivisionError:\n        pass\n    detach(model, unit)\n",
)
edit_cell(
    "errors_are_hidden",
    "run_cell hides an error",
    "    finally:\n        detach(model, unit)\n",
    "    except BaseException:\n        return {}\n    finally:\n        detach(model, unit)\n",
)


edit_cell(
    "recited_as_a_tensor",
    "recited is a tensor of shape []",
    'final["recited"]',
    'torch.tensor(final["recited"])',
)
edit_cell(
    "length_as_a_tensor", "length is a tensor", '"length": length', '"length": torch.tensor(length)'
)


def edit_sweep(title: str, says: str, old: str, new: str) -> None:
    edit(title, "rung7", "sweep", says, old, new)


edit_sweep("everything_again", "although it was finished", "if cell not in known", "if True")
edit_sweep(
    "all_rows_of_the_file",
    "which is not in the grid",
    "[known[cell] for cell in cells]",
    "list(known.values())",
)
edit_sweep(
    "cut_lines_are_read",
    "A line that a kill has cut short is no JSON",
    "lines[:-1]",
    "filter(None, lines)",
)
edit_sweep(
    "glued_to_a_cut_line",
    "Was it appended to the line that was cut short?",
    "            file.truncate()\n",
    "            pass\n",
)
edit_sweep("no_newline", "two rows are on one line of the file", '[cell]) + "\\n"', "[cell])")
edit_sweep(
    "written_in_the_end",
    "Append each row as soon as run returns it",
    """            known[cell] = run(*cell)
            with path.open("a", encoding="utf-8", newline="\\n") as file:
                file.write(json.dumps(known[cell]) + "\\n")
""",
    """            known[cell] = run(*cell)
    with path.open("a", encoding="utf-8", newline="\\n") as file:
        for cell in cells:
            file.write(json.dumps(known[cell]) + "\\n")
""",
)
edit_sweep(
    "all_is_written_again",
    "Append to the file, and never write all of it again",
    """path.open("a", encoding="utf-8", newline="\\n") as file:
                file.write(json.dumps(known[cell]) + "\\n")
""",
    """path.open("w", encoding="utf-8", newline="\\n") as file:
                file.writelines(json.dumps(row) + "\\n" for row in known.values())
""",
)
edit_sweep(
    "ctrl_c_is_caught",
    "Do not catch it",
    "            known[cell] = run(*cell)\n",
    "            try:\n                known[cell] = run(*cell)\n"
    "            except KeyboardInterrupt:\n                return []\n",
)


@wrong("rung7", "sweep", "Does each row end with a newline?")
def newline_before_each_row(path, ranks, lengths, seeds, run):
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    rows = [json.loads(line) for line in lines if line]
    known = {(row["rank"], row["length"], row["seed"]): row for row in rows}
    for cell in itertools.product(ranks, lengths, seeds):
        if cell not in known:
            known[cell] = run(*cell)
            with path.open("a") as file:
                file.write("\n" + json.dumps(known[cell]))
    return [known[cell] for cell in itertools.product(ranks, lengths, seeds)]


@wrong("rung7", "sweep", "was not run. Each seed is a run of its own")
def seeds_are_not_distinguished(path, ranks, lengths, seeds, run):
    rows = [json.loads(line) for line in path.open()] if path.exists() else []
    for rank, length, seed in itertools.product(ranks, lengths, seeds):
        if (rank, length) not in {(row["rank"], row["length"]) for row in rows}:
            rows.append(run(rank, length, seed))
            with path.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    return rows


# --- Rung 8: the law ------------------------------------------------------------------------------


@wrong("rung8", "fit_law", "Wrong sign: the law has ℓ^(−β)")
def sign_of_beta(rows):
    C, alpha, beta = key.fit_law(rows)
    return C, alpha, -beta


@wrong("rung8", "fit_law", "That is ln C")
def log_of_c(rows):
    C, alpha, beta = key.fit_law(rows)
    return math.log(C), alpha, beta


@wrong("rung8", "fit_law", "Your logarithm and your exponential have different bases")
def log10_and_exp(rows):
    C, alpha, beta = key.fit_law(rows)
    return math.exp(math.log10(C)), alpha, beta


edit("saturated_too", "rung8", "fit_law", "Leave out the rows whose", "> LN2", "> 0")
edit("two_bits", "rung8", "fit_law", "Leave out the rows whose", "> LN2", "> 0.25")
edit(
    "solved_by_lstsq",
    "rung8",
    "fit_law",
    "fit_law uses lstsq",
    "np.linalg.solve(X.T @ X, X.T @ y)",
    "np.linalg.lstsq(X, y, rcond=None)[0]",
)
edit(
    "squares_of_delta",
    "rung8",
    "fit_law",
    "The least squares of ln ΔL are at",
    "np.linalg.solve(X.T @ X, X.T @ y)",
    "np.linalg.solve((X.T * np.exp(y)) @ X, (X.T * np.exp(y)) @ y)",
)


def edit_bootstrap(title: str, says: str, old: str, new: str) -> None:
    edit(title, "rung8", "bootstrap", says, old, new)


edit_bootstrap(
    "draws_of_rows", "You drew rows, not cells", 'row["length"])', 'row["length"], len(cells))'
)
edit_bootstrap(
    "all_cells_each_time",
    "Draw cells with replacement",
    "random.integers(len(names), size=len(names))",
    "range(len(names))",
)
edit_bootstrap(
    "without_the_seed",
    "The same seed should give the same intervals",
    "default_rng(seed)",
    "default_rng()",
)
edit_bootstrap(
    "always_the_same_draws",
    "Another seed should give other draws",
    "default_rng(seed)",
    "default_rng(0)",
)
edit_bootstrap(
    "ninety_percent", "from the 2.5 % to the 97.5 % quantile", "[0.025, 0.975]", "[0.05, 0.95]"
)
edit_bootstrap(
    "draws_that_determine_no_law",
    "Draw again if a draw determines no law",
    "if np.linalg.matrix_rank(X) == 3:",
    "if all(len(set(values)) > 1 for values in zip(*drawn, strict=True)):",
)
edit_bootstrap(
    "of_a_normal_distribution",
    "the 2.5 % and 97.5 % quantiles of the draws are",
    "np.quantile(fits, [0.025, 0.975], axis=0).tolist()",
    "np.mean(fits, 0) + np.outer([-1.96, 1.96], np.std(fits, 0))",
)
edit_bootstrap(
    "four_times_as_wide",
    "A bootstrap of the cells gives one from",
    "np.quantile(fits, [0.025, 0.975], axis=0).tolist()",
    "np.quantile(fits, [0.025, 0.975], axis=0) + np.outer([-1, 1], 2 * np.ptp(fits, 0))",
)
edit_bootstrap("upper_end_first", "Turn it round", "(low[0], high[0])", "(high[0], low[0])")
edit_bootstrap("exponents_swapped", "but the fit to all rows gives", "[1:])", "[:0:-1])")
edit_bootstrap("names_of_the_law", "bootstrap should return", '"alpha"', '"α"')


# --- Rung 9: a plan -------------------------------------------------------------------------------


def edit_rank(title: str, says: str, old: str, new: str) -> None:
    edit(title, "rung9", "rank_for_loss", says, old, new)


edit_rank("no_root", "take the α-th root", " ** (1 / alpha)", "")
edit_rank("loss_for_reduction", "Solve for ΔL = L₀ − L, not for L", "(base - loss)", "loss")
edit_rank("times_for_divided", "the rank grows with the length", "length**beta", "length**-beta")
edit_rank(
    "always_ln_2", "The loss that was asked for is not used", "(base - loss)", "(base - 0.6931)"
)
edit_rank(
    "base_loss_of_counted_rows",
    "Also the rows that the law leaves out count for L₀",
    "    base = ",
    "    rows = [row for row in rows if row['final_loss'] > LN2]\n    base = ",
)


def edit_curve(title: str, says: str, old: str, new: str) -> None:
    edit(title, "rung9", "recall_curve", says, old, new)


edit_curve("logarithm_of_load_50", "That is its logarithm", "math.exp(middle)", "middle")
edit_curve("coarse_grid", "is possible, with load_50 =", "(0.5, 20, 100)", "(0.5, 20, 4)")
edit_curve("chance_rises", "does your curve fall with the load?", "hit, z, -z", "hit, -z, z")
edit_curve("s_is_not_limited", "s should be between 0.5 and 20", "(0.5, 20, 100)", "(0.5, 60, 100)")
edit_curve("s_up_to_ten", "s should be 20", "(0.5, 20, 100)", "(0.5, 10, 100)")
edit_curve("load_of_a_rank", "not length / rank", '/ row["parameters"]', '/ row["rank"]')
edit_curve(
    "parameters_of_a_token",
    "not the other way round",
    'row["length"] / row["parameters"]',
    'row["parameters"] / row["length"]',
)


def edit_plan(title: str, says: str, old: str, new: str) -> None:
    edit(title, "rung9", "plan_rank", says, old, new)


edit_curve(
    "every_load_is_recited",
    "but the loads of the rows are from",
    "def recall_curve(rows):\n",
    "def plan_rank(rows, length, chance=0.9):\n    return 1\n\n\n"
    "def recall_curve(rows):\n    return 1e9, 20.0\n",
)
edit_plan("always_one_rank", "is the smallest one that is enough", "math.ceil(", "1 + 0 * int(")
edit_plan(
    "odds_of_recall",
    "Is `chance` that of a failure?",
    "(1 / chance - 1)",
    "(chance / (1 - chance))",
)
edit_plan(
    "parameters_of_a_lesson",
    "Take the parameters of a rank from the rows",
    '(rows[0]["parameters"] / rows[0]["rank"])',
    "512",
)
edit_plan("rounded_down", "Round up", "math.ceil", "math.floor")
edit_plan("one_more", "so it is enough", "math.ceil(", "1 + math.ceil(")
edit_plan("a_float", "should return a whole number", "math.ceil", "np.ceil")
edit_plan(
    "always_half_of_them",
    "The chance that was asked for is not used",
    "(1 / chance - 1) ** (1 / s)",
    "1",
)


# --- The stretch tasks ----------------------------------------------------------------------------


edit(
    "saved_in_float32",
    "stretch1",
    "save_bfloat16",
    "should be saved in bfloat16",
    ".bfloat16()",
    "",
)
edit("saved_without_b", "stretch1", "save_bfloat16", "should have A and B", '"AB"', '"A"')
edit(
    "loaded_in_bfloat16",
    "stretch1",
    "load_bfloat16",
    "should be float32 again",
    "getattr(unit, name).data.copy_(saved[name])",
    "getattr(unit, name).data = saved[name]",
)
edit("not_loaded", "stretch1", "load_bfloat16", "is not the one in the file", '"AB"', '"A"')


@wrong("stretch2", "write_ranks", "as a batch of 3")
def one_after_the_other(model, tokenizer, ranks, length, seed, steps):
    return [key.run_cell(model, tokenizer, rank, length, seed, steps) for rank in ranks]


edit(
    "clipped_together",
    "stretch2",
    "write_ranks",
    "Is the gradient of each unit clipped by itself?",
    "            for unit in units:\n"
    "                nn.utils.clip_grad_norm_([unit.A, unit.B], 1.0)\n",
    "            nn.utils.clip_grad_norm_([p for u in units for p in (u.A, u.B)], 1.0)\n",
)


@wrong("stretch3", "better_schedule", "percentage points more")
def falls_a_little_later(progress):
    return key.temperature(progress), 0.1 * (1 - progress**1.2)


edit(
    "attention_is_trained",
    "stretch4",
    "attach_attention",
    "only A and B should be trained",
    "model.requires_grad_(False)",
    "model.lm_head.requires_grad_(False)",
)
edit(
    "half_of_the_product",
    "stretch4",
    "attach_attention",
    "x A B should be added to what the projection gives for x",
    "    return attention.o_proj",
    "    part, unit = attention.o_proj.part, attention.o_proj\n"
    "    unit.forward = lambda x: part(x) + x @ unit.A @ unit.B / 2\n"
    "    return unit",
)
