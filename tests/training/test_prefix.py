"""Cached activations. Oracle: the forward pass of the whole model."""

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tests.unit.test_lora import SITES, grown_unit
from tinymem.data.batch import Batch
from tinymem.experiment.probe import memorize
from tinymem.training import prefix
from tinymem.training.prefix import Prefix
from tinymem.unit.lora import Unit

LINEAR = {"sites": ("q_proj", "down_proj"), "layers": (0, 1)}


@pytest.mark.parametrize(("sites", "layers"), SITES)
def test_the_prefix_gives_the_whole_models_logits(sites, layers):
    """The cache against the plain forward pass, for a batch of memories of different lengths."""
    model = toy_model()
    memories = [toy_memory(9, prompt=2, seed=1), toy_memory(4, prompt=7, seed=2)]
    batch = Batch(memories, 128, model.device)
    unit = grown_unit(model, sites, layers).attach(model)
    cached = model.lm_head(Prefix(model, unit, batch).states(batch))
    rows = []
    for m in memories:
        ids = torch.tensor([m.prompt_ids + m.target_ids])
        rows.append(model(ids)[0, len(m.prompt_ids) - 1 : -1])
    assert torch.allclose(cached, torch.cat(rows), atol=1e-4)


def test_equal_sequences_are_computed_once(monkeypatch):
    rows, below = [], Prefix._below
    monkeypatch.setattr(
        Prefix, "_below", lambda self, ids: rows.append(len(ids)) or below(self, ids)
    )
    model = toy_model()
    memories = [toy_memory(8, seed=n % 2) for n in range(6)]
    batch = Batch(memories, 128, model.device)
    cached = Prefix(model, Unit.create(model, 2).attach(model), batch)
    assert sum(rows) == 2 and cached.h.shape[0] == 6
    assert torch.equal(cached.h[0], cached.h[2]) and not torch.equal(cached.h[0], cached.h[1])


# --- Activations that do not fit -----------------------------------------------------------------


def losses_and_kept_values(monkeypatch, fits: bool, **options) -> tuple[list[float], int]:
    """The losses of a short run, and how many values its steps kept for the backward pass."""
    kept = 0

    def pack(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    options = {"rank": 2, "steps": 20, "lr": 0.02} | options
    with monkeypatch.context() as patch:
        if not fits:
            patch.setattr(prefix, "ACTIVATION_BUDGET", {"cpu": 0})
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            training = memorize(toy_model(layers=6), toy_memory(24), **options).training
    return training.losses, kept


@pytest.mark.parametrize("options", [{}, {"dropout": 0.1}, LINEAR])
def test_layers_computed_again_change_nothing_and_keep_less(monkeypatch, options):
    """Dropout beside the MLP is outside of the layers that are computed again."""
    whole, kept = losses_and_kept_values(monkeypatch, fits=True, **options)
    again, less = losses_and_kept_values(monkeypatch, fits=False, **options)
    assert again == pytest.approx(whole, abs=1e-6) and less < kept


def test_layers_with_dropout_are_not_computed_again(monkeypatch):
    """A second computation would draw other masks, and the gradient would be that of neither."""
    options = LINEAR | {"dropout": 0.1, "steps": 8}
    whole, kept = losses_and_kept_values(monkeypatch, fits=True, **options)
    again, same = losses_and_kept_values(monkeypatch, fits=False, **options)
    assert again == whole and same == kept
