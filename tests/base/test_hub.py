"""Downloads, against a server on loopback that HF_ENDPOINT names, as it names a mirror.

huggingface_hub reads its environment when it is imported, so every scenario runs in a process of
its own, which knows the server by environment variables only. A process asks for several
repositories, one after the other.
"""

import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from safetensors.torch import load as tensors, save

from tinymem.base.checkpoint import load
from tinymem.base.hub import check_download

from ..hub_server import Hub, Repo

ROOT = Path(__file__).parents[2]
POISON = b"\x80\x04.never download me"  # stands for a pickle
ASK = """
import json, sys, time
from tinymem.errors import CheckpointError
for repo, revision, whole in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        if whole:
            from tinymem.base.checkpoint import load
            model = load(repo, revision=revision, device="cpu")[0]
            answer = {"hash": model.weight_hash, "revision": model.revision}
        else:
            from tinymem.base.hub import download
            answer = {"folder": str(download(repo, revision))}
    except CheckpointError as error:
        answer = {"error": str(error), "chain": repr(error.__cause__)}
    answer |= {"seconds": time.monotonic() - began, "torch": "torch" in sys.modules}
    print(json.dumps(answer), flush=True)
"""


def ask(home: Path, endpoint: str, *wanted, stderr=subprocess.PIPE, **settings) -> list[dict]:
    """Download (repo[, revision[, load it too]]) one after the other in a new process."""
    foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "XDG_", "HTTP", "http", "ALL_PROXY", "all_proxy")
    env = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    env |= {"PYTHONPATH": str(ROOT), "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **settings}
    jobs = [[*([item] if isinstance(item, str) else item), None, False][:3] for item in wanted]
    command = [sys.executable, "-c", ASK, json.dumps(jobs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": stderr}
    done = subprocess.run(command, check=False, env=env, **pipes, text=True, timeout=60)
    # The library's own warnings would stand beside the one line of an error.
    assert done.returncode == 0 and not done.stderr, done.stderr
    token = settings.get("HF_TOKEN")
    assert not token or not any(secret in done.stdout for secret in (token, token[-6:]))
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for answer in answers:
        assert "\n" not in answer.get("error", "") and answer.get("chain", "None") == "None"
    return answers


def checkpoint(seed: int = 0) -> dict[str, bytes]:
    """A GPT-2 with 2 layers of width 16 and a tokenizer of 6 words."""
    words = ["<|endoftext|>", "a", "b", "c", "d", "e"]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, words[0])
    )
    config = {
        "model_type": "gpt2",
        "vocab_size": 6,
        "n_embd": 16,
        "n_head": 2,
        "n_layer": 2,
        "n_positions": 32,
    }
    random = torch.Generator().manual_seed(seed)
    shapes = {"wte.weight": [6, 16], "wpe.weight": [32, 16], "ln_f.weight": [16], "ln_f.bias": [16]}
    linears = {
        "attn.c_attn": [16, 48],
        "attn.c_proj": [16, 16],
        "mlp.c_fc": [16, 64],
        "mlp.c_proj": [64, 16],
    }
    for layer in ("h.0", "h.1"):
        for name, shape in {"ln_1": [16], "ln_2": [16], **linears}.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[-1:]}
    return {
        "config.json": json.dumps(config).encode(),
        "tokenizer.json": core.to_str().encode(),
        "tokenizer_config.json": b'{"eos_token": "<|endoftext|>"}',
        "model.safetensors": save(
            {name: torch.randn(s, generator=random) for name, s in shapes.items()}
        ),
    }


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


FILES = checkpoint()
PICKLES = {
    name: POISON
    for name in ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot")
}
OTHERS = {
    "onnx/decoder_model.onnx": POISON,
    "README.md": b"# GPT-2",
    ".gitattributes": b"*.bin filter=lfs",
}
HARMLESS = re.compile(r"[\w.-]+\.(json|safetensors|jinja)|merges\.txt")


@pytest.fixture
def serve():
    """Start a server with these repositories; it stops with the test."""
    hubs = []

    def start(repos: dict[str, Repo]) -> Hub:
        hubs.append(Hub(repos))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.stop()


