"""A data set decoded once: all images in one tensor, with the attribute to recognise."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from medgen_data.image_folder import ImageDataset
from medgen_data.images import FitPolicy, decode_image, fit_square
from medgen_data.problems import DataError
from medgen_data.records import ImageRecord, attribute
from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """Images of one size; N x 3 x S x S bytes of memory, 150 kB per image at 224 pixels."""

    images: Tensor  # [N, 3, S, S] uint8
    labels: tuple[str, ...]
    record_ids: tuple[str, ...]
    group_ids: tuple[str | None, ...]


def labels_of(dataset: ImageDataset, name: str) -> tuple[str, ...]:
    """Return the attribute `name` of every record.

    Raises:
        DataError: If there are no records, or one lacks the attribute.
    """
    if not dataset.records:
        raise DataError(f"{dataset.root}: expected at least one image, got none; check the selection")
    return tuple(attribute(record, name) for record in dataset.records)


def decode_labelled_images(
    dataset: ImageDataset, *, attribute_name: str, image_size: int, fit: FitPolicy
) -> LabelledImages:
    """Decode every image of a data set to [3, S, S].

    Raises:
        DataError: If a record lacks the attribute or a file cannot be decoded.
    """
    labels = labels_of(dataset, attribute_name)
    images = torch.empty(len(labels), 3, image_size, image_size, dtype=torch.uint8)

    def decode_into(place: int, record: ImageRecord) -> None:
        image = fit_square(decode_image(dataset.image_file(record)), image_size, policy=fit)
        images[place] = torch.tensor(image).permute(2, 0, 1)

    # Pillow releases the interpreter while it decodes.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(decode_into, range(len(labels)), dataset.records):
            pass
    return LabelledImages(
        images,
        labels,
        record_ids=tuple(record.record_id for record in dataset.records),
        group_ids=tuple(record.group_id for record in dataset.records),
    )


def is_generated(dataset: ImageDataset) -> bool:
    """Return whether a trained generator made any of the images; phantoms and photographs are not generated."""
    return any(record.generation is not None for record in dataset.records)


def class_indices(labels: Sequence[str], classes: Sequence[str]) -> Tensor:
    """Return the place of every label among the classes, [N] int64."""
    place = {name: index for index, name in enumerate(classes)}
    return torch.tensor([place[label] for label in labels])
