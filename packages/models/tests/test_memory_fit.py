import pytest
import torch
from medgen_models.footprint import CallCost, Footprint
from medgen_models.memory_fit import HEADROOM, RUNTIME_BYTES, TooLittleMemoryError, fit, peak_bytes
from medgen_models.parameters import ParameterCounts

MIB = 2**20


def footprint(dtype: torch.dtype = torch.bfloat16, *, blocks: bool = True) -> Footprint:
    """A denoiser of 1,000 MiB in half precision with 10 MiB that learn, and a frozen encoder of 2,000 MiB."""
    base = 500 * MIB * dtype.itemsize
    encoder = 1000 * MIB * dtype.itemsize
    return Footprint(
        batch_size=2,
        parameters={
            "denoiser": ParameterCounts(
                base // dtype.itemsize + 10 * MIB // 4,
                10 * MIB // 4,
                {dtype: base} | {torch.float32: 10 * MIB + base * (dtype == torch.float32)},
                trainable_bytes=10 * MIB,
            ),
            "text_encoder": ParameterCounts(
                encoder // dtype.itemsize, 0, {dtype: encoder}, trainable_bytes=0
            ),
        },
        calls={
            "denoiser": CallCost(
                forward_flops=100,
                backward_flops=150,
                recompute_flops=90 if blocks else 0,
                saved_bytes=800 * MIB,
                boundary_bytes=60 * MIB if blocks else 800 * MIB,
                block_bytes=40 * MIB if blocks else 0,
                largest_bytes=10 * MIB,
                learns=True,
            ),
            "text_encoder": CallCost(70, 0, 0, 0, 0, 0, 0, learns=False),
        },
    )


def device(num_mebibytes: float) -> int:
    """Return a device on which so many MiB are left beside the runtime and the headroom."""
    return int((num_mebibytes * MIB + RUNTIME_BYTES) / (1 - HEADROOM)) + 2


FIXED = 1000 + 10 + 10 + 20  # base, adapter, its gradients, two moments
PLAIN = (800 + 20) / 2  # an image: what is kept, and two tensors in flight
CHECKPOINTED = (60 + 40 + 20) / 2


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_peak_is_the_sum_of_its_parts(batch_size: int) -> None:
    plain = peak_bytes(footprint(), batch_size=batch_size, checkpointing=False, cached=["text_encoder"])
    assert plain == RUNTIME_BYTES + (FIXED + PLAIN * batch_size) * MIB
    less = peak_bytes(footprint(), batch_size=batch_size, checkpointing=True, cached=["text_encoder"])
    assert less == RUNTIME_BYTES + (FIXED + CHECKPOINTED * batch_size) * MIB
    resident = peak_bytes(footprint(), batch_size=batch_size, checkpointing=True)
    assert resident == less + 2000 * MIB


def test_decoder_of_a_loss_on_pixels_is_a_phase_of_its_own() -> None:
    plain = footprint()
    decode = CallCost(10, 10, 9, 3000 * MIB, 100 * MIB, 900 * MIB, 10 * MIB, learns=False)
    with_decoder = Footprint(2, plain.parameters, {**plain.calls, "vae.decode": decode})
    with_decoder = Footprint(
        2, {**plain.parameters, "vae": ParameterCounts(0, 0, {}, trainable_bytes=0)}, with_decoder.calls
    )
    difference = peak_bytes(with_decoder, batch_size=2, checkpointing=False) - peak_bytes(
        plain, batch_size=2, checkpointing=False
    )
    assert difference == (3000 - 800) * MIB


def test_enough_memory_means_one_pass_without_checkpointing() -> None:
    step = fit([footprint()], device(FIXED + 8 * PLAIN), images_per_step=8)
    assert (step.batch_size, step.accumulation, step.checkpointing) == (8, 1, False)
    assert step.cached == ("text_encoder",)
    assert step.base_dtype == torch.bfloat16
    assert step.peak_bytes == RUNTIME_BYTES + (FIXED + 8 * PLAIN) * MIB
    assert any("text_encoder off the device" in reason and "2.0 GiB" in reason for reason in step.reasons)


def test_a_step_that_does_not_fit_at_once_is_accumulated_in_equal_passes() -> None:
    step = fit([footprint()], device(FIXED + 7 * PLAIN), images_per_step=12)
    assert (step.batch_size, step.accumulation, step.checkpointing) == (6, 2, False)
    assert "2 passes of 6: 12 images at once would not fit" in step.reasons


def test_blocks_are_checkpointed_where_few_images_fit_without() -> None:
    step = fit([footprint()], device(FIXED + 3 * PLAIN), images_per_step=16)
    assert (step.batch_size, step.accumulation, step.checkpointing) == (16, 1, True)
    assert any(
        reason.startswith("blocks checkpointed: without that a batch of 16") for reason in step.reasons
    )


def test_parts_without_blocks_are_never_checkpointed() -> None:
    step = fit([footprint(blocks=False)], device(FIXED + 3 * PLAIN), images_per_step=16)
    assert (step.batch_size, step.checkpointing) == (2, False)


def test_the_next_precision_is_taken_where_the_first_does_not_fit() -> None:
    choices = [footprint(torch.float32), footprint(torch.bfloat16)]
    roomy = fit(choices, device(FIXED + 1000 + PLAIN))
    assert roomy.base_dtype == torch.float32
    tight = fit(choices, device(FIXED + PLAIN))
    assert tight.base_dtype == torch.bfloat16
    assert any("in float32 not even one image at a time fits" in reason for reason in tight.reasons)


def test_more_memory_never_means_a_smaller_batch() -> None:
    sizes = [
        fit([footprint()], device(room), images_per_step=4).batch_size for room in range(1200, 4000, 100)
    ]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1


def test_every_choice_stays_within_the_device_and_its_headroom() -> None:
    for room in range(1200, 9000, 300):
        step = fit([footprint()], device(room), images_per_step=24)
        assert step.peak_bytes <= device(room) * (1 - HEADROOM)
        assert step.batch_size * step.accumulation == 24


def test_too_little_memory_is_an_error_that_says_what_is_missing() -> None:
    message = "one image at a time in bfloat16 needs 1.7 GiB .* 1.0 GiB of them the weights of denoiser"
    with pytest.raises(TooLittleMemoryError, match=message):
        fit([footprint()], device(FIXED))


def test_what_learns_cannot_be_cached() -> None:
    with pytest.raises(
        ValueError, match=r"'denoiser' cannot be cached: it learns.*; cacheable are text_encoder"
    ):
        fit([footprint()], device(9000), cacheable=["denoiser"])


def test_an_encoder_that_must_run_stays_on_the_device() -> None:
    step = fit([footprint()], device(FIXED + 2000 + PLAIN), cacheable=())
    assert step.cached == ()
    assert step.peak_bytes == RUNTIME_BYTES + int((FIXED + 2000 + PLAIN) * MIB)
