"""`tinymem judge`. Oracle: transformers and peft, on the same checkpoint and adapter."""

import json

import peft
import pytest
import torch
import transformers

from tests.checkpoints import build

TEXT = "the hand and the thing in the sand, singing"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny GPT-2."""
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    build(folder, "gpt2")
    return folder


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def adapter(base, folder, B=0.3, **settings):
    """A LoRA with random A, and B of this deviation, saved by peft; returns peft's model."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config["fan_in_fan_out"] = True
    wrapped = peft.get_peft_model(load(base), peft.LoraConfig(**config | settings)).eval()
    torch.manual_seed(0)
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            p.data.normal_(0, B if "lora_B" in name else 0.3)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def read(answer):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


def test_losses_margins_and_the_change_of_a_logit_are_those_of_peft(tinymem, base, text, tmp_path):
    wrapped = adapter(base, tmp_path / "lora")
    more = "--adapter", tmp_path / "lora", "--text", text, "--prompt", "Say it:", "--json"
    found = read(tinymem("judge", "--model", base, *more))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{base}/tokenizer.json")
    prompt, target = tokenizer("Say it:").input_ids, tokenizer(TEXT).input_ids[1:]  # less <s>
    ids = torch.tensor([prompt + target])
    with torch.no_grad():
        rows = slice(len(prompt) - 1, -1)
        own = wrapped(ids).logits[0, rows]
        bare = load(base)(ids).logits[0, rows]
        decoded = wrapped.generate(
            input_ids=ids[:, : len(prompt)], max_new_tokens=len(target), do_sample=False
        )
    loss = torch.nn.functional.cross_entropy
    wanted = torch.tensor(target)
    rivals = own.scatter(1, wanted[:, None], -torch.inf).amax(1)
    margins = own.gather(1, wanted[:, None]).squeeze(1) - rivals
    about = {
        "base_loss": loss(bare, wanted),
        "final_loss": loss(own, wanted),
        "adapter_change": (own - bare).abs().max(),
        "min_margin": margins.min(),
    }
    for name, value in about.items():
        assert found[name] == pytest.approx(value.item(), abs=1e-4), name
    assert found["delta_loss"] == pytest.approx(found["base_loss"] - found["final_loss"])
    right = (decoded[0, len(prompt) :] == wanted).float().mean().item()
    assert found["token_accuracy"] == pytest.approx(right)
    assert found["length"] == len(target) and found["rank"] == 4
    trained = sum(p.numel() for name, p in wrapped.named_parameters() if "lora_" in name)
    assert found["trainable_parameters"] == trained


def test_an_adapter_with_a_zero_b_changes_nothing_and_the_screen_begins_with_it(
    tinymem, base, text, tmp_path
):
    adapter(base, tmp_path / "lora", B=0)
    command = "judge", "--model", base, "--adapter", tmp_path / "lora", "--text", text
    assert read(tinymem(*command, "--json"))["adapter_change"] == 0
    assert tinymem(*command)[1].startswith("The adapter changes nothing")
