"""The rows of a data set: one record per image, one card per set."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictStr

from medgen_data.paths import check_relative_name
from medgen_data.problems import DataError

Split = Literal["train", "validation", "test"]
FactValue = str | int | float | bool

_RECORD_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def check_record_id(record_id: str) -> str:
    """Return a record id unchanged, or refuse it.

    Raises:
        DataError: If the id is not 1 to 128 letters, digits, dots, underscores and hyphens.
    """
    if not _RECORD_ID.fullmatch(record_id):
        raise DataError(
            f"record_id must be 1 to 128 letters, digits, '.', '_' or '-', got {record_id!r}; rename it"
        )
    return record_id


def _as_tuple(text: object) -> object:
    return (text,) if isinstance(text, str) else text


RecordId = Annotated[StrictStr, AfterValidator(check_record_id)]
FileName = Annotated[StrictStr, AfterValidator(check_relative_name)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Row(BaseModel):
    """Whatever is read from disk is frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Generation(_Row):
    """How a synthetic image was made: the same prompt and seed give the same image."""

    prompt: str
    seed: int
    model_sha256: str
    adapter_sha256: str | None = None
    num_inference_steps: int
    guidance_scale: float
    guided_channels: int | None = None
    solver: str


class ImageRecord(_Row):
    """One image of a data set; a row of `metadata.jsonl`.

    Attributes:
        file_name: POSIX path below the data set folder.
        record_id: Unique in the set.
        label: Class of the image.
        group_id: Patient, lesion or study; a split never cuts through a group.
        split: Part of the set the image belongs to.
        text: Captions known for the image, the fullest first.
        facts: Attributes of the image, e.g. `quadrant`.
        generation: Only on synthetic images.
    """

    file_name: FileName
    record_id: RecordId
    label: str | None = None
    group_id: str | None = None
    split: Split | None = None
    text: Texts = ()
    facts: dict[str, FactValue] = Field(default_factory=dict)
    generation: Generation | None = None

    def to_row(self) -> dict[str, object]:
        """Return the JSON object of the record; absent and empty fields are left out."""
        row = self.model_dump(mode="json")
        return {name: value for name, value in row.items() if value not in (None, [], {})}


class DatasetCard(_Row):
    """What a data set is and where it comes from; the file `dataset.json`.

    Attributes:
        modality: E.g. `endoscopic`, `dermoscopic`.
        labels: Classes that occur, sorted.
        fingerprint: `medgen_data.fingerprint.dataset_fingerprint` of all records.
        split_seed: Seed of `medgen_data.splits.assign_splits`; None if the split came from elsewhere.
    """

    name: str
    modality: str
    source: str
    licence: str
    synthetic: bool
    num_records: int = Field(ge=0)
    labels: tuple[str, ...]
    fingerprint: Sha256
    split_seed: int | None


def attribute(record: ImageRecord, name: str) -> str:
    """Return an attribute of a record as a class name.

    Args:
        record: The record.
        name: `label`, or `facts.` and the name of a fact, e.g. `facts.quadrant`.

    Raises:
        ValueError: If `name` is neither.
        DataError: If this record lacks the attribute.
    """
    value: FactValue | None
    if name == "label":
        value = record.label
    elif name.startswith("facts."):
        value = record.facts.get(name.removeprefix("facts."))
    else:
        raise ValueError(f"attribute must be 'label' or 'facts.NAME', got {name!r}")
    if value is None:
        known = ", ".join(["label", *(f"facts.{fact}" for fact in sorted(record.facts))])
        raise DataError(
            f"record {record.record_id} has no {name}; choose an attribute that every record has ({known})"
        )
    # JSON's spelling, so that a class name is the same in every file.
    return str(value).lower() if isinstance(value, bool) else str(value)
