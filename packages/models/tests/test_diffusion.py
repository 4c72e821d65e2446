import pytest
import torch
from diffusers import DDIMScheduler
from medgen_models import Diffusion
from medgen_models.diffusion import PredictionType

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
