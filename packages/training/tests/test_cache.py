import json
from pathlib import Path

import pytest
import torch
from medgen_data import DataError, ImageDataset
from medgen_models.tiny import tiny_msdm
from medgen_training.augmentation import ColourJitter
from medgen_training.batches import CachedBatches, LiveBatches
from medgen_training.cache import (
    LatentVariants,
    build_prompt_table,
    latent_moments,
    load_pixels,
    prompt_embeddings,
    to_pixel_values,
    weights_sha256,
)


def test_cached_moments_equal_encoding_and_are_read_back(phantoms: ImageDataset, tmp_path: Path) -> None:
    model = tiny_msdm()
    images = load_pixels(phantoms, 16)[:6]
    sha256 = weights_sha256(model.vae)
    with torch.no_grad():
        direct = model.encode_images(to_pixel_values(images, torch.device("cpu")))
    first = latent_moments(model, images, LatentVariants(), tmp_path, vae_sha256=sha256)
    torch.testing.assert_close(first.mean[0], direct.mean)
    (tmp_path / "latents.safetensors").touch()
    written = (tmp_path / "latents.safetensors").stat().st_mtime_ns
    second = latent_moments(model, images, LatentVariants(), tmp_path, vae_sha256=sha256)
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.std, second.std)
    assert (tmp_path / "latents.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("change", ["pixels", "weights", "variants", "damage"])
def test_a_cache_of_something_else_is_never_used(phantoms: ImageDataset, tmp_path: Path, change: str) -> None:
    model, other = tiny_msdm(0), tiny_msdm(1)
    images = load_pixels(phantoms, 16)[:4]
    variants = LatentVariants()
    latent_moments(model, images, variants, tmp_path, vae_sha256=weights_sha256(model.vae))
    recorded = json.loads((tmp_path / "latents.json").read_text())
    match change:
        case "pixels":
            images = 255 - images
        case "weights":
            model = other
        case "variants":
            variants = LatentVariants(2, ColourJitter(0.3))
        case "damage":
            file = tmp_path / "latents.safetensors"
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
    moments = latent_moments(model, images, variants, tmp_path, vae_sha256=weights_sha256(model.vae))
    with torch.no_grad():
        direct = model.encode_images(to_pixel_values(images, torch.device("cpu")))
    torch.testing.assert_close(moments.mean[0], direct.mean)
    now = json.loads((tmp_path / "latents.json").read_text())
    assert (now == recorded) == (change == "damage")


def test_variants_jitter_all_but_the_first(phantoms: ImageDataset, tmp_path: Path) -> None:
    model = tiny_msdm()
    images = load_pixels(phantoms, 16)[:3]
    variants = LatentVariants(3, ColourJitter(0.4, 0.4, 0.4), seed=1)
    moments = latent_moments(model, images, variants, tmp_path, vae_sha256="-")
    assert moments.mean.shape == (3, 3, 4, 4, 4)
    assert not torch.allclose(moments.mean[0], moments.mean[1])
    assert not torch.allclose(moments.mean[1], moments.mean[2])


def test_cached_and_live_batches_agree(
    phantoms: ImageDataset, texts: dict[str, tuple[str, ...]], tmp_path: Path
) -> None:
    model = tiny_msdm()
    images = load_pixels(phantoms, 16)
    table = build_prompt_table(phantoms, texts)
    moments = latent_moments(model, images, LatentVariants(), tmp_path, vae_sha256="-")
    conditioning = prompt_embeddings(model, table.prompts, tmp_path, text_encoder_sha256="-")
    rows, prompt_rows = torch.tensor([5, 0, 9]), torch.tensor([1, 0, 3])
    cached = CachedBatches(moments, conditioning, torch.device("cpu"))
    _, cached_prompts = cached(rows, prompt_rows, torch.Generator())
    _, live_prompts = LiveBatches(model, images, table.prompts)(rows, prompt_rows, torch.Generator())
    torch.testing.assert_close(cached_prompts.prompt_embeds, live_prompts.prompt_embeds)
    assert torch.equal(cached_prompts.prompt_mask, live_prompts.prompt_mask)
    draws = torch.stack([cached(rows, prompt_rows, torch.Generator().manual_seed(s))[0] for s in range(2000)])
    # 2,000 draws: the standard error of the mean is 2% of a standard deviation.
    standardised = (draws.mean(dim=0) - moments.mean[0, rows]) / moments.std[0, rows]
    assert float(standardised.abs().max()) < 0.1


def test_prompts_are_drawn_from_the_image_and_dropped_as_often_as_asked(
    phantoms: ImageDataset, texts: dict[str, tuple[str, ...]]
) -> None:
    table = build_prompt_table(phantoms, texts)
    assert table.prompts[0] == ""
    images = torch.zeros(4000, dtype=torch.long)
    rows = table.draw_rows(images, 0.2, torch.Generator().manual_seed(0))
    dropped = float((rows == 0).float().mean())
    assert dropped == pytest.approx(0.2, abs=0.03)
    own = set(texts[phantoms.records[0].record_id])
    assert {table.prompts[row] for row in set(rows.tolist()) - {0}} == own


def test_an_image_without_caption_is_named(phantoms: ImageDataset, texts: dict[str, tuple[str, ...]]) -> None:
    first = phantoms.records[0].record_id
    with pytest.raises(
        DataError, match=rf"1 of 24 images have no caption \(first: {first}\); run `medgen caption`"
    ):
        build_prompt_table(phantoms, {**texts, first: ()})
