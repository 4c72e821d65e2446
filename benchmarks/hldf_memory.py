"""Memory of the colour loss through the sampler: ours against two ways to leave it to automatic differentiation.

    OMP_NUM_THREADS=2 uv run python benchmarks/hldf_memory.py [--quick] [--steps 10 20 40]

`ours` is `hldf_gradients`; `checkpoint` recomputes each sampler step when autograd comes back to it; `autograd`
keeps all of them. A line per way and number of sampler steps M: growth of resident memory at the peak in MiB,
CPU-seconds, and the largest difference of the gradient from autograd's, relative to its largest number. Every
measurement has a process of its own, so no peak hides behind an earlier one. M = 40 takes 6 GB with `autograd`.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from medgen_models import Conditioning, Diffusion, MsdmModel, MsdmPreset
from medgen_models.sampling import JobNoise, apply_step, guided_prediction
from medgen_models.tiny import tiny_msdm
from medgen_training.colour_statistics import ColourStatistics, colour_loss, colour_statistics
from medgen_training.hldf import HldfConfig, hldf_gradients, sampler_steps
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

GROWTH_BAR = 1.1  # peak at the most steps to that at the fewest
PRESET = MsdmPreset(
    image_size=128,
    autoencoder_channels=(8, 16, 32),
    latent_channels=4,
    autoencoder_groups=4,
    unet_channels=(64, 128),
    blocks_per_level=1,
    embed_dim=128,
    num_heads=4,
    unet_groups=8,
    dropout=0.0,
    time_dim=64,
    max_tokens=16,
    diffusion=Diffusion(prediction_type="v"),
)
Problem = tuple[MsdmModel, Conditioning, Conditioning, ColourStatistics, Tensor]


def build_problem(latent_size: int) -> Problem:
    """Return a model, an encoded prompt, an empty one, the colours wanted, and noise."""
    model = tiny_msdm(seed=0, preset=PRESET)
    shape = (1, PRESET.latent_channels, latent_size, latent_size)
    model.latent_shape = shape[1:]
    with torch.no_grad():
        encoded = model.encode_prompts(["", "a polyp in the upper left"])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape, generator=generator)
    target = ColourStatistics(*torch.rand(2, 1, 3, generator=generator).unbind())
    return model, encoded[1:], encoded[:1], target, noise


def by_hand(problem: Problem, config: HldfConfig) -> list[Tensor | None]:
    """Ours."""
    model, conditioning, unconditional, target, noise = problem
    parameters = list(model.denoiser.parameters())
    return hldf_gradients(model, conditioning, unconditional, target, noise, config, parameters).gradients


def by_autograd(problem: Problem, config: HldfConfig, *, recompute: bool = False) -> list[Tensor | None]:
    """One graph through all steps, or through their checkpoints."""
    model, conditioning, unconditional, target, noise = problem
    both = Conditioning.cat([unconditional, conditioning])
    no_noise = JobNoise((), model.latent_shape)
    latents, previous = noise, None
    for step in sampler_steps(model, config):

        def advance(latents: Tensor, previous: Tensor | None, step: object = step) -> tuple[Tensor, Tensor]:
            assert hasattr(step, "timestep")
            model_pred = guided_prediction(
                model, latents, step.timestep, both, config.guidance_scale, previous
            )
            timesteps = torch.full((len(latents),), step.timestep)
            estimate = model.diffusion.clean_estimate(model_pred, latents, timesteps)
            return apply_step(step, latents, estimate, previous, no_noise), estimate  # type: ignore[arg-type]

        if recompute:
            latents, previous = checkpoint(
                advance, latents, previous, use_reentrant=False, preserve_rng_state=False
            )
        else:
            latents, previous = advance(latents, previous)
    generated = colour_statistics(model.decode_latents(latents))
    loss = config.factor * colour_loss(generated, target, config.reduction).mean()
    return list(torch.autograd.grad(loss, list(model.denoiser.parameters()), allow_unused=True))


WAYS: dict[str, Callable[[Problem, HldfConfig], list[Tensor | None]]] = {
    "ours": by_hand,
    "checkpoint": lambda problem, config: by_autograd(problem, config, recompute=True),
    "autograd": by_autograd,
}


def memory_mib(field: str) -> float:
    """Read VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return math.nan


def measure(way: str, num_steps: int, latent_size: int, gradient_file: Path) -> None:
    """Print one measurement as JSON and write the gradient; the process does nothing else."""
    problem = build_problem(latent_size)
    WAYS[way](problem, HldfConfig(num_inference_steps=1))  # libraries load before the clock starts
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = memory_mib("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    gradients = WAYS[way](problem, HldfConfig(num_inference_steps=num_steps))
    end = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    mib = memory_mib("VmHWM") - before
    save_file({"gradient": torch.cat([g.flatten() for g in gradients if g is not None])}, gradient_file)
    print(json.dumps({"mib": mib, "cpu_s": cpu_s}))


def measured(way: str, num_steps: int, latent_size: int, gradient_file: Path) -> dict[str, float]:
    """Measure in a process of its own, whose freed memory goes back at once.

    Raises:
        RuntimeError: If that process failed, such as for want of memory.
    """
    command = [
        sys.executable,
        __file__,
        "--measure",
        way,
        str(num_steps),
        str(latent_size),
        str(gradient_file),
    ]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{way}, M = {num_steps}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40], metavar="M")
    parser.add_argument("--quick", action="store_true", help="small latents: shows that it runs")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, num_steps, latent_size, gradient_file = options.measure
        measure(way, int(num_steps), int(latent_size), Path(gradient_file))
        return
    latent_size = 16 if options.quick else 48
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, latents of {latent_size} x {latent_size}"
    )
    print(f"{'way':>10} {'M':>4} {'MiB':>8} {'CPU-s':>8} {'difference':>11}")
    peaks: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for num_steps in sorted(options.steps):
            files = {way: Path(folder) / f"{way}-{num_steps}.safetensors" for way in WAYS}
            results = {way: measured(way, num_steps, latent_size, files[way]) for way in WAYS}
            reference = load_file(files["autograd"])["gradient"]
            for way, result in results.items():
                gradient = load_file(files[way])["gradient"]
                difference = float((gradient - reference).abs().max() / reference.abs().max())
                peaks[way].append(result["mib"])
                print(
                    f"{way:>10} {num_steps:4} {result['mib']:8.0f} {result['cpu_s']:8.1f} {difference:11.1e}",
                    flush=True,
                )
    for way, mib in peaks.items():
        bar = f" (bar {GROWTH_BAR})" if way == "ours" else ""
        print(
            f"{way}: peak at M = {max(options.steps)} / M = {min(options.steps)}: {mib[-1] / mib[0]:.2f}{bar}"
        )


if __name__ == "__main__":
    main()
