"""Wrong answers to rungs 4 and 5, of the kind that students write. Each makes one mistake."""

import math

import torch

from tests import answer_key as key
from tests.course.wrong import planted

WRONG, wrong, edit = planted()


# --- Rung 4: a training loop ----------------------------------------------------------------------


BOTH = "[unit.A, unit.B]"
LOGITS = "logits = target_logits(model, prompt_ids, target_ids)"
MEAN = "token_losses(logits.detach(), targets).mean().item()"
RATE = "lr * (1 - step / steps)"
BACKWARD = "objective(logits, targets, step / steps).backward()"
CLIP = "nn.utils.clip_grad_norm_([unit.A, unit.B], 1.0)"
PROMPT_TOO = """
        ids = prompt_ids + target_ids
        logits, targets = model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:])"""


def edit_write(title, says, old, new):
    edit(title, "rung4", "write", says, old, new)


edit_write("no_zero_grad", "set them to zero in each step", "        optimizer.zero_grad()\n", "")
edit_write("no_clip", "The norm of the gradient is not clipped", CLIP, "pass")
edit_write(
    "clipped_one_by_one",
    "the norm of both together should be at most 1",
    CLIP,
    "[nn.utils.clip_grad_norm_([p], 1.0) for p in (unit.A, unit.B)]",
)
edit_write(
    "clipped_before_backward",
    "it must stand between backward and step",
    f"{BACKWARD}\n        {CLIP}",
    f"{CLIP}\n        {BACKWARD}",
)
edit_write("constant_rate", "The learning rate does not fall", RATE, "lr")
edit_write("rate_one_step_early", "step counts from 0", RATE, "lr * (1 - (step + 1) / steps)")
edit_write(
    "scheduler_before_optimizer",
    "With a scheduler, call its step() after optimizer.step()",
    f'        optimizer.param_groups[0]["lr"] = {RATE}\n',
    "        if step == 0:\n"
    "            line = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / steps)\n"
    "        line.step()\n",
)
edit_write(
    "rate_one_step_late",
    "falls one step too late: set that of this step before",
    f'        optimizer.param_groups[0]["lr"] = {RATE}\n        optimizer.step()\n',
    f'        optimizer.step()\n        optimizer.param_groups[0]["lr"] = {RATE}\n',
)
edit_write(
    "rate_by_steps_less_one",
    "divide by steps, not by steps − 1",
    RATE,
    "lr * (1 - step / max(1, steps - 1))",
)
edit_write("only_b_is_trained", "The optimizer trains only B", f"AdamW({BOTH}", "AdamW([unit.B]")
edit_write(
    "a_new_optimizer_in_each_step",
    "Make one before the loop: it remembers earlier gradients",
    "        optimizer.step()",
    f"        torch.optim.AdamW({BOTH}, lr * (1 - step / steps), weight_decay=0).step()",
)
edit_write(
    "logits_once_for_all_steps",
    "Compute them anew in each step",
    f"    for step in range(steps):\n        {LOGITS}",
    f"    {LOGITS}\n    for step in range(steps):",
)
edit_write("no_step", "let the optimizer make a step", "optimizer.step()", "pass")
edit_write(
    "a_copy_is_trained",
    "Train the unit itself, not a copy of it",
    "    targets, means =",
    "    model = copy.deepcopy(model)\n"
    "    unit = next(part for part in model.modules() if isinstance(part, LoRA))\n"
    "    targets, means =",
)
edit_write(
    "unit_taken_out",
    "Leave it attached",
    "    return means",
    "    detach(model, unit)\n    return means",
)
edit_write(
    "losses_as_tensors",
    "A loss in the list of write is a tensor of shape [], not float",
    MEAN,
    MEAN.replace(".item()", ""),
)
edit_write("rate_to_a_tenth", "falls to a tenth, not to 0", RATE, "lr * (1 - 0.9 * step / steps)")
edit_write(
    "rate_along_a_cosine",
    "not in a straight line",
    RATE,
    "lr * (1 + math.cos(math.pi * step / steps)) / 2",
)
edit_write("decay_left_on", "unless it is given weight_decay=0", ", weight_decay=0", "")
edit_write(
    "gradient_descent",
    "up or down. Yours moved by",
    "torch.optim.AdamW([unit.A, unit.B], lr, weight_decay=0)",
    "torch.optim.SGD([unit.A, unit.B], lr)",
)
edit_write(
    "prompt_in_the_loss",
    "This is the loss of the prompt and the target",
    LOGITS,
    PROMPT_TOO.strip(),
)
edit_write(
    "prompt_trained_as_well",
    "The prompt is trained as well",
    BACKWARD,
    """
        ids = prompt_ids + target_ids
        F.cross_entropy(model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:])).backward()
    """.strip(),
)
edit_write(
    "losses_after_the_step",
    "This is the loss after the first step",
    "    return means",
    f"    logits = target_logits(model, prompt_ids, target_ids)\n    return [*means[1:], {MEAN}]",
)
edit_write("sum_in_the_list", "This is the sum over the target", MEAN, MEAN.replace("mean", "sum"))
edit_write(
    "the_last_loss_too",
    "should return a list of",
    "    return means",
    "    return [*means, means[-1]]",
)
edit_write(
    "no_step_in_the_end",
    "Make a step after every loss, also the last",
    "        optimizer.step()",
    "        if step < steps - 1:\n            optimizer.step()",
)
edit_write(
    "base_trained_as_well",
    "Give the optimizer only A and B of the unit",
    "    optimizer = torch.optim.AdamW([unit.A, unit.B], lr, weight_decay=0)",
    "    model.requires_grad_(True)\n"
    "    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0)",
)
edit_write(
    "objective_ignored",
    "never called the objective",
    BACKWARD,
    "plain(logits, targets, step / steps).backward()",
)
edit_write(
    "progress_in_steps",
    "the progress should be 0, 0.25",
    BACKWARD,
    BACKWARD.replace(" / steps", ""),
)
edit_write(
    "list_of_the_objective",
    "whatever the objective is",
    MEAN,
    "objective(logits, targets, step / steps).item()",
)


