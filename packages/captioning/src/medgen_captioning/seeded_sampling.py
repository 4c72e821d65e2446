"""Draw words so that the text of one row depends on its own seed alone, whatever else is in the batch.

Shapes: B rows, V vocabulary, K kept tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from medgen_captioning.config import Decoding


class SeededSampling:
    """A logits processor that leaves one token per row: the one drawn.

    p = softmax of the K largest logits / temperature, cut where their sum passes top_p (Holtzman et al. 2020),
    and the token is where u falls in the cumulated p. Each row has its own stream of uniform numbers u, one per
    step, so a generator shared by the batch, which would tie rows to their neighbours, is not needed. To be used
    with a search that takes the likeliest token.
    """

    def __init__(self, seeds: Sequence[int], decoding: Decoding) -> None:
        self._decoding = decoding
        self._step = 0
        rows = [
            torch.rand(
                decoding.max_new_tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
            )
            for seed in seeds
        ]
        self._uniforms = torch.stack(rows)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - as transformers calls it
        """Return logits [B, V] that are minus infinity but for the token drawn."""
        uniforms = self._uniforms[:, self._step].to(scores.device)
        self._step += 1
        tokens, probabilities = kept_tokens(scores, self._decoding)
        reached = probabilities.cumsum(dim=-1)
        # Against rounding: u below 1 may still lie above a sum that fell short of 1.
        place = (reached < uniforms[:, None] * reached[:, -1:]).sum(dim=-1, keepdim=True)
        drawn = tokens.gather(-1, place)
        return torch.full_like(scores, -torch.inf).scatter(-1, drawn, 0.0)


def kept_tokens(scores: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Return the tokens that may be drawn, the likeliest first, and their probabilities.

    Args:
        scores: Logits, [B, V].
        decoding: Temperature, top_k and top_p.

    Returns:
        Tokens [B, K] and probabilities [B, K] in float64; those cut off are 0.
    """
    num_kept = min(decoding.top_k, scores.shape[-1])
    values, tokens = (scores.double() / decoding.temperature).topk(num_kept, dim=-1)
    probabilities = values.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    probabilities = probabilities.where(before < decoding.top_p, 0.0)
    return tokens, probabilities / probabilities.sum(dim=-1, keepdim=True)
