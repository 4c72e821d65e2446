import pickle
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


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_file_that_is_none_is_named(tmp_path: Path, suffix: str) -> None:
    for content in (b"", b"not weights", bytes(5000)):
        file = tmp_path / f"w{suffix}"
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"w\{suffix}: is damaged or no weight file"):
            read_weights(file)


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ValueError, match=r"w\.pth: is damaged or no weight file"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
