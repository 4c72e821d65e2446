"""Realism of single generated images (Kynkaanniemi et al. 2019, eq. 3).

R(g) = max over real images r of  radius(r) / |g - r|,  radius(r) = distance of r to its k-th real neighbour

At least 1 means: inside the ball of a real image, as precision counts it. Real images whose ball is larger than
the median one are left out, as in the paper: they lie where real images are rare, and their balls hold anything.

Shapes: M real and N synthetic images, D feature width, C candidates.
"""

import torch
from torch import Tensor

from medgen_metrics.neighbours import SquaredDistances, check_features, own_neighbours

_BLOCK = 2048
_NUM_CANDIDATES = 4


def realism(real: Tensor, synthetic: Tensor, *, k: int = 3) -> Tensor:
    """Return the realism of every synthetic image; larger is better, infinite for a copy of a real image.

    Args:
        real: Features of the real images, [M > k, D], left unchanged.
        synthetic: Features of the synthetic images, [N, D], left unchanged.
        k: Which neighbour the balls reach, not counting the image itself.

    Returns:
        Realism, [N] float64, from distances that are computed exactly where rounding could decide.

    Raises:
        ValueError: If there are no more than k real images, or the sets cannot be compared.
    """
    check_features(real, synthetic)
    if not 1 <= k < len(real):
        raise ValueError(f"k={k} needs more than k real images and k >= 1, got {len(real)} real")
    radii = own_neighbours(real, k, min(k + 8, len(real) - 1)).radii
    # Of an even number the lower middle: at least half the balls are kept.
    kept = (radii <= radii.median()).nonzero()[:, 0]
    return _largest_ratio(SquaredDistances(synthetic, real[kept]), radii[kept], len(synthetic))


def _largest_ratio(product: SquaredDistances, radii: Tensor, num_synthetic: int) -> Tensor:
    values = torch.empty(num_synthetic, dtype=torch.float64)
    num_candidates = min(_NUM_CANDIDATES, len(radii))
    for start in range(0, num_synthetic, _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, num_synthetic))
        ratios, candidates = _candidates(product, rows, radii, num_candidates)
        exact = _ratio(radii[candidates], product.exact(rows, candidates)).max(dim=1).values
        # Candidates are ordered by how large rounding lets the ratio be; the last bounds all that were left out.
        uncertain = (ratios[:, -1] > exact) & (num_candidates < len(radii))
        for row in uncertain.nonzero()[:, 0].tolist():
            everything = torch.arange(len(radii))[None]
            exact[row] = _ratio(radii, product.exact(rows[row : row + 1], everything)[0]).max()
        values[rows] = exact
    return values


def _candidates(
    product: SquaredDistances, rows: Tensor, radii: Tensor, num_candidates: int
) -> tuple[Tensor, Tensor]:
    """Return upper bounds of the largest ratios, [R, C] descending, and the real images, [R, C]."""
    best = torch.full((len(rows), 0), -1.0, dtype=torch.float64)
    indices = torch.zeros(len(rows), 0, dtype=torch.int64)
    bounds = product.rounding_bound(rows)[:, None]
    for left in range(0, len(radii), _BLOCK):
        columns = torch.arange(left, min(left + _BLOCK, len(radii)))
        squared = (product.block(rows, columns).double() - bounds).clamp_(min=0)
        ratios = _ratio(radii[columns], squared.sqrt_())
        values, places = ratios.topk(min(num_candidates, len(columns)), dim=1)
        best = torch.cat([best, values], dim=1)
        indices = torch.cat([indices, columns[places]], dim=1)
    best, order = best.topk(min(num_candidates, best.shape[1]), dim=1)
    return best, indices.gather(1, order)


def _ratio(radii: Tensor, distances: Tensor) -> Tensor:
    # A ball without extent (a real image and its copies) holds its centre: 0 / 0 is a copy too.
    return torch.where(distances > 0, radii / distances, torch.inf)
