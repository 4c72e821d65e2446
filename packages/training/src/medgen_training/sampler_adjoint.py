"""Gradients through a whole run of the sampler, in the memory of one of its steps.

A run is z_{i+1}, x_i = F_i(z_i, x_{i-1}), i = 0 .. M - 1, where z are latents and x estimates of the clean latents.
Forwards, nothing but the z_i and x_i is kept. Backwards, each step is computed once more with gradient, and its
vector-Jacobian product takes (dL/dz_{i+1}, dL/dx_i) to (dL/dz_i, dL/dx_{i-1}) and to the parameters: reverse mode
by hand, so its result is that of automatic differentiation, not an approximation.

Shapes: B batch, C latent channels, H x W latent size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from medgen_models import Conditioning, TextToImageModel
from medgen_models.sampling import JobNoise, apply_step, guided_prediction
from medgen_models.solver import SolverStep
from torch import Tensor

Gradients = list[Tensor | None]


@dataclass(frozen=True)
class Guidance:
    """How predictions with and without a prompt are mixed, and where gradients go.

    `through_unconditional = False` takes the prediction of the empty prompt for a constant: a third less work, and
    another gradient, in which the g-fold conditional half stands alone.
    """

    scale: float
    channels: int | None = None
    through_unconditional: bool = True

    def freezes_unconditional(self, model: TextToImageModel) -> bool:
        """Say whether there is an unconditional prediction that is held constant."""
        return not (self.through_unconditional or model.embeds_guidance or self.scale == 1)


@dataclass(frozen=True)
class StepStart:
    """What a step of the sampler starts from."""

    latents: Tensor  # [B, C, H, W]
    previous_estimate: Tensor | None  # [B, C, H, W]; None at the first step
    unconditional_pred: Tensor | None  # [B, C, H, W]; only where it is held constant


@dataclass(frozen=True)
class SamplerGradients:
    """What `backpropagate` gives, each summed over the steps; None where nothing depends on the input."""

    parameters: Gradients
    conditioning: dict[str, Tensor]
    unconditional: dict[str, Tensor]


@torch.no_grad()
def run_sampler(
    model: TextToImageModel,
    noise: Tensor,
    conditioning: Conditioning,
    unconditional: Conditioning,
    steps: Sequence[SolverStep],
    guidance: Guidance,
    *,
    keep_last: int,
) -> tuple[Tensor, list[StepStart]]:
    """Draw clean latents [B, C, H, W] from noise of that shape, and keep where the last steps started."""
    starts: list[StepStart] = []
    latents, previous = noise, None
    for index, step in enumerate(steps):
        constant = None
        if guidance.freezes_unconditional(model):
            constant = _denoise(model, step, latents, unconditional, previous)
        start = StepStart(latents, previous, constant)
        if index >= len(steps) - keep_last:
            starts.append(start)
        latents, previous = _advance(model, step, start, conditioning, unconditional, guidance)
    return latents, starts


def backpropagate(
    model: TextToImageModel,
    latents_gradient: Tensor,
    starts: Sequence[StepStart],
    conditioning: Conditioning,
    unconditional: Conditioning,
    steps: Sequence[SolverStep],
    guidance: Guidance,
    parameters: Sequence[Tensor],
    *,
    with_conditioning: bool,
) -> SamplerGradients:
    """Take a gradient on the final latents back to parameters and prompts, through the steps that were kept.

    Args:
        model: The model that drew them, in the same state.
        latents_gradient: Gradient of the loss on the final latents, [B, C, H, W].
        starts: What `run_sampler` kept.
        conditioning: Encoded prompts.
        unconditional: Encoded empty prompts.
        steps: All steps of the sampler.
        guidance: As when they were drawn.
        parameters: Whose gradients are wanted; every one must require them.
        with_conditioning: Whether those of the floating-point tensors of both conditionings are wanted too.
    """
    conditioning, leaves = _with_leaves(conditioning, wanted=with_conditioning)
    unconditional, other_leaves = _with_leaves(unconditional, wanted=with_conditioning)
    sources = [*leaves.values(), *other_leaves.values(), *parameters]
    totals: Gradients = [None] * len(sources)
    estimate_gradient: Tensor | None = None  # what the step above says about this step's estimate
    for step, start in zip(reversed(steps[-len(starts) :]), reversed(starts), strict=True):
        # A weight cast by autocast in the passes without gradient would be taken from its cache, cut off.
        torch.clear_autocast_cache()
        latents = start.latents.detach().requires_grad_()
        previous = start.previous_estimate
        previous = None if previous is None else previous.detach().requires_grad_()
        leaf_start = StepStart(latents, previous, start.unconditional_pred)
        with torch.enable_grad():
            outputs = _advance(model, step, leaf_start, conditioning, unconditional, guidance)
        above = (latents_gradient, estimate_gradient)
        found = _vector_jacobian(outputs, above, [latents, previous, *sources])
        latents_gradient = torch.zeros_like(latents) if found[0] is None else found[0]
        estimate_gradient = found[1]
        totals = [_sum(total, gradient) for total, gradient in zip(totals, found[2:], strict=True)]
    torch.clear_autocast_cache()
    num_conditioning = len(leaves) + len(other_leaves)
    return SamplerGradients(
        parameters=totals[num_conditioning:],
        conditioning=_found(leaves, totals[: len(leaves)]),
        unconditional=_found(other_leaves, totals[len(leaves) : num_conditioning]),
    )


def _advance(
    model: TextToImageModel,
    step: SolverStep,
    start: StepStart,
    conditioning: Conditioning,
    unconditional: Conditioning,
    guidance: Guidance,
) -> tuple[Tensor, Tensor]:
    """Return F_i: the next latents and this step's estimate of the clean ones, each [B, C, H, W]."""
    if start.unconditional_pred is None:
        model_pred = guided_prediction(
            model,
            start.latents,
            step.timestep,
            Conditioning.cat([unconditional, conditioning]),
            guidance.scale,
            start.previous_estimate,
            guided_channels=guidance.channels,
        )
    else:
        conditional = _denoise(model, step, start.latents, conditioning, start.previous_estimate)
        constant = start.unconditional_pred
        model_pred = constant + guidance.scale * (conditional - constant)
        if guidance.channels is not None:
            model_pred = torch.cat(
                [model_pred[:, : guidance.channels], conditional[:, guidance.channels :]], dim=1
            )
    timesteps = torch.full((len(start.latents),), step.timestep)
    estimate = model.diffusion.clean_estimate(model_pred, start.latents, timesteps)
    no_noise = JobNoise((), model.latent_shape)  # the solvers here draw none after the first
    return apply_step(step, start.latents, estimate, start.previous_estimate, no_noise), estimate


