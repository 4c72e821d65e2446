"""Which texts each image is trained with: its own, other words for them, and what is true of it mirrored.

Training knows nothing of words. What is decided here is given to it as lists of texts by record, and written down
in `texts.jsonl` of the training folder.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medgen_captioning.clinical_facts import facts_of
from medgen_captioning.flips import FlipRefusedError, flip_caption
from medgen_captioning.paraphrasing import ParaphraseConfig, ParaphraseRow
from medgen_data.atomic import write_jsonl_atomic
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

if TYPE_CHECKING:
    from medgen_training import TextVariants

Texts = Mapping[str, tuple[str, ...]]
UNCHANGED = ParaphraseConfig()
TEXTS_NAME = "texts.jsonl"


@dataclass(frozen=True)
class TrainingTexts:
    """Texts by record id.

    Attributes:
        texts: What a record is trained with; with `add` its paraphrases too, with `replace_all` these alone.
        paraphrases: What may take their place at a step, with `replace_random`.
        probability: How often.
        mirrored: What is true of the mirrored image; None: no image is mirrored.
        mirrored_paraphrases: Of `paraphrases`.
        not_mirrored: Why the image of a record is never mirrored.
    """

    texts: Texts
    paraphrases: Texts = field(default_factory=dict)
    probability: float = 0.0
    mirrored: Texts | None = None
    mirrored_paraphrases: Texts = field(default_factory=dict)
    not_mirrored: Mapping[str, str] = field(default_factory=dict)

    def variants(self) -> "TextVariants | None":
        """Return what training is told beside the texts; None if there is nothing."""
        from medgen_training import TextVariants

        if not self.paraphrases and self.mirrored is None:
            return None
        return TextVariants(self.paraphrases, self.probability, self.mirrored, self.mirrored_paraphrases)

    def write(self, train_dir: Path, dataset: ImageDataset) -> None:
        """Write `texts.jsonl`: one row per record of a data set."""
        names = [record.record_id for record in dataset.records]
        write_jsonl_atomic(train_dir / TEXTS_NAME, (self._row(name) for name in names))

    def _row(self, record_id: str) -> dict[str, object]:
        row: dict[str, object] = {"record_id": record_id, "texts": list(self.texts[record_id])}
        if self.paraphrases:
            row["paraphrases"] = list(self.paraphrases.get(record_id, ()))
        if self.mirrored is not None:
            row["mirrored"] = list(self.mirrored.get(record_id, ()))
            row["not_mirrored"] = self.not_mirrored.get(record_id)
            if self.paraphrases:
                row["mirrored_paraphrases"] = list(self.mirrored_paraphrases.get(record_id, ()))
        return row


def texts_to_train_on(
    dataset: ImageDataset,
    texts: Texts,
    *,
    rows: Sequence[ParaphraseRow] = (),
    config: ParaphraseConfig = UNCHANGED,
    flips: bool = False,
) -> TrainingTexts:
    """Return the texts of a training.

    Args:
        dataset: Records to train on; others keep their texts.
        texts: Own texts of every record.
        rows: Paraphrases; an image is named by its record id, its file, or its file's name with or without ending.
        config: How paraphrases enter.
        flips: Whether images are met mirrored too, with captions in which left and right change places. An image
            with a text that cannot follow, such as one that names a side of the body, is not mirrored, nor is one
            of which a text says that something is written in it.

    Raises:
        DataError: If there are paraphrases and none is of a text of this data set.
    """
    others = _paraphrases_of_records(dataset, texts, rows) if config.strategy != "none" else {}
    mixed, at_random, probability = dict(texts), {}, 0.0
    for record_id, by_prompt in others.items():
        own, new = texts[record_id], tuple(text for some in by_prompt.values() for text in some)
        match config.strategy:
            case "add":
                mixed[record_id] = tuple(dict.fromkeys((*own, *new)))
            case "replace_all":
                mixed[record_id] = (*new, *(text for text in own if text not in by_prompt))
            case "replace_random":
                at_random[record_id], probability = new, config.probability or 0.0
    if not flips:
        return TrainingTexts(mixed, at_random, probability)
    reasons: dict[str, str] = {}
    mirrored, mirrored_at_random = {}, {}
    for record in dataset.records:
        name = record.record_id
        followers = _flipped(mixed[name])
        if reason := _why_not(texts[name]) or ("" if followers else "none of its paraphrases can follow"):
            reasons[name] = reason
            continue
        mirrored[name] = followers
        if name in at_random:
            mirrored_at_random[name] = _flipped(at_random[name])
    return TrainingTexts(mixed, at_random, probability, mirrored, mirrored_at_random, reasons)


def _paraphrases_of_records(
    dataset: ImageDataset, texts: Texts, rows: Sequence[ParaphraseRow]
) -> dict[str, dict[str, list[str]]]:
    """Return paraphrases by record id and prompt."""
    ids: dict[str, str] = {}
    for record in dataset.records:
        file = PurePosixPath(record.file_name)
        for name in (file.stem, file.name, record.file_name, record.record_id):
            ids.setdefault(name, record.record_id)
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        record_id = ids.get(row.file_name) or ids.get(PurePosixPath(row.file_name).stem)
        if record_id is not None and row.prompt in texts[record_id]:
            found[record_id][row.prompt].append(row.paraphrase)
    if not found:
        example = f", the first names {rows[0].file_name} with {rows[0].prompt!r}" if rows else ""
        raise DataError(
            f"{dataset.root}: none of {len(rows)} paraphrases is of a text that is trained on{example}; make them "
            "of this data set with `medgen paraphrase`"
        )
    return found


def _why_not(texts: Sequence[str]) -> str | None:
    for text in texts:
        if facts_of(text).statement("text") is not None:
            return f"{text[:200]!r}: what is written in the image would be mirrored too"
        try:
            flip_caption(text)
        except FlipRefusedError as error:
            return f"{text[:200]!r}: {error}"
    return None


def _flipped(texts: Sequence[str]) -> tuple[str, ...]:
    """Return mirrored texts; a paraphrase that cannot follow is left out."""
    found = []
    for text in texts:
        try:
            found.append(flip_caption(text))
        except FlipRefusedError:
            continue
    return tuple(found)
