from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from medgen_models import Conditioning, MsdmModel
from medgen_models.diffusion import Diffusion, FlowMatching
from medgen_models.sampling import JobNoise, apply_step, guided_prediction
from medgen_models.tiny import TINY_MSDM, tiny_msdm
from medgen_training.colour_statistics import ColourStatistics, colour_loss, colour_statistics
from medgen_training.hldf import (
    HldfConfig,
    HldfResult,
    add_gradients,
    fires,
    hldf_gradients,
    hldf_gradients_of_prompts,
    num_evaluations,
    sampler_steps,
)
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

PROMPTS = ("a polyp in the upper left", "two ulcers")
GUIDANCE = 4.5


@dataclass
class Case:
    """A double-precision model and what one evaluation of the loss needs."""

    model: MsdmModel
    conditioning: Conditioning
    unconditional: Conditioning
    target: ColourStatistics
    noise: Tensor

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.denoiser.parameters())

    def gradients(self, config: HldfConfig, **options: Any) -> HldfResult:
        return hldf_gradients(
            self.model,
            self.conditioning,
            self.unconditional,
            self.target,
            self.noise,
            config,
            self.parameters,
            **options,
        )

    def loss(self, latents: Tensor, config: HldfConfig) -> Tensor:
        pixel_values = self.model.decode_latents(latents)
        if config.clamp:
            pixel_values = pixel_values.clamp(-1, 1)
        generated = colour_statistics(pixel_values, unbiased=config.unbiased_std)
        return colour_loss(generated, self.target, config.reduction)


def as_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def build_case(*, self_conditioning: bool = False) -> Case:
    model = tiny_msdm(preset=replace(TINY_MSDM, self_conditioning=self_conditioning))
    for network in model.components().values():
        network.double()
    encoded = model.encode_prompts(["", *PROMPTS]).map(as_double)
    generator = torch.Generator().manual_seed(5)
    mean, std = torch.rand(2, 2, 3, generator=generator, dtype=torch.float64).unbind()
    noise = torch.randn(2, *model.latent_shape, generator=generator, dtype=torch.float64)
    return Case(model, encoded[1:], encoded[[0, 0]], ColourStatistics(mean, std), noise)


@pytest.fixture(params=[False, True], ids=["plain", "self-conditioning"])
def case(request: pytest.FixtureRequest) -> Case:
    return build_case(self_conditioning=request.param)


def draw(case: Case, config: HldfConfig, conditioning: Conditioning, unconditional: Conditioning) -> Tensor:
    """Draw latents with the sampler users draw images with, every step in one graph."""
    latents, previous = case.noise, None
    steps = sampler_steps(case.model, config)
    for index, step in enumerate(steps):
        if config.truncate_last is not None and index == len(steps) - config.truncate_last:
            latents, previous = latents.detach(), None if previous is None else previous.detach()
        both = Conditioning.cat([unconditional, conditioning])
        model_pred = guided_prediction(
            case.model, latents, step.timestep, both, config.guidance_scale, previous
        )
        timesteps = torch.full((len(latents),), step.timestep)
        estimate = case.model.diffusion.clean_estimate(model_pred, latents, timesteps)
        no_noise = JobNoise((), case.model.latent_shape)
        latents, previous = apply_step(step, latents, estimate, previous, no_noise), estimate
    return latents


def draw_with_diffusers(
    case: Case,
    scheduler: DPMSolverMultistepScheduler,
    conditioning: Conditioning,
    unconditional: Conditioning,
    *,
    constant_unconditional: bool = False,
) -> Tensor:
    """Draw latents as a diffusers pipeline does, every step in one graph."""
    latents, estimate = case.noise, None
    for timestep in scheduler.timesteps:
        timesteps = timestep.expand(len(latents))
        previous = estimate if case.model.self_conditioning else None
        without = case.model.denoise(latents, timesteps, unconditional, previous)
        if constant_unconditional:
            without = without.detach()
        with_prompt = case.model.denoise(latents, timesteps, conditioning, previous)
        guided = without + GUIDANCE * (with_prompt - without)
        latents = scheduler.step(guided, timestep, latents).prev_sample
        estimate = scheduler.model_outputs[-1]
    return latents


