from collections.abc import Callable
from typing import Any

import pytest
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.targets import PRESETS, find_targets, last_blocks, matches, preset
from torch import nn


def test_a_suffix_is_cut_at_a_dot() -> None:
    assert matches("blocks.0.to_q", "to_q")
    assert matches("to_q", "to_q")
    assert matches("blocks.0.to_out.0", "to_out.0")
    assert not matches("blocks.0.not_to_q", "to_q")
    assert not matches("blocks.0.to_q.base", "to_q")


def test_every_preset_finds_its_layers(miniature: Any) -> None:
    for targets in PRESETS[miniature.family]["denoiser"].values():
        layers, unmatched = find_targets(miniature.module, targets.suffixes, absent=targets.absent)
        assert set(unmatched) == set(targets.absent)
        assert all(any(matches(name, suffix) for suffix in targets.suffixes) for name in layers)


@pytest.mark.parametrize(
    ("name", "num_modules"), [("authors", 2 * 10 + 7), ("paper", 2 * 10), ("attention", 2 * 8)]
)
def test_pixart_presets_adapt_ten_or_eight_layers_a_block(
    new_miniature: Callable[..., Any], name: str, num_modules: int
) -> None:
    targets = preset("pixart", "denoiser", name)
    layers, _ = find_targets(new_miniature("pixart").module, targets.suffixes, absent=targets.absent)
    assert len(layers) == num_modules  # with 28 blocks: 287, 280, 224


def test_flux_preset_adapts_twelve_layers_a_double_block_and_three_a_single_one(
    new_miniature: Callable[..., Any],
) -> None:
    layers, _ = find_targets(new_miniature("flux").module, preset("flux", "denoiser", "authors").suffixes)
    assert len(layers) == 12 + 2 * 3  # with 19 and 38 blocks: 342


@pytest.mark.parametrize(
    ("name", "num_modules"), [("authors", 2 * 5), ("paper", 2 * 7), ("attention", 2 * 4)]
)
def test_t5_presets_on_the_gated_encoder(
    new_t5: Callable[..., nn.Module], name: str, num_modules: int
) -> None:
    targets = preset("pixart", "text_encoder", name)
    layers, unmatched = find_targets(new_t5(gated=True), targets.suffixes, absent=targets.absent)
    assert len(layers) == num_modules  # with 24 blocks, `authors`: 120
    assert unmatched == (("wi",) if name == "authors" else ())


def test_wi_of_the_authors_matches_the_ungated_t5(new_t5: Callable[..., nn.Module]) -> None:
    targets = preset("pixart", "text_encoder", "authors")
    layers, unmatched = find_targets(new_t5(gated=False), targets.suffixes, absent=targets.absent)
    assert (len(layers), unmatched) == (2 * 6, ())


@pytest.mark.parametrize("with_projection", [False, True])
def test_clip_preset_adapts_four_layers_a_block(
    new_clip: Callable[..., nn.Module], with_projection: bool
) -> None:
    layers, _ = find_targets(
        new_clip(with_projection=with_projection), preset("sdxl", "text_encoder", "attention").suffixes
    )
    assert len(layers) == 2 * 4


def test_last_blocks_of_text_encoders_are_counted_from_the_end(
    new_t5: Callable[..., nn.Module], new_clip: Callable[..., nn.Module]
) -> None:
    encoders = (new_t5(gated=True), new_clip(with_projection=False), new_clip(with_projection=True))
    for text_encoder in encoders:
        assert last_blocks(text_encoder, 1) == [1]
        assert last_blocks(text_encoder, 2) == [0, 1]
        with pytest.raises(
            AdapterError, match=r"last 3 blocks of .* it has 2; set adapter.text_encoder_blocks"
        ):
            last_blocks(text_encoder, 3)
    layers, _ = find_targets(encoders[0], ("q", "wo"), blocks=[1])
    assert list(layers) == [
        "encoder.block.1.layer.0.SelfAttention.q",
        "encoder.block.1.layer.1.DenseReluDense.wo",
    ]


def test_target_that_matches_nothing_names_the_nearest(new_miniature: Callable[..., Any]) -> None:
    with pytest.raises(
        AdapterError, match=r"'to_qq' matches no module of UNet2DConditionModel.*nearest.* to_q"
    ):
        find_targets(new_miniature("sd").module, ("to_k", "to_qq"))
    with pytest.raises(AdapterError, match=r"'ff.net.3' matches no module of .*nearest.* ff.net.2"):
        find_targets(new_miniature("pixart").module, ("ff.net.3",))


def test_preset_of_another_model_is_refused(new_t5: Callable[..., nn.Module]) -> None:
    with pytest.raises(AdapterError, match=r"'to_k' matches no module of T5EncoderModel"):
        find_targets(new_t5(gated=True), preset("sd", "denoiser", "attention").suffixes)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("attn1", r"'attn1' names .*attn1 of PixArt.*, a Attention; .* such as .*attn1.to_q"),
        ("ff.net.1", r"'ff.net.1' names .*, a Dropout; .* such as ff.net.2"),
    ],
)
def test_target_that_is_no_layer_is_refused(
    new_miniature: Callable[..., Any], target: str, message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        find_targets(new_miniature("pixart").module, (target,))


def test_unknown_parts_and_families_are_named() -> None:
    with pytest.raises(
        AdapterError, match=r"hunyuan-dit has no adapter on 'text_encoder'; its parts are denoiser"
    ):
        preset("hunyuan-dit", "text_encoder", "attention")
    with pytest.raises(AdapterError, match=r"unknown family 'sd3': adapters are known for pixart, sd"):
        preset("sd3", "denoiser", "attention")  # type: ignore[arg-type]
