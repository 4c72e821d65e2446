"""Privacy audit: seconds and memory at full size, and which planted copies it finds.

    uv run python benchmarks/privacy_audit.py [--quick] [--images FOLDER]

The first part audits features: 5,000 samples against 20,000 training images, D = 1280, with copies planted among
the samples. The second part audits images: copies of training images, as they are, as JPEG of quality 50, mirrored
and cropped by a tenth, in the two default feature spaces at 1% false positives. Images are drawn, or taken from a
folder of real ones.
"""

import argparse
import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from medgen_metrics.image_decoding import decode_image, read_image_bytes
from medgen_metrics.image_sets import list_image_files
from medgen_metrics.privacy import (
    VIEWS,
    AuditConfig,
    PrivacyAudit,
    SpaceFeatures,
    audit_features,
    audit_image_files,
)
from medgen_metrics.score import ExtractorRef
from PIL import Image, ImageDraw
from torch import Tensor

DIM = 1280
MAX_SECONDS, MAX_MIB = 60.0, 500.0
FALSE_POSITIVE_RATE = 0.01
Alter = Callable[[Image.Image], Image.Image]


def peak_mib_over(work: Callable[[], PrivacyAudit]) -> tuple[PrivacyAudit, float, float, float]:
    """Run `work`; return its result, wall and CPU seconds, and memory beyond what was in use before, MiB."""
    # Linux: forget the highest mark so far, so that only this piece of work shows.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status_kib("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    audit = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return audit, wall, cpu, (status_kib("VmHWM") - before) / 1024


def status_kib(field: str) -> int:
    """Return a memory figure of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def draw_features(num_images: int, *, seed: int) -> Tensor:
    """Draw features with falling variances, as those of networks have, [N, 1280]."""
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, DIM + 1, dtype=torch.float32).pow(-0.5)
    return 5 * torch.randn(num_images, DIM, generator=generator) * deviations + 0.5


def audit_at_full_size(num_train: int, num_synthetic: int, views: tuple[str, ...]) -> dict[str, object]:
    """Audit features in one space; a tenth of the samples are copies, half of them exact, half disturbed."""
    train, holdout = draw_features(num_train, seed=0), draw_features(max(199, num_train // 10), seed=1)
    synthetic = draw_features(num_synthetic, seed=2)
    num_each = num_synthetic // 20
    noise = draw_features(num_each, seed=3) - 0.5
    synthetic[:num_each] = train[:num_each]
    synthetic[num_each : 2 * num_each] = train[num_each : 2 * num_each] + 0.4 * noise
    # Other views of the sample are other features; here they come from elsewhere and find nothing.
    holdout_views = [
        (view, holdout if view == "identity" else holdout.roll(row, 0)) for row, view in enumerate(views)
    ]
    synthetic_views = [
        (view, synthetic if view == "identity" else synthetic.roll(1 + row, 1))
        for row, view in enumerate(views)
    ]
    space = SpaceFeatures(ExtractorRef("drawn", "-"), "none", train, holdout_views, synthetic_views)
    names = [[str(row) for row in range(len(features))] for features in (train, holdout, synthetic)]
    audit, wall_s, cpu_s, mib = peak_mib_over(
        lambda: audit_features(
            [space],
            num_spaces=1,
            train_ids=names[0],
            holdout_ids=names[1],
            synthetic_ids=names[2],
            false_positive_rate=FALSE_POSITIVE_RATE,
        )
    )
    found = {int(pair.synthetic_id) for pair in audit.flagged if pair.synthetic_id == pair.train_id}
    return {
        "size": f"{num_synthetic} x {num_train} x {DIM}, {len(views)} view(s), {len(holdout)} held out",
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "extra_mib": round(mib),
        "found_exact": len([row for row in found if row < num_each]) / num_each,
        "found_disturbed": len([row for row in found if row >= num_each]) / num_each,
        "false_positives": round((audit.num_flagged - len(found)) / (num_synthetic - 2 * num_each), 4),
    }


def drawn_picture(generator: np.random.Generator, size: int = 160) -> Image.Image:
    """Draw a smooth random texture with a few shapes on it."""
    coarse = generator.integers(40, 216, (3, 3, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(3, 7))):
        (x, y), (w, h) = generator.integers(0, size, 2), generator.integers(size // 12, size // 3, 2)
        draw.ellipse((x - w, y - h, x + w, y + h), fill=tuple(generator.integers(0, 256, 3).tolist()))
    fine = generator.normal(0, 14, (size // 4, size // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    return Image.fromarray(np.clip(np.rint(np.asarray(image) + fine), 0, 255).astype(np.uint8))


def real_pictures(folder: Path, num_images: int) -> list[Image.Image]:
    """Read images of a folder in a random order that is the same every time."""
    files = list(list_image_files(folder))
    random.Random(0).shuffle(files)
    pixels = [decode_image(read_image_bytes(file), file) for file in files[:num_images]]
    return [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]


def cut(image: Image.Image, left: float, top: float) -> Image.Image:
    """Cut a tenth off both sides, at the place that `left` and `top` (0 to 1) say; scale back."""
    width, height = image.size
    x, y = round(left * width / 10), round(top * height / 10)
    window = image.crop((x, y, x + round(0.9 * width), y + round(0.9 * height)))
    return window.resize(image.size, Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image) -> Image.Image:
    """Encode as JPEG of quality 50 and decode."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(content)


