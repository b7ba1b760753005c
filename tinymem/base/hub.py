"""Downloads a checkpoint from the Hugging Face hub, through huggingface_hub and its cache.

The environment variables are huggingface_hub's own: HF_HOME (the cache), HF_ENDPOINT (a mirror),
HF_TOKEN, HF_HUB_OFFLINE. Files are requested by name (config, tokenizer, safetensors), so neither
pickles nor the other formats of a repository are ever downloaded.
"""

import contextlib
import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import CheckpointError, first_line
from .folder import GENERATION, OLDER_TOKENIZER, TOKENIZER, TOKENIZER_SETTINGS, limit, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_CONFIG, UNIT = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "unit.safetensors",
)
COMMIT, SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
PLAIN_ETAG = re.compile(r"[\w+=-][\w.+=-]{0,199}")
PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")  # no folder, no "..", no drive, no NUL
SAFETENSORS_ONLY = (
    "tinymem reads safetensors only, because unpickling weights runs code; use a revision that has "
    "them, or convert a file that you trust with transformers: from_pretrained, save_pretrained"
)
ADVICE: dict[object, str] = {  # class of an error, or status of an answer -> what to do
    "HFValidationError": "neither a folder on this machine nor a hub id (gpt2, org/name)",
    "RevisionNotFoundError": "no such revision; leave --revision out for the newest",
    "OfflineModeIsEnabled": "not in the cache, and HF_HUB_OFFLINE is set; unset it, or use tiny",
    "GatedRepoError": "{answer}, gated; accept the terms there, then {token}",
    "RepositoryNotFoundError": "{answer}, unknown or private; check the name, or {token}",
    "FileMetadataError": "{host} does not answer as a hub does (a login page?); check HF_ENDPOINT",
    401: "{answer}; renew HF_TOKEN, or unset it",
    403: "{answer}; {token}",
    404: "{answer}; check HF_ENDPOINT",
}


def shard_names(folder: Path) -> dict[str, str]:
    """The `weight_map` of a folder's index: tensor name -> shard, every shard a plain file name.

    Raises CheckpointError.
    """
    index, names = folder / INDEX, read_json(folder, INDEX).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index}: not a safetensors index; download it again")
    for tensor, shard in names.items():
        if not isinstance(shard, str) or not PLAIN_NAME.fullmatch(shard):
            problem = f"weight_map sends {tensor!r:.100} to {shard!r:.100}"
            advice = "not a plain *.safetensors name; do not trust this checkpoint"
            raise CheckpointError(f"{index}: {problem}, {advice}")
    return names


class Absent(LookupError):
    """A repository, or the cache, does not have a file of this name."""


def download(repo: str, revision: str | None = None, adapter: bool = False) -> Path:
    """The local folder of a hub repository's checkpoint; downloads what the cache does not have.

    If the hub fails, it is the folder in the cache, if that is complete.
    adapter: of an adapter of peft's, or a unit, instead of a checkpoint.
    Raises CheckpointError for an unknown or gated repository, an unknown revision, a repository
    without safetensors, and a failing network.
    """
    from huggingface_hub.utils import logging

    gather = collect_adapter if adapter else collect
    # Hide warnings (retries, "not logged in"), unless HF_HUB_VERBOSITY has set another level.
    level = logging.get_verbosity()
    if level == logging.WARNING:
        logging.set_verbosity_error()
    try:
        return gather(repo, revision)
    except CheckpointError:
        raise
    except Absent as absent:
        reason = f"the repository has no {absent}"
        other = {WEIGHTS: INDEX, ADAPTER: UNIT}.get(str(absent))
        kind = "an adapter" if adapter else "a checkpoint"
        reason += f" and no {other}. {SAFETENSORS_ONLY}" if other else f"; is it {kind}?"
    except Exception as error:  # of the network or the disk; the classes vary by version
        reason = explain(error)
        # The cache is no help against a wrong name, and must not stand for a branch that is gone.
        if type(error).__name__ not in ("HFValidationError", "RevisionNotFoundError"):
            try:
                return gather(repo, revision, offline=True)
            except Absent as absent:
                reason = f"cannot get {absent}: {reason}"
            except OSError:
                pass  # the cache cannot be read, as the reason says already
    finally:
        logging.set_verbosity(level)
    version = f" (revision {revision!r})" if revision else ""
    raise CheckpointError(f"{repo!r}{version}: {reason}")


def collect(repo: str, revision: str | None, offline: bool = False) -> Path:
    """The folder of a checkpoint whose files are all there, from the hub or only from the cache."""
    folder = find(repo, revision, offline, "config.json").parent
    commit = folder.name  # the cache names a snapshot's folder after its commit
    vocabulary, merges = OLDER_TOKENIZER
    if find(repo, commit, offline, TOKENIZER, vocabulary).name == vocabulary:
        find(repo, commit, offline, merges)
    for name in (*TOKENIZER_SETTINGS, GENERATION):
        with contextlib.suppress(Absent):
            find(repo, commit, offline, name)
    weights = find(repo, commit, offline, WEIGHTS, INDEX)
    if weights.name == INDEX:
        for shard in sorted(set(shard_names(folder).values())):
            find(repo, commit, offline, shard)
    return folder


