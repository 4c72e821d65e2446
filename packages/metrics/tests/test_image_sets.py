import io
import json
import logging
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_metrics.image_sets import (
    ImageFileError,
    as_uint8_images,
    decode_image,
    inspect_image,
    list_image_files,
    list_image_rows,
    read_image_bytes,
)
from PIL import Image
from torch import Tensor

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


def test_folder_listing_is_sorted_deep_and_takes_suffixes_in_any_case(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/z.jpeg", "a/notes.txt", ".hidden.png", ".cache/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [file.relative_to(tmp_path).as_posix() for file in list_image_files(tmp_path)]
    assert names == ["a/z.jpeg", "b.PNG"]


def test_folder_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no images found"):
        list_image_files(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a folder of images"):
        list_image_files(tmp_path / "gone")


def test_arrays_and_tensors_take_one_shape() -> None:
    pixels = np.stack([random_rgb(), random_rgb() // 2])
    from_array, from_list = as_uint8_images(pixels), as_uint8_images(list(pixels))
    assert from_array.shape == (2, 3, 5, 7)
    assert torch.equal(from_array, from_list)
    assert torch.equal(as_uint8_images(from_array), from_array)


def test_float_images_are_refused_rather_than_wrapped() -> None:
    with pytest.raises(ValueError, match=r"must be uint8 in 0\.\.255, got torch\.float32"):
        as_uint8_images(torch.rand(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"must be \[B, H, W, 3\] or \[B, H, W, 1\], got \(4, 4\)"):
        as_uint8_images(np.zeros((4, 4), dtype=np.uint8))


def test_floats_of_a_stated_range_are_rounded() -> None:
    values = torch.tensor([0.0, 0.25, 0.5, 0.999, 1.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert as_uint8_images(values, value_range=(0, 1))[0, 0, 0].tolist() == [0, 64, 128, 255, 255]
    assert torch.equal(
        as_uint8_images(2 * values - 1, value_range=(-1, 1)), as_uint8_images(values, value_range=(0, 1))
    )


def test_every_byte_survives_the_way_through_floats() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    for dtype in (torch.float32, torch.float64):
        unit = images.to(dtype) / 255
        assert torch.equal(as_uint8_images(unit, value_range=(0, 1)), images)
        assert torch.equal(as_uint8_images(unit * 2 - 1, value_range=(-1, 1)), images)


@pytest.mark.parametrize(
    ("value", "expected"), [(1.004, 255), (1.01, 255), (-0.01, 0), (-0.2, 0), (1.3, 255)]
)
def test_floats_a_little_outside_are_clamped_and_never_wrap(value: float, expected: int) -> None:
    images = torch.full((1, 3, 2, 2), value)
    assert as_uint8_images(images, value_range=(0, 1)).unique().tolist() == [expected]


@pytest.mark.parametrize(
    ("images", "value_range"),
    [
        (torch.linspace(-1, 1, 12).view(1, 3, 2, 2), (0, 1)),
        (torch.linspace(0, 255, 12).view(1, 3, 2, 2), (0, 1)),
        (torch.linspace(0, 255, 12).view(1, 3, 2, 2), (-1, 1)),
    ],
)
def test_floats_of_another_range_than_stated_are_refused(
    images: Tensor, value_range: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match=r"image values reach from .* far outside value_range"):
        as_uint8_images(images, value_range=value_range)


def test_floats_that_are_no_numbers_are_refused() -> None:
    images = torch.rand(1, 3, 2, 2)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        as_uint8_images(images, value_range=(0, 1))


def test_uint16_arrays_are_scaled_over_their_stated_range() -> None:
    scan = np.array([[0, 2048, 4095]], dtype=np.uint16)[None, :, :, None]
    assert as_uint8_images(scan, sixteen_bit_range=(0, 4095))[0, :, 0].tolist() == [[0, 128, 255]] * 3
    with pytest.raises(ValueError, match="uint16 images need sixteen_bit_range"):
        as_uint8_images(scan)
    with pytest.raises(ValueError, match=r"0\.\.4095 lie outside sixteen_bit_range 0\.\.1000"):
        as_uint8_images(scan, sixteen_bit_range=(0, 1000))


def test_a_range_for_bytes_and_other_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="value_range is for float images"):
        as_uint8_images(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), value_range=(0, 1))
    with pytest.raises(ValueError, match=r"uint8, float or uint16, got torch\.int64"):
        as_uint8_images(torch.zeros(1, 3, 2, 2, dtype=torch.int64))


def test_memory_of_the_caller_is_left_alone() -> None:
    floats = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = floats.clone()
    as_uint8_images(floats, value_range=(0, 1))
    assert torch.equal(floats, before)


def write_set(folder: Path, names: list[str], rows: list[dict[str, object]] | None = None) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(Image.fromarray(random_rgb())))
    if rows is not None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metadata.jsonl").write_text(text)


def pack(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as opened:
        for file in folder.rglob("*"):
            if file.is_file():
                opened.write(file, file.relative_to(folder).as_posix())


@pytest.mark.parametrize("packed", [False, True])
def test_rows_of_an_imagefolder_are_the_set_in_their_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, packed: bool
) -> None:
    rows = [{"file_name": "images/b.png", "text": "polyp"}, {"file_name": "a.png", "text": "normal"}]
    source = tmp_path / "set"
    write_set(source, ["a.png", "images/b.png", "c.png"], rows)
    if packed:
        pack(source, tmp_path / "set.zip")
        source = tmp_path / "set.zip"
    with caplog.at_level(logging.WARNING):
        listed = list_image_rows(source)
    assert [row.file for row in listed] == [source / "images/b.png", source / "a.png"]
    assert [row.fields for row in listed] == [{"text": "polyp"}, {"text": "normal"}]
    assert list_image_files(source) == (source / "images/b.png", source / "a.png")
    assert "1 images have no row in metadata.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", r"metadata\.jsonl, line 2: is not JSON"),
        ('{"text": "x"}', r"line 2: expected an object with file_name"),
        ('["a.png"]', r"line 2: expected an object with file_name"),
        ('{"file_name": "../b.png"}', r"line 2: expected an object with file_name, a path below"),
        ('{"file_name": "gone.png"}', r"line 2: gone\.png is no image of"),
    ],
)
def test_malformed_row_is_named_by_its_line(tmp_path: Path, line: str, problem: str) -> None:
    write_set(tmp_path, ["a.png"])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line + "\n")
    with pytest.raises((ValueError, FileNotFoundError), match=problem):
        list_image_files(tmp_path)


