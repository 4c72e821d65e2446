import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_metrics.image_decoding import (
    ImageFileError,
    decode_image,
    find_sixteen_bit_range,
    inspect_image,
    read_image_bytes,
)
from PIL import Image

FILE = Path("set/picture.png")


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=file_format, **options)
    return stream.getvalue()


def random_rgb(height: int = 5, width: int = 7) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_comes_back_pixel_for_pixel() -> None:
    pixels = random_rgb()
    decoded = decode_image(encoded(Image.fromarray(pixels)), FILE)
    assert decoded.dtype == torch.uint8
    np.testing.assert_array_equal(decoded.permute(1, 2, 0).numpy(), pixels)


def test_grey_becomes_three_equal_channels() -> None:
    grey = random_rgb()[:, :, 0]
    decoded = decode_image(encoded(Image.fromarray(grey)), FILE)
    for channel in decoded:
        np.testing.assert_array_equal(channel.numpy(), grey)


def test_exif_orientation_is_applied() -> None:
    pixels = random_rgb()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    decoded = decode_image(encoded(Image.fromarray(pixels), exif=exif), FILE)
    np.testing.assert_array_equal(decoded.permute(1, 2, 0).numpy(), np.rot90(pixels, k=-1))


def test_palette_and_opaque_alpha_keep_their_colours() -> None:
    pixels = random_rgb()
    opaque = Image.fromarray(pixels).convert("RGBA")
    assert torch.equal(
        decode_image(encoded(opaque), FILE), decode_image(encoded(Image.fromarray(pixels)), FILE)
    )
    palette = Image.fromarray(pixels).quantize(4)
    expected = np.array(palette.convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded(palette), FILE).permute(1, 2, 0).numpy(), expected)


def test_transparent_pixels_are_refused() -> None:
    image = Image.new("RGBA", (3, 3), (10, 20, 30, 200))
    with pytest.raises(ImageFileError, match=r"set/picture\.png: has transparent pixels"):
        decode_image(encoded(image), FILE)


def test_16_bit_ramp_keeps_its_order_and_never_saturates() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    decoded = decode_image(encoded(Image.fromarray(ramp)), FILE)
    np.testing.assert_array_equal(decoded[0].flatten().numpy(), np.arange(256))


def test_12_bit_scan_fills_the_range_when_its_range_is_stated() -> None:
    scan = np.array([[0, 2048, 4095]], dtype=np.uint16)
    decoded = decode_image(encoded(Image.fromarray(scan)), FILE, sixteen_bit_range=(0, 4095))
    assert decoded[0].tolist() == [[0, 128, 255]]


def test_16_bit_value_outside_the_stated_range_is_an_error_not_a_clip() -> None:
    scan = np.array([[5, 4096]], dtype=np.uint16)
    with pytest.raises(ImageFileError, match=r"picture\.png: has grey values 5\.\.4096 outside .* 0\.\.4095"):
        decode_image(encoded(Image.fromarray(scan)), FILE, sixteen_bit_range=(0, 4095))


