"""Wrong answers to rungs 1 to 3, of the kind that students write. Each makes one mistake."""

import math
import random

import torch
import torch.nn.functional as F
from torch import nn

from tests import answer_key as key
from tests.course.wrong import planted

WRONG, wrong, edit = planted()


# --- Rung 1: tokens and targets -------------------------------------------------------------------


@wrong("rung1", "draw_tokens", "Draw with a generator that has this seed")
def without_the_seed(plain_ids, count, seed):
    return random.choices(plain_ids, k=count)


@wrong("rung1", "draw_tokens", "gave the same tokens")
def always_the_same_seed(plain_ids, count, seed):
    return random.Random(0).choices(plain_ids, k=count)


@wrong("rung1", "draw_tokens", "gave the same tokens, but shifted by one")
def a_generator_for_each_token(plain_ids, count, seed):
    return [random.Random(seed + t).choice(plain_ids) for t in range(count)]


@wrong("rung1", "draw_tokens", "gave the same tokens")
def only_the_last_digit_of_the_seed(plain_ids, count, seed):
    return random.Random(seed % 10).choices(plain_ids, k=count)


@wrong("rung1", "draw_tokens", "60 draws from")
def one_token_again_and_again(plain_ids, count, seed):
    return [seed] * count


@wrong("rung1", "draw_tokens", "The result of draw_tokens is a tensor of shape [3], not list")
def a_tensor_of_ids(plain_ids, count, seed):
    return torch.tensor(key.draw_tokens(plain_ids, count, seed))


@wrong("rung1", "draw_tokens", "The count should not change what is drawn")
def longer_draws_are_others(plain_ids, count, seed):
    return random.Random(seed + count).choices(plain_ids, k=count)


@wrong("rung1", "draw_tokens", "These are places in plain_ids, not its ids")
def places(plain_ids, count, seed):
    return random.Random(seed).choices(range(len(plain_ids)), k=count)


@wrong("rung1", "draw_tokens", "The end of a range may not be part of it")
def last_id_is_never_drawn(plain_ids, count, seed):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, len(plain_ids) - 1, (count,), generator=generator)
    return [plain_ids[i] for i in drawn]


@wrong("rung1", "draw_tokens", "That is too even")
def never_twice_in_a_row(plain_ids, count, seed):
    rounds, chosen = random.Random(seed), []
    while len(chosen) < count:
        chosen += rounds.sample(plain_ids, len(plain_ids))
    return chosen[:count]


@wrong("rung1", "inputs_and_targets", "It has read the token that it should predict")
def unshifted(prompt_ids, target_ids):
    ids = prompt_ids + target_ids
    return ids, list(range(len(prompt_ids), len(ids))), target_ids


@wrong("rung1", "inputs_and_targets", "It has read one token too few")
def one_row_too_early(prompt_ids, target_ids):
    ids, rows, targets = key.inputs_and_targets(prompt_ids, target_ids)
    return ids, [max(0, row - 1) for row in rows], targets


@wrong("rung1", "inputs_and_targets", "no row for the other prompt tokens")
def prompt_too(prompt_ids, target_ids):
    ids = prompt_ids + target_ids
    return ids[:-1], list(range(len(ids) - 1)), ids[1:]


@wrong("rung1", "inputs_and_targets", "it should not be an input")
def last_token_goes_in(prompt_ids, target_ids):
    _, rows, targets = key.inputs_and_targets(prompt_ids, target_ids)
    return prompt_ids + target_ids, rows, targets


@wrong("rung1", "inputs_and_targets", "which has too few rows")
def no_rows(prompt_ids, target_ids):
    return [], [], []


@wrong("rung1", "inputs_and_targets", "rows of inputs_and_targets is a tensor of shape")
def rows_as_a_tensor(prompt_ids, target_ids):
    ids, rows, targets = key.inputs_and_targets(prompt_ids, target_ids)
    return ids, torch.tensor(rows), targets


@wrong("rung1", "inputs_and_targets", "Begin with a copy")
def prompt_grows(prompt_ids, target_ids):
    first, ids = len(prompt_ids) - 1, prompt_ids
    ids += target_ids[:-1]
    return ids, list(range(first, len(ids))), target_ids


# --- Rung 2: the memory unit ----------------------------------------------------------------------


