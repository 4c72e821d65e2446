import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from medgen_data.images import (
    ImageError,
    decode_image,
    encode_png,
    fit_square,
    from_pixel_values,
    to_pixel_values,
)
from PIL import Image


def pattern(height: int = 12, width: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(file: Path, picture: Image.Image, **options: object) -> Path:
    picture.save(file, **options)
    return file


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds almost nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(pattern()))
    decoded = decode_image(tmp_path / "a.png")
    np.testing.assert_array_equal(decoded, pattern())
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable


def test_encoding_is_reproducible_and_free_of_metadata() -> None:
    content = encode_png(pattern())
    assert content == encode_png(pattern())
    assert Image.open(io.BytesIO(content)).info == {}


def test_jpeg_equals_the_decoder_it_uses(tmp_path: Path) -> None:
    file = save(tmp_path / "a.jpg", Image.fromarray(pattern()), quality=90)
    np.testing.assert_array_equal(decode_image(file), np.array(Image.open(file).convert("RGB")))


def test_grey_palette_and_bilevel_become_three_channels(tmp_path: Path) -> None:
    grey = pattern()[:, :, 0]
    np.testing.assert_array_equal(
        decode_image(save(tmp_path / "grey.png", Image.fromarray(grey))),
        np.repeat(grey[:, :, None], 3, axis=2),
    )
    palette = Image.fromarray(grey % 4, mode="P")
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 8, 7]], dtype=np.uint8)
    palette.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode_image(save(tmp_path / "p.png", palette)), colours[grey % 4])
    bilevel = save(tmp_path / "b.png", Image.fromarray(grey > 127))
    assert set(np.unique(decode_image(bilevel))) == {0, 255}


def test_alpha_is_composited_over_black(tmp_path: Path) -> None:
    rgba = np.dstack([np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 128, np.uint8)])
    rgba[0, 0, 3] = 0
    decoded = decode_image(save(tmp_path / "a.png", Image.fromarray(rgba)))
    np.testing.assert_array_equal(decoded[0, 0], [0, 0, 0])
    np.testing.assert_allclose(decoded[1, 1], 200 * 128 / 255, atol=1)
    keyed = save(tmp_path / "k.png", Image.new("L", (2, 2), 77), transparency=77)
    assert decode_image(keyed).max() == 0


def test_cmyk_is_converted_not_reinterpreted(tmp_path: Path) -> None:
    """Ink at 0 is white, cyan ink takes the red away; JPEG stores the inverse of both."""
    ink = np.zeros((16, 16, 4), dtype=np.uint8)
    ink[8:, :, 0] = 255
    file = save(tmp_path / "a.jpg", Image.fromarray(ink, mode="CMYK"), quality=100)
    decoded = decode_image(file)
    np.testing.assert_allclose(decoded[2, 8], [255, 255, 255], atol=3)
    np.testing.assert_allclose(decoded[13, 8], [0, 255, 255], atol=3)


@pytest.mark.parametrize("top", [4095, 1023, 65535, 300])
def test_deep_grey_ramp_keeps_all_its_levels_apart(tmp_path: Path, top: int) -> None:
    ramp = np.linspace(0, top, 4096).astype(np.uint16).reshape(64, 64)
    file = save(tmp_path / "ramp.png", Image.fromarray(ramp))
    assert Image.open(file).mode == "I;16"
    decoded = decode_image(file)[:, :, 0].ravel()
    np.testing.assert_array_equal(decoded, np.rint(ramp.ravel() * (255 / top)))
    assert np.all(np.diff(decoded.astype(int)) >= 0)
    assert np.mean(decoded == 255) < 0.01  # saturation would put most of the ramp there


def test_deep_grey_uses_the_range_that_occurs(tmp_path: Path) -> None:
    levels = np.array([[1000, 1500, 2000]], dtype=np.uint16)
    decoded = decode_image(save(tmp_path / "a.png", Image.fromarray(levels)))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 128, 255])
    assert decode_image(save(tmp_path / "b.png", Image.fromarray(np.full((2, 2), 900, np.uint16)))).max() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_shows_the_same_picture(tmp_path: Path, orientation: int) -> None:
    upright = pattern()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / "a.png", Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(decode_image(file), upright)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_truncated_file_is_refused_wherever_it_was_cut(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", Image.fromarray(pattern(40, 40))).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for length in [*range(12, len(whole), 41), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ImageError) as caught:
            decode_image(cut)
        assert caught.value.code in ("truncated", "not-an-image"), length


def test_flipped_bit_in_a_png_is_refused_wherever_it_is(tmp_path: Path) -> None:
    """Without the check sums, some flips decode to other pixels unseen."""
    smooth = np.array(Image.fromarray(pattern(6, 6)).resize((40, 40), Image.Resampling.BICUBIC))
    whole = encode_png(smooth)
    start = whole.index(b"IDAT") + 4
    for position in range(start, len(whole) - 16, 5):
        content = bytearray(whole)
        content[position] ^= 16
        (tmp_path / "a.png").write_bytes(bytes(content))
        with pytest.raises(ImageError, match=r"a\.png: is cut off or damaged.*copy or download it again"):
            decode_image(tmp_path / "a.png")


def test_trailing_bytes_after_a_whole_jpeg_are_no_fault(tmp_path: Path) -> None:
    file = save(tmp_path / "a.jpg", Image.fromarray(pattern()))
    before = decode_image(file)
    file.write_bytes(file.read_bytes() + bytes(100))
    np.testing.assert_array_equal(decode_image(file), before)


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"", "empty-file", r"bad\.png: is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html>404</html>", "not-an-image", "looks like a web page.*expected PNG or JPEG"),
        (b"%PDF-1.7 whatever", "not-an-image", "is not an image"),
        (png_header(16_000, 12_500), "too-large", "pixels.*smaller image"),  # 200 megapixels
        (png_header(11_000, 9_000), "too-large", "pixels.*smaller image"),  # where Pillow only warns
        (png_header(9_000, 8_000), "too-large", "is 9000 x 8000 pixels, more than 64000000"),
        (png_header(8_000, 8_000), "truncated", "cut off or damaged"),
    ],
)
def test_bad_content_is_refused_with_code_and_reason(
    tmp_path: Path, content: bytes, code: str, reason: str
) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=reason) as caught:
            decode_image(tmp_path / "bad.png")
    assert caught.value.code == code


