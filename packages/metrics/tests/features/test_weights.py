from pathlib import Path

import pytest
import torch
from medgen_metrics.features.weights import read_weights, weights_sha256, write_weights


def test_state_survives_the_file(tmp_path: Path) -> None:
    state = {"a": torch.rand(2, 3), "b": torch.tensor(7)}
    write_weights(tmp_path / "w.safetensors", state)
    reread = read_weights(tmp_path / "w.safetensors")
    assert reread.keys() == state.keys()
    assert all(torch.equal(reread[name], state[name]) for name in state)
    assert weights_sha256(reread) == weights_sha256(state)


@pytest.mark.parametrize(
    "changed",
    [
        {"a": torch.zeros(2, 3)},
        {"b": torch.ones(2, 3)},
        {"a": torch.ones(3, 2)},
        {"a": torch.ones(2, 3).double()},
        {"a": torch.ones(2, 3), "b": torch.ones(0)},
    ],
    ids=["value", "name", "shape", "dtype", "extra"],
)
def test_hash_sees_every_change(changed: dict[str, torch.Tensor]) -> None:
    assert weights_sha256(changed) != weights_sha256({"a": torch.ones(2, 3)})


def test_order_of_names_does_not_matter() -> None:
    a, b = torch.rand(2), torch.rand(3)
    assert weights_sha256({"a": a, "b": b}) == weights_sha256({"b": b, "a": a})
