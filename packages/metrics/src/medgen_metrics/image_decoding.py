"""Files -> pixels: how the bytes of one image become 8-bit RGB.

Decoding refuses rather than guesses: a file that cannot be read as one opaque picture is an error that names
it. 16-bit grey images, common in radiology, are scaled linearly from a stated range; a value outside it is an
error, never a silent clip.

Shapes: H x W the size of an image.
"""

import io
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from medgen_metrics.image_archives import ArchiveError, read_member, split_archive_path

FULL_16_BIT = (0, 65535)
MAX_PIXELS = 64_000_000

# What Pillow's parsers raise on broken files of their format.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})


class ImageFileError(ValueError):
    """An image file that cannot be scored; says which file, what is wrong and what to do."""

    def __init__(self, image_file: Path, problem: str) -> None:
        super().__init__(f"{image_file}: {problem}")
        self.image_file = image_file


@dataclass(frozen=True)
class ImageFacts:
    """What the header of an image file says."""

    width: int
    height: int
    file_format: str  # "PNG", "JPEG", ...
    is_16_bit: bool


def read_image_bytes(image_file: Path) -> bytes:
    """Read a file or a member of a zip archive, naming it if that fails.

    Raises:
        ImageFileError: If it is missing, unreadable or empty.
    """
    in_archive = None if image_file.is_file() else split_archive_path(image_file)
    try:
        content = image_file.read_bytes() if in_archive is None else read_member(*in_archive)
    except FileNotFoundError:
        raise ImageFileError(image_file, "no such file") from None
    except OSError as error:
        raise ImageFileError(image_file, f"cannot be read ({error.strerror})") from error
    except ArchiveError as error:
        raise ImageFileError(image_file, str(error).removeprefix(f"{image_file}: ")) from error
    if not content:
        raise ImageFileError(image_file, "is empty; copy or generate it again")
    return content


def inspect_image(content: bytes, image_file: Path) -> ImageFacts:
    """Read the header of an image only.

    Raises:
        ImageFileError: If it is no image, too large, animated or of an unknown kind.
    """
    with _open(content, image_file) as image:
        return ImageFacts(image.width, image.height, str(image.format), _is_16_bit(image))


def decode_image(
    content: bytes,
    image_file: Path,
    *,
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT,
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """Decode one image to 8-bit RGB, upright according to its EXIF orientation.

    Args:
        content: The bytes of the file.
        image_file: Its path, for messages.
        sixteen_bit_range: The grey values of a 16-bit image that become 0 and 255, e.g. (0, 4095) for a
            12-bit scan.
        max_pixels: Images with more pixels are refused before they are unpacked.

    Returns:
        Pixels, [3, H, W] uint8.

    Raises:
        ImageFileError: If the file is broken, too large, animated, transparent, or outside the 16-bit range.
    """
    with _open(content, image_file, max_pixels=max_pixels) as image:
        try:
            # Before `load`, which forgets how the file stores its samples.
            is_16_bit = _is_16_bit(image)
            image.load()
            upright = ImageOps.exif_transpose(image)
        except _DAMAGE as error:
            raise ImageFileError(image_file, f"is damaged ({error}); copy or generate it again") from error
        if is_16_bit:
            pixels = _from_16_bit(upright, image_file, sixteen_bit_range)
        else:
            pixels = _from_8_bit(upright, image_file)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def find_sixteen_bit_range(image_files: Iterable[Path]) -> tuple[int, int]:
    """Find the least and the largest grey value of all 16-bit grey images in these files.

    One range for every set of a comparison: a range of its own for each image would hide how bright it is.

    Returns:
        (least, largest), at least one apart; the full range if no file is a 16-bit grey image.

    Raises:
        ImageFileError: If a file cannot be decoded.
    """
    lowest, highest = [], []
    for image_file in image_files:
        with _open(read_image_bytes(image_file), image_file) as image:
            if image.mode != "I" and not image.mode.startswith("I;16"):
                continue
            try:
                grey = np.asarray(image)
            except _DAMAGE as error:
                raise ImageFileError(
                    image_file, f"is damaged ({error}); copy or generate it again"
                ) from error
            lowest.append(int(grey.min()))
            highest.append(int(grey.max()))
        if lowest[-1] < 0:
            raise ImageFileError(
                image_file, f"has grey values down to {lowest[-1]}; shift them to 0 and above"
            )
    return (min(lowest), max(*highest, min(lowest) + 1)) if lowest else FULL_16_BIT


def _open(content: bytes, image_file: Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        num_frames = int(getattr(image, "n_frames", 1))
    except UnidentifiedImageError:
        raise ImageFileError(image_file, "is not an image in a known format") from None
    except Image.DecompressionBombError as error:
        raise ImageFileError(image_file, f"is too large ({error}); scale it down") from error
    except _DAMAGE as error:
        raise ImageFileError(image_file, f"is damaged ({error}); copy or generate it again") from error
    if image.width * image.height > max_pixels:
        raise ImageFileError(
            image_file,
            f"has {image.width} x {image.height} pixels, at most {max_pixels:,} are allowed; scale it down",
        )
    if num_frames > 1:
        raise ImageFileError(image_file, f"holds {num_frames} frames, expected one picture; split it")
    if image.mode not in _EIGHT_BIT_MODES and not _is_16_bit(image):
        raise ImageFileError(image_file, f"has pixels of kind {image.mode!r}; save it as 8-bit or 16-bit PNG")
    return image


def _is_16_bit(image: Image.Image) -> bool:
    # PNG colour at 16 bits opens as "RGB"; only the raw mode of its tile tells.
    tile_modes = [str(tile[3]) for tile in getattr(image, "tile", ())]
    return image.mode == "I" or image.mode.startswith("I;16") or any(";16" in mode for mode in tile_modes)


def _from_16_bit(
    image: Image.Image, image_file: Path, sixteen_bit_range: tuple[int, int]
) -> NDArray[np.uint8]:
    lowest, highest = sixteen_bit_range
    if not 0 <= lowest < highest:
        raise ValueError(f"sixteen_bit_range must be 0 <= lowest < highest, got {sixteen_bit_range}")
    if image.mode != "I" and not image.mode.startswith("I;16"):
        # Pillow has already taken the upper 8 bits of each 16-bit colour sample.
        if sixteen_bit_range != FULL_16_BIT:
            raise ImageFileError(
                image_file, "is 16-bit colour, which is read over its full range only; convert it"
            )
        return _from_8_bit(image, image_file)
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < lowest or grey.max() > highest:
        raise ImageFileError(
            image_file,
            f"has grey values {grey.min()}..{grey.max()} outside sixteen_bit_range {lowest}..{highest}; "
            "give a range that holds all images",
        )
    scaled = np.rint((grey - lowest) * (255.0 / (highest - lowest))).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)


def _from_8_bit(image: Image.Image, image_file: Path) -> NDArray[np.uint8]:
    if image.mode in {"LA", "PA", "RGBA"} or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] != 255:
            raise ImageFileError(
                image_file, "has transparent pixels, whose colour is undefined; flatten it first"
            )
    return np.array(image.convert("RGB"))