# --- Rung 5: decode and judge ---------------------------------------------------------------------


@wrong("rung5", "greedy", "The prompt is not part of the result")
def with_the_prompt(model, prompt_ids, count):
    return prompt_ids + key.greedy(model, prompt_ids, count)


@wrong("rung5", "greedy", "These are the most probable tokens after the prompt alone")
@torch.no_grad()
def all_from_the_prompt(model, prompt_ids, count):
    return model(torch.tensor([prompt_ids]))[0, -1].topk(count).indices.tolist()


@wrong("rung5", "greedy", "it reads [1, T]: torch.tensor([ids])")
@torch.no_grad()
def no_batch_in_greedy(model, prompt_ids, count):
    ids = list(prompt_ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor(ids))[-1].argmax()))
    return ids[len(prompt_ids) :]


@wrong("rung5", "greedy", "Read each token that was written")
@torch.no_grad()
def reads_only_the_last_token(model, prompt_ids, count):
    ids, out = list(prompt_ids), []
    for _ in range(count):
        ids = [int(model(torch.tensor([ids]))[0, -1].argmax())]
        out += ids
    return out


edit("greedy_with_gradients", "rung5", "greedy", "use torch.no_grad()", "@torch.no_grad()\n", "")


edit(
    "tokens_as_tensors",
    "rung5",
    "greedy",
    "The result of greedy is a list with a tensor of shape [], not a list of int",
    "return ids[len(prompt_ids) :]",
    "return list(torch.tensor(ids[len(prompt_ids) :]))",
)


