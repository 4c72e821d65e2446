"""Text-to-image generators for medical images behind one protocol; MSDM; sampling."""

from medgen_models.diffusion import Diffusion
from medgen_models.errors import MissingModelError
from medgen_models.families.msdm import MsdmModel, new_msdm
from medgen_models.loading import load_model, model_sha256, save_model, untrained_model
from medgen_models.msdm import PRESETS, MsdmAutoencoder, MsdmPipeline, MsdmPreset, MsdmUNet
from medgen_models.protocol import Conditioning, LatentMoments, TextToImageModel
from medgen_models.sampling import SamplingConfig, SamplingJob, sample_images
from medgen_models.solver import SolverStep, ddim_steps, dpm_solver_steps
from medgen_models.text_encoder import PromptEncoder, load_prompt_encoder, prompt_encoder_size

__all__ = [
    "PRESETS",
    "Conditioning",
    "Diffusion",
    "LatentMoments",
    "MissingModelError",
    "MsdmAutoencoder",
    "MsdmModel",
    "MsdmPipeline",
    "MsdmPreset",
    "MsdmUNet",
    "PromptEncoder",
    "SamplingConfig",
    "SamplingJob",
    "SolverStep",
    "TextToImageModel",
    "ddim_steps",
    "dpm_solver_steps",
    "load_model",
    "load_prompt_encoder",
    "model_sha256",
    "new_msdm",
    "prompt_encoder_size",
    "sample_images",
    "save_model",
    "untrained_model",
]
