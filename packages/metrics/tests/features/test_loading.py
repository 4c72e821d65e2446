from pathlib import Path

import pytest
import torch
from medgen_metrics.features.loading import EXTRACTORS, check_extractor_name, load_extractor


def test_random_extractor_repeats_with_its_seed_and_is_not_comparable() -> None:
    images = torch.randint(0, 256, (2, 3, 30, 40), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    first, again, other = (load_extractor(name) for name in ("random:1", "random:1", "random:2"))
    assert torch.equal(first(images), again(images))
    assert first(images).shape == (2, first.dim)
    assert first.sha256 == again.sha256 != other.sha256
    assert first.id == "random:1"
    assert not first.comparable


def test_drawing_an_extractor_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    load_extractor("random:3")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name",
    [
        "inception",
        "inception:512",
        "inception:2048:bilinear-antialias:bilinear-antialias",
        "inception:2048:sharp",
        "random:",
        "random:x",
        "efficientnet",
    ],
)
def test_unknown_names_list_the_known_ones(name: str) -> None:
    known = ", ".join(EXTRACTORS)
    with pytest.raises(
        ValueError, match=f"no extractor '{name}'; expected one of {known}, .* or random:SEED"
    ):
        load_extractor(name)


@pytest.mark.parametrize(
    "name", [*EXTRACTORS, "inception:768:bilinear:bfloat16", "random:7", "hf:folder", "hf:a/b@main#logits"]
)
def test_names_are_checked_without_loading_anything(name: str) -> None:
    check_extractor_name(name)


def test_random_extractor_takes_no_weights() -> None:
    with pytest.raises(ValueError, match="leave weights_file out"):
        load_extractor("random:1", weights_file=Path("w.safetensors"))
    with pytest.raises(ValueError, match="names its own weights; leave weights_file out"):
        load_extractor("hf:folder", weights_file=Path("w.safetensors"))
