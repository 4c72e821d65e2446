"""Settings of the stages that need no torch: data, captions, scores, report."""

from pathlib import Path
from typing import Literal

from medgen_captioning import CaptionConfig
from medgen_captioning.language_model import LanguageModelConfig
from medgen_captioning.paraphrasing.strategies import ParaphraseConfig
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medgen_cli.plan import DatasetTexts

DataKind = Literal["phantoms", "image-folder", "class-folders", "csv", "ham10000", "medvqa-gi"]
Metric = Literal[
    "frechet", "kid", "prdc", "frechet-limit", "kid-subsets", "inception-score", "colour", "privacy"
]
Policy = Literal["center-crop", "pad", "squash"]


class Settings(BaseModel):
    """A section of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DataSettings(Settings):
    """Which images, and how they become a data set.

    Attributes:
        kind: Where the images come from; `phantoms` are drawn, everything else is read from `root`.
        root: Source folder.
        num_images: Number of phantoms.
        size: Side of the square images in pixels.
        policy: How an image that is not square becomes square.
        name: Name of the data set; None: the name of the source folder.
        modality: E.g. `endoscopic`; None: what the source says or implies.
        licence: Terms of the source images; None: what the source says or implies.
        test_fraction: Part of every class kept for testing, rounded up.
        validation_fraction: Part of every class kept for choosing weights during training.
        limit: Take a subset of this many source images, with every class in proportion.
    """

    kind: DataKind = "phantoms"
    root: Path | None = None
    num_images: int | None = Field(default=None, ge=8)
    size: int = Field(default=256, ge=8, le=4096)
    policy: Policy = "center-crop"
    name: str | None = None
    modality: str | None = None
    licence: str | None = None
    test_fraction: float = Field(default=0.2, ge=0, lt=1)
    validation_fraction: float = Field(default=0.0, ge=0, lt=1)
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _kind_and_source_agree(self) -> "DataSettings":
        if self.kind == "phantoms":
            if self.num_images is None:
                raise ValueError("phantoms need num_images, the number to draw")
            if self.root is not None:
                raise ValueError("phantoms are drawn, so root must be left out; or choose another kind")
        elif self.root is None:
            raise ValueError(f"kind {self.kind} needs root, the folder of the source images")
        elif self.num_images is not None:
            raise ValueError(f"num_images belongs to phantoms; for kind {self.kind} use limit")
        if self.kind in ("phantoms", "image-folder") and (self.limit or self.validation_fraction):
            raise ValueError(f"limit and validation_fraction have no meaning for kind {self.kind}")
        return self


class CaptionSettings(CaptionConfig):
    """How images are captioned.

    Attributes:
        dataset_texts: Which of the data set's own texts are trained on too, before the caption: `none`, the
            `first` (the fullest), or `all`. Prompts are the first text of an image.
        train_on_captions: Whether the captions written here are trained on; false only writes and shows them.
        flips: Whether training meets images mirrored too, with left and right exchanged in their texts. Images
            whose texts name a side of the body, or writing in the image, are not mirrored.
    """

    dataset_texts: DatasetTexts = "all"
    train_on_captions: bool = True
    flips: bool = False

    @model_validator(mode="after")
    def _something_is_trained_on(self) -> "CaptionSettings":
        if self.dataset_texts == "none" and not self.train_on_captions:
            raise ValueError("dataset_texts none and train_on_captions false leave nothing to train on")
        return self


class ParaphraseSettings(ParaphraseConfig):
    """Other words for the texts that are trained on.

    Attributes:
        method: `grammar` needs no model; `llm` asks a language model; `file` reads a table
            `Filename,Prompt,Paraphrase`.
        file: The table of method `file`.
        language_model: Who is asked with method `llm`.
        per_prompt: Paraphrases of each prompt, dealt out to its images; None: one for each image.
    """

    method: Literal["grammar", "llm", "file"] = "grammar"
    file: Path | None = None
    language_model: LanguageModelConfig | None = None
    per_prompt: int | None = Field(default=None, ge=1, le=1000)

    @model_validator(mode="after")
    def _source_of_the_method(self) -> "ParaphraseSettings":
        if (self.method == "file") != (self.file is not None):
            raise ValueError(f"file belongs to method file; got method {self.method} with file {self.file}")
        if (self.method == "llm") != (self.language_model is not None):
            given = "none" if self.language_model is None else "one"
            raise ValueError(
                f"language_model belongs to method llm, with text_model or server; got method {self.method} with "
                f"{given}"
            )
        return self


class ScoreSettings(Settings):
    """How synthetic images are scored against real ones.

    Attributes:
        extractor: Feature extractor: efficientnet-lite0, inception:2048, hf:NAME_OR_FOLDER#cls, random:SEED.
        metrics: Scores to compute.
        k: Neighbours of precision, recall, density and coverage.
        false_positive_rate: Share of innocent images that the metric `privacy` may take for copies; at 0.01 it
            needs 199 held-out images.
        batch_size: Images encoded at once.
    """

    extractor: str = "efficientnet-lite0"
    metrics: tuple[Metric, ...] = Field(default=("frechet", "kid", "prdc"), min_length=1)
    k: int = Field(default=3, ge=1)
    false_positive_rate: float = Field(default=0.01, gt=0, lt=1)
    batch_size: int = Field(default=32, ge=1)


class ReportSettings(Settings):
    """The report has no settings yet; the section may be named in a recipe."""
