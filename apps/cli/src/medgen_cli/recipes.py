"""The recipe: one file, one reproducible experiment."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from medgen_classify import ClassifyConfig
from medgen_models import SamplingConfig
from medgen_models.base_models import BaseDtype
from medgen_training import AdapterTrainConfig, DitTrainConfig, MsdmTrainConfig, TrainConfig
from pydantic import BeforeValidator, Field, model_validator

from medgen_cli.config_files import apply_overrides, read_yaml, validate
from medgen_cli.errors import UsageError
from medgen_cli.sections import load_section
from medgen_cli.settings import (
    CaptionSettings,
    DataSettings,
    ParaphraseSettings,
    ReportSettings,
    ScoreSettings,
    Settings,
)
from medgen_cli.stages.generators import GeneratorOptions

DEMO_RECIPE_FILE = Path(__file__).with_name("demo.yaml")
DEFAULT_FAMILY = "msdm"
AnyTrainConfig = MsdmTrainConfig | DitTrainConfig | AdapterTrainConfig
TRAIN_CONFIGS = (MsdmTrainConfig, DitTrainConfig, AdapterTrainConfig)


class SampleSettings(SamplingConfig):
    """How synthetic images are drawn, how many, and from which prompts.

    Attributes:
        num_images: Number of images, classes as frequent as among the prompts.
        per_class: Number of images of each class, instead.
        prompts_from: Split whose texts are the prompts.
        untrained_reference: Draw the same images from a model that was not trained here, to give the scores a
            scale: random weights, or the base of an adapter without the adapter.
        base_dtype: Of the weights of an adapter's base while images are drawn.
        decoder: What turns embeddings into images for an adapter of Kandinsky 2.2's prior: hub name, folder, or
            the adapter folder of a decoder.
        prior_adapter: Adapter of the prior, for a decoder of Kandinsky 2.2.
    """

    num_images: int | None = Field(default=None, ge=1)
    per_class: int | None = Field(default=None, ge=1)
    prompts_from: Literal["train", "validation", "test"] = "test"
    untrained_reference: bool = False
    base_dtype: BaseDtype = "float32"
    decoder: str | None = None
    prior_adapter: Path | None = None

    @model_validator(mode="after")
    def _one_count(self) -> "SampleSettings":
        if self.num_images is not None and self.per_class is not None:
            raise ValueError("give num_images or per_class, not both")
        return self

    def generator_options(self, *, base: str | None = None) -> GeneratorOptions:
        """Return how an adapter finds its base, and where the base is if it was moved."""
        return GeneratorOptions(base, self.base_dtype, self.decoder, self.prior_adapter)

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


def _with_family(values: object) -> object:
    return {"family": DEFAULT_FAMILY, **values} if isinstance(values, Mapping) else values


class Recipe(Settings):
    """All of one experiment; `train` without a `family` is that of MSDM."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataSettings
    caption: CaptionSettings = CaptionSettings()
    paraphrase: ParaphraseSettings | None = None
    train: Annotated[TrainConfig, BeforeValidator(_with_family)]
    sample: SampleSettings = SampleSettings()
    score: ScoreSettings = ScoreSettings()
    classify: ClassifySettings | None = None
    report: ReportSettings = ReportSettings()


def result_name(config: AnyTrainConfig) -> str:
    """Return the name of the folder that a training leaves below its own."""
    return "adapter" if isinstance(config, AdapterTrainConfig) else "model"


def describe_generator(config: AnyTrainConfig) -> str:
    """Return what is trained, in a few words: a preset, or family and rank on a base."""
    if isinstance(config, AdapterTrainConfig):
        return f"{config.family} adapter of rank {config.adapter.rank} on {Path(config.base).name}"
    return config.preset


def load_recipe(recipe_file: Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `a.b=c` overrides, and check it.

    Raises:
        UsageError: Naming the file and the dotted field.
    """
    values = apply_overrides(read_yaml(recipe_file), overrides)
    source = str(recipe_file) + (" with --set" if overrides else "")
    return validate(Recipe, values, source=source)


def load_train_config(
    config_file: Path | None, overrides: Sequence[str], flags: Mapping[str, Any]
) -> AnyTrainConfig:
    """Return the `train` section for `medgen train`: flags win over overrides, which win over the recipe.

    Raises:
        UsageError: Naming the file and the dotted field, or the flag that means nothing to the family.
    """
    values = apply_overrides(read_yaml(config_file) if config_file else {}, overrides).get("train")
    family = str(values.get("family", DEFAULT_FAMILY)) if isinstance(values, dict) else DEFAULT_FAMILY
    config_class = _config_class(family, str(config_file) if config_file else "command line")
    for field, value in flags.items():
        if value is not None and field not in config_class.model_fields:
            raise UsageError(
                f"--{field.replace('_', '-')} has no meaning for train.family {family}; leave it out"
            )
    return load_section("train", config_class, config_file=config_file, overrides=overrides, flags=flags)


def _config_class(family: str, source: str) -> type[AnyTrainConfig]:
    known = {
        name: config_class
        for config_class in TRAIN_CONFIGS
        for name in get_args(config_class.model_fields["family"].annotation)
    }
    if family not in known:
        close = difflib.get_close_matches(family, known, n=1)
        hint = f'; did you mean "{close[0]}"?' if close else ""
        raise UsageError(f"{source}: train.family: should be one of {', '.join(known)}, got {family!r}{hint}")
    return known[family]
