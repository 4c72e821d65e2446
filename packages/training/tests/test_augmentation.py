import torch
from medgen_training.augmentation import jitter_colours


def test_no_strength_changes_nothing() -> None:
    images = torch.rand(2, 3, 4, 4) * 2 - 1
    assert jitter_colours(images, brightness=0, contrast=0, generator=torch.Generator()) is images


def test_brightness_scales_each_image_by_one_factor_within_its_strength() -> None:
    images = torch.full((64, 3, 2, 2), 0.4) - 1  # level 0.2 of 1
    jittered = jitter_colours(images, brightness=0.3, contrast=0, generator=torch.Generator().manual_seed(0))
    factors = ((jittered + 1) / 0.4).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert 0.7 <= float(factors.min()) < 0.8
    assert 1.2 < float(factors.max()) <= 1.3


def test_contrast_keeps_the_mean_grey() -> None:
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
    jittered = jitter_colours(images, brightness=0, contrast=0.5, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    before, after = ((t * weights).sum(dim=1).mean(dim=(1, 2)) for t in (images, jittered))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    assert not torch.allclose(images, jittered)


def test_input_is_left_as_it_was() -> None:
    images = torch.rand(2, 3, 4, 4)
    copy = images.clone()
    jitter_colours(images, brightness=0.5, contrast=0.5, generator=torch.Generator())
    assert torch.equal(images, copy)
