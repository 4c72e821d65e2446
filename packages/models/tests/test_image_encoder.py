import json
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_models.errors import MissingModelError, UnusableModelError
from medgen_models.image_encoder import PROCESSOR_FILE, ClipImageEncoder, load_clip_image_encoder
from medgen_models.model_source import ModelSource
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_prior
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_kandinsky22_prior(tmp_path / "prior")


@pytest.fixture
def encoder(folder: Path) -> ClipImageEncoder:
    return load_clip_image_encoder(ModelSource(str(folder)))


@pytest.mark.parametrize(("height", "width"), [(96, 96), (41, 75), (75, 40), (20, 33), (32, 32)])
def test_images_are_prepared_as_by_the_processor_of_clip(
    encoder: ClipImageEncoder, height: int, width: int
) -> None:
    pixels = np.random.default_rng(0).integers(60, 196, (height, width, 3), dtype=np.uint8)
    expected = encoder.processor()(Image.fromarray(pixels), return_tensors="pt").pixel_values
    prepared = encoder.prepare(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1)
    assert prepared.shape == expected.shape == (1, 3, 32, 32)
    # The processor rounds to 256 levels after each of two passes (and cuts overshoot, which there is none of here);
    # the smallest standard deviation is 0.26.
    assert (prepared - expected).abs().max() < 1.5 / 255 / 0.26


def test_embeddings_are_those_of_the_prepared_pixels(encoder: ClipImageEncoder) -> None:
    pixel_values = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    by_hand = (pixel_values / 2 + 0.5 - torch.tensor(encoder.mean).view(3, 1, 1)) / torch.tensor(
        encoder.std
    ).view(3, 1, 1)
    expected = encoder.network(by_hand).image_embeds
    torch.testing.assert_close(encoder.encode(pixel_values), expected)
    assert torch.equal(encoder.encode_zeros(), encoder.network(torch.zeros(1, 3, 32, 32)).image_embeds)
    assert expected.shape == (2, encoder.width)


def test_gradients_reach_the_pixels_through_the_resizing(encoder: ClipImageEncoder) -> None:
    pixel_values = torch.zeros(1, 3, 48, 48, requires_grad=True)
    torch.autograd.backward(encoder.encode(pixel_values).sum())
    assert pixel_values.grad is not None
    assert (pixel_values.grad != 0).float().mean() > 0.99


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("crop_size", {"height": 30, "width": 30}, "crop_size is 30, but the image encoder sees 32 px"),
        ("image_mean", None, "image_mean is None; expected three numbers"),
        ("image_std", [0.5], r"image_std is \[0\.5\]; expected three numbers"),
    ],
)
def test_a_processor_that_does_not_fit_is_refused(
    folder: Path, field: str, value: object, message: str
) -> None:
    file = folder / PROCESSOR_FILE
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {field: value}))
    with pytest.raises(UnusableModelError, match=message):
        load_clip_image_encoder(ModelSource(str(folder)))


def test_a_missing_processor_is_named(folder: Path) -> None:
    (folder / PROCESSOR_FILE).unlink()
    with pytest.raises(MissingModelError, match=r"preprocessor_config\.json: no such file"):
        load_clip_image_encoder(ModelSource(str(folder)))
