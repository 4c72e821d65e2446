import pytest
import torch
from medgen_captioning.config import Decoding
from medgen_captioning.seeded_sampling import SeededSampling, kept_tokens
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper


def logits(rows: int, vocabulary: int = 40) -> torch.Tensor:
    return 3 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0.8, 50, 0.9), (1.0, 5, 1.0), (2.0, 10, 0.3)])
def test_probabilities_are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    decoding = Decoding(temperature=temperature, top_k=top_k, top_p=top_p)
    scores = logits(6).double()
    tokens, probabilities = kept_tokens(scores, decoding)
    ours = torch.zeros_like(scores).scatter(-1, tokens, probabilities)
    warped = scores
    for warper in (TemperatureLogitsWarper(temperature), TopKLogitsWarper(top_k), TopPLogitsWarper(top_p)):
        warped = warper(None, warped)
    torch.testing.assert_close(ours, warped.softmax(dim=-1))


def test_words_are_drawn_as_often_as_they_are_likely() -> None:
    decoding = Decoding(max_new_tokens=1, top_k=6, top_p=1.0, temperature=1.0)
    scores = logits(1, 6)
    num_rows = 20_000
    chosen = SeededSampling(range(num_rows), decoding)(
        torch.zeros(num_rows, 1, dtype=torch.long), scores.expand(num_rows, -1)
    )
    shares = chosen.argmax(dim=-1).bincount(minlength=6) / num_rows
    expected = scores[0].softmax(dim=-1)
    error = (expected * (1 - expected) / num_rows).sqrt()
    assert ((shares - expected).abs() < 4 * error + 1e-9).all()


def test_a_row_follows_its_own_seed_whatever_its_neighbours() -> None:
    decoding = Decoding(max_new_tokens=5)
    scores = logits(3)
    together, alone = SeededSampling([7, 8, 9], decoding), SeededSampling([8], decoding)
    for _ in range(5):
        ids = torch.zeros(3, 1, dtype=torch.long)
        assert together(ids, scores)[1].argmax() == alone(ids[:1], scores[1:2])[0].argmax()


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    SeededSampling([1, 2], Decoding())(torch.zeros(2, 1, dtype=torch.long), logits(2))
    assert torch.equal(torch.get_rng_state(), before)
