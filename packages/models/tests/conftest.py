import pytest
import torch
from medgen_models import MsdmModel
from medgen_models.tiny import tiny_msdm


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # the miniatures are too small to share


@pytest.fixture
def model() -> MsdmModel:
    return tiny_msdm(seed=3)
