import pytest
import torch
from medgen_models.architectures import ARCHITECTURES, FamilyName, build_parts, example_inputs


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family_has_a_denoiser_and_a_repository(family: FamilyName) -> None:
    known = ARCHITECTURES[family]
    assert "denoiser" in known.parts
    assert known.hub_name.count("/") == 1
    assert {call.split(".")[0] for call in example_inputs(family)} == set(known.parts)


def test_random_weights_are_a_function_of_the_seed() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        build_parts("sd15", "cpu", torch.bfloat16, only=["vae"], seed=seed)["vae"] for seed in (1, 1, 2)
    )
    weight = "encoder.conv_in.weight"
    assert torch.equal(first.get_parameter(weight), again.get_parameter(weight))
    assert not torch.equal(first.get_parameter(weight), other.get_parameter(weight))
    assert first.get_parameter(weight).dtype == torch.bfloat16
    assert torch.equal(state, torch.random.get_rng_state())


def test_parts_are_frozen_and_in_eval_mode() -> None:
    (vae,) = build_parts("kandinsky3", only=["vae"]).values()
    assert not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    assert {parameter.device.type for parameter in vae.parameters()} == {"meta"}


def test_caches_hold_mean_and_deviation_of_latents_and_the_states_of_a_prompt() -> None:
    pixart = ARCHITECTURES["pixart"]
    assert pixart.latent_cache_bytes(512) == 4 * 2 * 4 * 64 * 64
    assert pixart.prompt_cache_bytes(120, bytes_per_value=2) == 2 * 120 * 4096
    assert ARCHITECTURES["flux"].prompt_cache_bytes(512) == 4 * (512 * 4096 + 768)
    # MoVQ is deterministic; the embedding of the image is its condition.
    assert ARCHITECTURES["kandinsky22-decoder"].latent_cache_bytes(256) == 4 * (4 * 32 * 32 + 1280)
    assert ARCHITECTURES["kandinsky22-decoder"].prompt_cache_bytes(77) == 0


@pytest.mark.parametrize(
    ("family", "size", "num_tokens", "message"),
    [
        (
            "midjourney",
            512,
            None,
            "family 'midjourney' has no published full size; expected one of pixart, sd14",
        ),
        ("pixart", 500, None, "multiple of 16 for pixart, got 500"),
        ("sd15", 512, 120, "prompts of sd15 have 77 tokens, got 120"),
    ],
)
def test_impossible_inputs_are_refused(family: str, size: int, num_tokens: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example_inputs(family, size, num_tokens=num_tokens)


def test_unknown_part_is_refused() -> None:
    with pytest.raises(
        ValueError, match="sd15 has no part 'movq'; expected some of denoiser, text_encoder, vae"
    ):
        build_parts("sd15", only=["movq"])
