"""Settings and fixtures of all tests. No test uses the network."""

import os

# huggingface_hub, transformers and tokenizers read these when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models are so small that a second thread makes them slower, and much slower on a busy machine.
# Processes that a test starts read this, too.
os.environ["OMP_NUM_THREADS"] = "1"

import shutil
from pathlib import Path

import pytest
import torch

from tests.checkpoints import build
from tests.show.browser import start_browser

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory) -> Path:
    """A tiny Llama checkpoint that no test may change."""
    folder = tmp_path_factory.mktemp("pristine") / "llama"
    build(folder, "llama")
    return folder


@pytest.fixture
def folder(pristine, tmp_path) -> Path:
    """A private copy of `pristine`, to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "llama"))


@pytest.fixture(scope="session")
def browser():
    yield from start_browser()


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
