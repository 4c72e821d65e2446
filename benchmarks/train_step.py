"""A training step of an adapter, and sampling with it, against the way the published scripts work.

    uv run python benchmarks/train_step.py [--quick | --full] [--only NAME]

Both sides take the same weights, images, prompts, noise and noise levels, in turns in one process. The reference
step does what the example scripts of the field do: it opens and crops the image, encodes image and prompt, computes
every block a second time on the way back, and reads the loss at every step; its optimizer is not fused. Ours is
the step of `medgen train`, as it is and with `compile_blocks: true`; the faster one is judged. Printed are
images/s, the operators of a step, the peak of its memory above the weights, the ratio, and how far apart the
gradients are.

Default: miniatures of the real classes whose FLOPs stand to each other as those of the real models do. `--quick`:
few steps of small images, where only gradients and pixels are judged. `--full`: full-size random weights at 512 px
in bfloat16, on a GPU.
"""

import argparse
import functools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
)
from medgen_data import ImageDataset, decode_image, fit_square
from medgen_data.phantoms import write_phantom_dataset
from medgen_models import Diffusion, SamplingConfig, SamplingJob, sample_images
from medgen_models.adapters import adapter_parameters, is_adapted, merge_adapter
from medgen_models.architectures import architecture, build_parts, example_inputs
from medgen_models.families.pixart import PixArtModel
from medgen_models.families.stable_diffusion import StableDiffusionModel
from medgen_models.sampling import JobNoise, sample_latents
from medgen_models.text_encoder import PromptEncoder
from medgen_models.tiny.text_encoders import tiny_clip_tokenizer, tiny_t5_encoder
from medgen_training import AdapterTrainConfig, HldfConfig
from medgen_training.adapter.batches import condition_source, latent_source
from medgen_training.adapter.draws import draw_turns, turns_of_step
from medgen_training.adapter.losses import AdapterData
from medgen_training.adapter.run import prepare_model
from medgen_training.adapter.trainer import add_colour_gradients, step_gradients
from medgen_training.blocks import checkpoint_blocks, compile_blocks
from medgen_training.cache import build_prompt_table, load_pixels
from medgen_training.colour_statistics import colour_table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

SEED = 0
NUM_IMAGES = 24
HLDF_EVERY = 500
# Kvasir captions of Med-Art run to some hundred words; a letter is a token of the miniature tokenizer.
CAPTION = (
    "An endoscopic image of {}: reddish mucosa around it, a smooth and moist surface, folds to the left, a bright "
    "reflex of the light and no bleeding"
)


@dataclass(frozen=True)
class Case:
    """One comparison of training steps."""

    name: str
    family: str
    adapts_text: bool
    image_size: int  # of the miniature
    bar: float
    bar_on_gpu: float


CASES = [
    Case("sd-frozen", "sd", False, image_size=256, bar=2.0, bar_on_gpu=3.0),
    Case("pixart-frozen", "pixart", False, image_size=128, bar=2.0, bar_on_gpu=3.0),
    Case("med-art", "pixart", True, image_size=128, bar=1.5, bar_on_gpu=3.0),
]


def small_autoencoder(width: int) -> AutoencoderKL:
    """Return the autoencoder of Stable Diffusion with every width divided by 128 / `width`."""
    return AutoencoderKL(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8,
        scaling_factor=0.18215,
    )


def small_sd(image_size: int) -> StableDiffusionModel:
    """Return Stable Diffusion 1.5 with half the widths and half the attention heads."""
    tokenizer = tiny_clip_tokenizer(max_tokens=77)
    text_model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=384, intermediate_size=1536, num_hidden_layers=12,
            num_attention_heads=6, max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=image_size // 8,
        block_out_channels=(160, 320, 640, 640),
        layers_per_block=2,
        cross_attention_dim=384,
        attention_head_dim=4,  # the number of heads, whatever its name
        norm_num_groups=16,
    )
    return StableDiffusionModel(
        small_autoencoder(64), unet, PromptEncoder(text_model, tokenizer, 77, uses_mask=False), sd_noise()
    )


def small_pixart(image_size: int) -> PixArtModel:
    """Return a PixArt-alpha whose autoencoder, T5 and transformer cost about the same, as they do at full size."""
    _, tokenizer = tiny_t5_encoder(SEED, max_tokens=120)
    text_model = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=320, d_kv=40, d_ff=800, num_layers=14, num_heads=8,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip
    transformer = PixArtTransformer2DModel(
        num_attention_heads=8,
        attention_head_dim=40,
        in_channels=4,
        out_channels=8,
        num_layers=18,
        cross_attention_dim=320,
        caption_channels=320,
        sample_size=image_size // 8,
        patch_size=2,
    )
    return PixArtModel(
        small_autoencoder(32), transformer, PromptEncoder(text_model, tokenizer, 120), pixart_noise()
    )


