from collections.abc import Callable
from typing import Any

import pytest
import torch
from medgen_training import AdapterTrainConfig
from medgen_training.adapter.draws import Turns, draw_colour_turns, draw_turns, turns_of_step


def flat_turns(config: AdapterTrainConfig, step: int, num_processes: int) -> dict[int, int]:
    """Return the image of every turn of a step, over all processes and passes."""
    found: dict[int, int] = {}
    for process_index in range(num_processes):
        for turns in turns_of_step(
            step, config, 7, seed=1, process_index=process_index, num_processes=num_processes
        ):
            assert len(turns.images) == config.batch_size
            found |= dict(zip(turns.numbers, turns.images.tolist(), strict=True))
    return found


def test_a_step_has_the_same_turns_however_it_is_spread(
    new_config: Callable[..., AdapterTrainConfig],
) -> None:
    for step in (0, 3):
        one_batch = flat_turns(new_config(batch_size=12), step, 1)
        assert sorted(one_batch) == list(range(12 * step, 12 * step + 12))
        assert one_batch == flat_turns(new_config(batch_size=4, accumulation=3), step, 1)
        assert one_batch == flat_turns(new_config(batch_size=2, accumulation=3), step, 2)


def test_every_image_has_its_turn_before_any_has_two(new_config: Callable[..., AdapterTrainConfig]) -> None:
    config = new_config(batch_size=1)
    images = [next(turns_of_step(step, config, 7, seed=1)).images.item() for step in range(14)]
    assert sorted(images[:7]) == sorted(images[7:]) == list(range(7))
    assert images[:7] != images[7:]


def test_draws_of_a_turn_do_not_depend_on_its_batch(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config(noise_offset=0.1, context_dropout=0.5))

    def draw(images: list[int], numbers: list[int], seed: int = 0) -> Any:
        turns = Turns(torch.tensor(images), numbers)
        return draw_turns(prepared.model, prepared.data.prompts, turns, prepared.config, seed=seed)

    both, alone, other = draw([3, 5], [10, 11]), draw([5], [11]), draw([5], [11], seed=1)
    for name in ("prompt_rows", "latent_noise", "noise", "timesteps"):
        assert torch.equal(getattr(both, name)[1:], getattr(alone, name))
    assert not torch.equal(alone.noise, other.noise)
    assert not torch.equal(both.noise[0], both.noise[1])
    assert not torch.equal(alone.noise, alone.latent_noise)


def test_noise_offset_is_one_number_per_image_and_channel_of_its_deviation(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config())
    turns = Turns(torch.zeros(500, dtype=torch.long), list(range(500)))
    noise = {
        offset: draw_turns(
            prepared.model,
            prepared.data.prompts,
            turns,
            prepared.config.model_copy(update={"noise_offset": offset}),
            seed=0,
        ).noise
        for offset in (0.0, 0.2)
    }
    shift = noise[0.2] - noise[0.0]
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift), rtol=0, atol=1e-6)
    assert shift[:, :, 0, 0].std().item() == pytest.approx(0.2, rel=0.05)  # 2,000 draws
    assert shift.mean().item() == pytest.approx(0, abs=0.02)


def test_dropped_context_is_the_empty_prompt(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    turns = Turns(torch.arange(24).repeat(20), list(range(480)))
    for cache in (True, False):
        prepared = prepare(new_config(context_dropout=0.25, cache=cache))
        drawn = draw_turns(prepared.model, prepared.data.prompts, turns, prepared.config, seed=0)
        dropped = drawn.prompt_rows == 0
        assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.06)
        row = int(dropped.nonzero()[0])
        given = prepared.data.conditions(turns.images[[row]], drawn.prompt_rows[[row]])
        empty = prepared.model.encode_prompts([""])
        torch.testing.assert_close(given.prompt_embeds, empty.prompt_embeds)
        assert torch.equal(given.prompt_mask, empty.prompt_mask)
        rows, _ = draw_colour_turns(prepared.model, prepared.data.prompts, turns, seed=0)
        assert (rows > 0).all()  # the colour loss is always of a prompt


def test_prompts_of_an_image_are_drawn_equally_often(
    new_config: Callable[..., AdapterTrainConfig], prepare: Callable[..., Any]
) -> None:
    prepared = prepare(new_config())
    image = max(range(24), key=lambda row: len(prepared.data.prompts.rows_of_image[row]))
    rows = prepared.data.prompts.rows_of_image[image]
    turns = Turns(torch.full((600,), image), list(range(600)))
    drawn = draw_turns(prepared.model, prepared.data.prompts, turns, prepared.config, seed=0).prompt_rows
    counts = torch.tensor([(drawn == row).sum() for row in rows])
    assert counts.sum() == 600
    assert counts.min() > 0.7 * 600 / len(rows)
