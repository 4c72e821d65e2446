import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.errors import UsageError
from medgen_cli.plan import PlannedImage, plan_prompts
from medgen_cli.stages.synthesis import SyntheticSetCard, draw_images, draw_untrained_images
from medgen_data.image_folder import ImageDataset, check_fingerprint, read_image_folder

CARD = SyntheticSetCard(name="s", modality="endoscopic", source="drawn by a test", licence="none")
PLAN = plan_prompts(["a polyp", "normal mucosa", "a tube"], seed=5, num_images=7)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from medgen_models import save_model
    from medgen_models.tiny import tiny_msdm

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model") / "model"
    save_model(tiny_msdm(), folder)
    return folder


def draw(model_dir: Path, out: Path, plan: tuple[PlannedImage, ...] = PLAN, **options: Any) -> Any:
    from medgen_models import SamplingConfig

    batch_size = options.pop("batch_size", 4)
    config = SamplingConfig(num_inference_steps=2, batch_size=batch_size, **options.pop("sampling", {}))
    return draw_images(model_dir, plan, config, out, card=CARD, device="cpu", **options)


def pixels(dataset_dir: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (dataset_dir / "images").iterdir()}


@pytest.fixture(scope="module")
def whole(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "set"
    drawn = draw(model_dir, out)
    assert (drawn.num_drawn, drawn.num_kept, drawn.num_missing) == (7, 0, 0)
    return out


def test_result_is_a_data_set_whose_rows_say_how_each_image_was_made(model_dir: Path, whole: Path) -> None:
    from medgen_models import model_sha256

    dataset = read_image_folder(whole)
    check_fingerprint(dataset)
    assert dataset.card.synthetic
    assert [record.record_id for record in dataset.records] == [image.record_id for image in PLAN]
    for record, image in zip(dataset.records, PLAN, strict=True):
        assert record.generation is not None
        assert record.generation.prompt == image.prompt == record.text[0]
        assert record.generation.seed == image.seed
        assert record.generation.model_sha256 == model_sha256(model_dir)


def test_shards_in_any_order_and_batch_size_give_the_same_bytes(
    model_dir: Path, whole: Path, tmp_path: Path
) -> None:
    missing = []
    for index, batch_size in ((3, 2), (1, 4), (2, 4)):
        drawn = draw(model_dir, tmp_path, shard=(index, 3), batch_size=batch_size)
        missing.append(drawn.num_missing)
        assert (drawn.dataset is None) == (drawn.num_missing > 0)
    assert missing == [5, 2, 0]
    assert pixels(tmp_path) == pixels(whole)
    assert (tmp_path / "metadata.jsonl").read_bytes() == (whole / "metadata.jsonl").read_bytes()


def test_interrupted_set_continues_where_it_stopped(model_dir: Path, whole: Path, tmp_path: Path) -> None:
    def stop_at_third(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(model_dir, tmp_path, on_progress=stop_at_third)
    with pytest.raises(ValueError, match="not a finished data set"):
        read_image_folder(tmp_path)
    drawn = draw(model_dir, tmp_path)
    assert (drawn.num_kept, drawn.num_drawn) == (3, 4)
    assert pixels(tmp_path) == pixels(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda out, image: image.write_bytes(image.read_bytes()[:40]),
        lambda out, image: image.unlink(),
        lambda out, image: (out / "finished" / "shard-1-of-1.jsonl").open("a").write('{"record_id": "synth'),
    ],
    ids=["cut image", "lost image", "half a row"],
)
def test_damage_by_a_kill_is_repaired(
    model_dir: Path, whole: Path, tmp_path: Path, damage: Callable[[Path, Path], object]
) -> None:
    draw(model_dir, tmp_path)
    damage(tmp_path, tmp_path / "images" / f"{PLAN[2].record_id}.png")
    draw(model_dir, tmp_path)
    assert pixels(tmp_path) == pixels(whole)
    check_fingerprint(read_image_folder(tmp_path))
    for line in (tmp_path / "finished" / "shard-1-of-1.jsonl").read_text().splitlines():
        json.loads(line)


def test_folder_with_images_of_another_plan_is_refused(model_dir: Path, whole: Path) -> None:
    with pytest.raises(
        UsageError, match=r"another plan \(num_images: 7 -> 2; plan_sha256: .*choose a new --out"
    ):
        draw(model_dir, whole, PLAN[:2])
    with pytest.raises(UsageError, match=r"another plan \(sampling\.guidance_scale: 3\.0 -> 1\.0\)"):
        draw(model_dir, whole, sampling={"guidance_scale": 1.0})


def test_data_set_made_elsewhere_is_not_touched(model_dir: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="a data set that was not made here"):
        draw(model_dir, tmp_path)


def test_missing_model_is_named(tmp_path: Path) -> None:
    from medgen_models import MissingModelError

    with pytest.raises(MissingModelError, match="nowhere"):
        draw(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_untrained_model_draws_the_same_plan_and_leaves_no_weights(tmp_path: Path, model_dir: Path) -> None:
    from medgen_models import SamplingConfig
    from medgen_models.tiny import write_tiny_text_encoder
    from medgen_training import MsdmTrainConfig

    config = SamplingConfig(num_inference_steps=1, batch_size=2)
    encoder = write_tiny_text_encoder(tmp_path / "encoder")
    drawn = draw_untrained_images(
        PLAN[:2],
        config,
        tmp_path / "untrained",
        trained=MsdmTrainConfig(text_encoder=str(encoder)),
        model_dir=tmp_path / "not-needed",
        seed=0,
        card=CARD,
        device="cpu",
    )
    assert isinstance(drawn.dataset, ImageDataset)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["encoder", "untrained"]
