"""The one definition of a pixel: decode, orient, fit to a square, encode.

Shapes: H x W image size in pixels; images are [H, W, 3] uint8 RGB.

Decoding to RGB, always the same way:

- EXIF orientation is applied; embedded colour profiles are ignored.
- Grey becomes three equal channels; a palette is looked up; CMYK is converted (Adobe's inverted too).
- Alpha is composited over black, so hidden colours never show.
- Grey of more than 8 bits is mapped linearly from the range that occurs in the image to 0..255: the
  relative brightness within an image is kept, the absolute one between images is not. Colour of 16 bits
  keeps its high byte.
"""

import io
import struct
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medgen_data.problems import DataError

Images = npt.NDArray[np.uint8]
PixelValues = npt.NDArray[np.float32]
FitPolicy = Literal["center-crop", "pad", "squash"]
ImageErrorCode = Literal[
    "missing", "empty-file", "not-an-image", "truncated", "too-large", "animated", "unsupported-mode"
]

MAX_FILE_BYTES = 512 * 2**20
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
_PNG_END = b"IEND\xae\x42\x60\x82"  # name and check sum of the empty last chunk
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Whatever the decoders are known to raise for damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, KeyError, struct.error)
_EIGHT_BIT_MODES = frozenset(["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr"])
_ALPHA_MODES = frozenset(["LA", "La", "PA", "RGBA", "RGBa"])


class ImageError(DataError):
    """An image file cannot be decoded.

    Attributes:
        code: Kind of the fault, for `problems.jsonl`.
        detail: The reason without the file name.
    """

    def __init__(self, code: ImageErrorCode, detail: str, *, file: Path | None = None) -> None:
        super().__init__(detail if file is None else f"{file}: {detail}")
        self.code = code
        self.detail = detail


def decode_image(image_file: Path, *, max_pixels: int = 64_000_000) -> Images:
    """Decode an image file as the module describes.

    Args:
        image_file: PNG, JPEG, or a still BMP, GIF, TIFF or WebP; told by content, not by suffix.
        max_pixels: Most pixels the header may announce; checked before anything is decoded.

    Returns:
        RGB image, [H, W, 3] uint8.

    Raises:
        ImageError: If the file is missing, empty, no image, cut off or damaged, too large, animated, or of
            a mode without a defined conversion.
    """
    try:
        return _decode_content(_read_content(image_file), max_pixels)
    except ImageError as error:
        raise ImageError(error.code, error.detail, file=image_file) from error.__cause__


def fit_square(image: Images, size: int, *, policy: FitPolicy = "center-crop") -> Images:
    """Fit an image to a square, antialiased (bicubic with the support of the scale).

    Args:
        image: Image, [H, W, 3] uint8.
        size: Side of the square, pixels.
        policy: `center-crop` keeps the middle of the longer side; `pad` keeps everything and adds black
            bars; `squash` keeps everything and changes the aspect ratio.

    Returns:
        Image, [size, size, 3] uint8.
    """
    _check_image(image)
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    match policy:
        case "squash":
            return _resize(picture, (size, size))
        case "center-crop":
            side = min(height, width)
            left, top = (width - side) // 2, (height - side) // 2
            return _resize(picture.crop((left, top, left + side, top + side)), (size, size))
        case "pad":
            scale = size / max(height, width)
            inner_height, inner_width = (max(1, round(side * scale)) for side in (height, width))
            top, left = (size - inner_height) // 2, (size - inner_width) // 2
            square = np.zeros((size, size, 3), dtype=np.uint8)
            inner = _resize(picture, (inner_width, inner_height))
            square[top : top + inner_height, left : left + inner_width] = inner
            return square
        case _:
            raise ValueError(f"policy must be 'center-crop', 'pad' or 'squash', got {policy!r}")


def encode_png(image: Images) -> bytes:
    """Return an image, [H, W, 3] uint8, as PNG without metadata."""
    _check_image(image)
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG")
    return stream.getvalue()


def to_pixel_values(image: Images) -> PixelValues:
    """Return an image, [H, W, 3] uint8, as [3, H, W] float32 in [-1, 1]."""
    _check_image(image)
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(127.5) - np.float32(
        1
    )


def from_pixel_values(pixel_values: npt.NDArray[np.floating]) -> Images:
    """Return [3, H, W] in [-1, 1] as an image, [H, W, 3] uint8; clamped, then rounded.

    Raises:
        ValueError: If the shape is another or a value is NaN or infinite.
    """
    if pixel_values.ndim != 3 or pixel_values.shape[0] != 3:
        raise ValueError(f"pixel_values must be [3, H, W], got {pixel_values.shape}")
    if not np.isfinite(pixel_values).all():
        raise ValueError("pixel_values must be finite, got NaN or infinity; did the sampler diverge?")
    levels = (np.clip(pixel_values, -1, 1).astype(np.float64) + 1) * 127.5
    return np.ascontiguousarray(np.rint(levels).astype(np.uint8).transpose(1, 2, 0))