@wrong("rung2", "LoRA", "With B = 0, x A B is 0 for every A")
class RandomB(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        nn.init.uniform_(self.B, -0.1, 0.1)


@wrong("rung2", "LoRA", "neither of them ever changes")
class BothZero(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        nn.init.zeros_(self.A)


@wrong("rung2", "LoRA", "A should be an nn.Parameter of shape [d, r], here [")
class Linears(key.LoRA):
    def __init__(self, part, width, rank, seed):
        nn.Module.__init__(self)
        self.part = part
        self.A, self.B = nn.Linear(width, rank, bias=False), nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.B.weight)

    def forward(self, x):
        return self.part(x) + self.B(self.A(x))


@wrong("rung2", "LoRA", "of shape [r, d], here [")
class Transposed(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        self.B = nn.Parameter(self.B.detach().T.clone())

    def forward(self, x):
        return self.part(x) + x @ self.A @ self.B.T


@wrong("rung2", "LoRA", "is that of its part alone")
class OnlyThePart(key.LoRA):
    def forward(self, x):
        return self.part(x)


@wrong("rung2", "LoRA", "Make each of them an nn.Parameter")
class NoParameter(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        A = self.A.detach().requires_grad_()
        del self.A
        self.A = A


@wrong("rung2", "LoRA", "the bound for the transposed matrix")
class BoundOfTheWidth(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        self.A.data *= (rank / width) ** 0.5


@wrong("rung2", "LoRA", "gives only values from 0 to 1")
class OnlyPositive(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        generator = torch.Generator().manual_seed(seed)
        self.A.data = torch.rand(width, rank, generator=generator) / math.sqrt(rank)


@wrong("rung2", "LoRA", "Draw A with a generator that has this seed")
class WithoutTheSeed(key.LoRA):
    def __init__(self, part, width, rank, seed):
        super().__init__(part, width, rank, seed)
        nn.init.uniform_(self.A, -1 / math.sqrt(rank), 1 / math.sqrt(rank))


@wrong("rung2", "LoRA", "Multiply from the left")
class DenseProduct(key.LoRA):
    def forward(self, x):
        return self.part(x) + x @ (self.A @ self.B)


@wrong("rung2", "LoRA", "without a factor")
class AlphaOverRank(key.LoRA):
    def forward(self, x):
        return self.part(x) + x @ self.A @ self.B * (16 / self.A.shape[1])


@wrong("rung2", "LoRA", "The part itself is missing")
class WithoutThePart(key.LoRA):
    def forward(self, x):
        return x @ self.A @ self.B


@wrong("rung2", "LoRA", "The unit should read x, not the output of the part")
class BehindThePart(key.LoRA):
    def forward(self, x):
        out = self.part(x)
        return out + out @ self.A @ self.B


@wrong("rung2", "attach", "Freeze the model before you put the unit in")
def base_not_frozen(model, rank, seed):
    layer = model.layers[model.config.num_layers * 2 // 3]
    layer.mlp = unit = key.LoRA(layer.mlp, model.config.hidden_size, rank, seed)
    return unit


@wrong("rung2", "attach", "not afterwards")
def frozen_afterwards(model, rank, seed):
    unit = key.attach(model, rank, seed)
    model.requires_grad_(False)
    return unit


@wrong("rung2", "attach", "counted from 0. It is in layer")
def layers_counted_from_one(model, rank, seed):
    model.requires_grad_(False)
    layer = model.layers[model.config.num_layers * 2 // 3 - 1]
    layer.mlp = unit = key.LoRA(layer.mlp, model.config.hidden_size, rank, seed)
    return unit


@wrong("rung2", "attach", "counted from 0. It is in layer")
def layer_two_of_every_model(model, rank, seed):
    layer = model.requires_grad_(False).layers[2]
    layer.mlp = unit = key.LoRA(layer.mlp, model.config.hidden_size, rank, seed)
    return unit


@wrong("rung2", "attach", "but its A is another one")
def attach_ignores_the_seed(model, rank, seed):
    return key.attach(model, rank, 0)


@wrong("rung2", "attach", "attach should return the LoRA that it puts in, not NoneType")
def attach_returns_nothing(model, rank, seed):
    key.attach(model, rank, seed)


@wrong("rung2", "detach", "it is not the model that it was")
def detach_only_silences(model, unit):
    def part_alone(x):
        return unit.part(x)

    unit.forward = part_alone


@wrong("rung2", "detach", "After detach, the model cannot be called (TypeError")
def detach_leaves_a_gap(model, unit):
    for layer in model.layers:
        if layer.mlp is unit:
            layer.mlp = None


@wrong("rung2", "detach", "Put the part of the unit back where it was")
def detach_does_nothing(model, unit):
    pass


@wrong("rung2", "detach", "The unit should keep what it has learned")
def detach_forgets(model, unit):
    nn.init.zeros_(unit.B)
    key.detach(model, unit)


# --- Rung 3: the loss of a token ------------------------------------------------------------------


@wrong("rung3", "target_logits", "These logits are one position too late")
def logits_unshifted(model, prompt_ids, target_ids):
    return model(torch.tensor([prompt_ids + target_ids]))[0, len(prompt_ids) :]


@wrong("rung3", "target_logits", "it reads [1, T]: torch.tensor([ids])")
def no_batch_in_one_pass(model, prompt_ids, target_ids):
    return model(torch.tensor(prompt_ids + target_ids[:-1]))[len(prompt_ids) - 1 :]


@wrong("rung3", "target_logits", "should have the shape")
def logits_of_the_prompt_too(model, prompt_ids, target_ids):
    return model(torch.tensor([prompt_ids + target_ids[:-1]]))[0]


@wrong("rung3", "target_logits", "gave fewer than the")
def logits_of_the_prompt(model, prompt_ids, target_ids):
    return model(torch.tensor([prompt_ids]))[0]


@wrong("rung3", "target_logits", "These are log-probabilities")
def logits_normalized(model, prompt_ids, target_ids):
    return key.target_logits(model, prompt_ids, target_ids).log_softmax(-1)


@wrong("rung3", "target_logits", "one pass is enough")
def one_pass_a_token(model, prompt_ids, target_ids):
    rows = [
        model(torch.tensor([prompt_ids + target_ids[:t]]))[0, -1] for t in range(len(target_ids))
    ]
    return torch.stack(rows)


@wrong("rung3", "target_logits", "do not use torch.no_grad here")
@torch.no_grad()
def logits_without_gradient(model, prompt_ids, target_ids):
    return key.target_logits(model, prompt_ids, target_ids)


@wrong("rung3", "token_losses", "First subtract from each row its own largest logit")
def no_shift(logits, targets):
    return logits.exp().sum(-1).log() - logits[torch.arange(len(targets)), targets]


@wrong("rung3", "token_losses", "First subtract from each row its own largest logit")
def one_shift_for_all(logits, targets):
    shifted = logits - logits.max()
    return shifted.exp().sum(-1).log() - shifted[torch.arange(len(targets)), targets]


@wrong("rung3", "token_losses", "the largest logit of each row, wherever it is")
def first_logit_subtracted(logits, targets):
    shifted = logits - logits[:, :1]
    return shifted.exp().sum(-1).log() - shifted[torch.arange(len(targets)), targets]


@wrong("rung3", "token_losses", "is the sum of exp detached, or inside no_grad?")
def sum_without_gradient(logits, targets):
    with torch.no_grad():
        largest = logits.max(-1).values
        total = (logits - largest[:, None]).exp().sum(-1).log() + largest
    return total - logits[torch.arange(len(targets)), targets]


@wrong("rung3", "token_losses", "is the logit of the target detached?")
def target_detached(logits, targets):
    largest = logits.max(-1).values
    total = (logits - largest[:, None]).exp().sum(-1).log() + largest
    return total - torch.tensor([row[y] for row, y in zip(logits.tolist(), targets, strict=True)])


@wrong("rung3", "token_losses", "Change a copy of them")
def subtracted_in_place(logits, targets):
    logits -= logits.max(-1, keepdim=True).values
    return logits.exp().sum(-1).log() - logits[torch.arange(len(targets)), targets]


@wrong("rung3", "token_losses", "uses torch's logcumsumexp")
def cumulative(logits, targets):
    own = logits[torch.arange(len(targets)), targets]
    return torch.logcumsumexp(logits, -1)[:, -1] - own


@wrong("rung3", "token_losses", "Use max + log(sum(exp)) − z_target, never the log of p")
def log_of_p(logits, targets):
    exp = (logits - logits.max(-1, keepdim=True).values).exp()
    return -(exp / exp.sum(-1, keepdim=True))[torch.arange(len(targets)), targets].log()


@wrong("rung3", "token_losses", "These are bits")
def bits(logits, targets):
    return key.token_losses(logits, targets) / math.log(2)


@wrong("rung3", "token_losses", "Wrong sign")
def log_probabilities(logits, targets):
    return -key.token_losses(logits, targets)


@wrong("rung3", "token_losses", "Use exp, log, sum, max and indexing only")
def losses_by_torch(logits, targets):
    return F.cross_entropy(logits, targets, reduction="none")


@wrong("rung3", "token_losses", "Do not detach them")
def losses_detached(logits, targets):
    return key.token_losses(logits.detach(), targets)


@wrong("rung3", "plain", "This is the sum of the losses")
def sum_of_the_losses(logits, targets, progress):
    return key.token_losses(logits, targets).sum()


@wrong("rung3", "token_losses", "plain should be the mean of the losses")
def no_losses(logits, targets):
    return (logits * 0).sum(-1)


@wrong("rung3", "plain", "a scalar, should be a tensor")
def mean_as_a_number(logits, targets, progress):
    return key.token_losses(logits, targets).mean().item()


@wrong("rung3", "plain", "Return the mean as it is, with its gradient")
def mean_detached(logits, targets, progress):
    return key.token_losses(logits, targets).mean().detach()


@wrong("rung3", "plain", "plain should not use the progress")
def less_and_less(logits, targets, progress):
    return key.token_losses(logits, targets).mean() * (1 - progress)
