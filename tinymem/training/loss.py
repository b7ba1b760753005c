"""Per-token loss and its gradient, in chunks; the [N, V] logits are never stored at once.

Glossary
    x_t   [d]     last hidden state, normalised, at the position that predicts target token t
    W     [V, d]  the head; z_t = W x_t are the logits
    ℓ_t           −ln softmax(z_t)[target t], nats
    s_t           T CE(z_t / T, target t), which is trained; ℓ_t at the temperature T = 1
    g_t   [d]     ∂s_t/∂x_t = Wᵀ (softmax(z_t / T) − onehot(target t))

The head is frozen and a weight w_t only scales g_t, so one pass over the rows gives both s_t and
g_t. A row with w_t = 0 needs no g_t, but the weights are known only after all losses. Therefore the
forward pass computes g_t for the rows that are expected to have a weight, and the backward pass
adds those that were missed. The expectation decides what a step costs, not what it computes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .margin import margins, sharpen
from .memft import LN2

CHUNK = 1 << 25  # logits in memory at once: 128 MB in float32
Buffers = dict[object, Tensor]  # memory for logits that is used again: new memory is slow on a CPU


class TokenLosses(NamedTuple):
    """Of n target tokens, each [n], float32."""

    objective: Tensor  # s_t, to be back-propagated
    losses: Tensor  # ℓ_t, nats, without a gradient
    margins: Tensor | None  # m_t, logits (margin.py), likewise; None if they were not asked for


class TokenLoss:
    """s_t and ℓ_t of a batch's target tokens, through a frozen head."""

    def __init__(self, head: Tensor, tokens: int, skip_zero_weights: bool, compare: bool):
        """head: W [V, d]. tokens: target tokens N of the whole batch.

        skip_zero_weights: compute no g_t for rows that are expected to have weight 0. What is
            computed then depends on the data, which a recorded CUDA graph does not allow.
        compare: also find the margins.
        """
        self.head, self.compare = head, compare
        self.buffers: Buffers = {}
        # Had the token a weight in the last step? Then it is expected to have one in this step.
        every = torch.ones(tokens, dtype=torch.bool, device=head.device)
        self.weighted = every if skip_zero_weights else None

    def __call__(
        self,
        x: Tensor,
        targets: Tensor,
        tokens: Tensor | slice = slice(None),
        temperatures: Tensor | None = None,
    ) -> TokenLosses:
        """The losses from x [n, d].

        targets: long [n]. tokens: which of the batch's N tokens these are. temperatures: T of each
        token [n]; None stands for 1.
        """
        losses = torch.empty(len(x), device=x.device)
        margin = torch.empty_like(losses) if self.compare else None
        found = losses, margin
        return TokenLosses(
            _TokenLoss.apply(x, self, targets, tokens, temperatures, found), losses, margin
        )


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: TokenLoss, targets: Tensor, *more: Any) -> Tensor:
        (tokens, T, (losses, margin)), head, buffers = more, loss.head, loss.buffers
        objective = torch.empty_like(losses)
        g = torch.zeros_like(x) if ctx.needs_input_grad[0] else None
        expected = None if loss.weighted is None else loss.weighted[tokens].clone()
        for rows, logp in log_probabilities(x, head, buffers):
            own = targets[rows, None]
            losses[rows] = objective[rows] = -logp.gather(-1, own).squeeze(-1)
            if margin is not None:
                margin[rows] = margins(logp, targets[rows])
            if T is not None:
                logp = sharpen(logp, T[rows])
                objective[rows] = -T[rows] * logp.gather(-1, own).squeeze(-1)
            if g is None:
                continue
            if expected is None:
                g[rows] = hidden_gradient(logp, targets[rows], head)
                continue
            expected[rows] |= losses[rows] > LN2
            some = expected[rows].nonzero().squeeze(1)
            if len(some) < len(logp):
                picked = logits_buffer(buffers, "picked", logp.dtype, len(logp), head)
                logp = torch.index_select(logp, 0, some, out=picked[: len(some)])
            g[rows].index_copy_(0, some, hidden_gradient(logp, targets[rows][some], head))
        ctx.loss, ctx.tokens, ctx.g, ctx.expected, ctx.T = loss, tokens, g, expected, T
        ctx.save_for_backward(x, targets)
        return objective

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        loss: TokenLoss = ctx.loss
        if loss.weighted is not None:
            x, targets = ctx.saved_tensors
            missed = ((grad != 0) & ~ctx.expected).nonzero().squeeze(1)
            for rows, logp in log_probabilities(x[missed], loss.head, loss.buffers):
                some = missed[rows]
                logp = logp if ctx.T is None else sharpen(logp, ctx.T[some])
                ctx.g[some] = hidden_gradient(logp, targets[some], loss.head)
            loss.weighted[ctx.tokens] = grad != 0
        return (ctx.g * grad[:, None]).to(ctx.g.dtype), None, None, None, None, None


def log_probabilities(
    x: Tensor, head: Tensor, buffers: Buffers | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """ln softmax(W x_t) [n, V] in float32, chunk by chunk of rows, all in the same memory."""
    buffers = {} if buffers is None else buffers
    size = max(1, CHUNK // len(head))
    # A head of another dtype is cast a part at a time, so that no copy of it is made.
    columns = len(head) if head.dtype == x.dtype else max(1, CHUNK // head.shape[1])
    most = min(size, len(x))
    logits = logits_buffer(buffers, x.dtype, x.dtype, most, head)
    wide = logits_buffer(buffers, torch.float32, torch.float32, most, head)
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        count = rows.stop - start
        for first in range(0, len(head), columns):
            part = slice(first, first + columns)
            torch.mm(x[rows], head[part].to(x.dtype).t(), out=logits[:count, part])
        if wide is not logits:
            wide[:count] = logits[:count]
        yield rows, torch.log_softmax(wide[:count], -1, out=wide[:count])


def logits_buffer(
    buffers: Buffers, key: object, dtype: torch.dtype, rows: int, head: Tensor
) -> Tensor:
    """Memory for logits [rows, V], with old values in it; the same memory for the same key."""
    if key not in buffers or len(buffers[key]) < rows:
        buffers[key] = torch.empty(rows, len(head), dtype=dtype, device=head.device)
    return buffers[key][:rows]


def hidden_gradient(logp: Tensor, targets: Tensor, head: Tensor) -> Tensor:
    """g_t [n, d] from ln softmax(z_t / T) [n, V], whose memory is overwritten."""
    p = torch.softmax(logp, -1, out=logp)  # e^logp; exp_ is slow where p underflows, at a low T
    p[torch.arange(len(p), device=p.device), targets] -= 1
    return p.to(head.dtype) @ head