def test_rows_without_content_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path, ["a.png"], [])
    with pytest.raises(ValueError, match=r"is empty|has no rows"):
        list_image_files(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has no rows; delete it to take every image"):
        list_image_files(tmp_path)


def test_archive_lists_and_reads_as_the_folder_it_was_made_of(tmp_path: Path) -> None:
    write_set(tmp_path / "set", ["b.PNG", "a/z.png", "notes.txt", ".hidden.png"])
    pack(tmp_path / "set", tmp_path / "set.zip")
    members = list_image_files(tmp_path / "set.zip")
    assert members == (tmp_path / "set.zip" / "a/z.png", tmp_path / "set.zip" / "b.PNG")
    for member in members:
        original = tmp_path / "set" / member.relative_to(tmp_path / "set.zip")
        assert read_image_bytes(member) == original.read_bytes()


def test_damaged_or_missing_member_is_named_once(tmp_path: Path) -> None:
    write_set(tmp_path / "set", ["a.png"])
    pack(tmp_path / "set", tmp_path / "set.zip")
    missing = tmp_path / "set.zip" / "gone.png"
    with pytest.raises(ImageFileError, match=r"set\.zip/gone\.png: no such member") as caught:
        read_image_bytes(missing)
    assert caught.value.image_file == missing
    assert str(caught.value).count("gone.png") == 1


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
