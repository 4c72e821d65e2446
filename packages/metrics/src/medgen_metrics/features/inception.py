"""Inception features: the space in which FID, KID and the Inception Score of published tables are defined.

Scores compare with published ones only in the weights TensorFlow released on 2015-12-05, which are in no
Python package. They are read from a file that the user has, and never fetched behind his back.

Shapes: B images, S = 299, D = 64, 192, 768, 2048 or 1008.
"""

import hashlib
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from medgen_metrics.features.hub_files import cached_hub_file, commit_of_snapshot, is_hub_file
from medgen_metrics.features.inception_network import NUM_CLASSES, FidInception
from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.features.weights import read_weights, weights_sha256
from medgen_metrics.preprocessing import Preprocessing, Resize

logger = logging.getLogger(__name__)

Tap = Literal["64", "192", "768", "2048", "logits", "logits_unbiased"]
Precision = Literal["float32", "bfloat16"]
TAPS: tuple[Tap, ...] = get_args(Tap)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
WEIGHTS_VARIABLE = "MEDGEN_INCEPTION"
# Of pt_inception-2015-12-05-6726825d.pth; torch-fidelity publishes the same bytes under another name.
PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_COUNTER = ".num_batches_tracked"

_REMEDY = f"""expected pt_inception-2015-12-05-6726825d.pth (sha256 {PUBLISHED_SHA256}), released by pytorch-fid
under the tag fid_weights and by torch-fidelity as weights-inception-2015-12-05-6726825d.pth, or the same
tensors as .safetensors. Ways to give it:
  - weights_file, the path of the file
  - the environment variable {WEIGHTS_VARIABLE} with that path
  - hf:OWNER/REPO/FILE@REVISION in place of the path, for a file in the local Hugging Face cache
Nothing is downloaded. Without it the Inception-based FID, KID and Inception Score cannot be computed; all
scores still can in other feature spaces (efficientnet-lite0, hf:FOLDER, random:SEED for dry runs) and from
features extracted before."""


_UNVERIFIED = (
    f"the Inception weights are not the published file (sha256 {PUBLISHED_SHA256}); the tensors fit, but scores "
    "compare with published ones only if they are the same"
)


