"""MemFT: weights that spend the gradient on tokens that are not yet remembered (arXiv 2605.30260).

A token is certain to be recalled when its probability exceeds θ = ½, that is, when its loss is
below −ln θ = ln 2. Plain fine-tuning (sft) spends much of the gradient on tokens far beyond that
point. MemFT weights the tokens instead; the loss that is back-propagated is Σ w_t ℓ_t / Σ w_t.
`memft-ot` (only threshold) is Eq. 8 of the paper; `memft-sw` is its sliding window.

Glossary
    losses     ℓ_t  [..., ℓ]  nats, detached: weights carry no gradient
    weights    w_t  [..., ℓ]  between 0 and 1
    threshold  θ              a probability; −ln θ is a loss

Each method is a pure function of the losses, without branches that depend on the data, so that a
step never waits for the device. Leading dimensions are independent runs.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

METHODS = ("sft", "memft-ot", "memft-sw")
LN2 = math.log(2)  # loss of a token with p = ½, nats
KAPPA, TAU, WINDOW, FLOOR = 10.0, 20.0, 50.0, 0.01  # of memft-sw, as in the paper's code


def sft_weights(losses: Tensor) -> Tensor:
    """Every token alike: plain supervised fine-tuning."""
    return torch.ones_like(losses)


def memft_ot_weights(losses: Tensor, threshold: float = 0.5, zero_active: str = "sft") -> Tensor:
    """Only threshold: w_t = 1 if ℓ_t > −ln θ else 0.

    zero_active: what happens when no token is above the threshold. "sft" falls back to w = 1 (the
    paper's long-context runs); "zero" gives zero loss (its PhoneBook runs).

    By hand, θ = ½ (−ln θ = 0.69): losses 2.0, 0.5, 0.7 -> weights 1, 0, 1.
    """
    active = losses > -math.log(threshold)
    if zero_active == "sft":
        active = active | ~active.any(-1, keepdim=True)
    return active.to(losses.dtype)


class Window(NamedTuple):
    """What memft-sw remembers from step to step; each [...]."""

    anchor: Tensor  # a: first position whose argmax was wrong, ℓ where there was none
    still: Tensor  # steps for which the anchor has not moved
    extent: Tensor  # e: length of the window in units of WINDOW, 1 to 4


def first_window(losses: Tensor) -> Window:
    """The state before the first step: no anchor yet, so that the first one counts as moved."""
    nowhere = torch.full_like(losses[..., 0], -1)
    return Window(nowhere, torch.zeros_like(nowhere), torch.ones_like(nowhere))


def memft_sw_weights(losses: Tensor, correct: Tensor, state: Window) -> tuple[Tensor, Window]:
    """Sliding window: a soft threshold, times a window that starts at the first error.

        w_t = sigmoid(κ (ℓ_t + ln θ)) · m_t, with θ = ½
        m_t = exp(−max(t − a, 0) / τ)  for t < a + WINDOW · e,  else FLOOR;  1 without any error

    correct [..., ℓ]: is the argmax at t the target? The anchor a is the first t where it is not.
    e grows by ½ a step, up to 4, once a has stood still for 3 steps, and returns to 1 when a moves.
    Returns the weights and the state for the next step.
    """
    length = losses.shape[-1]
    places = torch.arange(length, device=losses.device, dtype=losses.dtype)
    anchor = torch.where(correct, length, places).amin(-1)  # ℓ where everything is right
    stands = anchor == state.anchor
    still = torch.where(stands, state.still + 1, torch.zeros_like(state.still))
    grown = torch.where(still >= 3, state.extent + 0.5, state.extent).clamp(max=4.0)
    extent = torch.where(stands, grown, torch.ones_like(grown))

    distance = places - anchor[..., None]
    mask = torch.exp(-distance.clamp(min=0) / TAU)
    mask = torch.where(distance < WINDOW * extent[..., None], mask, FLOOR)
    mask = torch.where(correct.all(-1, keepdim=True), 1.0, mask)
    soft = torch.sigmoid(KAPPA * (losses - LN2))
    return soft * mask, Window(anchor, still, extent)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Σ w_t ℓ_t / Σ w_t over the last dimension; 0 where all weights are 0."""
    total = weights.sum(-1)
    return (weights * losses).sum(-1) / torch.where(total > 0, total, 1.0)


class Weigher:
    """Weights of K runs' tokens, each run by its own method.

    It keeps the windows of memft-sw from one step to the next.
    """

    def __init__(self, kinds: Sequence[tuple[str, str]], device: torch.device):
        """kinds: (method, zero_active) of each run; see `Recipe.weighting`."""
        runs = {kind: [n for n, k in enumerate(kinds) if k == kind] for kind in kinds}
        self.kinds = list(kinds)
        self.runs = {kind: torch.tensor(indices, device=device) for kind, indices in runs.items()}
        self.needs_margins = any(method == "memft-sw" for method, _ in kinds)
        self.has_zero_weights = any(method == "memft-ot" for method, _ in kinds)
        self.window = first_window(torch.empty(len(kinds), 1, device=device))

    def __call__(self, losses: Tensor, margins: Tensor | None) -> Tensor:
        """w_t [K, ℓ] from ℓ_t [K, ℓ]; memft-sw also needs the margins m_t [K, ℓ] (margin.py)."""
        weights = torch.empty_like(losses)
        for (method, zero_active), runs in self.runs.items():
            if method in ("sft", "margin"):
                weights[runs] = sft_weights(losses[runs])
            elif method == "memft-ot":
                weights[runs] = memft_ot_weights(losses[runs], zero_active=zero_active)
            else:
                assert margins is not None
                correct, window = margins[runs] > 0, Window(*(state[runs] for state in self.window))
                weights[runs], window = memft_sw_weights(losses[runs], correct, window)
                for state, new in zip(self.window, window, strict=True):
                    state[runs] = new  # in place: a recorded CUDA graph reads the same memory
        return weights

    def select(self, indices: Sequence[int]) -> "Weigher":
        """A Weigher for these runs only, with their windows unchanged."""
        part = Weigher([self.kinds[n] for n in indices], self.window.anchor.device)
        part.window = Window(*(state[list(indices)] for state in self.window))
        return part
