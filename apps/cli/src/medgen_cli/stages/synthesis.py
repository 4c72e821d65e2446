"""Synthesis: draw the planned images into a data set folder, in shards, and continue where a kill stopped it.

An image is written whole first, its row of progress second; the data set's rows and card come last, when no
planned image is missing. A process that is killed at any moment costs at most the batch it was drawing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgen_data.atomic import write_bytes_atomic, write_json_atomic
from medgen_data.fingerprint import file_sha256
from medgen_data.image_folder import CARD_NAME, ROWS_NAME, ImageDataset, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.records import Generation, ImageRecord

from medgen_cli.config_files import diff_fields
from medgen_cli.errors import UsageError
from medgen_cli.plan import PlannedImage
from medgen_cli.run_folder import lock_folder
from medgen_cli.stages.generators import AS_TRAINED, Generator, GeneratorOptions, load_generator

if TYPE_CHECKING:
    from medgen_models import SamplingConfig

    from medgen_cli.recipes import AnyTrainConfig

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
    options: GeneratorOptions = AS_TRAINED,
    shard: tuple[int, int] = (1, 1),
    on_progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Draw one shard of a plan.

    Args:
        model_dir: Model folder, or adapter folder.
        plan: All images of the set, the same for every shard.
        config: Solver, steps, guidance.
        dataset_dir: Folder of the synthetic set; may hold what earlier attempts or other shards drew.
        card: What the card says.
        device: Where to draw.
        options: How an adapter finds its base.
        shard: (i, n), counted from 1.
        on_progress: Called with (done, total) of this shard.

    Raises:
        UsageError: If the folder holds images of another plan or model, another process draws this shard, or
            solver or prompts are not for this model.
        AdapterError: If the adapter does not fit its base.
        MissingModelError: If there is no model in `model_dir`, or no base for its adapter.
        UnusableModelError: If the model is of a family unknown here, or its weights are pickled.
    """
    from medgen_models import SamplingJob, sample_images

    index, count = shard
    generator = load_generator(model_dir, options, device=device)
    _check_sampling(generator, plan, config)
    dataset_dir.mkdir(parents=True, exist_ok=True)
    with lock_folder(dataset_dir, f"shard-{index}-of-{count}.lock"):
        _claim_folder(dataset_dir, plan, config, generator, options)
        finished = _finished_images(dataset_dir)
        mine = plan[index - 1 :: count]
        waiting = [image for image in mine if image.record_id not in finished]
        num_kept = len(mine) - len(waiting)
        progress_file = dataset_dir / _FINISHED_DIR / f"shard-{index}-of-{count}.jsonl"
        _drop_half_row(progress_file)
        jobs = [SamplingJob(image.prompt, image.seed) for image in waiting]
        drawn = zip(waiting, sample_images(generator.model, jobs, config), strict=True) if jobs else ()
        for done, (image, pixels) in enumerate(drawn, start=1):
            content = encode_png(pixels)
            write_bytes_atomic(dataset_dir / _file_name(image), content)
            _append_row(progress_file, image.record_id, hashlib.sha256(content).hexdigest())
            if on_progress:
                on_progress(num_kept + done, len(mine))
        missing = len(plan) - len(_finished_images(dataset_dir).keys() & {image.record_id for image in plan})
        dataset = None if missing else _finish_dataset(dataset_dir, plan, config, generator, card)
    return Synthesis(dataset, num_drawn=len(waiting), num_kept=num_kept, num_missing=missing)


def draw_untrained_images(
    plan: Sequence[PlannedImage],
    config: "SamplingConfig",
    dataset_dir: Path,
    *,
    trained: "AnyTrainConfig",
    model_dir: Path,
    seed: int,
    card: SyntheticSetCard,
    device: str,
    options: GeneratorOptions = AS_TRAINED,
    on_progress: Callable[[int, int], None] | None = None,
) -> Synthesis:
    """Draw the same images from a model that was not trained here: the scale on which a score is read.

    For an adapter that is its base as it was; otherwise a model with random weights.

    Args:
        plan: All images of the set.
        config: Solver, steps, guidance.
        dataset_dir: Folder of the set.
        trained: Settings of the training.
        model_dir: What that training left.
        seed: Seed of the random weights.
        card: What the card says.
        device: Where to draw.
        options: How an adapter finds its base.
        on_progress: Called with (done, total).
    """
    from medgen_models import save_model
    from medgen_training import AdapterTrainConfig

    if isinstance(trained, AdapterTrainConfig):
        base = replace(options, without_adapter=True)
        return draw_images(
            model_dir,
            plan,
            config,
            dataset_dir,
            card=card,
            device=device,
            options=base,
            on_progress=on_progress,
        )
    random_dir = dataset_dir.with_name(f"{dataset_dir.name}-model")
    if not random_dir.exists():
        save_model(_random_model(trained, seed=seed), random_dir)
    drawn = draw_images(
        random_dir, plan, config, dataset_dir, card=card, device=device, on_progress=on_progress
    )
    shutil.rmtree(random_dir)  # settings and seed make it again
    return drawn


def _random_model(trained: "AnyTrainConfig", *, seed: int) -> Any:
    from medgen_models import untrained_model
    from medgen_models.families.dit import untrained_dit
    from medgen_training import DitTrainConfig, MsdmTrainConfig

    if isinstance(trained, DitTrainConfig):
        return untrained_dit(trained.preset, trained.autoencoder, trained.classes, seed=seed)
    assert isinstance(trained, MsdmTrainConfig)
    return untrained_model(trained.shape, trained.text_encoder, seed=seed)


def _check_sampling(generator: Generator, plan: Sequence[PlannedImage], config: "SamplingConfig") -> None:
    """Refuse, before anything is written, a solver or prompts that the model cannot take."""
    from medgen_models.solver import solver_steps

    try:
        solver_steps(config.solver, generator.model.diffusion, config.num_inference_steps, config.eta)
    except ValueError as error:
        raise UsageError(f"sample.solver: {error}") from error
    if (names := getattr(generator.model, "class_names", None)) is not None:
        for image in plan:
            try:
                names.class_of(image.prompt)
            except ValueError as error:
                raise UsageError(f"{image.record_id}: {error}") from error


def _claim_folder(
    dataset_dir: Path,
    plan: Sequence[PlannedImage],
    config: "SamplingConfig",
    generator: Generator,
    options: GeneratorOptions,
) -> None:
    """Write what the folder is for, or refuse it if it is for something else."""
    from medgen_models import SamplingConfig

    claim = {
        "model_sha256": generator.model_sha256,
        "adapter_sha256": generator.adapter_sha256,
        "base_dtype": options.base_dtype,
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
    generator: Generator,
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
                model_sha256=generator.model_sha256,
                adapter_sha256=generator.adapter_sha256,
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                guided_channels=config.guided_channels,
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