class InceptionExtractor:
    """`FeatureExtractor` on one layer of the FID Inception network."""

    comparable = True

    def __init__(
        self,
        tap: Tap = "2048",
        weights_file: Path | str | None = None,
        *,
        device: str = "cpu",
        resize: Resize = "bilinear-tf1",
        precision: Precision = "float32",
    ) -> None:
        """Load the network.

        Args:
            tap: Layer, pooled to a vector; "logits_unbiased" leaves out the bias of the classifier, as the
                usual Inception Score does.
            weights_file: .pth, .safetensors or hf:OWNER/REPO/FILE@REVISION; by default what the environment
                variable MEDGEN_INCEPTION names.
            device: Where to compute.
            resize: "bilinear-tf1" as the published network; another one is another score.
            precision: "bfloat16" is faster where the processor has it, and moves features by a percent.

        Raises:
            MissingWeightsError: If there is no weight file.
            ValueError: If the file is another, or damaged.
        """
        if tap not in TAPS:
            raise ValueError(f"no Inception layer {tap!r}; expected one of {', '.join(TAPS)}")
        self.tap = tap
        self.id = f"inception:{tap}" + ("" if precision == "float32" else f":{precision}")
        self.dim = NUM_CLASSES if tap.startswith("logits") else int(tap)
        self.preprocessing = Preprocessing(299, (128.0,) * 3, (128.0,) * 3, resize)
        found_file = find_inception_weights(weights_file)
        state = read_inception_weights(found_file)
        self.sha256 = weights_sha256(state)
        self.revision = commit_of_snapshot(found_file)
        self.verified = file_sha256(found_file) == PUBLISHED_SHA256
        self.cautions: tuple[str, ...] = () if self.verified else (_UNVERIFIED,)
        if not self.verified:
            logger.warning("%s: %s", found_file, _UNVERIFIED)
        self._network = _prepared(state, torch.device(device), getattr(torch, precision))
        self._device = torch.device(device)
        self._dtype: torch.dtype = getattr(torch, precision)

    def __call__(self, images: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of [B, 3, H, W] uint8 images."""
        return self.from_pixel_values(self.preprocessing(images.to(self._device)))

    @torch.inference_mode()
    def from_pixel_values(self, pixel_values: Tensor) -> Tensor:
        """Return features, [B, D] float32 on the CPU, of preprocessed images, [B, 3, 299, 299]."""
        on_device = pixel_values.to(self._device, self._dtype, memory_format=torch.channels_last)
        with _precise(self._device):
            if self.tap in {"logits", "logits_unbiased"}:
                return self.logits(self._network(on_device).float(), biased=self.tap == "logits")
            return self._network(on_device, width=self.dim).float().cpu()

    @torch.inference_mode()
    def logits(self, features: Tensor, *, biased: bool = False) -> Tensor:
        """Return class scores of 2048-wide features, without another pass over the images.

        Args:
            features: [B, 2048].
            biased: Whether to add the bias of the classifier; the usual Inception Score does not.

        Returns:
            [B, 1008] float32 on the CPU.

        Raises:
            ValueError: If the features are of another layer.
        """
        if features.ndim != 2 or features.shape[1] != 2048:
            raise ValueError(f"features must be [B, 2048], the last layer, got {tuple(features.shape)}")
        weight = self._network.fc.weight.float()
        scores = features.to(self._device, torch.float32) @ weight.T
        return (scores + self._network.fc.bias.float() if biased else scores).cpu()


def find_inception_weights(weights_file: Path | str | None = None) -> Path:
    """Find the weight file from the argument or the environment variable MEDGEN_INCEPTION.

    Raises:
        MissingWeightsError: If there is none; says where to get it and what can be computed without.
    """
    named = str(weights_file) if weights_file is not None else os.environ.get(WEIGHTS_VARIABLE, "")
    if not named:
        raise MissingWeightsError(f"no weights of the FID Inception network: {_REMEDY}")
    found_file = cached_hub_file(named) if is_hub_file(named) else Path(named).expanduser()
    if found_file is None:
        raise MissingWeightsError(f"{named}: not in the local Hugging Face cache; {_REMEDY}")
    if not found_file.is_file():
        raise MissingWeightsError(f"{named}: no such weight file; {_REMEDY}")
    return found_file


def read_inception_weights(weights_file: Path) -> dict[str, Tensor]:
    """Read the state dict and check names and shapes; counters of seen batches are left out.

    Raises:
        ValueError: If the file is damaged or holds other tensors; names both hashes or the first tensors.
    """
    try:
        state = read_weights(weights_file)
    except ValueError as error:
        raise ValueError(f"{error}; found sha256 {file_sha256(weights_file)}, {_REMEDY}") from error
    state = frozen_tensors(state)
    problems = misfits(state)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{weights_file}: not the FID Inception network: {'; '.join(problems[:3])}{more}; found sha256 "
            f"{file_sha256(weights_file)}, {_REMEDY}"
        )
    return state


def frozen_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the counters of batches, which play no part here and which only some conversions kept."""
    return {name: tensor for name, tensor in state.items() if not name.endswith(_COUNTER)}


def misfits(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Say how names and shapes differ from those of the network: missing, foreign, misshapen tensors."""
    expected = {
        name: tuple(tensor.shape) for name, tensor in frozen_tensors(_empty_network().state_dict()).items()
    }
    return (
        *(f"{name} is missing" for name in expected if name not in state),
        *(f"{name} is not of this network" for name in state if name not in expected),
        *(
            f"{name} is {tuple(state[name].shape)}, expected {shape}"
            for name, shape in expected.items()
            if name in state and tuple(state[name].shape) != shape
        ),
    )


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, as `sha256sum` prints it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _empty_network() -> FidInception:
    with torch.device("meta"):
        return FidInception().eval().requires_grad_(requires_grad=False)


def _prepared(state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype) -> FidInception:
    counters = {
        name: torch.zeros((), dtype=torch.int64)
        for name in _empty_network().state_dict()
        if name.endswith(_COUNTER)
    }
    network = _empty_network()
    network.load_state_dict({**state, **counters}, strict=True, assign=True)
    network.requires_grad_(requires_grad=False).fold()
    return network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _precise(device: torch.device) -> AbstractContextManager[None]:
    # TF32 would move features by 1e-3 between GPU generations.
    if device.type == "cuda":
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return nullcontext()
