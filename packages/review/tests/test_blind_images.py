import io
import re
import struct
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from medgen_review.blind_images import (
    IMAGE_HEADERS,
    ImageNames,
    ShownImage,
    blind_png,
    blind_png_length,
    decode,
    read_unchanged,
)
from medgen_review.schedule import REFERENCES, pages_for
from medgen_review.study import Study, StudyError, StudyImage
from PIL import Image, ImageCms, PngImagePlugin

SECRET = "made by SecretModel v3"


def picture(width: int = 48, height: int = 48, *, seed: int = 0, softness: int = 6) -> Image.Image:
    """Soft noise; the softer, the fewer bytes a compressed file has."""
    coarse = np.random.default_rng(seed).integers(0, 256, (softness, softness, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as shown:
        return np.asarray(shown)


def chunks(content: bytes) -> list[bytes]:
    names, place = [], 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        names.append(content[place + 4 : place + 8])
        place += 12 + length
    return names


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010E] = SECRET
    return tags


def with_c2pa(content: bytes) -> bytes:
    manifest = b"jumb" + SECRET.encode() + b"c2pa"
    chunk = b"caBX" + manifest
    whole = struct.pack(">I", len(manifest)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return content[:33] + whole + content[33:]


def sources() -> dict[str, bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", SECRET)
    text.add_itxt("XML:com.adobe.xmp", f"<x>{SECRET}</x>")
    text.add_text("zipped", SECRET, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = picture()
    return {
        "png": encoded(rgb),
        "png text": encoded(rgb, pnginfo=text, dpi=(300, 300)),
        "png exif": encoded(rgb, exif=exif(1)),
        "png icc": encoded(rgb, icc_profile=profile),
        "png c2pa": with_c2pa(encoded(rgb)),
        "png with bytes after its end": encoded(rgb) + SECRET.encode(),
        "grey": encoded(rgb.convert("L")),
        "1 bit": encoded(rgb.convert("1")),
        "palette": encoded(rgb.convert("P")),
        "alpha": encoded(rgb.convert("RGBA")),
        "grey alpha": encoded(rgb.convert("LA")),
        "16 bit grey": encoded(Image.fromarray(np.arange(48 * 48, dtype=np.uint16).reshape(48, 48) * 20)),
        "jpeg": encoded(rgb, "JPEG"),
        "jpeg exif": encoded(rgb, "JPEG", exif=exif(6), comment=SECRET, icc_profile=profile),
        "jpeg grey": encoded(rgb.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "wide": encoded(picture(90, 40)),
        "tall": encoded(picture(30, 70)),
        "tiny": encoded(picture(3, 2)),
        "one pixel": encoded(picture(1, 1)),
    }


@pytest.mark.parametrize("source", sources())
@pytest.mark.parametrize("framing", ["whole", "centre"])
def test_nothing_but_pixels_of_one_form_is_left_of_any_source(source: str, framing: str) -> None:
    shown = blind_png(sources()[source], side=32, framing=framing)  # type: ignore[arg-type]
    assert set(chunks(shown)) == {b"IHDR", b"IDAT", b"IEND"}
    assert SECRET.encode() not in shown
    assert len(shown) == blind_png_length(32)
    with Image.open(io.BytesIO(shown)) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
        assert not {key for key in image.info if key != "interlace"}
    plain = blind_png(encoded(picture(softness=2)), side=32)
    assert shown[:41] == plain[:41]  # signature, header and the start of the data


def test_pixels_of_an_image_of_the_right_size_are_kept_exactly() -> None:
    source = picture(40, 40)
    assert np.array_equal(pixels(blind_png(encoded(source), side=40)), np.asarray(source))


def test_lengths_of_files_tell_models_apart_but_lengths_of_shown_images_do_not() -> None:
    """The attacker knows the models and guesses by length: right for the files, chance for what is served."""
    softness = {"noisy": 48, "medium": 16, "smooth": 4}
    files = [
        (model, encoded(picture(seed=seed, softness=soft)))
        for seed in range(20)
        for model, soft in softness.items()
    ]

    def accuracy(lengths: list[int]) -> float:
        known, asked = range(0, len(files), 2), range(1, len(files), 2)
        right = 0
        for one in asked:
            nearest = min(known, key=lambda other: (abs(lengths[other] - lengths[one]), other))
            right += files[nearest][0] == files[one][0]
        return right / len(asked)

    assert accuracy([len(content) for _, content in files]) == 1.0
    shown = [len(blind_png(content, side=48)) for _, content in files]
    assert len(set(shown)) == 1
    assert accuracy(shown) <= 0.4


def test_the_orientation_of_the_camera_is_applied() -> None:
    upright = picture(40, 40)
    for orientation, undo in {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }.items():
        stored = encoded(upright.transpose(undo), exif=exif(orientation))
        assert np.array_equal(pixels(blind_png(stored, side=40)), np.asarray(upright))


def test_whole_adds_black_bars_and_centre_cuts_the_ends_off() -> None:
    white = encoded(Image.new("RGB", (80, 40), (255, 255, 255)))
    whole = pixels(blind_png(white, side=40))
    assert not whole[:9].any()
    assert not whole[31:].any()
    assert (whole[11:29] == 255).all()
    assert (pixels(blind_png(white, side=40, framing="centre")) == 255).all()


def test_a_profile_of_srgb_changes_nothing_and_a_broken_one_is_ignored() -> None:
    levels = Image.new("RGB", (8, 8), (200, 120, 40))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (
        np.abs(
            pixels(blind_png(encoded(levels, icc_profile=srgb), side=32)).astype(int) - (200, 120, 40)
        ).max()
        <= 1
    )
    broken = encoded(levels, icc_profile=b"no profile at all")
    assert (pixels(blind_png(broken, side=32)) == (200, 120, 40)).all()


def test_transparent_pixels_are_black_and_sixteen_bits_are_stretched() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert not pixels(blind_png(encoded(clear), side=32)).any()
    deep = Image.fromarray(np.array([[1000, 2000], [3000, 5000]], dtype=np.uint16))
    assert np.asarray(decode(encoded(deep), "deep"))[..., 0].tolist() == [[0, 64], [128, 255]]
    flat = Image.fromarray(np.full((4, 4), 700, dtype=np.uint16))
    assert not np.asarray(decode(encoded(flat), "flat")).any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no PNG or JPEG image"),
        (b"GIF89a" + bytes(100), "is no PNG or JPEG image"),
        (encoded(picture(), "GIF"), "is no PNG or JPEG image"),
        (encoded(picture())[:200], "is damaged"),
        (encoded(picture(64, 64), "JPEG")[:300], "is damaged"),
        (encoded(picture())[:60] + bytes(20) + encoded(picture())[80:], "is damaged"),
        (
            encoded(picture(), save_all=True, append_images=[picture(seed=1), picture(seed=2)]),
            "is animated; give one picture",
        ),
    ],
)
def test_files_that_cannot_be_shown_are_named(content: bytes, message: str) -> None:
    with pytest.raises(StudyError, match=rf"a\.png: {message}"):
        blind_png(content, side=32, name="a.png")


def test_a_header_that_announces_too_many_pixels_is_refused_before_they_are_made() -> None:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    idat = b"IDAT" + zlib.compress(bytes(1000))
    bomb += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    with pytest.raises(StudyError, match=r"bomb: (30000 x 30000 pixels|is damaged)"):
        decode(bomb, "bomb")


def test_a_file_that_was_changed_or_taken_away_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    content = encoded(picture())
    file.write_bytes(content)
    image = StudyImage(file="a.png", sha256=sha256(content).hexdigest())
    assert read_unchanged(tmp_path, image) == content
    file.write_bytes(content + b" ")
    with pytest.raises(StudyError, match=r"a.png: was changed after the study was made; restore it"):
        read_unchanged(tmp_path, image)
    file.unlink()
    with pytest.raises(StudyError, match=r"a.png: cannot be read \(No such file .*put the images back"):
        read_unchanged(tmp_path, image)


def test_names_are_of_equal_form_and_of_one_rater_and_place_only(make_study: Callable[..., Study]) -> None:
    study = make_study(num_prompts=6, images_per_set=4, num_repeats=2)
    names = ImageNames(bytes(range(32)))
    seen: set[str] = set()
    for rater in range(5):
        pages = pages_for(study, rater)
        table = names.table(rater, pages)
        assert len(table) == 8 * 4 * 4
        assert all(re.fullmatch(r"[0-9a-f]{32}", name) for name in table)
        assert not seen & set(table)
        seen |= set(table)
        for name, shown in table.items():
            assert names.name(rater, shown) == name
    place = ShownImage(0, REFERENCES, 0)
    assert names.name(0, place) != ImageNames(bytes(32)).name(0, place)
    with pytest.raises(ValueError, match="16 bytes or more, got 3"):
        ImageNames(b"abc")


def test_names_do_not_depend_on_the_image(make_study: Callable[..., Study]) -> None:
    """Two studies with other images and models, one secret: the names are the same, and so tell nothing of them."""
    names = ImageNames(bytes(32))
    one = pages_for(make_study(models=("a", "b"), seed=1), 0)
    other = pages_for(make_study(models=("c", "d"), seed=2), 0)
    assert list(names.table(0, one)) == list(names.table(0, other))


def test_headers_are_the_same_for_all_images() -> None:
    assert not {"ETag", "Last-Modified", "Content-Disposition"} & set(IMAGE_HEADERS)
