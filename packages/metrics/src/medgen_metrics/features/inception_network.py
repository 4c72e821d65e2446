"""The Inception network of the Frechet inception distance, as TensorFlow published it in December 2015.

Inception-v3 (Szegedy et al. 2016) with four departures that every comparable score depends on: average pools
do not count their padding; the last block pools by maximum; the stem has no padding but in its third
convolution; there are 1008 classes. Attribute names are those of the published PyTorch conversion.

Shapes: B images, S = 299.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pool = Literal["average", "max", "max-stride"]
NUM_CLASSES = 1008


class Conv(NamedTuple):
    """One convolution of a block: attribute name, channels out, kernel, stride."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1


# Each branch is a chain of steps; the outputs of convolutions that share a step stand side by side.
Step = tuple[Conv, ...]
Branch = tuple[Step, ...]


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU; padded to keep the size unless it strides or is told not to."""

    def __init__(self, in_channels: int, spec: Conv, *, padded: bool = True) -> None:
        super().__init__()
        keep = spec.stride == 1 and padded
        padding = (spec.kernel[0] // 2, spec.kernel[1] // 2) if keep else (0, 0)
        self.conv: nn.Module = nn.Conv2d(
            in_channels, spec.channels, spec.kernel, spec.stride, padding, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(spec.channels, eps=1e-3)

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply the unit, [B, C, H, W] to [B, C', H', W']."""
        return F.relu(self.bn(self.conv(hidden)), inplace=True)

    def fold(self) -> None:
        """Merge the batch norm into the convolution, in place."""
        if isinstance(self.conv, nn.Conv2d) and isinstance(self.bn, nn.BatchNorm2d):
            self.conv, self.bn = fuse_conv_bn_eval(self.conv, self.bn), nn.Identity()


