"""Downloads a checkpoint from the Hugging Face hub, through huggingface_hub and its cache.

The environment variables are huggingface_hub's own: HF_HOME (the cache), HF_ENDPOINT (a mirror),
HF_TOKEN, HF_HUB_OFFLINE. Files are requested by name, and only *.json and *.safetensors, so neither
pickles nor the other formats of a repository are ever downloaded.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import CheckpointError, first_line
from .fields import read_json

OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")  # no folder, no "..", no drive, no NUL
SAFETENSORS_ONLY = (
    "tinymem reads safetensors only, because unpickling weights runs code; use a revision that has "
    "them, or convert the checkpoint once on a machine where you trust the file: transformers' "
    "from_pretrained, then save_pretrained"
)


def shard_names(index: Path) -> dict[str, str]:
    """The `weight_map` of an index file: tensor name -> shard, every shard a plain file name.

    Raises CheckpointError. Only the text of a name is checked, because files in the hub's cache are
    links into another folder.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index}: not a safetensors index; download it again")
    for tensor, shard in names.items():
        if not isinstance(shard, str) or not PLAIN_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{index}: weight_map sends {tensor!r} to {shard!r}, which is not a plain "
                "*.safetensors name in this folder; do not trust this checkpoint"
            )
    return names


def download(repo: str, revision: str | None = None) -> Path:
    """The local folder of a hub repository's checkpoint; downloads what the cache does not have.

    Raises CheckpointError for an unknown or gated repository, an unknown revision, a repository
    without safetensors, and a failing network.
    """
    files = HubFiles(repo, revision)
    with quiet_hub():
        config = files.require("config.json")
        files.version = config.parent.name  # the cache names a snapshot's folder after its commit
        files.require("tokenizer.json")
        for name in OPTIONAL:
            files.get(name)
        if files.get(WEIGHTS) is None:
            index = files.get(INDEX)
            if index is None:
                raise files.absent(WEIGHTS, f" and no {INDEX}. {SAFETENSORS_ONLY}")
            for shard in sorted(set(shard_names(index).values())):
                files.require(shard, ", which the index names; the checkpoint is incomplete")
    return config.parent


class HubFiles:
    """The files of one repository, from the hub; after the hub's first failure from the cache only.

    version: what is requested, which is the revision, and its commit once that is known.
    problem: why the hub failed; empty as long as it has not.
    """

    def __init__(self, repo: str, revision: str | None):
        self.repo, self.revision = repo, revision
        self.version, self.problem = revision, ""

    def get(self, name: str) -> Path | None:
        """A file's path in the cache, after downloading it if necessary; None if there is none."""
        # Imported here, because a local folder needs none of it and the import takes half a second.
        import huggingface_hub as hub
        from huggingface_hub import constants, utils

        cached: object = None  # a path, a mark that the repository has no such file, or None
        try:
            cached = hub.try_to_load_from_cache(self.repo, name, revision=self.version)
            if not self.problem and (cached is None or not COMMIT.fullmatch(self.version or "")):
                # The metadata come first: that request fails within HF_HUB_ETAG_TIMEOUT (10 s),
                # while hf_hub_download tries a silent hub for minutes. An absent file goes on to
                # the download nevertheless, which notes in the cache that it is absent.
                url = hub.hf_hub_url(self.repo, name, revision=self.version)
                with contextlib.suppress(utils.EntryNotFoundError):
                    hub.get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
                return Path(hub.hf_hub_download(self.repo, name, revision=self.version))
        except utils.LocalEntryNotFoundError as error:  # the hub failed after the first request
            self.problem = explain(error.__cause__ or error)
        except utils.EntryNotFoundError:
            return None
        except utils.RevisionNotFoundError as error:
            cached, self.problem = None, explain(error)
        except Exception as error:  # of the network or the disk; the classes vary by version
            self.problem = explain(error)
        return Path(cached) if isinstance(cached, str) else None

    def require(self, name: str, advice: str = "; is it a model checkpoint?") -> Path:
        """As `get`, but raises CheckpointError if there is no such file."""
        path = self.get(name)
        if path is None:
            raise self.absent(name, advice)
        return path

    def absent(self, name: str, advice: str) -> CheckpointError:
        """An error that says why there is no file: the hub failed, or the repository has none."""
        revision = f" (revision {self.revision!r})" if self.revision else ""
        reason = f"cannot get {name}: {self.problem}"
        if not self.problem:
            reason = f"the repository has no {name}{advice}"
        return CheckpointError(f"{self.repo!r}{revision}: {reason}")


def explain(error: BaseException) -> str:
    """In one line, why the hub or the cache failed and what to do. It never shows the token."""
    from huggingface_hub.constants import ENDPOINT

    host = urlsplit(ENDPOINT).netloc.rpartition("@")[2]  # without the password of a mirror
    code = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__  # the modules of these classes differ by version, the names do not
    no_token = code == 401
    token = f"{'set HF_TOKEN if you' if no_token else 'check that your HF_TOKEN'} may read it"
    known = {
        "HFValidationError": "neither a folder on this machine nor a hub id (gpt2, org/name)",
        "OfflineModeIsEnabled": "not in the cache, and HF_HUB_OFFLINE is set; unset it, or use "
        "--model tiny",
        "RevisionNotFoundError": "no such revision; leave --revision out for the newest",
        "GatedRepoError": f"{host} answered {code}, gated; accept the terms on its page there, "
        f"then {token}",
        "RepositoryNotFoundError": f"{host} answered {code}, unknown or private; check the name, "
        f"or {token}",
        "FileMetadataError": f"{host} does not answer as a hub does (is it a login page?); check "
        "HF_ENDPOINT",
    }
    if kind in known:
        return known[kind]
    if code is not None:
        advice = {401: "renew HF_TOKEN, or unset it", 403: token, 404: "check HF_ENDPOINT"}
        return f"{host} answered {code}; {advice.get(code, 'try again later')}"
    if "Bearer " in str(error) or kind == "UnicodeEncodeError":  # the text may show the token
        return "HF_TOKEN holds a character that cannot be sent; copy it again"
    detail = f"({kind}: {first_line(error)})"
    on_network = isinstance(error, (ConnectionError, TimeoutError))
    if isinstance(error, OSError) and error.errno and not on_network:
        return (
            f"the cache cannot be used {detail}; free some space, or set HF_HOME to another folder"
        )
    return (
        f"the download from {host} failed {detail}; check the network and run the command again, "
        "or use --model tiny"
    )


@contextlib.contextmanager
def quiet_hub() -> Iterator[None]:
    """Hides huggingface_hub's warnings (retries, "not logged in"); its progress bars stay.

    A level that the user has set with HF_HUB_VERBOSITY is left as it is.
    """
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    if level == logging.WARNING:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
