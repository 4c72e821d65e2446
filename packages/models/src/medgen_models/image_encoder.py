"""The image tower of a CLIP: pixels to the embeddings that a prior learns to guess.

Shapes: B batch, S side of the images that the tower sees, E width of the embeddings.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from medgen_models.errors import UnusableModelError
from medgen_models.model_source import ModelSource

PROCESSOR_FILE = "image_processor/preprocessor_config.json"


@dataclass(frozen=True)
class ClipImageEncoder:
    """A frozen image tower with the preparation of its images, which gradients can pass.

    Attributes:
        network: A `CLIPVisionModelWithProjection`.
        mean: Mean that is taken off every channel, of pixels in [0, 1].
        std: Standard deviation that every channel is divided by.
    """

    network: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def image_size(self) -> int:
        """Side of the images that the tower sees, S."""
        return int(self.network.config.image_size)

    @property
    def width(self) -> int:
        """Width of the embeddings, E."""
        return int(self.network.config.projection_dim)

    def prepare(self, pixel_values: Tensor) -> Tensor:
        """Return images [B, 3, H, W] in [-1, 1] as the tower wants them, [B, 3, S, S].

        As CLIP's processor: the short side becomes S (bicubic, smoothed), the centre is cut out, channels are
        normalised; but without its rounding to 256 levels in between.
        """
        size = self.image_size
        height, width = pixel_values.shape[-2:]
        scaled = [max(size, int(size * side / min(height, width))) for side in (height, width)]
        images = pixel_values
        if (height, width) != tuple(scaled):
            images = F.interpolate(images, scaled, mode="bicubic", antialias=True, align_corners=False)
        top, left = ((side - size) // 2 for side in scaled)
        images = images[..., top : top + size, left : left + size].clamp(-1, 1)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (images * 0.5 + 0.5 - mean) / std

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Embed images [B, 3, H, W] in [-1, 1], [B, E], float32 or better."""
        return self._embed(self.prepare(pixel_values))

    def encode_zeros(self) -> Tensor:
        """Return the embedding of no image, [1, E]: prepared pixels of zero, which are CLIP's mean colour."""
        size = self.image_size
        return self._embed(torch.zeros(1, 3, size, size, device=self.network.device))

    def processor(self) -> Any:
        """Return the preparation as the processor that diffusers pipelines keep."""
        size = self.image_size
        return CLIPImageProcessor(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=list(self.mean),
            image_std=list(self.std),
        )

    def _embed(self, prepared: Tensor) -> Tensor:
        embeddings = self.network(prepared.to(self.network.dtype)).image_embeds
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def load_clip_image_encoder(source: ModelSource) -> ClipImageEncoder:
    """Load the image tower of a pipeline folder: `image_encoder` and `image_processor`.

    Raises:
        MissingModelError: If either is not to be had.
        UnusableModelError: If the weights are pickled, or the two do not agree.
    """
    processor = source.json_file(PROCESSOR_FILE)
    network = source.module(CLIPVisionModelWithProjection, "image_encoder")
    size = network.config.image_size
    crop = processor.get("crop_size")
    crop_size = crop.get("height") if isinstance(crop, dict) else crop
    if crop_size != size:
        raise UnusableModelError(
            f"{source.name_or_dir}/{PROCESSOR_FILE}: crop_size is {crop_size!r}, but the image encoder sees "
            f"{size} px; take both from one repository"
        )
    colours = {}
    for field in ("image_mean", "image_std"):
        values = processor.get(field)
        if not isinstance(values, list) or len(values) != 3:
            raise UnusableModelError(
                f"{source.name_or_dir}/{PROCESSOR_FILE}: {field} is {values!r}; expected three numbers"
            )
        colours[field] = tuple(float(value) for value in values)
    return ClipImageEncoder(network, colours["image_mean"], colours["image_std"])
