"""Settings of an adapter's training."""

from typing import Literal

from medgen_data.images import FitPolicy
from medgen_models.adapters import AdapterConfig
from pydantic import BaseModel, ConfigDict, Field, model_validator

from medgen_training.adapter.flow_levels import FlowLevelsConfig
from medgen_training.hldf import HldfConfig
from medgen_training.schedules import LrSchedule

AdapterFamilyName = Literal[
    "pixart", "sd", "sdxl", "hunyuan-dit", "kandinsky22-prior", "kandinsky22-decoder", "kandinsky3", "flux"
]
BaseDtype = Literal["float32", "bfloat16"]


class AdapterTrainConfig(BaseModel):
    """Everything that decides what an adapter becomes, apart from the data and the seed.

    Attributes:
        family: What kind of model `base` is; another kind is refused.
        base: Pretrained pipeline: hub name or local folder.
        base_revision: Branch, tag or commit of a hub name.
        prior_base: The prior of Kandinsky 2.2's decoder, which holds the image encoder too.
        base_dtype: Of the frozen weights; adapters are float32 in any case.
        image_size: Side of the training images in pixels; None: the size the base was made for.
        allow_upscaling: Enlarge images that are smaller than that, instead of refusing them.
        fit: How an image that is not square becomes square.
        max_tokens: Longest prompt in tokens; None: the family's own limit.
        lower_case: Lower-case prompts, in training and sampling alike.
        adapter: Rank, targets, kind.
        hldf: Colour loss through the sampler; None: without.
        num_epochs: Passes over the images; or give `num_steps`.
        num_steps: Optimiser steps.
        batch_size: Images in one pass of one process.
        accumulation: Passes before an optimiser step.
        learning_rate: Peak learning rate of AdamW.
        lr_schedule: Its course after the warm-up.
        warmup_fraction: Part of the steps in which it rises.
        weight_decay: Of AdamW.
        adam_betas: Of AdamW.
        adam_eps: Of AdamW; MMCP sweeps 1e-15 to 1e-10 for Kandinsky 3.
        max_grad_norm: Largest norm of the gradient; None: not clipped.
        loss: Error of the prediction.
        snr_gamma: Weight min(SNR, gamma) / SNR of Hang et al. 2023, for noise prediction; None: off.
        noise_offset: Standard deviation of a shift of the noise that all pixels of a channel share.
        context_dropout: Probability of training an image without its prompt.
        text_encoder_dropout: Leave the dropout of an adapted text encoder on, as Med-Art's code does; then all its
            blocks run at every step.
        flow_levels: Noise levels of a flow (FLUX); None: uniform ones, as the script whose count is the paper's.
        embedded_guidance: Guidance scale given to denoisers that take it as an input (FLUX).
        prior_noise_schedule: Noise levels of Kandinsky 2.2's prior: as MMCP's code, or as it was trained.
        cache: Encode images, and prompts as far up as their encoder is frozen, once before the first step.
        gradient_checkpointing: Compute activations twice to keep fewer; auto: when memory asks for it, and with
            `shard_base`.
        compile_blocks: Compile every block of the denoiser, which takes up to minutes before the first step; on a
            CPU it needs a C++ compiler, on a GPU Triton.
        shard_base: Share the frozen weights of the denoiser, and of text encoders that run at every step, out over
            the processes (FSDP), which gather a block's when it runs: for a base that one device cannot hold, at
            the price of sending all weights at every pass. One process is refused.
        selection: Which step's adapter is kept: the last, or that of the lowest loss of the held-out images
            (split `validation`) at noise that never changes.
        validate_every: Steps between two looks at that loss.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: How many stay.
        log_every: Steps between looks at the loss; there is no wait for the device in between.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: AdapterFamilyName
    base: str = Field(min_length=1)
    base_revision: str | None = None
    prior_base: str | None = None
    base_dtype: BaseDtype = "float32"
    image_size: int | None = Field(default=None, ge=16, multiple_of=8)
    allow_upscaling: bool = False
    fit: FitPolicy = "center-crop"
    max_tokens: int | None = Field(default=None, ge=4)
    lower_case: bool = False
    adapter: AdapterConfig = AdapterConfig()
    hldf: HldfConfig | None = None
    num_epochs: int | None = Field(default=None, ge=1)
    num_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=1, ge=1)
    accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    lr_schedule: LrSchedule = "constant"
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0)
    adam_betas: tuple[float, float] = (0.9, 0.999)
    adam_eps: float = Field(default=1e-8, gt=0)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    loss: Literal["l1", "l2"] = "l2"
    snr_gamma: float | None = Field(default=None, gt=0)
    noise_offset: float = Field(default=0.0, ge=0)
    context_dropout: float = Field(default=0.0, ge=0, lt=1)
    text_encoder_dropout: bool = False
    flow_levels: FlowLevelsConfig | None = None
    embedded_guidance: float = Field(default=3.5, ge=0)
    prior_noise_schedule: Literal["authors", "unclip"] = "unclip"
    cache: bool = True
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    compile_blocks: bool = False
    shard_base: bool = False
    selection: Literal["last", "validation-loss"] = "last"
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    log_every: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> "AdapterTrainConfig":
        if (self.num_epochs is None) == (self.num_steps is None):
            raise ValueError("give either num_epochs or num_steps")
        return self

    @model_validator(mode="after")
    def _fields_fit_the_family(self) -> "AdapterTrainConfig":
        if self.prior_base is not None and self.family != "kandinsky22-decoder":
            raise ValueError(f"prior_base belongs to kandinsky22-decoder; {self.family} has no prior")
        if self.hldf is not None and self.family == "kandinsky22-prior":
            raise ValueError("hldf needs pixels, and the latents of a prior are embeddings; leave it out")
        if self.snr_gamma is not None and self.family == "flux":
            raise ValueError("snr_gamma is for noise prediction, and flux is a flow; leave it out")
        if self.flow_levels is not None and self.family != "flux":
            raise ValueError(
                f"flow_levels is for flow matching (flux), and {self.family} is none; leave it out"
            )
        if self.family == "kandinsky22-decoder" and self.context_dropout:
            raise ValueError("kandinsky22-decoder is trained on images alone; set context_dropout to 0")
        return self

    def steps_for(self, num_images: int, num_processes: int = 1) -> int:
        """Return the number of optimiser steps for a data set of `num_images`."""
        if self.num_steps is not None:
            return self.num_steps
        assert self.num_epochs is not None
        images_per_step = self.batch_size * self.accumulation * num_processes
        return -(-self.num_epochs * num_images // images_per_step)
