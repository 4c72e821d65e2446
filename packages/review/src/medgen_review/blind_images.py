"""Images as a rater may see them: nothing but the picture, and every picture in the same form.

Every image of a study is decoded, oriented, brought to one square of RGB pixels and encoded as PNG *without
compression*. A compressed file is longer where a model draws more texture, so its length names the model; here
the length is a function of the side alone, and so is the work of the browser. No metadata, profile or text of the
source survives, as only pixels are passed on.

Names are keyed hashes of the *place* (rater, page, letter, index), not of the image: the same image has another
name for every rater and page, and no two names can be linked, whatever is known of the images.
"""

import functools
import hashlib
import hmac
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from medgen_review.schedule import Page
from medgen_review.study import StudyError, StudyImage

MAX_PIXELS = 64_000_000
# The same for every image; nothing of the file's date, length or hash.
IMAGE_HEADERS: Mapping[str, str] = {
    "Content-Type": "image/png",
    "Cache-Control": "private, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FORMATS = ("PNG", "JPEG")  # what a data set holds
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    KeyError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ShownImage:
    """A place of an image: `index` counts in the grid as shown, `letter` may be `REFERENCES`."""

    page: int
    letter: str
    index: int


class ImageNames:
    """Names of images in addresses, by the secret of the study."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < 16:
            raise ValueError(f"secret must be 16 bytes or more, got {len(secret)}")
        self._key = hmac.digest(secret, b"image names", "sha256")

    def name(self, rater_number: int, shown: ShownImage) -> str:
        """Return the name of a place: 32 hexadecimal digits."""
        place = f"{rater_number}/{shown.page}/{shown.letter}/{shown.index}".encode("ascii")
        return hmac.digest(self._key, place, "sha256")[:16].hex()

    def table(self, rater_number: int, pages: Sequence[Page]) -> Mapping[str, ShownImage]:
        """Return the place behind each name of a rater; no other rater has any of these names."""
        places = (
            ShownImage(page.number, letter, index)
            for page in pages
            for letter, order in page.image_orders.items()
            for index in range(len(order))
        )
        return {self.name(rater_number, shown): shown for shown in places}


def read_unchanged(study_dir: Path, image: StudyImage) -> bytes:
    """Return the bytes of an image file of a study.

    Raises:
        StudyError: If the file is missing or another than when the study was made.
    """
    file = study_dir / image.file
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StudyError(
            f"{file}: cannot be read ({error.strerror}); put the images back where they were for the study"
        ) from error
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise StudyError(f"{file}: was changed after the study was made; restore it, or create a new study")
    return content


def blind_png(
    content: bytes, *, side: int, framing: Literal["whole", "centre"] = "whole", name: str = "image"
) -> bytes:
    """Return an image file as an uncompressed PNG of `side` x `side` RGB pixels without metadata.

    Args:
        content: A PNG or JPEG file.
        side: Pixels.
        framing: `whole` adds black bars to what is no square, `centre` cuts off what is outside the centre square.
        name: For messages.

    Returns:
        A PNG file of exactly `blind_png_length(side)` bytes.

    Raises:
        StudyError: If the file is no image, damaged, animated or too large.
    """
    picture = decode(content, name)
    square = (
        ImageOps.fit(picture, (side, side), Image.Resampling.BICUBIC)
        if framing == "centre"
        else ImageOps.pad(picture, (side, side), Image.Resampling.BICUBIC, color=(0, 0, 0))
    )
    return _plain_png(np.asarray(square, dtype=np.uint8))


@functools.cache
def blind_png_length(side: int) -> int:
    """Return the length in bytes of every image of a study with this side."""
    return len(_plain_png(np.zeros((side, side, 3), dtype=np.uint8)))


def decode(content: bytes, name: str) -> Image.Image:
    """Decode a PNG or JPEG file to RGB: oriented by its EXIF tag, its colours brought to sRGB.

    Transparent pixels become black; grey of 16 bits is stretched from the range that occurs to 0..255.

    Raises:
        StudyError: If the file is no image, damaged, animated or larger than 64 megapixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd tags: only pixels matter here
            with Image.open(io.BytesIO(content), formats=_FORMATS) as source:
                if source.width * source.height > MAX_PIXELS:
                    raise StudyError(
                        f"{name}: {source.width} x {source.height} pixels, at most {MAX_PIXELS} are read"
                    )
                if getattr(source, "n_frames", 1) > 1:
                    raise StudyError(f"{name}: is animated; give one picture per file")
                source.load()
                return _to_rgb(ImageOps.exif_transpose(source))
    except UnidentifiedImageError as error:
        raise StudyError(f"{name}: is no PNG or JPEG image; replace or remove it") from error
    except StudyError:
        raise
    except _BROKEN as error:
        raise StudyError(f"{name}: is damaged ({error}); replace or remove it") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # more than 8 bits of grey
        levels = np.asarray(picture, dtype=np.float64)
        lowest, highest = levels.min(), levels.max()
        scaled = (levels - lowest) * (255 / max(highest - lowest, 1))
        return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
    profile = picture.info.get("icc_profile")
    if "A" in picture.getbands() or "transparency" in picture.info:
        layered = picture.convert("RGBA")
        ground = Image.new("RGBA", layered.size, (0, 0, 0, 255))
        rgb = Image.alpha_composite(ground, layered).convert("RGB")
    elif profile and picture.mode in ("L", "CMYK"):
        return _to_srgb(picture, profile)
    else:
        rgb = picture.convert("RGB")
    return _to_srgb(rgb, profile) if profile else rgb


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    srgb = ImageCms.createProfile("sRGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(picture, source, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture.convert("RGB")  # browsers, too, ignore a profile that does not fit its picture
    assert converted is not None  # only with inPlace
    return converted


def _plain_png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    # Level 0 stores: the length depends on the size alone.
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=0)
    return stream.getvalue()
