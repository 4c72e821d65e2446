import pytest
import torch
from medgen_data import ImageDataset
from medgen_data.phantoms import write_phantom_dataset
from medgen_models import MsdmPreset
from medgen_models.msdm import presets
from medgen_models.tiny import TINY_MSDM, write_tiny_text_encoder
from medgen_training import AutoencoderConfig, DenoiserConfig, MsdmTrainConfig


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    return write_phantom_dataset(tmp_path_factory.mktemp("phantoms") / "set", num_images=24, size=32, seed=1)


@pytest.fixture(scope="session")
def texts(phantoms: ImageDataset) -> dict[str, tuple[str, ...]]:
    return {record.record_id: record.text for record in phantoms.records}


@pytest.fixture(scope="session")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_text_encoder(tmp_path_factory.mktemp("clip") / "text"))


@pytest.fixture(autouse=True)
def miniature(monkeypatch: pytest.MonkeyPatch) -> MsdmPreset:
    """Make `msdm-tiny` tinier still, so that a test trains in a second."""
    monkeypatch.setitem(presets.PRESETS, "msdm-tiny", TINY_MSDM)
    return TINY_MSDM


@pytest.fixture
def config(text_encoder: str) -> MsdmTrainConfig:
    return MsdmTrainConfig(
        text_encoder=text_encoder,
        # Half of 16 pixels is smaller than the window of SSIM.
        autoencoder=AutoencoderConfig(
            num_steps=6, batch_size=4, checkpoint_every=2, log_every=1, ssim_weight=0
        ),
        denoiser=DenoiserConfig(num_steps=8, batch_size=4, checkpoint_every=2, log_every=1),
    )
