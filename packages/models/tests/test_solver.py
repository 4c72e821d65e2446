import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from medgen_models import Diffusion, SolverStep, ddim_steps, dpm_solver_steps
from medgen_models.solver import highest_timestep, solver_steps
from torch import Tensor


def denoiser(z: Tensor, timestep: int) -> Tensor:
    """Return some smooth prediction, so that two samplers can be compared."""
    return torch.tanh(z * 0.7 + timestep / 1000) + 0.1 * z.flip(-1)


def run(steps: list[SolverStep], diffusion: Diffusion, z: Tensor) -> Tensor:
    previous = torch.zeros_like(z)
    for step in steps:
        timesteps = torch.full((len(z),), step.timestep)
        estimate = diffusion.clean_estimate(denoiser(z, step.timestep), z, timesteps)
        z = step.c_latents * z + step.c_estimate * estimate + step.c_previous * previous
        previous = estimate
    return z


@pytest.mark.parametrize("num_steps", [5, 14, 15, 20, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v"])
def test_dpm_solver_equals_diffusers(num_steps: int, prediction_type: str) -> None:
    diffusion = Diffusion(prediction_type=prediction_type)  # type: ignore[arg-type]
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.002,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if prediction_type == "v" else "epsilon",
        algorithm_type="dpmsolver++",
        solver_order=2,
    )
    scheduler.set_timesteps(num_steps)
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = noise
    for timestep in scheduler.timesteps:
        z = scheduler.step(denoiser(z, int(timestep)), timestep, z).prev_sample
    steps = dpm_solver_steps(diffusion, num_steps)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()
    # The scheduler keeps its table of sigmas in float32, which bounds the agreement.
    torch.testing.assert_close(run(steps, diffusion, noise), z, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("num_steps", [5, 20])
def test_noise_prediction_on_the_cosine_schedule_starts_below_its_end(num_steps: int) -> None:
    diffusion = Diffusion("epsilon", "cosine")
    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2",
        algorithm_type="dpmsolver++",
        lambda_min_clipped=-5.1,
    )
    scheduler.set_timesteps(num_steps)
    steps = dpm_solver_steps(diffusion, num_steps)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()
    assert (
        steps[0].timestep == ddim_steps(diffusion, num_steps)[0].timestep == highest_timestep(diffusion) < 999
    )
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = noise
    for timestep in scheduler.timesteps:
        z = scheduler.step(denoiser(z, int(timestep)), timestep, z).prev_sample
    # The first estimate is 164 times the noise; it is that which the tolerance is relative to.
    torch.testing.assert_close(run(steps, diffusion, noise), z, rtol=1e-4, atol=1e-3)


def test_all_other_schedules_are_sampled_from_their_end() -> None:
    others = [
        Diffusion("v", "cosine"),
        Diffusion("sample", "cosine"),
        Diffusion("epsilon"),
        Diffusion("epsilon", "linear", 1e-4, 0.02),
        Diffusion("epsilon", "scaled-linear", 0.00085, 0.012),
    ]
    assert [highest_timestep(diffusion) for diffusion in others] == [999] * 5
    assert highest_timestep(Diffusion("epsilon", "cosine")) == 995


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_one_ddim_step_equals_diffusers(eta: float) -> None:
    diffusion = Diffusion()
    scheduler = DDIMScheduler(
        beta_start=0.002,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(2)  # 999 -> 499 in both
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 2, 4, 3, 3, generator=generator, dtype=torch.float64).unbind()
    expected = scheduler.step(denoiser(z, 999), 999, z, eta=eta, variance_noise=noise).prev_sample
    step = ddim_steps(diffusion, 3, eta)[0]
    assert (step.timestep, ddim_steps(diffusion, 3, eta)[1].timestep) == (999, 499)
    estimate = diffusion.clean_estimate(denoiser(z, 999), z, torch.full((2,), 999))
    ours = step.c_latents * z + step.c_estimate * estimate + step.c_noise * noise
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_an_oracle_is_followed_to_the_clean_latents(num_steps: int) -> None:
    for steps in (dpm_solver_steps(Diffusion(), num_steps), ddim_steps(Diffusion(), num_steps)):
        z = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        clean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
        for step in steps:
            z = step.c_latents * z + (step.c_estimate + step.c_previous) * clean
        torch.testing.assert_close(z, clean)


@pytest.mark.parametrize("solver", ["dpm-solver++", "ddim"])
def test_coefficients_carry_signal_and_noise_to_the_next_level(solver: str) -> None:
    """With x0 known, z = a x + s e must become a' x + s' e exactly: a linear identity of the coefficients."""
    diffusion = Diffusion()
    steps = solver_steps(solver, diffusion, 10)  # type: ignore[arg-type]
    for step, following in itertools.pairwise(steps):
        a = float(diffusion.alphas_cumprod[step.timestep])
        a_next = float(diffusion.alphas_cumprod[following.timestep])
        assert step.c_latents * (1 - a) ** 0.5 == pytest.approx((1 - a_next) ** 0.5)
        carried = step.c_latents * a**0.5 + step.c_estimate + step.c_previous
        assert carried == pytest.approx(a_next**0.5)


def test_ddim_timesteps_are_those_of_msdm() -> None:
    expected = torch.linspace(0, 999, 150, dtype=torch.float64).long().flip(0).tolist()
    assert [step.timestep for step in ddim_steps(Diffusion(), 150, eta=1.0)] == pytest.approx(expected, abs=1)


def test_eta_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(ValueError, match=r"eta = 0\.5 has no meaning for dpm-solver\+\+"):
        solver_steps("dpm-solver++", Diffusion(), 10, eta=0.5)


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_impossible_numbers_of_steps_are_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"num_inference_steps must lie in \[1, 1000\], got {num_steps}"):
        ddim_steps(Diffusion(), num_steps)
