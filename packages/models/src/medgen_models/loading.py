"""Model folders: find the family, load, save in one piece, hash."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medgen_models.errors import MissingModelError, UnusableModelError
from medgen_models.families.dit import load_dit
from medgen_models.families.flux import load_flux
from medgen_models.families.hunyuan_dit import load_hunyuan_dit
from medgen_models.families.kandinsky3 import load_kandinsky3
from medgen_models.families.kandinsky22_decoder import load_kandinsky22_decoder
from medgen_models.families.kandinsky22_prior import load_kandinsky22_prior
from medgen_models.families.msdm import MsdmModel, load_msdm, untrained_msdm
from medgen_models.families.pixart import load_pixart
from medgen_models.families.sdxl import load_sdxl
from medgen_models.families.stable_diffusion import load_sd
from medgen_models.model_source import ModelSource
from medgen_models.msdm.presets import MsdmPresetName


@dataclass(frozen=True)
class Family:
    """How a family is recognised and loaded, and which load options it understands."""

    pipeline_classes: tuple[str, ...]
    load: Callable[..., Any]
    options: tuple[str, ...] = ()


FAMILIES: dict[str, Family] = {
    "msdm": Family(("MsdmPipeline",), lambda source: load_msdm(Path(source.name_or_dir))),
    "dit": Family(("ClassDitPipeline",), lambda source: load_dit(Path(source.name_or_dir))),
    "hunyuan-dit": Family(("HunyuanDiTPipeline",), load_hunyuan_dit, ("image_size",)),
    "flux": Family(("FluxPipeline",), load_flux, ("image_size", "max_tokens")),
    "kandinsky22-prior": Family(
        ("KandinskyV22PriorPipeline",),
        load_kandinsky22_prior,
        ("image_size", "lower_case", "prior_noise_schedule"),
    ),
    "kandinsky22-decoder": Family(
        ("KandinskyV22Pipeline",), load_kandinsky22_decoder, ("image_size", "lower_case", "prior_source")
    ),
    "kandinsky3": Family(
        ("Kandinsky3Pipeline",), load_kandinsky3, ("image_size", "max_tokens", "lower_case")
    ),
    "pixart": Family(("PixArtAlphaPipeline",), load_pixart, ("image_size", "max_tokens", "lower_case")),
    "sd": Family(("StableDiffusionPipeline",), load_sd, ("image_size",)),
    "sdxl": Family(("StableDiffusionXLPipeline",), load_sdxl, ("image_size",)),
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
    model = FAMILIES[found].load(source, **given)
    for module in model.components().values():
        module.to(torch.device(device))
    return model


def untrained_model(preset: MsdmPresetName, text_encoder: str, *, seed: int) -> MsdmModel:
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
