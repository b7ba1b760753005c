"""Every target token's loss, and where it pulls, without ever holding all the logits.

Glossary
    x_t   [d]   last hidden state, normalised, at the place that predicts target token t
    W     [V, d] the head;  z_t = W x_t are the logits
    ℓ_t   = −ln softmax(z_t)[target t], nats
    g_t   = ∂ℓ_t/∂x_t = Wᵀ (softmax(z_t) − onehot(target t))

A weight w_t only scales g_t, and the head is frozen, so loss and gradient come out of one pass over the
rows, a chunk at a time: [N, V] never exists. A row with w_t = 0 needs no g_t. Which rows these are is
known only after all losses, so a row's g_t is made at once where it will probably be asked for, and
otherwise if it is.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

CHUNK = 1 << 25  # logits held at once: 128 MB
Room = dict[object, Tensor]  # memory for them, to be used again: fresh memory is slow on a CPU
Likely = Callable[[Tensor, slice], Tensor]  # losses [n] of rows, and which these are -> bool [n]


def token_losses(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    likely: Likely | None = None,
    correct: Tensor | None = None,
    room: Room | None = None,
) -> Tensor:
    """ℓ_t [N], nats, float32, from x [N, d], the head's weight [V, d] and targets long [N].

    likely: says which rows will probably have a gradient (a guess: it decides the cost, not the result).
    None: all of them, and nothing that is done depends on the data.
    correct: bool [N] to be filled in, is the argmax the target?
    room: empty at first; the same one for every step.
    """
    return _TokenLosses.apply(x, weight, targets, likely, correct, {} if room is None else room)


def rows_of(room: Room, key: object, dtype: torch.dtype, rows: int, weight: Tensor) -> Tensor:
    """Logits [rows, V] in `room`, not filled in; one piece of memory for each key."""
    if key not in room or len(room[key]) < rows:
        room[key] = torch.empty(rows, len(weight), dtype=dtype, device=weight.device)
    return room[key][:rows]


def log_probabilities(
    x: Tensor, weight: Tensor, room: Room | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """ln softmax(z_t) [n, V] in float32, chunk after chunk of rows, each in the same piece of memory."""
    size = max(1, CHUNK // len(weight))
    same = weight.dtype == x.dtype
    columns = len(weight) if same else max(1, CHUNK // weight.shape[1])  # of a weight that is cast
    room = {} if room is None else room
    most, dtypes = min(size, len(x)), (x.dtype, torch.float32)
    logits, wide = (rows_of(room, dtype, dtype, most, weight) for dtype in dtypes)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        count = rows.stop - start
        for first in range(0, len(weight), columns):
            part = slice(first, first + columns)
            torch.mm(x[rows], weight[part].to(x.dtype).t(), out=logits[:count, part])
        if wide is not logits:
            wide[:count] = logits[:count]
        yield rows, torch.log_softmax(wide[:count], -1, out=wide[:count])


def pull(logp: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """g_t [n, d] from ln softmax(z_t) [n, V], which is used up."""
    p = logp.exp_()
    p[torch.arange(len(p), device=p.device), targets] -= 1
    return p.to(weight.dtype) @ weight


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, likely, correct, room):
        losses = torch.empty(len(x), device=x.device)
        ctx.g = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        ctx.known = None if likely is None else torch.zeros_like(targets, dtype=torch.bool)
        for rows, logp in log_probabilities(x, weight, room):
            losses[rows] = -logp.gather(-1, targets[rows, None]).squeeze(-1)
            if correct is not None:
                correct[rows] = logp.argmax(-1) == targets[rows]
            if ctx.g is None:
                continue
            if likely is None:
                ctx.g[rows] = pull(logp, targets[rows], weight)
                continue
            ctx.known[rows] = likely(losses[rows], rows)
            some = ctx.known[rows].nonzero().squeeze(1)
            if len(some):
                if len(some) < len(logp):
                    picked = rows_of(room, "picked", logp.dtype, len(logp), weight)[: len(some)]
                    logp = torch.index_select(logp, 0, some, out=picked)
                ctx.g[rows].index_copy_(0, some, pull(logp, targets[rows][some], weight))
        ctx.room = room
        ctx.save_for_backward(x, weight, targets)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, targets = ctx.saved_tensors
        if ctx.known is not None:
            missing = ((grad != 0) & ~ctx.known).nonzero().squeeze(1)
            for rows, logp in log_probabilities(x[missing], weight, ctx.room):
                ctx.g[missing[rows]] = pull(logp, targets[missing[rows]], weight)
        return (ctx.g * grad[:, None]).to(x.dtype), None, None, None, None, None
