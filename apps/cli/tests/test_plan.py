from collections import Counter
from pathlib import Path

import pytest
from medgen_cli.errors import UsageError
from medgen_cli.plan import parse_shard, plan_images, plan_prompts, stable_seed, texts_of_records
from medgen_data.captions import CaptionRow
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError
from medgen_data.records import DatasetCard, ImageRecord


def make_records(num: int = 12) -> list[ImageRecord]:
    return [
        ImageRecord(
            file_name=f"images/{n}.png",
            record_id=f"r{n}",
            label="polyps" if n % 3 else "normal",
            text=(f"full {n}", f"part {n}"),
            facts={"quadrant": "upper-left"},
        )
        for n in range(num)
    ]


def make_dataset(records: list[ImageRecord]) -> ImageDataset:
    card = DatasetCard(
        name="x",
        modality="endoscopic",
        source="drawn",
        licence="none",
        synthetic=False,
        num_records=len(records),
        labels=("normal", "polyps"),
        fingerprint="0" * 64,
        split_seed=0,
    )
    return ImageDataset(Path("x"), card, tuple(records))


def make_caption(record_id: str, text: str) -> CaptionRow:
    return CaptionRow(record_id=record_id, text=text, method="simple", revision="1", seed=0)


RECORDS = make_records()
TEXTS = {record.record_id: record.text for record in RECORDS}


def test_each_record_is_drawn_once_without_a_count() -> None:
    plan = plan_images(RECORDS, TEXTS, seed=0)
    assert sorted(image.prompt for image in plan) == sorted(record.text[0] for record in RECORDS)


def test_synthetic_images_carry_label_and_facts_of_their_prompt() -> None:
    by_prompt = {record.text[0]: record for record in RECORDS}
    for image in plan_images(RECORDS, TEXTS, seed=0, num_images=30):
        assert image.label == by_prompt[image.prompt].label
        assert image.facts == {"quadrant": "upper-left"}


def test_ids_and_seeds_are_unique_when_prompts_repeat() -> None:
    plan = plan_images(RECORDS, TEXTS, seed=0, num_images=50)
    assert len({image.record_id for image in plan}) == len({image.seed for image in plan}) == 50


def test_image_is_the_same_in_a_larger_plan_and_after_shuffling() -> None:
    small = plan_images(RECORDS, TEXTS, seed=0, num_images=5)
    large = plan_images(RECORDS[::-1], TEXTS, seed=0, num_images=40)
    assert large[:5] == small


def test_another_seed_gives_other_noise_and_another_order() -> None:
    one = plan_images(RECORDS, TEXTS, seed=0)
    two = plan_images(RECORDS, TEXTS, seed=1)
    assert not {image.seed for image in one} & {image.seed for image in two}
    assert [image.record_id for image in one] != [image.record_id for image in two]


def test_per_class_gives_every_class_its_number() -> None:
    plan = plan_images(RECORDS, TEXTS, seed=0, per_class=7)
    assert Counter(image.label for image in plan) == {"normal": 7, "polyps": 7}


def test_per_class_needs_labels() -> None:
    record = ImageRecord(file_name="a.png", record_id="a", text="x")
    with pytest.raises(DataError, match="record a has no label; use num_images"):
        plan_images([record], {"a": ("x",)}, seed=0, per_class=1)


def test_long_ids_stay_valid_and_unique() -> None:
    records = [ImageRecord(file_name=f"{n}.png", record_id="x" * 127 + str(n), text="t") for n in range(3)]
    plan = plan_images(records, {record.record_id: record.text for record in records}, seed=0)
    ids = {image.record_id for image in plan}
    assert len(ids) == 3
    assert all(len(record_id) <= 128 for record_id in ids)


def test_prompts_of_a_file_are_taken_in_order_and_again() -> None:
    plan = plan_prompts(["a", "b"], seed=0, num_images=5)
    assert [image.prompt for image in plan] == ["a", "b", "a", "b", "a"]
    assert len({image.seed for image in plan}) == 5


def test_seed_is_fixed_for_ever() -> None:
    # SHA-256 of "7\\0synthetic-a-0", first eight bytes, halved: another value would change every old run.
    assert stable_seed(7, "synthetic-a-0") == 4152609987113582316


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", ""])
def test_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected i/n with 1 <= i <= n"):
        parse_shard(text)


def test_shards_are_counted_from_one() -> None:
    assert parse_shard("1/4") == (1, 4)
    assert parse_shard("4/4") == (4, 4)


def test_texts_are_those_of_the_data_set_then_the_caption() -> None:
    captions = {"r0": make_caption("r0", "a caption")}
    texts = texts_of_records(make_dataset(RECORDS[:1]), captions, dataset_texts="all")
    assert texts == {"r0": ("full 0", "part 0", "a caption")}


def test_caption_alone_when_the_data_set_text_is_left_out() -> None:
    captions = {"r0": make_caption("r0", "a caption")}
    assert texts_of_records(make_dataset(RECORDS[:1]), captions, dataset_texts="none") == {
        "r0": ("a caption",)
    }


def test_record_without_any_text_is_named() -> None:
    with pytest.raises(DataError, match=r"record r1 has no text; give the captions"):
        texts_of_records(make_dataset(RECORDS[1:2]), {}, dataset_texts="none")


def test_captions_of_another_data_set_are_refused() -> None:
    captions = {"elsewhere": make_caption("elsewhere", "a caption")}
    with pytest.raises(DataError, match=r"none of its records is captioned .* that of another data set"):
        texts_of_records(make_dataset(RECORDS), captions, dataset_texts="all")