def sd_noise() -> Diffusion:
    """Return the noise schedule of Stable Diffusion."""
    return Diffusion("epsilon", "scaled-linear", 0.00085, 0.012)


def pixart_noise() -> Diffusion:
    """Return the noise schedule of PixArt-alpha."""
    return Diffusion("epsilon", "linear", 1e-4, 0.02)


def full_size(family: str, device: torch.device) -> Any:
    """Return a published model with random weights in bfloat16."""
    published = "sd15" if family == "sd" else family
    parts = build_parts(published, device, torch.bfloat16, seed=SEED)
    size = architecture(published).image_size
    if family == "sd":
        encoder = PromptEncoder(
            parts["text_encoder"], tiny_clip_tokenizer(max_tokens=77), 77, uses_mask=False
        )
        return StableDiffusionModel(parts["vae"], parts["denoiser"], encoder, sd_noise(), image_size=size)
    _, tokenizer = tiny_t5_encoder(SEED, max_tokens=120)
    encoder = PromptEncoder(parts["text_encoder"], tokenizer, 120)
    return PixArtModel(parts["vae"], parts["denoiser"], encoder, pixart_noise(), image_size=size)


def new_model(case: Case, options: argparse.Namespace) -> Any:
    """Return the model of a case; the same weights at every call."""
    if options.full:
        return full_size(case.family, torch.device("cuda"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        build = {"sd": small_sd, "pixart": small_pixart}[case.family]
        return build(128 if options.quick else case.image_size)


def adapted_model(
    case: Case, config: AdapterTrainConfig, options: argparse.Namespace
) -> tuple[Any, list[Any]]:
    """Return a model with adapters that already do something, and their parameters."""
    model = new_model(case, options)
    prepare_model(model, config, seed=SEED)
    adapted = [module for module in model.components().values() if is_adapted(module)]
    parameters = [parameter for module in adapted for parameter in adapter_parameters(module)]
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in parameters:
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model, parameters


class OurStep:
    """The step of `medgen train`: what its loop calls, with its optimizer."""

    def __init__(
        self,
        case: Case,
        config: AdapterTrainConfig,
        dataset: ImageDataset,
        options: argparse.Namespace,
        folder: Path,
    ) -> None:
        self.config = config
        self.model, self.parameters = adapted_model(case, config, options)
        if config.compile_blocks:
            compile_blocks(self.model.denoiser)
        images = load_pixels(dataset, self.model.image_size)
        prompts = build_prompt_table(dataset, {record.record_id: record.text for record in dataset.records})
        self.data = AdapterData(
            latents=latent_source(self.model, images, folder, cache=True),
            conditions=condition_source(
                self.model, images, prompts, folder, cache=True, text_encoder_learns=case.adapts_text
            ),
            prompts=prompts,
            colours=colour_table(images),
            record_ids=[record.record_id for record in dataset.records],
        )
        self.accelerator = Accelerator(cpu=not options.full)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=config.learning_rate, fused=True)

    def gradients(self, step: int) -> None:
        """Leave the clipped gradient of a step in the parameters."""
        step_gradients(
            self.model, self.data, self.config, step, self.parameters, seed=SEED, accelerator=self.accelerator
        )

    def __call__(self, step: int) -> None:
        """Take a whole step."""
        self.gradients(step)
        self.optimizer.step()
        self.optimizer.zero_grad()


class PublishedStep:
    """The step of the published scripts, with the noise that ours drew."""

    def __init__(
        self,
        case: Case,
        config: AdapterTrainConfig,
        dataset: ImageDataset,
        options: argparse.Namespace,
        *,
        checkpointing: bool = True,
    ) -> None:
        self.case, self.config, self.dataset = case, config, dataset
        self.model, self.parameters = adapted_model(case, config, options)
        if checkpointing:
            checkpoint_blocks(self.model.denoiser)
        self.prompts = build_prompt_table(
            dataset, {record.record_id: record.text for record in dataset.records}
        )
        diffusion = self.model.diffusion
        self.scheduler = DDPMScheduler(
            beta_start=diffusion.beta_start,
            beta_end=diffusion.beta_end,
            beta_schedule=diffusion.beta_schedule.replace("-", "_"),
        )
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.learning_rate, weight_decay=0.01, foreach=False, fused=False
        )
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.loss_seen = 0.0

    def gradients(self, step: int) -> None:
        """Leave the clipped gradient of a step in the parameters."""
        model, dtype = self.model, self.model.vae.dtype
        (turns,) = turns_of_step(step, self.config, len(self.dataset.records), seed=SEED)
        draws = draw_turns(model, self.prompts, turns, self.config, seed=SEED)
        pixels = torch.stack([self._pixels(row) for row in turns.images.tolist()]).to(model.device, dtype)
        with torch.no_grad():
            posterior = model.vae.encode(pixels).latent_dist
        latents = posterior.mean.float() + posterior.std.float() * draws.latent_noise.to(model.device)
        latents = latents * model.vae.config.scaling_factor
        noise, timesteps = draws.noise.to(model.device), draws.timesteps.to(model.device)
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        with torch.set_grad_enabled(self.case.adapts_text):
            conditioning = model.encode_prompts(
                [self.prompts.prompts[row] for row in draws.prompt_rows.tolist()]
            )
        model_pred = model.denoise(noisy_latents, timesteps, conditioning)
        loss = F.mse_loss(model_pred.float(), noise.float())
        self.loss_seen = loss.detach().item()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm or 1.0, foreach=False)
        float(norm)

    def __call__(self, step: int) -> None:
        """Take a whole step."""
        self.gradients(step)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()

    def _pixels(self, row: int) -> Tensor:
        """Open one image file and return its pixels [3, S, S] in [-1, 1]."""
        image = decode_image(self.dataset.image_file(self.dataset.records[row]))
        square = fit_square(image, self.model.image_size, policy="center-crop")
        return torch.from_numpy(square.transpose(2, 0, 1).copy()).float() / 127.5 - 1


class CountOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators that compute something; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in returns)
        self.count += not is_view
        return func(*args, **(kwargs or {}))


def num_operators(take_step: Callable[[int], None], step: int) -> int:
    """Return how many operators a step runs, optimizer included."""
    with CountOperators() as counter:
        take_step(step)
    return int(counter.count)


def peak_bytes(take_step: Callable[[int], None], step: int) -> int:
    """Return the peak of a step's memory above what was there before it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take_step(step)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        take_step(step)
    events: Any = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    total = peak = 0
    for _, num_bytes in changes:
        total += num_bytes
        peak = max(peak, total)
    return peak


def flops(call: Callable[[], object]) -> int:
    """Return the FLOPs of a call, two for a multiplication and an addition."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest relative difference of two lists of gradients, tensor by tensor in the maximum norm."""
    # A tensor whose gradient is rounding itself is measured against a thousandth of the largest.
    floor = 1e-3 * max(float(their.abs().max()) for their in theirs)
    return max(
        float((our - their).abs().max()) / max(float(their.abs().max()), floor)
        for our, their in zip(ours, theirs, strict=True)
    )


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes, device included."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def proportions(family: str, model: Any) -> str:
    """Say how the forward FLOPs of image encoder, text encoder and denoiser stand to each other, here and there."""
    size = model.image_size
    pixels = torch.zeros(1, 3, size, size, dtype=model.vae.dtype, device=model.device)
    latents = torch.zeros(1, *model.latent_shape, device=model.device)
    conditioning = model.encode_prompts([CAPTION])
    timesteps = torch.zeros(1, dtype=torch.long, device=model.device)
    here = [
        flops(lambda: model.vae.encode(pixels)),
        flops(lambda: model.encode_prompts([CAPTION])),
        flops(lambda: model.denoise(latents, timesteps, conditioning)),
    ]
    published = "sd15" if family == "sd" else family
    with torch.device("meta"):
        parts, inputs = build_parts(published), example_inputs(published, 512, dtype=torch.float32)
    vae: Any = parts["vae"]
    there = [
        flops(lambda: vae.encode(**inputs["vae.encode"])),
        flops(lambda: parts["text_encoder"](**inputs["text_encoder"])),
        flops(lambda: parts["denoiser"](**inputs["denoiser"])),
    ]
    named = [
        f"{' : '.join(f'{each / counts[0]:.2f}' for each in counts)} ({counts[0] / 1e9:.1f} GFLOP)"
        for counts in (here, there)
    ]
    return f"image encoder : text encoder : denoiser, forward = {named[0]}; full size at 512 px {named[1]}"