def test_pixel_limit_is_an_argument_and_is_checked_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(20, 10))  # would fail as truncated if it were decoded
    with pytest.raises(ImageError, match="is 20 x 10 pixels, more than 199"):
        decode_image(tmp_path / "a.png", max_pixels=199)


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_is_refused(tmp_path: Path, image_format: str) -> None:
    frames = [Image.fromarray(pattern()), Image.fromarray(255 - pattern()), Image.fromarray(pattern() // 2)]
    file = tmp_path / "a.png"
    frames[0].save(file, format=image_format, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match=r"has 3 frames, expected one") as caught:
        decode_image(file)
    assert caught.value.code == "animated"


def test_float_image_has_no_defined_conversion(tmp_path: Path) -> None:
    file = save(tmp_path / "a.tif", Image.fromarray(np.zeros((2, 2), np.float32)))
    with pytest.raises(ImageError, match=r"pixel mode F.*export 8-bit RGB") as caught:
        decode_image(file)
    assert caught.value.code == "unsupported-mode"


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: does not exist") as caught:
        decode_image(tmp_path / "gone.png")
    assert caught.value.code == "missing"
    with pytest.raises(ImageError, match="cannot be read"):
        decode_image(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"II*\0"]),
)
def test_no_content_whatever_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, magic: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.png"
    file.write_bytes(magic + tail)
    with pytest.raises(ImageError):
        decode_image(file)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on the EXIF block
@pytest.mark.parametrize("position", range(8, 120, 3))
def test_damaged_jpeg_headers_raise_nothing_else(tmp_path: Path, position: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = bytearray(save(tmp_path / "a.jpg", Image.fromarray(pattern(40, 40)), exif=exif).read_bytes())
    content[position] ^= 0xFF
    (tmp_path / "a.jpg").write_bytes(bytes(content))
    with contextlib.suppress(ImageError):
        assert decode_image(tmp_path / "a.jpg").shape[2] == 3


def test_square_of_its_own_size_is_unchanged() -> None:
    square = pattern(16, 16)
    for policy in ("center-crop", "pad", "squash"):
        np.testing.assert_array_equal(fit_square(square, 16, policy=policy), square)


def test_center_crop_keeps_the_middle() -> None:
    image = np.zeros((8, 20, 3), dtype=np.uint8)
    image[:, 6:14] = 200
    assert fit_square(image, 4).min() == 200


def test_pad_keeps_everything_between_black_bars() -> None:
    square = fit_square(np.full((10, 20, 3), 200, dtype=np.uint8), 8, policy="pad")
    assert square[2:6].min() == 200
    assert square[:2].max() == square[6:].max() == 0


def test_squash_changes_the_aspect() -> None:
    image = np.zeros((10, 20, 3), dtype=np.uint8)
    image[:, 10:] = 200
    square = fit_square(image, 10, policy="squash")
    assert square[:, :4].max() == 0
    assert square[:, 6:].min() == 200


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    """A one-pixel checkerboard is mid-grey when seen from afar; without antialiasing it aliases."""
    board = (np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = fit_square(np.repeat(board[:, :, None], 3, axis=2), 32)
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 500), (500, 1), (1, 1), (333, 250)])
@pytest.mark.parametrize("policy", ["center-crop", "pad", "squash"])
def test_any_shape_gives_the_square(height: int, width: int, policy: str) -> None:
    assert fit_square(pattern(height, width), 24, policy=policy).shape == (24, 24, 3)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"image must be \[H, W, 3\] uint8, got \(4, 4\)"):
        fit_square(np.zeros((4, 4), np.uint8), 2)
    with pytest.raises(ValueError, match="size must be at least 1 pixel, got 0"):
        fit_square(pattern(), 0)
    with pytest.raises(ValueError, match=r"policy must be .* got 'stretch'"):
        fit_square(pattern(), 4, policy="stretch")
    with pytest.raises(ValueError, match="float64"):
        encode_png(np.zeros((4, 4, 3)))


def test_all_levels_survive_the_way_to_pixel_values_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixel_values = to_pixel_values(levels)
    assert pixel_values.shape == (3, 16, 16)
    assert pixel_values.dtype == np.float32
    assert (pixel_values.min(), pixel_values.max()) == (-1.0, 1.0)
    np.testing.assert_array_equal(from_pixel_values(pixel_values), levels)


def test_pixel_values_are_clamped_then_rounded_and_must_be_finite() -> None:
    values = np.array([-7.0, 7.0, 0.004, -0.004]).reshape(1, 2, 2).repeat(3, axis=0)
    np.testing.assert_array_equal(from_pixel_values(values)[:, :, 0], [[0, 255], [128, 127]])
    with pytest.raises(ValueError, match="must be finite"):
        from_pixel_values(np.full((3, 2, 2), np.nan))
    with pytest.raises(ValueError, match=r"\[3, H, W\], got \(2, 2, 3\)"):
        from_pixel_values(np.zeros((2, 2, 3)))
