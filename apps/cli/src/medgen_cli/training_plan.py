"""What a training costs before it starts: parameters, FLOPs, memory, disk. On the meta device, without weights.

An adapter's base is counted at its published size, or from the configs of a local folder. FLOPs and activations
come from the published shapes; a folder of other shapes is counted, not measured.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from medgen_models.adapters import add_adapters
from medgen_models.architectures import Architecture, architecture, build_parts
from medgen_models.base_models import DTYPES, BaseDtype
from medgen_models.class_dit.presets import DIT_PRESETS
from medgen_models.footprint import CallCost, Footprint, family_footprint, measure_call
from medgen_models.memory_fit import GIB, HEADROOM, RUNTIME_BYTES, TooLittleMemoryError, fit, peak_bytes
from medgen_models.model_source import ModelSource
from medgen_models.parameters import ParameterCounts, parameter_counts
from medgen_training import AdapterTrainConfig, DitTrainConfig, MsdmTrainConfig, plan_training
from medgen_training.hldf import num_evaluations
from torch import nn

if TYPE_CHECKING:
    from medgen_cli.recipes import AnyTrainConfig


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


def training_plan(
    config: "AnyTrainConfig", num_images: int, *, fit_bytes: int | None = None
) -> dict[str, Any]:
    """Return parameters, steps, FLOPs and bytes of a training as JSON values.

    Args:
        config: The `train` section.
        num_images: Images trained on; a cache of prompts is taken to hold one for each, and the empty one.
        fit_bytes: Memory of a device for which settings are sought.

    Raises:
        AdapterError: If the adapter's targets do not fit the model.
        MissingModelError: If a text encoder is unknown and its config is not on this machine.
        TooLittleMemoryError: If nothing fits `fit_bytes`.
        UnusableModelError: If a local base is of another family.
    """
    if isinstance(config, AdapterTrainConfig):
        return _adapter_plan(config, num_images, fit_bytes)
    measured = _measure_msdm(config) if isinstance(config, MsdmTrainConfig) else _measure_dit(config)
    if isinstance(config, MsdmTrainConfig):
        sizes = plan_training(config, num_images)
        num_steps, cache_bytes = sizes.num_steps, sizes.cache_bytes
    else:
        shape = DIT_PRESETS[config.preset]
        moments_bytes = 2 * 4 * shape.latent_channels * shape.latent_size**2
        num_steps = config.denoiser.num_steps
        cache_bytes = (
            moments_bytes * num_images * config.denoiser.num_variants if config.denoiser.cache else 0
        )
    plan = _common(config, measured, num_steps=config.denoiser.num_steps, cache_bytes=cache_bytes)
    plan["num_steps"] = num_steps
    if measured.autoencoder is not None and isinstance(config, MsdmTrainConfig):
        each = measured.autoencoder.forward_flops + measured.autoencoder.backward_flops
        plan["flops"]["autoencoder_step"] = each
        plan["flops"]["training"] += each * config.autoencoder.num_steps
    if fit_bytes is not None:
        plan["fit"] = _fit_whole_model(config, measured, fit_bytes)
    return plan


def _adapter_plan(config: AdapterTrainConfig, num_images: int, fit_bytes: int | None) -> dict[str, Any]:
    measured = measure_adapter_step(config, config.base_dtype)
    num_steps = config.steps_for(num_images)
    prompts_cached = not any(part.startswith("text_encoder") for part in _learning(measured))
    num_prompts = num_images + 1 if prompts_cached else 0
    cache_bytes = (
        measured.footprint.latent_cache_bytes * num_images
        + measured.footprint.prompt_cache_bytes * num_prompts
    )
    plan = _common(
        config,
        measured,
        num_steps=num_steps,
        cache_bytes=cache_bytes if config.cache and measured.is_measured else 0,
        accumulation=config.accumulation,
    )
    if config.hldf is not None:
        evaluations = num_evaluations(num_steps, config.hldf)
        plan["hldf_evaluations"] = evaluations
        if plan["flops"] is not None:
            each = measured.footprint.pixel_loss_flops(config.hldf.num_inference_steps)
            plan["flops"]["hldf_evaluation"] = each
            plan["flops"]["training"] += each * evaluations
    if fit_bytes is not None:
        plan["fit"] = _fit_adapter(config, measured, fit_bytes)
    return plan


def _common(
    config: "AnyTrainConfig",
    measured: MeasuredStep,
    *,
    num_steps: int,
    cache_bytes: int,
    accumulation: int = 1,
) -> dict[str, Any]:
    """Return what every family's plan says."""
    footprint = measured.footprint
    trainable = {part: counts.trainable for part, counts in footprint.parameters.items()}
    total = sum(counts.total for counts in measured.networks.values())
    is_adapter = isinstance(config, AdapterTrainConfig)
    num_trainable = sum(trainable.values())
    flops = None
    if measured.is_measured:
        step = (
            footprint.step_flops(checkpointing=measured.checkpointing, cached=measured.cached) * accumulation
        )
        flops = {"step": step, "training": step * num_steps}
    return {
        "family": config.family,
        "counted_from": measured.counted_from,
        "parameters": {
            part: {"total": counts.total, "trainable": trainable[part]}
            for part, counts in measured.networks.items()
        },
        "num_trainable_parameters": num_trainable,
        "num_frozen_parameters": total if is_adapter else total - num_trainable,
        "num_steps": num_steps,
        "hldf_evaluations": 0,
        "flops": flops,
        "memory": _memory(measured, can_checkpoint=is_adapter),
        "cache_bytes": cache_bytes,
        "adapter_bytes" if is_adapter else "model_bytes": 4 * (num_trainable if is_adapter else total),
    }


