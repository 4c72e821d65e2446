"""Scores per prompt: Fidelity, Agreement, Diversity and FBD of a text-to-image model on paired prompts.

An objective is something to be shown, worded once or twice (an original and a rephrased prompt), with real
images of it. The four scores are those of the public evaluator of the ImageCLEFmed MEDVQA-GI 2025 challenge:

Fidelity:  mean over objectives of 1000 / (1 + f), f = mean over its prompts of FD(images of the prompt, real)
Agreement: mean over objectives of the mean cosine between all images of one wording and all of the other
Diversity: mean over prompts of the mean Euclidean distance between two of its L2-normalised features
FBD:       one FD of all images against all real ones, which count once for each objective that they serve

with FD the Frechet distance. The challenge defines them on the class token (768-d, not normalised) of a
BiomedCLIP vision transformer with 10 images per prompt. At that size FD is mostly the bias of small samples:
even a perfect generator stays far below Fidelity 1000. So a ceiling stands beside Fidelity, the score that
real images themselves would reach: some are drawn as if generated and held against the others.

Shapes: N generated images of one prompt, M real images of one objective, D feature width, G objectives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from medgen_metrics.feature_checks import check_features, check_widths
from medgen_metrics.frechet import frechet_distance, frechet_influence
from medgen_metrics.intervals import Estimate, mean_estimate, normal_estimate

PromptProtocol = Literal["medvqa2025", "all"]
_NUM_SPLITS = 20
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """What is to be shown, and which prompts ask for it."""

    name: str
    original: str  # prompt
    rephrased: str | None = None  # prompt; None: worded once, has no Agreement


@dataclass(frozen=True)
class ObjectiveScore:
    """The scores of one objective."""

    objective: Objective
    frechet: tuple[float, ...]  # of each prompt against the real images
    agreement: float | None
    diversity: tuple[float, ...]  # of each prompt
    num_real: int

    @property
    def fidelity(self) -> float:
        """1000 / (1 + mean Frechet distance of the prompts)."""
        return float(_fidelity(np.mean(self.frechet)))


@dataclass(frozen=True)
class PromptScores:
    """The four scores with intervals from a bootstrap over objectives, and what they were computed from."""

    fidelity: Estimate
    agreement: Estimate | None  # None if no objective has two wordings
    diversity: Estimate
    fbd: Estimate
    fidelity_ceiling: Estimate | None  # None if no objective has real images enough to split
    objectives: tuple[ObjectiveScore, ...]
    skipped: tuple[str, ...]  # "objective: reason"
    protocol: PromptProtocol
    seed: int

    def rounded(self) -> dict[str, float]:
        """Return the scores as the public evaluator prints them, with two decimals."""
        estimates = {
            "fidelity": self.fidelity,
            "agreement": self.agreement,
            "diversity": self.diversity,
            "FBD": self.fbd,
        }
        return {name: round(each.value, 2) for name, each in estimates.items() if each is not None}


def consecutive_objectives(prompts: Sequence[str]) -> tuple[Objective, ...]:
    """Pair prompts as the challenge numbers them: first with second, third with fourth.

    Args:
        prompts: Prompt ids in order; an objective is named by its first prompt.

    Raises:
        ValueError: If the number of prompts is odd or two are equal.
    """
    if len(prompts) % 2 or len(set(prompts)) != len(prompts):
        raise ValueError(f"expected distinct prompts, two for each objective, got {len(prompts)}: {prompts}")
    pairs = zip(prompts[::2], prompts[1::2], strict=True)
    return tuple(Objective(name=first, original=first, rephrased=second) for first, second in pairs)


def prompt_scores(
    generated: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    objectives: Sequence[Objective],
    *,
    protocol: PromptProtocol = "all",
    seed: int,
    num_resamples: int = 2000,
) -> PromptScores:
    """Score generated images per prompt.

    Args:
        generated: Features of the images of each prompt, [N >= 2, D].
        real: Features of the real images of each objective, by its name, [M >= 2, D]; one table may serve several.
        objectives: The objectives in the order of the challenge.
        protocol: "all" scores every objective. "medvqa2025" scores the first half of the prompts, as the public
            evaluator does: of 20 objectives with two prompts each the first 10.
        seed: Seed of the bootstrap and of the ceiling; the scores do not depend on it.
        num_resamples: Number of bootstrap samples behind each interval.

    Returns:
        The scores. Intervals cover the chance in the choice of objectives and in their images.

    Raises:
        KeyError: If a prompt of an objective has no generated images.
        ValueError: If nothing is left to score, or a feature set is too small, too wide or not finite.
    """
    kept, skipped = _scored_objectives(generated, real, _chosen(objectives, protocol), protocol)
    _check(generated, real, kept)
    rows = tuple(_objective_score(objective, generated, real[objective.name]) for objective in kept)
    generator = np.random.default_rng(seed)
    paired = [row.agreement for row in rows if row.agreement is not None]
    # Objectives are drawn again, so Diversity is first averaged over the prompts of each.
    weights = np.array([len(row.diversity) for row in rows], dtype=np.float64)
    return PromptScores(
        fidelity=mean_estimate(
            np.array([row.fidelity for row in rows]), generator, num_resamples, lowest=0.0, highest=1000.0
        ),
        agreement=mean_estimate(np.array(paired), generator, num_resamples, lowest=-1.0, highest=1.0)
        if paired
        else None,
        diversity=mean_estimate(
            np.array([np.mean(row.diversity) for row in rows]),
            generator,
            num_resamples,
            weights=weights,
            lowest=0.0,
            highest=2.0,
        ),
        fbd=_distance_of_everything(generated, real, kept),
        fidelity_ceiling=_ceiling(generated, real, kept, generator, num_resamples),
        objectives=rows,
        skipped=skipped,
        protocol=protocol,
        seed=seed,
    )


def mean_cosine(first: Tensor, second: Tensor) -> float:
    """Return the mean cosine between every row of one set and every row of another, [N1, D] and [N2, D]."""
    check_widths(first.shape[1], second.shape[1])
    # The mean over a full table of dot products is the dot product of the means.
    return float(_unit_rows(first).mean(dim=0) @ _unit_rows(second).mean(dim=0))


def mean_distance_of_directions(features: Tensor) -> float:
    """Return the mean Euclidean distance between two L2-normalised rows of a set, [N >= 2, D]; 0 to 2.

    Raises:
        ValueError: If there are fewer than two rows.
    """
    check_features(features, "features of a prompt", least=2)
    return float(torch.pdist(_unit_rows(features)).mean())


def _unit_rows(features: Tensor) -> Tensor:
    # A row of zeros stays one, as in the public evaluator.
    return F.normalize(features.detach().cpu().double(), dim=1, eps=1e-300)


def _fidelity(mean_distance: NDArray[np.float64] | np.floating) -> NDArray[np.float64] | np.floating:
    return 1000 / (1 + mean_distance)


def _prompts(objective: Objective) -> tuple[str, ...]:
    return (objective.original,) if objective.rephrased is None else (objective.original, objective.rephrased)


def _chosen(objectives: Sequence[Objective], protocol: PromptProtocol) -> list[Objective]:
    if protocol == "all":
        return list(objectives)
    if protocol != "medvqa2025":
        raise ValueError(f"protocol must be 'medvqa2025' or 'all', got {protocol!r}")
    alone = [objective.name for objective in objectives if objective.rephrased is None]
    if alone:
        raise ValueError(
            f"protocol 'medvqa2025' needs two prompts for each objective; these have one: {alone}"
        )
    # Its loop runs over prompts 0, 2, 4, ... below half the number of prompts.
    return [objective for index, objective in enumerate(objectives) if 2 * index < len(objectives)]


def _scored_objectives(
    generated: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    chosen: Sequence[Objective],
    protocol: PromptProtocol,
) -> tuple[list[Objective], tuple[str, ...]]:
    kept, skipped = [], []
    for objective in chosen:
        count = len(real[objective.name]) if objective.name in real else 0
        alone = [prompt for prompt in _prompts(objective) if len(generated.get(prompt, ())) == 1]
        if count < 2:
            reason = "no real images" if count == 0 else "one real image, a covariance needs two"
            skipped.append(f"{objective.name}: {reason}")
        elif alone:
            skipped.append(f"{objective.name}: one generated image of {alone[0]!r}, a covariance needs two")
        else:
            kept.append(objective)
    if not kept:
        raise ValueError(
            f"none of {len(chosen)} objectives (protocol {protocol!r}) can be scored: {'; '.join(skipped)}; "
            "each needs two images of every prompt, and two real ones under the name of the objective"
        )
    return kept, tuple(skipped)


def _check(
    generated: Mapping[str, Tensor], real: Mapping[str, Tensor], objectives: Sequence[Objective]
) -> None:
    width = real[objectives[0].name].shape[-1]
    for objective in objectives:
        check_features(real[objective.name], f"real features of {objective.name!r}", least=2)
        check_widths(real[objective.name].shape[1], width)
        for prompt in _prompts(objective):
            if prompt not in generated:
                raise KeyError(
                    f"prompt {prompt!r} of objective {objective.name!r} has no generated images; "
                    "generate them, or leave the objective out"
                )
            check_features(generated[prompt], f"generated features of prompt {prompt!r}", least=2)
            check_widths(width, generated[prompt].shape[1])


def _objective_score(objective: Objective, generated: Mapping[str, Tensor], real: Tensor) -> ObjectiveScore:
    sets = [generated[prompt] for prompt in _prompts(objective)]
    return ObjectiveScore(
        objective=objective,
        frechet=tuple(frechet_distance(real, features) for features in sets),
        agreement=mean_cosine(sets[0], sets[1]) if len(sets) == 2 else None,
        diversity=tuple(mean_distance_of_directions(features) for features in sets),
        num_real=len(real),
    )


def _distance_of_everything(
    generated: Mapping[str, Tensor], real: Mapping[str, Tensor], objectives: Sequence[Objective]
) -> Estimate:
    """Return FBD; its standard error counts each objective, with its images and its real ones, as one draw."""
    synthetic_sets = [torch.cat([generated[prompt] for prompt in _prompts(each)]) for each in objectives]
    real_sets = [real[each.name] for each in objectives]
    influence = frechet_influence(torch.cat(real_sets), torch.cat(synthetic_sets))
    num_groups = len(objectives)
    shares = torch.zeros(num_groups, dtype=torch.float64)
    for psi, sets in ((influence.real, real_sets), (influence.synthetic, synthetic_sets)):
        parts = psi.split([len(features) for features in sets])
        shares += torch.stack([part.sum() for part in parts]) / len(psi)
    if num_groups == 1:
        return normal_estimate(influence.value, math.inf, lowest=0.0)
    variance = num_groups / (num_groups - 1) * float((shares - shares.mean()).square().sum())
    return normal_estimate(influence.value, math.sqrt(variance), lowest=0.0)


def _ceiling(
    generated: Mapping[str, Tensor],
    real: Mapping[str, Tensor],
    objectives: Sequence[Objective],
    generator: np.random.Generator,
    num_resamples: int,
) -> Estimate | None:
    """Return the Fidelity of real images that are drawn in place of the generated ones, without replacement."""
    values = []
    for objective in objectives:
        features = real[objective.name]
        sizes = [len(generated[prompt]) for prompt in _prompts(objective)]
        # What is left must still have a covariance.
        if len(features) < max(sizes) + 2:
            continue
        scores = []
        for _ in range(_NUM_SPLITS):
            distances = []
            for size in sizes:
                order = torch.from_numpy(generator.permutation(len(features)))
                distances.append(frechet_distance(features[order[size:]], features[order[:size]]))
            scores.append(_fidelity(np.mean(distances)))
        values.append(np.mean(scores))
    if not values:
        return None
    return mean_estimate(np.array(values), generator, num_resamples, lowest=0.0, highest=1000.0)
