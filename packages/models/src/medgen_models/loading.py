"""Model folders: find the family, load, save in one piece, hash."""

import hashlib
import importlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medgen_models.errors import MissingModelError, UnusableModelError
from medgen_models.families.msdm import MsdmModel, untrained_msdm
from medgen_models.model_source import ModelSource
from medgen_models.msdm.presets import MsdmPreset, MsdmPresetName


@dataclass(frozen=True)
class Family:
    """How a family is recognised and loaded, and which load options it understands.

    Attributes:
        pipeline_classes: What `model_index.json` of its folders names.
        module: Module of `medgen_models.families`; imported when it is wanted, for each brings a pipeline along.
        loader: Its function that takes a `ModelSource` and the options.
        options: Names of the options.
    """

    pipeline_classes: tuple[str, ...]
    module: str
    loader: str
    options: tuple[str, ...] = ()

    def load(self, source: ModelSource, options: Mapping[str, Any]) -> Any:
        """Load a model of this family."""
        module = importlib.import_module(f"medgen_models.families.{self.module}")
        return getattr(module, self.loader)(source, **options)


FAMILIES: dict[str, Family] = {
    "msdm": Family(("MsdmPipeline",), "msdm", "load_msdm"),
    "dit": Family(("ClassDitPipeline",), "dit", "load_dit"),
    "hunyuan-dit": Family(("HunyuanDiTPipeline",), "hunyuan_dit", "load_hunyuan_dit", ("image_size",)),
    "flux": Family(("FluxPipeline",), "flux", "load_flux", ("image_size", "max_tokens")),
    "kandinsky22-prior": Family(
        ("KandinskyV22PriorPipeline",),
        "kandinsky22_prior",
        "load_kandinsky22_prior",
        ("image_size", "lower_case", "prior_noise_schedule"),
    ),
    "kandinsky22-decoder": Family(
        ("KandinskyV22Pipeline",),
        "kandinsky22_decoder",
        "load_kandinsky22_decoder",
        ("image_size", "lower_case", "prior_source"),
    ),
    "kandinsky3": Family(
        ("Kandinsky3Pipeline",), "kandinsky3", "load_kandinsky3", ("image_size", "max_tokens", "lower_case")
    ),
    "pixart": Family(
        ("PixArtAlphaPipeline",), "pixart", "load_pixart", ("image_size", "max_tokens", "lower_case")
    ),
    "sd": Family(("StableDiffusionPipeline",), "stable_diffusion", "load_sd", ("image_size",)),
    "sdxl": Family(("StableDiffusionXLPipeline",), "sdxl", "load_sdxl", ("image_size",)),
}


def load_model(model_dir: Path, *, device: str = "cpu") -> Any:
    """Load a generator from its pipeline folder onto a device.

    Raises:
        MissingModelError: If there is no pipeline at that place.
        UnusableModelError: If the pipeline belongs to no known family.
    """
    if not (model_dir / "model_index.json").is_file():
        raise MissingModelError(
            f"{model_dir}: expected a model folder with model_index.json; train one with `medgen train`"
        )
    return load_base(ModelSource(str(model_dir)), device=device)


def load_base(
    source: ModelSource,
    *,
    family: str | None = None,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Load a generator of any family from a hub name or a folder.

    Args:
        source: Where it is, and the dtype wanted.
        family: The family it must be of; None: whatever it is.
        device: Where to.
        options: What the family's loader takes besides, by name: `image_size`, `max_tokens`, ...

    Raises:
        MissingModelError: If it is not to be had.
        UnusableModelError: If it is of no known family or of another than `family`, or its weights are pickled.
    """
    class_name = source.pipeline_class()
    found = next((name for name, each in FAMILIES.items() if class_name in each.pipeline_classes), None)
    if found is None:
        known = sorted(name for each in FAMILIES.values() for name in each.pipeline_classes)
        raise UnusableModelError(
            f"{source.name_or_dir}/model_index.json: field '_class_name' is {class_name!r}; "
            f"known are {', '.join(known)}"
        )
    if family is not None and family != found:
        raise UnusableModelError(f"{source.name_or_dir}: is of family {found}, expected {family}")
    given = dict(options or {})
    if unknown := [name for name in given if name not in FAMILIES[found].options]:
        raise UnusableModelError(
            f"{source.name_or_dir}: {', '.join(unknown)} has no meaning for family {found}"
        )
    model = FAMILIES[found].load(source, given)
    for module in model.components().values():
        module.to(torch.device(device))
    return model


def untrained_model(preset: MsdmPresetName | MsdmPreset, text_encoder: str, *, seed: int) -> MsdmModel:
    """Build a generator that has seen nothing, to give a score its scale."""
    return untrained_msdm(preset, text_encoder, seed=seed)


def save_model(model: Any, model_dir: Path) -> None:
    """Write a pipeline folder aside, then rename it: `model_dir` is whole or absent.

    Raises:
        FileExistsError: If `model_dir` is already there.
    """
    if model_dir.exists():
        raise FileExistsError(f"{model_dir} exists; choose another folder or remove it first")
    aside = model_dir.with_name(f".{model_dir.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    model.to_pipeline().save_pretrained(aside, safe_serialization=True)
    aside.rename(model_dir)


def model_sha256(model_dir: Path) -> str:
    """Return one hash over the names and contents of all files of a model folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in model_dir.rglob("*") if path.is_file()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(model_dir).as_posix()} {content}\n".encode())
    return digest.hexdigest()
