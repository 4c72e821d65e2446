"""What a study is: prompts, anonymous models, their images, and the questions put to the raters.

The file `study.json` holds all of it but the images, which stay where they are and are known by hash. Nothing
in it changes once it is written: `digest` is the hash of everything else, and orders, letters and repeats are
functions of the seed, the rater's number and the prompt (`schedule.py`).

A model's images for one prompt are a *set*. A page of the study shows, for one prompt, the set of real
references and then one set per model under a letter, as in section 5.1 of Prompt to Polyp. With `hidden_real`
one more set is real images that the page does not show as such.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

STUDY_FORMAT = "medgen-study"
REAL = "real"  # key of the real images as a model, and in rankings
RANK = "rank"  # field of the global ranking, beside the aspects

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PromptKind = Literal["original", "rephrased"]


class StudyError(ValueError):
    """A study cannot be made, read or served as it is; the message says what to do."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Aspect(_Part):
    """One scale, 0 to `highest`.

    Attributes:
        key: Short name in files.
        name: Name on the page.
        question: What is judged.
        lowest_anchor: What the lowest value means.
        highest_anchor: What the highest value means.
    """

    key: Identifier
    name: str
    question: str
    lowest_anchor: str
    highest_anchor: str


class StudyPrompt(_Part):
    """One prompt.

    Attributes:
        prompt_id: Unique in the study.
        text: As it was given to the models.
        kind: Original, or rephrased from another.
        original_id: Of a rephrased prompt: the original's id, if known.
    """

    prompt_id: Identifier
    text: str = Field(min_length=1)
    kind: PromptKind = "original"
    original_id: Identifier | None = None


class StudyImage(_Part):
    """One image file: where it lies and what it holds.

    Attributes:
        file: Path, relative to the folder of the study file, or absolute.
        sha256: Hash of the file.
    """

    file: str
    sha256: Sha256


class ImageSet(_Part):
    """The images of one model (or `REAL`) for one prompt, in the order of the source."""

    prompt_id: Identifier
    model: str
    images: tuple[StudyImage, ...] = Field(min_length=1)


class Design(_Part):
    """How the study is put to each rater.

    Attributes:
        hidden_real: Whether real images are also rated under a letter of their own.
        num_repeats: Pages shown a second time to each rater, with new letters, for intra-rater agreement.
        num_attention: Pages that tell the rater which value to give, spread over the study.
        rank_real: Whether the references take part in the global ranking.
        image_side: Every image is shown on a square of so many pixels, whatever its own size.
        framing: Show images `whole`, with black bars where they are no square, or their `centre` square only.
    """

    hidden_real: bool = False
    num_repeats: int = Field(default=0, ge=0)
    num_attention: int = Field(default=0, ge=0)
    rank_real: bool = True
    image_side: int = Field(default=512, ge=32, le=2048)
    framing: Literal["whole", "centre"] = "whole"


class Study(_Part):
    """A whole study.

    Attributes:
        study_format: Always `medgen-study`.
        format_version: 1.
        title: Shown to the raters; must not name a model.
        briefing: Paragraphs shown before the first page.
        seed: Source of all orders.
        highest: Highest value of every scale; the lowest is 0.
        models: Names of the synthetic models, never shown to a rater.
        aspects: The scales.
        prompts: In the order of the source.
        references: One set of real images per prompt, model `REAL`.
        sets: One set per model and prompt, and per prompt of `REAL` where `design.hidden_real`.
        design: How it is put to a rater.
        digest: Hash of all the above.
    """

    study_format: Literal["medgen-study"] = "medgen-study"
    format_version: Literal[1] = 1
    title: str = Field(min_length=1)
    briefing: tuple[str, ...]
    seed: int = Field(ge=0)
    highest: int = Field(default=10, ge=1, le=100)
    models: tuple[str, ...] = Field(min_length=1, max_length=25)
    aspects: tuple[Aspect, ...] = Field(min_length=1)
    prompts: tuple[StudyPrompt, ...] = Field(min_length=1)
    references: tuple[ImageSet, ...]
    sets: tuple[ImageSet, ...]
    design: Design = Design()
    digest: Sha256

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        ids = [prompt.prompt_id for prompt in self.prompts]
        for what, names in (
            ("prompt_id", ids),
            ("model", self.models),
            ("aspect", [a.key for a in self.aspects]),
        ):
            twice = sorted({name for name in names if list(names).count(name) > 1})
            if twice:
                raise ValueError(f"{what} must be unique, but {', '.join(twice)} comes twice")
        if REAL in self.models:
            raise ValueError(f"a model must not be called {REAL!r}: that is the real images")
        if any(aspect.key == RANK for aspect in self.aspects):
            raise ValueError(f"an aspect must not be called {RANK!r}: that is the global ranking")
        rated = [*self.models, *([REAL] if self.design.hidden_real else [])]
        expected = {(prompt_id, model) for prompt_id in ids for model in rated}
        found = [(each.prompt_id, each.model) for each in self.sets]
        _check_same("sets", expected, found)
        _check_same(
            "references", {(i, REAL) for i in ids}, [(each.prompt_id, each.model) for each in self.references]
        )
        if self.design.num_repeats > len(ids):
            raise ValueError(
                f"num_repeats must be at most the {len(ids)} prompts, got {self.design.num_repeats}"
            )
        return self

    @property
    def rated(self) -> tuple[str, ...]:
        """What gets a letter: the models, and `REAL` where it is hidden among them."""
        return (*self.models, REAL) if self.design.hidden_real else self.models

    def image_set(self, prompt_id: str, model: str) -> ImageSet:
        """Return the rated set of a model for a prompt."""
        return self._by_place[prompt_id, model]

    def reference_set(self, prompt_id: str) -> ImageSet:
        """Return the real references of a prompt."""
        return self._reference_by_prompt[prompt_id]

    @cached_property
    def _by_place(self) -> Mapping[tuple[str, str], ImageSet]:
        return {(each.prompt_id, each.model): each for each in self.sets}

    @cached_property
    def _reference_by_prompt(self) -> Mapping[str, ImageSet]:
        return {each.prompt_id: each for each in self.references}


def digest_of(content: dict[str, object]) -> str:
    """Return the hash of a study's content (as JSON values, `digest` left out)."""
    kept = {key: value for key, value in content.items() if key != "digest"}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()


def read_study(file: Path) -> Study:
    """Read a study and check that it is as it was made.

    Raises:
        StudyError: If the file is absent, is no study, or was changed after it was made.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be read ({error.strerror}); give the study.json that was created"
        ) from error
    except ValueError as error:
        raise StudyError(f"{file}: not a JSON file ({error})") from error
    if not isinstance(content, dict) or content.get("study_format") != STUDY_FORMAT:
        raise StudyError(f"{file}: not a study: study_format must be {STUDY_FORMAT!r}")
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise StudyError(f"{file}: {place or 'study'}: {first['msg']}") from error
    if digest_of(study.model_dump(mode="json")) != study.digest:
        raise StudyError(
            f"{file}: was changed after it was made (its digest does not match). Ratings given for one study do "
            "not count for another: create a new study file instead of editing this one"
        )
    return study


def _check_same(what: str, expected: set[tuple[str, str]], found: list[tuple[str, str]]) -> None:
    missing = sorted(expected - set(found))
    surplus = sorted(set(found) - expected)
    if missing or surplus or len(found) != len(set(found)):
        prompt, model = (missing or surplus or sorted(found))[0]
        kind = "is missing" if missing else "is not of this study" if surplus else "comes twice"
        raise ValueError(f"{what}: the set of {model!r} for prompt {prompt!r} {kind}")
