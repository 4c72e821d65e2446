import pytest
import torch
from medgen_training.ema import ExponentialMovingAverage
from medgen_training.schedules import lr_factor
from torch import nn


def test_average_follows_the_recurrence() -> None:
    parameter = nn.Parameter(torch.tensor([0.0], dtype=torch.float64))
    ema = ExponentialMovingAverage([parameter], decay=0.9)
    expected = 0.0
    for step in range(50):
        parameter.data.fill_(float(step))
        ema.update([parameter], step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(ema.averages[0]) == pytest.approx(expected)


def test_average_of_constant_weights_is_the_constant() -> None:
    parameter = nn.Parameter(torch.tensor([3.0, -1.0]))
    ema = ExponentialMovingAverage([parameter], decay=0.5)
    ema.update([parameter], 0)
    parameter.data.zero_()
    ema.copy_to([parameter])
    assert parameter.tolist() == [3.0, -1.0]


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_zero() -> None:
    factors = [lr_factor("warmup-cosine", step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_constant_schedule_stays_at_the_peak() -> None:
    assert {lr_factor("constant", step, 100, 0.0) for step in range(100)} == {1.0}
