import math

import pytest
import torch
from medgen_models import LatentMoments
from medgen_training.losses import kl_divergence, prediction_loss, structural_similarity


def test_prediction_losses_have_their_closed_forms() -> None:
    pred, target = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, -3.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert prediction_loss(pred, target, "l1").tolist() == [1.0, 3.0]
    assert prediction_loss(pred, target, "l2").tolist() == [1.0, 9.0]


def test_kl_is_zero_at_the_prior_and_closed_form_elsewhere() -> None:
    shape = (1, 2, 3, 3)
    assert float(kl_divergence(LatentMoments(torch.zeros(shape), torch.ones(shape)))) == pytest.approx(0.0)
    shifted = LatentMoments(torch.full(shape, 2.0), torch.full(shape, 0.5))
    expected = 18 * 0.5 * (4 + 0.25 - 1 - math.log(0.25))
    assert float(kl_divergence(shifted)) == pytest.approx(expected)


def test_ssim_is_one_on_itself_and_falls_with_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 24, 24, generator=generator, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(structural_similarity(images, images), torch.ones(2, dtype=torch.float64))
    values = [float(structural_similarity(images, images + s * noise).mean()) for s in (0.01, 0.1, 0.5)]
    assert values == sorted(values, reverse=True)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    a, b = torch.full((1, 1, 16, 16), 0.3).double(), torch.full((1, 1, 16, 16), 0.6).double()
    expected = (2 * 0.3 * 0.6 + 1e-4) / (0.09 + 0.36 + 1e-4)
    assert float(structural_similarity(a, b)) == pytest.approx(expected)


def test_ssim_refuses_images_smaller_than_its_window() -> None:
    with pytest.raises(ValueError, match=r"at least 11 px on each side, got \(8, 8\)"):
        structural_similarity(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))
