"""Which model it is: a hash of the files of a folder, or the commit of a hub repository.

Said without loading the model, so that a run whose answers are all in the cache needs none.
"""

import hashlib
from pathlib import Path

from medgen_data.fingerprint import file_sha256
from medgen_data.problems import DataError

from medgen_captioning.caption_cache import CaptionCache

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


class MissingModelError(DataError):
    """A model is not to be had here."""


class UnusableModelError(DataError):
    """A model cannot be used as it is."""


def model_identity(name_or_dir: str, revision: str | None, cache: CaptionCache) -> str:
    """Return a text that changes whenever the content of a model does.

    Args:
        name_or_dir: Hub name or folder.
        revision: Branch, tag or commit of the hub repository.
        cache: Remembers the hashes of large files by path, size and time.

    Raises:
        MissingModelError: If there is neither a folder nor a reachable or cached repository of this name.
        UnusableModelError: If a folder holds pickled weights only.
    """
    folder = Path(name_or_dir)
    if folder.is_dir():
        return f"folder {_folder_sha256(folder, cache)}"
    if folder.is_absolute() or name_or_dir.count("/") > 1:
        raise MissingModelError(
            f"{name_or_dir}: no such folder, and no hub name, which looks like owner/name"
        )
    return f"{name_or_dir} {_hub_commit(name_or_dir, revision)}"


def _folder_sha256(folder: Path, cache: CaptionCache) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not (folder / "config.json").is_file():
        raise MissingModelError(
            f"{folder}: expected the folder of a transformers model, with config.json; check the path"
        )
    if not any(file.suffix == ".safetensors" for file in files):
        pickled = next((file for file in files if file.suffix in _PICKLES), None)
        if pickled is not None:
            raise UnusableModelError(
                f"{pickled}: pickled weights may run code and are not read; load them once where you trust them "
                "and call save_pretrained(..., safe_serialization=True)"
            )
        raise MissingModelError(f"{folder}: no weights (*.safetensors); was the copy cut off?")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()} {_known_sha256(file, cache)}\n".encode())
    return digest.hexdigest()


def _known_sha256(file: Path, cache: CaptionCache) -> str:
    state = file.stat()
    path = str(file.resolve())
    known = cache.known_file_hash(path, state.st_size, state.st_mtime_ns)
    if known is None:
        known = file_sha256(file)
        cache.note_file_hash(path, state.st_size, state.st_mtime_ns, known)
    return known


def _hub_commit(name: str, revision: str | None) -> str:
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise DataError(
            f"a model of the hub needs its client ({error}); install medgen-captioning[local]"
        ) from error
    try:
        config_file = Path(hf_hub_download(name, "config.json", revision=revision))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingModelError(
            f"{name}: not found: {reason}; allow the download once (and accept the licence of a gated model), "
            "or give a local folder"
        ) from error
    # The hub client keeps files under snapshots/COMMIT, with and without a network.
    return config_file.parent.name