def _memory(measured: MeasuredStep, *, can_checkpoint: bool) -> dict[str, Any]:
    """Return the memory of a step by part, in bytes; what is cached is off the device."""
    footprint, batch_size = measured.footprint, measured.footprint.batch_size
    on_device = {part: c for part, c in footprint.parameters.items() if part not in measured.cached}
    fixed = (
        sum(c.num_bytes for c in on_device.values()) + footprint.gradient_bytes + footprint.optimizer_bytes
    )

    def peak(checkpointing: bool) -> int:
        return measured.extra_bytes + peak_bytes(
            footprint, batch_size=batch_size, checkpointing=checkpointing, cached=measured.cached
        )

    activations = peak(measured.checkpointing) - fixed - RUNTIME_BYTES - measured.extra_bytes
    return {
        "weights": {part: counts.num_bytes for part, counts in on_device.items()},
        "gradients": footprint.gradient_bytes,
        "optimizer": footprint.optimizer_bytes,
        "average": measured.extra_bytes,
        "activations": activations if measured.is_measured else None,
        "runtime": RUNTIME_BYTES,
        "peak": peak(measured.checkpointing),
        "peak_checkpointed": peak(True) if measured.is_measured and can_checkpoint else None,
    }


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


def _measure_msdm(config: MsdmTrainConfig) -> MeasuredStep:
    from medgen_models import PRESETS, prompt_encoder_size

    shape = PRESETS[config.preset]
    if config.self_conditioning is not None:
        shape = replace(shape, self_conditioning=config.self_conditioning)
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


def _measure_dit(config: DitTrainConfig) -> MeasuredStep:
    shape, batch_size = DIT_PRESETS[config.preset], config.denoiser.batch_size
    vae = build_parts("sd15", only=["vae"])["vae"]  # the autoencoder of Stable Diffusion 1
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


def _learning(measured: MeasuredStep) -> list[str]:
    return [part for part, counts in measured.footprint.parameters.items() if counts.trainable]


def _fit_adapter(config: AdapterTrainConfig, measured: MeasuredStep, memory_bytes: int) -> dict[str, Any]:
    _require_measured(measured)
    footprints = [measured.footprint]
    if config.base_dtype == "float32":
        footprints.append(measure_adapter_step(config, "bfloat16").footprint)
    fitted = fit(
        footprints,
        memory_bytes,
        images_per_step=config.batch_size * config.accumulation,
        cacheable=None if config.cache else (),
    )
    settings = {
        "train.base_dtype": str(fitted.base_dtype).removeprefix("torch."),
        "train.gradient_checkpointing": fitted.checkpointing,
        "train.batch_size": fitted.batch_size,
        "train.accumulation": fitted.accumulation,
        "train.cache": config.cache,
    }
    return {
        "memory_bytes": memory_bytes,
        "settings": settings,
        "peak_bytes": fitted.peak_bytes,
        "reasons": list(fitted.reasons),
    }


def _fit_whole_model(
    config: MsdmTrainConfig | DitTrainConfig, measured: MeasuredStep, memory_bytes: int
) -> dict[str, Any]:
    """Seek the largest batch; there is no accumulation here, so a smaller one is another training."""
    wanted = config.denoiser.batch_size

    def peak(batch_size: int) -> int:
        return measured.extra_bytes + peak_bytes(
            measured.footprint, batch_size=batch_size, checkpointing=False, cached=measured.cached
        )

    budget = int(memory_bytes * (1 - HEADROOM))
    batch_size = next((size for size in range(wanted, 0, -1) if peak(size) <= budget), 0)
    if not batch_size:
        raise TooLittleMemoryError(
            f"{memory_bytes / GIB:.1f} GiB are too little: one image at a time needs {peak(1) / GIB:.1f} GiB and "
            f"{HEADROOM:.0%} of headroom; take a smaller preset"
        )
    reasons = [
        f"needs {peak(batch_size) / GIB:.1f} GiB of {memory_bytes / GIB:.1f} GiB, of which {HEADROOM:.0%} are left "
        "to the allocator"
    ]
    if batch_size < wanted:
        reasons.append(
            f"a batch of {wanted} needs {peak(wanted) / GIB:.1f} GiB; a smaller one is another training, so lower "
            "the learning rate and take more steps"
        )
    return {
        "memory_bytes": memory_bytes,
        "settings": {"train.denoiser.batch_size": batch_size},
        "peak_bytes": peak(batch_size),
        "reasons": reasons,
    }


def _require_measured(measured: MeasuredStep) -> None:
    from medgen_cli.errors import UsageError

    if not measured.is_measured:
        raise UsageError(
            f"--fit: {measured.counted_from} has other shapes than the published model, so its activations are not "
            "known; leave --fit out, or give the hub name"
        )
