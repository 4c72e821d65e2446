"""The order in which a training sees its images: a pure function of seed and position.

Nothing here has state, so a checkpoint that knows its step knows its place in the data.
"""

import hashlib

import torch
from torch import Tensor


def stream_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed of its own for one use of randomness, e.g. `(seed, "noise", step)`."""
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream_generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator of its own for one use of randomness."""
    return torch.Generator().manual_seed(stream_seed(seed, *names))


def batch_rows(step: int, batch_size: int, num_rows: int, *, seed: int) -> Tensor:
    """Return the rows [batch_size] of a step: epochs are permutations, laid end to end.

    No row is seen twice before every row was seen once, and no batch is short.
    """
    if num_rows < 1:
        raise ValueError("a training needs at least one image, got 0")
    first = step * batch_size
    positions = torch.arange(first, first + batch_size)
    epochs = positions // num_rows
    rows = torch.empty(batch_size, dtype=torch.long)
    for epoch in epochs.unique().tolist():
        permutation = torch.randperm(num_rows, generator=stream_generator(seed, "order", epoch))
        inside = epochs == epoch
        rows[inside] = permutation[positions[inside] % num_rows]
    return rows
