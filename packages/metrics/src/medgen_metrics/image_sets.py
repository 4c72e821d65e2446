"""Image sets: which files a set holds, and how a file or an array becomes 8-bit RGB pixels.

A set is a folder, a zip archive, or either with a `metadata.jsonl` whose rows say what belongs to it.
Decoding refuses rather than guesses: a file that cannot be read as one opaque picture is an error that names
it. 16-bit grey images, common in radiology, are scaled linearly from a stated range; a value outside it is an
error, never a silent clip.
"""

import io
import json
import logging
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from medgen_metrics.image_archives import (
    ArchiveError,
    is_archive,
    is_safe_name,
    list_members,
    read_member,
    split_archive_path,
)

logger = logging.getLogger(__name__)

ROWS_NAME = "metadata.jsonl"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
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


@dataclass(frozen=True)
class ImageRow:
    """One image of a set, with the other fields of its row in `metadata.jsonl`, if there is one."""

    file: Path
    fields: Mapping[str, object]


def list_image_files(source: Path) -> tuple[Path, ...]:
    """List the images of a set; suffixes in any case, hidden files left out.

    Args:
        source: Folder or zip archive. If there is a `metadata.jsonl` at its top, its rows are the set, in
            their order; otherwise every image below it, sorted. Images of an archive are named
            `set.zip/polyps/001.png`.

    Raises:
        FileNotFoundError: If there is no such folder or archive, or a row names a file that is not there.
        ValueError: If it holds no image, or a row is malformed.
    """
    return tuple(row.file for row in list_image_rows(source))


def list_image_rows(source: Path) -> tuple[ImageRow, ...]:
    """List the images of a set with their metadata, as `list_image_files` does.

    Raises:
        FileNotFoundError: If there is no such folder or archive, or a row names a file that is not there.
        ValueError: If it holds no image, or a row is malformed.
    """
    if is_archive(source):
        names = list_members(source)
    elif source.is_dir():
        names = _visible_files(source)
    else:
        raise FileNotFoundError(f"{source}: expected a folder of images or a .zip archive of them")
    images = [name for name in names if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise ValueError(
            f"{source}: no images found, expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    if ROWS_NAME not in names:
        return tuple(ImageRow(source / name, {}) for name in images)
    rows = _read_rows(source, frozenset(images))
    num_left_out = len(images) - len({row.file for row in rows})
    if num_left_out:
        logger.warning("%s: %d images have no row in %s, left out", source, num_left_out, ROWS_NAME)
    return rows


def _visible_files(folder: Path) -> tuple[str, ...]:
    names = []
    for file in folder.rglob("*"):
        relative = file.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts) and file.is_file():
            names.append(relative)
    return tuple(name.as_posix() for name in sorted(names))


def _read_rows(source: Path, images: frozenset[str]) -> tuple[ImageRow, ...]:
    rows_file = source / ROWS_NAME
    try:
        lines = read_image_bytes(rows_file).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{rows_file}: is not UTF-8 ({error}); write it again") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{rows_file}, line {number}: is not JSON ({error})") from error
        name = row.get("file_name") if isinstance(row, dict) else None
        if not isinstance(name, str) or not is_safe_name(name):
            raise ValueError(
                f"{rows_file}, line {number}: expected an object with file_name, a path below {source}, "
                f"got {line[:80]}"
            )
        if name not in images:
            raise FileNotFoundError(f"{rows_file}, line {number}: {name} is no image of {source}")
        rows.append(ImageRow(source / name, {key: row[key] for key in row if key != "file_name"}))
    if not rows:
        raise ValueError(f"{rows_file}: has no rows; delete it to take every image of {source}")
    return tuple(rows)


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


def as_uint8_images(
    images: Tensor | NDArray[np.generic] | Sequence[NDArray[np.generic]],
    *,
    value_range: tuple[float, float] | None = None,
    sixteen_bit_range: tuple[int, int] | None = None,
) -> Tensor:
    """Bring images that are in memory into the one shape extractors take.

    Args:
        images: Tensor [B, 3, H, W], or array(s) with the channels last: [B, H, W, 3] or a list of [H, W, 3]
            of one size; one channel is grey. uint8, or float or uint16 with its range stated: whether floats
            reach to 1 or to 255 would be a guess.
        value_range: The float values that become 0 and 255, e.g. (0, 1) or (-1, 1). Values somewhat outside,
            as decoders of latents give them, are clamped; half the range beyond is another range, and refused.
        sixteen_bit_range: The uint16 values that become 0 and 255; none may lie outside.

    Returns:
        The images, [B, 3, H, W] uint8; new memory unless they were that already.

    Raises:
        ValueError: If type, shape or range is another, or a value is not finite.
    """
    if isinstance(images, Tensor):
        batch = images
    else:
        array = images if isinstance(images, np.ndarray) else np.stack(list(images))
        if array.ndim != 4 or array.shape[-1] not in {1, 3}:
            raise ValueError(f"image arrays must be [B, H, W, 3] or [B, H, W, 1], got {array.shape}")
        batch = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
    if batch.ndim != 4 or batch.shape[1] not in {1, 3} or 0 in batch.shape:
        raise ValueError(f"image tensors must be [B, 3, H, W] or [B, 1, H, W], got {tuple(batch.shape)}")
    if batch.is_floating_point():
        batch = _from_floats(batch, value_range)
    elif value_range is not None:
        raise ValueError(f"value_range is for float images, got {batch.dtype}; leave it out")
    elif batch.dtype == torch.uint16:
        batch = _from_uint16(batch, sixteen_bit_range)
    elif batch.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, float or uint16, got {batch.dtype}; convert them first")
    return batch if batch.shape[1] == 3 else batch.expand(-1, 3, -1, -1)


def _from_floats(batch: Tensor, value_range: tuple[float, float] | None) -> Tensor:
    if value_range is None:
        raise ValueError(
            f"images must be uint8 in 0..255, got {batch.dtype}; state the range of floats, e.g. "
            "value_range=(0, 1) or (-1, 1)"
        )
    lowest, highest = value_range
    if not lowest < highest:
        raise ValueError(f"value_range must be (lowest, highest), got {value_range}")
    values = batch.detach().double()
    if not torch.isfinite(values).all():
        raise ValueError("image tensors hold NaN or infinity; generate them again")
    least, most, slack = float(values.min()), float(values.max()), (highest - lowest) / 2
    if least <= lowest - slack or most >= highest + slack:
        raise ValueError(
            f"image values reach from {least:g} to {most:g}, far outside value_range {lowest:g}..{highest:g}; "
            "state the range they have"
        )
    return ((values - lowest) * (255.0 / (highest - lowest))).round().clamp(0, 255).to(torch.uint8)


def _from_uint16(batch: Tensor, sixteen_bit_range: tuple[int, int] | None) -> Tensor:
    if sixteen_bit_range is None:
        raise ValueError("uint16 images need sixteen_bit_range, the values that become 0 and 255")
    lowest, highest = sixteen_bit_range
    if not 0 <= lowest < highest:
        raise ValueError(f"sixteen_bit_range must be 0 <= lowest < highest, got {sixteen_bit_range}")
    values = batch.to(torch.int64)
    least, most = int(values.min()), int(values.max())
    if least < lowest or most > highest:
        raise ValueError(
            f"image values {least}..{most} lie outside sixteen_bit_range {lowest}..{highest}; "
            "give a range that holds all images"
        )
    return ((values - lowest).double() * (255.0 / (highest - lowest))).round().to(torch.uint8)


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
