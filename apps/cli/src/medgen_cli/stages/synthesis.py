"""Synthesis: draw the planned images into a data set folder, in shards, and continue where a kill stopped it.

An image is written whole first, its row of progress second; the data set's rows and card come last, when no
planned image is missing. A process that is killed at any moment costs at most the batch it was drawing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medgen_data.atomic import write_bytes_atomic, write_json_atomic
from medgen_data.fingerprint import file_sha256
from medgen_data.image_folder import CARD_NAME, ROWS_NAME, ImageDataset, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.records import Generation, ImageRecord

from medgen_cli.config_files import diff_fields
from medgen_cli.errors import UsageError
from medgen_cli.plan import PlannedImage
from medgen_cli.run_folder import lock_folder

if TYPE_CHECKING:
    from medgen_models import SamplingConfig
    from medgen_models.msdm.presets import MsdmPresetName

PLAN_NAME = "plan.json"
_FINISHED_DIR = "finished"


@dataclass(frozen=True)
class SyntheticSetCard:
    """What the card of the synthetic set says."""

    name: str
    modality: str
    source: str
    licence: str


@dataclass(frozen=True)
class Synthesis:
    """What a shard left behind."""

    dataset: ImageDataset | None  # None while images of other shards are missing
    num_drawn: int
    num_kept: int
    num_missing: int


def draw_images(
    model_dir: Path,
    plan: Sequence[PlannedImage],
    config: "SamplingConfig",
    dataset_dir: Path,
    *,
    card: SyntheticSetCard,
    device: str,
    shard: tuple[int, int] = (1, 1),
    on_progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Draw one shard of a plan.

    Args:
        model_dir: Model folder.
        plan: All images of the set, the same for every shard.
        config: Solver, steps, guidance.
        dataset_dir: Folder of the synthetic set; may hold what earlier attempts or other shards drew.
        card: What the card says.
        device: Where to draw.
        shard: (i, n), counted from 1.
        on_progress: Called with (done, total) of this shard.

    Raises:
        UsageError: If the folder holds images of another plan or model, or another process draws this shard.
        MissingModelError: If there is no model in `model_dir`.
    """
    from medgen_models import SamplingJob, load_model, model_sha256, sample_images

    index, count = shard
    try:
        model = load_model(model_dir, device=device)
    except ValueError as error:  # no family we know
        raise UsageError(str(error)) from error
    sha256 = model_sha256(model_dir)
    dataset_dir.mkdir(parents=True, exist_ok=True)
    with lock_folder(dataset_dir, f"shard-{index}-of-{count}.lock"):
        _claim_folder(dataset_dir, plan, config, sha256)
        finished = _finished_images(dataset_dir)
        mine = plan[index - 1 :: count]
        waiting = [image for image in mine if image.record_id not in finished]
        num_kept = len(mine) - len(waiting)
        progress_file = dataset_dir / _FINISHED_DIR / f"shard-{index}-of-{count}.jsonl"
        _drop_half_row(progress_file)
        jobs = [SamplingJob(image.prompt, image.seed) for image in waiting]
        drawn = zip(waiting, sample_images(model, jobs, config), strict=True) if jobs else ()
        for done, (image, pixels) in enumerate(drawn, start=1):
            content = encode_png(pixels)
            write_bytes_atomic(dataset_dir / _file_name(image), content)
            _append_row(progress_file, image.record_id, hashlib.sha256(content).hexdigest())
            if on_progress:
                on_progress(num_kept + done, len(mine))
        missing = len(plan) - len(_finished_images(dataset_dir).keys() & {image.record_id for image in plan})
        dataset = None if missing else _finish_dataset(dataset_dir, plan, config, sha256, card)
    return Synthesis(dataset, num_drawn=len(waiting), num_kept=num_kept, num_missing=missing)


