"""A complete study on phantoms: drawn mucosa and polyps, so that the studio can be tried without any data.

Three "models" draw for the same prompts with different faults: `aurora` paints almost like the phantom reality,
`borealis` too colourful and always nearly the same image, `cirrus` blurred, with a grid, and often without the
finding. They show what the raters' answers can tell apart; they say nothing about any real model.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from medgen_review import atomic
from medgen_review.create import create_study
from medgen_review.study import Design, Study, StudyError, read_study

Pixels = NDArray[np.float64]  # [side, side, 3] in [0, 1]

TITLE = "Colonoscopy images from text: a demonstration on drawn phantoms"
IMAGES_PER_SET = 10
_SIDE = 192


@dataclass(frozen=True)
class _Finding:
    prompts: tuple[str, str]  # the original, and the same in other words
    num_polyps: int
    radius: float  # of the image side
    pale: bool = False


_FINDINGS = (
    _Finding(
        ("A colonoscopy image with one small polyp", "One tiny polyp, seen during a colonoscopy"), 1, 0.09
    ),
    _Finding(("A colonoscopy image with one large polyp", "A big polyp, seen during a colonoscopy"), 1, 0.19),
    _Finding(("A colonoscopy image with two polyps", "A pair of polyps, seen during a colonoscopy"), 2, 0.11),
    _Finding(
        ("A colonoscopy image with one pale polyp", "A whitish polyp, seen during a colonoscopy"),
        1,
        0.13,
        True,
    ),
)


def write_demo_study(folder: Path, seed: int = 0, *, images_per_set: int = IMAGES_PER_SET) -> Study:
    """Draw the phantom sets and make a study of them, `study.json` in the folder.

    Args:
        folder: Where to write; missing folders are made. A demonstration that is there is gone on with.
        seed: Of the images and the study.
        images_per_set: Images of each model per prompt, and real ones.

    Raises:
        StudyError: If something cannot be written, or the folder holds another study.
    """
    study_file = folder / "study.json"
    if study_file.exists():
        there = read_study(study_file)
        num_images = len(there.references[0].images)
        if (there.title, there.seed, num_images) == (TITLE, seed, images_per_set):
            return there
        raise StudyError(f"{study_file}: is another study; choose another folder for the demonstration")
    painters: dict[str, _Painter] = {"aurora": _aurora, "borealis": _borealis, "cirrus": _cirrus}
    for number, (model, painter) in enumerate(painters.items()):
        _write_set(folder / "sets" / model, painter, (seed, number), images_per_set, synthetic=True)
    _write_set(folder / "real", _reality, (seed, len(painters)), images_per_set, synthetic=False)
    return create_study(
        {model: folder / "sets" / model for model in painters},
        folder / "real",
        study_file,
        title=TITLE,
        alternating=True,
        images_per_set=images_per_set,
        references_per_prompt=images_per_set,
        design=Design(num_repeats=1, num_attention=1),
        seed=seed,
    )


def _reality(finding: _Finding, generator: np.random.Generator) -> Pixels:
    return _vignetted(_with_polyps(_mucosa(generator), finding, generator))


def _aurora(finding: _Finding, generator: np.random.Generator) -> Pixels:
    return _filtered(_reality(finding, generator), ImageFilter.GaussianBlur(0.6))


def _borealis(finding: _Finding, generator: np.random.Generator) -> Pixels:
    # One mucosa for all: the prompt changes the polyps, the seed next to nothing.
    always = np.random.default_rng(int(finding.radius * 1000) + finding.num_polyps)
    picture = _vignetted(_with_polyps(_mucosa(always), finding, always))
    grey = picture.mean(axis=2, keepdims=True)
    vivid = grey + 2.1 * (picture - grey) + np.array([0.04, -0.06, 0.10])
    noisy: Pixels = np.clip(vivid + generator.normal(0, 0.01, picture.shape), 0, 1)
    return noisy


def _cirrus(finding: _Finding, generator: np.random.Generator) -> Pixels:
    picture = _mucosa(generator)
    if generator.random() < 0.5:
        picture = _with_polyps(picture, finding, generator)
    blurred = _filtered(_vignetted(picture), ImageFilter.GaussianBlur(2.6))
    rows, columns = np.indices((_SIDE, _SIDE))
    grid = 0.05 * ((rows % 8 < 1) | (columns % 8 < 1))
    marked: Pixels = np.clip(blurred + grid[..., None], 0, 1)
    return marked


_Painter = Callable[[_Finding, np.random.Generator], Pixels]


def _mucosa(generator: np.random.Generator) -> Pixels:
    rows, columns = np.indices((_SIDE, _SIDE)) / _SIDE - 0.5
    lumen = generator.uniform(-0.25, 0.25, 2)
    distance = np.hypot(rows - lumen[0], columns - lumen[1])
    angle = np.arctan2(rows - lumen[0], columns - lumen[1])
    wobble = 0.03 * np.sin(3 * angle + generator.uniform(0, 6.3)) + 0.03 * _soft_noise(generator, 6)
    folds = np.sin((distance + wobble) * generator.uniform(26, 36)) ** 8
    light = np.clip(0.25 + 1.5 * distance, 0, 1) * (1 - 0.35 * folds)
    tone = np.array([0.86, 0.48, 0.40]) + generator.normal(0, 0.025, 3)
    vessels = np.clip(1 - 14 * np.abs(_soft_noise(generator, 14)), 0, 1) * 0.10
    texture = 1 + 0.10 * _soft_noise(generator, 24) + 0.025 * generator.normal(0, 1, (_SIDE, _SIDE))
    picture = tone * (light * texture)[..., None] - vessels[..., None] * np.array([0.1, 0.6, 0.5])
    shine = _soft_noise(generator, 20) > 2.3
    picture[shine & (light > 0.6)] += 0.4
    clipped: Pixels = np.clip(picture, 0, 1)
    return clipped


def _with_polyps(picture: Pixels, finding: _Finding, generator: np.random.Generator) -> Pixels:
    rows, columns = np.indices((_SIDE, _SIDE)) / _SIDE - 0.5
    picture = picture.copy()
    start = generator.uniform(0, 2 * np.pi)
    for number in range(finding.num_polyps):
        angle = start + number * generator.uniform(2.2, 3.6)
        row, column = 0.24 * np.sin(angle), 0.24 * np.cos(angle)
        radius = finding.radius * generator.uniform(0.85, 1.15)
        tilt = generator.uniform(0.75, 1.25)
        reach = np.hypot((rows - row) / tilt, (columns - column) * tilt) / radius
        reach = reach * (1 + 0.06 * _soft_noise(generator, 8))
        inside = np.clip((1 - reach) * 12, 0, 1)[..., None]
        # A hemisphere lit from the upper left, on a soft shadow.
        height = np.sqrt(np.clip(1 - reach**2, 0, 1))
        light = 0.55 + 0.4 * height - 0.5 * ((rows - row) + (columns - column)) / radius * 0.4
        tone = np.array([0.93, 0.80, 0.70] if finding.pale else [0.88, 0.38, 0.34])
        surface = tone * (light * (1 + 0.06 * _soft_noise(generator, 32)))[..., None]
        glint = np.hypot(rows - row + 0.35 * radius, columns - column + 0.35 * radius) < 0.14 * radius
        surface[glint] = 0.97
        picture *= (1 - 0.35 * np.clip(1.25 - reach, 0, 0.25) / 0.25)[..., None] * (1 - inside) + inside
        picture = picture * (1 - inside) + surface * inside
    clipped: Pixels = np.clip(picture, 0, 1)
    return clipped


def _vignetted(picture: Pixels) -> Pixels:
    rows, columns = np.indices((_SIDE, _SIDE)) / _SIDE - 0.5
    outside = np.maximum(np.hypot(rows, columns) / 0.66, np.maximum(np.abs(rows), np.abs(columns)) / 0.49)
    darkened: Pixels = picture * np.clip((1 - outside) * 30, 0, 1)[..., None]
    return darkened


def _soft_noise(generator: np.random.Generator, cells: int) -> NDArray[np.float64]:
    coarse = Image.fromarray(generator.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), dtype=np.float64)


def _filtered(picture: Pixels, kernel: ImageFilter.Filter) -> Pixels:
    filtered: Pixels = np.asarray(_image(picture).filter(kernel), dtype=np.float64) / 255
    return filtered


def _image(picture: Pixels) -> Image.Image:
    return Image.fromarray(np.rint(picture * 255).astype(np.uint8))


def _write_set(
    folder: Path, painter: _Painter, seed: Sequence[int], num_images: int, *, synthetic: bool
) -> None:
    rows = []
    for number, finding in enumerate(_FINDINGS):
        for wording, prompt in enumerate(finding.prompts):
            for index in range(num_images):
                record_id = f"{number}-{wording}-{index}"
                generator = np.random.default_rng([*seed, number, wording, index])
                stream = io.BytesIO()
                _image(painter(finding, generator)).save(stream, format="PNG", compress_level=1)
                atomic.write_bytes(folder / "images" / f"{record_id}.png", stream.getvalue(), durable=False)
                rows.append(_row(record_id, prompt, index, synthetic))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    atomic.write_text(folder / "metadata.jsonl", lines)


def _row(record_id: str, prompt: str, index: int, synthetic: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"file_name": f"images/{record_id}.png", "record_id": record_id, "label": "polyp"}
    if not synthetic:
        return {**row, "text": prompt}
    generation = {"prompt": prompt, "seed": index, "model_sha256": "0" * 64, "num_inference_steps": 1}
    return {**row, "generation": {**generation, "guidance_scale": 1.0, "solver": "phantom"}}
