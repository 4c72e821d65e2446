"""What about two image sets may move their scores without a better or worse generator."""

from collections import Counter
from collections.abc import Sequence

from medgen_metrics.extract import ExtractedSet, ImageFile
from medgen_metrics.feature_files import FeatureSet
from medgen_metrics.image_decoding import FULL_16_BIT


def image_set_warnings(
    real: ExtractedSet, synthetic: ExtractedSet, *, sixteen_bit_range: tuple[int, int] = FULL_16_BIT
) -> tuple[str, ...]:
    """Say what the files tell: mixed sizes, copies, 16 bits, unequal formats, images in both sets."""
    warnings = []
    for name, images in (("real", real.files), ("synthetic", synthetic.files)):
        warnings += _set_warnings(name, images, sixteen_bit_range)
    formats = [sorted({image.facts.file_format for image in images.files}) for images in (real, synthetic)]
    if formats[0] != formats[1]:
        warnings.append(
            f"file formats differ: real {'/'.join(formats[0])}, synthetic {'/'.join(formats[1])}; "
            "JPEG artefacts alone move distances"
        )
    shared = {image.sha256 for image in real.files} & {image.sha256 for image in synthetic.files}
    if shared:
        warnings.append(f"{len(shared)} image(s) are in both sets, byte for byte")
    return tuple(warnings)


def feature_warnings(real: FeatureSet, synthetic: FeatureSet) -> tuple[str, ...]:
    """Say what the features tell: unequal numbers of images, and what is known of their network."""
    warnings = []
    num_real, num_synthetic = len(real.features), len(synthetic.features)
    if num_real != num_synthetic:
        warnings.append(f"set sizes differ: {num_real} real, {num_synthetic} synthetic")
    if not (real.space.comparable and synthetic.space.comparable):
        warnings.append("the extractor has random weights: not comparable with any other figure")
    return (*warnings, *dict.fromkeys((*real.space.cautions, *synthetic.space.cautions)))


def frechet_warnings(real: FeatureSet, synthetic: FeatureSet) -> tuple[str, ...]:
    """Say whether the sets are too small for a Frechet distance in this space."""
    smaller = min(len(real.features), len(synthetic.features))
    if smaller > real.space.dim:
        return ()
    return (
        f"{smaller} images for {real.space.dim} features: the distance is biased upwards, by much; "
        "compare only with scores of equal set sizes",
    )


def _set_warnings(name: str, images: Sequence[ImageFile], sixteen_bit_range: tuple[int, int]) -> list[str]:
    warnings = []
    sizes = Counter((image.facts.width, image.facts.height) for image in images)
    if len(sizes) > 1:
        (width, height), count = sizes.most_common(1)[0]
        warnings.append(
            f"{name} images have {len(sizes)} sizes ({count} of {len(images)} are {width} x {height}); "
            "all are resized to one square"
        )
    num_copies = len(images) - len({image.sha256 for image in images})
    if num_copies:
        warnings.append(
            f"{num_copies} of {len(images)} {name} images are copies of another in the set, byte for byte"
        )
    num_16_bit = sum(image.facts.is_16_bit for image in images)
    if num_16_bit:
        lowest, highest = sixteen_bit_range
        hint = "; scans of fewer bits come out dark, state their range" if highest == FULL_16_BIT[1] else ""
        warnings.append(f"{num_16_bit} {name} image(s) have 16 bits: {lowest}..{highest} became 0..255{hint}")
    return warnings
