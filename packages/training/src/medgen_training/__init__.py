"""Trainers of medical text-to-image generators: caches, losses, checkpoints, resumable loops."""

from medgen_training.autoencoder.config import AutoencoderConfig
from medgen_training.checkpoints import CheckpointError
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.interruption import TrainingInterrupted
from medgen_training.msdm import MsdmTrainConfig, TrainPlan, plan_training, train
from medgen_training.train_log import TrainEvent

__all__ = [
    "AutoencoderConfig",
    "CheckpointError",
    "DenoiserConfig",
    "MsdmTrainConfig",
    "TrainEvent",
    "TrainPlan",
    "TrainingInterrupted",
    "plan_training",
    "train",
]
