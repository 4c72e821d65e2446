"""Model folders: find the family, load, save in one piece, hash."""

import hashlib
import json
import shutil
from pathlib import Path

from medgen_models.errors import MissingModelError
from medgen_models.families.msdm import MsdmModel, load_msdm, untrained_msdm
from medgen_models.msdm.presets import MsdmPresetName

FAMILIES = {"MsdmPipeline": load_msdm}


def load_model(model_dir: Path, *, device: str = "cpu") -> MsdmModel:
    """Load a generator from its pipeline folder onto a device.

    Raises:
        MissingModelError: If there is no pipeline at that place.
        ValueError: If the pipeline belongs to no known family.
    """
    index_file = model_dir / "model_index.json"
    if not index_file.is_file():
        raise MissingModelError(
            f"{model_dir}: expected a model folder with model_index.json; train one with `medgen train`"
        )
    class_name = json.loads(index_file.read_text(encoding="utf-8")).get("_class_name")
    loader = FAMILIES.get(class_name)
    if loader is None:
        raise ValueError(
            f"{index_file}: field '_class_name' is {class_name!r}; known are {', '.join(sorted(FAMILIES))}"
        )
    model = loader(model_dir)
    for module in (model.vae, model.denoiser, model.prompt_encoder.text_model):
        module.to(device)
    return model


def untrained_model(preset: MsdmPresetName, text_encoder: str, *, seed: int) -> MsdmModel:
    """Build a generator that has seen nothing, to give a score its scale."""
    return untrained_msdm(preset, text_encoder, seed=seed)


def save_model(model: MsdmModel, model_dir: Path) -> None:
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
