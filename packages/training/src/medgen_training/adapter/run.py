"""Train an adapter from images and texts: base model, cache, adapter, adapter folder."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from medgen_data import ImageDataset
from medgen_models import TextToImageModel
from medgen_models.adapters import AdapterFacts, AdapterSize, add_adapters, save_adapter
from medgen_models.adapters.folders import BaseOptions
from medgen_models.base_models import base_sha256, load_pretrained
from medgen_models.partial_text_encoder import blocks_below
from medgen_models.protocol import ReadsPrompts

from medgen_training.adapter.batches import condition_source, latent_source
from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.adapter.draws import draw_turns, turns_of_step
from medgen_training.adapter.losses import AdapterData
from medgen_training.adapter.memory import must_checkpoint
from medgen_training.adapter.sharding import base_mesh, shard_denoiser, shard_text_encoders
from medgen_training.adapter.trainer import train_adapter_weights
from medgen_training.blocks import check_compiler, checkpoint_blocks, compile_blocks
from medgen_training.cache import PromptTable, load_pixels
from medgen_training.claims import claim_folder, training_identity
from medgen_training.colour_statistics import colour_table
from medgen_training.contact_sheet import write_contact_sheet
from medgen_training.interruption import StopRequest
from medgen_training.train_log import OnEvent, TrainEvent
from medgen_training.training_rows import TextVariants, held_out_images, training_rows, with_held_out

logger = logging.getLogger(__name__)


def train_adapter(
    config: AdapterTrainConfig,
    dataset: ImageDataset,
    texts: Mapping[str, Sequence[str]],
    train_dir: Path,
    *,
    seed: int,
    device: str = "cpu",
    resume: bool = False,
    validation_set: ImageDataset | None = None,
    variants: TextVariants | None = None,
    on_event: OnEvent | None = None,
    should_stop: StopRequest | None = None,
) -> Path:
    """Train an adapter and return its folder, `train_dir / "adapter"`.

    Killed at any moment, the same call with `resume` gives the same weights, bit for bit on one CPU.

    Args:
        config: The recipe's `train` section.
        dataset: Images to train on.
        texts: All texts of each record, by record id; one of them is drawn at every step.
        train_dir: Folder of this training alone.
        seed: Seed of the adapter's start, order, noise and dropout.
        device: `cpu` or `cuda`.
        resume: Go on with what `train_dir` holds.
        validation_set: Held-out images, for `selection: validation-loss`.
        variants: Paraphrases, and what is said of mirrored images; None: neither.
        on_event: Called about every `log_every` steps.
        should_stop: Asked after every step; True writes a checkpoint and raises `TrainingInterrupted`.

    Raises:
        AdapterError: If the targets do not fit the model, or one process is to share the base.
        CheckpointError: If `train_dir` holds another training, or any training without `resume`.
        CompilerError: If blocks are to be compiled and torch cannot do so here.
        DataError: If an image is smaller than the training's size, or an image has no text.
        MissingModelError: If the base model is not to be had.
        TrainingDivergedError: If the loss became NaN or infinite.
        UnusableModelError: If the base is of another family, or its weights are pickled.
        ValueError: If `selection` wants held-out images and there are none.
    """
    adapter_dir = train_dir / "adapter"
    accelerator = Accelerator(cpu=device == "cpu")
    if config.compile_blocks:
        check_compiler(accelerator.device)
    facts = base_facts(config)
    mesh = base_mesh(accelerator.num_processes, accelerator.device) if config.shard_base else None
    start_device = "cpu" if config.shard_base else str(accelerator.device)
    model = load_pretrained(facts, dtype=config.base_dtype, device=start_device)
    read = partial(
        load_pixels, image_size=model.image_size, policy=config.fit, allow_upscaling=config.allow_upscaling
    )
    rows = training_rows(dataset, read(dataset), texts, variants)
    if config.selection == "validation-loss":
        held_out = held_out_images(validation_set)
        rows = with_held_out(rows, held_out, read(held_out), texts)
    images, prompts = rows.images, rows.prompts
    identity = training_identity(config, images, prompts, seed=seed)
    with accelerator.main_process_first():  # what the main process has just claimed, the others go on with
        claim_folder(train_dir, identity, resume=resume or not accelerator.is_main_process)
    if adapter_dir.is_dir():
        return adapter_dir

    _report_long_prompts(model, prompts, on_event)
    sizes = prepare_model(model, config, seed=seed)
    if mesh is not None:
        shard_denoiser(model, mesh, accelerator.device)
    text_encoder_learns = any(part.startswith("text_encoder") for part in sizes)

    def on_progress(done: int, total: int) -> None:
        if on_event is not None:
            on_event(TrainEvent("cache", done, total, 0.0, {}))

    cache_dir = train_dir / "cache"
    with accelerator.main_process_first():  # it fills the cache, the others read it
        data = AdapterData(
            latents=latent_source(model, images, cache_dir, cache=config.cache, on_progress=on_progress),
            conditions=condition_source(
                model, images, prompts, cache_dir, cache=config.cache, text_encoder_learns=text_encoder_learns
            ),
            prompts=prompts,
            colours=colour_table(images, unbiased=config.hldf is None or config.hldf.unbiased_std),
            record_ids=rows.record_ids,
        )
    if model.decodes_to_pixels and accelerator.is_main_process:
        _write_first_batch(model, data, config, train_dir, seed=seed)
    if config.cache:
        _put_aside(model, config, text_encoder_learns=text_encoder_learns)
    if mesh is not None and (text_encoder_learns or not config.cache):
        shard_text_encoders(model, mesh)  # whole until now: the main process filled the cache alone
    _set_up_blocks(model, data, config)
    train_adapter_weights(
        model,
        data,
        config,
        train_dir,
        identity=identity,
        seed=seed,
        accelerator=accelerator,
        on_event=on_event,
        should_stop=should_stop,
    )
    if accelerator.is_main_process:
        facts = facts.model_copy(update={"base_sha256": base_sha256(config.base)})
        save_adapter(adapter_dir, model.components(), facts)
    accelerator.wait_for_everyone()
    return adapter_dir


def base_facts(config: AdapterTrainConfig) -> AdapterFacts:
    """Return which base model a training starts from, and how it is read."""
    is_prior = config.family == "kandinsky22-prior"
    options = BaseOptions(
        image_size=config.image_size,
        max_tokens=config.max_tokens,
        lower_case=config.lower_case or None,
        prior=config.prior_base,
        prior_noise_schedule=config.prior_noise_schedule if is_prior else None,
    )
    return AdapterFacts(
        family=config.family,
        base_model=config.base,
        base_revision=config.base_revision,
        base_options=options,
    )


def prepare_model(
    model: TextToImageModel, config: AdapterTrainConfig, *, seed: int
) -> dict[str, AdapterSize]:
    """Freeze a model and put adapters into it, with the dropout that the config wants; return their sizes."""
    for module in model.components().values():
        module.requires_grad_(False).eval()
    # Convolutions, and those of U-Nets alone, run faster on it; nothing else has weights of four dimensions.
    # FSDP takes weights in the usual order alone.
    if not config.shard_base:
        model.denoiser.to(memory_format=torch.channels_last)
    sizes = add_adapters(model.components(), config.adapter, family=config.family, seed=seed)
    for part in sizes:
        if config.text_encoder_dropout and part.startswith("text_encoder"):
            model.components()[part].train()
        elif config.adapter.dropout:
            _train_dropout_of_adapters(model.components()[part])
    return sizes


def _set_up_blocks(model: TextToImageModel, data: AdapterData, config: AdapterTrainConfig) -> None:
    checkpointing = config.gradient_checkpointing
    if checkpointing == "auto":  # who shares the base out is short of memory, and processes must agree
        checkpointing = config.shard_base or must_checkpoint(model, data, config)
    if checkpointing:
        checkpoint_blocks(model.denoiser)
    if config.compile_blocks:
        compile_blocks(model.denoiser)


def _train_dropout_of_adapters(module: torch.nn.Module) -> None:
    for name, child in module.named_modules():
        if ".lora_dropout" in name:
            child.train()


def _report_long_prompts(model: TextToImageModel, prompts: PromptTable, on_event: OnEvent | None) -> None:
    """Say how many prompts are longer than the encoder reads; what is beyond is cut."""
    if model.max_tokens is None:
        return
    lengths = model.num_tokens(prompts.prompts)
    too_long = [
        prompt for prompt, length in zip(prompts.prompts, lengths, strict=True) if length > model.max_tokens
    ]
    if not too_long:
        return
    logger.warning(
        "%d of %d prompts are longer than the %d tokens that are read, the longest has %d; what is beyond is cut "
        "(first: %.80r). Shorten them with `medgen caption`, or raise train.max_tokens",
        len(too_long),
        len(lengths),
        model.max_tokens,
        max(lengths),
        too_long[0],
    )
    if on_event is not None:
        figures = {"too_long": float(len(too_long)), "longest": float(max(lengths))}
        on_event(TrainEvent("prompts", len(lengths), len(lengths), 0.0, figures))


def _put_aside(model: TextToImageModel, config: AdapterTrainConfig, *, text_encoder_learns: bool) -> None:
    """Take networks and blocks that are not asked again off the device."""
    for name, module in model.components().items():
        is_text = name.startswith("text_encoder")
        is_idle = not text_encoder_learns if is_text else name != "denoiser" and config.hldf is None
        if is_idle:
            module.to("cpu")
    if not isinstance(model, ReadsPrompts):
        return
    for encoder in model.text_encoders().values():
        if encoder.below is not None:
            # The first block lends its position bias.
            for block in blocks_below(encoder.text_model, encoder.below.num_blocks)[1:]:
                block.to("cpu")


def _write_first_batch(
    model: TextToImageModel, data: AdapterData, config: AdapterTrainConfig, train_dir: Path, *, seed: int
) -> None:
    """Draw the images of step 0 as the trainer will, and write their contact sheet."""
    turns = next(turns_of_step(0, config, len(data.record_ids), seed=seed))
    draws = draw_turns(model, data.prompts, turns, config, seed=seed)
    latents = data.latents(turns.images, draws.latent_noise)
    texts = [data.prompts.prompts[row] for row in draws.prompt_rows.tolist()]
    write_contact_sheet(model, latents, texts, train_dir / "contact_sheet.png")
