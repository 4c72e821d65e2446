"""Hybrid-level diffusion fine-tuning: a colour loss on images drawn while training (Med-Art, eq. 4 and 5).

Every N steps, the prompts of the batch are drawn with guidance from fresh noise, decoded, and compared with the
training images in the mean and the deviation of every colour channel. The gradient goes through all M steps of the
sampler into the denoiser's and the text encoders' trainable weights; memory does not grow with M.

Shapes: B batch, C latent channels, H x W latent size, L prompt tokens, T width of the text encoder.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from medgen_models import Conditioning, TextToImageModel
from medgen_models.diffusion import FlowMatching
from medgen_models.solver import SolverName, SolverStep, solver_steps
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medgen_training.colour_statistics import ColourStatistics, Reduction, colour_loss, colour_statistics
from medgen_training.sampler_adjoint import Gradients, Guidance, backpropagate, run_sampler


class HldfConfig(BaseModel):
    """The colour loss through the sampler: the `hldf` section of a recipe.

    Attributes:
        every_steps: N; the loss is taken in one of so many training steps.
        num_inference_steps: M, steps of the sampler.
        guidance_scale: g of classifier-free guidance, uncond + g (cond - uncond).
        guided_channels: Guide only the first so many latent channels, as class-conditional DiT samples.
        weight: Factor on the loss; `1/M` is the paper's.
        reduction: Over the colour channels: `sum` as eq. (4) has it, `mean` as the authors' code has it.
        unbiased_std: Whether deviations divide by the number of pixels less one.
        truncate_last: Follow the gradient through only the last K steps (Clark et al. 2024, DRaFT-K). Faster, and
            another gradient: on a random miniature that of K = 5 pointed 68 degrees off the full one.
        uncond_grad: Follow the gradient through the unconditional half of guidance. Without it, a third of the work
            is saved, but nothing balances the g-fold conditional half: over many steps the gradient grows by orders
            of magnitude, so combine it with `truncate_last` or a clipped norm.
        include_step_zero: Count steps from 0, so that the very first has the loss, as the authors' code does;
            otherwise from 1, and the N-th is the first.
        clamp: Cut pixels to [-1, 1] before they are compared; a saturated pixel then has no gradient.
        solver: `auto` is DPM-Solver++ for diffusions and Euler for flows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_steps: int = Field(default=500, ge=1)
    num_inference_steps: int = Field(default=20, ge=1, le=1000)
    guidance_scale: float = Field(default=4.5, ge=0)
    guided_channels: int | None = Field(default=None, ge=1)
    weight: Literal["1/M"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "1/M"
    reduction: Reduction = "sum"
    unbiased_std: bool = True
    truncate_last: int | None = Field(default=None, ge=1)
    uncond_grad: bool = True
    include_step_zero: bool = False
    clamp: bool = False
    solver: Literal["auto"] | SolverName = "auto"

    @model_validator(mode="after")
    def _truncation_fits(self) -> Self:
        if self.truncate_last is not None and self.truncate_last > self.num_inference_steps:
            raise ValueError(
                f"hldf.truncate_last is {self.truncate_last}, but the sampler has only "
                f"{self.num_inference_steps} steps; leave it out for the full gradient"
            )
        return self

    @property
    def factor(self) -> float:
        """The weight as a number."""
        return 1 / self.num_inference_steps if self.weight == "1/M" else self.weight


@dataclass(frozen=True)
class HldfResult:
    """The colour loss of a batch and the gradients of its weighted mean, factor * loss.mean()."""

    loss: Tensor  # [B], eq. (4), not weighted
    gradients: Gradients  # in the order of the parameters; None where the loss does not depend on one
    conditioning_gradients: dict[str, Tensor]  # by name of the conditioning's tensor
    unconditional_gradients: dict[str, Tensor]


def fires(step: int, config: HldfConfig) -> bool:
    """Say whether a training step, counted from 0, has the colour loss (eq. 5)."""
    return (step if config.include_step_zero else step + 1) % config.every_steps == 0


def num_evaluations(num_steps: int, config: HldfConfig) -> int:
    """Return how many of the first steps have the colour loss.

    >>> num_evaluations(96_000, HldfConfig())  # Med-Art on Kvasir
    192
    """
    if config.include_step_zero:
        return math.ceil(num_steps / config.every_steps)
    return num_steps // config.every_steps


def hldf_gradients(
    model: TextToImageModel,
    conditioning: Conditioning,
    unconditional: Conditioning,
    target: ColourStatistics,
    noise: Tensor,
    config: HldfConfig,
    parameters: Sequence[Tensor],
    *,
    with_conditioning: bool = False,
    slice_size: int | None = None,
) -> HldfResult:
    """Draw images, compare their colours, and differentiate through the whole sampler.

    Gradients are returned, not written, so that a distributed trainer can average them first. Layers are in
    evaluation mode meanwhile: images are drawn as they will be drawn later, without dropout.

    Args:
        model: A family that decodes to pixels. A denoiser wrapped for data parallelism is not synchronised here;
            of one in shares (`fully_shard`), the parameters must be whole ones, as those of adapters are.
        conditioning: Encoded prompts, B.
        unconditional: Encoded empty prompts, B.
        target: Colours of the training images, B.
        noise: Standard normal noise, [B, C, H, W], in the dtype and place the sampler works in.
        config: The `hldf` section.
        parameters: Trainable parameters; those of other networks than the denoiser get None.
        with_conditioning: Whether gradients of the encoded prompts are wanted.
        slice_size: Images that are worked on at a time; all, if left out. The result is the same.

    Raises:
        ValueError: If the model has no pixels, a parameter is frozen, or batch sizes or the noise do not fit.
    """
    _check(model, conditioning, unconditional, target, noise)
    for index, parameter in enumerate(parameters):
        if not parameter.requires_grad:
            raise ValueError(
                f"parameter {index} of {len(parameters)} is frozen; give only those that are trained"
            )
    size = len(noise) if slice_size is None else slice_size
    parts = []
    with _drawing_state(model):
        for start in range(0, len(noise), size):
            rows = slice(start, start + size)
            part = _slice_gradients(
                model,
                conditioning[rows],
                unconditional[rows],
                target[rows],
                noise[rows],
                config,
                parameters,
                share=1 / len(noise),
                with_conditioning=with_conditioning,
            )
            parts.append(part)
    return HldfResult(
        loss=torch.cat([part.loss for part in parts]),
        gradients=_added([part.gradients for part in parts]),
        conditioning_gradients=_joined([part.conditioning_gradients for part in parts]),
        unconditional_gradients=_joined([part.unconditional_gradients for part in parts]),
    )


def hldf_gradients_of_prompts(
    model: TextToImageModel,
    prompts: Sequence[str],
    target: ColourStatistics,
    noise: Tensor,
    config: HldfConfig,
    parameters: Sequence[Tensor],
    *,
    slice_size: int | None = None,
) -> HldfResult:
    """Do the same from prompts on, with gradients for the text encoders' parameters as well.

    Prompts are encoded twice: without gradient for the sampler, and with gradient after it, for one pass back.
    """
    with _drawing_state(model):
        with torch.no_grad():
            conditioning, unconditional = _encode_pair(model, prompts)
        result = hldf_gradients(
            model,
            conditioning,
            unconditional,
            target,
            noise,
            config,
            parameters,
            with_conditioning=True,
            slice_size=slice_size,
        )
        torch.clear_autocast_cache()
        with torch.enable_grad():
            conditioning, unconditional = _encode_pair(model, prompts)
        encoded = [
            (tensor, gradients[name])
            for pair, gradients in (
                (conditioning, result.conditioning_gradients),
                (unconditional, result.unconditional_gradients),
            )
            for name, tensor in pair.tensors().items()
            if name in gradients and tensor.requires_grad
        ]
        if not encoded:
            return result
        of_text = torch.autograd.grad(
            [tensor for tensor, _ in encoded],
            list(parameters),
            grad_outputs=[gradient for _, gradient in encoded],
            allow_unused=True,
        )
        torch.clear_autocast_cache()
    return HldfResult(
        result.loss,
        _added([result.gradients, list(of_text)]),
        result.conditioning_gradients,
        result.unconditional_gradients,
    )


def add_gradients(
    parameters: Sequence[Tensor],
    gradients: Gradients,
    *,
    average: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Add gradients to what backward passes have left in the parameters.

    Args:
        parameters: Parameters.
        gradients: One for each, or None.
        average: What takes the mean over processes; every process must come here with the same parameters.
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            continue
        averaged = (gradient if average is None else average(gradient)).to(parameter.dtype)
        parameter.grad = averaged if parameter.grad is None else parameter.grad + averaged


def sampler_steps(model: TextToImageModel, config: HldfConfig) -> list[SolverStep]:
    """Return the steps that the colour loss is drawn with."""
    solver = config.solver
    if solver == "auto":
        solver = "euler" if isinstance(model.diffusion, FlowMatching) else "dpm-solver++"
    return solver_steps(solver, model.diffusion, config.num_inference_steps)


def _slice_gradients(
    model: TextToImageModel,
    conditioning: Conditioning,
    unconditional: Conditioning,
    target: ColourStatistics,
    noise: Tensor,
    config: HldfConfig,
    parameters: Sequence[Tensor],
    *,
    share: float,
    with_conditioning: bool,
) -> HldfResult:
    """Return the loss of some images of a batch, and the gradients of factor * share * loss.sum()."""
    steps = sampler_steps(model, config)
    guidance = Guidance(config.guidance_scale, config.guided_channels, config.uncond_grad)
    latents, starts = run_sampler(
        model,
        noise,
        conditioning,
        unconditional,
        steps,
        guidance,
        keep_last=config.truncate_last or len(steps),
    )
    latents = latents.requires_grad_()
    with torch.enable_grad():
        pixel_values = model.decode_latents(latents)
        if config.clamp:
            pixel_values = pixel_values.clamp(-1, 1)
        generated = colour_statistics(pixel_values, unbiased=config.unbiased_std)
        loss = colour_loss(generated, target.to(generated.mean), config.reduction)
    (latents_gradient,) = torch.autograd.grad(config.factor * share * loss.sum(), latents)
    del pixel_values, generated  # the decoder's activations go before the denoiser's come
    found = backpropagate(
        model,
        latents_gradient,
        starts,
        conditioning,
        unconditional,
        steps,
        guidance,
        parameters,
        with_conditioning=with_conditioning,
    )
    return HldfResult(loss.detach(), found.parameters, found.conditioning, found.unconditional)


def _encode_pair(model: TextToImageModel, prompts: Sequence[str]) -> tuple[Conditioning, Conditioning]:
    """Encode prompts, and the empty prompt as often."""
    encoded = model.encode_prompts(["", *prompts])
    return encoded[1:], encoded[[0] * len(prompts)]


def _check(
    model: TextToImageModel,
    conditioning: Conditioning,
    unconditional: Conditioning,
    target: ColourStatistics,
    noise: Tensor,
) -> None:
    if not model.decodes_to_pixels:
        raise ValueError(
            f"{model.family} gives embeddings, which have no colours; take the section hldf out of its recipe"
        )
    if noise.ndim != 4 or noise.shape[1:] != torch.Size(model.latent_shape):
        raise ValueError(f"noise must be [B, {str(model.latent_shape)[1:-1]}], got {tuple(noise.shape)}")
    counts = {"prompts": len(conditioning), "empty prompts": len(unconditional), "targets": len(target)}
    for name, count in counts.items():
        if count != len(noise):
            raise ValueError(f"expected {len(noise)} {name}, one for each row of noise, got {count}")


@contextmanager
def _drawing_state(model: TextToImageModel) -> Iterator[None]:
    """Put every layer into evaluation mode and hold back data-parallel synchronisation; undo both after."""
    networks: list[nn.Module] = [model.denoiser, *model.components().values()]
    training = {layer for network in networks for layer in network.modules() if layer.training}
    with ExitStack() as stack:
        for network in networks:
            if isinstance(network, DistributedDataParallel):
                # Its reducer waits for a backward pass that autograd.grad never makes.
                stack.enter_context(network.no_sync())
        for layer in training:
            layer.training = False
        try:
            yield
        finally:
            for layer in training:
                layer.training = True


def _added(parts: Sequence[Gradients]) -> Gradients:
    def total(column: Sequence[Tensor | None]) -> Tensor | None:
        present = [gradient for gradient in column if gradient is not None]
        return torch.stack(present).sum(dim=0) if len(present) > 1 else next(iter(present), None)

    return [total(column) for column in zip(*parts, strict=True)]


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
