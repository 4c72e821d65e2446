from collections.abc import Callable

import numpy as np
import pytest
import torch
from medgen_metrics.prdc import prdc
from medgen_metrics.realism import realism
from torch import Tensor

Draw = Callable[..., Tensor]


def by_definition(real: Tensor, synthetic: Tensor, k: int) -> np.ndarray:
    def table(a: Tensor, b: Tensor) -> np.ndarray:
        return np.sqrt(np.square(a.double().numpy()[:, None] - b.double().numpy()[None]).sum(axis=-1))

    own = table(real, real)
    np.fill_diagonal(own, np.inf)
    radii = np.sort(own, axis=1)[:, k - 1]
    kept = radii <= np.sort(radii)[(len(radii) - 1) // 2]
    return (radii[kept, None] / table(real[torch.from_numpy(kept)], synthetic)).max(axis=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_real", "k"), [(90, 3), (91, 1), (2500, 5)])
def test_agrees_with_the_definition(gaussian: Draw, num_real: int, k: int, dtype: torch.dtype) -> None:
    real, synthetic = gaussian(num_real, 9, seed=0).to(dtype), gaussian(70, 9, seed=1, shift=0.2).to(dtype)
    values = realism(real, synthetic, k=k)
    np.testing.assert_allclose(values.numpy(), by_definition(real, synthetic, k), rtol=1e-12)


def test_near_copies_far_from_zero_are_told_from_copies(gaussian: Draw) -> None:
    real = gaussian(60, 40, seed=0).float() + 300
    synthetic = real.clone()
    synthetic[1:, 0] += 1e-3
    values = realism(real, synthetic)
    np.testing.assert_allclose(values[1:].numpy(), by_definition(real, synthetic[1:], 3), rtol=1e-12)
    kept = bool(np.isinf(by_definition(real, real[:1], 3))[0]) if len(real) else False
    assert bool(torch.isinf(values[0])) == kept


def test_whoever_is_realistic_is_precise(gaussian: Draw) -> None:
    real, synthetic = gaussian(200, 8, seed=0), gaussian(150, 8, seed=1, shift=0.2)
    share = float((realism(real, synthetic, k=3) >= 1).double().mean())
    # Only the smaller half of the balls is asked.
    assert 0 < share <= prdc(real, synthetic, k=3, seed=0).precision.value


def test_scale_and_order_change_nothing(gaussian: Draw) -> None:
    real, synthetic = gaussian(80, 6, seed=0), gaussian(20, 6, seed=1)
    expected = realism(real, synthetic)
    torch.testing.assert_close(realism(7 * real, 7 * synthetic), expected)
    torch.testing.assert_close(realism(real.flip(0), synthetic.flip(0)).flip(0), expected)


def test_too_few_real_images_are_refused() -> None:
    with pytest.raises(ValueError, match="k=3 needs more than k real images and k >= 1, got 3 real"):
        realism(torch.rand(3, 2), torch.rand(4, 2))
