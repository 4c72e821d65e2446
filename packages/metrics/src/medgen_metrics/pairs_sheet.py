"""A sheet of suspicious pairs, for the eyes of whoever decides: sample, nearest training image, figures."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from medgen_metrics.atomic import write_atomic
from medgen_metrics.image_decoding import FULL_16_BIT, decode_image, read_image_bytes
from medgen_metrics.privacy.audit import CopyPair

_MARGIN = 8
_TEXT_WIDTH = 420
_HEADER = 28
_LINE = 18
_FLAGGED = (190, 30, 30)
_PLAIN = (40, 40, 40)
_MAX_PAIRS = 500


def write_pairs_sheet(
    sheet_file: Path,
    pairs: Sequence[CopyPair],
    *,
    tile_size: int = 160,
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT,
) -> None:
    """Write a PNG with one row for each pair, in the given order: sample, training image, text.

    Flagged pairs have a red frame. Images keep their aspect ratio; nothing is enlarged or turned, so a sample that
    came near under another view is shown as it is, and the text names the view.

    Args:
        sheet_file: PNG to write, atomically.
        pairs: Pairs whose ids are the paths of their files, as in an audit of files; 1 to 500.
        tile_size: Side of the square that an image is fitted into, 32 pixels or more.
        sixteen_bit_range: Grey values of 16-bit images that become 0 and 255.

    Raises:
        ValueError: If there is no pair, or more than one sheet can hold.
        ImageFileError: If an image cannot be read.
    """
    if not 1 <= len(pairs) <= _MAX_PAIRS or tile_size < 32:
        raise ValueError(
            f"expected 1 to {_MAX_PAIRS} pairs and tile_size >= 32, got {len(pairs)} pairs, tile_size {tile_size}"
        )
    row_height = max(tile_size, 6 * _LINE) + _MARGIN
    width = 2 * (tile_size + _MARGIN) + _TEXT_WIDTH + _MARGIN
    sheet = Image.new("RGB", (width, _HEADER + row_height * len(pairs) + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for column, title in enumerate(("sample", "nearest training image", "how near")):
        draw.text((_MARGIN + column * (tile_size + _MARGIN), _MARGIN), title, fill=_PLAIN, font=font)
    for row, pair in enumerate(pairs):
        top = _HEADER + row * row_height
        colour = _FLAGGED if pair.flagged else _PLAIN
        for column, image_id in enumerate((pair.synthetic_id, pair.train_id)):
            left = _MARGIN + column * (tile_size + _MARGIN)
            sheet.paste(_tile(Path(image_id), tile_size, sixteen_bit_range), (left, top))
            frame = (left - 1, top - 1, left + tile_size, top + tile_size)
            draw.rectangle(frame, outline=colour, width=3 if pair.flagged else 1)
        for line, text in enumerate(_lines(row + 1, pair)):
            place = (_MARGIN + 2 * (tile_size + _MARGIN), top + line * _LINE)
            draw.text(place, text, fill=colour if line == 0 else _PLAIN, font=font)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_atomic(sheet_file, content.getvalue())


def _tile(image_file: Path, tile_size: int, sixteen_bit_range: tuple[int, int]) -> Image.Image:
    pixels = decode_image(read_image_bytes(image_file), image_file, sixteen_bit_range=sixteen_bit_range)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    # Small images are enlarged too: the eye compares better what is equally large.
    image = ImageOps.contain(image, (tile_size, tile_size), Image.Resampling.LANCZOS)
    tile = Image.new("RGB", (tile_size, tile_size), "white")
    tile.paste(image, ((tile_size - image.width) // 2, (tile_size - image.height) // 2))
    return tile


def _lines(rank: int, pair: CopyPair) -> list[str]:
    verdict = "flagged as a copy" if pair.flagged else "not flagged"
    return [
        f"{rank}. {verdict}: {pair.suspicion:.3f} of the threshold",
        f"{pair.space}: distance {pair.distance:.4g}",
        f"nearest / second nearest training image {pair.distance_ratio:.3f}",
        f"sample seen as: {pair.view}",
        _shortened(pair.synthetic_id),
        _shortened(pair.train_id),
    ]


def _shortened(text: str) -> str:
    # The built-in font has no other letters than these; the end of a path tells most.
    plain = text.encode("ascii", "replace").decode()
    return plain if len(plain) <= 60 else f"...{plain[-57:]}"