def training_config(case: Case) -> AdapterTrainConfig:
    """Return the settings of both sides: batch 1, rank 8, as Med-Art has them."""
    has_presets = case.family == "pixart"
    return AdapterTrainConfig.model_validate(
        {
            "family": case.family,
            "base": "in memory",
            "num_steps": 10_000,
            "batch_size": 1,
            "gradient_checkpointing": False,
            "adapter": {
                "rank": 8,
                "targets": "authors" if has_presets and case.adapts_text else "attention",
                "text_encoder": case.adapts_text,
            },
        }
    )


def compare_steps(case: Case, dataset: ImageDataset, options: argparse.Namespace, folder: Path) -> bool:
    """Measure one case and print it; return whether the bar is met."""
    config = training_config(case)
    ours = OurStep(case, config, dataset, options, folder / case.name)
    theirs = PublishedStep(case, config, dataset, options)
    print(f"\n{case.name}: {proportions(case.family, ours.model)}")
    sides: dict[str, OurStep | PublishedStep] = {"ours": ours, "published": theirs}
    if not options.quick:
        compiled = config.model_copy(update={"compile_blocks": True})
        sides["ours, blocks compiled"] = OurStep(case, compiled, dataset, options, folder / case.name)
        sides["published, no checkpointing"] = PublishedStep(
            case, config, dataset, options, checkpointing=False
        )
    differences = [gradient_difference(side, theirs) for side in sides.values() if side is not theirs]
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(options.warm_up + options.steps):
        for name, take_step in sides.items():
            duration = seconds(functools.partial(take_step, step))
            if step >= options.warm_up:
                taken[name].append(duration)
    step_s = {name: statistics.median(values) for name, values in taken.items()}
    for name, take_step in sides.items():
        operators, peak = num_operators(take_step, 0), peak_bytes(take_step, 0)
        print(
            f"  {name:>28}: {1 / step_s[name]:8.2f} images/s  {operators:6,} operators a step  "
            f"{peak / 2**20:8.1f} MiB above the weights"
        )
    ratios = {name: step_s["published"] / step_s[name] for name in sides if name.startswith("ours")}
    ratio = max(ratios.values())
    bar = case.bar_on_gpu if options.full else case.bar
    same = max(differences) <= options.tolerance
    print(
        f"  largest relative difference of the gradients: {max(differences):.1e} (at most {options.tolerance:.0e})"
    )
    colour_is_cheap = colour_cost(ours, step_s["ours"], options) if case.adapts_text else True
    each = ", ".join(f"{name} {value:.2f}" for name, value in ratios.items())
    print(f"  ratio to the published step: {each} {verdict(ratio >= bar, f'bar {bar}', options)}")
    return same and (options.quick or (ratio >= bar and colour_is_cheap))


def gradient_difference(side: OurStep | PublishedStep, reference: PublishedStep) -> float:
    """Return the largest relative difference of the gradients of two sides over two steps."""
    differences = []
    for step in range(2):
        for each in (side, reference):
            each.gradients(step)
        pairs = [[parameter.grad.clone() for parameter in each.parameters] for each in (side, reference)]
        differences.append(largest_difference(*pairs))
        for each in (side, reference):
            each.optimizer.zero_grad()
    return max(differences)


def colour_cost(ours: OurStep, step_s: float, options: argparse.Namespace) -> bool:
    """Measure one evaluation of the colour loss against our step, print it, and return whether the bar is met."""
    hldf = HldfConfig(every_steps=HLDF_EVERY, num_inference_steps=5 if options.quick else 20)
    config = ours.config.model_copy(update={"hldf": hldf})

    def evaluate() -> None:
        (turns,) = turns_of_step(0, config, NUM_IMAGES, seed=SEED)
        add_colour_gradients(ours.model, ours.data, config, turns, ours.parameters, seed=SEED)

    if options.full:
        evaluate()  # kernels are chosen
    duration = min(seconds(evaluate) for _ in range(1 if options.quick else 2))
    ours.optimizer.zero_grad()
    share = duration / HLDF_EVERY / step_s
    print(
        f"  colour loss, {hldf.num_inference_steps} steps with guidance: {duration:.2f} s = "
        f"{duration / step_s:.1f} training steps, one in {HLDF_EVERY}: {share:+.1%} "
        + verdict(share <= 0.09, "bar 9%", options)
    )
    return share <= 0.09