def draw_untrained_images(
    plan: Sequence[PlannedImage],
    config: "SamplingConfig",
    dataset_dir: Path,
    *,
    preset: "MsdmPresetName",
    text_encoder: str,
    seed: int,
    card: SyntheticSetCard,
    device: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Draw the same images from a model that has seen nothing: the scale on which a score is read."""
    from medgen_models import save_model, untrained_model

    model_dir = dataset_dir.with_name(f"{dataset_dir.name}-model")
    if not model_dir.exists():
        save_model(untrained_model(preset, text_encoder, seed=seed), model_dir)
    drawn = draw_images(
        model_dir, plan, config, dataset_dir, card=card, device=device, on_progress=on_progress
    )
    shutil.rmtree(model_dir)  # preset and seed make it again
    return drawn


def _claim_folder(
    dataset_dir: Path, plan: Sequence[PlannedImage], config: "SamplingConfig", sha256: str
) -> None:
    """Write what the folder is for, or refuse it if it is for something else."""
    from medgen_models import SamplingConfig

    claim = {
        "model_sha256": sha256,
        # The batch size changes no image.
        "sampling": {
            name: getattr(config, name) for name in SamplingConfig.model_fields if name != "batch_size"
        },
        "num_images": len(plan),
        "plan_sha256": _plan_sha256(plan),
    }
    plan_file = dataset_dir / PLAN_NAME
    if plan_file.exists():
        changes = diff_fields(json.loads(plan_file.read_text(encoding="utf-8")), claim)
        if changes:
            raise UsageError(
                f"{dataset_dir}: holds images of another plan ({'; '.join(changes)}); choose a new --out"
            )
    elif (dataset_dir / ROWS_NAME).exists() or (dataset_dir / CARD_NAME).exists():
        raise UsageError(f"{dataset_dir}: holds a data set that was not made here; choose a new --out")
    else:
        write_json_atomic(plan_file, claim)


def _plan_sha256(plan: Sequence[PlannedImage]) -> str:
    lines = sorted(json.dumps([image.record_id, image.prompt, image.seed]) for image in plan)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_name(image: PlannedImage) -> str:
    return f"images/{image.record_id}.png"


def _append_row(progress_file: Path, record_id: str, sha256: str) -> None:
    progress_file.parent.mkdir(exist_ok=True)
    with progress_file.open("a", encoding="utf-8") as rows:
        rows.write(json.dumps({"record_id": record_id, "png_sha256": sha256}) + "\n")
        rows.flush()
        os.fsync(rows.fileno())


def _drop_half_row(progress_file: Path) -> None:
    """Cut off a last row without its newline: the process was killed while writing it."""
    if not progress_file.exists():
        return
    content = progress_file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(progress_file, len(whole))


def _finished_images(dataset_dir: Path) -> dict[str, str]:
    """Return record id -> hash of every image that any shard finished and that is still as it was written."""
    return {
        record_id: sha256
        for record_id, sha256 in _progress_rows(dataset_dir)
        if (file := dataset_dir / "images" / f"{record_id}.png").is_file() and file_sha256(file) == sha256
    }


def _progress_rows(dataset_dir: Path) -> Iterator[tuple[str, str]]:
    for progress_file in sorted((dataset_dir / _FINISHED_DIR).glob("shard-*.jsonl")):
        for line in progress_file.read_text(encoding="utf-8").splitlines(keepends=True):
            # Another shard may be in the middle of a row.
            if line.endswith("\n"):
                row = json.loads(line)
                yield row["record_id"], row["png_sha256"]


def _finish_dataset(
    dataset_dir: Path,
    plan: Sequence[PlannedImage],
    config: "SamplingConfig",
    sha256: str,
    card: SyntheticSetCard,
) -> ImageDataset:
    records = [
        ImageRecord(
            file_name=_file_name(image),
            record_id=image.record_id,
            label=image.label,
            text=(image.prompt,),
            facts=dict(image.facts),
            generation=Generation(
                prompt=image.prompt,
                seed=image.seed,
                model_sha256=sha256,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                solver=config.solver,
            ),
        )
        for image in plan
    ]
    return write_card_and_rows(
        dataset_dir,
        records=records,
        name=card.name,
        modality=card.modality,
        source=card.source,
        licence=card.licence,
        synthetic=True,
        split_seed=None,
    )
