import numpy as np
import pytest
import torch
from medgen_models import MsdmModel, SamplingConfig, SamplingJob, sample_images
from medgen_models.protocol import Conditioning
from medgen_models.sampling import JobNoise, guided_prediction, to_uint8
from pydantic import ValidationError

JOBS = [
    SamplingJob(prompt, seed) for seed, prompt in enumerate(["polyp", "ulcer", "polyp", "normal", "polyp"])
]


def draw(model: MsdmModel, jobs: list[SamplingJob], **settings: object) -> np.ndarray:
    config = SamplingConfig.model_validate({"num_inference_steps": 4, "batch_size": 2} | settings)
    return np.stack(list(sample_images(model, jobs, config)))


@pytest.mark.parametrize("settings", [{}, {"solver": "ddim"}, {"solver": "ddim", "eta": 1.0}])
def test_order_and_shard_do_not_change_a_byte(model: MsdmModel, settings: dict[str, object]) -> None:
    whole = draw(model, JOBS, **settings)
    assert whole.shape == (5, 16, 16, 3)
    backwards = draw(model, JOBS[::-1], **settings)
    np.testing.assert_array_equal(backwards[::-1], whole)
    for shard in range(3):
        np.testing.assert_array_equal(draw(model, JOBS[shard::3], **settings), whole[shard::3])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_changes_at_most_one_level(model: MsdmModel, batch_size: int) -> None:
    difference = draw(model, JOBS, batch_size=batch_size).astype(int) - draw(model, JOBS)
    assert np.abs(difference).max() <= 1


def test_seed_and_prompt_both_matter(model: MsdmModel) -> None:
    base, other_seed, other_prompt, again = draw(
        model,
        [SamplingJob("polyp", 0), SamplingJob("polyp", 1), SamplingJob("ulcer", 0), SamplingJob("polyp", 0)],
    )
    np.testing.assert_array_equal(base, again)
    assert (base != other_seed).any()
    assert (base != other_prompt).any()


def test_noise_of_an_image_is_its_own() -> None:
    together = JobNoise([5, 6, 7], (2, 3, 3))
    alone = JobNoise([6], (2, 3, 3))
    for _ in range(3):
        assert torch.equal(together.draw()[1:2], alone.draw())


def test_guidance_of_one_is_the_conditional_prediction(model: MsdmModel) -> None:
    conditional, unconditional = model.encode_prompts(["polyp"]), model.encode_prompts([""])
    both = Conditioning.cat([unconditional, conditional])
    latents = torch.randn(1, *model.latent_shape)
    timesteps = torch.tensor([500])
    with torch.no_grad():
        cond = model.denoise(latents, timesteps, conditional)
        uncond = model.denoise(latents, timesteps, unconditional)
        for scale, expected in ((1.0, cond), (0.0, uncond), (4.5, uncond + 4.5 * (cond - uncond))):
            guided = guided_prediction(model, latents, 500, both, scale, None)
            torch.testing.assert_close(guided, expected, rtol=1e-4, atol=1e-5)
    # MSDM writes (g + 1) cond - g uncond with g = 3.5: the same as 4.5 here.
    torch.testing.assert_close(
        4.5 * cond - 3.5 * uncond, uncond + 4.5 * (cond - uncond), rtol=1e-4, atol=1e-4
    )


def test_levels_are_rounded_and_never_wrap() -> None:
    row = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 1.01])
    images = to_uint8(row.expand(1, 3, 1, -1))
    assert images[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]


def test_eta_without_ddim_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"eta = 0\.5 has no meaning for dpm-solver"):
        SamplingConfig(eta=0.5)
