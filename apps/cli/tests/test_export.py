from pathlib import Path
from typing import Any

import pytest
import torch
from medgen_cli.main import run_command_line


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medgen_data.phantoms import write_phantom_dataset
    from medgen_models.tiny.stable_diffusion import write_tiny_sd
    from medgen_training import AdapterTrainConfig, train

    root = tmp_path_factory.mktemp("export")
    dataset = write_phantom_dataset(root / "set", num_images=8, size=32, seed=0)
    config = AdapterTrainConfig(
        family="sd",
        base=str(write_tiny_sd(root / "base")),
        num_steps=3,
        batch_size=2,
        learning_rate=1e-2,
        adapter={"rank": 2, "alpha": 3, "text_encoder": True},
    )
    texts = {record.record_id: record.text for record in dataset.records}
    return train(config, dataset, texts, root / "train", seed=0)


def image_of(pipeline: Any) -> Any:
    drawn = pipeline(
        "a polyp",
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        height=16,
        width=16,
    )
    return drawn.images


def test_an_ordinary_pipeline_draws_the_same_with_the_lora_file_and_with_merged_weights(
    adapter: Path, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline
    from medgen_models.adapters import read_adapter_record

    assert run_command_line(["export", str(adapter), "--out", str(tmp_path / "lora")]) == 0
    assert (
        run_command_line(["export", str(adapter), "--out", str(tmp_path / "whole"), "--form", "merged"]) == 0
    )
    base = read_adapter_record(adapter).base_model
    plain = StableDiffusionPipeline.from_pretrained(base)
    without = image_of(plain)
    plain.load_lora_weights(tmp_path / "lora", weight_name="pytorch_lora_weights.safetensors")
    with_lora = image_of(plain)
    whole = StableDiffusionPipeline.from_pretrained(tmp_path / "whole")
    whole.scheduler = plain.scheduler
    merged = image_of(whole)
    assert (with_lora - without).abs().max() > 1e-3
    torch.testing.assert_close(merged, with_lora, atol=1e-4, rtol=0)


def test_a_folder_that_is_there_is_not_written_over(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["export", str(adapter), "--out", str(tmp_path)]) == 2
    assert "exists; choose another --out" in capsys.readouterr().err


def test_no_adapter_is_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 5
    assert "expected an adapter folder with adapter.json" in capsys.readouterr().err