def compare_sampling(options: argparse.Namespace) -> bool:
    """Draw one image for every prompt, ours and with the pipeline prompt by prompt; print, and judge."""
    case = CASES[1]
    ours, _ = adapted_model(case, training_config(case), options)
    adapted, _ = adapted_model(case, training_config(case), options)
    merge_adapter(ours.denoiser)
    pipeline = adapted.to_pipeline()
    diffusion = ours.diffusion
    pipeline.scheduler = DPMSolverMultistepScheduler(
        beta_start=diffusion.beta_start, beta_end=diffusion.beta_end
    )
    pipeline.set_progress_bar_config(disable=True)
    # As short as the encoder reads, and in the lower case that the pipeline makes of prompts.
    texts = [CAPTION.format(index).lower()[:100] for index in range(options.num_prompts)]
    config = SamplingConfig(
        num_inference_steps=options.sampling_steps, guidance_scale=4.5, batch_size=min(16, len(texts))
    )
    jobs = [SamplingJob(prompt, seed) for seed, prompt in enumerate(texts)]

    def published(which: Sequence[SamplingJob]) -> Iterator[Tensor]:
        for job in which:
            yield pipeline(
                job.prompt,
                latents=JobNoise([job.seed], ours.latent_shape).draw().to(ours.device, ours.vae.dtype),
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                height=ours.image_size,
                width=ours.image_size,
                use_resolution_binning=False,
                clean_caption=False,
                output_type="pt",
            ).images[0]

    with torch.no_grad():
        noise = JobNoise([job.seed for job in jobs[:2]], ours.latent_shape)
        empty, prompts = ours.encode_prompts([""] * 2), ours.encode_prompts(texts[:2])
        pixels = ours.decode_latents(sample_latents(ours, noise, prompts, empty, config))
        difference = float((pixels.clamp(-1, 1) / 2 + 0.5 - torch.stack([*published(jobs[:2])])).abs().max())
        rates = {
            "ours": len(jobs) / seconds(lambda: [*sample_images(ours, jobs, config)]),
            "pipeline": len(jobs) / seconds(lambda: [*published(jobs)]),
        }
    ratio = rates["ours"] / rates["pipeline"]
    print(f"\nsampling: {len(jobs)} prompts, PixArt, {config.num_inference_steps} steps, guidance 4.5")
    for name, rate in rates.items():
        print(f"  {name:>28}: {rate:8.2f} images/s")
    tolerance = 0.05 if options.full else 1e-3  # in bfloat16, a batch rounds otherwise than an image
    same = difference <= tolerance
    print(f"  largest difference of the pixels in [0, 1]: {difference:.1e} (at most {tolerance:.0e})")
    print(f"  ratio {ratio:.2f} {verdict(ratio >= 1.5, 'bar 1.5', options)}")
    return same and (options.quick or ratio >= 1.5)


def verdict(met: bool, bar: str, options: argparse.Namespace) -> str:
    """Say whether a bar is met; a quick run is too short to tell."""
    if options.quick:
        return f"({bar}, not judged)"
    return f"({bar}) {'met' if met else 'MISSED'}"


def phantom_set(folder: Path, image_size: int) -> ImageDataset:
    """Write images with captions as long as those of Med-Art."""
    plain = write_phantom_dataset(folder, num_images=NUM_IMAGES, size=image_size)
    records = [
        record.model_copy(update={"text": (CAPTION.format(record.text[0])[:400],)})
        for record in plain.records
    ]
    return ImageDataset(plain.root, plain.card, tuple(records))


def main() -> int:
    """Measure, print, and return 1 if a bar is missed."""
    names = [*(case.name for case in CASES), "sampling"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="few steps, few prompts: under a minute")
    size.add_argument("--full", action="store_true", help="full-size random weights on a GPU")
    parser.add_argument("--only", choices=names)
    options = parser.parse_args()
    if options.full and not torch.cuda.is_available():
        parser.error("--full needs a CUDA device, and there is none here")
    options.warm_up, options.steps = (1, 2) if options.quick else (2, 12)
    options.num_prompts, options.sampling_steps = (6, 2) if options.quick else (64, 12)
    if options.full:
        options.sampling_steps = 20
    options.tolerance = 5e-2 if options.full else 1e-3
    device = torch.cuda.get_device_name() if options.full else f"CPU, {torch.get_num_threads()} threads"
    judged = "gradients and pixels" if options.quick else "gradients, pixels and bars"
    print(f"torch {torch.__version__}, {device}, batch 1; judged are {judged}")
    met = True
    with tempfile.TemporaryDirectory() as folder:
        dataset = phantom_set(Path(folder) / "set", 512 if options.full else 256)
        for case in CASES:
            if options.only in (None, case.name):
                met &= compare_steps(case, dataset, options, Path(folder))
        if options.only in (None, "sampling"):
            met &= compare_sampling(options)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
