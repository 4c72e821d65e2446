from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from medgen_metrics import (
    EfficientNetLite0Extractor,
    FeatureFileError,
    MissingWeightsError,
    Score,
    ScoreConfig,
    colour_report,
    colour_statistics_of_files,
    extract_features,
    frechet_distance,
    inception_score,
    kernel_distance,
    load_extractor,
    prdc,
    read_scores,
    score_features,
    score_image_files,
    write_scores,
)
from medgen_metrics.feature_files import FeatureSet, FeatureSpace
from medgen_metrics.frechet_limit import frechet_limit
from medgen_metrics.kernel import PolynomialKernel
from medgen_metrics.score_config import METRICS
from PIL import Image

Write = Callable[..., list[Path]]
CONFIG = ScoreConfig(extractor="random:0", batch_size=8)


def test_sheet_holds_what_the_single_functions_return(image_folder: Write, tmp_path: Path) -> None:
    real, synthetic = image_folder("real", 20, seed=0), image_folder("synthetic", 20, seed=1)
    sheet = score_image_files(real, synthetic, CONFIG, features_dir=tmp_path / "f")
    extractor = load_extractor("random:0")
    a, b = (
        extract_features(files, extractor, features_dir=tmp_path / "g").feature_set.features
        for files in (real, synthetic)
    )
    values = prdc(a, b, k=3, seed=0)
    assert {score.name: score.value for score in sheet.scores} == pytest.approx(
        {
            "frechet": frechet_distance(a, b),
            "kid": kernel_distance(a, b).value,
            "precision": values.precision.value,
            "recall": values.recall.value,
            "f1": values.f1.value,
            "density": values.density.value,
            "coverage": values.coverage.value,
        },
        rel=1e-6,
    )
    for score in sheet.scores:
        assert score.interval[0] <= score.value <= score.interval[1]
        assert (score.num_real, score.num_synthetic) == (20, 20)
        assert (score.extractor.id, score.extractor.sha256) == (extractor.id, extractor.sha256)
    write_scores(tmp_path / "scores.json", sheet)
    assert read_scores(tmp_path / "scores.json") == sheet


