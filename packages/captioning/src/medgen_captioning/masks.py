"""Masks and smooth maps on a small pixel grid.

Shapes: H x W grid size. Masks are [H, W] bool, maps [H, W] float32.
"""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Map = npt.NDArray[np.float32]


def grow(mask: Mask, radius: int = 1) -> Mask:
    """Return a mask grown by `radius` pixels in all eight directions."""
    for _ in range(radius):
        rows = mask.copy()
        rows[1:] |= mask[:-1]
        rows[:-1] |= mask[1:]
        mask = rows.copy()
        mask[:, 1:] |= rows[:, :-1]
        mask[:, :-1] |= rows[:, 1:]
    return mask


def shrink(mask: Mask, radius: int = 1) -> Mask:
    """Return a mask without its outermost pixels; beyond the edge of the grid counts as outside."""
    return ~grow(np.pad(~mask, 1, constant_values=True), radius)[1:-1, 1:-1]


def flood(seed: Mask, allowed: Mask) -> Mask:
    """Return the pixels of `allowed` that are joined to `seed` over sides, not corners."""
    # Runs of a row are joined where they touch a run of the next row: some hundred joints, not 4,096 pixels.
    starts = allowed.copy()
    starts[:, 1:] &= ~allowed[:, :-1]
    runs = np.cumsum(starts.ravel()).reshape(allowed.shape)
    runs[~allowed] = 0
    touching = allowed[:-1] & allowed[1:]
    above, below = runs[:-1][touching], runs[1:][touching]
    first = np.flatnonzero((np.diff(above, prepend=0) != 0) | (np.diff(below, prepend=0) != 0))
    roots = _join(int(runs.max(initial=0)) + 1, above[first].tolist(), below[first].tolist())
    reached = np.isin(roots, roots[runs[seed & allowed]])
    reached[0] = False
    flooded: Mask = reached[runs]
    return flooded


def _join(num_runs: int, above: list[int], below: list[int]) -> npt.NDArray[np.int64]:
    """Return for each run the smallest run that it is joined to (union-find with path halving)."""
    parent = list(range(num_runs))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for a, b in zip(above, below, strict=True):
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(run) for run in range(num_runs)])


def fill_holes(mask: Mask) -> Mask:
    """Return a mask with everything it encloses."""
    return ~flood(border(mask.shape), ~mask)


def main_piece(mask: Mask) -> Mask:
    """Return the connected piece of a mask where the mask is thickest, without holes."""
    if mask.all() or not mask.any():
        return mask
    thickness = blur(blur(mask.astype(np.float32), 9), 9)
    return fill_holes(flood(single(peak(np.where(mask, thickness, -1)), mask.shape), mask))


def without_threads(mask: Mask) -> Mask:
    """Return the main piece of a mask after cutting threads less than three pixels thin."""
    opened = grow(shrink(mask)) & mask
    return main_piece(opened if opened.any() else mask)


def border(shape: tuple[int, ...]) -> Mask:
    """Return the outermost pixels of a grid [H, W]."""
    outermost = np.zeros(shape, dtype=bool)
    outermost[[0, -1]] = True
    outermost[:, [0, -1]] = True
    return outermost


def single(place: tuple[int, int], shape: tuple[int, ...]) -> Mask:
    """Return a mask of one pixel."""
    mask = np.zeros(shape, dtype=bool)
    mask[place] = True
    return mask


def peak(field: Map) -> tuple[int, int]:
    """Return row and column of the largest value of a map."""
    row, column = divmod(int(np.argmax(field)), field.shape[1])
    return row, column


def nearest(mask: Mask, place: tuple[int, int]) -> tuple[int, int]:
    """Return row and column of the pixel of a mask that is nearest to a place."""
    rows, columns = np.nonzero(mask)
    index = int(np.argmin((rows - place[0]) ** 2 + (columns - place[1]) ** 2))
    return int(rows[index]), int(columns[index])


def blur(field: Map, width: int) -> Map:
    """Return the mean over a square of odd `width`; the edge of the map is repeated."""
    half = width // 2
    rows = np.cumsum(np.pad(field, ((half + 1, half), (0, 0)), "edge"), axis=0, dtype=np.float64)
    rows = (rows[width:] - rows[:-width]) / width
    columns = np.cumsum(np.pad(rows, ((0, 0), (half + 1, half)), "edge"), axis=1)
    mean: Map = ((columns[:, width:] - columns[:, :-width]) / width).astype(np.float32)
    return mean
