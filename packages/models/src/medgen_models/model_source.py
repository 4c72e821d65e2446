"""Where pretrained weights come from: a hub name or a local folder, read part by part.

Only safetensors are read, no code from a repository is run, and a part that is not needed is not loaded.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoTokenizer

from medgen_models.errors import MissingModelError, UnusableModelError

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class ModelSource:
    """A diffusers pipeline by hub name or local folder.

    Attributes:
        name_or_dir: Hub name such as `stable-diffusion-v1-5/stable-diffusion-v1-5`, or a folder.
        revision: Branch, tag or commit of the hub repository; None: its main branch.
        dtype: Of the weights once they are loaded.
    """

    name_or_dir: str
    revision: str | None = None
    dtype: torch.dtype = torch.float32

    @property
    def is_local(self) -> bool:
        """Whether this is a folder of this machine."""
        return Path(self.name_or_dir).is_dir()

    def pipeline_class(self) -> str:
        """Return the name of the pipeline class in `model_index.json`."""
        return str(self.index().get("_class_name"))

    def index(self) -> dict[str, Any]:
        """Return the content of `model_index.json`."""
        return self.json_file("model_index.json")

    def json_file(self, file_name: str) -> dict[str, Any]:
        """Return the content of a JSON file of the repository, e.g. `scheduler/scheduler_config.json`.

        Raises:
            MissingModelError: If it is not to be had.
            UnusableModelError: If it is no JSON object.
        """
        path = self._local_file(file_name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise UnusableModelError(
                f"{path}: not a JSON file ({error}); copy it from the source again"
            ) from error
        if not isinstance(content, dict):
            raise UnusableModelError(f"{path}: expected a JSON object, got {type(content).__name__}")
        return content

    def module(self, module_class: Any, part: str) -> Any:
        """Load a network from its subfolder: safetensors only, frozen, in eval mode.

        Args:
            module_class: Class of diffusers or transformers.
            part: Subfolder, e.g. `unet`.

        Raises:
            MissingModelError: If the part is not to be had.
            UnusableModelError: If its weights are pickled.
        """
        self._refuse_pickles(part)
        try:
            module = module_class.from_pretrained(
                self.name_or_dir,
                subfolder=part,
                revision=self.revision,
                use_safetensors=True,
                dtype=self.dtype,
            )
        except (OSError, HfHubHTTPError) as error:
            raise MissingModelError(self._missing(f"part {part!r}", error)) from error
        return module.requires_grad_(False).eval()

    def tokenizer(self, part: str) -> Any:
        """Load a tokenizer from its subfolder.

        Raises:
            MissingModelError: If it is not to be had.
        """
        try:
            return AutoTokenizer.from_pretrained(
                self.name_or_dir, subfolder=part, revision=self.revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise MissingModelError(self._missing(f"tokenizer {part!r}", error)) from error

    def _local_file(self, file_name: str) -> Path:
        if self.is_local:
            path = Path(self.name_or_dir) / file_name
            if not path.is_file():
                raise MissingModelError(
                    f"{path}: no such file; expected the folder of a diffusers pipeline, with model_index.json"
                )
            return path
        if Path(self.name_or_dir).is_absolute() or self.name_or_dir.count("/") != 1:
            raise MissingModelError(
                f"{self.name_or_dir}: no such folder, and no hub name, which looks like owner/name"
            )
        try:
            return Path(hf_hub_download(self.name_or_dir, file_name, revision=self.revision))
        except (OSError, HfHubHTTPError) as error:
            raise MissingModelError(self._missing(file_name, error)) from error

    def _refuse_pickles(self, part: str) -> None:
        folder = Path(self.name_or_dir) / part
        if not folder.is_dir():
            return
        files = [file.name for file in folder.iterdir()]
        pickled = sorted(name for name in files if name.endswith(_PICKLES))
        if pickled and not any(name.endswith(".safetensors") for name in files):
            raise UnusableModelError(
                f"{folder / pickled[0]}: pickled weights may run code and are not read; load them once where you "
                "trust them and call save_pretrained(..., safe_serialization=True)"
            )

    def _missing(self, what: str, error: Exception) -> str:
        if self.is_local:
            return f"{self.name_or_dir}: {what} cannot be read here: {_first_line(error)}"
        if isinstance(error, GatedRepoError):
            return (
                f"{self.name_or_dir}: the model is gated; accept its licence on its page and log in with "
                "`hf auth login`, or give a local folder"
            )
        reason = (
            "it is not in the local cache and the network is not to be had or switched off"
            if isinstance(error, LocalEntryNotFoundError)
            else _first_line(error)
        )
        return (
            f"{self.name_or_dir}: {what} not found: {reason}; allow the download once, or give a local folder"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