@wrong("rung5", "greedy", "Begin with a copy")
@torch.no_grad()
def greedy_changes_the_prompt(model, prompt_ids, count):
    out = []
    for _ in range(count):
        out.append(int(model(torch.tensor([prompt_ids]))[0, -1].argmax()))
        prompt_ids.append(out[-1])
    return out


@wrong("rung5", "margins", "Leave the target itself out of the maximum")
def with_the_target_itself(logits, targets):
    return logits[torch.arange(len(targets)), targets] - logits.max(-1).values


@wrong("rung5", "margins", "by −∞, not by 0")
def target_replaced_by_zero(logits, targets):
    own = logits.gather(-1, targets[:, None])[:, 0]
    return own - logits.scatter(-1, targets[:, None], 0.0).max(-1).values


@wrong("rung5", "margins", "A margin is in logits, not in probabilities")
def of_probabilities(logits, targets):
    return key.margins(logits.softmax(-1), targets)


@wrong("rung5", "margins", "Change a copy of them")
def logits_overwritten(logits, targets):
    rows = torch.arange(len(targets))
    own = logits[rows, targets].clone()
    logits[rows, targets] = -math.inf
    return own - logits.max(-1).values


@wrong("rung5", "greedy", "greedy did not call the model")
def no_tokens(model, prompt_ids, count):
    return []


@wrong("rung5", "judge", "judge gave one loss for a memory with every p above one half")
def the_same_for_every_memory(model, prompt_ids, target_ids):
    names = ("loss", "lowest_p", "lowest_margin")
    return {**dict.fromkeys(names, 0.0), "certified": True, "recited": True, "decoded": []}


@wrong("rung5", "judge", "Do not decode for recited")
def recited_as_decoded(model, prompt_ids, target_ids):
    verdict = key.judge(model, prompt_ids, target_ids)
    decoded = key.greedy(model, prompt_ids[1:], len(target_ids))
    return {**verdict, "decoded": decoded, "recited": decoded == target_ids}


def edit_judge(title, says, old, new):
    edit(title, "rung5", "judge", says, old, new)


edit_judge("judge_with_gradients", "judge stored what a gradient needs", "@torch.no_grad()\n", "")
edit_judge(
    "numbers_as_tensors",
    "loss of judge is a tensor of shape []",
    "losses.mean().item()",
    "losses.mean()",
)
edit_judge(
    "truth_as_a_tensor",
    "recited of judge is a tensor of shape [], not bool",
    "lowest_margin > 0,",
    "torch.tensor(lowest_margin) > 0,",
)
edit_judge("sum_of_the_target", "This is the sum over the target", "losses.mean()", "losses.sum()")
edit_judge("mean_p", "This is the mean of p", "exp().min()", "exp().mean()")
edit_judge("mean_margin", "This is the mean", "targets).min()", "targets).mean()")
edit_judge(
    "certified_by_the_mean",
    "Every p counts, and not their mean",
    "lowest_p > 0.5",
    "losses.mean().item() < math.log(2)",
)
edit_judge(
    "recited_only_if_certified",
    "can be the most probable one with p below one half",
    "lowest_margin > 0,",
    "lowest_p > 0.5,",
)
edit_judge("certified_at_one_half", "judge gives True for certified", "> 0.5", ">= 0.5")
edit_judge(
    "recited_with_a_tie", "judge gives True for recited", "lowest_margin > 0", "lowest_margin >= 0"
)
edit_judge(
    "recited_by_decoding",
    "Do not decode for recited",
    "lowest_margin > 0",
    "greedy(model, prompt_ids, len(target_ids)) == target_ids",
)
edit_judge(
    "decoded_after_the_true_tokens",
    "Decoding reads its own",
    "greedy(model, prompt_ids, len(target_ids))",
    "logits.argmax(-1).tolist()",
)
edit_judge(
    "no_decoding",
    "This is the target itself",
    "greedy(model, prompt_ids, len(target_ids))",
    "target_ids",
)
edit_judge("a_key_is_missing", "has no key decoded", '"decoded":', '"decoding":')
