"""Views under which a copy may hide: flips and crops.

A mirrored copy is found by mirroring it back, a copy with a margin around it by cropping, and a copy with its edges
cut off by cropping the training images instead. Held-out images are seen in the same ways, so looking several times
costs no false positives.

Shapes: B images, H x W their size, S the size a network takes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from medgen_metrics.features.protocol import FeatureExtractor
from medgen_metrics.preprocessing import Preprocessing

CROPPED_SHARE = 0.1  # of each side

# Where the window of a crop lies: 0 is the top or left edge, 1 the bottom or right one.
_PLACES = {
    "centre": (0.5, 0.5),
    "top-left": (0.0, 0.0),
    "top-right": (0.0, 1.0),
    "bottom-left": (1.0, 0.0),
    "bottom-right": (1.0, 1.0),
}


def crop(images: Tensor, place: str) -> Tensor:
    """Cut a tenth off the height and the width, [B, 3, H, W] to about [B, 3, 0.9 H, 0.9 W].

    Args:
        images: [B, 3, H, W].
        place: "centre" or a corner, e.g. "top-left": what is kept.
    """
    for dim, share in zip((-2, -1), _PLACES[place], strict=True):
        size = images.shape[dim]
        kept = max(1, round(size * (1 - CROPPED_SHARE)))
        images = images.narrow(dim, round((size - kept) * share), kept)
    return images


def _crop_at(place: str) -> Callable[[Tensor], Tensor]:
    return lambda images: crop(images, place)


# View -> what it does to images of one size, [B, 3, H, W].
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda images: images,
    "flip-horizontal": lambda images: images.flip(-1),
    "flip-vertical": lambda images: images.flip(-2),
    **{f"crop-{place}": _crop_at(place) for place in _PLACES},
}
CROPS = tuple(name for name in VIEWS if name.startswith("crop-"))


@dataclass(frozen=True)
class ViewedPreprocessing(Preprocessing):
    """A view, then the preprocessing of a network; named so that no cache mixes views up."""

    view: str = "identity"
    then: Preprocessing = field(default_factory=lambda: Preprocessing(1, (0, 0, 0), (1, 1, 1)))

    @property
    def name(self) -> str:
        """Name of both steps; that of the network alone for the identity, whose cached features are shared."""
        return self.then.name if self.view == "identity" else f"{self.view}, {self.then.name}"

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images of one size, [B, 3, H, W] uint8, as [B, 3, S, S] float32."""
        return self.then(VIEWS[self.view](images))


class ViewedExtractor:
    """`FeatureExtractor` that sees every image under one view."""

    def __init__(self, extractor: FeatureExtractor, view: str) -> None:
        """Wrap an extractor.

        Args:
            extractor: The network.
            view: A key of `VIEWS`.

        Raises:
            ValueError: If there is no such view.
        """
        if view not in VIEWS:
            raise ValueError(f"no view {view!r}; expected one of {', '.join(VIEWS)}")
        own = extractor.preprocessing
        self.id, self.sha256, self.dim = extractor.id, extractor.sha256, extractor.dim
        self.comparable = extractor.comparable
        self.revision, self.cautions = extractor.revision, extractor.cautions
        self.preprocessing: Preprocessing = ViewedPreprocessing(
            own.size, own.mean, own.std, own.resize, own.shortest_edge, view=view, then=own
        )
        self._extractor = extractor

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images))

    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of preprocessed images, [B, 3, S, S]."""
        return self._extractor.from_pixel_values(pixel_values)
