"""One training step on the meta device: no weights are made, only shapes go through.

An adapter's base is counted at its published size, or from the configs of a local folder. FLOPs and activations
come from the published shapes; a folder of other shapes is counted, not measured.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from medgen_models.adapters import add_adapters, is_adapted
from medgen_models.architectures import Architecture, architecture, build_parts
from medgen_models.base_models import DTYPES, BaseDtype
from medgen_models.class_dit.presets import DIT_PRESETS
from medgen_models.footprint import CallCost, Footprint, family_footprint, measure_call
from medgen_models.model_source import ModelSource
from medgen_models.parameters import ParameterCounts, parameter_counts
from medgen_models.partial_text_encoder import blocks_of
from medgen_training import AdapterTrainConfig, DitTrainConfig, MsdmTrainConfig
from torch import nn


@dataclass(frozen=True)
class MeasuredStep:
    """One training step on the meta device.

    Attributes:
        counted_from: What was built: a hub name, a folder, or a preset.
        networks: Parameters of each part as it is, an adapter not counted.
        footprint: Costs; of a folder with unknown shapes the parameters alone.
        cached: Parts whose outputs are cached before training and which leave the device.
        checkpointing: Whether blocks are computed again in the backward pass.
        extra_bytes: What is kept beside weights, gradients and moments: an average of the weights.
        autoencoder: One step of an autoencoder that is trained first.
    """

    counted_from: str
    networks: Mapping[str, ParameterCounts]
    footprint: Footprint
    cached: tuple[str, ...] = ()
    checkpointing: bool = False
    extra_bytes: int = 0
    autoencoder: CallCost | None = None

    @property
    def is_measured(self) -> bool:
        """Whether FLOPs and activations are known."""
        return bool(self.footprint.calls)


def measure_adapter_step(config: AdapterTrainConfig, dtype: BaseDtype) -> MeasuredStep:
    """Measure a step of an adapter's training with the base in a dtype."""
    name, known = _architecture_of(config)
    folder = Path(config.base) if Path(config.base).is_dir() else None
    parts = build_parts(name, dtype=DTYPES[dtype])
    same_shapes, counted_from = True, known.hub_name
    if folder is not None:
        published, counted_from = parts, str(folder)
        parts = folder_parts(config, known, DTYPES[dtype])
        same_shapes = parts.keys() == published.keys() and all(
            parameter_counts(parts[part]).total == parameter_counts(published[part]).total for part in parts
        )
    networks = {part: parameter_counts(module) for part, module in parts.items()}
    add_adapters(parts, config.adapter, family=config.family, seed=0)
    if same_shapes:
        num_tokens = None if known.fixed_tokens else config.max_tokens
        footprint = family_footprint(
            name,
            parts,
            config.image_size,
            config.batch_size,
            num_tokens=num_tokens,
            decode=config.hldf is not None,
            last_blocks=_last_blocks(config, parts),
        )
    else:
        counts = {part: parameter_counts(module) for part, module in parts.items()}
        footprint = Footprint(config.batch_size, counts, {})
    return MeasuredStep(
        counted_from,
        networks,
        footprint,
        cached=_idle_parts(config, footprint) if config.cache else (),
        checkpointing=config.gradient_checkpointing is True,
    )


