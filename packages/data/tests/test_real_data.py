"""Importers on real collections; skipped unless MEDGEN_REAL_DATA names the folder that holds them."""

import os
from collections import Counter
from pathlib import Path

import pytest
from medgen_data.image_folder import check_fingerprint
from medgen_data.importers import import_dataset
from medgen_data.near_duplicates import find_near_duplicates
from medgen_data.splits import find_leaks

REAL_DATA = os.environ.get("MEDGEN_REAL_DATA")

pytestmark = pytest.mark.skipif(
    REAL_DATA is None, reason="set MEDGEN_REAL_DATA to the folder that holds endoscopy/ and dermoscopy/"
)
OPTIONS = {"size": 64, "test_fraction": 0.2, "split_seed": 0, "licence": "research", "source": "real"}


def source(name: str) -> Path:
    assert REAL_DATA is not None
    return Path(REAL_DATA) / name


def test_endoscopy_imports_whole_with_its_prompts(tmp_path: Path) -> None:
    done = import_dataset(
        "medvqa-gi", source("endoscopy"), tmp_path / "set", modality="endoscopic", **OPTIONS
    )
    records = done.dataset.records
    assert done.problems == ()
    assert Counter(record.label for record in records) == {"polyp": 803, "sessile polyp": 195}
    assert Counter(record.label for record in records if record.split == "test") == {
        "polyp": 161,
        "sessile polyp": 39,
    }
    assert sum(len(record.text) for record in records) == 3988
    assert set(records[0].facts) == {"n_polyps", "location", "cells", "area_fraction", "box_artefact"}
    check_fingerprint(done.dataset)
    # The collection holds the same frame twice under two names; few pairs, all of them real.
    assert len(find_near_duplicates(done.dataset)) <= 4


def test_dermoscopy_never_splits_a_lesion(tmp_path: Path) -> None:
    done = import_dataset(
        "ham10000", source("dermoscopy"), tmp_path / "set", modality="dermoscopic", **OPTIONS
    )
    records = done.dataset.records
    assert done.problems == ()
    assert len(records) == 3778
    assert len({record.group_id for record in records}) == 3040
    assert find_leaks(records) == ()
    for label, total in Counter(record.label for record in records).items():
        in_test = sum(record.label == label and record.split == "test" for record in records)
        assert in_test == -(-total // 5), label
