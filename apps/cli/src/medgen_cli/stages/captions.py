"""Captions: one text per image, beside the data set."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from medgen_captioning import CaptionConfig, CaptionRun, caption_dataset
from medgen_captioning.describe import Access
from medgen_captioning.planning import CaptionPlan
from medgen_captioning.run import plan_dataset
from medgen_captioning.shards import part_of
from medgen_data.atomic import write_jsonl_atomic
from medgen_data.image_folder import ImageDataset

from medgen_cli.errors import UsageError
from medgen_cli.run_folder import lock_folder
from medgen_cli.settings import CaptionSettings


@dataclass(frozen=True)
class CaptionAccess:
    """What a run may do, which is no matter of a recipe.

    Attributes:
        cache_file: Where answers of models are kept; None: beside the captions.
        allow_egress: Hosts besides this machine that images may be sent to.
        device: Where a model of this process runs; None: where the recipe says.
        shard: (i, n), i from 0.
        local_rank: Which GPU of this machine a launcher meant for this process; None: no launcher.
    """

    cache_file: Path | None = None
    allow_egress: Collection[str] = ()
    device: str | None = None
    shard: tuple[int, int] = (0, 1)
    local_rank: int | None = None


def make_captions(
    dataset: ImageDataset,
    captions_file: Path,
    settings: CaptionSettings,
    *,
    seed: int,
    access: CaptionAccess = CaptionAccess(),
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption a data set; continues a captions file that an interrupted run left.

    Rows that could not be captioned are listed in `problems.jsonl` beside the captions.

    Raises:
        UsageError: If another process writes the same file.
    """
    config, shard = _config(settings), access.shard
    captions_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(captions_file.parent, f".{part_of(captions_file, shard).name}.lock"):
        done = caption_dataset(
            dataset,
            captions_file,
            config,
            seed=seed,
            shard=shard,
            access=_access(config, access),
            on_progress=on_progress,
        )
        if done.problems and not done.num_shards_missing:
            rows = [problem.model_dump(mode="json") for problem in done.problems]
            write_jsonl_atomic(captions_file.with_name("problems.jsonl"), rows)
    return done


def plan_captions(
    dataset: ImageDataset,
    captions_file: Path,
    settings: CaptionSettings,
    *,
    seed: int,
    access: CaptionAccess = CaptionAccess(),
) -> CaptionPlan:
    """Return what `make_captions` would do, without doing it."""
    config = _config(settings)
    return plan_dataset(
        dataset, captions_file, config, seed=seed, shard=access.shard, access=_access(config, access)
    )


def shard_of_process() -> tuple[tuple[int, int], int | None]:
    """Return the shard (i, n), i from 0, and the GPU number that a launcher gave this process.

    `accelerate launch` and `torchrun` set RANK, WORLD_SIZE and LOCAL_RANK; without them it is all of the work.

    Raises:
        UsageError: If they are no such numbers.
    """
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    local = os.environ.get("LOCAL_RANK", rank)
    if not all(text.isdecimal() for text in (rank, size, local)) or int(rank) >= int(size):
        raise UsageError(
            f"RANK={rank}, WORLD_SIZE={size}, LOCAL_RANK={local}: expected 0 <= RANK < WORLD_SIZE; "
            "or give --shard i/n"
        )
    return (int(rank), int(size)), int(local) if int(size) > 1 else None


def _config(settings: CaptionSettings) -> CaptionConfig:
    return CaptionConfig(**{name: getattr(settings, name) for name in CaptionConfig.model_fields})


def _access(config: CaptionConfig, access: CaptionAccess) -> Access:
    key = os.environ.get(config.server.api_key_env) if config.server is not None else None
    device, model = access.device, config.vision_language
    if device is None and model is not None and model.device == "auto" and access.local_rank is not None:
        import torch

        if torch.cuda.is_available():
            device = f"cuda:{access.local_rank % torch.cuda.device_count()}"
    return Access(access.cache_file, key or None, access.allow_egress, device)
