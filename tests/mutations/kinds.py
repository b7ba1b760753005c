"""The kinds of files, whole ones of each, and one damaged file given to the command line."""

import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.mutations.damage import (
    as_header,
    as_json,
    as_lines,
    as_template,
    as_values,
    joined,
    mutate_bytes,
    parts,
    to_bytes,
)
from tinymem.files import printable

GROWTH = 1 << 30  # bytes that an input may take
QUICK = ("--steps", "1", "--length", "2", "--rank", "1", "--device", "cpu")
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content | trim }}<|end|>{% endfor %}{{ eos_token }}"


@dataclass(frozen=True)
class Kind:
    """A file of the folder `home`, how it is damaged, and the commands that read it (one of them).

    strict: any other bytes must be refused (or lead to exit code 1), as far as values go.
    """

    home: str
    file: str
    mutate: Callable[[bytes, random.Random], bytes]
    commands: list[list[str]]
    weight: int = 4
    strict: bool = False


def on_base(home: str, file: str, mutate: Callable, **more) -> Kind:
    return Kind(home, file, mutate, [["probe", "--model", "{home}", *QUICK]], **more)


RUN = ["probe", "--model", "{bases}/llama", *QUICK, "--steps", "4", "--out", "{home}"]
READ_DATA = [
    "probe",
    "--model",
    "{bases}/llama",
    *QUICK[:2],
    *QUICK[4:],
    "--data",
    "{home}/data.jsonl",
]
READ_TEXT = ["probe", "--model", "{bases}/llama", *QUICK, "--text", "{home}/text.txt"]
SWEEP = [
    "sweep",
    "--model",
    "{bases}/llama",
    "--steps",
    "2",
    "--ranks",
    "1,2,4",
    "--lengths",
    "2,3,4",
]
LAWS = [["fit", "{home}"], ["fit", "{home}", "--json"], ["plan", "{home}", "--length", "9"]]
LAWS += [["plan", "{home}", "--rank", "2"], [*SWEEP, "--out", "{home}"]]
LOAD = [["load", "{bases}/llama", "{home}"]]
RECALL = [["recall", "{home}"], ["recall", "{home}", "--json", "--model", "{bases}/llama"]]

KINDS = {
    **{f"config.json, {kind}": on_base(kind, "config.json", as_json) for kind in ("llama", "gpt2")},
    **{
        f"config.json, {kind}": on_base(kind, "config.json", as_json)
        for kind in ("qwen2", "gpt_neox")
    },
    "tokenizer.json": on_base("llama", "tokenizer.json", as_json, weight=8),
    "tokenizer_config.json": on_base("chatty", "tokenizer_config.json", as_json),
    "chat_template.jinja": on_base("chatty", "chat_template.jinja", as_template, weight=2),
    "vocab.json": on_base("older", "vocab.json", as_json, weight=2),
    "merges.txt": on_base("older", "merges.txt", mutate_bytes, weight=2),
    "added_tokens.json": on_base("older", "added_tokens.json", as_json, weight=2),
    "special_tokens_map.json": on_base("older", "special_tokens_map.json", as_json, weight=2),
    "model.safetensors, header": on_base("llama", "model.safetensors", as_header),
    "model.safetensors, values": on_base("llama", "model.safetensors", as_values),
    "index of shards": on_base("shards", "model.safetensors.index.json", as_json),
    "unit.safetensors, header": Kind("run", "unit.safetensors", as_header, RECALL, weight=8),
    "unit.safetensors, values": Kind("run", "unit.safetensors", as_values, RECALL, strict=True),
    "adapter_config.json": Kind("peft", "adapter_config.json", as_json, RECALL, weight=6),
    "adapter, header": Kind("peft", "adapter_model.safetensors", as_header, RECALL),
    "adapter, values": Kind("peft", "adapter_model.safetensors", as_values, RECALL, strict=True),
    "peft's adapter_config.json": Kind("peft's", "adapter_config.json", as_json, LOAD, weight=6),
    "peft's adapter, header": Kind(
        "peft's", "adapter_model.safetensors", as_header, LOAD, weight=2
    ),
    "report.json": Kind("run", "report.json", as_json, [RUN]),
    "state.safetensors, header": Kind("part", "state.safetensors", as_header, [RUN], weight=6),
    "state.safetensors, values": Kind("part", "state.safetensors", as_values, [RUN], strict=True),
    "results.jsonl": Kind("grid", "results.jsonl", as_lines, LAWS, weight=8),
    "data.jsonl": Kind("texts", "data.jsonl", as_lines, [READ_DATA], weight=6),
    "text.txt": Kind("texts", "text.txt", mutate_bytes, [READ_TEXT]),
}
ORDER = [name for name, kind in KINDS.items() for _ in range(kind.weight)]


