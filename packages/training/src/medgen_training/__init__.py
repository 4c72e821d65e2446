"""Trainers of medical text-to-image generators: caches, losses, checkpoints, resumable loops."""

from medgen_training.adapter.config import AdapterTrainConfig
from medgen_training.autoencoder.config import AutoencoderConfig
from medgen_training.checkpoints import CheckpointError
from medgen_training.class_dit import DitTrainConfig
from medgen_training.denoiser.config import DenoiserConfig
from medgen_training.hldf import HldfConfig
from medgen_training.interruption import TrainingDivergedError, TrainingInterrupted
from medgen_training.msdm import MsdmTrainConfig, TrainPlan, plan_training
from medgen_training.train import TrainConfig, train
from medgen_training.train_log import TrainEvent
from medgen_training.training_rows import TextVariants

__all__ = [
    "AdapterTrainConfig",
    "AutoencoderConfig",
    "CheckpointError",
    "DenoiserConfig",
    "DitTrainConfig",
    "HldfConfig",
    "MsdmTrainConfig",
    "TextVariants",
    "TrainConfig",
    "TrainEvent",
    "TrainPlan",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "plan_training",
    "train",
]
