"""All images of a study, brought to their shown form before the first rater comes.

Done at the start and kept in a folder, an image costs the same to serve whatever it was: a reader of clocks learns
nothing, and a page of 40 images is there at once. A start after the first only looks whether all are there.
"""

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from medgen_review.atomic import write_bytes
from medgen_review.blind_images import ShownImage, blind_png, blind_png_length, read_unchanged
from medgen_review.schedule import Page, image_at
from medgen_review.study import Design, Study, StudyImage

logger = logging.getLogger(__name__)


class PreparedImages:
    """The images of a study as raters see them; see `PreparedImages.prepare`."""

    def __init__(self, study: Study, cache_dir: Path) -> None:
        self._study = study
        self._cache_dir = cache_dir

    @classmethod
    def prepare(cls, study: Study, study_dir: Path, cache_dir: Path) -> Self:
        """Bring every image that is not in `cache_dir` yet to its shown form.

        Raises:
            StudyError: If an image is missing, unreadable or was changed, or the folder cannot be written.
        """
        prepared = cls(study, cache_dir)
        length = blind_png_length(study.design.image_side)
        missing = [
            image
            for image in {image.sha256: image for image in _images_of(study)}.values()
            if not _is_there(prepared.file_of(image), length)
        ]
        if missing:
            logger.info("preparing %d images in %s", len(missing), cache_dir)

        def bring(image: StudyImage) -> None:
            # A torn file has another length and is prepared anew, so a power cut costs nothing.
            content = _shown(study_dir, image, study.design)
            write_bytes(prepared.file_of(image), content, durable=False)

        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for _ in pool.map(bring, missing):
                pass
        return prepared

    def file_of(self, image: StudyImage) -> Path:
        """Return where the shown form of an image is kept."""
        design = self._study.design
        return self._cache_dir / f"{image.sha256}-{design.image_side}-{design.framing}.png"

    def content(self, page: Page, shown: ShownImage) -> bytes:
        """Return the image at a place of a page, a PNG file.

        Raises:
            OSError: If it was taken away while the study is served.
        """
        return self.file_of(image_at(self._study, page, shown.letter, shown.index)).read_bytes()


def _images_of(study: Study) -> Iterable[StudyImage]:
    for each in (*study.references, *study.sets):
        yield from each.images


def _shown(study_dir: Path, image: StudyImage, design: Design) -> bytes:
    content = read_unchanged(study_dir, image)
    return blind_png(content, side=design.image_side, framing=design.framing, name=image.file)


def _is_there(file: Path, length: int) -> bool:
    try:
        return file.stat().st_size == length
    except OSError:
        return False
