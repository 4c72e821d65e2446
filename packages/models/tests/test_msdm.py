import pytest
import torch
from medgen_models import PRESETS, MsdmAutoencoder, MsdmModel, MsdmUNet, new_msdm
from medgen_models.msdm.blocks import ResidualBlock, TextBlock, timestep_embedding
from medgen_models.tiny import TINY_MSDM, tiny_prompt_encoder
from torch import nn


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_those_of_the_papers() -> None:
    preset = PRESETS["msdm-256"]
    with torch.device("meta"):
        unet, vae = preset.build_unet(text_dim=768), preset.build_autoencoder()
        self_conditioned = MsdmUNet(self_conditioning=True)
    assert num_parameters(unet) == 326_508_296
    assert num_parameters(vae) == 13_365_094
    assert num_parameters(unet) + num_parameters(vae) + 123_060_480 == 462_933_870  # with CLIP ViT-L/14
    assert num_parameters(self_conditioned) == 326_526_728
    assert (preset.latent_channels, preset.latent_size) == (8, 32)


def test_every_block_reads_the_prompt_and_none_attends_in_space() -> None:
    with torch.device("meta"):
        unet = PRESETS["msdm-256"].build_unet(text_dim=768)
    text_blocks = [m for m in unet.modules() if isinstance(m, TextBlock)]
    residual_blocks = [m for m in unet.modules() if isinstance(m, ResidualBlock)]
    assert len(text_blocks) == 3 * 2 + 1 + 3 * 3
    assert len(residual_blocks) == len(text_blocks) + 1  # the middle has a second residual block
    for block in text_blocks:
        assert block.attention.to_k.in_features == 1024  # the context, never the features themselves


def test_fresh_model_predicts_zero_and_decodes_grey() -> None:
    model = new_msdm(TINY_MSDM, tiny_prompt_encoder(), seed=0)
    conditioning = model.encode_prompts(["a polyp"])
    latents = torch.randn(1, 4, 4, 4)
    assert not model.denoise(latents, torch.tensor([10]), conditioning).any()
    assert not model.decode_latents(latents).any()


def test_same_seed_builds_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = (new_msdm(TINY_MSDM, tiny_prompt_encoder(), seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.denoiser.parameters(), second.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.denoiser.conv_in.weight, other.denoiser.conv_in.weight)


def test_shapes_of_the_miniature(model: MsdmModel) -> None:
    pixel_values = torch.rand(2, 3, 16, 16) * 2 - 1
    moments = model.encode_images(pixel_values)
    assert moments.mean.shape == moments.std.shape == (2, *model.latent_shape) == (2, 4, 4, 4)
    reconstruction = model.vae.reconstruct(moments.mean)
    assert reconstruction.pixel_values.shape == (2, 3, 16, 16)
    assert reconstruction.half_size.shape == (2, 3, 8, 8)


def test_latent_statistics_normalise_and_cancel(model: MsdmModel) -> None:
    pixel_values = torch.rand(3, 3, 16, 16) * 2 - 1
    raw = model.encode_images(pixel_values)
    image = model.decode_latents(raw.mean)
    model.vae.register_to_config(latents_mean=(1.0, 2.0, 3.0, 4.0), latents_std=(0.5, 1.0, 2.0, 4.0))
    normalised = model.encode_images(pixel_values)
    mean, std = torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1), torch.tensor([0.5, 1, 2, 4]).view(-1, 1, 1)
    torch.testing.assert_close(normalised.mean, (raw.mean - mean) / std)
    torch.testing.assert_close(normalised.std, raw.std / std)
    torch.testing.assert_close(model.decode_latents(normalised.mean), image, rtol=1e-4, atol=1e-5)


def test_autoencoder_refuses_a_size_it_cannot_halve() -> None:
    with pytest.raises(ValueError, match=r"multiples of 4, got \(18, 16\)"):
        TINY_MSDM.build_autoencoder().encode(torch.zeros(1, 3, 18, 16))


def test_padding_tokens_do_not_reach_the_attention(model: MsdmModel) -> None:
    conditioning = model.encode_prompts(["polyp"])
    latents, timesteps = torch.randn(1, 4, 4, 4), torch.tensor([500])
    blocks = [m for m in model.denoiser.modules() if isinstance(m, TextBlock)]
    bias = (~conditioning.prompt_mask[:, None, None, :]).float() * -1e4
    context = torch.randn(1, 16, 32)
    corrupted = torch.where(conditioning.prompt_mask[..., None], context, torch.full_like(context, 50.0))
    queries = torch.randn(1, 4, 16)
    torch.testing.assert_close(
        blocks[0].attention(queries, context, bias), blocks[0].attention(queries, corrupted, bias)
    )
    changed = model.encode_prompts(["ulcer"])
    before, after = (model.denoise(latents, timesteps, c) for c in (conditioning, changed))
    assert not torch.allclose(before, after)


def test_self_conditioning_reads_the_estimate_and_none_means_zeros() -> None:
    torch.manual_seed(0)
    unet = MsdmUNet(
        latent_channels=4, channels=(16,), embed_dim=32, text_dim=8, num_heads=2, num_groups=4,
        self_conditioning=True, time_dim=8,
    ).eval()  # fmt: skip
    nn.init.normal_(unet.conv_out.weight)
    latents, timesteps = torch.randn(1, 4, 4, 4), torch.tensor([7])
    embeds, mask = torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool)
    first = unet(latents, timesteps, embeds, mask)
    torch.testing.assert_close(first, unet(latents, timesteps, embeds, mask, torch.zeros_like(latents)))
    assert not torch.allclose(first, unet(latents, timesteps, embeds, mask, latents))


def test_timestep_embedding_has_the_published_form() -> None:
    embedding = timestep_embedding(torch.tensor([0, 3]), 8)
    frequencies = torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3), 1e-4])
    torch.testing.assert_close(embedding[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(embedding[1], torch.cat([(3 * frequencies).sin(), (3 * frequencies).cos()]))


def test_gradients_reach_every_weight(model: MsdmModel) -> None:
    conditioning = model.encode_prompts(["a", "b"])
    out = model.denoise(torch.randn(2, 4, 4, 4), torch.tensor([1, 900]), conditioning)
    out.square().sum().backward()
    assert [n for n, p in model.denoiser.named_parameters() if p.grad is None or not p.grad.any()] == []
    autoencoder: MsdmAutoencoder = model.vae
    reconstruction, moments = autoencoder(torch.rand(2, 3, 16, 16), torch.randn(2, 4, 4, 4))
    total = reconstruction.pixel_values.square().sum() + reconstruction.half_size.square().sum()
    (total + moments.std.sum()).backward()
    assert [n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.any()] == []
