"""What a training costs before it starts: parameters, FLOPs, memory, disk, steps, and settings that fit."""

from typing import TYPE_CHECKING, Any

from medgen_models.class_dit.presets import DIT_PRESETS
from medgen_models.memory_fit import GIB, HEADROOM, RUNTIME_BYTES, TooLittleMemoryError, fit, peak_bytes
from medgen_training import AdapterTrainConfig, DitTrainConfig, MsdmTrainConfig, plan_training
from medgen_training.hldf import num_evaluations

from medgen_cli.measured_steps import MeasuredStep, measure_adapter_step, measure_dit_step, measure_msdm_step

if TYPE_CHECKING:
    from medgen_cli.recipes import AnyTrainConfig


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
    measured = measure_msdm_step(config) if isinstance(config, MsdmTrainConfig) else measure_dit_step(config)
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
    footprint = measured.footprint
    text_learns = any(part.startswith("text_encoder") for part in _learning(measured))
    prompt_bytes = footprint.text_state_bytes if text_learns else footprint.prompt_cache_bytes
    cache_bytes = footprint.latent_cache_bytes * num_images + prompt_bytes * (num_images + 1)
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
