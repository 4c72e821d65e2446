"""Split a data set into train, validation and test: seeded, stratified, never through a group."""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from medgen_data.problems import DataError, list_briefly
from medgen_data.records import ImageRecord, Split

Label = str | None
Group = tuple[str, ...]  # record ids that stay together


@dataclass(frozen=True)
class Leak:
    """Records that share what a split must keep apart."""

    kind: str  # "group" or "near-duplicate"
    record_ids: tuple[str, ...]
    splits: tuple[Split, ...]
    detail: str


def assign_splits(
    records: Iterable[ImageRecord], *, test_fraction: float, validation_fraction: float = 0.0, seed: int
) -> tuple[ImageRecord, ...]:
    """Return the records in their order, each with its split.

    Of every class, ceil(fraction * n) records go to test and to validation: without groups exactly, with
    groups as nearly as whole groups allow. Groups of more than one class are placed first, the others
    fill up what is missing. Who goes where depends on the seed and on the record and group ids alone,
    not on the order of the rows.

    Args:
        records: Records; those without `group_id` are groups of their own.
        test_fraction: Part of each class for test, in [0, 1).
        validation_fraction: Part of each class for validation, in [0, 1).
        seed: Seed of the draw.

    Raises:
        ValueError: If the fractions are negative or leave nothing for training.
        DataError: If a class has too few images or groups to be in every part.
    """
    records = tuple(records)
    shares: dict[Split, Fraction] = {"test": _share(test_fraction), "validation": _share(validation_fraction)}
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"test_fraction + validation_fraction must be below 1, got {test_fraction} + {validation_fraction}"
        )
    wanted = [split for split, share in shares.items() if share > 0]
    labels = {record.record_id: record.label for record in records}
    groups = _shuffled_groups(records, seed)
    _check_enough_groups(groups, labels, num_parts=1 + len(wanted))

    totals = Counter(labels.values())
    placed: dict[str, Split] = {}
    for position, split in enumerate(wanted):
        targets = {label: math.ceil(shares[split] * total) for label, total in totals.items()}
        free = [group for group in groups if group[0] not in placed]
        num_kept = len(wanted) - position  # the later parts and train need one group each
        for group in _choose_groups(free, labels, targets, shares[split], num_kept):
            placed.update(dict.fromkeys(group, split))
    _check_every_part(labels, placed, wanted)
    return tuple(
        record.model_copy(update={"split": placed.get(record.record_id, "train")}) for record in records
    )


def find_leaks(records: Iterable[ImageRecord]) -> tuple[Leak, ...]:
    """Return every group whose records lie in more than one split, sorted by group."""
    members: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        if record.group_id is not None and record.split is not None:
            members[record.group_id].append(record)
    leaks = []
    for group_id, group in sorted(members.items()):
        splits = tuple(sorted({record.split for record in group if record.split is not None}))
        if len(splits) > 1:
            ids = tuple(sorted(record.record_id for record in group))
            detail = f"group {group_id} lies in {' and '.join(splits)}; split again by group"
            leaks.append(Leak("group", ids, splits, detail))
    return tuple(leaks)


def seeded_order(seed: int, name: str) -> bytes:
    """Return a sort key that shuffles names: fixed by seed and name, whatever else is in the list."""
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


def _share(fraction: float) -> Fraction:
    if not 0 <= fraction < 1:
        raise ValueError(f"a split fraction must be in [0, 1), got {fraction}")
    # The decimal number that was written: in binary floating point, ceil(0.2 * 1180) would be 237.
    return Fraction(repr(float(fraction)))


def _shuffled_groups(records: Sequence[ImageRecord], seed: int) -> list[Group]:
    members: dict[str, list[str]] = defaultdict(list)
    for record in records:
        # The prefix keeps a group apart from a single record of the same name.
        key = f"r:{record.record_id}" if record.group_id is None else f"g:{record.group_id}"
        members[key].append(record.record_id)
    order = sorted(members, key=lambda key: seeded_order(seed, key))
    return [tuple(sorted(members[key])) for key in order]


def _check_enough_groups(groups: Sequence[Group], labels: dict[str, Label], *, num_parts: int) -> None:
    counts = Counter(label for group in groups for label in {labels[record_id] for record_id in group})
    scarce = [
        f"{'(no label)' if label is None else label} ({count})"
        for label, count in sorted(counts.items(), key=lambda item: item[0] or "")
        if count < num_parts
    ]
    if scarce:
        raise DataError(
            f"cannot split into {num_parts} parts: too few images or groups in class {list_briefly(scarce)}; "
            "add images, leave the class out, or set the split fraction to 0"
        )


