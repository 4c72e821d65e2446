"""The recipe: one file, one reproducible experiment."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medgen_classify import ClassifyConfig
from medgen_models import SamplingConfig
from medgen_training import MsdmTrainConfig
from pydantic import Field, model_validator

from medgen_cli.config_files import apply_overrides, read_yaml, validate
from medgen_cli.settings import CaptionSettings, DataSettings, ReportSettings, ScoreSettings, Settings

DEMO_RECIPE_FILE = Path(__file__).with_name("demo.yaml")


class SampleSettings(SamplingConfig):
    """How synthetic images are drawn, how many, and from which prompts.

    Attributes:
        num_images: Number of images, classes as frequent as among the prompts.
        per_class: Number of images of each class, instead.
        prompts_from: Split whose texts are the prompts.
        untrained_reference: Draw the same images from an untrained model too, to give the scores a scale.
    """

    num_images: int | None = Field(default=None, ge=1)
    per_class: int | None = Field(default=None, ge=1)
    prompts_from: Literal["train", "validation", "test"] = "test"
    untrained_reference: bool = False

    @model_validator(mode="after")
    def _one_count(self) -> "SampleSettings":
        if self.num_images is not None and self.per_class is not None:
            raise ValueError("give num_images or per_class, not both")
        return self

    def sampling(self) -> SamplingConfig:
        """Return the part that a sampler needs."""
        return SamplingConfig(**{name: getattr(self, name) for name in SamplingConfig.model_fields})


class ClassifySettings(ClassifyConfig):
    """How classifiers judge the synthetic images.

    Attributes:
        recognise: Attributes that a classifier trained on real images looks for in the synthetic ones.
        compare: Train on synthetic images only and on real images only; test both on real images.
    """

    recognise: tuple[str, ...] = ("label",)
    compare: bool = True

    def classifier(self, attribute: str) -> ClassifyConfig:
        """Return the settings of one classifier of an attribute."""
        values = {name: getattr(self, name) for name in ClassifyConfig.model_fields}
        return ClassifyConfig(**{**values, "attribute": attribute})


class Recipe(Settings):
    """All of one experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataSettings
    caption: CaptionSettings = CaptionSettings()
    train: MsdmTrainConfig
    sample: SampleSettings = SampleSettings()
    score: ScoreSettings = ScoreSettings()
    classify: ClassifySettings | None = None
    report: ReportSettings = ReportSettings()


def load_recipe(recipe_file: Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `a.b=c` overrides, and check it.

    Raises:
        UsageError: Naming the file and the dotted field.
    """
    values = apply_overrides(read_yaml(recipe_file), overrides)
    source = str(recipe_file) + (" with --set" if overrides else "")
    return validate(Recipe, values, source=source)
