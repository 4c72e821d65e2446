"""Does a synthetic image show what it was asked to show? A classifier trained on real images is the judge."""

from collections import Counter
from dataclasses import dataclass

from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError

from medgen_classify.classifier import Classifier
from medgen_classify.intervals import Figure, wilson_figure
from medgen_classify.labelled_images import decode_labelled_images
from medgen_classify.predict import Prediction, make_predictions


@dataclass(frozen=True)
class Recognition:
    """How often the prompted attribute is recognised.

    Attributes:
        attribute: What was prompted and recognised.
        share: Share of images whose prompted attribute was recognised.
        per_class: The same for every prompted class.
        taken_for: For every prompted class, what its images were taken for and how often.
        chance: Share that a classifier gets which always names the most frequent prompted class.
        predictions: One row per image; `label` is the prompted attribute.
        judge: Name of the set the classifier was trained on.
    """

    attribute: str
    share: Figure
    per_class: dict[str, Figure]
    taken_for: dict[str, dict[str, int]]
    chance: float
    predictions: tuple[Prediction, ...]
    judge: str

    def to_json(self) -> dict[str, object]:
        """Return the recognition as a JSON object, without the predictions."""
        return {
            "attribute": self.attribute,
            "num_images": len(self.predictions),
            "share": self.share.to_json(),
            "chance": self.chance,
            "per_class": {name: figure.to_json() for name, figure in self.per_class.items()},
            "taken_for": self.taken_for,
            "judge": self.judge,
        }


def recognition(classifier: Classifier, synthetic_set: ImageDataset) -> Recognition:
    """Apply a classifier trained on real images to synthetic ones.

    The share is bounded by the judge's own accuracy: give that beside it.

    Args:
        classifier: The judge; it must not have seen generated images.
        synthetic_set: Images whose records carry the prompted attribute.

    Raises:
        DataError: If the judge was trained on generated images, there are no images, or one was prompted
            with a class the judge never saw.
    """
    if classifier.training.generated:
        raise DataError(
            f"the classifier was trained on the generated images of {classifier.training.name}; recognition "
            "needs one trained on real images, or the generator is its own judge"
        )
    examples = decode_labelled_images(
        synthetic_set,
        attribute_name=classifier.config.attribute,
        image_size=classifier.backbone.image_size,
        fit=classifier.config.fit,
    )
    predictions, _ = make_predictions(classifier, examples)
    taken_for = {
        prompted: dict(Counter(row.predicted for row in predictions if row.label == prompted).most_common())
        for prompted in sorted(set(examples.labels))
    }
    num_prompted = Counter(examples.labels)
    return Recognition(
        attribute=classifier.config.attribute,
        share=wilson_figure(sum(row.predicted == row.label for row in predictions), len(predictions)),
        per_class={
            name: wilson_figure(counts.get(name, 0), num_prompted[name]) for name, counts in taken_for.items()
        },
        taken_for=taken_for,
        chance=max(num_prompted.values()) / len(predictions),
        predictions=predictions,
        judge=classifier.training.name,
    )