def sixteen_bit_colour_png(samples: np.ndarray) -> bytes:
    """Write what Pillow cannot: a PNG with 16 bits in each of three channels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_range_of_a_set_is_that_of_all_its_grey_16_bit_images(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for file, (low, high) in zip(files, ((300, 900), (120, 500)), strict=False):
        Image.fromarray(np.array([[low, high]], dtype=np.uint16)).save(file)
    Image.fromarray(random_rgb()).save(files[2])
    assert find_sixteen_bit_range(files) == (120, 900)
    assert find_sixteen_bit_range(files[2:]) == (0, 65535)
    Image.fromarray(np.full((2, 2), 7, dtype=np.uint16)).save(files[2])
    assert find_sixteen_bit_range(files[2:]) == (7, 8)


def test_negative_grey_values_are_named_when_the_range_is_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "scan.tif"
    Image.fromarray(np.array([[-1024, 30]], dtype=np.int32)).save(file)
    with pytest.raises(ImageFileError, match=r"scan\.tif: has grey values down to -1024; shift them"):
        find_sixteen_bit_range([file])


def test_16_bit_colour_is_seen_as_such_and_read_over_its_full_range() -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    content = sixteen_bit_colour_png(samples)
    assert inspect_image(content, FILE).is_16_bit
    np.testing.assert_array_equal(decode_image(content, FILE).permute(1, 2, 0).numpy(), samples // 256)
    with pytest.raises(ImageFileError, match="16-bit colour"):
        decode_image(content, FILE, sixteen_bit_range=(0, 4095))


def test_header_facts_need_no_pixels() -> None:
    facts = inspect_image(encoded(Image.fromarray(random_rgb()), "JPEG"), FILE)
    assert (facts.width, facts.height, facts.file_format, facts.is_16_bit) == (7, 5, "JPEG", False)


def test_truncated_file_is_named() -> None:
    content = encoded(Image.fromarray(random_rgb(60, 60)))
    with pytest.raises(ImageFileError, match=r"picture\.png: is damaged") as caught:
        decode_image(content[: len(content) // 2], FILE)
    assert caught.value.image_file == FILE


def test_text_is_no_image() -> None:
    with pytest.raises(ImageFileError, match=r"picture\.png: is not an image in a known format"):
        decode_image(b"record_id,label\n", FILE)


def test_large_image_is_refused_before_it_is_unpacked() -> None:
    content = encoded(Image.new("L", (200, 100)))
    with pytest.raises(ImageFileError, match="has 200 x 100 pixels, at most 10,000 are allowed"):
        decode_image(content, FILE, max_pixels=10_000)


def test_animation_is_refused() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (0, 200)]
    content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="holds 2 frames"):
        decode_image(content, FILE)


def test_floating_point_pixels_are_refused() -> None:
    content = encoded(Image.fromarray(np.ones((3, 3), dtype=np.float32)), "TIFF")
    with pytest.raises(ImageFileError, match="has pixels of kind 'F'"):
        decode_image(content, FILE)


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match=r"gone\.png: no such file"):
        read_image_bytes(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageFileError, match=r"empty\.png: is empty"):
        read_image_bytes(tmp_path / "empty.png")


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Change, remove, insert or cut a few bytes, mostly near the beginning where the headers are."""
    broken = bytearray(content)
    for _ in range(generator.integers(1, 6)):
        reach = len(broken) if generator.random() < 0.5 else min(60, len(broken))
        place = int(generator.integers(reach))
        match int(generator.integers(4)):
            case 0:
                broken[place] = generator.integers(256)
            case 1:
                del broken[place : place + int(generator.integers(1, 20))]
            case 2:
                broken[place:place] = generator.bytes(4)
            case 3:
                del broken[max(place, 1) :]
        broken = broken or bytearray(b"x")
    return bytes(broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file_format", "options", "depth"),
    [
        ("PNG", {}, 8),
        ("PNG", {}, 16),
        ("TIFF", {}, 8),
        ("TIFF", {}, 16),
        ("TIFF", {"compression": "tiff_lzw"}, 8),
        ("JPEG", {}, 8),
        ("BMP", {}, 8),
        ("WEBP", {}, 8),
    ],
)
def test_damaged_files_decode_or_are_named_but_never_crash(
    file_format: str, options: dict[str, str], depth: int
) -> None:
    pixels = random_rgb(20, 24)
    image = Image.fromarray(pixels if depth == 8 else pixels[:, :, 0].astype(np.uint16) * 257)
    content = encoded(image, file_format, **options)
    generator = np.random.default_rng(depth)
    messages = []
    for _ in range(150):
        try:
            decoded = decode_image(damaged(content, generator), FILE)
        except ImageFileError as error:
            messages.append(str(error))
        else:
            assert decoded.dtype == torch.uint8
            assert decoded.shape[0] == 3
    assert len(messages) > 20
    assert all(message.startswith("set/picture.png: ") for message in messages)
