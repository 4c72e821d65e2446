"""Train a classifier on one data set, e.g. on synthetic images alone.

Shapes: B batch, S side of the square input in pixels, K classes.
Same seed, same weights, bit for bit, on one CPU with one number of threads.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from medgen_data.image_folder import ImageDataset
from medgen_data.problems import DataError
from torch import Tensor
from torch.nn import functional as F

from medgen_classify.backbone import build_backbone
from medgen_classify.classifier import Classifier, TrainingFacts
from medgen_classify.config import ClassifyConfig, LearningRateSchedule
from medgen_classify.labelled_images import class_indices, decode_labelled_images, is_generated, labels_of

logger = logging.getLogger(__name__)

OnProgress = Callable[[int, int], None]


def train_classifier(
    train_set: ImageDataset,
    config: ClassifyConfig,
    *,
    seed: int,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Classifier:
    """Train on every image of a data set; choose a split before with `train_set.select(split="train")`.

    Args:
        train_set: Real or synthetic images, at least two classes.
        config: Backbone, attribute and optimiser.
        seed: Of the new weights, the order of the images and the jitter.
        device: Where to train.
        on_progress: Called with the steps done and the steps in total.

    Returns:
        The classifier, in evaluation mode.

    Raises:
        DataError: If there are no images, fewer than two classes, or real images of the test split.
        MissingBackboneError: If the weights of the backbone are not on this machine.
        ValueError: If the loss is no longer finite.
    """
    classes = _training_classes(train_set, config.attribute)
    with _seeded_generators(seed, device):
        backbone = build_backbone(config, classes)
        examples = decode_labelled_images(
            train_set, attribute_name=config.attribute, image_size=backbone.image_size, fit=config.fit
        )
        targets = class_indices(examples.labels, classes)
        network = backbone.network.to(device).train()
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        generator = torch.Generator().manual_seed(seed)  # on the CPU: the order is the same on every device
        num_steps = config.epochs * math.ceil(len(targets) / config.batch_size)
        step, epoch_losses = 0, []

        for epoch in range(config.epochs):
            loss_sum = torch.zeros((), device=device)
            for batch in torch.randperm(len(targets), generator=generator).split(config.batch_size):
                rate = config.learning_rate * learning_rate_factor(step, num_steps, config.schedule)
                for group in optimiser.param_groups:
                    group["lr"] = rate

                intensities = augment(examples.images[batch].to(device).float() / 255, config, generator)
                logits = backbone.logits(intensities)
                loss = F.cross_entropy(logits, targets[batch].to(device))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()

                loss_sum += loss.detach() * len(batch)
                step += 1
                if on_progress is not None:
                    on_progress(step, num_steps)
            epoch_losses.append(_finite(float(loss_sum) / len(targets), epoch, config))
            logger.info("epoch %d of %d: loss %.4f", epoch + 1, config.epochs, epoch_losses[-1])

    network.eval()
    counts = Counter(examples.labels)
    facts = TrainingFacts(
        name=train_set.card.name,
        fingerprint=train_set.card.fingerprint,
        generated=is_generated(train_set),
        num_images={name: counts[name] for name in classes},
        seed=seed,
        epoch_losses=tuple(epoch_losses),
    )
    return Classifier(config, classes, backbone, facts, device)


def learning_rate_factor(step: int, num_steps: int, schedule: LearningRateSchedule) -> float:
    """Return the share of the peak learning rate at a step in [0, num_steps).

    >>> [round(learning_rate_factor(step, 20, "warmup-cosine"), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    if schedule == "constant":
        return 1.0
    num_warmup = max(1, num_steps // 10)
    if step < num_warmup:
        return (step + 1) / num_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


def augment(intensities: Tensor, config: ClassifyConfig, generator: torch.Generator) -> Tensor:
    """Vary brightness and contrast of every image on its own, and mirror if the config says so.

    Args:
        intensities: Images in [0, 1], [B, 3, S, S].
        config: Strength of the jitter.
        generator: Source of the factors; it advances equally whatever the strength.

    Returns:
        Images in [0, 1], [B, 3, S, S].
    """
    draws = torch.rand(3, len(intensities), 1, 1, 1, generator=generator).to(intensities.device)
    brightness = 1 + config.brightness_jitter * (2 * draws[0] - 1)
    contrast = 1 + config.contrast_jitter * (2 * draws[1] - 1)
    brighter = intensities * brightness
    mean = brighter.mean(dim=(1, 2, 3), keepdim=True)
    varied = (mean + (brighter - mean) * contrast).clamp(0, 1)
    return torch.where(draws[2] < 0.5, varied.flip(-1), varied) if config.flips else varied


def _training_classes(train_set: ImageDataset, attribute_name: str) -> tuple[str, ...]:
    classes = tuple(sorted(set(labels_of(train_set, attribute_name))))
    if len(classes) < 2:
        raise DataError(
            f"{train_set.root}: expected at least two classes of {attribute_name} to tell apart, got only "
            f"{classes[0]!r}; add images of another class or choose another attribute"
        )
    held_out = sum(record.split == "test" for record in train_set.records)
    if held_out and not is_generated(train_set):
        raise DataError(
            f"{train_set.root}: {held_out} of {len(train_set.records)} training images belong to the test "
            "split; pass the training split only"
        )
    return classes


def _finite(loss: float, epoch: int, config: ClassifyConfig) -> float:
    if not math.isfinite(loss):
        raise ValueError(
            f"training loss is {loss} in epoch {epoch + 1}; lower learning_rate (now {config.learning_rate})"
        )
    return loss


@contextmanager
def _seeded_generators(seed: int, device: str) -> Iterator[None]:
    """Seed torch's own generators inside, and put them back: transformers draws weights from nothing else."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
