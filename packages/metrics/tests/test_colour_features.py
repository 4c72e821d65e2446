from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from medgen_metrics.colour import colour_statistics_of_files
from medgen_metrics.colour_features import ColourExtractor, statistics_of_features
from medgen_metrics.extract import extract_features
from medgen_metrics.features.random_network import RandomExtractor

Write = Callable[..., list[Path]]


def test_cached_colour_is_that_of_the_files_whatever_their_sizes(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("small", 3, seed=0) + image_folder("large", 3, seed=1, size=61)
    for _ in range(2):
        extracted = extract_features(files, ColourExtractor(), features_dir=tmp_path / "f", batch_size=4)
        found, expected = statistics_of_features(extracted.feature_set), colour_statistics_of_files(files)
        for part in ("means", "deviations", "saturations"):
            np.testing.assert_allclose(getattr(found, part), getattr(expected, part), rtol=2e-7, atol=1e-12)
    assert extracted.feature_set.space.preprocessing == "full size, value / 255"


def test_features_of_a_network_are_no_colours(image_folder: Write, tmp_path: Path) -> None:
    files = image_folder("set", 2, seed=0)
    extracted = extract_features(files, RandomExtractor(0), features_dir=tmp_path / "f")
    with pytest.raises(ValueError, match="expected features of colour-statistics, got those of random:0"):
        statistics_of_features(extracted.feature_set)
