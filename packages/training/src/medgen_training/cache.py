"""What is computed once before the loop: pixels, latent moments, prompt embeddings, states inside text encoders.

Every table has a key made of the content it came from; a table with another key is built anew, never reused.

Shapes: N images, V variants of each, P unique prompts, C latent channels, H x W latent size, S image size,
L prompt tokens, T width of the text encoder.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from medgen_data import DataError, ImageDataset, decode_image, fit_square
from medgen_data.atomic import write_bytes_atomic, write_json_atomic
from medgen_data.images import FitPolicy
from medgen_models import Conditioning, LatentMoments, PromptEncoder, TextToImageModel
from medgen_models.partial_text_encoder import StatesBelow, weights_below
from medgen_models.protocol import ImageConditioned
from safetensors.torch import load_file, save
from torch import Tensor, nn

from medgen_training.augmentation import NO_JITTER, ColourJitter
from medgen_training.order import stream_generator

OnProgress = Callable[[int, int], None]


def load_pixels(
    dataset: ImageDataset,
    image_size: int,
    *,
    policy: FitPolicy = "center-crop",
    allow_upscaling: bool = True,
) -> Tensor:
    """Decode every image of a data set, made square as `policy` says, [N, 3, S, S] uint8.

    Raises:
        DataError: If the data set is empty, an image cannot be decoded, or one is smaller than `image_size` and
            that is not allowed.
    """
    if not dataset.records:
        raise DataError(f"{dataset.root}: no image to train on; expected rows with split 'train'")
    images = torch.empty(len(dataset.records), 3, image_size, image_size, dtype=torch.uint8)
    for row, record in enumerate(dataset.records):
        image = decode_image(dataset.image_file(record))
        if not allow_upscaling and min(image.shape[:2]) < image_size:
            raise DataError(
                f"{dataset.image_file(record)}: {image.shape[1]} x {image.shape[0]} px, smaller than the "
                f"{image_size} px that are trained; set train.image_size lower, or train.allow_upscaling to true"
            )
        image = fit_square(image, image_size, policy=policy)
        images[row] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return images


def to_pixel_values(images: Tensor, device: torch.device) -> Tensor:
    """Turn uint8 images [B, 3, S, S] into pixel values in [-1, 1] on a device."""
    return images.to(device, torch.float32) / 127.5 - 1


def content_sha256(tensor: Tensor) -> str:
    """Return the hash of a tensor's bytes and shape."""
    digest = hashlib.sha256(str((tuple(tensor.shape), tensor.dtype)).encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_sha256(module: nn.Module) -> str:
    """Return the hash of a module's weights, by name."""
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the hash of named tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {content_sha256(tensor.reshape(-1))}\n".encode())
    return digest.hexdigest()


def text_encoder_sha256(model: TextToImageModel) -> str:
    """Return one hash over the weights of all text encoders and the length they read; "" if there are none."""
    return _parts_sha256(model, text=True) + f"/{model.max_tokens}"


def image_encoder_sha256(model: TextToImageModel) -> str:
    """Return one hash over the weights of everything that turns images into latents or conditions."""
    return _parts_sha256(model, text=False)


def _parts_sha256(model: TextToImageModel, *, text: bool) -> str:
    hashes = [
        weights_sha256(module)
        for name, module in sorted(model.components().items())
        if name != "denoiser" and name.startswith("text_encoder") == text
    ]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@dataclass(frozen=True)
class PromptTable:
    """Unique prompts and which of them belong to which image; row 0 is the empty prompt.

    Paraphrases, where an image has some, take the place of its own prompts with a probability.
    """

    prompts: tuple[str, ...]  # P
    rows_of_image: tuple[tuple[int, ...], ...]  # N
    paraphrase_rows_of_image: tuple[tuple[int, ...], ...] = ()  # N, or none at all
    paraphrase_probability: float = 0.0

    def draw_rows(self, images: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
        """Draw one prompt row per image [B], the empty prompt with probability `dropout`."""
        choices = torch.rand(2, len(images), generator=generator, dtype=torch.float64)
        rows = []
        for image, choice, drop in zip(
            images.tolist(), choices[0].tolist(), choices[1].tolist(), strict=True
        ):
            rows.append(0 if drop < dropout else self._row(image, choice))
        return torch.tensor(rows)

    def with_images(self, texts: Sequence[Sequence[str]]) -> "PromptTable":
        """Return a table with more images behind those here, which have these texts and no paraphrases."""
        row_of_prompt = {prompt: row for row, prompt in enumerate(self.prompts)}
        more = tuple(
            tuple(row_of_prompt.setdefault(text, len(row_of_prompt)) for text in dict.fromkeys(some))
            for some in texts
        )
        none = ((),) * len(more) if self.paraphrase_rows_of_image else ()
        return replace(
            self,
            prompts=tuple(row_of_prompt),
            rows_of_image=self.rows_of_image + more,
            paraphrase_rows_of_image=self.paraphrase_rows_of_image + none,
        )

    def _row(self, image: int, choice: float) -> int:
        """Return the row that a uniform number in [0, 1) chooses; one number decides both questions."""
        candidates, probability = self.rows_of_image[image], self.paraphrase_probability
        if self.paraphrase_rows_of_image and self.paraphrase_rows_of_image[image]:
            if choice < probability:
                candidates, choice = self.paraphrase_rows_of_image[image], choice / probability
            else:
                choice = (choice - probability) / (1 - probability)
        return candidates[min(int(choice * len(candidates)), len(candidates) - 1)]


def build_prompt_table(dataset: ImageDataset, texts: Mapping[str, Sequence[str]]) -> PromptTable:
    """Collect the unique prompts of a data set.

    Raises:
        DataError: If an image has no text; the message names the first ones.
    """
    missing = [record.record_id for record in dataset.records if not texts.get(record.record_id)]
    if missing:
        raise DataError(
            f"{dataset.root}: {len(missing)} of {len(dataset.records)} images have no caption "
            f"(first: {', '.join(missing[:3])}); run `medgen caption`, or add a field 'text' to metadata.jsonl"
        )
    row_of_prompt = {"": 0}
    rows_of_image = []
    for record in dataset.records:
        unique = dict.fromkeys(texts[record.record_id])
        rows_of_image.append(tuple(row_of_prompt.setdefault(text, len(row_of_prompt)) for text in unique))
    return PromptTable(tuple(row_of_prompt), tuple(rows_of_image))


@dataclass(frozen=True)
class LatentVariants:
    """How many jittered variants of each image are encoded; variant 0 is the image as it is."""

    num_variants: int = 1
    jitter: ColourJitter = NO_JITTER
    seed: int = 0


def latent_moments(
    model: TextToImageModel,
    images: Tensor,
    variants: LatentVariants,
    cache_dir: Path,
    *,
    vae_sha256: str,
    on_progress: OnProgress | None = None,
    batch_size: int = 32,
) -> LatentMoments:
    """Return the moments of all images, mean and std each [V, N, C, H, W], from the cache where it fits."""
    key = {
        "images": content_sha256(images),
        "autoencoder": vae_sha256,
        "num_variants": variants.num_variants,
        **asdict(variants.jitter),
        "seed": variants.seed,
    }
    cached = _read_table(cache_dir, "latents", key)
    if cached is not None:
        return LatentMoments(cached["mean"], cached["std"])
    shape = (variants.num_variants, len(images), *model.latent_shape)
    mean, std = torch.empty(shape), torch.empty(shape)
    for variant in range(variants.num_variants):
        for start in range(0, len(images), batch_size):
            rows = slice(start, min(start + batch_size, len(images)))
            pixel_values = to_pixel_values(images[rows], model.device)
            if variant:
                generator = stream_generator(variants.seed, "variant", variant, start)
                pixel_values = variants.jitter(pixel_values, generator)
            with torch.no_grad():
                moments = model.encode_images(pixel_values)
            mean[variant, rows], std[variant, rows] = moments.mean.cpu(), moments.std.cpu()
            if on_progress is not None:
                on_progress(variant * len(images) + rows.stop, variants.num_variants * len(images))
    _write_table(cache_dir, "latents", key, {"mean": mean, "std": std})
    return LatentMoments(mean, std)


def prompt_embeddings(
    model: TextToImageModel, prompts: Sequence[str], cache_dir: Path, *, text_encoder_sha256: str
) -> Conditioning:
    """Return the encoded prompts, [P, L, T] and [P, L], from the cache where it fits."""
    listed = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
    key = {"prompts": listed, "text_encoder": text_encoder_sha256}
    cached = _read_table(cache_dir, "prompts", key)
    if cached is not None:
        return Conditioning(**cached)
    with torch.no_grad():
        encoded = model.encode_prompts(prompts).to(torch.device("cpu"))
    _write_table(cache_dir, "prompts", key, encoded.tensors())
    return encoded


def recalled_states(
    encoders: Mapping[str, PromptEncoder],
    prompts: Sequence[str],
    num_blocks: Mapping[str, int],
    cache_dir: Path,
) -> dict[str, StatesBelow]:
    """Return what enters the last blocks of text encoders, by part name, from the cache where it fits.

    Args:
        encoders: Text encoders by part name, with or without adapters in their last blocks.
        prompts: Unique prompts.
        num_blocks: How many of the last blocks of each run at every step.
        cache_dir: Where the table lies.
    """
    tokens = {part: encoder.tokenize(prompts) for part, encoder in encoders.items()}
    key = {
        part: {
            "tokens": [content_sha256(tensor) for tensor in tokens[part]],
            "weights": tensors_sha256(weights_below(encoder.text_model, num_blocks[part])),
            "sees_padding": not encoder.uses_mask,
            "num_blocks": num_blocks[part],
        }
        for part, encoder in encoders.items()
    }
    states = _read_table(cache_dir, "text_states", key)
    if states is None:
        states = {
            part: encoder.states_below(*tokens[part], num_blocks[part]) for part, encoder in encoders.items()
        }
        _write_table(cache_dir, "text_states", key, states)
    rows = {prompt: row for row, prompt in enumerate(prompts)}
    return {part: StatesBelow(num_blocks[part], rows, *tokens[part], states[part]) for part in encoders}


def image_conditions(
    model: ImageConditioned,
    images: Tensor,
    cache_dir: Path,
    *,
    image_encoder_sha256: str,
    device: torch.device,
    batch_size: int = 32,
) -> Conditioning:
    """Return the conditions that images [N, 3, S, S] give, N rows, from the cache where it fits."""
    key = {"images": content_sha256(images), "image_encoder": image_encoder_sha256}
    cached = _read_table(cache_dir, "image_conditions", key)
    if cached is not None:
        return Conditioning(**cached)
    with torch.no_grad():
        parts = [
            model.encode_image_conditioning(to_pixel_values(some, device)).to(torch.device("cpu"))
            for some in images.split(batch_size)
        ]
    encoded = Conditioning.cat(parts)
    _write_table(cache_dir, "image_conditions", key, encoded.tensors())
    return encoded


def _read_table(cache_dir: Path, name: str, key: Mapping[str, object]) -> dict[str, Tensor] | None:
    """Return a cached table, or None when there is none with this key and an intact file."""
    key_file, tensor_file = cache_dir / f"{name}.json", cache_dir / f"{name}.safetensors"
    if not (key_file.is_file() and tensor_file.is_file()):
        return None
    recorded = json.loads(key_file.read_text(encoding="utf-8"))
    if recorded.get("key") != dict(key):
        return None
    if recorded.get("sha256") != hashlib.sha256(tensor_file.read_bytes()).hexdigest():
        return None  # damaged, or killed between the two writes: computed again
    return load_file(tensor_file)


def _write_table(cache_dir: Path, name: str, key: Mapping[str, object], tensors: dict[str, Tensor]) -> None:
    content = save({tensor_name: tensor.contiguous() for tensor_name, tensor in tensors.items()})
    write_bytes_atomic(cache_dir / f"{name}.safetensors", content)
    recorded = {"key": dict(key), "sha256": hashlib.sha256(content).hexdigest()}
    write_json_atomic(cache_dir / f"{name}.json", recorded)
