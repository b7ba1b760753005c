"""A real checkpoint, if there is one, gives the ids, logits and prompts that transformers gives.

The tests with random weights show that the arithmetic is the same. They do not show that the names,
sizes, dtype and tokenizer of a real checkpoint are read correctly. Nothing is downloaded: set
TINYMEM_REAL_MODEL to a folder with config.json, tokenizer.json and *.safetensors.
"""

import os
from pathlib import Path

import pytest
import torch

from tinymem.base.checkpoint import load
from tinymem.base.model import greedy

FOLDER = os.environ.get("TINYMEM_REAL_MODEL", "")
pytestmark = pytest.mark.skipif(
    not FOLDER,
    reason="set TINYMEM_REAL_MODEL=FOLDER, a real checkpoint, to compare it with transformers",
)

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n",
    "  leading, trailing and   inner   spaces  ",
    "tabs\t\tand\r\nline\n\n\nends",
    "In 1789, 3.14159 and 1,234,567 met 0x7f; 100% of 12:30.",
    "Ångström, naïve café, Łódź, e\u0301",
    "日本語のテキスト、中文文本，한국어 텍스트",
    "العربية עברית हिन्दी ไทย",
    "👍🏽 👨\u200d👩\u200d👧 🇨🇭 ∑∫√ ≤ ≠",
    "control \0 \a \x1b \x7f \ufeff \u200b \u2028",
    "https://example.org/a?b=c&d=%20#e user@example.org C:\\new\\table",
    "don't won't I'll they've DON'T 'quoted' “curly”",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b"}}',
    "WHY ARE WE SHOUTING camelCase snake_case kebab-case",
    "<|im_start|>user\nspecial tokens written out<|im_end|> <s></s><|endoftext|>",
    "",
)


@pytest.fixture(scope="module")
def real():
    """(our model, our tokenizer, transformers' model, its tokenizer), in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)  # conftest's one thread is for tiny models
    model, tokens = load(FOLDER, device="cpu", dtype="float32")
    oracle = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    yield model, tokens, oracle, AutoTokenizer.from_pretrained(FOLDER)
    torch.set_num_threads(threads)


def test_ids(real):
    _, ours, _, theirs = real
    for text in TEXTS:
        assert ours.encode(text) == theirs(text)["input_ids"], text
        assert (
            ours.encode(text, special=False) == theirs(text, add_special_tokens=False)["input_ids"]
        ), text
    special = {i for i in theirs.all_special_ids if i is not None}
    assert not special & set(ours.plain_ids) and len(ours.plain_ids) > 1000


@torch.no_grad()
def test_logits(real):
    model, tokens, oracle, _ = real
    ids = torch.tensor([tokens.encode("\n".join(TEXTS))])
    assert ids.shape[1] >= 200
    expected = oracle(ids).logits
    assert expected.std(-1).mean() > 1
    assert (model(ids) - expected).abs().max() <= 1e-4


@torch.no_grad()
def test_greedy(real):
    model, tokens, oracle, _ = real
    ids = torch.tensor([tokens.encode("Once upon a time, in a small village by the sea,")])
    oracle.generation_config.eos_token_id = None  # nothing may stop it
    expected = oracle.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=64, pad_token_id=0
    )
    assert expected.shape[1] == ids.shape[1] + 64
    assert greedy(model, ids, 64).equal(expected[:, ids.shape[1] :])


def test_chat_template(real):
    _, ours, _, theirs = real
    if not ours.chat_template:
        assert not theirs.chat_template
        pytest.skip(f"{Path(FOLDER).name} has no chat template")
    for text in filter(None, TEXTS):
        chat = [{"role": "user", "content": text}]
        how = {"tokenize": False, "add_generation_prompt": True}
        assert ours.render_chats([text]) == [theirs.apply_chat_template(chat, **how)]
        assert ours.prompt_ids(text) == theirs.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )
