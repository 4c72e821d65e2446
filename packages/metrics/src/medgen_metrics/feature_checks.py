"""What every score asks of its features: a table of finite numbers, wide as the other set, with enough rows."""

import torch
from torch import Tensor

# Rows looked at in one go: the check of a large set needs no second copy of it.
_BLOCK = 4096
_ROWS_NAMED = 5


def check_features(features: Tensor, name: str, *, least: int = 1) -> None:
    """Refuse what is no feature set.

    Args:
        features: Features of one image set, [N >= least, D], any float dtype.
        name: How messages call it, e.g. "real features".
        least: Number of images a score needs.

    Raises:
        ValueError: If the shape does not fit, or a value is NaN or infinite; names the rows.
    """
    if features.ndim != 2 or len(features) < least or features.shape[1] < 1:
        raise ValueError(f"{name} must be [N >= {least}, D], got {tuple(features.shape)}")
    bad_rows: list[int] = []
    for start, block in enumerate(features.split(_BLOCK)):
        # A sum is finite only if its terms are, and costs a tenth of asking each of them.
        if not torch.isfinite(block.sum()):
            rows = (~torch.isfinite(block)).any(dim=1).nonzero()[:, 0]
            bad_rows += (rows + start * _BLOCK).tolist()
    if bad_rows:
        named = ", ".join(str(row) for row in bad_rows[:_ROWS_NAMED])
        more = f" and {len(bad_rows) - _ROWS_NAMED} more" if len(bad_rows) > _ROWS_NAMED else ""
        raise ValueError(
            f"{name} hold NaN or infinity, first in row {bad_rows[0]} (all such rows: {named}{more}); "
            "extract those images again"
        )


def check_widths(real_width: int, synthetic_width: int) -> None:
    """Refuse two feature sets of unequal width.

    Raises:
        ValueError: If the widths differ.
    """
    if real_width != synthetic_width:
        raise ValueError(
            f"feature dimensions differ: real {real_width}, synthetic {synthetic_width}; "
            "were both sets encoded by the same extractor?"
        )