def _check_every_part(labels: dict[str, Label], placed: dict[str, Split], wanted: Sequence[Split]) -> None:
    present = {(label, placed.get(record_id, "train")) for record_id, label in labels.items()}
    lost = [
        f"{'(no label)' if label is None else label} in {split}"
        for label in sorted(set(labels.values()), key=lambda label: label or "")
        for split in (*wanted, "train")
        if (label, split) not in present
    ]
    if lost:
        raise DataError(
            f"groups of several classes cannot be divided so that each part has each class: none of "
            f"{list_briefly(lost)}; choose another seed or fraction, or smaller groups"
        )


def _choose_groups(
    groups: Sequence[Group],
    labels: dict[str, Label],
    targets: dict[Label, int],
    share: Fraction,
    num_kept: int,
) -> list[Group]:
    pure: dict[Label, list[Group]] = defaultdict(list)
    mixed = []
    for group in groups:
        classes = {labels[record_id] for record_id in group}
        if len(classes) == 1:
            pure[labels[group[0]]].append(group)
        else:
            mixed.append(group)
    chosen = _choose_mixed(mixed, labels, share, caps={label: targets[label] for label in pure})
    have = Counter(labels[record_id] for group in chosen for record_id in group)
    taken = set(chosen)
    kept_mixed = Counter(
        label for group in mixed if group not in taken for label in {labels[record_id] for record_id in group}
    )
    for label, candidates in pure.items():
        keep = max(0, num_kept - kept_mixed[label])
        at_least = 0 if have[label] else 1
        chosen += _choose_pure(candidates, targets[label] - have[label], keep, at_least)
    return chosen


def _choose_mixed(
    groups: Sequence[Group], labels: dict[str, Label], share: Fraction, caps: dict[Label, int]
) -> list[Group]:
    """Take groups of several classes, in order, as long as each brings the classes nearer to their share.

    A class that groups of its own can fill up is never taken beyond its cap.
    """
    counts = {group: Counter(labels[record_id] for record_id in group) for group in groups}
    missing = {label: share * total for label, total in sum(counts.values(), Counter()).items()}
    room = Counter(caps)

    def gain(group: Group) -> Fraction:
        return sum(
            (abs(missing[label]) - abs(missing[label] - number) for label, number in counts[group].items()),
            Fraction(0),
        )

    def fits(group: Group) -> bool:
        return all(label not in caps or number <= room[label] for label, number in counts[group].items())

    chosen = []
    for group in groups:
        if fits(group) and gain(group) > 0:
            chosen.append(group)
            for label, number in counts[group].items():
                missing[label] -= number
                room[label] -= number
    if not chosen and any(label not in caps for label in missing):
        # Every group is far larger than the share: the least unfit one, or the class is never tested.
        chosen.append(max(groups, key=gain))
    return chosen


def _choose_pure(groups: Sequence[Group], target: int, num_kept: int, at_least: int) -> list[Group]:
    """Take groups of one class whose size is nearest to the target, but leave `num_kept` of them."""
    offers = [groups, groups[: max(0, len(groups) - num_kept)]]
    for offered in offers:
        chosen = _nearest_sum(offered, max(target, at_least), at_least)
        if len(groups) - len(chosen) >= num_kept:
            return chosen
    raise AssertionError("the second offer always leaves num_kept groups")


def _nearest_sum(groups: Sequence[Group], target: int, at_least: int) -> list[Group]:
    if all(len(group) == 1 for group in groups):
        return list(groups[:target])
    # No sum beyond this can be the nearest one.
    mask = (2 << (2 * target + max(map(len, groups)))) - 1
    # Bit s of reachable[i] says that some of the first i groups have s records in all: an exact
    # subset sum, cheap because a Python integer holds all sums at once.
    reachable = [1]
    for group in groups:
        reachable.append((reachable[-1] | reachable[-1] << len(group)) & mask)
    sums = [s for s in range(at_least, reachable[-1].bit_length()) if reachable[-1] >> s & 1]
    if not sums:
        return []
    rest = min(sums, key=lambda s: (abs(s - target), s))
    chosen = []
    for index in range(len(groups), 0, -1):
        if not reachable[index - 1] >> rest & 1:
            chosen.append(groups[index - 1])
            rest -= len(groups[index - 1])
    return chosen
