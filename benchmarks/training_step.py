"""A training step from the cache against the same step that encodes images and text every time.

    uv run python benchmarks/training_step.py [--steps 20] [--preset msdm-tiny] [--device cpu]

Prints images/s of both and their ratio, from one run on one machine; the two loops are interleaved and share
everything but the source of their batches.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from medgen_data.phantoms import write_phantom_dataset
from medgen_models import PRESETS, load_prompt_encoder, new_msdm
from medgen_training.batches import BatchSource
from medgen_training.cache import build_prompt_table, load_pixels
from medgen_training.denoiser.batches import build_source
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.denoiser.trainer import denoising_losses
from medgen_training.order import batch_rows, stream_generator


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="msdm-tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch-size", type=int, default=48)
    options = parser.parse_args()

    preset = PRESETS[options.preset]
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_phantom_dataset(Path(folder) / "set", num_images=192, size=preset.image_size)
        texts = {record.record_id: record.text for record in dataset.records}
        model = new_msdm(preset, load_prompt_encoder("minilm", max_tokens=preset.max_tokens), seed=0)
        for module in (model.vae, model.denoiser, model.prompt_encoder.text_model):
            module.to(options.device)
        images, prompts = load_pixels(dataset, preset.image_size), build_prompt_table(dataset, texts)
        config = DenoiserConfig(batch_size=options.batch_size)
        live_config = config.model_copy(update={"cache": False})
        sources: dict[str, BatchSource] = {
            "cached": build_source(model, images, prompts, config, Path(folder) / "cache", seed=0),
            "live": build_source(model, images, prompts, live_config, Path(folder) / "cache", seed=0),
        }
        optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-4, fused=True)
        seconds: dict[str, list[float]] = {name: [] for name in sources}
        for step in range(options.steps + 2):
            for name, source in sources.items():
                start = time.perf_counter()
                rows = batch_rows(step, config.batch_size, len(images), seed=0)
                generator = stream_generator(0, "denoiser", step)
                prompt_rows = prompts.draw_rows(rows, config.context_dropout, generator)
                latents, conditioning = source(rows, prompt_rows, generator)
                noise = torch.randn(latents.shape, generator=generator).to(latents)
                timesteps = torch.randint(1000, rows.shape, generator=generator).to(latents.device)
                losses = denoising_losses(
                    model, latents, noise, timesteps, conditioning, config, reuse_estimate=False
                )
                losses.mean().backward()
                optimizer.step()
                optimizer.zero_grad()
                if options.device != "cpu":
                    torch.cuda.synchronize()
                if step >= 2:  # the first two steps warm up
                    seconds[name].append(time.perf_counter() - start)

    rates = {name: config.batch_size / statistics.median(values) for name, values in seconds.items()}
    print(
        f"{options.preset} on {options.device}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    for name, rate in rates.items():
        print(f"{name:>8}: {rate:8.1f} images/s (median of {options.steps} steps of {config.batch_size})")
    print(f"   ratio: {rates['cached'] / rates['live']:8.2f}  (bar: 1.5)")


if __name__ == "__main__":
    main()
