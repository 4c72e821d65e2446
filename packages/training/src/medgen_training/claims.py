"""Whose training a folder holds: written down at the start, compared whenever it goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from medgen_data.atomic import write_json_atomic
from pydantic import BaseModel
from torch import Tensor

from medgen_training.cache import PromptTable, content_sha256
from medgen_training.checkpoints import CheckpointError, check_identity

CLAIM_FILE = "training.json"


def training_identity(
    config: BaseModel, images: Tensor, prompts: PromptTable, *, seed: int
) -> dict[str, Any]:
    """Return what makes two trainings the same: settings, seed, pixels and texts."""
    described: tuple[object, ...] = (prompts.prompts, prompts.rows_of_image)
    if prompts.paraphrase_rows_of_image:
        described += (prompts.paraphrase_rows_of_image, prompts.paraphrase_probability)
    text = repr(described).encode()
    return {
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "images": content_sha256(images),
        "prompts": content_sha256(torch.frombuffer(bytearray(text), dtype=torch.uint8)),
    }


def claim_folder(train_dir: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
    """Write down what this folder trains, or check that it is the same training.

    Raises:
        CheckpointError: If it holds another training, or any training without `resume`.
    """
    claim_file = train_dir / CLAIM_FILE
    if not claim_file.is_file():
        write_json_atomic(claim_file, dict(identity))
        return
    if not resume:
        raise CheckpointError(f"{train_dir} already holds a training; add --resume, or choose another folder")
    check_identity(json.loads(claim_file.read_text(encoding="utf-8")), identity, str(train_dir))
