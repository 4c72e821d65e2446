import io
from pathlib import Path

import numpy as np
import pytest
from medgen_review.blind_images import blind_png, blind_png_length, read_unchanged
from medgen_review.demo import write_demo_study
from medgen_review.schedule import REFERENCES, image_at, pages_for
from medgen_review.study import Study, StudyError, read_study
from PIL import Image


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_demo_study(folder, 3, images_per_set=2)


def shown(folder: Path, study: Study) -> dict[str, list[np.ndarray]]:
    """Images as a rater sees them, by model, in levels of 0 to 1; the references under the empty letter."""
    found: dict[str, list[np.ndarray]] = {}
    for page in pages_for(study, 0):
        for letter, order in page.image_orders.items():
            for index in range(len(order)):
                stored = read_unchanged(folder, image_at(study, page, letter, index))
                content = blind_png(stored, side=study.design.image_side)
                assert len(content) == blind_png_length(192)
                with Image.open(io.BytesIO(content)) as image:
                    model = page.model_of(letter) if letter != REFERENCES else REFERENCES
                    found.setdefault(model, []).append(np.asarray(image) / 255)
    return found


def test_the_study_is_whole_and_can_be_read(demo: tuple[Path, Study]) -> None:
    folder, study = demo
    assert read_study(folder / "study.json") == study
    assert len(study.prompts) == 8
    assert [prompt.kind for prompt in study.prompts] == ["original", "rephrased"] * 4
    assert len(study.models) == 3
    assert (study.design.num_repeats, study.design.num_attention) == (1, 1)


def test_the_models_differ_as_they_are_said_to(demo: tuple[Path, Study]) -> None:
    images = shown(*demo)

    def saturation(model: str) -> float:
        return float(np.mean([image.max(axis=2) - image.min(axis=2) for image in images[model]]))

    def sharpness(model: str) -> float:
        # Between the lines of the grid, which would count as sharp.
        steps = [np.abs(image[4:-4:8] - image[3:-5:8])[:, 20:-20] for image in images[model]]
        return float(np.mean([step.mean() for step in steps]))

    def grid(model: str) -> float:
        return float(np.mean([(image[24:-24:8] - image[28:-20:8]).mean() for image in images[model]]))

    assert saturation("borealis") > 1.5 * saturation(REFERENCES)
    assert abs(saturation("aurora") / saturation(REFERENCES) - 1) < 0.2
    assert sharpness("cirrus") < 0.6 * sharpness("aurora") < 0.6 * sharpness(REFERENCES)
    assert grid("cirrus") > 0.02 > 0.01 > abs(grid("aurora"))


def test_the_same_seed_draws_the_same_images(demo: tuple[Path, Study], tmp_path: Path) -> None:
    _, study = demo
    assert write_demo_study(tmp_path, 3, images_per_set=2) == study


def test_a_demonstration_that_is_there_is_gone_on_with(demo: tuple[Path, Study]) -> None:
    folder, study = demo
    times = {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")}
    assert write_demo_study(folder, 3, images_per_set=2) == study
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.*")} == times
    with pytest.raises(StudyError, match=r"study.json: is another study; choose another folder"):
        write_demo_study(folder, 4, images_per_set=2)
