"""Read one DICOM image without reading who the patient is; needs `medgen-data[dicom]`.

Only the tags in `ALLOWED_TAGS` leave this module. Names, dates, numbers and free text are never looked at,
and a file that declares burned-in annotation is refused, for its pixels may spell the name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medgen_data.images import ImageError, Images

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

ALLOWED_TAGS = {
    "Modality": "modality",
    "BodyPartExamined": "body_part",
    "ViewPosition": "view",
    "ImageLaterality": "laterality",
}
_INVERTED = "MONOCHROME1"
_GREY = (_INVERTED, "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True)
class DicomImage:
    """Pixels and the few harmless facts of a DICOM file."""

    image: Images  # [H, W, 3] uint8
    facts: dict[str, str]


def read_dicom(
    dicom_file: Path, *, window: tuple[float, float] | None = None, max_pixels: int = 64_000_000
) -> DicomImage:
    """Return the image as a reader sees it: rescaled, windowed, dark where little is.

    Grey: slope and intercept, then the linear window of DICOM PS3.3 C.11.2.1.2.1, then MONOCHROME1 is
    inverted. Without a window, in the file or given, the range that occurs is used. Padding is left out
    of that range and becomes black.

    Args:
        dicom_file: DICOM file with one frame.
        window: Centre and width in rescaled units; by default the first window of the file.
        max_pixels: Most pixels the header may announce; checked before anything is decoded.

    Raises:
        ImportError: If pydicom is not installed.
        ImageError: If the file is missing, not DICOM, damaged, too large, of several frames, declares
            burned-in annotation, or has a display rule other than a linear window.
    """
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise ImportError("reading DICOM needs pydicom; install medgen-data[dicom]") from error
    try:
        dataset = pydicom.dcmread(dicom_file)
    except FileNotFoundError:
        raise ImageError("missing", "does not exist; check the file name", file=dicom_file) from None
    except (InvalidDicomError, EOFError) as error:
        raise ImageError("not-an-image", f"is not a DICOM file ({error})", file=dicom_file) from error
    try:
        _check_header(dataset, max_pixels)
        image = _to_rgb(dataset, window)
    except ImageError as error:
        raise ImageError(error.code, error.detail, file=dicom_file) from error.__cause__
    # Decoders of the many transfer syntaxes raise whatever they like for damaged pixels.
    except Exception as error:
        detail = f"its pixels cannot be decoded ({type(error).__name__}); export it again, uncompressed"
        raise ImageError("truncated", detail, file=dicom_file) from error
    return DicomImage(image, _facts(dataset))


def _check_header(dataset: "FileDataset", max_pixels: int) -> None:
    if "PixelData" not in dataset:
        raise ImageError("not-an-image", "holds no pixels; choose an image object")
    if str(dataset.get("BurnedInAnnotation", "NO")).upper() == "YES":
        raise ImageError(
            "unsupported-mode", "declares burned-in annotation; blank the text and clear the tag"
        )
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if num_frames > 1:
        raise ImageError("animated", f"has {num_frames} frames, expected one; export the wanted frame")
    if dataset.Rows * dataset.Columns > max_pixels:
        raise ImageError(
            "too-large", f"is {dataset.Columns} x {dataset.Rows} pixels, more than {max_pixels} in all"
        )
    if dataset.PhotometricInterpretation not in (*_GREY, *_COLOUR):
        raise ImageError(
            "unsupported-mode", f"has colours {dataset.PhotometricInterpretation}; export grey or RGB"
        )


def _to_rgb(dataset: "FileDataset", window: tuple[float, float] | None) -> Images:
    from pydicom.pixels import apply_rescale

    # pydicom turns YBR into RGB here.
    stored: npt.NDArray[Any] = dataset.pixel_array
    if dataset.PhotometricInterpretation in _COLOUR:
        if stored.dtype != np.uint8:
            raise ImageError("unsupported-mode", f"has colours of {dataset.BitsAllocated} bits; export 8")
        return np.array(stored)
    levels = np.asarray(apply_rescale(stored, dataset), dtype=np.float64)
    window = window or _file_window(dataset)
    padding = np.broadcast_to(stored == dataset.get("PixelPaddingValue", None), stored.shape)
    if window is None:
        window = _occurring_window(levels, ~padding)
    grey = apply_window(levels, *window)
    if dataset.PhotometricInterpretation == _INVERTED:
        grey = 255 - grey
    grey[padding] = 0
    return np.repeat(grey[:, :, None], 3, axis=2)


def apply_window(levels: npt.NDArray[np.float64], centre: float, width: float) -> Images:
    """Map a window to 0..255 (DICOM PS3.3 C.11.2.1.2.1, LINEAR); below is black, above is white.

    y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 255

    Raises:
        ValueError: If the width is below 1.
    """
    if width < 1:
        raise ValueError(f"a window must be at least 1 wide, got {width}")
    if width == 1:
        return np.where(levels > centre - 0.5, 255, 0).astype(np.uint8)
    shades = ((levels - (centre - 0.5)) / (width - 1) + 0.5) * 255
    return np.array(np.rint(np.clip(shades, 0, 255)), dtype=np.uint8)


def _file_window(dataset: "FileDataset") -> tuple[float, float] | None:
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function != "LINEAR" or ("VOILUTSequence" in dataset and "WindowCenter" not in dataset):
        raise ImageError("unsupported-mode", "has a display rule that is no linear window; give a window")
    if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
        return None
    centre, width = (np.atleast_1d(dataset[name].value)[0] for name in ("WindowCenter", "WindowWidth"))
    return float(centre), float(width)


def _occurring_window(levels: npt.NDArray[np.float64], valid: npt.NDArray[np.bool_]) -> tuple[float, float]:
    seen = levels[valid]
    if seen.size == 0:
        seen = levels
    low, high = float(seen.min()), float(seen.max())
    # The centre and width under which low becomes 0 and high becomes 255.
    return (low + high + 1) / 2, high - low + 1


def _facts(dataset: "FileDataset") -> dict[str, str]:
    return {fact: str(dataset.get(tag)) for tag, fact in ALLOWED_TAGS.items() if dataset.get(tag)}
