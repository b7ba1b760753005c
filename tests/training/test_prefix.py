"""Cached activations. Oracle: the forward pass of the whole model."""

import pytest
import torch

from tests.toy import toy_memory, toy_model
from tests.unit.test_lora import SITES, grown_unit
from tinymem.data.batch import Batch
from tinymem.training.prefix import Prefix


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