class WideSolver(DPMSolverMultistepScheduler):  # type: ignore[misc]
    """The scheduler of diffusers with float64 in the two places where it narrows to float32."""

    def widen(self, diffusion: Diffusion) -> None:
        """Take the noise levels from float64; the last one is zero."""
        alphas = diffusion.alphas_cumprod[self.timesteps]
        self.sigmas = torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1, dtype=torch.float64)])

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> SimpleNamespace:
        """Choose the update as `DPMSolverMultistepScheduler.step` does, on a sample that keeps its dtype."""
        if self.step_index is None:
            self._init_step_index(timestep)
        estimate = self.convert_model_output(model_output, sample=sample)
        self.model_outputs: list[Any] = [self.model_outputs[1], estimate]
        if self.step_index in {0, len(self.timesteps) - 1}:
            sample = self.dpm_solver_first_order_update(estimate, sample=sample)
        else:
            sample = self.multistep_dpm_solver_second_order_update(self.model_outputs, sample=sample)
        self._step_index += 1
        return SimpleNamespace(prev_sample=sample)


def new_scheduler(
    num_steps: int, solver: type[DPMSolverMultistepScheduler] = DPMSolverMultistepScheduler
) -> DPMSolverMultistepScheduler:
    scheduler = solver(
        beta_start=0.002,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
    )
    scheduler.set_timesteps(num_steps)
    if isinstance(scheduler, WideSolver):
        scheduler.widen(TINY_MSDM.diffusion)
    return scheduler


def gradients_by_autograd(
    case: Case, config: HldfConfig, drawn: Callable[[Conditioning, Conditioning], Tensor]
) -> list[Tensor]:
    """Return the gradients on the parameters, then on the prompts and the empty prompts."""
    pair = [
        replace(part, prompt_embeds=part.prompt_embeds.clone().requires_grad_())
        for part in (case.conditioning, case.unconditional)
    ]
    weighted = config.factor * case.loss(drawn(*pair), config).mean()
    inputs = [*case.parameters, *(part.prompt_embeds for part in pair)]
    return list(torch.autograd.grad(weighted, inputs, materialize_grads=True))


def assert_same_gradients(result: HldfResult, case: Case, expected: list[Tensor], tolerance: float) -> None:
    """The largest difference is within the tolerance of the largest number, for all and for the prompts alone."""
    ours = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(case.parameters, result.gradients, strict=True)
    ]
    on_prompts = [
        gradients.get("prompt_embeds", torch.zeros_like(case.conditioning.prompt_embeds))
        for gradients in (result.conditioning_gradients, result.unconditional_gradients)
    ]
    for found, wanted in ((ours, expected[:-2]), (on_prompts, expected[-2:])):
        largest = max(float(gradient.abs().max()) for gradient in wanted)
        assert largest > 1e-6
        for one, other in zip(found, wanted, strict=True):
            assert float((one - other).abs().max()) <= tolerance * largest


@pytest.mark.parametrize(
    "config",
    [
        HldfConfig(),
        HldfConfig(num_inference_steps=1),
        HldfConfig(num_inference_steps=7, reduction="mean", weight=0.25),
        HldfConfig(num_inference_steps=7, unbiased_std=False, clamp=True),
        HldfConfig(num_inference_steps=7, solver="ddim"),
        HldfConfig(num_inference_steps=7, guidance_scale=2.0, truncate_last=3),
        HldfConfig(num_inference_steps=7, truncate_last=1),
    ],
    ids=["paper", "one step", "mean", "biased, clamped", "ddim", "last three", "last one"],
)
def test_gradient_is_that_of_autograd_through_the_same_sampler(case: Case, config: HldfConfig) -> None:
    expected = gradients_by_autograd(case, config, lambda c, u: draw(case, config, c, u))
    assert_same_gradients(case.gradients(config, with_conditioning=True), case, expected, 1e-10)