def _denoise(
    model: TextToImageModel,
    step: SolverStep,
    latents: Tensor,
    conditioning: Conditioning,
    previous_estimate: Tensor | None,
) -> Tensor:
    timesteps = torch.full((len(latents),), step.timestep, device=latents.device)
    return model.denoise(
        latents, timesteps, conditioning, previous_estimate if model.self_conditioning else None
    )


def _vector_jacobian(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor | None], inputs: Sequence[Tensor | None]
) -> Gradients:
    """Return the gradient on each input, None where there is no input or nothing depends on it."""
    pairs = [(out, g.to(out.dtype)) for out, g in zip(outputs, gradients, strict=True) if g is not None]
    present = [tensor for tensor in inputs if tensor is not None]
    found = iter(
        torch.autograd.grad(
            [out for out, _ in pairs], present, grad_outputs=[g for _, g in pairs], allow_unused=True
        )
    )
    return [None if tensor is None else next(found) for tensor in inputs]


def _with_leaves(conditioning: Conditioning, *, wanted: bool) -> tuple[Conditioning, dict[str, Tensor]]:
    """Detach a conditioning; where wanted, its floating-point tensors become leaves that require gradients."""
    detached = conditioning.map(torch.Tensor.detach)
    if not wanted:
        return detached, {}
    leaves = {
        name: tensor.clone().requires_grad_()
        for name, tensor in detached.tensors().items()
        if tensor.is_floating_point()
    }
    named: dict[str, Any] = {**detached.tensors(), **leaves}
    return Conditioning(**named), leaves


def _sum(total: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if total is None or gradient is None:
        return gradient if total is None else total
    return total + gradient


def _found(leaves: dict[str, Tensor], totals: Gradients) -> dict[str, Tensor]:
    return {name: total for name, total in zip(leaves, totals, strict=True) if total is not None}
