"""AdamW for several runs at once. Oracle: torch's AdamW for each run alone."""

import torch

from tinymem.training.adamw import AdamW, clip_gradients

RATES = torch.tensor([0.1, 0.01, 0.3])


def stacks(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *shape, generator=generator) for shape in ((4, 2), (2, 5))]


def test_each_run_is_torchs_adamw_with_clipping():
    ours = [p.requires_grad_() for p in stacks(0)]
    alone = [[p[k].detach().clone().requires_grad_() for p in ours] for k in range(3)]
    theirs = [
        torch.optim.AdamW(ps, lr=RATES[k].item(), weight_decay=0) for k, ps in enumerate(alone)
    ]
    optimizer, most = AdamW(ours), torch.tensor([0.5, 1.0, 100.0])
    for step in range(30):
        gradients = stacks(step + 1)
        for p, g in zip(ours, gradients, strict=True):
            p.grad = g.clone()
        clip_gradients(ours, most)
        optimizer.step(RATES)
        for k, ps in enumerate(alone):
            for p, g in zip(ps, gradients, strict=True):
                p.grad = g[k].clone()
            torch.nn.utils.clip_grad_norm_(ps, most[k].item())
            theirs[k].step()
    for k, ps in enumerate(alone):
        for mine, other in zip(ours, ps, strict=True):
            assert torch.allclose(mine[k], other, atol=1e-6)


def test_the_first_step_moves_by_the_rate_against_the_gradients_sign():
    (p,) = (torch.zeros(2, 1, 1, requires_grad=True),)
    p.grad = torch.tensor([[[1e-3]], [[-40.0]]])
    AdamW([p]).step(torch.tensor([0.1, 0.2]))
    assert torch.allclose(p.flatten(), torch.tensor([-0.1, 0.2]), atol=1e-5)


def test_select_goes_on_with_the_chosen_runs():
    def train(select: bool) -> torch.Tensor:
        ps = [p.requires_grad_() for p in stacks(0)]
        optimizer, indices = AdamW(ps), [0, 2]
        for step in range(6):
            if select and step == 3:
                optimizer.select(indices)
                for p in ps:
                    p.grad, p.data = None, p.data[indices]
            cut = indices if select and step >= 3 else slice(None)
            for p, g in zip(ps, stacks(step + 1), strict=True):
                p.grad = g[cut].clone()
            optimizer.step(RATES[cut])
        return ps[0].detach()

    assert torch.equal(train(True), train(False)[[0, 2]])
