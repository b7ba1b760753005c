"""From a hub id to a folder on disk, through huggingface_hub and its cache.

The environment is huggingface_hub's own: HF_HOME (the cache), HF_ENDPOINT (a mirror), HF_TOKEN,
HF_HUB_OFFLINE. Only *.json and *.safetensors are asked for, by name, so neither pickles nor the other
formats of a repository are ever downloaded.
"""

import contextlib
import json
import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import CheckpointError, first_line

OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.json")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")  # no folder, no "..", no drive, no NUL
WAY_OUT = (
    "tinymem reads safetensors only, because unpickling weights runs code; use a revision that has "
    "them, or convert once where you trust the file: transformers' from_pretrained, then save_pretrained"
)


def shard_names(index: Path) -> dict[str, str]:
    """`weight_map` of an index file, tensor name -> shard, every shard a plain file name.

    Raises CheckpointError. The check is on the text: files in the hub's cache are links to elsewhere.
    """
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = list(names.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: not a safetensors index ({error!r}); download it again"
        ) from error
    for tensor, shard in pairs:
        if not isinstance(shard, str) or not PLAIN_NAME.fullmatch(shard):
            raise CheckpointError(
                f"{index}: weight_map sends {tensor!r} to {shard!r}, which is not a plain "
                "*.safetensors name in this folder; do not trust this checkpoint"
            )
    return names


def download(repo: str, revision: str | None = None) -> Path:
    """The local folder of a hub repository's checkpoint; fetches what the cache lacks.

    Raises CheckpointError: unknown or gated repository, unknown revision, no safetensors, no network.
    """
    # Imported here: a local folder needs none of it, and it takes half a second.
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.utils import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    problem = (
        ""  # why the hub gives nothing, once that is known; from then on only the cache counts
    )

    def get(name: str, version: str | None) -> Path | None:
        nonlocal problem
        cached = None  # a path; or None, nothing is known; or a mark that the repository has no such file
        try:
            cached = try_to_load_from_cache(repo, name, revision=version)
            if not problem and (cached is None or not COMMIT.fullmatch(version or "")):
                # One short question first. It fails within HF_HUB_ETAG_TIMEOUT (10 s), where hf_hub_download
                # tries a silent hub for minutes. An absent file still goes on: the cache shall note it.
                with contextlib.suppress(EntryNotFoundError):
                    get_hf_file_metadata(hf_hub_url(repo, name, revision=version))
                return Path(hf_hub_download(repo, name, revision=version))
        except (
            LocalEntryNotFoundError
        ) as error:  # the hub failed between the question and the download
            problem = explain(error.__cause__ or error)
        except EntryNotFoundError:
            return None
        except RevisionNotFoundError as error:
            cached, problem = None, explain(error)
        except Exception as error:  # of the network or the disk; the classes vary by version
            problem = explain(error)
        return Path(cached) if isinstance(cached, str) else None

    def lack(name: str, meaning: str) -> CheckpointError:
        at = repr(repo) + (f" (revision {revision!r})" if revision else "")
        return CheckpointError(
            f"{at}: " + (f"cannot get {name}: {problem}" if problem else meaning)
        )

    with quiet():
        config = get("config.json", revision)
        if config is None:
            raise lack(
                "config.json", "the repository has no config.json; it is not a model checkpoint"
            )
        commit = config.parent.name  # the cache names a snapshot's folder after its commit
        if get("tokenizer.json", commit) is None:
            raise lack("tokenizer.json", "the repository has no tokenizer.json; tinymem needs one")
        for name in (
            OPTIONAL
        ):  # offline too, what is not there is left out; the weights come last and decide
            get(name, commit)
        if get(WEIGHTS, commit) is None:
            index = get(INDEX, commit)
            if index is None:
                raise lack(WEIGHTS, f"no {WEIGHTS} and no {INDEX}. {WAY_OUT}")
            for shard in sorted(set(shard_names(index).values())):
                if get(shard, commit) is None:
                    raise lack(shard, f"the index names {shard}, which the repository lacks")
    return config.parent


def explain(error: BaseException) -> str:
    """What went wrong between here and the hub, and what to do: one line, and never the token."""
    from huggingface_hub.constants import ENDPOINT

    host = urlsplit(ENDPOINT).netloc.rpartition("@")[2]  # a mirror's password stays out
    code = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__  # by name: the classes' homes differ by version, their names do not
    token = (
        "set HF_TOKEN if you may read it" if code == 401 else "see that your HF_TOKEN may read it"
    )
    known = {
        "HFValidationError": "this is neither a folder on this machine nor a hub id (gpt2, org/name)",
        "OfflineModeIsEnabled": "not in the cache, and HF_HUB_OFFLINE is set; unset it, or use --model tiny",
        "RevisionNotFoundError": "no such revision; leave --revision out for the newest",
        "GatedRepoError": f"{host} answered {code}, gated; accept the terms on its page there, then {token}",
        "RepositoryNotFoundError": f"{host} answered {code}, unknown or private; check the name, or {token}",
        "FileMetadataError": f"{host} does not answer like a hub (a login page?); check HF_ENDPOINT",
    }
    if kind in known:
        return known[kind]
    if code is not None:
        what = {401: "renew HF_TOKEN, or unset it", 403: token, 404: "check HF_ENDPOINT"}
        return f"{host} answered {code}; {what.get(code, 'try again later')}"
    if "Bearer " in str(error) or kind == "UnicodeEncodeError":  # the text may show the token
        return "HF_TOKEN holds a character that cannot be sent; copy it again"
    detail = f"({kind}: {first_line(error)})"
    if (
        isinstance(error, OSError)
        and error.errno
        and not isinstance(error, (ConnectionError, TimeoutError))
    ):
        return f"the cache cannot be used {detail}; make room, or name another place in HF_HOME"
    return (
        f"{host} does not deliver {detail}; check the network and run it again, or use --model tiny"
    )


@contextlib.contextmanager
def quiet():
    """Keep huggingface_hub's remarks (retries, "not logged in") off the screen; its progress bars stay."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(
        logging.ERROR if level == logging.WARNING else level
    )  # HF_HUB_VERBOSITY has its way
    try:
        yield
    finally:
        log.setLevel(level)
