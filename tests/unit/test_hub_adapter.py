"""Adapters and units that are named by a hub id, from the stand-in for the hub on loopback."""

import pytest

from tests.base import test_hub
from tests.base.test_hub import POISON, ask
from tests.hub_server import Hub, Repo
from tests.toy import toy_model
from tests.unit.test_adapter import IDS, saved
from tinymem.unit.adapter import load_adapter

ASK = """
import json, sys, time
import torch
from tests.toy import toy_model
from tinymem import AdapterError, load_adapter
torch.set_num_threads(1)
for repo, revision, _ in json.loads(sys.argv[1]):
    model = toy_model()
    try:
        load_adapter(model, repo, revision=revision)
        answer = {"sum": model(torch.arange(24)[None]).double().sum().item()}
    except AdapterError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
"""


def files(folder, *others):
    return {path.name: path.read_bytes() for path in folder.iterdir()} | dict(others)


@pytest.fixture
def hub(tmp_path):
    saved(tmp_path / "linear", ("q_proj",))
    saved(tmp_path / "own")
    model = toy_model()
    load_adapter(model, tmp_path / "linear")
    linear = files(tmp_path / "linear", ("adapter_model.bin", POISON), ("README.md", b"hello"))
    server = Hub(
        {
            "org/linear": Repo(linear, branches={"v2": files(tmp_path / "own")}),
            "org/own": Repo(files(tmp_path / "own")),
            "org/pickle": Repo({"adapter_model.bin": POISON, "adapter_config.json": b"{}"}),
            "org/half": Repo({k: v for k, v in linear.items() if k != "adapter_config.json"}),
            "org/base": Repo({"config.json": b"{}", "model.safetensors": b"x"}),
        }
    )
    server.expected = model(IDS).double().sum().item()
    yield server
    server.stop()


def test_an_adapter_from_the_hub(hub, tmp_path, monkeypatch):
    """The two files that it needs are downloaded, and only these."""
    monkeypatch.setattr(test_hub, "ASK", ASK)
    wanted = ["org/linear", ("org/linear", "v2"), "org/own", "org/pickle", "org/half", "org/base"]
    answers = ask(tmp_path / "home", hub.url, *wanted, "org/none", "a/b")
    linear, own, same, *errors = answers
    assert linear["sum"] == pytest.approx(hub.expected, abs=1e-4)
    assert own == same and own["sum"] != linear["sum"]
    assert hub.asked() == {"adapter_model.safetensors", "adapter_config.json", "unit.safetensors"}
    messages = [
        "the repository has no adapter_model.safetensors and no unit.safetensors. tinymem reads",
        "the repository has no adapter_config.json; is it an adapter?",
        "the repository has no adapter_model.safetensors and no unit.safetensors",
        *["unknown or private"] * 2,
    ]
    for answer, message in zip(errors, messages, strict=True):
        assert answer["error"].startswith("no folder of this name here") and "\n" not in answer
        assert message in answer["error"]