def _read_content(image_file: Path) -> bytes:
    try:
        num_bytes = image_file.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise ImageError(
                "too-large", f"has {num_bytes} bytes, more than {MAX_FILE_BYTES}; export a smaller image"
            )
        content = image_file.read_bytes()
    except FileNotFoundError:
        raise ImageError("missing", "does not exist; check the file name") from None
    except OSError as error:
        raise ImageError("missing", f"cannot be read ({error.strerror}); check the permissions") from None
    if not content:
        raise ImageError("empty-file", "is empty (0 bytes); copy or download it again")
    return content


def _decode_content(content: bytes, max_pixels: int) -> Images:
    picture = _open_header(content)
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError(
            "too-large",
            f"is {width} x {height} pixels, more than {max_pixels} in all; export a smaller image",
        )
    _check_whole(content, picture.format)
    num_frames = _count_frames(picture)
    if num_frames > 1:
        raise ImageError("animated", f"has {num_frames} frames, expected one; export the wanted frame")
    try:
        picture.load()
        orientation = picture.getexif().get(_ORIENTATION_TAG, 1)
    except _BROKEN as error:
        raise _damaged(error) from error
    image = _to_rgb(picture)
    if orientation in _TRANSPOSE:
        return np.array(Image.fromarray(image).transpose(_TRANSPOSE[orientation]))
    return image


def _open_header(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=_FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("too-large", f"has too many pixels ({error}); export a smaller image") from error
    except UnidentifiedImageError as error:
        looks = "; it looks like a web page" if content.lstrip()[:1] == b"<" else ""
        raise ImageError(
            "not-an-image",
            f"is not an image{looks} (starts with {content[:12]!r}); expected PNG or JPEG content",
        ) from error
    except _BROKEN as error:
        raise _damaged(error) from error


def _check_whole(content: bytes, image_format: str | None) -> None:
    """Refuse damage that the decoder alone would pass over."""
    if image_format == "PNG":
        if _PNG_END not in content:
            raise ImageError("truncated", "is cut off (no end chunk); copy or download it again")
        try:
            Image.open(io.BytesIO(content), formats=("PNG",)).verify()  # check sums of all chunks
        except _BROKEN as error:
            raise _damaged(error) from error
    # Inside the coded pixels neither marker can occur, so the last end must follow the last start.
    elif image_format in ("JPEG", "MPO") and content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise ImageError("truncated", "is cut off (no end marker); copy or download it again")


def _count_frames(picture: Image.Image) -> int:
    # A multi-picture JPEG of a camera is a still with previews, not an animation.
    if picture.format == "MPO":
        return 1
    try:
        return int(getattr(picture, "n_frames", 1))
    except _BROKEN as error:
        raise _damaged(error) from error


def _damaged(error: Exception) -> ImageError:
    return ImageError("truncated", f"is cut off or damaged ({error}); copy or download it again")


def _to_rgb(picture: Image.Image) -> Images:
    mode = picture.mode
    if mode in _ALPHA_MODES or (mode in _EIGHT_BIT_MODES and "transparency" in picture.info):
        rgba = picture.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return np.array(Image.alpha_composite(black, rgba).convert("RGB"))
    if mode in _EIGHT_BIT_MODES:
        return np.array(picture.convert("RGB"))
    if mode == "I" or mode.startswith("I;16"):
        # Not convert("RGB"): it saturates everything above 255.
        grey = _stretch(np.array(picture))
        return np.repeat(grey[:, :, None], 3, axis=2)
    raise ImageError(
        "unsupported-mode", f"has pixel mode {mode}, which has no defined conversion; export 8-bit RGB"
    )


def _stretch(grey: npt.NDArray[np.integer]) -> Images:
    """Map the occurring range linearly to 0..255, [H, W]; a constant image becomes black."""
    levels = grey.astype(np.float64)
    low, high = levels.min(), levels.max()
    if low == high:
        return np.zeros(grey.shape, dtype=np.uint8)
    stretched: Images = np.rint((levels - low) * (255 / (high - low))).astype(np.uint8)
    return stretched


def _resize(picture: Image.Image, size: tuple[int, int]) -> Images:
    return np.array(picture.resize(size, Image.Resampling.BICUBIC))


def _check_image(image: Images) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"image must be [H, W, 3] uint8, got {image.shape} {image.dtype}")