# Kind of copy -> the share of it that must be found, and how it is made.
COPIES: dict[str, tuple[float, Alter]] = {
    "exact": (1.0, lambda image: image),
    "jpeg-50": (0.95, as_jpeg),
    "flip-horizontal": (0.9, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "flip-vertical": (0.9, lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
    "crop-centre": (0.9, lambda image: cut(image, 0.5, 0.5)),
    "crop-corner": (0.9, lambda image: cut(image, 1.0, 0.0)),
}


def audit_planted_images(
    pictures: list[Image.Image],
    sizes: tuple[int, int, int],
    num_each: int,
    views: tuple[str, ...],
    folder: Path,
) -> dict[str, object]:
    """Plant altered copies among fresh pictures; return the share of each kind that is found."""
    num_train, num_holdout, num_fresh = sizes
    train, holdout, fresh = (
        save_all(folder / name, pictures[start : start + size])
        for name, start, size in (
            ("train", 0, num_train),
            ("holdout", num_train, num_holdout),
            ("fresh", num_train + num_holdout, num_fresh),
        )
    )
    planted = []
    for kind, (_, alter) in COPIES.items():
        copies = [alter(picture) for picture in pictures[:num_each]]
        planted += save_all(folder / "planted" / kind, copies)
    audit, wall_s, _, mib = peak_mib_over(
        lambda: audit_image_files(
            train,
            [*planted, *fresh],
            holdout,
            AuditConfig(false_positive_rate=FALSE_POSITIVE_RATE, views=views),
            features_dir=folder / "features",
        )
    )
    found = dict.fromkeys(COPIES, 0)
    num_false = 0
    for pair in audit.flagged:
        sample, source = Path(pair.synthetic_id), Path(pair.train_id)
        if sample.parent.name == "fresh":
            num_false += 1
        elif sample.name == source.name:
            found[sample.parent.name] += 1
    return {
        "images": f"{num_train} training, {num_holdout} held out, {num_each} copies per kind, {num_fresh} fresh",
        "wall_s": round(wall_s, 1),
        "extra_mib": round(mib),
        **{f"found_{kind}": hits / num_each for kind, hits in found.items()},
        "false_positives": round(num_false / num_fresh, 4),
        "warnings": list(audit.warnings),
    }


def save_all(folder: Path, pictures: list[Image.Image]) -> list[Path]:
    """Save pictures as numbered PNG files."""
    folder.mkdir(parents=True)
    files = [folder / f"{index:05d}.png" for index in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    return files


def main() -> None:
    """Print the figures as JSON, and which bars they miss."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the features, few images, three views"
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="real images instead of drawn ones")
    options = parser.parse_args()
    num_train, num_synthetic = (2_000, 500) if options.quick else (20_000, 5_000)
    sizes, num_each = ((30, 199, 10), 3) if options.quick else ((300, 400, 200), 60)
    views = tuple(VIEWS)[:3] if options.quick else tuple(VIEWS)
    plain = audit_at_full_size(num_train, num_synthetic, ("identity",))
    print(json.dumps(plain, indent=2), flush=True)
    print(json.dumps(audit_at_full_size(num_train, num_synthetic, views), indent=2), flush=True)
    if options.images is not None:
        pictures = real_pictures(options.images, sum(sizes))
    else:
        generator = np.random.default_rng(0)
        pictures = [drawn_picture(generator) for _ in range(sum(sizes))]
    with tempfile.TemporaryDirectory() as folder:
        planted = audit_planted_images(pictures, sizes, num_each, views, Path(folder))
    print(json.dumps(planted, indent=2, ensure_ascii=False))
    missed = [kind for kind, (bar, _) in COPIES.items() if float(str(planted[f"found_{kind}"])) < bar]
    missed += ["seconds"] if float(str(plain["wall_s"])) > MAX_SECONDS else []
    missed += ["memory"] if float(str(plain["extra_mib"])) > MAX_MIB else []
    print(f"bars missed: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
