import itertools
import random
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from medgen_data.problems import DataError
from medgen_data.records import ImageRecord
from medgen_data.splits import assign_splits, find_leaks


def records_of(sizes: dict[str, int]) -> list[ImageRecord]:
    return [
        ImageRecord(file_name=f"{label}-{n}.png", record_id=f"{label}-{n}", label=label)
        for label, size in sizes.items()
        for n in range(size)
    ]


def grouped(groups: list[list[str]]) -> list[ImageRecord]:
    """One record for each label of each group."""
    return [
        ImageRecord(file_name=f"{g}-{n}.png", record_id=f"{g}-{n}", label=label, group_id=f"g{g}")
        for g, labels in enumerate(groups)
        for n, label in enumerate(labels)
    ]


def counts(records: Iterable[ImageRecord], split: str) -> dict[str, int]:
    return dict(Counter(record.label for record in records if record.split == split))


def test_skin_lesion_classes_give_the_published_test_counts() -> None:
    sizes = {
        "nevus": 4906,
        "melanoma": 1180,
        "keratosis": 805,
        "carcinoma": 728,
        "lentigo": 229,
        "dermatofibroma": 169,
        "vascular": 160,
        "actinic": 140,
    }
    done = assign_splits(records_of(sizes), test_fraction=0.2, seed=0)
    expected = dict(zip(sizes, [982, 236, 161, 146, 46, 34, 32, 28], strict=True))
    assert counts(done, "test") == expected
    assert sum(expected.values()) == 1665
    assert len(done) == 8317


def test_eight_balanced_classes_give_two_hundred_each() -> None:
    done = assign_splits(records_of({f"c{n}": 1000 for n in range(8)}), test_fraction=0.2, seed=3)
    assert counts(done, "test") == {f"c{n}": 200 for n in range(8)}


def test_validation_is_rounded_up_per_class_too() -> None:
    done = assign_splits(records_of({"a": 11, "b": 30}), test_fraction=0.2, validation_fraction=0.1, seed=0)
    assert counts(done, "test") == {"a": 3, "b": 6}
    assert counts(done, "validation") == {"a": 2, "b": 3}
    assert counts(done, "train") == {"a": 6, "b": 21}


def test_split_follows_the_ids_not_the_rows() -> None:
    records = records_of({"a": 40, "b": 25})
    shuffled = random.Random(1).sample(records, len(records))
    by_id = {r.record_id: r.split for r in assign_splits(records, test_fraction=0.3, seed=5)}
    again = assign_splits(shuffled, test_fraction=0.3, seed=5)
    assert {r.record_id: r.split for r in again} == by_id
    assert [r.record_id for r in again] == [r.record_id for r in shuffled]
    assert {r.record_id: r.split for r in assign_splits(records, test_fraction=0.3, seed=6)} != by_id


def test_every_record_is_equally_likely_in_test() -> None:
    records = records_of({"a": 20})
    hits = Counter(
        r.record_id
        for seed in range(400)
        for r in assign_splits(records, test_fraction=0.25, seed=seed)
        if r.split == "test"
    )
    # 400 draws at probability 1/4: 100 expected, standard deviation 8.7; 5 of them for 20 records.
    assert len(hits) == 20
    assert max(abs(count - 100) for count in hits.values()) < 44