@pytest.mark.parametrize("num_steps", [10, 20])
@pytest.mark.parametrize(
    ("solver", "tolerance"),
    # As it is, the scheduler has its noise levels, and the sample between two steps, in float32.
    [(DPMSolverMultistepScheduler, 1e-6), (WideSolver, 1e-11)],
)
def test_gradient_is_that_of_autograd_through_the_scheduler_of_diffusers(
    case: Case, num_steps: int, solver: type[DPMSolverMultistepScheduler], tolerance: float
) -> None:
    config = HldfConfig(num_inference_steps=num_steps, guidance_scale=GUIDANCE)
    expected = gradients_by_autograd(
        case, config, lambda c, u: draw_with_diffusers(case, new_scheduler(num_steps, solver), c, u)
    )
    assert_same_gradients(case.gradients(config, with_conditioning=True), case, expected, tolerance)


def test_unconditional_half_can_be_held_constant(case: Case) -> None:
    config = HldfConfig(uncond_grad=False)
    expected = gradients_by_autograd(
        case,
        config,
        lambda c, u: draw_with_diffusers(
            case, new_scheduler(20, WideSolver), c, u, constant_unconditional=True
        ),
    )
    result = case.gradients(config, with_conditioning=True)
    assert_same_gradients(result, case, expected, 1e-10)
    assert result.unconditional_gradients == {}
    torch.testing.assert_close(result.loss, case.gradients(HldfConfig()).loss)


def test_constant_unconditional_half_changes_nothing_where_there_is_none() -> None:
    case = build_case()
    full, constant = (
        case.gradients(HldfConfig(num_inference_steps=4, guidance_scale=1, uncond_grad=flag))
        for flag in (True, False)
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(full.gradients, constant.gradients, strict=True)
        if a is not None and b is not None
    )
    assert [a is None for a in full.gradients] == [b is None for b in constant.gradients]


def test_guidance_of_some_channels_is_differentiated_as_it_is_drawn() -> None:
    case = build_case()
    config = HldfConfig(num_inference_steps=5, guided_channels=3)
    step_size = 1e-5
    parameter = case.model.denoiser.conv_out.bias
    gradient = case.gradients(config).gradients[-1]
    constant_half = case.gradients(config.model_copy(update={"uncond_grad": False}))
    assert parameter is case.parameters[-1]
    assert gradient is not None
    for channel in (0, 3):  # one that is guided, one that is not
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[channel] += sign * step_size
            result = case.gradients(config)
            losses.append(float(config.factor * result.loss.mean()))
            with torch.no_grad():
                parameter[channel] -= sign * step_size
        assert float(gradient[channel]) == pytest.approx((losses[0] - losses[1]) / (2 * step_size), rel=1e-6)
    torch.testing.assert_close(constant_half.loss, case.gradients(config).loss)


def test_a_flow_is_differentiated_through_its_euler_steps() -> None:
    case = build_case()
    case.model.diffusion = FlowMatching(shift=3.0)  # type: ignore[assignment]
    config = HldfConfig(num_inference_steps=8)
    expected = gradients_by_autograd(case, config, lambda c, u: draw(case, config, c, u))
    assert_same_gradients(case.gradients(config, with_conditioning=True), case, expected, 1e-10)


def test_slices_of_the_batch_give_the_gradient_of_the_batch(case: Case) -> None:
    config = HldfConfig(num_inference_steps=6)
    whole = case.gradients(config, with_conditioning=True)
    sliced = case.gradients(config, with_conditioning=True, slice_size=1)
    torch.testing.assert_close(sliced.loss, whole.loss)
    torch.testing.assert_close(sliced.gradients, whole.gradients)
    torch.testing.assert_close(sliced.conditioning_gradients, whole.conditioning_gradients)


def layer_names(text_model: nn.Module) -> list[str]:
    """Return the names of the encoder layers; versions of transformers nest them differently."""
    return [name for name, _ in text_model.named_modules() if name.rpartition("layers.")[2].isdigit()]


