from collections.abc import Callable

import numpy as np
import pytest
import torch
from medgen_metrics.neighbours import nearest_neighbours
from torch import Tensor

Draw = Callable[..., Tensor]


def by_direct_differences(queries: Tensor, gallery: Tensor) -> np.ndarray:
    difference = queries.double().numpy()[:, None] - gallery.double().numpy()[None]
    return np.sqrt(np.square(difference).sum(axis=-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 5])
def test_agrees_with_direct_differences(gaussian: Draw, k: int, dtype: torch.dtype) -> None:
    queries, gallery = gaussian(60, 40, seed=0).to(dtype), gaussian(1100, 40, seed=1).to(dtype)
    distances, indices = nearest_neighbours(queries, gallery, k)
    expected = by_direct_differences(queries, gallery)
    np.testing.assert_array_equal(distances.numpy(), np.sort(expected, axis=1)[:, :k])
    np.testing.assert_array_equal(indices.numpy(), np.argsort(expected, axis=1, kind="stable")[:, :k])


def test_self_is_left_out_by_index_and_copies_are_kept(gaussian: Draw) -> None:
    features = gaussian(10, 6, seed=0)
    features[7] = features[2]
    distances, indices = nearest_neighbours(features, features, 1, exclude_self=True)
    assert (indices[:, 0] != torch.arange(10)).all()
    assert (indices[2, 0], distances[2, 0]) == (7, 0.0)


def test_near_copies_far_from_the_origin_are_told_apart(gaussian: Draw) -> None:
    # |a|^2 + |b|^2 - 2 a.b in float32 cannot see distances this small at this length.
    gallery = gaussian(200, 64, seed=0).float() + 40
    queries = gallery.clone()
    queries[:, 0] += 1e-3
    distances, indices = nearest_neighbours(queries, gallery, 1)
    np.testing.assert_array_equal(indices[:, 0].numpy(), np.arange(200))
    np.testing.assert_array_equal(distances[:, 0].numpy(), by_direct_differences(queries, gallery).diagonal())


def test_dense_cloud_of_near_copies_falls_back_to_exact_search(gaussian: Draw) -> None:
    # More candidates within rounding than are scored exactly by default.
    centre = gaussian(1, 32, seed=0).float() * 50
    gallery = centre + 1e-4 * gaussian(400, 32, seed=1).float()
    far = gaussian(1, 32, seed=3).float() * 1000
    everything = torch.cat([gallery, far])
    distances, _ = nearest_neighbours(everything, everything, 3, exclude_self=True)
    direct = by_direct_differences(everything, everything)
    np.fill_diagonal(direct, np.inf)
    np.testing.assert_array_equal(distances.numpy(), np.sort(direct, axis=1)[:, :3])


def test_translation_changes_no_neighbour(gaussian: Draw) -> None:
    queries, gallery = gaussian(30, 8, seed=0), gaussian(50, 8, seed=1)
    _, here = nearest_neighbours(queries, gallery, 3)
    _, there = nearest_neighbours(queries + 1e4, gallery + 1e4, 3)
    assert torch.equal(here, there)


def test_inputs_are_left_unchanged(gaussian: Draw) -> None:
    queries, gallery = gaussian(30, 8, seed=0), gaussian(50, 8, seed=1)
    before = queries.clone(), gallery.clone()
    nearest_neighbours(queries, gallery, 2)
    assert torch.equal(queries, before[0])
    assert torch.equal(gallery, before[1])


def test_errors_say_what_was_expected() -> None:
    features = torch.rand(4, 3)
    with pytest.raises(ValueError, match=r"k must be between 1 and 3 .*got 4"):
        nearest_neighbours(features, features, 4, exclude_self=True)
    with pytest.raises(ValueError, match="got 4 queries, 5 items"):
        nearest_neighbours(features, torch.rand(5, 3), exclude_self=True)
    with pytest.raises(ValueError, match="dimensions differ: 3 and 2"):
        nearest_neighbours(features, torch.rand(5, 2))
