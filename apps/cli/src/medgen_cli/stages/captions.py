"""Captions: one text per image, beside the data set."""

from collections.abc import Callable
from pathlib import Path

from medgen_captioning import CaptionConfig, CaptionRun, caption_dataset
from medgen_data.atomic import write_jsonl_atomic
from medgen_data.image_folder import ImageDataset

from medgen_cli.run_folder import lock_folder
from medgen_cli.settings import CaptionSettings


def make_captions(
    dataset: ImageDataset,
    captions_file: Path,
    settings: CaptionSettings,
    *,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> CaptionRun:
    """Caption a data set; continues a captions file that an interrupted run left.

    Rows that could not be captioned are listed in `problems.jsonl` beside the captions.

    Raises:
        UsageError: If another process writes the same file.
    """
    config = CaptionConfig(**{name: getattr(settings, name) for name in CaptionConfig.model_fields})
    captions_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(captions_file.parent, f".{captions_file.name}.lock"):
        done = caption_dataset(dataset, captions_file, config, seed=seed, on_progress=on_progress)
        if done.problems:
            rows = [problem.model_dump(mode="json") for problem in done.problems]
            write_jsonl_atomic(captions_file.with_name("problems.jsonl"), rows)
    return done