@pytest.fixture(scope="module")
def dead() -> str:
    """An address where nobody answers: the port is bound but does not listen."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


def index(**weight_map: str) -> bytes:
    return json.dumps({"metadata": {}, "weight_map": weight_map}).encode()


def sharded() -> dict[str, bytes]:
    parts = sorted(tensors(FILES["model.safetensors"]).items())
    halves = {
        "model-00001-of-00002.safetensors": parts[:9],
        "model-00002-of-00002.safetensors": parts[9:],
    }
    where = {name: shard for shard, half in halves.items() for name, _ in half}
    shards = {shard: save(dict(half)) for shard, half in halves.items()}
    original = {"original/consolidated.00.pth": POISON, "original/params.json": b"{}"}
    small = without(FILES, "model.safetensors")
    return {**small, **shards, **original, "model.safetensors.index.json": index(**where)}


@pytest.fixture(scope="module")
def weight_hash(tmp_path_factory) -> str:
    """What a load must give, taken from the same files in a folder."""
    folder = tmp_path_factory.mktemp("folder")
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return load(folder, device="cpu")[0].weight_hash


def test_first_load_asks_for_safe_files_only_and_later_ones_need_no_network(
    serve, tmp_path, weight_hash
):
    full = Repo({**FILES, **PICKLES, **OTHERS})
    shards = Repo(sharded())
    hub = serve(
        {
            "gpt2": Repo({}, moved="openai-community/gpt2"),
            "openai-community/gpt2": full,
            "a/b": shards,
        }
    )
    first = ask(tmp_path, hub.url, ("gpt2", None, True), ("a/b", None, True))
    assert [answer.get("hash", answer) for answer in first] == [weight_hash] * 2
    commits = [repo.revisions()["main"][0] for repo in (full, shards)]
    assert [answer["revision"] for answer in first] == commits
    assert hub.asked() >= set(FILES) | {"model-00002-of-00002.safetensors"}
    assert all(HARMLESS.fullmatch(name) for name in hub.asked()), hub.asked()

    # Everything is in the cache now; one file is requested, to learn whether the branch has moved.
    hub.requests.clear()
    assert "folder" in ask(tmp_path, hub.url, "gpt2")[0]
    assert hub.asked() == {"config.json"}
    assert not any(method == "GET" and "/resolve/" in path for method, path, _ in hub.requests)

    hub.stop()
    offline = ask(tmp_path, hub.url, ("gpt2", None, True), ("a/b", None, True), HF_HUB_OFFLINE="1")
    assert [answer.get("hash", answer) for answer in offline] == [weight_hash] * 2
    assert [answer["revision"] for answer in offline] == commits
    unplugged = ask(tmp_path, hub.url, "gpt2", "a/b")
    assert all("folder" in answer and answer["seconds"] < 5 for answer in unplugged), unplugged


def test_revisions(serve, tmp_path):
    old, new = checkpoint(1), FILES
    repo = Repo(new, branches={"step/1": old})
    hub = serve({"org/model": repo})
    commit = repo.revisions()["step/1"][0]
    wanted = [
        ("org/model", "step/1"),
        ("org/model", commit),
        ("org/model", "main"),
        ("org/model", "v9\n"),
    ]
    branch, pinned, main, unknown = ask(tmp_path, hub.url, *wanted)
    assert branch["folder"] == pinned["folder"] != main["folder"]
    assert not main["torch"]  # importing torch takes two seconds, and a download does not need it
    assert Path(branch["folder"], "model.safetensors").read_bytes() == old["model.safetensors"]
    assert Path(main["folder"], "model.safetensors").read_bytes() == new["model.safetensors"]
    assert "no such revision" in unknown["error"] and "'v9\\n'" in unknown["error"]

    # A commit never changes, so nothing is requested. A branch that is gone is not served from the
    # cache.
    hub.requests.clear()
    del repo.branches["step/1"]
    pinned, gone = ask(tmp_path, hub.url, ("org/model", commit), ("org/model", "step/1"))
    assert "folder" in pinned and "no such revision" in gone["error"]
    assert hub.asked() == {"config.json"}
    # A branch that moved back to a known commit is that commit offline too.
    repo.files = old
    ask(tmp_path, hub.url, "org/model")
    assert ask(tmp_path, hub.url, "org/model", HF_HUB_OFFLINE="1")[0]["folder"] == pinned["folder"]


SMALL = without(FILES, "model.safetensors")
REFUSED = {  # repository -> what the one line must say; the server's side is below
    "org/pickled": ["no model.safetensors", "unpickling weights runs code", "save_pretrained"],
    "org/climbing": ["weight_map sends 'wte.weight' to '../../evil.safetensors'", "do not trust"],
    "org/lacking": ["the repository has no model-1.safetensors; is it a checkpoint?"],
    "org/dataset": ["no config.json"],
    "org/slow": ["no tokenizer.json"],
    "org/unknown": ["answered 401", "unknown or private", "check the name", "HF_TOKEN"],
    "org/private": ["answered 401", "unknown or private", "HF_TOKEN"],
    "org/gated": ["answered 401", "gated", "accept the terms", "set HF_TOKEN"],
    "org/forbidden": ["answered 403", "HF_TOKEN"],
    "org/nowhere": ["answered 404", "HF_ENDPOINT"],
    "org/busy": ["answered 429", "later"],
    "org/broken": ["answered 500", "later"],
    "org/half": ["cannot get tokenizer.json", "answered 503"],
    "org/portal": ["does not answer as a hub does", "HF_ENDPOINT"],
    "org/short": [
        "cannot get model.safetensors",
        "failed (",
        "has size 1000",
        "run the command again",
    ],
    "org/climber": ["config.json", "etag is '../../../../outside'", "HF_ENDPOINT"],
    "org/nameless": ["config.json", "etag is ''", "HF_ENDPOINT"],
    "org/huge": ["tokenizer.json", "1,000,000,000,000 bytes, more than"],
    "a name with spaces": ["neither a folder on this machine nor a hub id"],
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    climbing = index(
        **{"wte.weight": "../../evil.safetensors", "wpe.weight": "model-1.safetensors"}
    )
    hub = Hub(
        {
            "org/pickled": Repo({**SMALL, **PICKLES}),
            "org/climbing": Repo({**SMALL, "model.safetensors.index.json": climbing}),
            "org/lacking": Repo(
                {**SMALL, "model.safetensors.index.json": index(a="model-1.safetensors")}
            ),
            "org/dataset": Repo({"README.md": b"# Data"}),
            "org/slow": Repo(without(FILES, "tokenizer.json")),
            "org/private": Repo(FILES, readers={"hf_owner"}),
            "org/gated": Repo(FILES, readers={"hf_owner"}, gated=True),
            "org/forbidden": Repo(FILES, status={"*": 403}),
            "org/nowhere": Repo(FILES, status={"*": 404}),
            "org/busy": Repo(FILES, status={"*": 429}),
            "org/broken": Repo(FILES, status={"*": 500}),
            "org/half": Repo(FILES, status={"tokenizer.json": 503}),
            "org/portal": Repo(FILES, page=True),
            "org/short": Repo(FILES, short=1000),
            "org/climber": Repo(FILES, etags={"config.json": "../../../../outside"}),
            "org/nameless": Repo(FILES, etags={"config.json": ""}),
            "org/huge": Repo(FILES, sizes={"tokenizer.json": 10**12}),
        }
    )
    answers = ask(tmp_path_factory.mktemp("home"), hub.url, *REFUSED)
    hub.stop()
    return dict(zip(REFUSED, answers, strict=True)), hub.asked()


@pytest.mark.parametrize("repo", REFUSED)
def test_refusals_say_what_is_wrong_and_what_to_do(refusals, repo):
    answer = refusals[0][repo]
    # The one about the index names that file.
    assert answer["error"].startswith(repr(repo)) or repo == "org/climbing"
    assert [part for part in REFUSED[repo] if part not in answer["error"]] == [], answer
    assert answer["seconds"] < 5


def test_no_unsafe_file_of_a_refused_repository_is_requested(refusals):
    asked = refusals[1]
    assert all(HARMLESS.fullmatch(name) for name in asked), asked
    assert not any("evil" in name for name in asked)


def test_tokens(serve, tmp_path):
    private, gated = (
        Repo(FILES, readers={"hf_owner"}),
        Repo(FILES, readers={"hf_owner"}, gated=True),
    )
    hub = serve({"org/private": private, "org/gated": gated})
    names = list(hub.repos)
    good = ask(tmp_path / "owner", hub.url, *names, HF_TOKEN="hf_owner")
    assert all("folder" in answer for answer in good), good
    sent = {
        (path.startswith("/cdn/"), headers.get("authorization"))
        for _, path, headers in hub.requests
    }
    # The token is not sent to the CDN's host.
    assert {(False, "Bearer hf_owner"), (True, None)} == sent - {(False, None)}
    # Without the right to read, what was downloaded stays usable.
    assert all("folder" in answer for answer in ask(tmp_path / "owner", hub.url, *names))

    stranger = [
        answer["error"] for answer in ask(tmp_path, hub.url, *names, HF_TOKEN="hf_stranger")
    ]
    assert "answered 404, unknown or private" in stranger[0] and "set HF_TOKEN to" in stranger[0]
    assert "answered 403, gated" in stranger[1] and "set HF_TOKEN to" in stranger[1]
    for token, hint in {
        "hf_expired_2f7a1c": "renew HF_TOKEN",
        "hf_cut\x0boff": "cannot be sent",
    }.items():
        for answer in ask(tmp_path, hub.url, *names, HF_TOKEN=token):
            # Some versions of the library can send the broken one.
            assert hint in answer["error"] or "renew HF_TOKEN" in answer["error"]


def test_a_download_that_is_cut_off_goes_on_where_it_was(serve, tmp_path):
    big = {**FILES, "model.safetensors": os.urandom(12 << 20)}  # it is written in pieces of 10 MiB
    hub = serve({"org/model": Repo(big, cut=11 << 20, cuts=1)})
    answer = ask(tmp_path, hub.url, "org/model")[0]
    if "error" in answer:  # older versions of huggingface_hub go on at the next call only
        answer = ask(tmp_path, hub.url, "org/model")[0]
    folder = Path(answer["folder"])
    assert any(headers.get("range") == f"bytes={10 << 20}-" for _, _, headers in hub.requests)
    assert (folder / "model.safetensors").read_bytes() == big["model.safetensors"]


def test_a_download_that_breaks_is_never_taken_for_whole(serve, tmp_path, weight_hash):
    hub = serve({"org/model": Repo(FILES, cut=1000, cuts=1, reset=True)})
    broken = ask(tmp_path, hub.url, "org/model")[0]["error"]
    assert "cannot get model.safetensors: 127.0.0.1:" in broken
    assert "run the command again" in broken
    assert not list(tmp_path.rglob("model.safetensors"))
    offline = ask(tmp_path, hub.url, "org/model", HF_HUB_OFFLINE="1")[0]["error"]
    assert "cannot get model.safetensors: not in the cache, and HF_HUB_OFFLINE is set" in offline
    hub.requests.clear()
    assert ask(tmp_path, hub.url, ("org/model", None, True))[0]["hash"] == weight_hash
    assert "tokenizer.json" not in hub.asked()  # it was whole, and is kept


def test_wrong_bytes_of_the_right_size(serve, tmp_path, weight_hash):
    repo = Repo(FILES, wrong=True)
    hub = serve({"org/model": repo})
    for _ in range(2):  # it is not taken from the cache the second time
        (answer,) = ask(tmp_path, hub.url, "org/model")
        for words in ("model.safetensors", "SHA-256", "deleted", "run the command again"):
            assert words in answer["error"]
        assert not list(tmp_path.rglob("model.safetensors"))
    repo.wrong = False
    assert ask(tmp_path, hub.url, ("org/model", None, True))[0]["hash"] == weight_hash


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_comparison_that_is_interrupted_is_made_again(tmp_path, monkeypatch):
    def interrupted(piece: bytes) -> None:
        raise KeyboardInterrupt

    blob, link = tmp_path / "blob", tmp_path / "model.safetensors"
    blob.write_bytes(b"weights")
    link.symlink_to(blob)
    monkeypatch.setattr(hashlib, "sha256", lambda: SimpleNamespace(update=interrupted))
    with pytest.raises(KeyboardInterrupt):
        check_download(link, "0" * 64)
    assert blob.exists() and not link.exists()  # as after a download that has not ended


TEMPLATE = b"{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def test_a_hub_id_has_the_files_of_its_folder(serve, tmp_path):
    extra = {"chat_template.jinja": TEMPLATE, "added_tokens.json": b"{}", "vocab.json": b"{}"}
    extra |= {"generation_config.json": b"{}"}
    files = {**FILES, **PICKLES, **extra, "merges.txt": b"", "special_tokens_map.json": b"{}"}
    older = without(files, "tokenizer.json")
    repos = {"org/old": Repo(older), "org/half": Repo(without(older, "merges.txt"))}
    hub = serve({"org/new": Repo(files), **repos})
    new, old, half = ask(tmp_path, hub.url, "org/new", "org/old", "org/half")
    got = {
        name: {p.name for p in Path(a["folder"]).iterdir()}
        for name, a in (("new", new), ("old", old))
    }
    assert got["new"] == set(files) - set(PICKLES) - {"vocab.json", "merges.txt"}  # not needed then
    assert got["old"] == set(older) - set(PICKLES)
    assert "no merges.txt" in half["error"]


def test_a_hub_that_fails_is_asked_once(serve, tmp_path):
    repo = Repo(FILES)
    hub = serve({"org/model": repo})
    ask(tmp_path, hub.url, "org/model")
    for mark in tmp_path.rglob(".no_exist"):  # as after a download by another program
        shutil.rmtree(mark)
    repo.status["*"] = 503
    hub.requests.clear()
    assert "folder" in ask(tmp_path, hub.url, "org/model")[0]
    assert hub.asked() == {"config.json"}


def test_no_network_and_nothing_in_the_cache(dead, tmp_path):
    answer = ask(tmp_path, dead, "gpt2")[0]
    assert "failed (Connect" in answer["error"] and "check the network" in answer["error"]
    assert answer["seconds"] < 5
    answer = ask(tmp_path, dead, "gpt2", HF_HUB_OFFLINE="1")[0]
    assert "cannot get config.json: not in the cache, and HF_HUB_OFFLINE is set" in answer["error"]


def test_a_silent_hub_is_given_up_on(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        url = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        settings = {"HF_HUB_ETAG_TIMEOUT": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        answer = ask(tmp_path, url, "gpt2", **settings)[0]
    assert "failed (" in answer["error"] and "secret" not in answer["error"]
    assert answer["seconds"] < 5


def test_the_cache_is_where_the_environment_says(serve, tmp_path):
    hub = serve({"org/model": Repo(FILES)})
    home, cache = tmp_path / "home", tmp_path / "cache"
    assert Path(ask(home, hub.url, "org/model")[0]["folder"]).is_relative_to(home / "hub")
    elsewhere = ask(tmp_path / "unused", hub.url, "org/model", HF_HUB_CACHE=str(cache))[0]
    assert Path(elsewhere["folder"]).is_relative_to(cache)
    (tmp_path / "file").touch()
    answer = ask(tmp_path / "file" / "home", hub.url, "org/model")[0]
    assert "cache cannot be used" in answer["error"] and "HF_HOME" in answer["error"]


def test_progress_shows_on_a_terminal(serve, tmp_path):
    fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))
    hub = serve({"org/model": Repo(FILES, cut=1000, cuts=1)})  # with a retry, which says nothing
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
    try:
        ask(tmp_path, hub.url, "org/model", stderr=terminal)
        shown = os.read(screen, 100_000).decode()
    finally:
        os.close(screen)
        os.close(terminal)
    assert "100%" in shown and "Error" not in shown and "HF_TOKEN" not in shown, shown
