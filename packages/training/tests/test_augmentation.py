import torch
from medgen_training.augmentation import NO_JITTER, ColourJitter


def test_no_strength_changes_nothing() -> None:
    images = torch.rand(2, 3, 4, 4) * 2 - 1
    assert NO_JITTER(images, torch.Generator()) is images


def test_brightness_scales_each_image_by_one_factor_within_its_strength() -> None:
    images = torch.full((64, 3, 2, 2), 0.4) - 1  # level 0.2 of 1
    jittered = ColourJitter(brightness=0.3)(images, torch.Generator().manual_seed(0))
    factors = ((jittered + 1) / 0.4).flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    assert 0.7 <= float(factors.min()) < 0.8
    assert 1.2 < float(factors.max()) <= 1.3


def test_contrast_keeps_the_mean_grey() -> None:
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
    jittered = ColourJitter(contrast=0.5)(images, torch.Generator().manual_seed(0))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    before, after = ((t * weights).sum(dim=1).mean(dim=(1, 2)) for t in (images, jittered))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    assert not torch.allclose(images, jittered)


def test_saturation_keeps_the_grey_of_every_pixel_and_scales_its_colour() -> None:
    images = torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(1)) * 0.4 - 0.2
    jittered = ColourJitter(saturation=0.5)(images, torch.Generator().manual_seed(0))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    before, after = ((t * weights).sum(dim=1, keepdim=True) for t in (images, jittered))
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    factors = ((jittered - after).abs().sum(dim=(1, 2, 3))) / ((images - before).abs().sum(dim=(1, 2, 3)))
    torch.testing.assert_close(
        jittered - after, (images - before) * factors.view(-1, 1, 1, 1), rtol=0, atol=1e-6
    )
    assert 0.5 <= float(factors.min()) < 1 < float(factors.max()) <= 1.5


def test_a_strength_of_zero_leaves_the_draws_of_the_others_alone() -> None:
    images = torch.rand(4, 3, 4, 4) * 2 - 1
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    both = ColourJitter(0.3, 0.3)(images, generators[0])
    brightness = ColourJitter(0.3)(images, generators[1])
    assert not torch.equal(both, brightness)
    assert torch.equal(generators[0].get_state(), generators[1].get_state())


def test_input_is_left_as_it_was() -> None:
    images = torch.rand(2, 3, 4, 4)
    copy = images.clone()
    ColourJitter(0.5, 0.5, 0.5)(images, torch.Generator())
    assert torch.equal(images, copy)
