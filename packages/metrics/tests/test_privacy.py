import io
import json
import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_metrics.features import load_extractor
from medgen_metrics.image_sets import list_image_files
from medgen_metrics.intervals import wilson_interval
from medgen_metrics.preprocessing import Preprocessing
from medgen_metrics.privacy import (
    VIEWS,
    AuditConfig,
    AuditDataError,
    PixelExtractor,
    PrivacyAudit,
    SpaceFeatures,
    ViewedExtractor,
    audit_features,
    audit_image_files,
    calibrate_threshold,
    count_authentic,
    leaked_rows,
    nearest_over_views,
    num_holdout_needed,
    write_audit,
)
from medgen_metrics.score import ExtractorRef
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

Write = Callable[..., list[Path]]
Draw = Callable[..., Tensor]
REAL_DATA = os.environ.get("MEDGEN_REAL_DATA")
PIXELS = ExtractorRef("pixels:16", "0" * 64)


def picture(generator: np.random.Generator, size: int = 96) -> Image.Image:
    """Draw a smooth random texture with a few shapes on it."""
    coarse = generator.integers(40, 216, (3, 3, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(3, 7))):
        (x, y), (w, h) = generator.integers(0, size, 2), generator.integers(size // 12, size // 3, 2)
        draw.ellipse((x - w, y - h, x + w, y + h), fill=tuple(generator.integers(0, 256, 3).tolist()))
    fine = generator.normal(0, 14, (size // 4, size // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
    noisy = np.asarray(image) + fine + generator.normal(0, 3, (size, size, 3))
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def cut(image: Image.Image, left: float, top: float) -> Image.Image:
    width, height = image.size
    x, y = round(left * width / 10), round(top * height / 10)
    window = image.crop((x, y, x + round(0.9 * width), y + round(0.9 * height)))
    return window.resize(image.size, Image.Resampling.BICUBIC)


def reencode(image: Image.Image) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=50)
    return Image.open(content)


PLANTS: dict[str, tuple[float, Callable[[Image.Image], Image.Image]]] = {
    "exact": (1.0, lambda image: image),
    "jpeg": (0.95, reencode),
    "mirrored": (0.9, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "upside-down": (0.9, lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
    "crop-centre": (0.9, lambda image: cut(image, 0.5, 0.5)),
    "crop-corner": (0.9, lambda image: cut(image, 1, 0)),
}


def save_all(folder: Path, images: list[Image.Image]) -> list[Path]:
    folder.mkdir(parents=True)
    files = [folder / f"{index:04d}.png" for index in range(len(images))]
    for file, image in zip(files, images, strict=True):
        image.save(file)
    return files


def plant(folder: Path, train: list[Path], num_each: int, kinds: tuple[str, ...]) -> list[Path]:
    """Write altered copies of training images; the name begins with the kind, ends with the training image."""
    folder.mkdir(parents=True)
    files = []
    for kind in kinds:
        for source in train[:num_each]:
            files.append(folder / f"{kind}.{source.stem}.png")
            with Image.open(source) as image:
                PLANTS[kind][1](image).save(files[-1])
    return files


def found_shares(audit: PrivacyAudit) -> dict[str, float]:
    """Return the share of each kind that is flagged with the right training image."""
    flagged = {Path(pair.synthetic_id).name: Path(pair.train_id).stem for pair in audit.flagged}
    hits: dict[str, list[bool]] = {}
    for pair in audit.pairs:
        kind, source, _ = Path(pair.synthetic_id).name.split(".")
        hits.setdefault(kind, []).append(flagged.get(Path(pair.synthetic_id).name) == source)
    return {kind: sum(values) / len(values) for kind, values in hits.items()}


def check_planted_copies_are_found(
    train: list[Path], holdout: list[Path], folder: Path, config: AuditConfig, num_each: int
) -> None:
    planted = plant(folder / "planted", train, num_each, tuple(PLANTS))
    config = replace(config, num_pairs=len(planted))
    audit = audit_image_files(train, planted, holdout, config, features_dir=folder / "features")
    shares = found_shares(audit)
    assert shares.keys() == PLANTS.keys()
    assert not {kind: share for kind, share in shares.items() if share < PLANTS[kind][0]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], list[Path]]:
    root = tmp_path_factory.mktemp("pictures")

    def write(name: str, num_images: int, seed: int) -> list[Path]:
        generator = np.random.default_rng(seed)
        return save_all(root / name, [picture(generator) for _ in range(num_images)])

    return write


def test_pixels_find_planted_copies_and_spare_innocent_images(
    pictures: Callable[[str, int, int], list[Path]], tmp_path: Path
) -> None:
    train, holdout = pictures("train", 120, 0), pictures("holdout", 99, 1)
    config = AuditConfig(extractors=("pixels:8",))
    check_planted_copies_are_found(train, holdout, tmp_path, config, num_each=10)
    innocent = audit_image_files(
        train, pictures("innocent", 60, 2), holdout, config, features_dir=tmp_path / "features"
    )
    # At a promised 1%: 5 or more of 60 would be a matter of one in 1,000.
    assert innocent.num_flagged < 5
    assert innocent.expected_by_chance == pytest.approx(0.6)


def test_a_network_and_pixels_find_planted_copies_together(
    pictures: Callable[[str, int, int], list[Path]], tmp_path: Path
) -> None:
    train, holdout = pictures("few-train", 40, 3), pictures("few-holdout", 99, 4)
    config = AuditConfig(false_positive_rate=0.02, views=("identity", "flip-horizontal"))
    kinds = ("exact", "jpeg", "mirrored", "crop-centre", "crop-corner")
    planted = plant(tmp_path / "planted", train, 6, kinds)
    audit = audit_image_files(
        train, planted, holdout, replace(config, num_pairs=len(planted)), features_dir=tmp_path / "features"
    )
    assert found_shares(audit) == dict.fromkeys(kinds, 1.0)


@pytest.mark.slow
def test_a_network_and_pixels_find_planted_copies_at_one_percent(
    pictures: Callable[[str, int, int], list[Path]], tmp_path: Path
) -> None:
    train, holdout = pictures("many-train", 300, 5), pictures("many-holdout", 199, 6)
    check_planted_copies_are_found(train, holdout, tmp_path, AuditConfig(), num_each=20)


@pytest.mark.slow
@pytest.mark.skipif(REAL_DATA is None, reason="set MEDGEN_REAL_DATA to a folder that holds endoscopy/")
def test_planted_copies_of_real_endoscopic_images_are_found(tmp_path: Path) -> None:
    files = list(list_image_files(Path(str(REAL_DATA)) / "endoscopy"))
    random.Random(0).shuffle(files)
    # The collection holds some pictures twice: a few held-out images more than the 199 that 1% needs.
    train, holdout = files[:300], files[300:510]
    check_planted_copies_are_found(train, holdout, tmp_path, AuditConfig(), num_each=20)


def space(
    train: Tensor, holdout: Tensor, synthetic: Tensor, extractor: ExtractorRef = PIXELS
) -> SpaceFeatures:
    return SpaceFeatures(extractor, "as it is", train, [("identity", holdout)], [("identity", synthetic)])


def ids(name: str, number: int) -> list[str]:
    return [f"{name}-{index}" for index in range(number)]


def audit_of(train: Tensor, holdout: Tensor, synthetic: Tensor, **settings: float) -> PrivacyAudit:
    return audit_features(
        [space(train, holdout, synthetic)],
        num_spaces=1,
        train_ids=ids("train", len(train)),
        holdout_ids=ids("holdout", len(holdout)),
        synthetic_ids=ids("synthetic", len(synthetic)),
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("num_holdout", "rate", "rank"), [(99, 0.01, 1), (198, 0.01, 1), (199, 0.01, 2), (19, 0.05, 1)]
)
def test_threshold_is_an_order_statistic_of_the_holdout(num_holdout: int, rate: float, rank: int) -> None:
    distances = np.random.default_rng(0).permutation(np.arange(1.0, num_holdout + 1))
    threshold = calibrate_threshold(distances, rate)
    assert (threshold.distance, threshold.rank) == (float(rank), rank)


def test_promised_rate_is_kept_on_average_and_the_bound_in_95_percent_of_holdouts() -> None:
    # Uniform distances: the realised rate of a threshold is the threshold.
    generator = np.random.default_rng(0)
    thresholds = [calibrate_threshold(generator.random(250), 0.02) for _ in range(4000)]
    realised = np.array([threshold.distance for threshold in thresholds])
    assert 0.018 < realised.mean() <= 0.02
    bounded = np.mean([rate <= one.rate_bound for rate, one in zip(realised, thresholds, strict=True)])
    assert abs(bounded - 0.95) < 0.012


def test_bound_of_the_smallest_distance_has_its_closed_form() -> None:
    threshold = calibrate_threshold(np.arange(1.0, 100), 0.01)
    assert threshold.rate_bound == pytest.approx(1 - 0.05 ** (1 / 99), rel=1e-9)


def test_too_few_holdout_images_are_refused_with_the_number_needed(gaussian: Draw) -> None:
    with pytest.raises(ValueError, match=r"rate of 0.01 needs at least 99 held-out images, got 98"):
        calibrate_threshold(np.ones(98), 0.01)
    with pytest.raises(ValueError, match=r"over 2 spaces \(0.005 each\) needs at least 199 .*got 100"):
        calibrate_threshold(np.ones(100), 0.01, num_spaces=2)
    assert calibrate_threshold(np.ones(num_holdout_needed(0.03, num_spaces=2)), 0.03, num_spaces=2).rank == 1
    with pytest.raises(ValueError, match="needs at least 99 held-out images, got 50"):
        audit_of(gaussian(9, 4, seed=0), gaussian(50, 4, seed=1), gaussian(5, 4, seed=2))


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.07, 0.29, 1 / 3])
def test_number_needed_is_the_smallest_that_is_accepted(rate: float) -> None:
    needed = num_holdout_needed(rate)
    assert calibrate_threshold(np.ones(needed), rate).rank == 1
    with pytest.raises(ValueError, match="needs at least"):
        calibrate_threshold(np.ones(needed - 1), rate)


def test_holdout_that_is_in_the_training_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"3 of 99 held-out images are at distance 0 .*not held out"):
        calibrate_threshold(np.concatenate([np.zeros(3), np.ones(96)]), 0.01)


