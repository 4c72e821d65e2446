import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from medgen_models import Diffusion
from medgen_models.diffusion import FlowMatching, NoiseProcess, PredictionType
from medgen_models.solver import solver_steps

PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v", "sample")


def draws(num: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, num, 4, 3, 3, generator=generator, dtype=torch.float64).unbind()
    timesteps = torch.randint(1000, (num,), generator=generator)
    return latents, noise, timesteps


def test_schedule_of_msdm_has_the_published_end_points() -> None:
    diffusion = Diffusion()
    assert float(diffusion.alphas_cumprod[0]) == pytest.approx(1 - 0.002)
    assert float(diffusion.alphas_cumprod[-1]) == pytest.approx(7.47e-5, rel=1e-3)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled-linear"])
def test_schedule_equals_diffusers(beta_schedule: str) -> None:
    ours = Diffusion(beta_schedule=beta_schedule)  # type: ignore[arg-type]
    theirs = DDIMScheduler(
        beta_start=0.002,
        beta_end=0.02,
        beta_schedule=beta_schedule.replace("-", "_"),
        num_train_timesteps=1000,
    )
    torch.testing.assert_close(ours.alphas_cumprod.float(), theirs.alphas_cumprod, rtol=1e-4, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_perfect_prediction_gives_back_the_clean_latents(prediction_type: PredictionType) -> None:
    diffusion = Diffusion(prediction_type=prediction_type)
    latents, noise, timesteps = draws()
    noisy = diffusion.add_noise(latents, noise, timesteps)
    estimate = diffusion.clean_estimate(diffusion.target(latents, noise, timesteps), noisy, timesteps)
    torch.testing.assert_close(estimate, latents)


def test_noising_keeps_unit_variance() -> None:
    diffusion = Diffusion()
    signal, sigma = diffusion._scales(torch.arange(1000), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(signal.square() + sigma.square(), torch.ones_like(signal))


def test_v_target_is_orthogonal_to_the_noisy_latents() -> None:
    """With z = a x + s e and v = a e - s x, <z, v> = 0 whenever |x| = |e| and <x, e> = 0."""
    diffusion = Diffusion(prediction_type="v")
    latents = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    noise = torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64)
    timesteps = torch.tensor([400])
    z = diffusion.add_noise(latents, noise, timesteps)
    v = diffusion.target(latents, noise, timesteps)
    assert float((z * v).sum()) == pytest.approx(0.0, abs=1e-15)


def test_signal_to_noise_falls() -> None:
    ratios = Diffusion().signal_to_noise(torch.arange(1000))
    assert bool((ratios[1:] < ratios[:-1]).all())


def test_cosine_schedule_is_the_one_of_the_paper() -> None:
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(
        Diffusion(beta_schedule="cosine").alphas_cumprod.float(), theirs, rtol=1e-4, atol=1e-7
    )


def test_flow_velocity_leads_back_to_the_image_and_to_the_noise() -> None:
    flow = FlowMatching()
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64)
    timesteps = flow.draw_timesteps(3, generator)
    noisy = flow.add_noise(latents, noise, timesteps)
    velocity = flow.target(latents, noise, timesteps)
    torch.testing.assert_close(flow.clean_estimate(velocity, noisy, timesteps), latents)
    levels = flow.sigmas(timesteps, noisy)
    torch.testing.assert_close(noisy + (1 - levels) * velocity, noise)


def test_euler_steps_are_those_of_diffusers() -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=[1 - i / 7 for i in range(7)])
    steps = solver_steps("euler", FlowMatching(shift=3.0), 7)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 3, 3, generator=generator)
    ours = latents.clone()
    for step, timestep in zip(steps, theirs.timesteps, strict=True):
        assert step.timestep == pytest.approx(float(timestep), rel=1e-6)
        velocity = torch.sin(3 * latents) + float(timestep) / 1000
        own_velocity = torch.sin(3 * ours) + step.timestep / 1000
        latents = theirs.step(velocity, timestep, latents).prev_sample
        estimate = FlowMatching().clean_estimate(own_velocity, ours, torch.full((2,), step.timestep))
        ours = step.c_latents * ours + step.c_estimate * estimate
    torch.testing.assert_close(ours, latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("solver", "process"),
    [("dpm-solver++", FlowMatching()), ("euler", Diffusion())],
    ids=["flow", "diffusion"],
)
def test_a_solver_for_the_other_kind_of_process_is_refused(solver: str, process: NoiseProcess) -> None:
    with pytest.raises(ValueError, match="use "):
        solver_steps(solver, process, 4)  # type: ignore[arg-type]
