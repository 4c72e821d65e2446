"""Find near-duplicate images across splits, which no id gives away.

N images, B bits: an image is described by the signs of the brightness steps of a 17 x 17 thumbnail.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from medgen_data.image_folder import ImageDataset
from medgen_data.images import Images, decode_image
from medgen_data.records import ImageRecord
from medgen_data.splits import Leak

Hashes = npt.NDArray[np.bool_]

HASH_SIDE = 16
NUM_BITS = 2 * HASH_SIDE * HASH_SIDE
_CHUNK = 1024


def perceptual_hash(image: Images) -> Hashes:
    """Return whether brightness grows to the right and downwards, place by place, [512] bool.

    Unchanged by brightness and contrast, nearly unchanged by scaling and recompression; crops, turns and
    mirror images are other images to it.

    Args:
        image: Image, [H, W, 3] uint8.
    """
    side = HASH_SIDE + 1
    # Mode F: whole grey levels would tie, and a tie is no step.
    grey = Image.fromarray(image).convert("L").convert("F").resize((side, side), Image.Resampling.BOX)
    levels = np.array(grey)
    rightwards = levels[:-1, 1:] > levels[:-1, :-1]
    downwards = levels[1:, :-1] > levels[:-1, :-1]
    return np.concatenate([rightwards.ravel(), downwards.ravel()])


def find_near_duplicates(dataset: ImageDataset, *, max_distance: int = 60) -> tuple[Leak, ...]:
    """Return the pairs of look-alike images that lie in different splits, nearest first.

    Args:
        dataset: Data set whose records have splits; images without one are not looked at.
        max_distance: Most hash bits, of 512, in which two near-duplicates may differ. Recompression, noise
            and small crops change up to about 60; among seven million pairs of dermoscopic images of
            different lesions the nearest differ in 69, the median in 238.
    """
    records = [record for record in dataset.records if record.split is not None]
    if not records:
        return ()
    hashes = np.stack([perceptual_hash(decode_image(dataset.image_file(record))) for record in records])
    pairs = []
    for start in range(0, len(records), _CHUNK):
        distances = _hamming(hashes[start : start + _CHUNK], hashes)
        for row, column in np.argwhere(distances <= max_distance):
            first, second = start + int(row), int(column)
            if first < second and records[first].split != records[second].split:
                pairs.append((int(distances[row, column]), first, second))
    return tuple(_leak(records, *pair) for pair in sorted(pairs))


def _hamming(a: Hashes, b: Hashes) -> npt.NDArray[np.int64]:
    """Return the number of differing bits, [N_a, N_b]."""
    signs_a, signs_b = (np.where(hashes, 1, -1).astype(np.float32) for hashes in (a, b))
    return ((NUM_BITS - signs_a @ signs_b.T) / 2).astype(np.int64)


def _leak(records: Sequence[ImageRecord], distance: int, first: int, second: int) -> Leak:
    a, b = records[first], records[second]
    assert a.split is not None
    assert b.split is not None
    detail = f"{a.record_id} and {b.record_id} differ in {distance} of {NUM_BITS} hash bits"
    return Leak("near-duplicate", (a.record_id, b.record_id), (a.split, b.split), detail)