def test_gradient_from_prompts_reaches_the_text_encoder_through_both_halves() -> None:
    case = build_case()
    config = HldfConfig(num_inference_steps=6)
    text_model = case.model.prompt_encoder.text_model
    last_layer = dict(text_model.named_modules())[layer_names(text_model)[-1]]
    trained = [*case.parameters, *last_layer.parameters()]
    for parameter in trained:
        parameter.requires_grad_()
    result = hldf_gradients_of_prompts(case.model, PROMPTS, case.target, case.noise, config, trained)

    encoded = case.model.encode_prompts(["", *PROMPTS])
    latents = draw(case, config, encoded[1:], encoded[[0, 0]])
    weighted = config.factor * case.loss(latents, config).mean()
    expected = torch.autograd.grad(weighted, trained, allow_unused=True)
    on_text = expected[len(case.parameters) :]
    assert max(float(gradient.abs().max()) for gradient in on_text if gradient is not None) > 1e-7
    for one, other in zip(result.gradients, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            # Encoded prompts are float32, and so are their gradients.
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * float(other.abs().max() + 1e-12))


def saved_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes that graphs hold at one time for their way back."""
    alive: dict[int, int] = {}
    peak = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal peak
            self.tensor = tensor
            alive[id(self)] = tensor.nbytes
            peak = max(peak, sum(alive.values()))

        def __del__(self) -> None:
            alive.pop(id(self), None)

    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        run()
    return peak


def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    case = build_case()
    peaks = [
        saved_bytes(lambda m=m: case.gradients(HldfConfig(num_inference_steps=m)))  # type: ignore[misc]
        for m in (10, 40)
    ]
    config = HldfConfig(num_inference_steps=10)
    through_autograd = saved_bytes(
        lambda: gradients_by_autograd(case, config, lambda c, u: draw(case, config, c, u))
    )
    assert peaks[1] == pytest.approx(peaks[0], rel=0.1)
    assert through_autograd > 5 * peaks[0]


def test_casts_of_autocast_do_not_cut_the_gradient_off() -> None:
    case = build_case()
    for network in case.model.components().values():
        network.float()
    case = replace(
        case,
        conditioning=case.conditioning.map(lambda t: t.float() if t.is_floating_point() else t),
        unconditional=case.unconditional.map(lambda t: t.float() if t.is_floating_point() else t),
        noise=case.noise.float(),
    )
    config = HldfConfig(num_inference_steps=4)
    exact = case.gradients(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = case.gradients(config)
    assert [g is None for g in mixed.gradients] == [g is None for g in exact.gradients]
    pairs = [(a, b) for a, b in zip(mixed.gradients, exact.gradients, strict=True) if a is not None]
    ours, theirs = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))  # type: ignore[union-attr]
    assert float(nn.functional.cosine_similarity(ours, theirs, dim=0)) > 0.99


def test_dropout_is_off_while_images_are_drawn_and_on_again_after() -> None:
    case = build_case()
    calm = case.gradients(HldfConfig(num_inference_steps=3))
    case.model.denoiser.train()
    for layer in case.model.denoiser.modules():
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.p = 0.5
    before = {name: layer.training for name, layer in case.model.denoiser.named_modules()}
    trained = case.gradients(HldfConfig(num_inference_steps=3))
    torch.testing.assert_close(trained.loss, calm.loss)
    torch.testing.assert_close(trained.gradients, calm.gradients)
    assert {name: layer.training for name, layer in case.model.denoiser.named_modules()} == before


def test_a_wrapped_denoiser_is_not_synchronised_and_goes_on_training(tmp_path: Path) -> None:
    case = build_case()
    config = HldfConfig(num_inference_steps=3)
    alone, parameters = case.gradients(config), case.parameters
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        wrapped = DistributedDataParallel(case.model.denoiser, find_unused_parameters=True)
        case.model.denoiser = wrapped  # type: ignore[assignment]
        for _ in range(2):  # a reducer that waits for a backward pass refuses the second round
            timesteps = torch.full((2,), 500)
            model_pred = case.model.denoise(case.noise, timesteps, case.conditioning)
            torch.autograd.backward(model_pred.square().mean())
            before = [None if p.grad is None else p.grad.clone() for p in parameters]
            torch.testing.assert_close(case.gradients(config).gradients, alone.gradients)
            torch.testing.assert_close([p.grad for p in parameters], before)
    finally:
        torch.distributed.destroy_process_group()


def test_nothing_is_written_into_the_model() -> None:
    case = build_case()
    case.gradients(HldfConfig(num_inference_steps=3), with_conditioning=True)
    for network in case.model.components().values():
        assert all(parameter.grad is None for parameter in network.parameters())
    assert not case.conditioning.prompt_embeds.requires_grad


def test_a_step_against_the_gradient_lowers_the_loss() -> None:
    case = build_case()
    config = HldfConfig(num_inference_steps=5, weight=1.0)
    first = case.gradients(config)
    optimizer = torch.optim.SGD(case.parameters, lr=1e-3)
    add_gradients(case.parameters, first.gradients)
    optimizer.step()
    assert float(case.gradients(config).loss.mean()) < float(first.loss.mean())


def test_gradients_are_averaged_and_added_to_those_of_the_latent_loss() -> None:
    parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    parameters[0].grad = torch.tensor([1.0, 2.0])
    gradients = [torch.tensor([10.0, 20.0]), torch.tensor([4.0, 6.0]), None]
    add_gradients(parameters, gradients, average=lambda gradient: gradient / 2)
    assert [None if p.grad is None else p.grad.tolist() for p in parameters] == [
        [6.0, 12.0],
        [2.0, 3.0],
        None,
    ]


def test_the_loss_is_taken_at_every_nth_step() -> None:
    config = HldfConfig(every_steps=4)
    assert [step for step in range(12) if fires(step, config)] == [3, 7, 11]
    from_zero = HldfConfig(every_steps=4, include_step_zero=True)
    assert [step for step in range(12) if fires(step, from_zero)] == [0, 4, 8]


@pytest.mark.parametrize("include_step_zero", [False, True])
@pytest.mark.parametrize("num_steps", [0, 1, 7, 8, 9])
def test_evaluations_are_counted_as_they_fire(num_steps: int, include_step_zero: bool) -> None:
    config = HldfConfig(every_steps=4, include_step_zero=include_step_zero)
    assert num_evaluations(num_steps, config) == sum(fires(step, config) for step in range(num_steps))


@pytest.mark.parametrize("include_step_zero", [False, True])
def test_the_runs_of_the_paper_have_their_evaluations(include_step_zero: bool) -> None:
    kvasir = HldfConfig(every_steps=500, include_step_zero=include_step_zero)
    skin = HldfConfig(every_steps=1500, include_step_zero=include_step_zero)
    assert num_evaluations(96_000, kvasir) == 192
    assert num_evaluations(66_520, skin) == 44 + include_step_zero


def test_the_weight_of_the_paper_is_one_over_the_steps_of_the_sampler() -> None:
    assert HldfConfig(num_inference_steps=20).factor == 1 / 20
    assert HldfConfig(num_inference_steps=20, weight=0.5).factor == 0.5


def test_truncation_longer_than_the_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"truncate_last is 30, but the sampler has only 20 steps"):
        HldfConfig(truncate_last=30)


def test_batches_that_do_not_fit_are_named() -> None:
    case = build_case()
    with pytest.raises(ValueError, match="expected 2 targets, one for each row of noise, got 1"):
        replace(case, target=case.target[:1]).gradients(HldfConfig())
    with pytest.raises(ValueError, match=r"expected 2 empty prompts, .* got 1"):
        replace(case, unconditional=case.unconditional[:1]).gradients(HldfConfig())
    with pytest.raises(ValueError, match=r"noise must be \[B, 4, 4, 4\], got \(2, 3, 4, 4\)"):
        replace(case, noise=case.noise[:, :3]).gradients(HldfConfig())


def test_frozen_parameters_are_refused() -> None:
    case = build_case()
    case.parameters[3].requires_grad_(False)
    with pytest.raises(ValueError, match=r"parameter 3 of .* is frozen"):
        case.gradients(HldfConfig())


def test_a_model_without_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case = build_case()
    monkeypatch.setattr(case.model, "decodes_to_pixels", False, raising=False)
    with pytest.raises(ValueError, match="gives embeddings, which have no colours"):
        case.gradients(HldfConfig())
