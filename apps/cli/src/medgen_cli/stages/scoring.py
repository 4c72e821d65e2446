"""Scoring: two sets of images become a sheet of scores, each with an interval."""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from medgen_data.atomic import write_json_atomic
from medgen_data.fingerprint import dataset_fingerprint
from medgen_data.image_folder import CARD_NAME, IMAGE_SUFFIXES, ImageDataset, read_image_folder
from medgen_data.problems import DataError
from medgen_data.records import ImageRecord, Split

from medgen_cli.errors import GateError, UsageError
from medgen_cli.settings import ScoreSettings
from medgen_cli.stages.privacy import AUDIT_NAME, audit_images, training_images

PRIVACY = "privacy"

_LIMIT = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\s*")
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class ImageFiles:
    """The images of one side of a comparison, and the hash that names them."""

    files: tuple[Path, ...]
    fingerprint: str
    record_ids: tuple[str, ...]
    labels: tuple[str, ...] = ()  # class of each image; empty if one has none


@dataclass(frozen=True)
class Limit:
    """A `--fail-if` condition, e.g. frechet>60."""

    score: str
    comparison: str
    value: float

    def is_met_by(self, value: float) -> bool:
        """Return whether a score meets the condition, that is, fails the gate."""
        return _COMPARISONS[self.comparison](value, self.value)


def files_of_dataset(dataset: ImageDataset) -> ImageFiles:
    """Return the images of a data set or of a selection of one."""
    files = tuple(dataset.image_file(record) for record in dataset.records)
    labels = tuple(record.label for record in dataset.records if record.label is not None)
    return ImageFiles(
        files,
        dataset_fingerprint(dataset.root, dataset.records),
        tuple(record.record_id for record in dataset.records),
        labels if len(labels) == len(files) else (),
    )


def files_of_folder(folder: Path, *, split: Split | None = None) -> ImageFiles:
    """Return the images of a data set folder, or of any folder of images.

    Args:
        folder: Data set folder, or a folder with image files at any depth.
        split: Only this split of a data set.

    Raises:
        DataError: If the folder is missing or holds no images.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a data set or a folder of images")
    if (folder / CARD_NAME).is_file():
        dataset = read_image_folder(folder)
        return files_of_dataset(dataset.select(split=split) if split else dataset)
    if split:
        raise DataError(
            f"{folder}: has no {CARD_NAME}, so it has no split {split}; import it with `medgen data`"
        )
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    names = [file.relative_to(folder).as_posix() for file in files]
    records = [ImageRecord(file_name=name, record_id=f"file-{n}") for n, name in enumerate(names)]
    return ImageFiles(tuple(files), dataset_fingerprint(folder, records), tuple(names))


def score_files(
    real: ImageFiles,
    synthetic: ImageFiles,
    settings: ScoreSettings,
    scores_file: Path,
    *,
    seed: int,
    device: str,
    trained_on: ImageDataset | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Score synthetic images against real ones and write the sheet.

    Features are kept in `features/` beside the sheet: the same images are encoded once. What cannot be computed is
    named in `not_computed`, and the rest is.

    Args:
        real: Real images, best such that the generator never saw.
        synthetic: Synthetic images.
        settings: What to compute.
        scores_file: The sheet to write; the metric `privacy` writes `privacy.json` beside it.
        seed: Seed of all that is drawn.
        device: Where tensors live.
        trained_on: The data set with splits whose `train` images the generator saw, for the metric `privacy`;
            None: privacy does not apply to these images.
        on_progress: Called with (done, in all).

    Raises:
        UsageError: If there is no such extractor.
        DataError: If not one score can be computed.
        ImageFileError: If an image cannot be read.
        MissingWeightsError: If the weights of the extractor are not on this machine, and every score needs them.
    """
    from medgen_metrics import MissingWeightsError

    document: dict[str, Any] = {
        "real_fingerprint": real.fingerprint,
        "synthetic_fingerprint": synthetic.fingerprint,
        "scores": [],
        "not_computed": [],
    }
    if trained_on is not None:
        # Of an earlier attempt, perhaps under other settings.
        (scores_file.parent / AUDIT_NAME).unlink(missing_ok=True)
    of_sets = tuple(metric for metric in settings.metrics if metric != PRIVACY)
    if of_sets:
        sheet = _score_sets(
            real,
            synthetic,
            settings.model_copy(update={"metrics": of_sets}),
            scores_file,
            seed=seed,
            device=device,
            on_progress=on_progress,
        )
        document["scores"], document["not_computed"] = sheet["scores"], sheet.get("not_computed", [])
    if PRIVACY in settings.metrics and trained_on is not None:
        try:
            copies = audit_images(
                training_images(trained_on),
                dict(zip(synthetic.files, synthetic.record_ids, strict=True)),
                settings,
                scores_file.parent,
                seed=seed,
                device=device,
                on_progress=on_progress,
            )
        except (DataError, MissingWeightsError) as error:
            if not document["scores"]:
                raise
            document["not_computed"].append(f"{PRIVACY}: {error}")
        else:
            document["scores"].append(copies)
    if not document["not_computed"]:
        # Left out where it says nothing, as the metrics package does.
        del document["not_computed"]
    write_json_atomic(scores_file, document)
    return document


