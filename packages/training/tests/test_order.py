import pytest
import torch
from medgen_training.order import batch_rows, stream_generator, stream_seed


@pytest.mark.parametrize(("num_rows", "batch_size"), [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_every_row_is_seen_once_an_epoch(num_rows: int, batch_size: int) -> None:
    stream = torch.cat([batch_rows(step, batch_size, num_rows, seed=5) for step in range(3 * num_rows)])
    for epoch in stream[: len(stream) // num_rows * num_rows].view(-1, num_rows):
        assert sorted(epoch.tolist()) == list(range(num_rows))


def test_epochs_differ_and_the_seed_decides() -> None:
    first, second = (batch_rows(step, 50, 50, seed=0).tolist() for step in (0, 1))
    assert first != second
    assert batch_rows(0, 50, 50, seed=0).tolist() == first
    assert batch_rows(0, 50, 50, seed=1).tolist() != first


def test_streams_of_randomness_are_apart() -> None:
    seeds = {stream_seed(0, name, step) for name in ("noise", "dropout") for step in range(100)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = [torch.randn(3, generator=stream_generator(0, "noise", 4)) for _ in range(2)]
    assert torch.equal(*draws)


def test_no_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one image, got 0"):
        batch_rows(0, 4, 0, seed=0)
