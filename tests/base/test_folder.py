"""The files of a folder from strangers: links, devices and sizes.

Property: nothing outside the folder is opened, and nothing that is not a regular file; links within
the folder, links into the blobs of the hub's cache and a folder that is a link itself still work.
"""

import os
import socket
from pathlib import Path

import pytest

from tests.base.test_weights import shard
from tests.checkpoints import INDEX, WEIGHTS, refused, same_weights
from tinymem.base import folder as module
from tinymem.base.checkpoint import load
from tinymem.base.folder import checked
from tinymem.errors import CheckpointError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
OUTSIDE = ["config.json", "tokenizer.json", WEIGHTS]
EXTRA = ["chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"]


def move_and_link(path: Path, target: Path) -> None:
    """Move a file (or make one where there is none) and leave a symbolic link to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target) if path.exists() else target.write_text("{}")
    path.symlink_to(target)


@pytest.mark.parametrize("name", OUTSIDE + EXTRA)
def test_links_out_of_the_folder(name, folder, tmp_path):
    move_and_link(folder / name, tmp_path / "elsewhere" / name)
    refused(folder, name, "link out of the folder")


def test_a_folder_of_blobs_is_not_the_hubs_cache(folder, tmp_path):
    for place in (tmp_path / "blobs", tmp_path / "hub" / "blobs" / "ab"):
        move_and_link(folder / "config.json", place / "config")
        refused(folder, "config.json", "link out of the folder")
        (folder / "config.json").unlink()


def test_links_of_an_index_and_a_shard(folder, tmp_path):
    first, _ = shard(folder)
    for name in (first, INDEX):  # the index is read first
        move_and_link(folder / name, tmp_path / "elsewhere" / name)
        refused(folder, name, "link out of the folder")


def test_links_through_a_folder_and_through_links(folder, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "notes.jinja").write_text("not part of this checkpoint")
    (folder / "templates").symlink_to(tmp_path / "secret")
    for name in ("templates/notes.jinja", "../secret/notes.jinja", "a"):
        (folder / "a").unlink(missing_ok=True)
        (folder / "a").symlink_to("templates/notes.jinja")
        with pytest.raises(CheckpointError, match="link out of the folder"):
            checked(folder, name)


@pytest.mark.parametrize(
    "target", ["absent", "config.json", "/dev/zero", "/dev/stdin", "/proc/self/mem"]
)
def test_links_to_nothing_and_to_devices(target, folder):
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(target)  # config.json: a link to itself
    refused(folder, "config.json")


def test_what_is_no_regular_file(folder, monkeypatch):
    name = "chat_template.jinja"
    monkeypatch.chdir(folder)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        refused(folder, name, "not a regular file")
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, name, "not a regular file")
    (folder / name).rmdir()
    os.mkfifo(folder / name)  # the last, because to open it would wait for ever
    refused(folder, name, "not a regular file")


def test_links_that_are_allowed(folder, tmp_path):
    clean, _ = load(folder, device="cpu")
    move_and_link(folder / "config.json", folder / "sub" / "settings")
    (tmp_path / "link").symlink_to(folder)  # the user's own link to the folder
    assert same_weights(load(tmp_path / "link", device="cpu")[0], clean)
    # As huggingface_hub lays out its cache, whose place may be a link as well.
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    (folder / "config.json").unlink()
    (folder / "sub" / "settings").rename(folder / "config.json")
    (folder / "sub").rmdir()
    folder.rename(snapshot)
    for path in list(snapshot.iterdir()):
        move_and_link(path, snapshot.parents[1] / "blobs" / path.name)
        path.unlink()
        path.symlink_to(f"../../blobs/{path.name}")
    (tmp_path / "HF_HOME").symlink_to(tmp_path / "hub")
    moved = tmp_path / "HF_HOME" / snapshot.relative_to(tmp_path / "hub")
    assert same_weights(load(moved, device="cpu")[0], clean)
    assert same_weights(load(snapshot, device="cpu")[0], clean)
    # As huggingface_hub 2 may lay it out: repositories share their blobs.
    shared = tmp_path / "hub" / "blobs" / "ab" / ("ab" * 32)
    move_and_link(snapshot.parents[1] / "blobs" / WEIGHTS, shared)
    refused(snapshot, WEIGHTS, "link out of the folder")  # any folder may be called blobs
    (shared.parents[1] / ".huggingface-shared-blobs").write_text("1")
    assert same_weights(load(snapshot, device="cpu")[0], clean)


@pytest.mark.parametrize("name", [*OUTSIDE[:2], *EXTRA])
def test_sizes_are_checked_before_reading(name, folder):
    with (folder / name).open("ab") as file:
        file.truncate(10**12)  # a hole, which takes no room on the disk
    refused(folder, name, "1,000,000,000,000 bytes")


def test_a_file_that_grows_is_not_read_without_end(folder, monkeypatch):
    (folder / "notes.txt").write_text("a" * 5000)
    monkeypatch.setattr(module, "checked", lambda folder, name: folder / name)  # it was small then
    monkeypatch.setattr(module, "LIMIT", 1000)
    assert module.read_text(folder, "notes.txt") == "a" * 1000


def test_an_installer_may_link_the_files_of_the_package(folder, tmp_path, monkeypatch):
    clean, _ = load(folder, device="cpu")
    move_and_link(folder / WEIGHTS, tmp_path / "elsewhere" / WEIGHTS)
    monkeypatch.setattr(module, "__file__", str(folder.parent / "base" / "folder.py"))
    assert same_weights(load(folder, device="cpu")[0], clean)
