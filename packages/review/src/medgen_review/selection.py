"""Which images of the data sets a study shows: seeded draws, so that nobody picks the best."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medgen_review.datasets import Dataset, DatasetRow, plain
from medgen_review.schedule import shuffled
from medgen_review.study import StudyError, StudyPrompt

_MOST_LISTED = 20  # faults named in one message


@dataclass(frozen=True)
class ReferenceSource:
    """How many real images of a prompt have its text, share the label of its synthetic images, or were drawn."""

    prompt_id: str
    by_text: int
    by_label: int
    drawn: int


def choose_sets(
    sets: Mapping[str, Dataset], prompts: Sequence[StudyPrompt], images_per_set: int, seed: int
) -> Mapping[tuple[str, str], Sequence[DatasetRow]]:
    """Return the rows of each set, by prompt id and model, in the order of the data set.

    Raises:
        StudyError: If a model has too few images for a prompt; lists every such place.
    """
    by_prompt = {model: data.by_prompt() for model, data in sets.items()}
    chosen, lacking = {}, []
    for prompt in prompts:
        for model in sets:
            rows = by_prompt[model].get(plain(prompt.text), [])
            if len(rows) < images_per_set:
                lacking.append(f"{model}: {len(rows)} of {images_per_set} images for {prompt.text!r}")
            else:
                drawn = shuffled(range(len(rows)), seed, "chosen", prompt.prompt_id, model)[:images_per_set]
                chosen[prompt.prompt_id, model] = [rows[place] for place in sorted(drawn)]
    if lacking:
        raise StudyError(
            f"{len(lacking)} sets have too few images; draw the missing ones or ask for fewer per set:\n"
            + listed(lacking)
        )
    return chosen


def choose_references(
    real: Dataset,
    prompts: Sequence[StudyPrompt],
    chosen: Mapping[tuple[str, str], Sequence[DatasetRow]],
    num_images: int,
    seed: int,
) -> tuple[Mapping[str, Sequence[DatasetRow]], tuple[ReferenceSource, ...]]:
    """Return real rows for each prompt id, each image once per prompt, and how they were found.

    Images with the prompt among their texts come first, then those with the most frequent label of the prompt's
    synthetic images, then any.

    Raises:
        StudyError: If the real set is too small.
    """
    if len(real.rows) < num_images:
        raise StudyError(
            f"{real.folder}: has {len(real.rows)} images, but each prompt needs {num_images}; give a larger "
            "real set or ask for fewer references"
        )
    references, sources = {}, []
    models = {model: None for _, model in chosen}
    for prompt in prompts:
        label = _label_of([row for model in models for row in chosen[prompt.prompt_id, model]])
        tiers: dict[int, list[DatasetRow]] = {0: [], 1: [], 2: []}
        for row in shuffled(real.rows, seed, "references", prompt.prompt_id):
            has_text = plain(prompt.text) in map(plain, row.text)
            tiers[0 if has_text else 1 if label is not None and row.label == label else 2].append(row)
        taken: list[DatasetRow] = []
        counts = []
        for tier in tiers.values():
            part = tier[: num_images - len(taken)]
            taken += part
            counts.append(len(part))
        # Mixed, so that hidden and open real images are alike.
        references[prompt.prompt_id] = shuffled(taken, seed, "mixed", prompt.prompt_id)
        sources.append(ReferenceSource(prompt.prompt_id, *counts))
    return references, tuple(sources)


def listed(faults: Sequence[str]) -> str:
    """Return faults as lines, the first twenty of them."""
    rest = [f"  and {len(faults) - _MOST_LISTED} more"] if len(faults) > _MOST_LISTED else []
    return "\n".join([*(f"  {fault}" for fault in faults[:_MOST_LISTED]), *rest])


def _label_of(rows: Sequence[DatasetRow]) -> str | None:
    counts = Counter(row.label for row in rows if row.label is not None)
    return min(counts, key=lambda label: (-counts[label], label)) if counts else None
