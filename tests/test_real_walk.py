"""The whole way on real images: skipped unless MEDGEN_REAL_DATA names the folder that holds them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from medgen_data.image_folder import read_image_folder

REAL_DATA = os.environ.get("MEDGEN_REAL_DATA")
CONFIGS = Path(__file__).parents[1] / "configs" / "real"

pytestmark = pytest.mark.skipif(
    REAL_DATA is None, reason="set MEDGEN_REAL_DATA to the folder that holds endoscopy/ and dermoscopy/"
)

SMALL = {
    "data.limit": 80,
    "train.autoencoder.num_steps": 3,
    "train.autoencoder.batch_size": 4,
    "train.denoiser.num_steps": 3,
    "train.denoiser.batch_size": 4,
    "sample.num_inference_steps": 2,
    "sample.num_images": 16,
    "classify.epochs": 1,
    "classify.compare": "false",
}


@pytest.mark.parametrize(("name", "num_classes"), [("endoscopy", 2), ("dermoscopy", 7)])
def test_recipe_walks_from_real_images_to_a_report(name: str, num_classes: int, tmp_path: Path) -> None:
    assert REAL_DATA is not None
    changes = {"data.root": Path(REAL_DATA) / name, **SMALL}
    settings = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "medgen_cli.main", "run", str(CONFIGS / f"{name}.yaml")]
    ran = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), "--device", "cpu", "--json", *settings],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    assert result["frechet"]["num_synthetic"] == 16
    dataset = read_image_folder(tmp_path / "run" / "data" / "dataset")
    assert len(dataset.records) == 80
    assert len(dataset.card.labels) == num_classes
    drawn = read_image_folder(tmp_path / "run" / "synthetic" / "dataset")
    assert {record.label for record in drawn.records} <= set(dataset.card.labels)
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000
