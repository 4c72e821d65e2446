"""What kind of adapter is trained: the `adapter` section of a recipe."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.targets import (
    DENOISER,
    AdapterFamily,
    TargetPreset,
    preset,
    presets_of,
    text_parts,
)

Rank = Annotated[int, Field(ge=1)]
Targets = Annotated[str, Field(min_length=1)] | Annotated[tuple[str, ...], Field(min_length=1)]
AdapterInit = Literal["default", "gaussian"]


class AdapterConfig(BaseModel):
    """Low-rank adapters of a generator (Hu et al. 2022): W x + scale B A x with A, B of a small rank.

    scale = alpha / rank, or alpha / sqrt(rank) with `rslora` (Kalajdzievski 2023, eq. 4).

    Attributes:
        rank: Rank of the denoiser's adapters.
        alpha: Numerator of the scale; `rank` means a scale of 1 at any rank.
        targets: Name of a preset, or ends of module names of the denoiser.
        init: Start of A: Kaiming uniform, or Gaussian with standard deviation 1 / rank. B starts at zero.
        dropout: Probability of dropping an input of A while training.
        dora: Parts whose weights are split into magnitude and direction (Liu et al. 2024, eq. 5).
        rslora: Rank-stabilised scale; needs a fixed `alpha`.
        text_encoder: Adapt the text encoders too. True takes the preset of `targets` where they have it and
            `attention` otherwise; a name or ends of module names choose for themselves.
        text_encoder_rank: Rank there, if it differs.
        text_encoder_blocks: Adapt only the last so many blocks of each; what enters them is then computed once,
            and only they run at every step. SDXL reads its first encoder before the last block, so that one learns
            from 2 blocks on. All if left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Rank = 8
    alpha: Literal["rank"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] = "rank"
    targets: Targets = "attention"
    init: AdapterInit = "default"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dora: Literal["none", "denoiser", "text-encoder", "both"] = "none"
    rslora: bool = False
    text_encoder: bool | Targets = False
    text_encoder_rank: Rank | None = None
    text_encoder_blocks: Rank | None = None

    @model_validator(mode="after")
    def _options_act(self) -> Self:
        if self.rslora and self.alpha == "rank":
            raise ValueError(
                "adapter.rslora divides alpha by the root of the rank, so alpha = rank would let the scale grow "
                f"with the rank; give adapter.alpha a number, such as {self.rank}"
            )
        if self.text_encoder is False and self.dora in {"text-encoder", "both"}:
            raise ValueError(f"adapter.dora is {self.dora!r}, but adapter.text_encoder is off; turn it on")
        for field in ("text_encoder_rank", "text_encoder_blocks"):
            if self.text_encoder is False and getattr(self, field) is not None:
                raise ValueError(f"adapter.{field} is set, but adapter.text_encoder is off; turn it on")
        return self


class PartAdapter(BaseModel):
    """The adapter of one part (denoiser, text encoder): everything that fixes its shape and its function.

    Attributes:
        rank: Rank of A and B.
        alpha: Numerator of the scale.
        targets: Ends of module names.
        absent: Targets that may match nothing.
        init: Start of A.
        dropout: Probability of dropping an input of A while training.
        dora: Magnitude and direction apart.
        rslora: Scale alpha / sqrt(rank) in place of alpha / rank.
        last_blocks: Adapt only so many of the last blocks of a text encoder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Rank
    alpha: float = Field(gt=0, allow_inf_nan=False)
    targets: tuple[str, ...] = Field(min_length=1)
    absent: tuple[str, ...] = ()
    init: AdapterInit = "default"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    dora: bool = False
    rslora: bool = False
    last_blocks: Rank | None = None

    @property
    def scale(self) -> float:
        """Factor on B A x."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)


def part_adapters(config: AdapterConfig, family: AdapterFamily) -> dict[str, PartAdapter]:
    """Resolve a config for a family: the adapter of each part, by the part's name.

    Raises:
        AdapterError: If the family has no such preset, or no text encoder to adapt.
    """
    adapters = {DENOISER: _part(config, _resolve(family, DENOISER, config.targets), config.rank)}
    if config.text_encoder is False:
        return adapters
    if not text_parts(family):
        raise AdapterError(f"adapter.text_encoder: {family} keeps its text encoder frozen; turn it off")
    for part in text_parts(family):
        targets = _text_targets(config, family, part)
        rank = config.text_encoder_rank or config.rank
        adapters[part] = _part(config, targets, rank, is_text=True)
    return adapters


def _text_targets(config: AdapterConfig, family: AdapterFamily, part: str) -> TargetPreset:
    if config.text_encoder is not True:
        assert config.text_encoder is not False
        return _resolve(family, part, config.text_encoder)
    has_same = isinstance(config.targets, str) and config.targets in presets_of(family, part)
    return _resolve(family, part, config.targets if has_same else "attention")


def _resolve(family: AdapterFamily, part: str, targets: str | tuple[str, ...]) -> TargetPreset:
    return preset(family, part, targets) if isinstance(targets, str) else TargetPreset(targets)


def _part(config: AdapterConfig, targets: TargetPreset, rank: int, *, is_text: bool = False) -> PartAdapter:
    return PartAdapter(
        rank=rank,
        alpha=rank if config.alpha == "rank" else config.alpha,
        targets=targets.suffixes,
        absent=targets.absent,
        init=config.init,
        dropout=config.dropout,
        dora=config.dora in ({"text-encoder", "both"} if is_text else {"denoiser", "both"}),
        rslora=config.rslora,
        last_blocks=config.text_encoder_blocks if is_text else None,
    )