def make_homes(bases: Path) -> None:
    """The folders that are damaged; each is small, and whole."""
    from tests.base.test_weights import shard
    from tests.checkpoints import build, tokenizer

    for kind in ("llama", "gpt2", "qwen2", "gpt_neox"):
        build(bases / kind, kind)
    for copy in ("chatty", "shards"):
        shutil.copytree(bases / "llama", bases / copy)
    shard(bases / "shards")
    (bases / "chatty" / "chat_template.jinja").write_text(TEMPLATE)
    about = {"eos_token": {"content": "</s>"}, "bos_token": "<s>", "model_max_length": 99}
    about |= {"chat_template": TEMPLATE, "added_tokens_decoder": {"268": {"content": "[PAD]"}}}
    (bases / "chatty" / "tokenizer_config.json").write_text(json.dumps(about))
    older = Path(shutil.copytree(bases / "gpt2", bases / "older"))
    (older / "tokenizer.json").unlink()
    tokenizer().model.save(str(older))  # vocab.json and merges.txt
    (older / "added_tokens.json").write_text('{"<|endoftext|>": 264, "<new>": 265}')
    (older / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    (bases / "texts").mkdir()
    rows = [{"prompt": "a", "completion": "b c"}, {"question": "who", "matching": "me"}]
    rows += [{"prompt_ids": [1, 2], "target_ids": [3, 4], "ratio": 100, "entropy": 5.5}]
    rows += [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    ]
    (bases / "texts" / "data.jsonl").write_bytes(b"\n".join(map(to_bytes, rows)) + b"\n")
    (bases / "texts" / "text.txt").write_text(
        "Mary had a little lamb, its fleece was white ½.\n" * 3
    )
    run = [word.format(bases=bases, home=bases / "run") for word in RUN]
    assert run_command(run)[0] == 0
    peft = [word.format(bases=bases, home=bases / "peft") for word in RUN]
    assert run_command([*peft, "--site", "q_proj"])[0] == 0
    assert (
        run_command([*(w.format(bases=bases) for w in SWEEP), "--out", str(bases / "grid")])[0] == 0
    )
    file = Path(shutil.copytree(bases / "peft", bases / "peft's")) / "adapter_model.safetensors"
    header, values = parts(file.read_bytes())
    file.write_bytes(joined({k: v for k, v in header.items() if k != "__metadata__"}, values))
    make_part([word.format(bases=bases, home=bases / "part") for word in RUN])


def check_homes(bases: Path) -> None:
    """Every command works on files that are whole; else a refusal would say nothing."""
    for name, kind in KINDS.items():
        for command in kind.commands:
            with tempfile.TemporaryDirectory() as folder:
                home = shutil.copytree(bases / kind.home, Path(folder, kind.home))
                code, _, err = run_command(
                    [word.format(bases=bases, home=home) for word in command]
                )
            assert code == 0, (name, command, err)


def make_part(command: list[str]) -> None:
    """A run that was interrupted, with its state."""
    from tinymem.training.trainer import Trainer

    real, left = Trainer.gradient, [2]

    def gradient(self, *args, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(self, *args, **options)

    Trainer.gradient = gradient
    try:
        assert run_command(command)[0] == 130
    finally:
        Trainer.gradient = real


def input_of(seed: int, number: int, bases: Path) -> tuple[str, bytes, list[str]]:
    """Kind, damaged bytes and command of an input."""
    draw = random.Random(f"{seed} {number}")
    name = ORDER[number % len(ORDER)]
    kind = KINDS[name]
    data = whole = (bases / kind.home / kind.file).read_bytes()
    for _ in range(draw.choice([1, 1, 2, 3])):
        with contextlib.suppress(Exception):  # a second one may find nothing left to damage
            data = kind.mutate(data, draw)
    return name, data if data != whole else whole + b" ", draw.choice(kind.commands)


# --- One input -----------------------------------------------------------------------------------


def run_command(args: list[str]) -> tuple[int, str, str]:
    """The command line in this process: exit code, stdout, stderr."""
    from tinymem.cli.app import main

    if args[0] == "load":
        return load_adapter(*args[1:])
    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["tinymem", *args]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue(), err.getvalue()
    raise AssertionError("the command line does not end in SystemExit")


def load_adapter(base: str, folder: str) -> tuple[int, str, str]:
    """A unit without tinymem's own header, as peft saves it, which no command reads."""
    import tinymem as tm

    try:
        tm.load_adapter(tm.load(base, device="cpu")[0], folder).detach()
    except tm.TinymemError as error:
        return 2, "", f"tinymem: {printable(str(error))}"
    return 0, "", ""


def try_input(seed: int, number: int, bases: Path) -> tuple[str, int, str]:
    """Kind, exit code and what is wrong with how the command ended ("" if nothing is)."""
    name, data, command = input_of(seed, number, bases)
    kind, whole = KINDS[name], (bases / KINDS[name].home / KINDS[name].file).read_bytes()
    with tempfile.TemporaryDirectory() as work:
        home = Path(shutil.copytree(bases / kind.home, Path(work, kind.home)))
        (home / kind.file).write_bytes(data)
        args = [word.format(bases=bases, home=home) for word in command]
        before = peak_memory()
        code, out, err = run_command(args)
        grown = peak_memory() - before
    if code not in (0, 1, 2):
        return name, code, f"exit code {code}"
    if code == 2 and not (err.rstrip("\n").split("\n")[-1].startswith("tinymem: ") and not out):
        return name, code, f"exit code 2 without a line, or with output: {err[-200:]!r}"
    if code == 1 and not out and not err.startswith("tinymem: "):
        return name, code, f"exit code 1 without a word: {err[-200:]!r}"
    if found := CONTROL.search(out + err):
        return name, code, f"{found[0]!r} reaches the terminal"
    if grown > GROWTH:
        return name, code, f"takes {grown >> 20} MB"
    if kind.strict and code == 0 and changed_values(whole, data):
        return name, code, "a changed value is not noticed"
    return name, code, ""


def changed_values(whole: bytes, data: bytes) -> bool:
    return parts(whole)[1] != parts(data)[1]


def peak_memory() -> int:
    """Bytes that this process has had at most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def work(pipe, seed: int, bases: Path) -> None:
    """A worker process: numbers of inputs come in, results go out."""
    import torch

    from tinymem.cli import probe, sweep  # noqa: F401, which takes seconds

    torch.set_num_threads(1)
    scratch = bases.parent / f"worker {os.getpid()}"
    scratch.mkdir()
    os.chdir(scratch)
    os.dup2(os.open(scratch / "stderr", os.O_CREAT | os.O_WRONLY), 2)  # where Rust code panics
    pipe.send(None)  # ready
    while True:
        number = pipe.recv()
        try:
            found = try_input(seed, number, bases)
        except BaseException as error:  # a panic of Rust code is no Exception
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            problem = f"{type(error).__name__} at {place}: {error}"[:300]
            found = ORDER[number % len(ORDER)], -1, problem
        pipe.send(found)
