import math

import pytest
import torch
from diffusers import DDPMScheduler
from medgen_models import Diffusion
from medgen_models.class_dit.tiny import TINY_DIT, tiny_autoencoder
from medgen_models.families.dit import new_dit
from medgen_training.losses import prediction_loss
from medgen_training.variational_bound import (
    Posterior,
    discretised_log_likelihood,
    gaussian_kl,
    hybrid_loss,
    variational_bound,
)
from torch import Tensor

DDPM = Diffusion("epsilon", "linear", beta_start=1e-4, beta_end=0.02)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_is_zero_between_equal_gaussians_and_positive_otherwise() -> None:
    mean, log_variance = draw(2, 50).unbind()
    assert not gaussian_kl(mean, log_variance, mean, log_variance).any()
    assert (gaussian_kl(mean, log_variance, mean + 0.1, log_variance) > 0).all()
    assert (gaussian_kl(mean, log_variance, mean, log_variance + 0.1) > 0).all()


def test_kl_agrees_with_the_independent_one() -> None:
    mean, log_variance, other_mean, other_log_variance = draw(4, 200).unbind()
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()),
        torch.distributions.Normal(other_mean, (0.5 * other_log_variance).exp()),
    )
    torch.testing.assert_close(gaussian_kl(mean, log_variance, other_mean, other_log_variance), expected)


