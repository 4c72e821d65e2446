"""Make a study file from data-set folders: choose the images, check every one of them, write it all down.

Beside `study.json` lies `study.provenance.json`: where each set came from, how the references of each prompt were
found, and what a careful reader should know before the study starts.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import ValidationError

from medgen_review import atomic, rubric
from medgen_review.blind_images import decode
from medgen_review.cautions import cautions_of
from medgen_review.datasets import Dataset, read_dataset
from medgen_review.prompts import common_prompts, read_prompts
from medgen_review.selection import choose_references, choose_sets, listed
from medgen_review.study import (
    REAL,
    STUDY_FORMAT,
    Aspect,
    Design,
    ImageSet,
    Study,
    StudyError,
    StudyImage,
    StudyPrompt,
    digest_of,
    read_study,
)

logger = logging.getLogger(__name__)

_SIDES = (32, 1024)  # what the side of the images is chosen from, unless the design says it
_Key = tuple[str, str]  # prompt id and model


def create_study(
    sets: Mapping[str, Path],
    real: Path,
    out_file: Path,
    *,
    title: str,
    prompts: Path | Sequence[StudyPrompt] | None = None,
    alternating: bool = False,
    images_per_set: int = 10,
    references_per_prompt: int = 10,
    design: Design | None = None,
    seed: int = 0,
    aspects: Sequence[Aspect] = rubric.ASPECTS,
    briefing: Sequence[str] = rubric.BRIEFING,
    highest: int = 10,
) -> Study:
    """Make a study and write it.

    Of more images than needed a seeded draw is taken, so that nobody picks the best. References are real images
    with the prompt among their texts; failing that, with the label of the prompt's synthetic images; failing that,
    any.

    Args:
        sets: By model name: folder of a data set whose rows have `generation.prompt` or `text`.
        real: Folder of a data set of real images.
        out_file: The study file; the same study again is left as it is, another one is refused.
        title: Shown to the raters; should name no model.
        prompts: Prompt list, see `read_prompts`, or the prompts; by default those that all sets have.
        alternating: See `read_prompts`.
        images_per_set: Images of each model per prompt.
        references_per_prompt: Real images per prompt.
        design: How it is put to a rater. If it does not set `image_side`, that is the smallest long side of all
            images, so that none is enlarged and the blur of it tells nothing.
        seed: Source of all draws and orders.
        aspects: The scales.
        briefing: Paragraphs shown before the first page.
        highest: Highest value of every scale.

    Raises:
        StudyError: If a folder or list is wrong, images are missing for a prompt (all are listed) or unreadable.
    """
    if images_per_set < 1 or references_per_prompt < 1 or not sets:
        raise StudyError(
            "a study needs a synthetic set, and at least one image per set and one reference per prompt"
        )
    design = design or Design()
    data = {model: read_dataset(folder) for model, folder in sets.items()}
    real_data = read_dataset(real)
    asked = _prompts(prompts, data, alternating)
    chosen = choose_sets(data, asked, images_per_set, seed)
    num_real = references_per_prompt + (images_per_set if design.hidden_real else 0)
    real_rows, sources = choose_references(real_data, asked, chosen, num_real, seed)
    files = {key: [data[key[1]].file_of(row) for row in rows] for key, rows in chosen.items()}
    files |= {(prompt, REAL): [real_data.file_of(row) for row in rows] for prompt, rows in real_rows.items()}
    images, sizes = _checked_images(files, out_file.absolute().parent)
    if "image_side" not in design.model_fields_set:
        smallest = min(max(size) for found in sizes.values() for size in found)
        design = design.model_copy(update={"image_side": min(max(smallest, _SIDES[0]), _SIDES[1])})
    rated = {key: images[key] for key in chosen}
    if design.hidden_real:
        rated |= {(prompt, REAL): images[prompt, REAL][references_per_prompt:] for prompt in real_rows}
    study = _study(
        title=title,
        briefing=tuple(briefing),
        seed=seed,
        highest=highest,
        models=tuple(sets),
        aspects=tuple(aspects),
        prompts=asked,
        references=_image_sets({(p, REAL): images[p, REAL][:references_per_prompt] for p in real_rows}),
        sets=_image_sets(rated),
        design=design,
    )
    warnings = cautions_of(study, sizes)
    for warning in warnings:
        logger.warning("%s", warning)
    _write(study, out_file)
    provenance = {
        "study": study.digest,
        "sets": {model: str(folder.absolute()) for model, folder in sets.items()},
        "real": str(real.absolute()),
        "prompts": str(prompts.absolute()) if isinstance(prompts, Path) else None,
        "references": [asdict(source) for source in sources],
        "warnings": warnings,
    }
    atomic.write_text(provenance_file(out_file), json.dumps(provenance, ensure_ascii=False, indent=2) + "\n")
    return study


def provenance_file(study_file: Path) -> Path:
    """Return the file beside a study that says where it came from."""
    return study_file.with_name(f"{study_file.stem}.provenance.json")


def _prompts(
    prompts: Path | Sequence[StudyPrompt] | None, sets: Mapping[str, Dataset], alternating: bool
) -> tuple[StudyPrompt, ...]:
    if isinstance(prompts, Path):
        return read_prompts(prompts, alternating=alternating)
    return common_prompts(sets, alternating=alternating) if prompts is None else tuple(prompts)


def _checked_images(
    files: Mapping[_Key, Sequence[Path]], study_dir: Path
) -> tuple[dict[_Key, tuple[StudyImage, ...]], dict[_Key, tuple[tuple[int, int], ...]]]:
    known: dict[Path, tuple[StudyImage, tuple[int, int]]] = {}
    faults: dict[Path, str] = {}
    for file in {file: None for found in files.values() for file in found}:  # each once, in order
        try:
            known[file] = _checked_image(file, study_dir)
        except StudyError as error:
            faults[file] = str(error)
    if faults:
        raise StudyError(f"{len(faults)} images cannot be shown:\n{listed(list(faults.values()))}")
    return (
        {key: tuple(known[file][0] for file in found) for key, found in files.items()},
        {key: tuple(known[file][1] for file in found) for key, found in files.items()},
    )


def _checked_image(file: Path, study_dir: Path) -> tuple[StudyImage, tuple[int, int]]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StudyError(f"{file}: cannot be read ({error.strerror}); the data set names it") from error
    size = decode(content, str(file)).size
    place = file.absolute()
    name = place.relative_to(study_dir) if place.is_relative_to(study_dir) else place
    return StudyImage(file=name.as_posix(), sha256=hashlib.sha256(content).hexdigest()), size


def _image_sets(images: Mapping[_Key, Sequence[StudyImage]]) -> tuple[ImageSet, ...]:
    return tuple(
        ImageSet(prompt_id=prompt_id, model=model, images=tuple(found))
        for (prompt_id, model), found in images.items()
    )


def _study(**content: object) -> Study:
    try:
        # The digest is of the file's own form, defaults included.
        draft = Study.model_validate({**content, "digest": "0" * 64})
        return draft.model_copy(update={"digest": digest_of(draft.model_dump(mode="json"))})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or STUDY_FORMAT
        raise StudyError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def _write(study: Study, out_file: Path) -> None:
    if out_file.exists():
        if read_study(out_file).digest == study.digest:
            return
        raise StudyError(f"{out_file}: is another study; ratings may depend on it: choose another name")
    atomic.write_text(
        out_file, json.dumps(study.model_dump(mode="json"), ensure_ascii=False, indent=1) + "\n"
    )