def collect_adapter(repo: str, revision: str | None, offline: bool = False) -> Path:
    """The folder of an adapter or a unit whose files are all there, likewise."""
    weights = find(repo, revision, offline, ADAPTER, UNIT)
    if weights.name == ADAPTER:
        find(repo, weights.parent.name, offline, ADAPTER_CONFIG)
    return weights.parent


def find(repo: str, version: str | None, offline: bool, *names: str) -> Path:
    """The path in the cache of the first of these files that exists, downloaded if necessary.

    Raises Absent with the first name if there is none, and whatever huggingface_hub raises.
    """
    # Imported here, because a local folder needs none of it and the import takes half a second.
    import huggingface_hub as hub
    from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        # A path, a mark that the repository has no such file, or None.
        cached = hub.try_to_load_from_cache(repo, name, revision=version)
        if offline or (cached is not None and COMMIT.fullmatch(version or "")):
            if isinstance(cached, str):
                return Path(cached)
            continue
        # The metadata come first: that request fails within HF_HUB_ETAG_TIMEOUT (10 s), while
        # hf_hub_download tries a silent hub for minutes. An absent file goes on to the download
        # nevertheless, which notes in the cache that it is absent.
        try:
            etag = None
            with contextlib.suppress(EntryNotFoundError):
                url = hub.hf_hub_url(repo, name, revision=version)  # 0.x needs the timeout said
                offer = hub.get_hf_file_metadata(url, timeout=HF_HUB_ETAG_TIMEOUT)
                check_offer(f"{repo!r}: {name}", name, offer.etag, offer.size)
                etag = offer.etag
            path = Path(hub.hf_hub_download(repo, name, revision=version))
            check_download(path, etag)
            return path
        except LocalEntryNotFoundError as error:  # the hub failed after the first request
            raise (error.__cause__ or error) from None
        except EntryNotFoundError:
            continue
    raise Absent(names[0])


def check_offer(where: str, name: str, etag: str | None, size: int | None) -> None:
    """Raise CheckpointError for what a hub does not send, before anything is downloaded.

    huggingface_hub names the file in the cache after the etag, even if that leads out of the cache.
    """
    if etag is not None and not PLAIN_ETAG.fullmatch(etag):
        raise CheckpointError(f"{where}: the etag is {etag!r:.80}, not a name; check HF_ENDPOINT")
    if size and size > limit(name):
        too_large = f"{size:,} bytes, more than {limit(name):,}"
        raise CheckpointError(f"{where}: {too_large}; no known checkpoint has such a file")


def check_download(path: Path, etag: str | None) -> None:
    """Compare a new file with the SHA-256 that the hub sent as its etag, as it does for large ones.

    Raises CheckpointError if they differ, and deletes the file, so it is never taken for whole.
    """
    if not SHA256.fullmatch(etag or ""):
        return
    digest, blob = hashlib.sha256(), path.resolve()
    try:
        with blob.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except BaseException:  # also Ctrl-C: without this link, the next call compares the file
        path.unlink()
        raise
    if digest.hexdigest() != etag:
        for damaged in (path, blob):
            with contextlib.suppress(OSError):
                damaged.unlink()
        problem = "the SHA-256 of its bytes is not the one that the hub states"
        advice = f"delete {blob} if it is still there" if blob.exists() else "it has been deleted"
        raise CheckpointError(f"{path}: {problem}; {advice}, run the command again")


def explain(error: BaseException) -> str:
    """In one line, why the hub or the cache failed and what to do. It never shows the token."""
    from huggingface_hub.constants import ENDPOINT

    code = getattr(getattr(error, "response", None), "status_code", None)
    kind, detail = type(error).__name__, first_line(error)
    if kind in ADVICE or code is not None:
        advice = ADVICE.get(kind) or ADVICE.get(code, "{answer}; try again later")
    elif "Bearer " in str(error) or kind == "UnicodeEncodeError":  # the text may show the token
        advice = "HF_TOKEN holds a character that cannot be sent; copy it again"
    elif isinstance(error, ConnectionError | TimeoutError) or not getattr(error, "errno", None):
        advice = "{host} failed ({kind}: {detail}); check the network and run the command again"
    else:
        advice = "the cache cannot be used ({kind}: {detail}); free some space, or set HF_HOME"
    host = urlsplit(ENDPOINT).netloc.rpartition("@")[2]  # without the password of a mirror
    token, answer = "set HF_TOKEN to a token that may read it", f"{host} answered {code}"
    return advice.format(host=host, answer=answer, token=token, kind=kind, detail=detail)
