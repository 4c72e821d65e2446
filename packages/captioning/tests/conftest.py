from pathlib import Path

import pytest
from medgen_data.image_folder import ImageDataset
from medgen_data.phantoms import write_phantom_dataset


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """160 phantoms: ten of each class in each quadrant. Read only."""
    folder: Path = tmp_path_factory.mktemp("data") / "phantoms"
    return write_phantom_dataset(folder, num_images=160, seed=4)
