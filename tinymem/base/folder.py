"""Opens the files of a checkpoint's folder, which comes from strangers.

A file is opened only after `checked`: it is a regular file (a device may be endless, a pipe may
block), a symbolic link to it does not leave the folder, and it is not larger than its limit.
"""

import contextlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_line

# In bytes. The largest files known: 35 MB (tokenizer.json), 12 MB (tokenizer_config.json), 9 MB (an
# index). Python's json needs up to 30 times the size of its text.
LIMIT, VOCABULARY_LIMIT = 32_000_000, 100_000_000
TOKENIZER, OLDER_TOKENIZER = "tokenizer.json", ("vocab.json", "merges.txt")  # one or the other
TOKENIZER_SETTINGS = (  # each optional; a download has these files
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "chat_template.jinja"),
)
GENERATION = "generation_config.json"  # optional; read for the ids that end a text alone


def present(folder: Path, name: str) -> bool:
    """Whether there is such an entry; also a link to nothing, which `checked` then refuses."""
    return os.path.lexists(folder / name)


def checked(folder: Path, name: str) -> Path:
    """The path of a file in a checkpoint's folder, which may be opened.

    name: of the file, or a path below the folder. The folder itself may be a link.
    Raises CheckpointError if there is no such file, if it is not a regular file, if a symbolic link
    leads out of the folder (but not into the blobs of the hub's cache), and if it is too large.
    Only the files that are shipped with the package may be links to any place.
    """
    path = folder / name
    if not present(folder, name):
        raise CheckpointError(f"{folder}: no {name}; it is no checkpoint, or an incomplete one")
    try:
        home, target = folder.resolve(strict=True), path.resolve(strict=True)
        about = target.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        problem = f"cannot be read ({first_line(error)}); download it again"
        raise CheckpointError(f"{path}: {problem}") from error
    shipped = folder.is_relative_to(Path(__file__).parents[1])  # installers may link each file
    if not (target.is_relative_to(home) or is_blob(target) or shipped):
        problem = f"a link out of the folder, to {target}; replace it by a copy if you trust it"
        raise CheckpointError(f"{path}: {problem}")
    if not stat.S_ISREG(about.st_mode):
        raise CheckpointError(f"{path}: not a regular file; do not trust this checkpoint")
    if about.st_size > limit(name):
        size = f"{about.st_size:,} bytes, more than {limit(name):,}"
        raise CheckpointError(f"{path}: {size}; no known checkpoint has such a file")
    if about.st_size < 1000 and begins_as_pointer(target):
        raise CheckpointError(f"{path}: a git-lfs pointer, not the file; run git lfs pull")
    return path


def begins_as_pointer(target: Path) -> bool:
    """Whether this is what git leaves in place of a large file when git-lfs is not installed."""
    with contextlib.suppress(OSError), target.open("rb") as file:
        return file.read(24) == b"version https://git-lfs."
    return False


def limit(name: str) -> int:
    """The largest size in bytes of a file of this name; weights may have any size."""
    if name.endswith(".safetensors"):
        return sys.maxsize
    return VOCABULARY_LIMIT if name in (TOKENIZER, *OLDER_TOKENIZER) else LIMIT


def is_blob(target: Path) -> bool:
    """Whether this is a file in the hub's cache.

    A repository's files are in <repository>/blobs, beside snapshots/; with huggingface_hub 2 they
    may be links into <cache>/blobs/<two digits>, which all repositories share.
    """
    blobs = target.parent
    own = blobs.name == "blobs" and (blobs.parent / "snapshots").is_dir()
    return own or (blobs.parent / ".huggingface-shared-blobs").is_file()


def read_text(folder: Path, name: str) -> str:
    """The text of a UTF-8 file in a checkpoint's folder. Raises CheckpointError."""
    path = checked(folder, name)
    try:
        with path.open("rb") as file:
            return file.read(limit(name)).decode("utf-8-sig")  # also if the file grows
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as UTF-8 ({first_line(error)})") from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint's folder. Raises CheckpointError."""
    text, path = read_text(folder, name), folder / name
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value
