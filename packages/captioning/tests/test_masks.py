import numpy as np
from medgen_captioning.masks import blur, fill_holes, flood, grow, main_piece, shrink, single, without_threads


def flood_by_steps(seed: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Grow over sides until nothing changes: slow and plain."""
    reached = seed & allowed
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= allowed
        if np.array_equal(grown, reached):
            return reached
        reached = grown


def disc(size: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - row, columns - column) <= radius


def test_flood_equals_growing_step_by_step() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        allowed = generator.random((13, 19)) < generator.uniform(0.2, 0.95)
        seed = generator.random((13, 19)) < 0.03
        assert np.array_equal(flood(seed, allowed), flood_by_steps(seed, allowed))


def test_flood_of_nothing_is_nothing() -> None:
    empty = np.zeros((5, 7), dtype=bool)
    assert not flood(empty, ~empty).any()
    assert not flood(~empty, empty).any()


def test_growing_and_shrinking_are_dual() -> None:
    mask = np.random.default_rng(1).random((20, 20)) < 0.4
    inner = shrink(np.pad(mask, 3), 2)
    outer = ~grow(~np.pad(mask, 3), 2)
    assert np.array_equal(inner, outer)
    assert np.count_nonzero(grow(single((4, 4), (9, 9)), 2)) == 25


def test_holes_are_filled_and_bays_are_not() -> None:
    ring = disc(21, 10, 10, 8) & ~disc(21, 10, 10, 4)
    assert np.array_equal(fill_holes(ring), disc(21, 10, 10, 8))
    bay = ring.copy()
    bay[10, 10:] = False
    assert np.array_equal(fill_holes(bay), bay)


def test_main_piece_is_the_thickest_not_the_longest() -> None:
    ball, line = disc(40, 28, 28, 7), np.zeros((40, 40), dtype=bool)
    line[3, :] = True
    assert np.array_equal(main_piece(ball | line), ball)


def test_threads_are_cut() -> None:
    ball = disc(40, 20, 20, 8)
    thread = ball.copy()
    thread[20, 28:38] = True
    assert np.count_nonzero(without_threads(thread) & ~ball) <= 2


def test_blur_is_the_mean_of_a_square() -> None:
    field = np.random.default_rng(2).random((11, 12), dtype=np.float32)
    blurred = blur(field, 5)
    assert blurred.shape == field.shape
    np.testing.assert_allclose(blurred[5, 6], field[3:8, 4:9].mean(), rtol=1e-5)
    np.testing.assert_allclose(blurred[0, 0], np.pad(field, 2, "edge")[:5, :5].mean(), rtol=1e-5)
    np.testing.assert_allclose(blur(np.full((9, 9), 3.0, dtype=np.float32), 9), 3.0, rtol=1e-6)
