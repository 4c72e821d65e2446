"""The Frechet distance of the ImageCLEFmed MEDVQA-GI 2024 image synthesis task, "official-2024".

Its public evaluator calls the score FID, but takes the 1000 class probabilities of Keras InceptionV3 as features
and not the 2048 pooled ones. Probabilities are small and few of them move, so the numbers are near 0.1 where FID
is near 100: comparable with the published 0.06 to 0.12 of that task, and with nothing else.

The evaluator also brings images to 299 x 299 with numpy.resize, which repeats or cuts the flat pixel buffer
instead of scaling the picture. Who wants its numbers must prepare images that way before the network; here
start the probabilities.

Shapes: N images, C classes.
"""

import torch
from torch import Tensor

from medgen_metrics.feature_checks import check_features
from medgen_metrics.frechet import frechet_estimate
from medgen_metrics.intervals import Estimate

NUM_CLASSES = 1000
# Float32 softmax over 1000 classes sums to 1 within this.
_TOLERANCE = 1e-3


def official_2024_distance(real: Tensor, synthetic: Tensor) -> Estimate:
    """Return the Frechet distance between class probabilities.

    Args:
        real: Softmax outputs of the real images, [N1 >= 2, 1000], rows in [0, 1] with sum 1.
        synthetic: Softmax outputs of the synthetic images, [N2 >= 2, 1000].

    Raises:
        ValueError: If a row is no distribution over 1000 classes; names it.
    """
    for name, probabilities in (("real", real), ("synthetic", synthetic)):
        check_features(probabilities, f"{name} probabilities", least=2)
        if probabilities.shape[1] != NUM_CLASSES:
            raise ValueError(
                f"{name} probabilities must be [N >= 2, {NUM_CLASSES}], got {tuple(probabilities.shape)}; "
                "this score is defined on class probabilities, not on pooled features"
            )
        sums = probabilities.double().sum(dim=1)
        wrong = (probabilities < 0).any(dim=1) | ((sums - 1).abs() > _TOLERANCE)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"{name} probabilities: row {row} sums to {float(sums[row]):g} with least value "
                f"{float(probabilities[row].min()):g}, expected a distribution; apply softmax to logits"
            )
    return frechet_estimate(real.to(torch.float64), synthetic.to(torch.float64))
