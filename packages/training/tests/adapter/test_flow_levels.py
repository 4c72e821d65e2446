import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from medgen_models.diffusion import FlowMatching
from medgen_training import AdapterTrainConfig, train
from medgen_training.adapter.draws import Turns, draw_turns
from medgen_training.adapter.flow_levels import FlowLevelsConfig
from torch import Tensor

NUM_DRAWS = 20_000
FLOW = FlowMatching(shift=3.0)  # of its sampler, which training passes over


def levels(config: FlowLevelsConfig, seed: int = 0) -> Tensor:
    timesteps = config.draw_timesteps(FLOW, NUM_DRAWS, torch.Generator().manual_seed(seed))
    assert timesteps.dtype == torch.float32
    assert (timesteps > 0).all()
    assert (timesteps <= FLOW.num_timesteps).all()
    return timesteps.double() / FLOW.num_timesteps


def distance_to_cdf(drawn: Tensor, cdf: Callable[[Tensor], Tensor]) -> float:
    """Return the statistic of Kolmogorov and Smirnov."""
    ordered = drawn.sort().values
    expected, ranks = cdf(ordered), torch.arange(len(ordered) + 1).double() / len(ordered)
    return float(torch.maximum(ranks[1:] - expected, expected - ranks[:-1]).max())


@pytest.mark.parametrize(("mean", "std", "shift"), [(0.0, 1.0, 1.0), (-0.5, 0.7, 1.0), (0.3, 1.2, 3.0)])
def test_logit_normal_levels_have_their_distribution(mean: float, std: float, shift: float) -> None:
    def cdf(shifted: Tensor) -> Tensor:
        plain = shifted / (shift - (shift - 1) * shifted)  # the inverse of the shift
        return torch.special.ndtr((plain.logit() - mean) / std)

    drawn = levels(FlowLevelsConfig(density="logit-normal", mean=mean, std=std, shift=shift))
    assert distance_to_cdf(drawn, cdf) < 1.63 / math.sqrt(NUM_DRAWS)  # passed by 1% of seeds
    wrong = levels(FlowLevelsConfig(density="logit-normal", mean=mean + 0.1, std=std, shift=shift))
    assert distance_to_cdf(wrong, cdf) > 1.63 / math.sqrt(NUM_DRAWS)


def test_uniform_levels_are_those_of_the_flow_and_shifted_by_the_formula() -> None:
    plain = levels(FlowLevelsConfig())
    own = FLOW.draw_timesteps(NUM_DRAWS, torch.Generator().manual_seed(0)).double() / FLOW.num_timesteps
    torch.testing.assert_close(plain, own, rtol=0, atol=1e-7)
    shifted = levels(FlowLevelsConfig(shift=3.0))
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), rtol=1e-6, atol=0)
    assert float(shifted.mean()) > float(plain.mean())


def test_a_step_of_flux_is_taken_at_those_levels(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config("flux"))
    turns = Turns(torch.zeros(300, dtype=torch.long), list(range(300)))

    def draw(settings: FlowLevelsConfig | None) -> Any:
        config = prepared.config.model_copy(update={"flow_levels": settings})
        return draw_turns(prepared.model, prepared.data.prompts, turns, config, seed=0)

    plain, uniform = draw(None), draw(FlowLevelsConfig())
    noisy = draw(FlowLevelsConfig(density="logit-normal", mean=4.0, std=0.1))
    assert torch.equal(plain.timesteps, uniform.timesteps)
    assert torch.equal(plain.noise, noisy.noise)
    assert (noisy.timesteps > 960).all()  # sigmoid(4) is 0.982


def test_flux_trains_at_levels_that_are_no_whole_steps(
    new_config: Callable[..., AdapterTrainConfig], phantoms: Any, texts: Any, tmp_path: Any
) -> None:
    config = new_config("flux", flow_levels={"density": "logit-normal", "shift": 1.5})
    adapter = train(config, phantoms, texts, tmp_path / "run", seed=0)
    assert (adapter / "adapter.json").is_file()
