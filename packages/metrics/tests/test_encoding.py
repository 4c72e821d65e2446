from pathlib import Path

import pytest
import torch
from medgen_metrics.encoding import open_encoders, prepare
from medgen_metrics.features.random_network import RandomExtractor


def test_images_wait_for_a_full_batch_and_copies_do_not_fill_it(tmp_path: Path) -> None:
    extractor = RandomExtractor(0)
    (encoder,) = open_encoders([extractor], tmp_path, 2, "")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 20, 30), generator=generator, dtype=torch.uint8)
    prepared = [prepare(image, [encoder]) for image in images]
    assert [encoder.push("a", prepared[0]), encoder.push("a", prepared[0])] == [0, 0]
    assert not encoder.lacks("a")
    assert [encoder.push("b", prepared[1]), encoder.push("c", prepared[2])] == [2, 0]
    assert [encoder.finish(), encoder.finish()] == [1, 0]
    gathered = encoder.gather(["c", "a"], ("third", "first"))
    torch.testing.assert_close(gathered.features, extractor(images)[[2, 0]], rtol=1e-6, atol=1e-7)
    (reopened,) = open_encoders([extractor], tmp_path, 2, "")
    assert not any(reopened.lacks(sha256) for sha256 in "abc")


def test_decoding_is_part_of_the_name_of_the_cache(tmp_path: Path) -> None:
    plain, scaled = (
        open_encoders([RandomExtractor(0)], tmp_path, 1, decoding)[0] for decoding in ("", "16-bit 0..4095")
    )
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    plain.push("a", prepare(image, [plain]))
    assert scaled.lacks("a")
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        open_encoders([RandomExtractor(0)], tmp_path, 0, "")