def _score_sets(
    real: ImageFiles,
    synthetic: ImageFiles,
    settings: ScoreSettings,
    scores_file: Path,
    *,
    seed: int,
    device: str,
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    from medgen_metrics import NoScoreError, ScoreConfig, check_extractor_name, score_image_files

    try:
        check_extractor_name(settings.extractor)
    except ValueError as error:
        raise UsageError(f"score.extractor: {error}") from None
    config = ScoreConfig(
        extractor=settings.extractor,
        metrics=settings.metrics,
        k=settings.k,
        seed=seed,
        batch_size=settings.batch_size,
    )
    _check_sizes(real, synthetic, settings)
    try:
        sheet = score_image_files(
            real.files,
            synthetic.files,
            config,
            features_dir=scores_file.parent / "features",
            classes=(real.labels, synthetic.labels) if real.labels and synthetic.labels else ((), ()),
            device=device,
            on_progress=on_progress,
        )
    except NoScoreError as error:
        raise DataError(str(error)) from error
    return sheet.to_json()


def _check_sizes(real: ImageFiles, synthetic: ImageFiles, settings: ScoreSettings) -> None:
    # Before any image is encoded: the k-th neighbour of an image needs k others, everything else two images.
    least = settings.k + 1 if settings.metrics == ("prdc",) else 2
    for side, images in (("real", real), ("synthetic", synthetic)):
        if len(images.files) < least:
            raise DataError(
                f"{len(images.files)} {side} image(s) are too few: {', '.join(settings.metrics)} with "
                f"k = {settings.k} need at least {least}"
            )


def parse_limits(texts: Sequence[str]) -> tuple[Limit, ...]:
    """Parse `--fail-if` conditions such as `frechet>60`.

    Raises:
        UsageError: If one is not NAME, comparison, number.
    """
    limits = []
    for text in texts:
        match = _LIMIT.fullmatch(text)
        if not match:
            raise UsageError(
                f'--fail-if {text}: expected NAME>NUMBER or NAME<NUMBER, e.g. --fail-if "frechet>60"'
            )
        limits.append(Limit(match[1], match[2], float(match[3])))
    return tuple(limits)


def check_limits(document: Mapping[str, Any], limits: Sequence[Limit]) -> None:
    """Hold a sheet of scores against limits.

    Raises:
        GateError: If a limit is passed.
        UsageError: If a limit names a score that was not computed.
    """
    values = {score["name"]: score["value"] for score in document["scores"]}
    failed = []
    for limit in limits:
        if limit.score not in values:
            raise UsageError(f"--fail-if {limit.score}: no such score; computed are {', '.join(values)}")
        value = values[limit.score]
        if limit.is_met_by(value):
            failed.append(f"{limit.score} is {value:.6g}, which is {limit.comparison} {limit.value:g}")
    if failed:
        raise GateError(f"gate not met: {'; '.join(failed)}")


def parse_split(text: str | None) -> Split | None:
    """Return the split a flag names.

    Raises:
        UsageError: If there is no such split.
    """
    known: tuple[Split, ...] = get_args(Split)
    for split in known:
        if text == split:
            return split
    if text is None:
        return None
    raise UsageError(f"--split {text}: expected one of {', '.join(known)}")
