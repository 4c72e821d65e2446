"""What to compute between two image sets, and how."""

from dataclasses import dataclass
from pathlib import Path

from medgen_metrics.frechet_limit import Extrapolated
from medgen_metrics.image_decoding import FULL_16_BIT
from medgen_metrics.kernel import KID_KERNEL, PolynomialKernel
from medgen_metrics.prdc import Rim

METRICS = ("frechet", "kid", "prdc", "frechet-limit", "kid-subsets", "inception-score", "colour")
DEFAULT_METRICS = ("frechet", "kid", "prdc")


@dataclass(frozen=True)
class ScoreConfig:
    """What to compute, and how."""

    extractor: str = "efficientnet-lite0"
    metrics: tuple[str, ...] = DEFAULT_METRICS
    k: int = 3  # neighbour that sets the radius of a ball, for prdc
    seed: int = 0  # of the random halves behind the intervals of prdc and colour, and of random subsets
    batch_size: int = 32
    rim: Rim = "<="  # whether a ball of prdc holds its rim
    kernel: PolynomialKernel = KID_KERNEL  # of kid and kid-subsets
    num_subsets: int = 100  # of kid-subsets
    subset_size: int = 1000  # of kid-subsets; the smaller set if that has fewer images
    extrapolated: Extrapolated = "synthetic"  # which sets frechet-limit makes infinitely large
    num_splits: int = 10  # of inception-score
    weights_file: Path | None = None  # None: the installed weights
    sixteen_bit_range: tuple[int, int] = FULL_16_BIT

    def __post_init__(self) -> None:
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise ValueError(f"metrics must be some of {', '.join(METRICS)}, got {self.metrics}")
        if self.k < 1 or self.batch_size < 1:
            raise ValueError(
                f"k and batch_size must be at least 1, got k={self.k}, batch_size={self.batch_size}"
            )
        if self.num_splits < 1:
            raise ValueError(f"num_splits must be at least 1, got {self.num_splits}")