def test_leaked_holdout_is_left_out_unless_kept(gaussian: Draw) -> None:
    train, holdout, synthetic = gaussian(300, 16, seed=0), gaussian(120, 16, seed=1), gaussian(40, 16, seed=2)
    clean = audit_of(train, holdout[2:], synthetic)
    holdout[:2] = train[:2] + 1e-3
    audit = audit_of(train, holdout, synthetic)
    assert audit.spaces[0].threshold == clean.spaces[0].threshold
    assert audit.spaces[0].leaked_holdout_ids == ("holdout-0", "holdout-1")
    assert audit.warnings[0].startswith(
        "2 held-out image(s) are near copies of training images and were left out"
    )
    kept = audit_of(train, holdout, synthetic, keep_leaks=True)
    assert kept.spaces[0].threshold.distance == pytest.approx(4e-3)
    assert kept.warnings == ()


def test_innocent_holdouts_are_not_taken_for_leaks() -> None:
    # In m dimensions ratio^m is uniform (Facco et al. 2017); 1,000 sets of which one may hold a false leak.
    generator = np.random.default_rng(1)
    for num_dimensions in (3, 20):
        ratios = generator.random((1000, 150)) ** (1 / num_dimensions)
        assert sum(leaked_rows(row).any() for row in ratios) <= 5
    even = np.linspace(0.01, 0.99, 99) ** (1 / 20)
    assert leaked_rows(np.append(even, 0.1)).tolist() == [False] * 99 + [True]
    assert not leaked_rows(np.ones(9)).any()


