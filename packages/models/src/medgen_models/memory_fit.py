"""Settings of a training step that fit a device, chosen from its footprint, with the reasons in words."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from medgen_models.footprint import Footprint, part_of

GIB = 2**30
RUNTIME_BYTES = 640 * 2**20  # context and libraries of a GPU, before the first tensor
HEADROOM = 0.08  # share of a device left to the gaps between blocks of the allocator
ENOUGH_IMAGES = 4  # below, a step is bound by launches, and checkpointing for a larger batch pays


class TooLittleMemoryError(ValueError):
    """No settings known here make the step fit the device."""


@dataclass(frozen=True)
class FittedStep:
    """Settings of one optimizer step.

    Attributes:
        base_dtype: Of the frozen weights of the denoiser.
        checkpointing: Whether blocks are computed again in the backward pass.
        batch_size: Images at once.
        accumulation: Passes before each optimizer step.
        cached: Parts whose outputs are cached before training, so that they leave the device.
        peak_bytes: Estimate of what the step needs.
        reasons: One sentence for each choice.
    """

    base_dtype: torch.dtype
    checkpointing: bool
    batch_size: int
    accumulation: int
    cached: tuple[str, ...]
    peak_bytes: int
    reasons: tuple[str, ...]


def peak_bytes(
    footprint: Footprint, *, batch_size: int, checkpointing: bool, cached: Collection[str] = ()
) -> int:
    """Return an estimate of the memory that a training step needs.

    Weights of what stays on the device, gradients, two moments of AdamW, what autograd keeps, and two tensors of
    the largest size for the gradients in flight. What autograd keeps is taken to grow with the batch. A decoder
    that only passes gradients on is a phase of its own. An average of the weights, if one is kept, comes on top.

    Args:
        footprint: Costs of the step at any batch size.
        batch_size: Images at once.
        checkpointing: Whether blocks that can are computed again in the backward pass.
        cached: Parts that are not on the device.
    """
    on_device = {part: counts for part, counts in footprint.parameters.items() if part not in cached}
    weights = sum(counts.num_bytes for counts in on_device.values())
    fixed = RUNTIME_BYTES + weights + footprint.gradient_bytes + footprint.optimizer_bytes
    costs = [cost for call, cost in footprint.calls.items() if part_of(call) in on_device]
    learning = [cost for cost in costs if cost.learns]
    if checkpointing:  # one block at a time is computed again
        training = sum(cost.boundary_bytes for cost in learning) + max(
            (cost.block_bytes for cost in learning), default=0
        )
    else:
        training = sum(cost.saved_bytes for cost in learning)
    phases = [training, *(cost.saved_bytes for cost in costs if cost.backward_flops and not cost.learns)]
    in_flight = 2 * max((cost.largest_bytes for cost in costs), default=0)
    return fixed + (max(phases) + in_flight) * batch_size // footprint.batch_size


def fit(
    footprints: Sequence[Footprint],
    memory_bytes: int,
    *,
    images_per_step: int = 1,
    cacheable: Collection[str] | None = None,
) -> FittedStep:
    """Choose settings for a step of so many images.

    What is frozen is cached and leaves the device: that saves time as well as memory. Then the largest batch that
    divides the step is sought without checkpointing, and with it where only a very small one fits; then the next
    precision of the base is tried.

    Args:
        footprints: Costs of the step, one for each precision of the frozen base, the preferred one first.
        memory_bytes: Memory of the device.
        images_per_step: Images in one optimizer step.
        cacheable: Parts whose outputs may be cached; every part that gets no gradient if none are given.

    Raises:
        ValueError: If no footprint is given, or a part is to be cached that learns or passes gradients on.
        TooLittleMemoryError: If not even one image at a time fits.
    """
    if not footprints:
        raise ValueError("fit needs the footprint of at least one precision of the base")
    budget = int(memory_bytes * (1 - HEADROOM))
    for footprint in footprints:
        cached = _cached_parts(footprint, cacheable)
        plain = _largest_batch(footprint, budget, images_per_step, cached, checkpointing=False)
        best, checkpointing = plain, False
        if plain < min(ENOUGH_IMAGES, images_per_step) and _can_checkpoint(footprint):
            best = _largest_batch(footprint, budget, images_per_step, cached, checkpointing=True)
            checkpointing = best > plain
        if best:
            return _fitted(
                footprint,
                memory_bytes,
                batch_size=best,
                images_per_step=images_per_step,
                checkpointing=checkpointing,
                cached=cached,
                first_choice=footprints[0],
            )
    raise TooLittleMemoryError(_too_little(footprints[-1], memory_bytes, cacheable))


def _cached_parts(footprint: Footprint, cacheable: Collection[str] | None) -> tuple[str, ...]:
    if cacheable is None:
        return footprint.cacheable
    if wrong := [part for part in cacheable if part not in footprint.cacheable]:
        raise ValueError(
            f"part {wrong[0]!r} cannot be cached: it learns, passes gradients on, or is not there; "
            f"cacheable are {', '.join(footprint.cacheable) or 'none'}"
        )
    return tuple(cacheable)


def _can_checkpoint(footprint: Footprint) -> bool:
    return any(cost.learns and cost.has_blocks for cost in footprint.calls.values())


def _largest_batch(
    footprint: Footprint, budget: int, images_per_step: int, cached: tuple[str, ...], *, checkpointing: bool
) -> int:
    """Return the largest divisor of the step that fits, or 0."""
    for batch_size in range(images_per_step, 0, -1):
        if images_per_step % batch_size:
            continue
        if peak_bytes(footprint, batch_size=batch_size, checkpointing=checkpointing, cached=cached) <= budget:
            return batch_size
    return 0


def _fitted(
    footprint: Footprint,
    memory_bytes: int,
    *,
    batch_size: int,
    images_per_step: int,
    checkpointing: bool,
    cached: tuple[str, ...],
    first_choice: Footprint,
) -> FittedStep:
    peak = peak_bytes(footprint, batch_size=batch_size, checkpointing=checkpointing, cached=cached)
    reasons = [
        f"needs {_gib(peak)} of {_gib(memory_bytes)}, of which {HEADROOM:.0%} are left to the allocator"
    ]
    if footprint is first_choice:
        reasons.append(f"frozen base in {_name(footprint)}: it fits")
    else:
        reasons.append(
            f"frozen base in {_name(footprint)}: in {_name(first_choice)} not even one image at a time fits"
        )
    reasons += [
        f"{part} off the device, its outputs cached: it is frozen, "
        f"{_gib(footprint.parameters[part].num_bytes)} of weights"
        for part in cached
    ]
    if checkpointing:
        unsaved = peak_bytes(footprint, batch_size=batch_size, checkpointing=False, cached=cached)
        reasons.append(f"blocks checkpointed: without that a batch of {batch_size} needs {_gib(unsaved)}")
    else:
        reasons.append("no checkpointing: what autograd keeps fits, and no block is computed twice")
    if batch_size < images_per_step:
        reasons.append(
            f"{images_per_step // batch_size} passes of {batch_size}: "
            f"{images_per_step} images at once would not fit"
        )
    return FittedStep(
        base_dtype=_base_dtype(footprint),
        checkpointing=checkpointing,
        batch_size=batch_size,
        accumulation=images_per_step // batch_size,
        cached=cached,
        peak_bytes=peak,
        reasons=tuple(reasons),
    )


def _too_little(footprint: Footprint, memory_bytes: int, cacheable: Collection[str] | None) -> str:
    cached = _cached_parts(footprint, cacheable)
    least = min(
        peak_bytes(footprint, batch_size=1, checkpointing=checkpointing, cached=cached)
        for checkpointing in (False, True)
    )
    weights = max(
        (part for part in footprint.parameters if part not in cached),
        key=lambda part: footprint.parameters[part].num_bytes,
    )
    return (
        f"{_gib(memory_bytes)} are too little: one image at a time in {_name(footprint)} needs {_gib(least)} "
        f"and {HEADROOM:.0%} of headroom, {_gib(footprint.parameters[weights].num_bytes)} of them the weights of "
        f"{weights}; take a smaller image, a lower rank, a frozen text encoder or a larger device"
    )


def _base_dtype(footprint: Footprint) -> torch.dtype:
    """Return the dtype that most bytes of the denoiser have."""
    num_bytes = footprint.parameters["denoiser"].bytes_by_dtype
    return max(num_bytes, key=lambda dtype: num_bytes[dtype])


def _name(footprint: Footprint) -> str:
    return str(_base_dtype(footprint)).removeprefix("torch.")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"
