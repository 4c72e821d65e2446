from dataclasses import replace
from pathlib import Path

import pytest
import torch
from medgen_metrics.feature_files import (
    FeatureCache,
    FeatureFileError,
    FeatureSet,
    FeatureSpace,
    read_features,
    require_same_space,
    write_features,
)

SPACE = FeatureSpace("random:0", "ab" * 32, "bicubic-antialias 64x64", dim=3)


def feature_set(num_samples: int = 4) -> FeatureSet:
    features = torch.rand(num_samples, 3, generator=torch.Generator().manual_seed(0))
    return FeatureSet(features, tuple(f"record-{index}" for index in range(num_samples)), SPACE)


def test_feature_file_comes_back_bit_for_bit(tmp_path: Path) -> None:
    original = feature_set()
    write_features(tmp_path / "a" / "real.safetensors", original)
    reread = read_features(tmp_path / "a" / "real.safetensors")
    assert torch.equal(reread.features, original.features)
    assert (reread.record_ids, reread.space) == (original.record_ids, original.space)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["real.safetensors"]


def test_whence_a_network_came_and_what_to_beware_of_survive_the_file(tmp_path: Path) -> None:
    space = replace(SPACE, extractor_revision="c" * 40, cautions=("not the published weights",))
    write_features(tmp_path / "real.safetensors", replace(feature_set(), space=space))
    assert read_features(tmp_path / "real.safetensors").space == space


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_one_flipped_bit_is_found(tmp_path: Path, place: float) -> None:
    file = tmp_path / "real.safetensors"
    write_features(file, feature_set(60))
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    with pytest.raises(FeatureFileError, match=r"real\.safetensors: .*delete it and run again"):
        read_features(file)


def test_half_a_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "real.safetensors"
    write_features(file, feature_set())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FeatureFileError, match="cannot be read"):
        read_features(file)


def test_rows_and_record_ids_must_agree() -> None:
    with pytest.raises(FeatureFileError, match=r"= \(2, 3\), got \(4, 3\)"):
        FeatureSet(torch.zeros(4, 3), ("a", "b"), SPACE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("extractor_id", "other"), ("extractor_sha256", "cd" * 32), ("preprocessing", "bilinear"), ("dim", 4)],
)
def test_unequal_feature_spaces_are_refused(field: str, value: str | int) -> None:
    with pytest.raises(
        FeatureFileError, match=f"cannot be compared: {field} is .* for the real and {value!r} for"
    ):
        require_same_space(SPACE, replace(SPACE, **{field: value}))


def test_cache_resumes_from_disk_in_any_order(tmp_path: Path) -> None:
    features = feature_set().features
    cache = FeatureCache(tmp_path, SPACE)
    cache.add(["a", "b"], features[:2])
    cache.add(["c"], features[2:3])
    resumed = FeatureCache(tmp_path, SPACE)
    assert len(resumed) == 3
    assert "c" in resumed
    assert "d" not in resumed
    assert torch.equal(resumed.gather(["c", "a", "a"]), features[[2, 0, 0]])


def test_other_weights_or_preprocessing_find_nothing(tmp_path: Path) -> None:
    FeatureCache(tmp_path, SPACE).add(["a"], torch.zeros(1, 3))
    assert len(FeatureCache(tmp_path, SPACE)) == 1
    assert len(FeatureCache(tmp_path, replace(SPACE, extractor_sha256="cd" * 32))) == 0
    assert len(FeatureCache(tmp_path, replace(SPACE, preprocessing="bilinear"))) == 0


def test_damaged_shard_is_named(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPACE)
    cache.add(["a"], torch.ones(1, 3))
    (shard,) = cache.folder.iterdir()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 128
    shard.write_bytes(content)
    with pytest.raises(FeatureFileError, match=f"{shard.name}: content does not match its hash"):
        FeatureCache(tmp_path, SPACE)


def test_half_written_shard_of_a_killed_run_is_not_seen(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPACE)
    cache.add(["a"], torch.ones(1, 3))
    (cache.folder / ".shard-123.safetensors.tmp").write_bytes(b"half")
    assert len(FeatureCache(tmp_path, SPACE)) == 1


def test_features_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SPACE)
    with pytest.raises(
        FeatureFileError, match=r"expected finite features \[1, 3\] of random:0, got \(1, 4\)"
    ):
        cache.add(["a"], torch.zeros(1, 4))
    with pytest.raises(FeatureFileError, match="with 3 values NaN or infinite"):
        cache.add(["a"], torch.full((1, 3), torch.nan))
    assert len(FeatureCache(tmp_path, SPACE)) == 0
