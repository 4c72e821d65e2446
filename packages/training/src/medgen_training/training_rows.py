"""What is trained on: every image with its texts, and where wanted with paraphrases and once more mirrored.

Which words mean the same, and what a caption says of the mirrored image, is not known here: it is given. Latents of
a mirrored image are those of its mirrored pixels, since no encoder is symmetric.

Shapes: N images, S image size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from medgen_data import DataError, ImageDataset
from torch import Tensor

from medgen_training.cache import PromptTable, build_prompt_table


@dataclass(frozen=True)
class TextVariants:
    """Texts of records beside their plain ones, by record id.

    Attributes:
        paraphrases: Texts that may take the place of a record's own.
        paraphrase_probability: How often they do at a step that has a text at all; a dropped text stays dropped.
        mirrored: What is true of the image when left and right are exchanged; a record that is not named is
            never mirrored. None: no image is mirrored.
        mirrored_paraphrases: Paraphrases of `mirrored`.
    """

    paraphrases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    paraphrase_probability: float = 0.0
    mirrored: Mapping[str, Sequence[str]] | None = None
    mirrored_paraphrases: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a probability that is none."""
        if not 0 <= self.paraphrase_probability <= 1:
            raise ValueError(f"paraphrase_probability must be from 0 to 1, got {self.paraphrase_probability}")


@dataclass(frozen=True)
class TrainingRows:
    """The rows that a training walks through, and behind them those it only looks at.

    Attributes:
        images: [N + H, 3, S, S] uint8: N to train on, twice as many as records if some are mirrored, the second
            half mirrored; and H held out.
        prompts: Their texts.
        record_ids: N, of the record each came from.
    """

    images: Tensor
    prompts: PromptTable
    record_ids: tuple[str, ...]


def training_rows(
    dataset: ImageDataset,
    images: Tensor,
    texts: Mapping[str, Sequence[str]],
    variants: TextVariants | None = None,
) -> TrainingRows:
    """Join decoded images with their texts.

    Where images are mirrored, a pass over the rows meets every image twice: as it is, and mirrored with the texts
    of `variants.mirrored`. One that must not be mirrored is met twice as it is, so that no image weighs less.

    Args:
        dataset: Records of the images.
        images: Decoded images in the order of the records, [N, 3, S, S] uint8.
        texts: All texts of each record, by record id.
        variants: Paraphrases and mirrored texts, None: neither.

    Raises:
        DataError: If an image has no text, or texts are given for a record that the data set lacks.
    """
    table = build_prompt_table(dataset, texts)
    record_ids = tuple(record.record_id for record in dataset.records)
    if variants is None:
        return TrainingRows(images, table, record_ids)
    _check_known(dataset, texts, variants)
    paraphrases = [variants.paraphrases.get(record_id, ()) for record_id in record_ids]
    own: list[Sequence[str]] = []
    if variants.mirrored is not None:
        may = [bool(variants.mirrored.get(record_id)) for record_id in record_ids]
        own = [variants.mirrored.get(record_id) or texts[record_id] for record_id in record_ids]
        paraphrases += [
            (variants.mirrored_paraphrases if mirrored else variants.paraphrases).get(record_id, ())
            for record_id, mirrored in zip(record_ids, may, strict=True)
        ]
        chosen = torch.tensor(may).view(-1, 1, 1, 1)
        images = torch.cat([images, torch.where(chosen, images.flip(-1), images)])
        record_ids += record_ids
    return TrainingRows(images, _extended(table, own, paraphrases, variants), record_ids)


def held_out_images(validation_set: ImageDataset | None) -> ImageDataset:
    """Return the images that `selection: validation-loss` looks at.

    Raises:
        ValueError: If there are none.
    """
    if validation_set is None or not validation_set.records:
        raise ValueError(
            "selection 'validation-loss' needs images with split 'validation'; set data.validation_fraction, "
            "or use selection 'last'"
        )
    return validation_set


def with_held_out(
    rows: TrainingRows, held_out: ImageDataset, images: Tensor, texts: Mapping[str, Sequence[str]]
) -> TrainingRows:
    """Put held-out images behind those that are trained on; nobody walks through them.

    Args:
        rows: What is trained on.
        held_out: Records of the held-out images.
        images: They themselves in the order of the records, [H, 3, S, S] uint8.
        texts: All texts of each record, by record id.

    Raises:
        DataError: If a held-out image has no text.
    """
    build_prompt_table(held_out, texts)
    own = [texts[record.record_id] for record in held_out.records]
    return replace(rows, images=torch.cat([rows.images, images]), prompts=rows.prompts.with_images(own))


def _extended(
    table: PromptTable,
    more: Sequence[Sequence[str]],
    paraphrases: Sequence[Sequence[str]],
    variants: TextVariants,
) -> PromptTable:
    """Add images with other texts, and the paraphrases of all."""
    table = table.with_images(more)
    row_of_prompt = {prompt: row for row, prompt in enumerate(table.prompts)}

    def rows(some: Sequence[str]) -> tuple[int, ...]:
        return tuple(row_of_prompt.setdefault(text, len(row_of_prompt)) for text in dict.fromkeys(some))

    paraphrase_rows = tuple(rows(some) for some in paraphrases) if variants.paraphrase_probability else ()
    return replace(
        table,
        prompts=tuple(row_of_prompt),
        paraphrase_rows_of_image=paraphrase_rows,
        paraphrase_probability=variants.paraphrase_probability,
    )


def _check_known(dataset: ImageDataset, texts: Mapping[str, Sequence[str]], variants: TextVariants) -> None:
    """Refuse variants of records that have no plain text: those are of another data set."""
    given = {*variants.paraphrases, *(variants.mirrored or ()), *variants.mirrored_paraphrases}
    if unknown := sorted(given - texts.keys()):
        raise DataError(
            f"{dataset.root}: paraphrases or mirrored texts of {len(unknown)} records that it lacks "
            f"(first: {', '.join(unknown[:3])}); make them of this data set"
        )