@pytest.mark.parametrize("mean", [-3.0, -1.0, -0.2, 0.0, 0.999, 2.5])
@pytest.mark.parametrize("std", [0.001, 0.01, 0.3, 5.0])
def test_probabilities_of_all_levels_sum_to_one(mean: float, std: float) -> None:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    log_variance = torch.full_like(levels, 2 * math.log(std))
    log_probabilities = discretised_log_likelihood(levels, torch.full_like(levels, mean), log_variance)
    assert float(log_probabilities.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    assert (log_probabilities <= 0).all()


def test_likelihood_of_an_inner_level_is_the_integral_over_its_bin() -> None:
    level, normal = 101 * 2 / 255 - 1, torch.distributions.Normal(-0.18, 0.02)
    expected = normal.cdf(torch.tensor(level + 1 / 255)) - normal.cdf(torch.tensor(level - 1 / 255))
    value = torch.tensor(level, dtype=torch.float64)
    mean, log_variance = torch.tensor(-0.18).double(), torch.tensor(2 * math.log(0.02)).double()
    ours = discretised_log_likelihood(value, mean, log_variance).exp()
    assert float(ours) == pytest.approx(float(expected), rel=1e-5)


def test_likelihood_far_out_keeps_its_value_and_its_gradient() -> None:
    # 50 standard deviations away the probability is no number any more, its logarithm is.
    mean = torch.tensor([0.5, -0.5], dtype=torch.float32, requires_grad=True)
    log_variance = torch.full((2,), 2 * math.log(0.01))
    log_likelihood = discretised_log_likelihood(torch.zeros(2), mean, log_variance)
    edge = (0.5 - 1 / 255) / 0.01
    assert log_likelihood.tolist() == pytest.approx(
        [-(edge**2) / 2 - math.log(edge * math.sqrt(2 * math.pi))] * 2, rel=1e-3
    )
    log_likelihood.sum().backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == pytest.approx([-edge / 0.01, edge / 0.01], rel=1e-2)


def test_posterior_follows_from_bayes_rule() -> None:
    # q(z_{t-1} | z_t, x) is proportional to q(z_t | z_{t-1}) q(z_{t-1} | x): precisions add.
    t, (x, z) = 300, draw(2, 1, 1, 1, 1).unbind()
    before, beta = float(DDPM.alphas_cumprod[t - 1]), 1e-4 + (0.02 - 1e-4) * t / 999
    precision = (1 - beta) / beta + 1 / (1 - before)
    mean = (math.sqrt(1 - beta) * z / beta + math.sqrt(before) * x / (1 - before)) / precision
    posterior, timesteps = Posterior(DDPM), torch.tensor([t])
    torch.testing.assert_close(posterior.mean(x, z, timesteps), mean)
    assert float(posterior.log_variance[t]) == pytest.approx(-math.log(precision))
    assert float(posterior.log_beta[t]) == pytest.approx(math.log(beta))


def test_posterior_at_the_first_timestep_is_the_clean_latents() -> None:
    x, z = draw(2, 3, 4, 2, 2).unbind()
    posterior = Posterior(DDPM)
    torch.testing.assert_close(posterior.mean(x, z, torch.zeros(3, dtype=torch.long)), x)
    assert math.isfinite(float(posterior.log_variance[0]))
    assert float(posterior.log_variance[0]) == float(posterior.log_variance[1])


@pytest.mark.parametrize("timestep", [1, 2, 50, 500, 999])
def test_learned_variance_agrees_with_the_independent_scheduler(timestep: int) -> None:
    scheduler = DDPMScheduler(1000, 1e-4, 0.02, "linear", variance_type="learned_range")
    variance_pred = draw(1, 4, 2, 2).float()
    theirs = scheduler._get_variance(timestep, predicted_variance=variance_pred)
    ours = Posterior(DDPM).learned_log_variance(variance_pred, torch.tensor([timestep]))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_bound_vanishes_at_the_true_noise_and_the_lower_variance() -> None:
    latents, noise = draw(2, 3, 4, 4, 4).unbind()
    timesteps = torch.tensor([1, 400, 999])
    noisy_latents = DDPM.add_noise(latents, noise, timesteps)
    lower = torch.full_like(latents, -1.0)
    bound = variational_bound(DDPM, latents, noisy_latents, timesteps, noise, lower)
    torch.testing.assert_close(bound, torch.zeros(3).double(), rtol=0, atol=1e-9)
    assert (variational_bound(DDPM, latents, noisy_latents, timesteps, noise, -lower) > 0).all()
    assert (variational_bound(DDPM, latents, noisy_latents, timesteps, noise + 0.1, lower) > 0).all()


def test_bound_of_a_wrong_noise_has_its_closed_form() -> None:
    # At the lower variance the bound is (difference of means)^2 / (2 variance), in bits.
    t, error = 400, 0.25
    latents, noise = draw(2, 1, 4, 4, 4).unbind()
    timesteps = torch.tensor([t])
    noisy_latents = DDPM.add_noise(latents, noise, timesteps)
    bound = variational_bound(
        DDPM, latents, noisy_latents, timesteps, noise + error, torch.full_like(latents, -1.0)
    )
    alpha, before = float(DDPM.alphas_cumprod[t]), float(DDPM.alphas_cumprod[t - 1])
    beta = 1 - alpha / before
    variance = beta * (1 - before) / (1 - alpha)
    shift = beta / math.sqrt((1 - alpha) * (1 - beta)) * error  # Ho et al. 2020, eq. 11
    assert float(bound) == pytest.approx(shift**2 / (2 * variance) / math.log(2), rel=1e-9)


def test_first_timestep_counts_the_bits_of_the_discretised_likelihood() -> None:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64).view(1, 4, 8, 8)
    timesteps, noise = torch.tensor([0]), draw(1, 4, 8, 8)
    noisy_latents = DDPM.add_noise(levels, noise, timesteps)
    upper = torch.ones_like(levels)
    bound = variational_bound(DDPM, levels, noisy_latents, timesteps, noise, upper)
    # Standard deviation sqrt(1e-4) about the level itself: half a bin is 0.392 of it; the outer bins hold more.
    half_bin = 1 / 255 / 0.01
    inner, outer = math.erf(half_bin / math.sqrt(2)), 0.5 + 0.5 * math.erf(half_bin / math.sqrt(2))
    expected = -(254 * math.log2(inner) + 2 * math.log2(outer)) / 256
    assert float(bound) == pytest.approx(expected, rel=1e-6)


def test_every_sample_has_the_bound_it_has_alone() -> None:
    latents, noise, variance_pred, error = draw(4, 3, 4, 4, 4).unbind()
    timesteps = torch.tensor([0, 10, 700])
    model_pred = noise + 0.1 * error
    together = hybrid_loss(DDPM, latents, noise, timesteps, model_pred, variance_pred)
    assert together.shape == (3,)
    for row in range(3):
        one = slice(row, row + 1)
        alone = hybrid_loss(
            DDPM, latents[one], noise[one], timesteps[one], model_pred[one], variance_pred[one]
        )
        torch.testing.assert_close(alone, together[one])