def _last_blocks(config: AdapterTrainConfig, parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Return how many blocks of each text encoder run at every step, where it is not all of them."""
    text_models = {part: module for part, module in parts.items() if part.startswith("text_encoder")}
    if not config.cache or not any(is_adapted(module) for module in text_models.values()):
        return {}
    running = {}
    for part, module in text_models.items():
        depth = len(blocks_of(module))
        learning = depth if config.text_encoder_dropout else config.adapter.text_encoder_blocks or depth
        running[part] = learning if is_adapted(module) else 0
        if running[part] >= depth:
            del running[part]
    return running


def _idle_parts(config: AdapterTrainConfig, footprint: Footprint) -> tuple[str, ...]:
    """Return the parts that training takes off the device once their outputs are cached."""
    if footprint.calls:
        return footprint.cacheable
    frozen = [part for part, counts in footprint.parameters.items() if not counts.trainable]
    return tuple(part for part in frozen if config.hldf is None or part.startswith("text_encoder"))


def folder_parts(config: AdapterTrainConfig, known: Architecture, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Build the parts of a local base on the meta device, from the configs in its folder.

    Raises:
        MissingModelError: If a config is missing.
        UnusableModelError: If the folder is of another family.
    """
    from medgen_models.errors import UnusableModelError
    from medgen_models.loading import FAMILIES

    source = ModelSource(config.base)
    if (family := FAMILIES.get(config.family)) is not None:
        pipeline_class = source.pipeline_class()
        if pipeline_class not in family.pipeline_classes:
            raise UnusableModelError(
                f"{config.base}/model_index.json: field '_class_name' is {pipeline_class!r}, and train.family "
                f"{config.family} wants {' or '.join(family.pipeline_classes)}"
            )
    parts: dict[str, nn.Module] = {}
    for name, part in known.parts.items():
        own = source if part.hub_name is None else ModelSource(config.prior_base or part.hub_name)
        if not own.is_local:
            continue
        values = own.json_file(f"{part.hub_folder}/config.json")
        with torch.device("meta"):
            parts[name] = replace(part, config=_arguments(values)).build().to(dtype)
    return parts


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a config file that is arguments, not facts about the file."""
    facts = ("architectures", "dtype", "torch_dtype", "transformers_version", "model_type")
    return {name: value for name, value in values.items() if not name.startswith("_") and name not in facts}


def _architecture_of(config: AdapterTrainConfig) -> tuple[str, Architecture]:
    """Return the published model that an adapter's base is, or is most like."""
    if config.family != "sd":
        return config.family, architecture(config.family)
    name = "sd14" if config.base == architecture("sd14").hub_name else "sd15"
    return name, architecture(name)


def measure_msdm_step(config: MsdmTrainConfig) -> MeasuredStep:
    """Measure a step of the denoiser, and one of the autoencoder that is trained before it."""
    from medgen_models import prompt_encoder_size

    shape = config.shape
    encoder = prompt_encoder_size(config.text_encoder)
    batch_size = config.denoiser.batch_size
    with torch.device("meta"):
        vae, unet = shape.build_autoencoder(), shape.build_unet(encoder.width)
        latents = torch.empty(batch_size, shape.latent_channels, shape.latent_size, shape.latent_size)
        inputs = {
            "noisy_latents": latents,
            "timesteps": torch.empty(batch_size, dtype=torch.long),
            "prompt_embeds": torch.empty(batch_size, shape.max_tokens, encoder.width),
            "prompt_mask": torch.empty(batch_size, shape.max_tokens, dtype=torch.bool),
        }
    text_encoder = ParameterCounts(
        encoder.num_parameters, 0, {torch.float32: 4 * encoder.num_parameters}, trainable_bytes=0
    )
    num_images = config.autoencoder.batch_size
    with torch.device("meta"):
        autoencoder_inputs = {
            "pixel_values": torch.empty(num_images, 3, shape.image_size, shape.image_size),
            "noise": torch.empty(num_images, *latents.shape[1:]),
        }
    measured = _whole_model(
        f"preset {config.preset}",
        {"denoiser": parameter_counts(unet), "vae": parameter_counts(vae), "text_encoder": text_encoder},
        {"denoiser": measure_call(unet.train(), inputs)},
        batch_size,
        cached=("text_encoder",) if config.denoiser.cache else (),
    )
    return replace(measured, autoencoder=measure_call(vae.train(), autoencoder_inputs))


def measure_dit_step(config: DitTrainConfig) -> MeasuredStep:
    """Measure a step of a class-conditional DiT on the autoencoder of Stable Diffusion 1."""
    shape, batch_size = DIT_PRESETS[config.preset], config.denoiser.batch_size
    vae = build_parts("sd15", only=["vae"])["vae"]
    with torch.device("meta"):
        transformer = shape.build_transformer(len(config.classes))
        inputs = {
            "noisy_latents": torch.empty(
                batch_size, shape.latent_channels, shape.latent_size, shape.latent_size
            ),
            "timesteps": torch.empty(batch_size, dtype=torch.long),
            "class_ids": torch.empty(batch_size, dtype=torch.long),
        }
    return _whole_model(
        f"preset {config.preset}",
        {"denoiser": parameter_counts(transformer), "vae": parameter_counts(vae)},
        {"denoiser": measure_call(transformer.train(), inputs)},
        batch_size,
        cached=("vae",) if config.denoiser.cache else (),
    )


def _whole_model(
    counted_from: str,
    networks: dict[str, ParameterCounts],
    calls: dict[str, CallCost],
    batch_size: int,
    cached: Collection[str],
) -> MeasuredStep:
    footprint = Footprint(batch_size, networks, calls)
    average = networks["denoiser"].trainable_bytes
    return MeasuredStep(counted_from, networks, footprint, tuple(cached), extra_bytes=average)