def test_audit_counts_planted_copies_in_features_exactly(gaussian: Draw) -> None:
    train, holdout, fresh = gaussian(400, 24, seed=0), gaussian(199, 24, seed=1), gaussian(45, 24, seed=2)
    synthetic = torch.cat([fresh, train[[7, 8, 9, 10, 11]] + 1e-6])
    audit = audit_of(train, holdout, synthetic, num_pairs=8)
    (result,) = audit.spaces
    by_hand = torch.cdist(fresh, train, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    num_by_chance = int((by_hand < result.threshold.distance).sum())
    assert audit.num_flagged == 5 + num_by_chance == len(audit.flagged)
    assert audit.copy_rate == audit.num_flagged / 50
    assert audit.interval == wilson_interval(audit.num_flagged, 50)
    assert {(pair.synthetic_id, pair.train_id) for pair in audit.pairs[:5]} == {
        (f"synthetic-{45 + index}", f"train-{7 + index}") for index in range(5)
    }
    assert all(pair.distance_ratio < 1e-3 for pair in audit.pairs[:5])
    assert len(audit.pairs) == 8
    assert [pair.suspicion for pair in audit.pairs] == sorted(pair.suspicion for pair in audit.pairs)


def test_false_positive_rate_holds_over_two_spaces(gaussian: Draw) -> None:
    rates = []
    for seed in range(30):
        sets = [
            [gaussian(n, 6, seed=1000 * part + 2 * seed + way) for part, n in enumerate((60, 99, 100))]
            for way in (0, 1)
        ]
        audit = audit_features(
            [space(*three, ExtractorRef(f"space {way}", "0")) for way, three in enumerate(sets)],
            num_spaces=2,
            train_ids=ids("t", 60),
            holdout_ids=ids("h", 99),
            synthetic_ids=ids("s", 100),
            false_positive_rate=0.1,
        )
        rates.append(audit.copy_rate)
    # Independent spaces nearly use up the rate; 30 held-out sets leave a standard error of about 0.007.
    assert 0.06 < np.mean(rates) < 0.115


def test_a_sample_is_flagged_if_any_space_flags_it(gaussian: Draw) -> None:
    train, holdout, synthetic = (gaussian(n, 8, seed=seed) for seed, n in enumerate((50, 199, 10)))
    seen = synthetic.clone()
    seen[4] = train[3]
    audit = audit_features(
        [space(train, holdout, synthetic + 9), space(train, holdout, seen + 0.0, ExtractorRef("keen", "1"))],
        num_spaces=2,
        train_ids=ids("train", 50),
        holdout_ids=ids("holdout", 199),
        synthetic_ids=ids("synthetic", 10),
    )
    (first, *_) = audit.flagged
    assert (first.synthetic_id, first.train_id, first.space) == ("synthetic-4", "train-3", "keen")
    assert audit.spaces[0].num_flagged == 0


def authentic_by_hand(train: NDArray[np.float64], synthetic: NDArray[np.float64]) -> int:
    count = 0
    for sample in synthetic:
        to_train = [math.dist(sample, image) for image in train]
        nearest = int(np.argmin(to_train))
        others = [math.dist(train[nearest], image) for row, image in enumerate(train) if row != nearest]
        count += to_train[nearest] > min(others)
    return count


def test_authenticity_equals_its_definition(gaussian: Draw) -> None:
    train, synthetic = gaussian(40, 5, seed=0), gaussian(60, 5, seed=1)
    synthetic[:10] = train[:10] + 0.01
    nearest = nearest_over_views([("identity", synthetic)], train)
    ours = count_authentic(train, nearest)
    assert ours == authentic_by_hand(train.numpy(), synthetic.numpy())
    assert 0 < ours < 50


def test_copies_are_never_authentic_even_of_duplicated_training_images(gaussian: Draw) -> None:
    train = gaussian(20, 5, seed=0).repeat(2, 1)
    nearest = nearest_over_views([("identity", train[:7])], train)
    assert count_authentic(train, nearest) == 0
    np.testing.assert_array_equal(nearest.ratios, 1.0)


def test_nearest_view_wins_and_authenticity_keeps_the_plain_one(gaussian: Draw) -> None:
    train = gaussian(30, 4, seed=0)
    away = train[:3] + 50
    nearest = nearest_over_views([("identity", away), ("flip-horizontal", train[[5, 6, 7]])], train)
    assert nearest.views == ("flip-horizontal",) * 3
    np.testing.assert_array_equal(nearest.indices, [5, 6, 7])
    np.testing.assert_array_equal(nearest.distances, 0.0)
    assert (nearest.plain_distances > 10).all()
    assert count_authentic(train, nearest) == 3


def test_order_of_training_images_and_of_samples_does_not_matter(gaussian: Draw) -> None:
    train, holdout, synthetic = (gaussian(n, 6, seed=seed) for seed, n in enumerate((80, 99, 50)))
    forward = audit_of(train, holdout, synthetic)
    backward = audit_of(train.flip(0), holdout.flip(0), synthetic.flip(0))
    assert forward.num_flagged == backward.num_flagged
    assert forward.spaces[0].authenticity == backward.spaces[0].authenticity
    assert [pair.distance for pair in forward.pairs] == [pair.distance for pair in backward.pairs]


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_units_of_the_features_do_not_matter(gaussian: Draw, factor: float) -> None:
    sets = [gaussian(n, 6, seed=seed) for seed, n in enumerate((80, 99, 50))]
    plain, scaled = audit_of(*sets), audit_of(*(features * factor for features in sets))
    assert [pair.synthetic_id for pair in plain.flagged] == [pair.synthetic_id for pair in scaled.flagged]
    assert plain.spaces[0].threshold.rate_bound == scaled.spaces[0].threshold.rate_bound


def test_crops_keep_nine_tenths_of_each_side_where_their_name_says() -> None:
    images = torch.arange(3 * 30 * 40).remainder(251).to(torch.uint8).view(1, 3, 30, 40)
    assert torch.equal(VIEWS["crop-top-left"](images), images[..., :27, :36])
    assert torch.equal(VIEWS["crop-top-right"](images), images[..., :27, 4:])
    assert torch.equal(VIEWS["crop-bottom-left"](images), images[..., 3:, :36])
    assert torch.equal(VIEWS["crop-bottom-right"](images), images[..., 3:, 4:])
    assert torch.equal(VIEWS["crop-centre"](images), images[..., 2:29, 2:38])
    assert VIEWS["crop-centre"](images[..., :1, :1]).shape == (1, 3, 1, 1)


def test_crops_of_training_images_are_compared_with_samples_that_are_whole(gaussian: Draw) -> None:
    train, cropped, samples = (gaussian(20, 6, seed=seed) for seed in range(3))
    samples[3], samples[4] = cropped[7], train[8]
    crops = [("crop-centre", cropped)]
    whole = nearest_over_views([("identity", samples)], train, crops)
    assert (whole.indices[3], whole.distances[3]) == (7, 0.0)
    assert whole.views[3:5] == ("identity, training image crop-centre", "identity")
    assert whole.plain_distances[3] > 0
    both = nearest_over_views([("identity", samples), ("crop-top-left", cropped)], train, crops)
    assert (both.distances[:3] > 0).all()


def test_flips_are_their_own_inverse_and_no_view_changes_its_input() -> None:
    images = torch.randint(0, 256, (2, 3, 20, 24), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    before = images.clone()
    for name, view in VIEWS.items():
        assert view(images).dtype == torch.uint8, name
    for name in ("flip-horizontal", "flip-vertical"):
        assert torch.equal(VIEWS[name](VIEWS[name](images)), images)
    assert torch.equal(images, before)


def test_views_have_their_own_names_and_the_identity_shares_that_of_the_network() -> None:
    extractor = load_extractor("random:0")
    names = {ViewedExtractor(extractor, view).preprocessing.name for view in VIEWS}
    assert len(names) == len(VIEWS) == 8
    assert extractor.preprocessing.name in names
    images = torch.randint(0, 256, (2, 3, 40, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mirrored = ViewedExtractor(extractor, "flip-horizontal")(images.flip(-1))
    assert torch.equal(mirrored, extractor(images))
    with pytest.raises(ValueError, match="no view 'rotated'; expected one of identity"):
        ViewedExtractor(extractor, "rotated")


def test_pixel_distance_is_the_root_mean_square_difference() -> None:
    extractor = PixelExtractor(8)
    black, white = (
        torch.zeros(1, 3, 30, 30, dtype=torch.uint8),
        torch.full((1, 3, 20, 25), 255, dtype=torch.uint8),
    )
    assert (extractor(black) - extractor(white)).norm() == pytest.approx(1.0)
    assert isinstance(extractor.preprocessing, Preprocessing)
    with pytest.raises(ValueError, match="size must be 1 to 256 pixels, got 0"):
        PixelExtractor(0)


def test_audit_of_files_resumes_from_its_cache_and_counts_progress(
    image_folder: Write, tmp_path: Path
) -> None:
    train, holdout = image_folder("train", 12, seed=0), image_folder("holdout", 19, seed=1)
    synthetic = image_folder("synthetic", 6, seed=2)
    synthetic[3].write_bytes(train[2].read_bytes())
    config = AuditConfig(
        extractors=("random:0", "pixels:8"), false_positive_rate=0.1, views=("identity", "flip-vertical")
    )
    seen: list[tuple[int, int]] = []
    first = audit_image_files(
        train,
        synthetic,
        holdout,
        config,
        features_dir=tmp_path / "f",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    # Twice 12 training images and two views of the others; pixels also see five crops of the training images.
    assert seen[-1] == (2 * (12 + 2 * (19 + 6)) + 5 * 12,) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    shards = {file: file.stat().st_mtime_ns for file in (tmp_path / "f").rglob("*.safetensors")}
    again = audit_image_files(train, synthetic, holdout, config, features_dir=tmp_path / "f")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "f").rglob("*.safetensors")} == shards
    assert again.to_json() == first.to_json()
    assert first.flagged[0].train_id == train[2].as_posix()
    assert first.warnings == (
        "1 synthetic image(s) are training images, byte for byte",
        "random:0 has random weights: not comparable with any other audit",
    )
    write_audit(tmp_path / "audit.json", first)
    content = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert content["num_flagged"] == first.num_flagged == len(content["flagged"])
    assert content["spaces"][1]["extractor"]["id"] == "pixels:8"
    assert content["spaces"][0]["threshold"]["false_positive_rate"] == pytest.approx(0.05)


def test_holdout_files_that_were_trained_on_are_refused(image_folder: Write, tmp_path: Path) -> None:
    train, holdout = image_folder("train", 5, seed=0), image_folder("holdout", 19, seed=1)
    holdout[4].write_bytes(train[1].read_bytes())
    config = AuditConfig(extractors=("pixels:8",), false_positive_rate=0.05)
    with pytest.raises(
        AuditDataError, match=r"1 held-out image\(s\) are training images, .*holdout/004\.png"
    ):
        audit_image_files(train, train[:2], holdout, config, features_dir=tmp_path / "f")
    with pytest.raises(AuditDataError, match="needs at least 99 held-out images, got 19"):
        audit_image_files(train, train, holdout, AuditConfig(("pixels:8",)), features_dir=tmp_path / "f")
    with pytest.raises(AuditDataError, match="too few training images: 0"):
        audit_image_files([], train, holdout, config, features_dir=tmp_path / "f")


def test_wrong_settings_are_refused(gaussian: Draw) -> None:
    with pytest.raises(ValueError, match="views must be 'identity' and others"):
        AuditConfig(views=("flip-horizontal",))
    with pytest.raises(ValueError, match="extractors must be one or more different names"):
        AuditConfig(extractors=("pixels:8", "pixels:8"))
    with pytest.raises(ValueError, match="false_positive_rate must be above 0"):
        AuditConfig(false_positive_rate=0.0)
    with pytest.raises(ValueError, match="exactly one extractor with weights, got"):
        AuditConfig(extractors=("pixels:8",), weights_file=Path("w.pth"))
    train = gaussian(9, 4, seed=0)
    with pytest.raises(ValueError, match="views must hold 'identity'"):
        nearest_over_views([("flip-vertical", train)], train)
    with pytest.raises(ValueError, match="same samples, got 9 and 8"):
        nearest_over_views([("identity", train), ("flip-vertical", train[:8])], train)
    with pytest.raises(ValueError, match="synthetic images have 3 names but 9 feature rows"):
        audit_features(
            [space(train, gaussian(99, 4, seed=1), train)],
            num_spaces=1,
            train_ids=ids("t", 9),
            holdout_ids=ids("h", 99),
            synthetic_ids=ids("s", 3),
        )
