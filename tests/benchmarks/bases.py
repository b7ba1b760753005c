"""The base models: the same weights in the code of tinymem and in that of transformers."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import nn

from tinymem.base.checkpoint import DTYPES, SHIPPED, load
from tinymem.base.families import read_config
from tinymem.base.model import Model
from tinymem.base.tokenizer import Tokenizer
from tinymem.base.weights import is_transposed
from tinymem.data.memory import Memory, random_memory
from tinymem.training.recipe import auto_lr
from tinymem.unit.sites import default_layer

SHAPES = {  # models with random weights, which are drawn on the device
    "gpt2-sized": {"model_type": "gpt2"},
    "Qwen3-8B-shaped": {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "hidden_size": 4096,
        "intermediate_size": 12_288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40_960,
        "tie_word_embeddings": False,
    },
}
PROMPT = 8  # tokens of the prompt for a model without a tokenizer


@dataclass
class Base:
    """One model in two implementations. Units are attached only to twins of `model` or `theirs`."""

    name: str
    model: Model
    theirs: transformers.PreTrainedModel
    tokenizer: Tokenizer | None = None

    @property
    def label(self) -> str:
        """The name, with the dtype on a GPU, where two dtypes are measured."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return self.name if self.device.type == "cpu" else f"{self.name} {dtype}"

    @property
    def layer(self) -> int:
        return default_layer(self.model)

    @property
    def lr(self) -> float:
        return auto_lr(self.model)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def memory(self, length: int, seed: int = 0) -> Memory:
        """A prompt and `length` random tokens, or fewer if the context is too short for them."""
        if self.tokenizer is not None:
            prompt = random_memory(self.tokenizer, 1).prompt_ids
            room = self.model.config.context - len(prompt)
            return random_memory(self.tokenizer, min(length, room), seed=seed)
        length = min(length, self.model.config.context - PROMPT)
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(self.model.config.vocab_size, (PROMPT + length,), generator=draw)
        return Memory(ids[:PROMPT], ids[PROMPT:])

    def holds(self, length: int) -> bool:
        return length <= self.model.config.context

    @property
    def too_long(self) -> str:
        return f"beyond the context of {self.model.config.context:,}"


def from_folder(name: str, folder: str | Path, device: str, dtype: str) -> Base:
    """A checkpoint, loaded by both libraries."""
    model, tokenizer = load(folder, device=device, dtype=dtype)
    source = SHIPPED.get(str(folder), folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype).to(device)
    return Base(name, model, quiet(theirs), tokenizer)


def from_shape(name: str, device: str, dtype: str) -> Base:
    """Random weights, drawn on the device by transformers and shared with tinymem's model."""
    shape = dict(SHAPES[name])
    config = transformers.AutoConfig.for_model(shape.pop("model_type"), **shape)
    torch.manual_seed(0)
    with torch.device(device):
        theirs = transformers.AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    settings, family = read_config(theirs.config.to_dict(), name)
    with torch.device("meta"):
        model = Model(settings)
    model.family, model.name = family, name
    for path, value in theirs.named_parameters():
        ours = family.ours(path)
        module, _, kind = ours.rpartition(".")
        value = (
            value.detach().t().contiguous()
            if is_transposed(ours, model, family)
            else value.detach()
        )
        setattr(model.get_submodule(module), kind, nn.Parameter(value, requires_grad=False))
    if settings.tied:
        model.lm_head.weight = model.embed_tokens.weight
    return Base(name, model.eval(), quiet(theirs))


def quiet(theirs: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """Evaluation mode without a cache of keys and values, which training does not use."""
    theirs.config.use_cache = False
    return theirs.eval()


def twin(module: nn.Module) -> nn.Module:
    """A copy that shares the weights, so that each peer can attach its own unit to the base."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})