def test_zero_fractions_leave_everything_in_train() -> None:
    done = assign_splits(records_of({"a": 1}), test_fraction=0, seed=0)
    assert counts(done, "train") == {"a": 1}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 6)), min_size=2, max_size=9), st.integers(0, 99)
)
def test_whole_groups_meet_the_target_as_nearly_as_any_choice_could(
    shapes: list[tuple[str, int]], seed: int
) -> None:
    """Brute force over all choices of groups that leave one group in train and one in test."""
    shapes = [*shapes, ("a", 1), ("a", 2), ("b", 1), ("b", 3)]
    done = assign_splits(grouped([[label] * size for label, size in shapes]), test_fraction=0.3, seed=seed)
    assert find_leaks(done) == ()
    for label in "ab":
        sizes = [size for name, size in shapes if name == label]
        target = -(-3 * sum(sizes) // 10)
        best = min(
            abs(sum(choice) - target)
            for number in range(1, len(sizes))
            for choice in itertools.combinations(sizes, number)
        )
        assert abs(counts(done, "test")[label] - target) == best


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=5), max_size=25), st.integers(0, 99))
# Mixed groups alone would overfill class c here.
@example([*[["a"]] * 12, *map(list, ["aab", "ab", "ac", "aab", "abb", "abbcc", "accc", "a", "a", "ab"])], 0)
def test_groups_of_several_classes_never_cross(groups: list[list[str]], seed: int) -> None:
    groups = [*groups, *([label] for label in "abc" for _ in range(12))]
    records = grouped(groups)
    done = assign_splits(records, test_fraction=0.2, validation_fraction=0.1, seed=seed)
    assert find_leaks(done) == ()
    total = Counter(record.label for record in records)
    for label in "abc":
        # Single records fill up what the mixed groups left open.
        assert counts(done, "test")[label] == -(-total[label] // 5)
        assert counts(done, "train")[label] > 0
        assert counts(done, "validation")[label] > 0


def test_patients_who_all_have_every_class_are_still_divided() -> None:
    done = assign_splits(grouped([["a", "b", "b"]] * 10), test_fraction=0.2, seed=0)
    assert counts(done, "test") == {"a": 2, "b": 4}
    done = assign_splits(grouped([["a", "b"] * 9] * 2), test_fraction=0.1, seed=0)
    assert counts(done, "test") == {"a": 9, "b": 9}


def test_entangled_groups_are_refused() -> None:
    groups = [["a", "b", "b"], ["a", "c", "c"], ["b", "c", "c"]]
    with pytest.raises(
        DataError, match=r"cannot be divided so that each part has each class: none of . in test"
    ):
        assign_splits(grouped(groups), test_fraction=0.2, seed=0)


def test_group_and_single_record_of_one_name_are_strangers() -> None:
    records = [
        ImageRecord(file_name="x.png", record_id="x", label="a"),
        ImageRecord(file_name="y.png", record_id="y", label="a", group_id="x"),
    ]
    splits = {tuple(r.split for r in assign_splits(records, test_fraction=0.5, seed=s)) for s in range(20)}
    assert splits == {("train", "test"), ("test", "train")}


def test_class_of_one_image_or_one_group_cannot_be_split() -> None:
    with pytest.raises(
        DataError, match=r"into 2 parts: too few images or groups in class b \(1\); add images"
    ):
        assign_splits(records_of({"a": 5, "b": 1}), test_fraction=0.2, seed=0)
    with pytest.raises(DataError, match=r"into 3 parts.*class a \(2\)"):
        assign_splits(grouped([["a"] * 9, ["a"] * 9]), test_fraction=0.2, validation_fraction=0.2, seed=0)


def test_three_groups_serve_three_parts() -> None:
    for sizes in itertools.permutations([50, 2, 1]):
        done = assign_splits(
            grouped([["a"] * size for size in sizes]), test_fraction=0.4, validation_fraction=0.3, seed=0
        )
        assert {record.split for record in done} == {"train", "validation", "test"}


@pytest.mark.parametrize(
    ("fractions", "reason"),
    [
        ((1.0, 0), r"in \[0, 1\), got 1"),
        ((-0.1, 0), r"got -0\.1"),
        ((0.6, 0.4), r"must be below 1, got 0\.6 \+ 0\.4"),
    ],
)
def test_impossible_fractions_are_refused(fractions: tuple[float, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        assign_splits(
            records_of({"a": 5}), test_fraction=fractions[0], validation_fraction=fractions[1], seed=0
        )


def test_leaks_name_the_group_and_its_records() -> None:
    records = [
        record.model_copy(update={"split": split})
        for record, split in zip(
            grouped([["a", "a"], ["a", "b"]]), ["train", "test", "test", "test"], strict=True
        )
    ]
    (leak,) = find_leaks(records)
    assert leak.record_ids == ("0-0", "0-1")
    assert leak.splits == ("test", "train")
    assert leak.detail == "group g0 lies in test and train; split again by group"
