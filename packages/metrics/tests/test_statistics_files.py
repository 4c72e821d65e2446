from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from medgen_metrics.feature_files import FeatureFileError, FeatureSpace
from medgen_metrics.frechet import frechet_distance
from medgen_metrics.statistics_files import (
    StatisticsSet,
    fit_statistics_set,
    frechet_distance_of_sets,
    read_statistics,
    write_statistics,
)
from torch import Tensor

Draw = Callable[..., Tensor]
SPACE = FeatureSpace("net", "ab" * 32, "bicubic-antialias 64x64", 6)


def test_distance_survives_the_files(gaussian: Draw, tmp_path: Path) -> None:
    real, synthetic = gaussian(80, 6, seed=0), gaussian(70, 6, seed=1, shift=0.5)
    for name, features in (("real", real), ("synthetic", synthetic)):
        write_statistics(tmp_path / f"{name}.safetensors", fit_statistics_set(features, SPACE))
    sets = [read_statistics(tmp_path / f"{name}.safetensors") for name in ("real", "synthetic")]
    assert sets[0].space == SPACE
    assert (sets[0].statistics.num_samples, sets[1].statistics.num_samples) == (80, 70)
    assert frechet_distance_of_sets(*sets) == pytest.approx(frechet_distance(real, synthetic), rel=1e-12)


def test_file_holds_no_single_image(gaussian: Draw, tmp_path: Path) -> None:
    features = gaussian(80, 6, seed=0)
    write_statistics(tmp_path / "s.safetensors", fit_statistics_set(features, SPACE))
    assert (tmp_path / "s.safetensors").stat().st_size < 2000
    with pytest.raises(
        ValueError, match=r"few\.safetensors: statistics of 20 images may give single images away"
    ):
        write_statistics(tmp_path / "few.safetensors", fit_statistics_set(features[:20], SPACE))
    assert not (tmp_path / "few.safetensors").exists()
    write_statistics(tmp_path / "few.safetensors", fit_statistics_set(features[:20], SPACE), least=2)


def test_statistics_of_two_networks_are_refused(gaussian: Draw) -> None:
    first = fit_statistics_set(gaussian(60, 6, seed=0), SPACE)
    second = StatisticsSet(first.statistics, replace(SPACE, preprocessing="tf1-bilinear 64x64"))
    with pytest.raises(FeatureFileError, match="preprocessing is 'bicubic-antialias 64x64' for the real"):
        frechet_distance_of_sets(first, second)
    with pytest.raises(FeatureFileError, match=r"dim 7 must be mean \[7\]"):
        StatisticsSet(first.statistics, replace(SPACE, dim=7))


def test_damaged_and_foreign_files_are_named(gaussian: Draw, tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    with pytest.raises(FeatureFileError, match=r"s\.safetensors: no such statistics file"):
        read_statistics(file)
    write_statistics(file, fit_statistics_set(gaussian(60, 6, seed=0), SPACE))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(FeatureFileError, match="does not match its hash"):
        read_statistics(file)
    file.write_bytes(bytes(content[:100]))
    with pytest.raises(FeatureFileError, match="cannot be read"):
        read_statistics(file)


def test_header_may_not_be_edited(gaussian: Draw, tmp_path: Path) -> None:
    file = tmp_path / "s.safetensors"
    write_statistics(file, fit_statistics_set(gaussian(60, 6, seed=0), SPACE))
    file.write_bytes(file.read_bytes().replace(b"net", b"Net", 1))
    with pytest.raises(FeatureFileError, match="does not match its hash"):
        read_statistics(file)


def test_offsets_and_types_are_kept(tmp_path: Path, gaussian: Draw) -> None:
    features = (gaussian(60, 6, seed=0) + 1e4).float()
    written = fit_statistics_set(features, SPACE)
    write_statistics(tmp_path / "s.safetensors", written)
    read = read_statistics(tmp_path / "s.safetensors").statistics
    assert torch.equal(read.mean, written.statistics.mean)
    assert torch.equal(read.covariance, written.statistics.covariance)
    assert read.mean.dtype == torch.float64
