import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from medgen_data import DataError, ImageDataset
from medgen_data.phantoms import write_phantom_dataset
from medgen_models.adapters import read_adapter_record
from medgen_models.errors import UnusableModelError
from medgen_training import AdapterTrainConfig, CheckpointError, TrainEvent, train
from PIL import Image
from pydantic import ValidationError

Texts = dict[str, tuple[str, ...]]


def test_finished_folder_holds_adapter_sheet_log_and_checkpoint_and_stays_as_it_is(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    run, config = tmp_path / "run", new_config(adapter={"rank": 4, "text_encoder": True})
    adapter_dir = train(config, phantoms, texts, run, seed=0)
    record = read_adapter_record(adapter_dir)
    assert record.family == "pixart"
    assert {part: adapter.rank for part, adapter in record.parts.items()} == {
        "denoiser": 4,
        "text_encoder": 4,
    }
    assert record.base_sha256 is not None
    with Image.open(run / "contact_sheet.png") as sheet:
        assert sheet.width > 300
    checkpoints = sorted(folder.name for folder in (run / "checkpoints" / "adapter").iterdir())
    assert checkpoints == ["checkpoint-4", "checkpoint-6"]
    assert list((run / "tensorboard" / "adapter").glob("events.*"))
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}
    assert train(config, phantoms, texts, run, seed=0, resume=True) == adapter_dir
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file()}


def test_folder_of_another_config_seed_or_data_is_refused(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    train(new_config(), phantoms, texts, tmp_path / "run", seed=0)
    with pytest.raises(CheckpointError, match="already holds a training; add --resume"):
        train(new_config(), phantoms, texts, tmp_path / "run", seed=0)
    other_rank = new_config(adapter={"rank": 16})
    with pytest.raises(CheckpointError, match=r"config\.adapter\.rank: was 8, now 16"):
        train(other_rank, phantoms, texts, tmp_path / "run", seed=0, resume=True)
    with pytest.raises(CheckpointError, match="seed: was 0, now 1"):
        train(new_config(), phantoms, texts, tmp_path / "run", seed=1, resume=True)
    other_texts = dict.fromkeys(texts, ("a polyp",))
    with pytest.raises(CheckpointError, match="prompts: was"):
        train(new_config(), phantoms, other_texts, tmp_path / "run", seed=0, resume=True)


def test_base_of_another_family_is_refused(
    new_config: Callable[..., AdapterTrainConfig],
    bases: dict[str, Path],
    phantoms: ImageDataset,
    texts: Texts,
    tmp_path: Path,
) -> None:
    config = new_config("pixart").model_copy(update={"base": str(bases["sd"])})
    with pytest.raises(UnusableModelError, match="is of family sd, expected pixart"):
        train(config, phantoms, texts, tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def test_images_smaller_than_the_training_are_refused_unless_that_is_wanted(
    new_config: Callable[..., AdapterTrainConfig], texts: Texts, tmp_path: Path
) -> None:
    small = write_phantom_dataset(tmp_path / "small", num_images=4, size=32, seed=0)
    captions = {record.record_id: record.text for record in small.records}
    config = new_config(image_size=48, num_steps=1)
    with pytest.raises(
        DataError, match=r"32 x 32 px, smaller than the 48 px .*train\.allow_upscaling to true"
    ):
        train(config, small, captions, tmp_path / "refused", seed=0)
    enlarging = config.model_copy(update={"allow_upscaling": True})
    assert train(enlarging, small, captions, tmp_path / "enlarged", seed=0).is_dir()


def test_images_without_text_are_named(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    lacking = {name: text for name, text in texts.items() if name != phantoms.records[3].record_id}
    with pytest.raises(DataError, match=f"1 of .* images have no caption .*{phantoms.records[3].record_id}"):
        train(new_config(), phantoms, lacking, tmp_path / "run", seed=0)


def test_prompts_longer_than_the_encoder_reads_are_counted_and_told(
    new_config: Callable[..., AdapterTrainConfig],
    phantoms: ImageDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    captions = {record.record_id: ("a polyp",) for record in phantoms.records}
    captions[phantoms.records[5].record_id] = ("x" * 40,)
    captions[phantoms.records[6].record_id] = ("y" * 30,)
    events: list[TrainEvent] = []
    with caplog.at_level(logging.WARNING, logger="medgen_training"):
        train(
            new_config(max_tokens=20, num_steps=1),
            phantoms,
            captions,
            tmp_path / "run",
            seed=0,
            on_event=events.append,
        )
    (event,) = [event for event in events if event.stage == "prompts"]
    assert event.figures["too_long"] == 2
    assert event.figures["longest"] >= 40
    (message,) = [
        record.getMessage() for record in caplog.records if record.name.startswith("medgen_training")
    ]
    assert message.startswith("2 of 4 prompts are longer than the 20 tokens that are read")
    assert "'xxxx" in message


def test_prompts_that_fit_are_not_talked_about(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    events: list[TrainEvent] = []
    train(new_config(num_steps=1), phantoms, texts, tmp_path / "run", seed=0, on_event=events.append)
    assert {event.stage for event in events} == {"cache", "adapter"}


def test_a_cache_filled_once_is_read_and_a_damaged_one_filled_again(
    new_config: Callable[..., AdapterTrainConfig], phantoms: ImageDataset, texts: Texts, tmp_path: Path
) -> None:
    losses = []
    for name in ("first", "second"):
        run = tmp_path / name
        if name == "second":
            (run / "cache").mkdir(parents=True)
            for file in (tmp_path / "first" / "cache").iterdir():
                content = bytearray(file.read_bytes())
                if file.name == "latents.safetensors":
                    content[-1] ^= 1
                (run / "cache" / file.name).write_bytes(content)
        train(new_config(num_steps=2), phantoms, texts, run, seed=0)
        losses.append(
            [json.loads(line)["loss"] for line in (run / "train_log.jsonl").read_text().splitlines()]
        )
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("pixart", {"num_epochs": 3}, "give either num_epochs or num_steps"),
        ("pixart", {"prior_base": "x"}, "prior_base belongs to kandinsky22-decoder"),
        ("flux", {"snr_gamma": 5.0}, "flux is a flow"),
        ("sd", {"flow_levels": {}}, "flow_levels is for flow matching"),
        ("flux", {"flow_levels": {"std": 0}}, "greater than 0"),
        ("kandinsky22-prior", {"hldf": {}}, "hldf needs pixels"),
        ("kandinsky22-decoder", {"context_dropout": 0.1}, "trained on images alone"),
        ("pixart", {"learning_rates": 1.0}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_act_are_refused(family: str, changes: dict[str, object], message: str) -> None:
    settings = {"family": family, "base": "somewhere", "num_steps": 1, **changes}
    with pytest.raises(ValidationError, match=message):
        AdapterTrainConfig.model_validate(settings)
