"""Whether the blocks of a denoiser must be computed twice, because what autograd keeps of them does not fit."""

import logging

import psutil  # type: ignore[import-untyped]
import torch
from medgen_models import TextToImageModel
from medgen_models.memory_fit import HEADROOM
from medgen_models.saved_bytes import SavedStorages, storage_address

from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.adapter.draws import Turns
from medgen_training.adapter.losses import AdapterData, draw_losses

logger = logging.getLogger(__name__)


def must_checkpoint(model: TextToImageModel, data: AdapterData, config: AdapterTrainConfig) -> bool:
    """Say whether a step is too large for the memory that is free now, by trying one image of it.

    The colour loss takes denoising steps at twice the batch, for guidance, and never beside the ordinary loss.

    Args:
        model: With its adapters, on its device, as it will be trained.
        data: What the training draws from.
        config: Batch size and colour loss.
    """
    try:
        per_image = saved_bytes_of_one_image(model, data, config)
    except torch.OutOfMemoryError:
        logger.info("blocks are checkpointed: without it not even one image fits")
        return True
    guided = config.hldf is not None and not model.embeds_guidance
    needed = per_image * config.batch_size * (2 if guided else 1)
    free = free_bytes(model.device)
    checkpointing = needed > (1 - HEADROOM) * free
    logger.info(
        "blocks are %s: without it a step keeps %.2f GiB, free are %.2f GiB",
        "checkpointed" if checkpointing else "not checkpointed",
        needed / 2**30,
        free / 2**30,
    )
    return checkpointing


def saved_bytes_of_one_image(model: TextToImageModel, data: AdapterData, config: AdapterTrainConfig) -> int:
    """Return how much autograd keeps of the first image's forward pass, weights left out."""
    weights = {
        storage_address(tensor)
        for module in model.components().values()
        for tensor in (*module.parameters(), *module.buffers())
    }
    saved = SavedStorages(weights)
    with torch.random.fork_rng(), saved.hooks():
        draw_losses(model, data, config, Turns(torch.tensor([0]), [0]), seed=0)
    return sum(saved.storages.values())


def free_bytes(device: torch.device) -> int:
    """Return the memory that can still be had on a device."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused
