"""Does the colour loss do what it is for? A controlled experiment on phantoms.

    OMP_NUM_THREADS=2 uv run python benchmarks/colour_experiment.py [--quick] [--out FOLDER]

A small MSDM learns phantoms whose saturation was raised. It is then adapted with LoRA to the true phantoms, with
and without the colour loss through the sampler (Med-Art, eq. 4 and 5), from the same start, on the same batches,
with three seeds. The prompts of unseen phantoms are drawn with the paper's guidance of 4.5, which pushes colours
out by itself, and compared with those phantoms:

colour error        mean over channels of |E mean(synthetic) - E mean(real)| and of the same of deviations, in
                    percent of full scale
Frechet distance    on EfficientNet-Lite0 where its weights are installed, and on a random network

Prints a table and writes `colour.svg` (the table as a picture) and `colour.png` (images; rows: real, before,
adapted without, adapted with) into the folder.
"""

import argparse
import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medgen_data.images import encode_png
from medgen_data.phantoms import draw_facts, phantom_seed, phantom_texts, render_phantom
from medgen_metrics.colour import colour_statistics, compare_colours
from medgen_metrics.features.loading import load_extractor
from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.frechet import frechet_distance
from medgen_models import Conditioning, Diffusion, MsdmModel, MsdmPreset, load_prompt_encoder, new_msdm
from medgen_models.adapters.config import AdapterConfig
from medgen_models.adapters.wiring import adapter_parameters, add_adapters
from medgen_models.msdm.linear_start import start_at_principal_components
from medgen_models.sampling import JobNoise, SamplingConfig, sample_latents, to_uint8
from medgen_training.cache import to_pixel_values
from medgen_training.colour_statistics import ColourStatistics, colour_table
from medgen_training.hldf import HldfConfig, add_gradients, fires, hldf_gradients
from medgen_training.losses import prediction_loss
from torch import Tensor, nn

SIZE = 32
SATURATION = 1.8  # distance from grey of the images that the model learns first
PROMPT_DROPOUT = 0.15
SEEDS = (0, 1, 2)
GOAL = 2.0  # colour error without the loss to that with it
CPU = torch.device("cpu")
PRESET = MsdmPreset(
    image_size=SIZE,
    autoencoder_channels=(16, 32, 48),  # 48 = 3 x 4 x 4: the autoencoder starts at principal components
    latent_channels=12,
    autoencoder_groups=8,
    unet_channels=(64, 128),
    blocks_per_level=1,
    embed_dim=128,
    num_heads=4,
    unet_groups=8,
    dropout=0.0,
    time_dim=64,
    max_tokens=24,
    upsampling="pixel-shuffle",
    prompt_scale=4.0,
    standardise_prompts=True,
    diffusion=Diffusion(prediction_type="v"),
)


@dataclass(frozen=True)
class Effort:
    """How much of everything."""

    num_images: int = 512
    num_unseen: int = 192
    learning_steps: int = 1000
    adaptation_steps: int = 200
    every_steps: int = 5  # N


@dataclass(frozen=True)
class Scores:
    """What one set of samples is worth; lower is better."""

    colour_error: float  # % of full scale
    frechet: dict[str, float]


@dataclass(frozen=True)
class Phantoms:
    """Pictures with one prompt each, encoded; row 0 of `encoded` is the empty prompt."""

    images: Tensor  # [N, 3, S, S] uint8
    encoded: Conditioning  # 1 + N


def draw_phantoms(first: int, count: int, model: MsdmModel) -> Phantoms:
    """Render phantoms of some indices and encode their first text."""
    facts = [draw_facts(index, 0) for index in range(first, first + count)]
    pictures = [
        render_phantom(fact, size=SIZE, seed=phantom_seed(first + row, 0)) for row, fact in enumerate(facts)
    ]
    with torch.no_grad():
        encoded = model.encode_prompts(["", *(phantom_texts(fact)[0] for fact in facts)])
    return Phantoms(torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2).copy()), encoded)


def saturated(images: Tensor) -> Tensor:
    """Move the colours of images [N, 3, S, S] uint8 away from grey."""
    floats = images.float()
    grey = floats.mean(dim=1, keepdim=True)
    return (grey + SATURATION * (floats - grey)).round().clamp(0, 255).to(torch.uint8)


def encode_images(model: MsdmModel, images: Tensor) -> Tensor:
    """Return the latents of images, without noise, [N, C, H, W]."""
    with torch.no_grad():
        return model.encode_images(to_pixel_values(images, CPU)).mean


def train(
    model: MsdmModel,
    phantoms: Phantoms,
    latents: Tensor,
    parameters: list[nn.Parameter],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    hldf: HldfConfig | None = None,
) -> None:
    """Train on latents [N, C, H, W], with the colour loss against the images of `phantoms` if there is one."""
    generator, colour_generator = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    colours = colour_table(phantoms.images)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        rows = torch.randint(len(latents), (batch_size,), generator=generator)
        dropped = torch.rand(batch_size, generator=generator) < PROMPT_DROPOUT
        conditioning = phantoms.encoded[torch.where(dropped, 0, rows + 1)]
        noise = torch.randn(latents[rows].shape, generator=generator)
        timesteps = model.diffusion.draw_timesteps(batch_size, generator)
        noisy_latents = model.diffusion.add_noise(latents[rows], noise, timesteps)
        model_pred = model.denoise(noisy_latents, timesteps, conditioning)
        target = model.diffusion.target(latents[rows], noise, timesteps)
        torch.autograd.backward(prediction_loss(model_pred, target, "l2").mean())
        if hldf is not None and fires(step, hldf):
            add_colour_gradients(model, phantoms, colours, rows[:4], parameters, hldf, colour_generator)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def add_colour_gradients(
    model: MsdmModel,
    phantoms: Phantoms,
    colours: ColourStatistics,
    rows: Tensor,
    parameters: list[nn.Parameter],
    hldf: HldfConfig,
    generator: torch.Generator,
) -> None:
    """Draw the prompts of some images and add the gradient of their colour loss."""
    noise = torch.randn(len(rows), *model.latent_shape, generator=generator)
    unconditional = phantoms.encoded[[0] * len(rows)]
    result = hldf_gradients(
        model, phantoms.encoded[rows + 1], unconditional, colours[rows], noise, hldf, parameters
    )
    add_gradients(parameters, result.gradients)


@torch.no_grad()
def draw_samples(model: MsdmModel, phantoms: Phantoms, hldf: HldfConfig) -> Tensor:
    """Draw one image per prompt, [N, 3, S, S] uint8; the noise of an image is that of its row."""
    config = SamplingConfig(num_inference_steps=hldf.num_inference_steps, guidance_scale=hldf.guidance_scale)
    images = []
    for rows in torch.split(torch.arange(len(phantoms.images)), 64):
        noise = JobNoise([10_000 + int(row) for row in rows], model.latent_shape)
        latents = sample_latents(
            model, noise, phantoms.encoded[rows + 1], phantoms.encoded[[0] * len(rows)], config
        )
        images.append(torch.from_numpy(to_uint8(model.decode_latents(latents)).transpose(0, 3, 1, 2).copy()))
    return torch.cat(images)


def load_extractors() -> dict[str, Any]:
    """Load what is here."""
    extractors: dict[str, Any] = {"random": load_extractor("random:0")}
    try:
        return {"efficientnet": load_extractor("efficientnet-lite0"), **extractors}
    except MissingWeightsError as error:
        print(f"without EfficientNet: {error}")
        return extractors


def score(real: Tensor, synthetic: Tensor, extractors: dict[str, Any]) -> Scores:
    """Compare two sets of images [N, 3, S, S] uint8."""
    comparison = compare_colours(colour_statistics(real), colour_statistics(synthetic), seed=0)
    errors = [*comparison.mean_error.values(), *comparison.deviation_error.values()]
    features = {
        name: [
            torch.cat([extract(batch) for batch in torch.split(images, 64)]) for images in (real, synthetic)
        ]
        for name, extract in extractors.items()
    }
    distances = {name: frechet_distance(*pair) for name, pair in features.items()}
    return Scores(100 * float(np.mean([abs(error.value) for error in errors])), distances)


