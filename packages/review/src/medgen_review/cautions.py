"""What could give a model away, or spoil a study, before it starts: found when the study is made, told in words."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from medgen_review.study import Design, ImageSet, Study


def cautions_of(study: Study, sizes: Mapping[tuple[str, str], Sequence[tuple[int, int]]]) -> tuple[str, ...]:
    """Return warnings about a study.

    Args:
        study: The study.
        sizes: Width and height of each image file, by prompt id and model.
    """
    return (*_names_shown(study), *_unequal_forms(study.design, sizes), *_shared_images(study))


def _names_shown(study: Study) -> list[str]:
    texts = {"the title": study.title, "the briefing": " ".join(study.briefing)}
    texts |= {f"prompt {prompt.prompt_id}": prompt.text for prompt in study.prompts}
    return [
        f"{place} contains the name of the model {model!r}, which raters must not know"
        for model in study.models
        for place, text in texts.items()
        if re.search(rf"(?<!\w){re.escape(model)}(?!\w)", text, flags=re.IGNORECASE)
    ]


def _unequal_forms(design: Design, sizes: Mapping[tuple[str, str], Sequence[tuple[int, int]]]) -> list[str]:
    by_model: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for (_, model), found in sizes.items():
        by_model[model].update(found)
    warnings = []
    sides = {model: {max(size) for size in found} for model, found in by_model.items()}
    if len({frozenset(each) for each in sides.values()}) > 1:
        told = "; ".join(f"{model} {min(each)} to {max(each)}" for model, each in sides.items())
        warnings.append(
            f"long sides of the images differ between sources ({told} pixels): all are shown at "
            f"{design.image_side}, and sharpness may still tell them apart"
        )
    ratios = {model: {round(w / h, 2) for w, h in found} for model, found in by_model.items()}
    if design.framing == "whole" and len({frozenset(each) for each in ratios.values()}) > 1:
        warnings.append(
            "width to height differs between sources: black bars would tell them apart; use framing 'centre' or "
            "crop the images"
        )
    return warnings


def _shared_images(study: Study) -> list[str]:
    owners: dict[str, set[str]] = defaultdict(set)
    pieces: tuple[ImageSet, ...] = (*study.sets, *study.references)
    for piece in pieces:
        for image in piece.images:
            owners[image.sha256].add(piece.model)
    shared = [sorted(models) for models in owners.values() if len(models) > 1]
    if not shared:
        return []
    return [
        f"{len(shared)} images are the same file in several sources, the first in {' and '.join(shared[0])}"
    ]
