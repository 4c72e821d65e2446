import itertools
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from medgen_data.image_folder import ImageDataset
from medgen_data.phantoms import write_phantom_dataset


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """160 phantoms: ten of each class in each quadrant. Read only."""
    folder: Path = tmp_path_factory.mktemp("data") / "phantoms"
    return write_phantom_dataset(folder, num_images=160, seed=4)


@pytest.fixture(scope="session")
def template_prompts() -> list[str]:
    """Prompts in the grammar of MedVQA-GI 2024 with its typos, about as many as it has unique ones."""
    prompts = [f"Generate an image containing {name}." for name in _CONTENTS]
    prompts += [f"Generate an image not containing {name}." for name in _CONTENTS[:2]]
    prompts += [f"Generate an image from a {name} procedure." for name in ("colonoscopy", "gastroscopy")]
    for name, count in itertools.product(("finding", "polyp", "instrument"), (0, 1, 2, 3, 4, 5, 16)):
        prompts.append(f"Generate an image with {count or 'no'} {name}{'' if count == 1 else 's'}.")
    for num in (1, 2, 3):
        noun, verb = ("a polyp", "Generate a polyp") if num == 1 else ("polyps", "Generate polyps")
        for sizes in itertools.combinations(("< 5mm", "5-10mm", "11-20mm", ">20mm"), num):
            prompts.append(f"Generate an image with {noun} of size {_list(sizes)}.")
        for types in itertools.combinations(("paris ip", "paris is", "paris iia"), min(num, 2)):
            prompts.append(f"{verb} of type {_list(types)}.")
    random = Random(0)
    for name, right in (("abnormality", "right"), ("instrument", "right"), ("anatomical landmark", "rigth")):
        zones = [zone.replace("lower-right", f"lower-{right}") for zone in _ZONES]
        for _ in range(100):
            chosen = random.sample(zones, random.randint(1, 9))
            prompts.append(f"Generate an image with an an {name} located in the {_list(chosen)}.")
    for _ in range(90):
        colours = random.sample(_COLOURS, random.randint(1, 5))
        word = "color" if len(colours) == 1 else "colors"
        prompts.append(f"Generate an image with an abnormality with the {word} {_list(colours)}.")
    return list(dict.fromkeys(prompts))


_CONTENTS = (
    *("text", "a green/black box artefact", "a polyp", "oesophagitis", "ulcerative colitis", "barretts"),
    *("the z-line", "the cecum", "the ileum", "the pylorus", "tube", "metal clip", "polyp snare"),
    *("injection needle", "biopsy forceps", "biopsy forcepsandtube", "polyp snareandtube"),
    *("metal clipandtube", "a polypandoesophagitis", "a polypandulcerative colitis"),
)
_ZONES = (
    *("center", "upper-left", "upper-right", "lower-left", "lower-right"),
    *("center-left", "center-right", "upper-center", "lower-center"),
)
_COLOURS = (
    "pink",
    "red",
    "white",
    "yellow",
    "grey",
    "orange",
    "brown",
    "blue",
    "purple",
    "black",
    "pale pink",
)


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
