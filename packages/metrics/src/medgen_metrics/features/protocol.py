"""What a score may ask of any feature extractor."""

from typing import Protocol

from torch import Tensor

from medgen_metrics.preprocessing import Preprocessing


class MissingWeightsError(FileNotFoundError):
    """The weights of an extractor are not on this machine; says where to get them."""


class FeatureExtractor(Protocol):
    """A frozen network from images to feature vectors.

    The result for an image must not depend on which others are in its batch, beyond float rounding.
    """

    @property
    def id(self) -> str:
        """Name, e.g. "efficientnet-lite0"."""
        ...

    @property
    def sha256(self) -> str:
        """Content hash of the weights: two extractors with one hash give one feature."""
        ...

    @property
    def revision(self) -> str | None:
        """Commit of the hub repository that the weights came from; None if they came from elsewhere."""
        ...

    @property
    def dim(self) -> int:
        """Feature width D."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels are brought into the network."""
        ...

    @property
    def comparable(self) -> bool:
        """Whether scores in this feature space mean anything outside one run; random weights do not."""
        ...

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader of any score in this feature space should know; empty if all is as published."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of images of one size, [B, 3, H, W] uint8."""
        ...

    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of preprocessed images, [B, 3, S, S]."""
        ...
