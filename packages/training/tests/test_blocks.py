from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from medgen_models.adapters import AdapterConfig, adapter_parameters, add_adapters
from medgen_models.adapters.folders import AdapterFacts, BaseOptions
from medgen_models.base_models import load_pretrained
from medgen_models.protocol import Conditioning, ImageConditioned
from medgen_models.tiny.flux import write_tiny_flux
from medgen_models.tiny.hunyuan_dit import write_tiny_hunyuan_dit
from medgen_models.tiny.kandinsky3 import write_tiny_kandinsky3
from medgen_models.tiny.kandinsky22 import write_tiny_kandinsky22_decoder, write_tiny_kandinsky22_prior
from medgen_models.tiny.pixart import write_tiny_pixart
from medgen_models.tiny.sdxl import write_tiny_sdxl
from medgen_models.tiny.stable_diffusion import write_tiny_sd
from medgen_training.blocks import (
    CompilerError,
    check_compiler,
    checkpoint_blocks,
    compile_blocks,
    outer_blocks,
)
from torch import Tensor, nn

WRITERS: dict[str, Callable[[Path], Path]] = {
    "pixart": write_tiny_pixart,
    "sd": write_tiny_sd,
    "sdxl": write_tiny_sdxl,
    "hunyuan-dit": write_tiny_hunyuan_dit,
    "kandinsky22-prior": write_tiny_kandinsky22_prior,
    "kandinsky22-decoder": write_tiny_kandinsky22_decoder,
    "kandinsky3": write_tiny_kandinsky3,
    "flux": write_tiny_flux,
}


def adapted_miniature(family: Any, folder: Path) -> Any:
    """Return a miniature whose denoiser carries an adapter that does something."""
    options = BaseOptions()
    if family == "kandinsky22-decoder":
        options = BaseOptions(prior=str(write_tiny_kandinsky22_prior(folder / "prior")))
    facts = AdapterFacts(
        family=family, base_model=str(WRITERS[family](folder / "base")), base_options=options
    )
    model = load_pretrained(facts)
    for module in model.components().values():
        module.requires_grad_(False).eval()
    add_adapters(model.components(), AdapterConfig(rank=2), family=family, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model.denoiser):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def conditions_of(model: Any, generator: torch.Generator) -> Conditioning:
    if isinstance(model, ImageConditioned):
        pixel_values = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
        return model.encode_image_conditioning(pixel_values)
    conditioning: Conditioning = model.encode_prompts(["a polyp", "two"])
    return conditioning.with_guidance(3.5) if model.embeds_guidance else conditioning


def gradients(model: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    conditioning = conditions_of(model, generator)
    latents = torch.randn(2, *model.latent_shape, generator=generator)
    timesteps = model.diffusion.draw_timesteps(2, generator)
    prediction = model.denoise(latents, timesteps, conditioning)
    parameters = adapter_parameters(model.denoiser)
    found = torch.autograd.grad(prediction.square().mean(), parameters)
    return prediction.detach(), torch.cat([gradient.flatten() for gradient in found])


@pytest.mark.parametrize("family", WRITERS)
def test_checkpointed_blocks_keep_less_and_have_the_same_gradient(family: str, tmp_path: Path) -> None:
    model = adapted_miniature(family, tmp_path)
    kept: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        plain = gradients(model)
    num_plain = len(kept)
    kept.clear()
    checkpoint_blocks(model.denoiser)
    passes: Counter[nn.Module] = Counter()
    for block in outer_blocks(model.denoiser):
        for layer in block.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.register_forward_hook(lambda layer, *_: passes.update([layer]))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        checkpointed = gradients(model)
    assert plain[1].norm() > 0
    assert len(kept) < 0.8 * num_plain
    # Forwards, and once more on the way back; in some UNet blocks diffusers does not compute the attention again.
    assert set(passes.values()) <= {1, 2}
    assert 2 in passes.values()
    assert torch.equal(plain[0], checkpointed[0])
    assert float((plain[1] - checkpointed[1]).norm() / plain[1].norm()) < 1e-6


def test_without_gradient_checkpointed_blocks_run_once(tmp_path: Path) -> None:
    model = adapted_miniature("kandinsky22-prior", tmp_path)
    checkpoint_blocks(model.denoiser)
    passes = []
    inside = next(
        child for child in outer_blocks(model.denoiser)[0].modules() if isinstance(child, nn.Linear)
    )
    inside.register_forward_hook(lambda *_: passes.append(1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = torch.randn(2, *model.latent_shape, generator=generator)
        model.denoise(latents, model.diffusion.draw_timesteps(2, generator), conditions_of(model, generator))
    assert len(passes) == 1


def test_outer_blocks_are_those_of_the_outermost_lists() -> None:
    inner = nn.ModuleList([nn.Linear(2, 2)])
    outer = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), inner[0]), nn.ReLU(), nn.Linear(2, 2)])
    network = nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.ModuleDict({"blocks": outer})})
    assert outer_blocks(network) == [outer[0], outer[2]]  # without weights there is nothing to save


@pytest.mark.parametrize("family", ["pixart", "sd"])
def test_compiled_blocks_compute_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted_miniature(family, tmp_path)
    plain = gradients(model)
    compiled: list[nn.Module] = []

    def compile_eagerly(block: nn.Module, **options: Any) -> None:
        # The tracer for real, without the code generator, which needs a compiler and a minute.
        compiled.append(block)
        compile_in_place(block, backend="eager", **options)

    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", compile_eagerly)
    compile_blocks(model.denoiser)
    traced = gradients(model)
    assert compiled == outer_blocks(model.denoiser)
    torch.testing.assert_close(traced[0], plain[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(traced[1], plain[1], rtol=1e-4, atol=1e-6)


def test_a_machine_without_compiler_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "TORCHINDUCTOR_CACHE_DIR", str(tmp_path)
    )  # what another run compiled needs no compiler
    torch.compiler.reset()
    absent = torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "g++"))})
    with (
        absent,
        pytest.raises(CompilerError, match=r"compile_blocks: torch cannot compile for cpu.*No working C\+\+"),
    ):
        check_compiler(torch.device("cpu"))
    torch.compiler.reset()