class MixedBlock(nn.Module):
    """Parallel branches of convolutions and a pool, side by side in the result."""

    def __init__(
        self, in_channels: int, branches: tuple[Branch, ...], *, pool: Pool, pool_channels: int = 0
    ) -> None:
        super().__init__()
        self._branches = branches
        self._pool = pool
        for branch in branches:
            channels = in_channels
            for step in branch:
                for spec in step:
                    self.add_module(spec.name, ConvUnit(channels, spec))
                channels = sum(spec.channels for spec in step)
        self.branch_pool: nn.Module = (
            ConvUnit(in_channels, Conv("branch_pool", pool_channels)) if pool_channels else nn.Identity()
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply the block, [B, C, H, W] to [B, C', H', W']."""
        outputs = [self._run(branch, hidden) for branch in self._branches]
        return torch.cat([*outputs, self.branch_pool(_pooled(hidden, self._pool))], dim=1)

    def _run(self, branch: Branch, hidden: Tensor) -> Tensor:
        for step in branch:
            outputs = [self.get_submodule(spec.name)(hidden) for spec in step]
            hidden = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return hidden


def _pooled(hidden: Tensor, pool: Pool) -> Tensor:
    match pool:
        case "average":
            return F.avg_pool2d(hidden, 3, stride=1, padding=1, count_include_pad=False)
        case "max":
            return F.max_pool2d(hidden, 3, stride=1, padding=1)
        case "max-stride":
            return F.max_pool2d(hidden, 3, stride=2)


def _block_a(in_channels: int, pool_channels: int) -> MixedBlock:
    branches: tuple[Branch, ...] = (
        ((Conv("branch1x1", 64),),),
        ((Conv("branch5x5_1", 48),), (Conv("branch5x5_2", 64, (5, 5)),)),
        (
            (Conv("branch3x3dbl_1", 64),),
            (Conv("branch3x3dbl_2", 96, (3, 3)),),
            (Conv("branch3x3dbl_3", 96, (3, 3)),),
        ),
    )
    return MixedBlock(in_channels, branches, pool="average", pool_channels=pool_channels)


def _block_b(in_channels: int) -> MixedBlock:
    branches: tuple[Branch, ...] = (
        ((Conv("branch3x3", 384, (3, 3), 2),),),
        (
            (Conv("branch3x3dbl_1", 64),),
            (Conv("branch3x3dbl_2", 96, (3, 3)),),
            (Conv("branch3x3dbl_3", 96, (3, 3), 2),),
        ),
    )
    return MixedBlock(in_channels, branches, pool="max-stride")


def _block_c(in_channels: int, inner: int) -> MixedBlock:
    row, column = (1, 7), (7, 1)
    branches: tuple[Branch, ...] = (
        ((Conv("branch1x1", 192),),),
        (
            (Conv("branch7x7_1", inner),),
            (Conv("branch7x7_2", inner, row),),
            (Conv("branch7x7_3", 192, column),),
        ),
        (
            (Conv("branch7x7dbl_1", inner),),
            (Conv("branch7x7dbl_2", inner, column),),
            (Conv("branch7x7dbl_3", inner, row),),
            (Conv("branch7x7dbl_4", inner, column),),
            (Conv("branch7x7dbl_5", 192, row),),
        ),
    )
    return MixedBlock(in_channels, branches, pool="average", pool_channels=192)


def _block_d(in_channels: int) -> MixedBlock:
    branches: tuple[Branch, ...] = (
        ((Conv("branch3x3_1", 192),), (Conv("branch3x3_2", 320, (3, 3), 2),)),
        (
            (Conv("branch7x7x3_1", 192),),
            (Conv("branch7x7x3_2", 192, (1, 7)),),
            (Conv("branch7x7x3_3", 192, (7, 1)),),
            (Conv("branch7x7x3_4", 192, (3, 3), 2),),
        ),
    )
    return MixedBlock(in_channels, branches, pool="max-stride")


def _block_e(in_channels: int, pool: Pool) -> MixedBlock:
    branches: tuple[Branch, ...] = (
        ((Conv("branch1x1", 320),),),
        (
            (Conv("branch3x3_1", 384),),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            (Conv("branch3x3dbl_1", 448),),
            (Conv("branch3x3dbl_2", 384, (3, 3)),),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
    )
    return MixedBlock(in_channels, branches, pool=pool, pool_channels=192)


class FidInception(nn.Module):
    """The network, with the attribute names of the published PyTorch conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, Conv("", 32, (3, 3), 2))
        self.Conv2d_2a_3x3 = ConvUnit(32, Conv("", 32, (3, 3)), padded=False)
        self.Conv2d_2b_3x3 = ConvUnit(32, Conv("", 64, (3, 3)))
        self.Conv2d_3b_1x1 = ConvUnit(64, Conv("", 80))
        self.Conv2d_4a_3x3 = ConvUnit(80, Conv("", 192, (3, 3)), padded=False)
        self.Mixed_5b = _block_a(192, 32)
        self.Mixed_5c = _block_a(256, 64)
        self.Mixed_5d = _block_a(288, 64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, 128)
        self.Mixed_6c = _block_c(768, 160)
        self.Mixed_6d = _block_c(768, 160)
        self.Mixed_6e = _block_c(768, 192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, "average")
        self.Mixed_7c = _block_e(2048, "max")
        self.fc = nn.Linear(2048, NUM_CLASSES)

    def forward(self, pixel_values: Tensor, width: int = 2048) -> Tensor:
        """Return pooled activations, [B, width], of normalised images, [B, 3, 299, 299].

        Args:
            pixel_values: [B, 3, S, S].
            width: Where to stop: 64, 192 (after the first and second pool), 768 (before the second
                reduction) or 2048 (the end).
        """
        for reached, hidden in self._stages(pixel_values):
            if reached == width:
                return hidden.mean(dim=(2, 3))
        raise ValueError(f"width must be 64, 192, 768 or 2048, got {width}")

    def _stages(self, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
        hidden = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(hidden)))
        hidden = F.max_pool2d(hidden, 3, stride=2)  # [B, 64, 73, 73]
        yield 64, hidden
        hidden = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(hidden))
        hidden = F.max_pool2d(hidden, 3, stride=2)  # [B, 192, 35, 35]
        yield 192, hidden
        hidden = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(hidden)))
        hidden = self.Mixed_6b(self.Mixed_6a(hidden))
        hidden = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(hidden)))  # [B, 768, 17, 17]
        yield 768, hidden
        yield 2048, self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(hidden)))  # [B, 2048, 8, 8]

    def fold(self) -> None:
        """Merge every batch norm into the convolution before it, in place; equal up to rounding, and faster.

        The network must be in eval mode.
        """
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fold()
