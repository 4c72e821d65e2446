"""Put together what the page shows: pictures, curves, pairs, tables. The template only lays it out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from medgen_data.captions import CaptionRow
from medgen_data.image_folder import ImageDataset
from medgen_data.records import ImageRecord

from medgen_cli.report.curves import loss_curve, smooth, smoothing_span
from medgen_cli.report.gather import REPORT_STAGE, RunFacts
from medgen_cli.report.neighbours import NeighbourSheet, find_neighbours
from medgen_cli.report.sheets import CopyPair, RunSheet, TrainRow
from medgen_cli.report.thumbnails import Picture, picture_of, read_picture, spread
from medgen_cli.report.verdicts import Verdict, verdicts

IMAGE_BUDGET = 96  # images in the class rows, real and synthetic together; keeps the page below 3 MB
MOST_PER_CLASS = 8
MOST_CLASSES = 24
NUM_PAIRS = 12
NUM_CAPTIONS = 6
CONTACT_SHEET_SIDE = 1200  # pixels; the prompts on it stay readable


@dataclass(frozen=True)
class ClassRow:
    """Real and synthetic images of one class."""

    label: str
    num_real: int
    num_synthetic: int
    real: tuple[Picture, ...]
    synthetic: tuple[Picture, ...]


@dataclass(frozen=True)
class Curve:
    """The loss of one training stage."""

    stage: str
    svg: Markup
    num_rows: int
    last_step: int
    first_loss: float
    last_loss: float
    images_per_s: float | None


@dataclass(frozen=True)
class ShownPair:
    """A synthetic image beside its nearest training image."""

    distance: float
    synthetic: Picture
    real: Picture


@dataclass(frozen=True)
class ShownCopy:
    """A synthetic image beside the training image that the privacy audit found nearest to it."""

    pair: CopyPair
    synthetic: Picture
    real: Picture


@dataclass(frozen=True)
class CaptionExample:
    """An image and the caption it was trained with."""

    picture: Picture
    row: CaptionRow


@dataclass(frozen=True)
class Page:
    """Everything on the page."""

    title: str
    facts: RunFacts
    verdicts: tuple[Verdict, ...]
    class_rows: tuple[ClassRow, ...]
    num_classes_left_out: int
    untrained: tuple[Picture, ...]
    curves: tuple[Curve, ...]
    neighbours: NeighbourSheet | None
    pairs: tuple[ShownPair, ...]
    copies: tuple[ShownCopy, ...]
    contact_sheet: Picture | None
    caption_examples: tuple[CaptionExample, ...]
    settings: tuple[tuple[str, str], ...]


def compose_page(facts: RunFacts) -> Page:
    """Make everything the page shows from what the run folder holds."""
    neighbours = None
    if facts.synthetic and facts.dataset:
        neighbours = find_neighbours(facts.synthetic, facts.dataset)
    class_rows, num_classes_left_out = _class_rows(facts.dataset, facts.synthetic)
    untrained = facts.untrained.records if facts.untrained else ()
    return Page(
        title=_title(facts),
        facts=facts,
        verdicts=verdicts(facts),
        class_rows=class_rows,
        num_classes_left_out=num_classes_left_out,
        untrained=_pictures(facts.untrained, untrained, MOST_PER_CLASS),
        curves=_curves(facts.train_rows or ()),
        neighbours=neighbours,
        pairs=_pairs(facts, neighbours),
        copies=_copies(facts),
        contact_sheet=_contact_sheet(facts),
        caption_examples=_caption_examples(facts),
        settings=tuple(_settings(facts.run)) if facts.run else (),
    )


def _title(facts: RunFacts) -> str:
    if facts.run:
        return f"Report of the run {facts.run.name}"
    return f"Report on {facts.dataset.card.name}" if facts.dataset else "Report of a run"


def _class_rows(
    real: ImageDataset | None, synthetic: ImageDataset | None
) -> tuple[tuple[ClassRow, ...], int]:
    """Return the rows that are shown, and how many classes are not."""
    real_by_label = _by_label(_shown_real(real)) if real else {}
    synthetic_by_label = _by_label(synthetic.records) if synthetic else {}
    labels = sorted(set(real_by_label) | set(synthetic_by_label))
    shown = labels[:MOST_CLASSES]
    count = min(MOST_PER_CLASS, max(2, IMAGE_BUDGET // (2 * max(1, len(shown)))))
    rows = tuple(
        ClassRow(
            label=label,
            num_real=len(real_by_label.get(label, ())),
            num_synthetic=len(synthetic_by_label.get(label, ())),
            real=_pictures(real, real_by_label.get(label, ()), count),
            synthetic=_pictures(synthetic, synthetic_by_label.get(label, ()), count),
        )
        for label in shown
    )
    return rows, len(labels) - len(shown)


def _shown_real(dataset: ImageDataset) -> Sequence[ImageRecord]:
    held_out = [record for record in dataset.records if record.split == "test"]
    return held_out or dataset.records


def _by_label(records: Iterable[ImageRecord]) -> dict[str, list[ImageRecord]]:
    by_label: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        by_label[record.label if record.label is not None else "(no class)"].append(record)
    return by_label


def _pictures(
    dataset: ImageDataset | None, records: Sequence[ImageRecord], count: int
) -> tuple[Picture, ...]:
    if dataset is None:
        return ()
    return tuple(picture_of(dataset, record) for record in spread(records, count))


def _curves(rows: Sequence[TrainRow]) -> tuple[Curve, ...]:
    by_stage: dict[str, list[TrainRow]] = defaultdict(list)
    for row in rows:
        by_stage[row.stage].append(row)
    return tuple(curve for stage, stage_rows in by_stage.items() if (curve := _curve(stage, stage_rows)))


def _curve(stage: str, rows: Sequence[TrainRow]) -> Curve | None:
    # A resumed run logs the steps after its checkpoint again: the later row counts.
    losses = {row.step: row.loss for row in rows if row.loss is not None}
    if not losses:
        return None
    steps = sorted(losses)
    values = [losses[step] for step in steps]
    speeds = sorted(row.images_per_s for row in rows if row.images_per_s is not None)
    return Curve(
        stage=stage,
        svg=loss_curve(steps, values, name=stage),
        num_rows=len(steps),
        last_step=steps[-1],
        first_loss=values[0],
        last_loss=smooth(values, smoothing_span(len(values)))[-1],
        images_per_s=speeds[len(speeds) // 2] if speeds else None,
    )


def _pairs(facts: RunFacts, neighbours: NeighbourSheet | None) -> tuple[ShownPair, ...]:
    if neighbours is None or facts.synthetic is None or facts.dataset is None:
        return ()
    synthetic = {record.record_id: record for record in facts.synthetic.records}
    real = {record.record_id: record for record in facts.dataset.records}
    return tuple(
        ShownPair(
            distance=pair.distance,
            synthetic=picture_of(facts.synthetic, synthetic[pair.record_id]),
            real=picture_of(facts.dataset, real[pair.neighbour_id]),
        )
        for pair in neighbours.pairs[:NUM_PAIRS]
    )


def _copies(facts: RunFacts) -> tuple[ShownCopy, ...]:
    if facts.privacy is None or facts.synthetic is None or facts.dataset is None:
        return ()
    synthetic = {record.record_id: record for record in facts.synthetic.records}
    real = {record.record_id: record for record in facts.dataset.records}
    return tuple(
        ShownCopy(
            pair,
            picture_of(facts.synthetic, synthetic[pair.synthetic_id]),
            picture_of(facts.dataset, real[pair.train_id]),
        )
        for pair in facts.privacy.pairs[:NUM_PAIRS]
        # The audit may be of images that were drawn anew since.
        if pair.synthetic_id in synthetic and pair.train_id in real
    )


def _contact_sheet(facts: RunFacts) -> Picture | None:
    if facts.contact_sheet_file is None:
        return None
    return read_picture(facts.contact_sheet_file, max_side=CONTACT_SHEET_SIDE)


def _caption_examples(facts: RunFacts) -> tuple[CaptionExample, ...]:
    if facts.dataset is None or not facts.captions:
        return ()
    captions = facts.captions
    captioned = [record for record in facts.dataset.records if record.record_id in captions]
    captioned.sort(key=lambda record: record.label or "")  # so that the spread reaches every class
    return tuple(
        CaptionExample(picture_of(facts.dataset, record), captions[record.record_id])
        for record in spread(captioned, NUM_CAPTIONS)
    )


def _settings(run: RunSheet) -> Iterable[tuple[str, str]]:
    yield "name", run.name
    for name, value in (("device", run.device), ("git commit", run.git_commit)):
        if value:
            yield name, value
    for override in run.overrides:
        yield "override", override
    yield from ((f"version of {name}", version) for name, version in sorted(run.versions.items()))
    yield from ((f"input {path}", sha256) for path, sha256 in sorted(run.inputs.items()))
    for name, stage in run.stages.items():
        if name == REPORT_STAGE:
            continue
        yield f"{name}: status", stage.status
        yield f"{name}: seconds", f"{stage.seconds:.1f}"
        yield from ((f"{name}: {figure}", str(value)) for figure, value in stage.figures.items())
        yield from ((f"{name}: output {path}", sha256) for path, sha256 in stage.outputs.items())
