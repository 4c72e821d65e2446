import pytest
import torch
from medgen_models import PRESETS, MsdmAutoencoder
from medgen_models.msdm.linear_start import has_linear_path, patches, start_at_principal_components
from torch import Tensor


def autoencoder(**changes: object) -> MsdmAutoencoder:
    settings: dict[str, object] = {
        "channels": (4, 12, 48),
        "latent_channels": 5,
        "num_groups": 4,
        "upsampling": "pixel-shuffle",
    }
    torch.manual_seed(0)
    return MsdmAutoencoder(**(settings | changes))  # type: ignore[arg-type]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def smooth_images() -> Tensor:
    """Return images [12, 3, 16, 16] of neighbouring pixels that resemble each other, in [-1, 1]."""
    noise = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(noise, size=16, mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def decoded(vae: MsdmAutoencoder, images: Tensor) -> Tensor:
    return vae.decode(vae.encode(images).mean)


def test_an_autoencoder_with_room_for_all_pixels_starts_as_the_identity() -> None:
    vae, images = autoencoder(channels=(4, 12, 52), latent_channels=48), smooth_images()
    start_at_principal_components(vae, images, seeded())
    torch.testing.assert_close(decoded(vae, images), images, atol=1e-5, rtol=0)


def test_fewer_channels_project_each_patch_on_the_principal_components() -> None:
    vae, images = autoencoder(), smooth_images()
    start_at_principal_components(vae, images, seeded())
    values = patches(images, 4).double()
    mean = values.mean(dim=0)
    _, _, directions = torch.linalg.svd(values - mean, full_matrices=False)
    projected = (values - mean) @ directions[:5].T @ directions[:5] + mean
    assert (projected - values).square().mean() < 0.2 * (values - mean).square().mean()  # no empty test
    torch.testing.assert_close(patches(decoded(vae, images), 4), projected.float(), atol=1e-4, rtol=0)


def test_latents_are_uncorrelated_and_the_first_has_unit_variance() -> None:
    vae, images = autoencoder(), smooth_images()
    start_at_principal_components(vae, images, seeded())
    with torch.no_grad():
        moments = vae.encode(images)
    covariance = torch.cov(moments.mean.transpose(0, 1).flatten(1), correction=0)
    assert covariance[0, 0].item() == pytest.approx(1, abs=1e-4)
    assert (covariance.diag().diff() <= 1e-6).all()
    torch.testing.assert_close(covariance, covariance.diag().diag(), atol=1e-4, rtol=0)
    assert moments.std.max() < 0.02


def test_every_weight_that_matters_gets_a_gradient() -> None:
    vae, images = autoencoder(), smooth_images()
    start_at_principal_components(vae, images, seeded())
    reconstruction, _ = vae(images, torch.randn(12, 5, 4, 4))
    (reconstruction.pixel_values - images).square().mean().backward()
    gains = [p for name, p in vae.named_parameters() if name.endswith("norm.weight")]
    assert len(gains) == 12
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in gains)


def test_the_result_does_not_depend_on_the_random_weights_before_it() -> None:
    images = smooth_images()
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        vae = MsdmAutoencoder((4, 12, 48), 5, 4, upsampling="pixel-shuffle")
        start_at_principal_components(vae, images, seeded())
        results.append(decoded(vae, images))
    assert torch.equal(*results)


def test_the_tiny_preset_has_a_linear_path_and_the_published_one_has_not() -> None:
    with torch.device("meta"):
        assert has_linear_path(PRESETS["msdm-tiny"].build_autoencoder())
        assert not has_linear_path(PRESETS["msdm-256"].build_autoencoder())


@pytest.mark.parametrize(
    "changes", [{"upsampling": "nearest"}, {"channels": (4, 8, 48)}, {"latent_channels": 49}]
)
def test_an_architecture_without_a_linear_path_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs pixel-shuffle upsampling, stages at least 3, 12, 48"):
        start_at_principal_components(autoencoder(**changes), smooth_images(), seeded())


def test_too_few_patches_are_refused() -> None:
    vae = autoencoder(channels=(4, 12, 52), latent_channels=48)
    with pytest.raises(ValueError, match="48 components need as many patches, got 16"):
        start_at_principal_components(vae, smooth_images()[:1], seeded())