def test_bound_trains_the_variance_and_never_the_prediction() -> None:
    latents, noise, prediction, variance = draw(4, 3, 4, 4, 4).unbind()
    timesteps = torch.tensor([0, 10, 700])
    model_pred, variance_pred = prediction.clone().requires_grad_(), variance.clone().requires_grad_()
    hybrid_loss(DDPM, latents, noise, timesteps, model_pred, variance_pred).sum().backward()
    assert model_pred.grad is not None
    assert variance_pred.grad is not None
    assert variance_pred.grad.flatten(1).any(dim=1).all()
    simple = prediction.clone().requires_grad_()
    prediction_loss(simple, noise, "l2").sum().backward()
    torch.testing.assert_close(model_pred.grad, simple.grad)


def test_weight_scales_the_bound_and_zero_leaves_the_prediction_loss() -> None:
    latents, noise, model_pred, variance_pred = draw(4, 2, 4, 4, 4).unbind()
    timesteps = torch.tensor([5, 800])
    losses = [
        hybrid_loss(DDPM, latents, noise, timesteps, model_pred, variance_pred, kind="l1", vb_weight=weight)
        for weight in (0.0, 1.0, 3.0)
    ]
    torch.testing.assert_close(losses[0].float(), prediction_loss(model_pred, noise, "l1"))
    torch.testing.assert_close(losses[2] - losses[0], 3 * (losses[1] - losses[0]))


def test_best_constant_variance_is_learned_from_the_bound() -> None:
    # With a wrong mean the best variance is the posterior's plus the squared error of the mean.
    t = 20
    latents, noise, error = draw(3, 1, 4, 16, 16).unbind()
    timesteps = torch.tensor([t])
    noisy_latents = DDPM.add_noise(latents, noise, timesteps)
    model_pred = noise + 0.3 * error
    posterior = Posterior(DDPM)
    share = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([share], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        bound = variational_bound(
            DDPM, latents, noisy_latents, timesteps, model_pred, share.expand_as(latents)
        ).sum()
        bound.backward()
        return bound

    optimizer.step(closure)
    estimate = DDPM.clean_estimate(model_pred, noisy_latents, timesteps)
    means = [posterior.mean(clean, noisy_latents, timesteps) for clean in (latents, estimate)]
    best = posterior.log_variance[t].exp() + (means[0] - means[1]).square().mean()
    learned = posterior.learned_log_variance(share.detach().view(1, 1, 1, 1), timesteps).exp()
    assert float(learned) == pytest.approx(float(best), rel=1e-5)


def test_half_precision_predictions_are_weighed_in_the_precision_of_the_latents() -> None:
    latents, noise, model_pred, variance_pred = (part.float() for part in draw(4, 2, 4, 4, 4).unbind())
    timesteps = torch.tensor([0, 800])
    loss = hybrid_loss(DDPM, latents, noise, timesteps, model_pred.bfloat16(), variance_pred.bfloat16())
    exact = hybrid_loss(DDPM, latents, noise, timesteps, model_pred, variance_pred)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.0)


def test_real_denoiser_learns_one_batch_with_its_variance() -> None:
    model = new_dit(TINY_DIT, tiny_autoencoder(), ["normal cecum", "polyps"], seed=0)
    latents, noise = (part.float() for part in draw(2, 4, *model.latent_shape).unbind())
    timesteps = torch.tensor([0, 30, 400, 900])
    conditioning = model.encode_prompts(["polyps", "normal cecum", "", "polyps"])
    noisy_latents = model.diffusion.add_noise(latents, noise, timesteps)

    def parts() -> tuple[Tensor, Tensor]:
        prediction = model.denoise_with_variance(noisy_latents, timesteps, conditioning)
        weights = (0.0, 1.0)
        simple, hybrid = (
            hybrid_loss(model.diffusion, latents, noise, timesteps, *prediction, vb_weight=weight)
            for weight in weights
        )
        return simple, hybrid - simple

    optimizer = torch.optim.AdamW((p for p in model.denoiser.parameters() if p.requires_grad), lr=3e-3)
    (first_simple, first_bound) = (part.detach() for part in parts())
    for _ in range(300):
        simple, bound = parts()
        optimizer.zero_grad()
        (simple + bound).mean().backward()
        optimizer.step()
    last_simple, last_bound = (part.detach() for part in parts())
    assert (last_simple < 0.1 * first_simple).all()
    assert (last_bound < 0.5 * first_bound).all()
