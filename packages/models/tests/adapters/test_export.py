import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from medgen_models.adapters.config import AdapterConfig
from medgen_models.adapters.errors import AdapterError
from medgen_models.adapters.export import DIFFUSERS_FILE, export_diffusers
from medgen_models.adapters.wiring import adapter_state, add_adapters
from medgen_models.tiny import tiny_prompt_encoder
from torch import Tensor, nn

TOKEN_IDS = torch.tensor([[98, 6, 7, 99], [98, 12, 99, 99]])
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "fixed-alpha": {"alpha": 5.0},
    "rslora": {"rslora": True, "alpha": 3},
    "dora": {"dora": "both", "alpha": 3},
    "text-rank": {"text_encoder_rank": 3, "init": "gaussian"},
    "text-blocks": {"text_encoder_blocks": 1},
}


def pipeline_of(family: str, parts: dict[str, Any]) -> Any:
    """An ordinary pipeline over networks that have no adapter; what it does not need here is absent."""
    if family == "sd":
        return StableDiffusionPipeline(
            vae=parts.get("vae"), text_encoder=parts["text_encoder"], tokenizer=parts.get("tokenizer"),
            unet=parts["denoiser"], scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    if family == "sdxl":
        return StableDiffusionXLPipeline(
            vae=None, text_encoder=parts["text_encoder"], text_encoder_2=parts["text_encoder_2"], tokenizer=None,
            tokenizer_2=None, unet=parts["denoiser"], scheduler=EulerDiscreteScheduler(),
        )  # fmt: skip
    return FluxPipeline(
        vae=None, text_encoder=parts["text_encoder"], text_encoder_2=None, tokenizer=None, tokenizer_2=None,
        transformer=parts["denoiser"], scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


@pytest.fixture
def new_parts(
    new_miniature: Callable[..., Any], new_clip: Callable[..., nn.Module]
) -> Callable[[str], dict[str, Any]]:
    def build(family: str) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "denoiser": new_miniature(family).module,
            "text_encoder": new_clip(with_projection=False),
        }
        return parts | ({"text_encoder_2": new_clip(with_projection=True)} if family == "sdxl" else {})

    return build


def outputs(family: str, parts: dict[str, Any], new_miniature: Callable[..., Any]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {
            part: new_miniature(family).call(module) if part == "denoiser" else module(TOKEN_IDS)[0]
            for part, module in parts.items()
        }


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux"])
@pytest.mark.parametrize("kind", KINDS)
def test_ordinary_pipeline_loads_the_file_and_computes_the_same(
    new_parts: Callable[[str], dict[str, Any]],
    new_miniature: Callable[..., Any],
    shake: Callable[[nn.Module], None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    family: Any,
    kind: str,
) -> None:
    parts = new_parts(family)
    before = outputs(family, parts, new_miniature)
    add_adapters(parts, AdapterConfig(rank=2, text_encoder=True, **KINDS[kind]), family=family, seed=0)
    for module in parts.values():
        shake(module)
    expected = outputs(family, parts, new_miniature)
    states = {
        part: {n: t.clone() for n, t in adapter_state(module).items()} for part, module in parts.items()
    }
    export_diffusers(parts, tmp_path / DIFFUSERS_FILE, family=family)

    pipeline = pipeline_of(family, fresh := new_parts(family))
    with caplog.at_level(logging.WARNING):
        pipeline.load_lora_weights(tmp_path, weight_name=DIFFUSERS_FILE)
    assert [record.message for record in caplog.records if "keys" in record.message] == []
    loaded = outputs(family, fresh, new_miniature)
    for part, output in expected.items():
        assert float((loaded[part] - output).abs().max()) <= 1e-6 * float(output.abs().max().clamp_min(1))
        assert float((loaded[part] - before[part]).abs().max()) > 1e-3
    for part, module in parts.items():  # exporting is reading
        assert all(torch.equal(tensor, states[part][name]) for name, tensor in adapter_state(module).items())


@pytest.mark.parametrize("kind", KINDS)
def test_reader_that_overlooks_the_metadata_computes_the_same(
    new_parts: Callable[[str], dict[str, Any]],
    new_miniature: Callable[..., Any],
    shake: Callable[[nn.Module], None],
    tmp_path: Path,
    kind: str,
) -> None:
    parts = {"denoiser": new_parts("sd")["denoiser"]}
    section = {key: value for key, value in KINDS[kind].items() if not key.startswith("text_encoder")}
    config = AdapterConfig(rank=2, **(section | ({"dora": "denoiser"} if kind == "dora" else {})))
    add_adapters(parts, config, family="sd", seed=0)
    shake(parts["denoiser"])
    expected = outputs("sd", parts, new_miniature)["denoiser"]
    export_diffusers(parts, tmp_path / DIFFUSERS_FILE, family="sd")

    fresh = new_parts("sd")
    pipeline_of("sd", fresh).load_lora_weights(safetensors.torch.load_file(tmp_path / DIFFUSERS_FILE))
    loaded = outputs("sd", {"denoiser": fresh["denoiser"]}, new_miniature)["denoiser"]
    assert float((loaded - expected).abs().max()) <= 2e-6


def test_ordinary_pipeline_draws_the_same_image(
    new_miniature: Callable[..., Any], shake: Callable[[nn.Module], None], tmp_path: Path
) -> None:
    def parts() -> dict[str, Any]:
        encoder = tiny_prompt_encoder(max_tokens=16)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae = AutoencoderKL(
                block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            ).eval()  # fmt: skip
        return {
            "denoiser": new_miniature("sd").module,
            "text_encoder": encoder.text_model,
            "tokenizer": encoder.tokenizer,
            "vae": vae,
        }

    def image(pipeline: Any) -> Tensor:
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        drawn: Tensor = pipeline(
            "a polyp", num_inference_steps=3, height=16, width=16, generator=generator, output_type="pt"
        ).images
        return drawn

    adapted, fresh = parts(), parts()
    unadapted = image(pipeline_of("sd", parts()))
    networks = {part: adapted[part] for part in ("denoiser", "text_encoder")}
    add_adapters(networks, AdapterConfig(rank=2, text_encoder=True), family="sd", seed=0)
    for module in networks.values():
        shake(module)
    export_diffusers(networks, tmp_path / DIFFUSERS_FILE, family="sd")
    pipeline = pipeline_of("sd", fresh)
    pipeline.load_lora_weights(tmp_path, weight_name=DIFFUSERS_FILE)
    expected = image(pipeline_of("sd", adapted))
    torch.testing.assert_close(image(pipeline), expected, rtol=0, atol=1e-5)
    assert float((unadapted - expected).abs().max()) > 1e-2


def test_file_names_its_parts_and_carries_alpha(
    new_parts: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    parts = new_parts("sd")
    add_adapters(parts, AdapterConfig(rank=2, alpha=8, text_encoder=True), family="sd", seed=0)
    export_diffusers(parts, tmp_path / "new" / DIFFUSERS_FILE, family="sd")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [DIFFUSERS_FILE]
    with safetensors.safe_open(tmp_path / "new" / DIFFUSERS_FILE, framework="pt") as file:
        names, metadata = list(file.keys()), json.loads(file.metadata()["lora_adapter_metadata"])
    assert {name.split(".")[0] for name in names} == {"unet", "text_encoder"}
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert (metadata["unet.lora_alpha"], metadata["text_encoder.lora_alpha"], metadata["unet.r"]) == (2, 2, 2)


def test_families_and_parts_without_a_loader_are_refused(
    new_miniature: Callable[..., Any], new_t5: Callable[..., nn.Module], tmp_path: Path
) -> None:
    file = tmp_path / DIFFUSERS_FILE
    parts = {"denoiser": new_miniature("pixart").module, "text_encoder": new_t5(gated=True)}
    add_adapters(parts, AdapterConfig(text_encoder=True), family="pixart", seed=0)
    with pytest.raises(AdapterError, match=r"loads no LoRA file into pixart; it does for sd, sdxl, flux"):
        export_diffusers(parts, file, family="pixart")
    with pytest.raises(
        AdapterError, match=r"of flux holds denoiser, text_encoder, not text_encoder_2; merge"
    ):
        export_diffusers({"text_encoder_2": parts["text_encoder"]}, file, family="flux")
    with pytest.raises(AdapterError, match=r"no part has an adapter to export"):
        export_diffusers({"denoiser": new_miniature("sd").module}, file, family="sd")
    assert not file.exists()