def run(effort: Effort, hldf: HldfConfig, out: Path) -> dict[str, list[Scores]]:
    """Do the experiment; return the scores of every row of the table, one per seed."""
    start = time.perf_counter()
    base = new_msdm(PRESET, load_prompt_encoder("minilm", max_tokens=PRESET.max_tokens), seed=0)
    seen = draw_phantoms(0, effort.num_images, base)
    unseen = draw_phantoms(effort.num_images, effort.num_unseen, base)
    start_at_principal_components(
        base.vae,
        torch.cat([to_pixel_values(each, CPU) for each in (seen.images, saturated(seen.images))]),
        torch.Generator().manual_seed(0),
    )
    base.denoiser.fit_prompt_statistics(seen.encoded.prompt_embeds, seen.encoded.prompt_mask)
    base.vae.requires_grad_(False)
    train(
        base,
        seen,
        encode_images(base, saturated(seen.images)),
        list(base.denoiser.parameters()),
        steps=effort.learning_steps,
        batch_size=32,
        learning_rate=2e-3,
        seed=100,
    )
    print(f"learned saturated phantoms in {time.perf_counter() - start:.0f} s", flush=True)
    extractors = load_extractors()
    before = draw_samples(base, unseen, hldf)
    other = seen.images[: effort.num_unseen]
    table = {
        "other real phantoms": [score(unseen.images, other, extractors)],
        "before adaptation": [score(unseen.images, before, extractors)],
        "adapted without": [],
        "adapted with": [],
    }
    latents = encode_images(base, seen.images)
    sheet = [unseen.images[:12], before[:12]]
    for seed in SEEDS:
        for row, setting in (("adapted without", None), ("adapted with", hldf)):
            model = copy.deepcopy(base)
            adapter = AdapterConfig(rank=8, targets="feed-forward")
            add_adapters({"denoiser": model.denoiser}, adapter, family="msdm", seed=seed)
            train(
                model,
                seen,
                latents,
                adapter_parameters(model.denoiser),
                steps=effort.adaptation_steps,
                batch_size=16,
                learning_rate=2e-3,
                seed=seed,
                hldf=setting,
            )
            samples = draw_samples(model, unseen, hldf)
            table[row].append(score(unseen.images, samples, extractors))
            print(
                f"{row}, seed {seed}: {table[row][-1]} after {time.perf_counter() - start:.0f} s", flush=True
            )
            if seed == SEEDS[0]:
                sheet.append(samples[:12])
    out.mkdir(parents=True, exist_ok=True)
    rows = [torch.cat(list(images), dim=2) for images in sheet]
    (out / "colour.png").write_bytes(encode_png(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()))
    return table


def columns_of(table: dict[str, list[Scores]]) -> dict[str, dict[str, list[float]]]:
    """Turn the scores to columns: title of the column, row, values by seed."""
    columns = {"colour error, %": {row: [each.colour_error for each in table[row]] for row in table}}
    for name in next(iter(table.values()))[0].frechet:
        columns[f"Frechet, {name}"] = {row: [each.frechet[name] for each in table[row]] for row in table}
    return columns


def print_table(table: dict[str, list[Scores]]) -> None:
    """Print mean and range over seeds, and the ratios."""
    columns = columns_of(table)
    print(f"{'':22}" + "".join(f"{title:>30}" for title in columns))
    for row in table:
        cells = [
            f"{np.mean(values[row]):.3g} ({min(values[row]):.3g} to {max(values[row]):.3g})"
            for values in columns.values()
        ]
        print(f"{row:22}" + "".join(f"{cell:>30}" for cell in cells))
    for title, values in columns.items():
        ratio = np.mean(values["adapted without"]) / np.mean(values["adapted with"])
        goal = GOAL if title.startswith("colour") else 1
        print(f"{title}: without / with = {ratio:.2f} (goal {goal:g})")


def write_plot(table: dict[str, list[Scores]], plot_file: Path) -> None:
    """Draw one panel per column: a bar for the mean of each row, a dot for each seed."""
    width, height, colours = 250, 220, ("#9aa0a6", "#c5221f", "#f29900", "#188038")
    columns = columns_of(table)
    parts = []
    for panel, (title, values) in enumerate(columns.items()):
        left, top = 40 + panel * width, max(max(each) for each in values.values())
        parts.append(f'<text x="{left}" y="20" font-weight="bold">{title}</text>')
        for place, (row, numbers) in enumerate(values.items()):
            x, mean = left + 50 * place, float(np.mean(numbers))
            bar = 150 * mean / top
            parts.append(
                f'<rect x="{x}" y="{190 - bar:.1f}" width="36" height="{bar:.1f}" fill="{colours[place]}"/>'
                f'<text x="{x + 18}" y="205" text-anchor="middle">{mean:.3g}</text>'
            )
            parts += [
                f'<circle cx="{x + 18}" cy="{190 - 150 * number / top:.1f}" r="3" fill="black"/>'
                for number in numbers
                if len(numbers) > 1
            ]
            if panel == 0:
                parts.append(
                    f'<rect x="{40 + 190 * place}" y="{height + 6}" width="10" height="10" '
                    f'fill="{colours[place]}"/><text x="{55 + 190 * place}" y="{height + 15}">{row}</text>'
                )
    size = max(40 + len(columns) * width, 40 + 190 * len(colours))
    plot_file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{height + 30}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f"{''.join(parts)}</svg>\n",
        encoding="utf-8",
    )


def main() -> None:
    """Do the experiment and show it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="shows that it runs, not what it finds")
    parser.add_argument("--out", type=Path, default=Path("colour-experiment"), help="folder of the pictures")
    options = parser.parse_args()
    effort = Effort(64, 32, 60, 12, 6) if options.quick else Effort()
    hldf = HldfConfig(every_steps=effort.every_steps, num_inference_steps=5 if options.quick else 20)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {effort}", flush=True)
    table = run(effort, hldf, options.out)
    print_table(table)
    write_plot(table, options.out / "colour.svg")


if __name__ == "__main__":
    main()
