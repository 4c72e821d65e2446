from pathlib import Path

import pytest
from medgen_captioning.run import CaptionConfig, caption_dataset
from medgen_captioning.shards import part_of, parts_there, take_shard
from medgen_data.captions import read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.phantoms import write_phantom_dataset
from medgen_data.problems import DataError

SIMPLE = CaptionConfig(method="simple")
MEASURED = CaptionConfig(method="measured")


def test_every_record_is_in_one_shard_and_equal_images_are_in_the_same(phantoms: ImageDataset) -> None:
    twin = phantoms.records[7].model_copy(update={"record_id": "twin"})
    dataset = ImageDataset(phantoms.root, phantoms.card, (*phantoms.records, twin))
    shards = [take_shard(dataset, (index, 3)).records for index in range(3)]
    assert sorted(record.record_id for shard in shards for record in shard) == sorted(
        record.record_id for record in dataset.records
    )
    assert all(30 < len(shard) < 80 for shard in shards)
    assert (
        sum({"twin", phantoms.records[7].record_id} <= {r.record_id for r in shard} for shard in shards) == 1
    )
    assert take_shard(dataset, (0, 1)) is dataset
    with pytest.raises(ValueError, match=r"0 <= i < n, got \(3, 3\)"):
        take_shard(dataset, (3, 3))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_make_up_the_file_of_one_run_byte_for_byte(
    phantoms: ImageDataset, tmp_path: Path, order: tuple[int, ...]
) -> None:
    caption_dataset(phantoms, tmp_path / "whole.jsonl", MEASURED)
    captions = tmp_path / "parts" / "captions.jsonl"
    missing = [caption_dataset(phantoms, captions, MEASURED, shard=(i, 3)).num_shards_missing for i in order]
    assert missing == [2, 1, 0]
    assert captions.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert list(captions.parent.iterdir()) == [captions]


def test_a_run_without_shards_takes_over_the_parts_that_are_there(
    phantoms: ImageDataset, tmp_path: Path
) -> None:
    captions = tmp_path / "captions.jsonl"
    done = caption_dataset(phantoms, captions, SIMPLE, shard=(1, 4)).num_written
    assert parts_there(captions) == [part_of(captions, (1, 4))]
    run = caption_dataset(phantoms, captions, SIMPLE)
    assert (run.num_reused, run.num_written) == (done, 160 - done)
    assert list(tmp_path.iterdir()) == [captions]


def test_a_shard_that_is_repeated_writes_nothing_new(phantoms: ImageDataset, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    first = caption_dataset(phantoms, captions, SIMPLE, shard=(0, 2))
    again = caption_dataset(phantoms, captions, SIMPLE, shard=(0, 2))
    assert (again.num_written, again.num_reused, again.num_shards_missing) == (0, first.num_written, 1)
    caption_dataset(phantoms, captions, SIMPLE, shard=(1, 2))
    after = caption_dataset(phantoms, captions, SIMPLE, shard=(0, 2))
    assert (after.num_written, after.num_reused) == (0, first.num_written)
    assert len(read_captions(captions)) == 160


def test_parts_of_other_settings_are_refused(phantoms: ImageDataset, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    caption_dataset(phantoms, captions, SIMPLE, shard=(0, 2))
    with pytest.raises(DataError, match=r"captions\.shard-1-of-2\.jsonl holds captions of other settings"):
        caption_dataset(phantoms, captions, SIMPLE, seed=1)


def test_more_shards_than_images_and_problems_of_each_shard(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "set", num_images=8, size=32)
    for record in dataset.records[2:4]:
        dataset.image_file(record).write_bytes(b"no image")
    captions = tmp_path / "captions.jsonl"
    runs = [caption_dataset(dataset, captions, MEASURED, shard=(i, 12)) for i in range(12)]
    assert [run.num_shards_missing for run in runs] == list(range(11, -1, -1))
    assert [problem.file for problem in runs[-1].problems] == [r.file_name for r in dataset.records[2:4]]
    assert list(read_captions(captions)) == [
        record.record_id for record in dataset.records if record not in dataset.records[2:4]
    ]


def test_shards_without_a_single_caption_are_an_error_at_the_end(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "set", num_images=4, size=32, test_fraction=0.0)
    for record in dataset.records:
        dataset.image_file(record).write_bytes(b"")
    caption_dataset(dataset, tmp_path / "a.jsonl", MEASURED, shard=(0, 2))
    with pytest.raises(DataError, match="none of 4 images could be captioned"):
        caption_dataset(dataset, tmp_path / "a.jsonl", MEASURED, shard=(1, 2))
