from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_data import ImageDataset
from medgen_models.adapters import adapter_parameters, is_adapted
from medgen_models.base_models import load_pretrained
from medgen_models.tiny.flux import write_tiny_flux
from medgen_models.tiny.pixart import write_tiny_pixart
from medgen_models.tiny.sdxl import write_tiny_sdxl
from medgen_models.tiny.stable_diffusion import write_tiny_sd
from medgen_training import AdapterTrainConfig
from medgen_training.adapter.batches import condition_source, latent_source
from medgen_training.adapter.losses import AdapterData
from medgen_training.adapter.run import base_facts, prepare_model
from medgen_training.cache import build_prompt_table, load_pixels
from medgen_training.colour_statistics import colour_table

NewConfig = Callable[..., AdapterTrainConfig]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {
        "pixart": write_tiny_pixart(folder / "pixart"),
        "sd": write_tiny_sd(folder / "sd"),
        "flux": write_tiny_flux(folder / "flux"),
        "sdxl": write_tiny_sdxl(folder / "sdxl"),
    }


@pytest.fixture
def new_config(bases: dict[str, Path]) -> NewConfig:
    """Return a function from a family and settings to a short training's config."""

    def new(family: str = "pixart", **changes: Any) -> AdapterTrainConfig:
        settings = {"num_steps": 6, "batch_size": 2, "log_every": 1, "checkpoint_every": 2} | changes
        return AdapterTrainConfig.model_validate({"family": family, "base": str(bases[family]), **settings})

    return new


@dataclass(frozen=True)
class Prepared:
    """A model with adapters that already do something, and the data of its training."""

    model: Any
    data: AdapterData
    config: AdapterTrainConfig
    parameters: list[torch.nn.Parameter]


@pytest.fixture
def prepare(
    phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> Callable[..., Prepared]:
    """Return a function from a config to everything a step needs, adapters away from zero."""

    def new(config: AdapterTrainConfig) -> Prepared:
        model = load_pretrained(base_facts(config), dtype=config.base_dtype)
        learns = any(part.startswith("text_encoder") for part in prepare_model(model, config, seed=0))
        images = load_pixels(phantoms, model.image_size)
        prompts = build_prompt_table(phantoms, texts)
        data = AdapterData(
            latents=latent_source(model, images, tmp_path / "prepared", cache=config.cache),
            conditions=condition_source(
                model, images, prompts, tmp_path / "prepared", cache=config.cache, text_encoder_learns=learns
            ),
            prompts=prompts,
            colours=colour_table(images),
            record_ids=[record.record_id for record in phantoms.records],
        )
        adapted = [module for module in model.components().values() if is_adapted(module)]
        parameters = [parameter for module in adapted for parameter in adapter_parameters(module)]
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return Prepared(model, data, config, parameters)

    return new
