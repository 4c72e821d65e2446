"""Images inside the page: small, upright, as data URIs, the same bytes for the same pixels."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgen_data.image_folder import ImageDataset
from medgen_data.images import Images, decode_image
from medgen_data.records import ImageRecord
from PIL import Image

THUMBNAIL_SIDE = 128  # pixels; shown at about this size, so no detail is lost that the page could show
PNG_LIMIT = 64 * 64  # pixels; larger ones become JPEG, a fraction of the bytes
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """An image ready for the page."""

    record_id: str
    prompt: str
    uri: str
    width: int
    height: int


def picture_of(dataset: ImageDataset, record: ImageRecord) -> Picture:
    """Return the image of a record, scaled down to at most 128 pixels, with the prompt it was made from."""
    prompt = record.generation.prompt if record.generation else next(iter(record.text), "")
    image = decode_image(dataset.image_file(record))
    return _picture(image, max_side=THUMBNAIL_SIDE, record_id=record.record_id, prompt=prompt)


def read_picture(image_file: Path, *, max_side: int) -> Picture:
    """Return an image file that belongs to no data set, scaled down to at most `max_side` pixels."""
    return _picture(decode_image(image_file), max_side=max_side, record_id=image_file.stem, prompt="")


def _picture(image: Images, *, max_side: int, record_id: str, prompt: str) -> Picture:
    small = Image.fromarray(image)
    small.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if small.width * small.height <= PNG_LIMIT:
        kind = "png"
        small.save(buffer, format="PNG", optimize=True)
    else:
        kind = "jpeg"
        small.save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(record_id, prompt, f"data:image/{kind};base64,{encoded}", small.width, small.height)


def spread(records: Sequence[ImageRecord], count: int) -> list[ImageRecord]:
    """Return at most `count` records, evenly spread over the set: shown as they come, not picked by eye."""
    if len(records) <= count:
        return list(records)
    return [records[(2 * k + 1) * len(records) // (2 * count)] for k in range(count)]
