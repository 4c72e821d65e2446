"""What several test files of the rating studio need."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from medgen_review.rating_files import RatingRow


@pytest.fixture
def rating_rows() -> Callable[..., list[RatingRow]]:
    """Ratings of a simulated study: models differ by `steps` points, raters by leniency, all by noise."""

    def draw(
        *,
        num_raters: int = 3,
        num_prompts: int = 6,
        steps: Sequence[float] = (0.0, 1.5, 3.0),
        aspects: Sequence[str] = ("realism", "diversity"),
        num_repeats: int = 0,
        num_attention: int = 0,
        ranks: bool = True,
        noise: float = 1.0,
        seed: int = 0,
    ) -> list[RatingRow]:
        generator = np.random.default_rng(seed)
        models = [f"model-{index}" for index in range(len(steps))]
        rows = []
        for rater in range(num_raters):
            leniency = generator.normal(0, 0.5)
            pages = [(prompt, 0) for prompt in range(num_prompts)] + [(p, 1) for p in range(num_repeats)]
            for page, (prompt, repeat) in enumerate(pages):
                order = generator.permutation(len(models))
                base = {
                    "study": "0" * 64,
                    "rater": f"rater-{rater}",
                    "page": page,
                    "prompt_id": f"p{prompt:02}",
                    "prompt_kind": "rephrased" if prompt % 2 else "original",
                    "highest": 10,
                    "at": "2026-01-01T00:00:00Z",
                }
                quality = np.asarray(steps) + generator.normal(0, noise, len(models))
                for position, model in enumerate(order):
                    shown = {**base, "model": models[model], "letter": "ABCDEFGH"[position]}
                    shown |= {"position": position, "repeat": repeat}
                    for aspect in aspects:
                        value = round(4 + leniency + quality[model] + generator.normal(0, noise / 2))
                        value = min(max(value, 0), 10)
                        rows.append(RatingRow(kind="rating", aspect=aspect, value=value, **shown))
                    if ranks:
                        rank = 2 + int((quality > quality[model]).sum())  # the real images are always first
                        rows.append(RatingRow(kind="rank", value=rank, **shown))
                if ranks:
                    real = {**base, "model": "real", "letter": "", "position": -1, "repeat": repeat}
                    rows.append(RatingRow(kind="rank", value=1, **real))
            for number in range(num_attention):
                asked = {**base, "page": len(pages) + number, "model": models[0], "letter": "A"}
                asked |= {"position": 0, "kind": "attention", "aspect": aspects[0], "expected": 7}
                rows.append(RatingRow(value=7 if number else 7 - (rater == 1), **asked))
        return rows

    return draw
