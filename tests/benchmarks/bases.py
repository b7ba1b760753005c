"""The base models: the same weights in tinymem's code and in transformers'."""

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

SHAPES = {  # of models whose weights are drawn at random, on the device
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
PROMPT = 8  # tokens, where there is no tokenizer


@dataclass
class Base:
    """One model twice. `model` and `theirs` are left as they are: what is attached goes to twins."""

    name: str
    model: Model
    theirs: transformers.PreTrainedModel
    tokenizer: Tokenizer | None = None

    @property
    def label(self) -> str:
        """On a GPU the dtype is told, because there are two."""
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
        """A prompt and `length` random tokens, or as many as the context holds beside the prompt."""
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
    """A checkpoint, read by both."""
    model, tokenizer = load(folder, device=device, dtype=dtype)
    source = SHIPPED.get(str(folder), folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype).to(device)
    return Base(name, model, quiet(theirs), tokenizer)


def from_shape(name: str, device: str, dtype: str) -> Base:
    """Random weights, made on the device by transformers; tinymem's model holds the same tensors."""
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
        ours = family.ours(path)[0]
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
    """Dropout off, and no keys and values kept for decoding, which training has no use for."""
    theirs.config.use_cache = False
    return theirs.eval()


def twin(module: nn.Module) -> nn.Module:
    """A copy that shares the weights, so that peers can each attach what they like to one base."""
    return copy.deepcopy(module, {id(p): p for p in module.parameters()})
