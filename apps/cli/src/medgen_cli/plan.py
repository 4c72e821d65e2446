"""The synthesis plan: which prompt, how often, with which seed.

The seed of an image is a hash of the recipe's seed and of the image's record id, so that an image stays the
same whatever the order, the batch, the shard, or the number of images around it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from medgen_data.captions import CaptionRow
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError
from medgen_data.records import FactValue, ImageRecord

from medgen_cli.errors import UsageError

DatasetTexts = Literal["none", "first", "all"]

_MAX_ID = 128


@dataclass(frozen=True)
class PlannedImage:
    """One image to draw."""

    record_id: str
    prompt: str
    seed: int
    label: str | None = None
    facts: Mapping[str, FactValue] = field(default_factory=dict)


def texts_of_records(
    dataset: ImageDataset, captions: Mapping[str, CaptionRow], *, dataset_texts: DatasetTexts
) -> dict[str, tuple[str, ...]]:
    """Return the texts of every record: those of the data set, fullest first, then its caption.

    Args:
        dataset: The data set.
        captions: Captions by record id.
        dataset_texts: Which of the data set's own texts are taken too.

    Raises:
        DataError: If a record has no text at all, or the captions are those of another data set.
    """
    if captions and not captions.keys() & {record.record_id for record in dataset.records}:
        raise DataError(
            f"{dataset.root}: none of its records is captioned in the captions file, which is that of another "
            "data set; run `medgen caption` on this one"
        )
    texts: dict[str, tuple[str, ...]] = {}
    for record in dataset.records:
        own = own_texts(record, dataset_texts)
        caption = captions.get(record.record_id)
        both = (*own, *([caption.text] if caption else []))
        if not both:
            raise DataError(
                f"{dataset.root}: record {record.record_id} has no text; give the captions that `medgen caption` "
                "makes of this data set"
            )
        texts[record.record_id] = tuple(dict.fromkeys(both))
    return texts


def own_texts(record: ImageRecord, dataset_texts: DatasetTexts) -> tuple[str, ...]:
    """Return the texts that the data set itself gives a record: none, the fullest, or all."""
    match dataset_texts:
        case "none":
            return ()
        case "first":
            return record.text[:1]
        case "all":
            return record.text


def stable_seed(seed: int, name: str) -> int:
    """Return a seed in [0, 2^63) that depends on nothing but the two arguments."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def plan_images(
    records: Sequence[ImageRecord],
    texts: Mapping[str, tuple[str, ...]],
    *,
    seed: int,
    num_images: int | None = None,
    per_class: int | None = None,
) -> tuple[PlannedImage, ...]:
    """Plan synthetic images whose prompts are the fullest texts of real records.

    Records are taken in a seeded order, and once more from the start when they do not suffice. With neither
    count, every record is taken once.

    Args:
        records: Real records; each lends its text, label and facts.
        texts: Texts by record id.
        seed: Seed of the recipe.
        num_images: Number of images in total, classes as frequent as among the records.
        per_class: Number of images of each class.

    Raises:
        DataError: If there are no records, or `per_class` meets a record without a label.
    """
    if not records:
        raise DataError("no records to take prompts from; choose another split or data set")
    ordered = sorted(records, key=lambda record: stable_seed(seed, f"order {record.record_id}"))
    if per_class is None:
        return tuple(
            _plan_one(*pick, texts=texts, seed=seed) for pick in _take(ordered, num_images or len(ordered))
        )
    by_label: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in ordered:
        if record.label is None:
            raise DataError(f"record {record.record_id} has no label; use num_images instead of per_class")
        by_label[record.label].append(record)
    return tuple(
        _plan_one(*pick, texts=texts, seed=seed)
        for label in sorted(by_label)
        for pick in _take(by_label[label], per_class)
    )


def plan_prompts(
    prompts: Sequence[str], *, seed: int, num_images: int | None = None
) -> tuple[PlannedImage, ...]:
    """Plan synthetic images of a list of prompts, taken in order and again from the start."""
    records = [
        ImageRecord(file_name=f"line{n:06}.png", record_id=f"line{n:06}") for n in range(1, len(prompts) + 1)
    ]
    texts = {record.record_id: (prompt,) for record, prompt in zip(records, prompts, strict=True)}
    picks = _take(records, num_images or len(records))
    return tuple(_plan_one(*pick, texts=texts, seed=seed) for pick in picks)


def parse_shard(text: str) -> tuple[int, int]:
    """Parse `i/n`, the i-th of n equal parts, counted from 1.

    Raises:
        UsageError: If the text is not of that form.
    """
    index, slash, count = text.partition("/")
    if slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count):
        return int(index), int(count)
    raise UsageError(f"--shard {text}: expected i/n with 1 <= i <= n, e.g. --shard 1/4")


def _take(records: Sequence[ImageRecord], count: int) -> list[tuple[ImageRecord, int]]:
    return [(records[n % len(records)], n // len(records)) for n in range(count)]


def _plan_one(
    source: ImageRecord, repetition: int, *, texts: Mapping[str, tuple[str, ...]], seed: int
) -> PlannedImage:
    record_id = f"synthetic-{source.record_id}-{repetition}"
    if len(record_id) > _MAX_ID:
        short = hashlib.sha256(source.record_id.encode()).hexdigest()[:32]
        record_id = f"synthetic-{short}-{repetition}"
    return PlannedImage(
        record_id=record_id,
        prompt=texts[source.record_id][0],
        seed=stable_seed(seed, record_id),
        label=source.label,
        facts=source.facts,
    )
