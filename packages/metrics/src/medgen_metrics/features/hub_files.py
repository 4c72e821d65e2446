"""Files and folders of Hugging Face repositories that are already on this machine; nothing is downloaded."""

import re
from itertools import pairwise
from pathlib import Path

from medgen_metrics.features.protocol import MissingWeightsError

_FILE = re.compile(r"hf:(?P<repo>[^/@#]+/[^/@#]+)/(?P<file>[^@#]+)(@(?P<revision>[^#]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_file(name: str) -> bool:
    """Tell whether a name asks for a file of the local cache: hf:OWNER/REPO/FILE[@REVISION]."""
    return name.startswith("hf:")


def cached_hub_file(name: str) -> Path | None:
    """Find hf:OWNER/REPO/FILE[@REVISION] in the local cache; None if it is not there.

    Raises:
        ValueError: If the name has another form.
        MissingWeightsError: If huggingface_hub is not installed.
    """
    parts = _FILE.fullmatch(name)
    if parts is None:
        raise ValueError(f"expected hf:OWNER/REPO/FILE or hf:OWNER/REPO/FILE@REVISION, got {name!r}")
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError as error:
        raise MissingWeightsError(
            f"{name}: reading the Hugging Face cache needs huggingface_hub; install medgen-metrics[hf] or "
            "give the path of the file"
        ) from error
    found = try_to_load_from_cache(parts["repo"], parts["file"], revision=parts["revision"])
    return Path(found) if isinstance(found, str) else None


def commit_of_snapshot(path: Path) -> str | None:
    """Return the commit in a path of the local cache, .../snapshots/COMMIT/...; None elsewhere."""
    for parent, name in pairwise(path.parts):
        if parent == "snapshots" and _COMMIT.fullmatch(name):
            return name
    return None


def cached_hub_folder(repo: str, revision: str | None) -> Path | None:
    """Find the snapshot of a model repository in the local cache; None if it is not there.

    Raises:
        MissingWeightsError: If huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise MissingWeightsError(
            f"{repo}: reading the Hugging Face cache needs huggingface_hub; install medgen-metrics[hf] or "
            "give the path of a folder"
        ) from error
    try:
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None