def test_same_images_score_perfectly_and_are_reported_as_shared(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("real", 12, seed=0)
    sheet = score_image_files(files, files, CONFIG, features_dir=tmp_path / "f")
    assert sheet["frechet"].value == pytest.approx(0.0, abs=1e-9)
    assert sheet["precision"].value == sheet["recall"].value == 1.0
    assert sheet.real_fingerprint == sheet.synthetic_fingerprint
    assert "12 image(s) are in both sets, byte for byte" in sheet["kid"].warnings


def test_worse_images_score_worse(image_folder: Write, tmp_path: Path) -> None:
    real, alike = image_folder("real", 30, seed=0), image_folder("alike", 30, seed=1)
    flat = image_folder("flat", 30, seed=2)
    for file in flat:
        with Image.open(file) as image:
            pale = image.point(lambda value: 200 + value // 8)
        pale.save(file)
    good, bad = (
        score_image_files(real, other, CONFIG, features_dir=tmp_path / "f") for other in (alike, flat)
    )
    assert good["frechet"].interval[1] < bad["frechet"].interval[0]
    assert good["kid"].interval[1] < bad["kid"].interval[0]
    assert good["precision"].interval[0] > bad["precision"].interval[1]


def test_warnings_name_what_could_mislead(image_folder: Write, tmp_path: Path) -> None:
    real = image_folder("real", 6, seed=0)
    synthetic = image_folder("synthetic", 7, seed=1, suffix=".jpg")
    synthetic += image_folder("large", 1, seed=2, size=50, suffix=".jpg")
    real[1].write_bytes(real[0].read_bytes())
    Image.fromarray(torch.arange(1600).view(40, 40).to(torch.uint16).numpy()).save(real[5])
    sheet = score_image_files(real, synthetic, CONFIG, features_dir=tmp_path / "f")
    assert sheet["kid"].warnings == (
        "1 of 6 real images are copies of another in the set, byte for byte",
        "1 real image(s) have 16 bits: 0..65535 became 0..255; scans of fewer bits come out dark, "
        "state their range",
        "synthetic images have 2 sizes (7 of 8 are 40 x 40); all are resized to one square",
        "file formats differ: real PNG, synthetic JPEG; JPEG artefacts alone move distances",
        "set sizes differ: 6 real, 8 synthetic",
        "the extractor has random weights: not comparable with any other figure",
    )
    assert (
        sheet["frechet"].warnings[-1].startswith("6 images for 64 features: the distance is biased upwards")
    )


def test_progress_counts_both_sets(image_folder: Write, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    score_image_files(
        image_folder("real", 9, seed=0),
        image_folder("synthetic", 5, seed=1),
        replace(CONFIG, metrics=("kid",)),
        features_dir=tmp_path / "f",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(0, 14), (8, 14), (9, 14), (9, 14), (14, 14)]


def test_features_of_two_extractors_are_refused(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("real", 5, seed=0)
    first, second = (
        extract_features(files, load_extractor(name), features_dir=tmp_path / "f").feature_set
        for name in ("random:0", "random:1")
    )
    with pytest.raises(FeatureFileError, match="extractor_id is 'random:0' for the real and 'random:1'"):
        score_features(first, second, CONFIG)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"metrics must be some of frechet, kid, prdc, .*got \('fid',\)"):
        ScoreConfig(metrics=("fid",))
    with pytest.raises(ValueError, match="k and batch_size must be at least 1, got k=0"):
        ScoreConfig(k=0)


def test_one_metric_that_fails_leaves_the_others(image_folder: Write, tmp_path: Path) -> None:
    # Two images have a covariance, but no third neighbour and no unbiased kernel sum.
    real, synthetic = image_folder("real", 9, seed=0), image_folder("synthetic", 2, seed=1)
    sheet = score_image_files(real, synthetic, CONFIG, features_dir=tmp_path / "f")
    assert [score.name for score in sheet.scores] == ["frechet"]
    assert [reason.partition(":")[0] for reason in sheet.not_computed] == ["kid", "prdc"]
    assert any(
        warning.startswith("not computed: prdc: k=3 needs more than k images")
        for warning in sheet["frechet"].warnings
    )
    write_scores(tmp_path / "scores.json", sheet)
    assert read_scores(tmp_path / "scores.json") == sheet
    with pytest.raises(KeyError, match=r"no score 'precision'; there are frechet; not computed: kid"):
        sheet["precision"]


def test_nothing_that_can_be_computed_is_an_error_with_all_reasons(
    image_folder: Write, tmp_path: Path
) -> None:
    real, synthetic = image_folder("real", 9, seed=0), image_folder("synthetic", 1, seed=1)
    with pytest.raises(
        ValueError, match=r"no metric can be computed: frechet: synthetic features .*; kid: .*; prdc"
    ):
        score_image_files(real, synthetic, CONFIG, features_dir=tmp_path / "f")


def test_features_that_are_no_numbers_are_refused_by_row() -> None:
    space = FeatureSpace("net", "00" * 32, "none", 4)
    features = torch.rand(8, 4)
    broken = features.clone()
    broken[[2, 6], 1] = torch.nan
    names = tuple("abcdefgh")
    with pytest.raises(ValueError, match=r"synthetic features hold NaN .* row 2 \(all such rows: 2, 6\)"):
        score_features(FeatureSet(features, names, space), FeatureSet(broken, names, space), CONFIG)


def test_every_metric_of_two_feature_sets_has_its_scores(gaussian: Callable[..., torch.Tensor]) -> None:
    space = FeatureSpace("net", "00" * 32, "none", 6)
    real, synthetic = (
        FeatureSet(gaussian(60, 6, seed=seed), tuple(map(str, range(60))), space) for seed in (0, 1)
    )
    metrics = tuple(metric for metric in METRICS if metric not in {"colour", "inception-score"})
    config = ScoreConfig(metrics=metrics, num_subsets=20, subset_size=30, kernel=PolynomialKernel(degree=2))
    scores = {score.name: score for score in score_features(real, synthetic, config)}
    assert [*scores][:2] == ["frechet", "kid"]
    assert [*scores][-2:] == ["frechet-limit", "kid-subsets"]
    limit = frechet_limit(real.features, synthetic.features, seed=0)
    assert scores["frechet-limit"].value == limit.limit.value
    assert "(x.y / dim + 1)^2" in scores["kid"].estimator
    assert "20 subsets of 30 with spread" in scores["kid-subsets"].estimator
    assert scores["kid-subsets"].value == pytest.approx(
        scores["kid"].value, abs=4 * scores["kid"].standard_error
    )


@pytest.fixture
def tinted(image_folder: Write) -> tuple[list[Path], list[Path]]:
    """Twenty images, and twenty others that are redder by a tenth of full scale."""
    real, synthetic = image_folder("real", 20, seed=0), image_folder("synthetic", 20, seed=0)
    for file in synthetic:
        with Image.open(file) as image:
            pixels = np.array(image).astype(int) // 2
        pixels[:, :, 0] += 25
        Image.fromarray(pixels.astype(np.uint8)).save(file)
    for file in real:
        with Image.open(file) as image:
            pixels = np.array(image) // 2
        Image.fromarray(pixels).save(file)
    return real, synthetic


def test_colour_is_scored_as_a_whole_and_per_class_beside_other_metrics(
    tinted: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    labels = ["a"] * 10 + ["b"] * 9 + ["c"]
    config = replace(CONFIG, metrics=("kid", "colour"))
    sheet = score_image_files(*tinted, config, features_dir=tmp_path / "f", classes=(labels, labels))
    assert sheet["colour-mean-red"].value == pytest.approx(25 / 255, abs=1e-6)
    assert sheet["colour-mean-green/a"].value == pytest.approx(0.0, abs=1e-6)
    assert (sheet["saturation-distance/b"].num_real, sheet["kid"].num_real) == (9, 20)
    expected = colour_report(
        *(colour_statistics_of_files(files) for files in tinted),
        real_classes=labels,
        synthetic_classes=labels,
        seed=0,
    )
    for name, comparison in (("", expected.overall), ("/a", expected.per_class["a"])):
        score = sheet[f"saturation-distance{name}"]
        assert score.value == pytest.approx(comparison.saturation_distance.value, rel=1e-5)
        assert score.interval == pytest.approx(comparison.saturation_distance.interval, rel=1e-4)
    assert sheet["kid"].extractor.id == "random:0"
    assert sheet["colour-std-red"].extractor.id == "colour-statistics"
    assert sheet.not_computed == ("colour/c: needs 2 images in each set, got 1 real, 1 synthetic",)
    write_scores(tmp_path / "scores.json", sheet)
    assert read_scores(tmp_path / "scores.json") == sheet


def test_colour_needs_no_weights_and_the_rest_says_why_it_is_missing(
    tinted: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    config = ScoreConfig(
        extractor="inception:2048", metrics=("frechet", "colour"), weights_file=tmp_path / "gone.pth"
    )
    sheet = score_image_files(*tinted, config, features_dir=tmp_path / "f")
    assert sheet["colour-mean-red"].value == pytest.approx(25 / 255, abs=1e-6)
    assert len(sheet.not_computed) == 1
    assert sheet.not_computed[0].startswith(
        f"frechet: {tmp_path / 'gone.pth'}: no such weight file; expected"
    )
    with pytest.raises(MissingWeightsError, match=r"gone\.pth: no such weight file"):
        score_image_files(*tinted, replace(config, metrics=("frechet",)), features_dir=tmp_path / "f")


def test_colour_of_features_is_refused_by_name(gaussian: Callable[..., torch.Tensor]) -> None:
    features = FeatureSet(
        gaussian(9, 4, seed=0), tuple("abcdefghi"), FeatureSpace("net", "00" * 32, "none", 4)
    )
    with pytest.raises(ValueError, match="no metric can be computed: colour: is measured on images"):
        score_features(features, features, ScoreConfig(metrics=("colour",)))


def test_inception_score_of_features_without_another_pass(image_folder: Write, tmp_path: Path) -> None:
    extractor = EfficientNetLite0Extractor()
    real, synthetic = image_folder("real", 4, seed=0), image_folder("synthetic", 12, seed=1)
    config = ScoreConfig(metrics=("inception-score",), num_splits=3, seed=5)
    sheet = score_image_files(real, synthetic, config, features_dir=tmp_path / "f")
    features = extract_features(synthetic, extractor, features_dir=tmp_path / "g").feature_set.features
    expected = inception_score(extractor.logits(features), num_splits=3, seed=5)
    names = ("inception-score", "inception-score-std", "inception-score-median", "inception-score-whole")
    assert [score.name for score in sheet.scores] == list(names)
    values = (expected.mean, expected.std, expected.median, expected.whole.value)
    assert [sheet[name].value for name in names] == pytest.approx(values, rel=1e-5)
    assert "mean over 3 splits of 4 synthetic images, 1000 classes" in sheet["inception-score"].estimator
    assert any("not comparable with them" in warning for warning in sheet["inception-score"].warnings)


def test_inception_score_of_class_scores_and_of_neither() -> None:
    logits = 3 * torch.randn(30, 7, generator=torch.Generator().manual_seed(0))
    config = ScoreConfig(metrics=("inception-score",), num_splits=2)

    def scored(extractor_id: str) -> tuple[Score, ...]:
        space = FeatureSpace(extractor_id, "00" * 32, "none", 7, extractor_revision="c" * 40)
        features = FeatureSet(logits, tuple(map(str, range(30))), space)
        return score_features(features, features, config)

    published = scored("inception:logits_unbiased")[0]
    assert published.value == pytest.approx(inception_score(logits, num_splits=2, seed=0).mean)
    assert published.warnings == ()
    assert published.extractor.revision == "c" * 40
    assert "not comparable with them" in scored("hf:vit#logits")[0].warnings[0]
    with pytest.raises(ValueError, match="needs class scores, which hf:vit#cls does not give; take"):
        scored("hf:vit#cls")


def test_cautions_of_a_network_stand_beside_every_score(gaussian: Callable[..., torch.Tensor]) -> None:
    space = FeatureSpace("inception:64", "00" * 32, "none", 4, cautions=("unverified weights",))
    features = FeatureSet(gaussian(30, 4, seed=0), tuple(map(str, range(30))), space)
    for score in score_features(features, features, CONFIG):
        assert "unverified weights" in score.warnings


def test_scans_of_twelve_bits_compare_with_eight_bit_images(tmp_path: Path) -> None:
    sets: dict[str, list[Path]] = {"real": [], "synthetic": []}
    generator = np.random.default_rng(0)
    for index in range(8):
        grey = generator.integers(0, 256, (20, 20))
        for name, pixels in (("real", (grey * 16).astype(np.uint16)), ("synthetic", grey.astype(np.uint8))):
            file = tmp_path / name / f"{index}.png"
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(file)
            sets[name].append(file)
    config = replace(CONFIG, metrics=("kid", "colour"), sixteen_bit_range=(0, 4080))
    sheet = score_image_files(sets["real"], sets["synthetic"], config, features_dir=tmp_path / "f")
    assert sheet["saturation-distance"].value == 0.0
    assert sheet["colour-mean-red"].value == pytest.approx(0.0, abs=1e-7)
    assert sheet["kid"].preprocessing.startswith("16-bit 0..4080, bicubic-antialias 64x64")
    assert "8 real image(s) have 16 bits: 0..4080 became 0..255" in sheet["kid"].warnings
