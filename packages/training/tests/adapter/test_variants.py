from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from medgen_data import ImageDataset
from medgen_training import AdapterTrainConfig, TextVariants, TrainEvent, train
from safetensors.torch import load_file


@pytest.mark.parametrize("cache", [True, False])
def test_adapters_train_on_paraphrases_and_mirrored_images(
    phantoms: ImageDataset,
    texts: dict[str, tuple[str, ...]],
    new_config: Callable[..., AdapterTrainConfig],
    tmp_path: Path,
    cache: bool,
) -> None:
    names = [record.record_id for record in phantoms.records]
    mirrored = {name: (f"mirrored {name}",) for name in names[::2]}
    variants = TextVariants(dict.fromkeys(names, ("in other words",)), 0.5, mirrored)
    config = new_config("sd", cache=cache, num_steps=None, num_epochs=1, batch_size=8)
    events: list[TrainEvent] = []
    folders = [
        train(config, phantoms, texts, tmp_path / name, seed=0, variants=some, on_event=events.append)
        for name, some in (("plain", None), ("varied", variants))
    ]
    weights = [load_file(folder / "denoiser" / "adapter_model.safetensors") for folder in folders]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    # A pass over the images meets every one twice.
    steps = [event.num_steps for event in events if event.stage == "adapter"]
    assert (steps[0], steps[-1]) == (len(names) // 8, 2 * len(names) // 8)
    if cache:
        latents = load_file(tmp_path / "varied" / "cache" / "latents.safetensors")["mean"]
        assert latents.shape[1] == 2 * len(names)
