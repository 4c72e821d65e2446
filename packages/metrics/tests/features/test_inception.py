import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from medgen_metrics.features.hub_files import commit_of_snapshot
from medgen_metrics.features.inception import (
    PUBLISHED_SHA256,
    TAPS,
    WEIGHTS_VARIABLE,
    InceptionExtractor,
    find_inception_weights,
    frozen_tensors,
    misfits,
    read_inception_weights,
)
from medgen_metrics.features.inception_network import FidInception
from medgen_metrics.features.loading import load_extractor
from medgen_metrics.features.protocol import MissingWeightsError
from medgen_metrics.features.weights import write_weights
from torch import Tensor

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    """Draw weights of every tensor, scaled so that activations neither die nor explode."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FidInception().state_dict().items()}
    drawn: State = {}
    for name, shape in shapes.items():
        if name.endswith(("bn.weight", "running_var")):
            drawn[name] = 0.7 + 0.6 * torch.rand(shape, generator=generator)
        elif name.endswith(("conv.weight", "fc.weight")):
            fan_in = shape[1:].numel()
            drawn[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        elif not name.endswith("num_batches_tracked"):
            drawn[name] = 0.1 * torch.randn(shape, generator=generator)
    return drawn


@pytest.fixture(scope="module")
def weights_file(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inception") / "random.safetensors"
    write_weights(file, state)
    return file


@pytest.fixture(scope="module")
def extractors(weights_file: Path) -> dict[str, InceptionExtractor]:
    return {tap: InceptionExtractor(tap, weights_file) for tap in TAPS}


@pytest.fixture(scope="module")
def pixel_values() -> Tensor:
    return torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1


def reference(state: State, hidden: Tensor) -> dict[str, Tensor]:
    """Compute every layer a second way: one flat script over the tensors, in float64."""

    def unit(name: str, x: Tensor, stride: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
        mean, var, scale, shift = (
            state[f"{name}.bn.{part}"].double().view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.conv2d(x, state[f"{name}.conv.weight"].double(), None, stride, pad)
        return ((x - mean) / (var + 0.001).sqrt() * scale + shift).relu()

    def chain(x: Tensor, *steps: tuple[str, tuple[int, int]]) -> Tensor:
        for name, pad in steps:
            x = unit(name, x, pad=pad)
        return x

    def average(x: Tensor) -> Tensor:
        # Sums over 3 x 3, divided by how many pixels of the picture were in reach.
        counts = F.avg_pool2d(torch.ones_like(x), 3, 1, 1, divisor_override=1)
        return F.avg_pool2d(x, 3, 1, 1, divisor_override=1) / counts

    none, one, two, row, column = (0, 0), (1, 1), (2, 2), (0, 3), (3, 0)
    taps: dict[str, Tensor] = {}
    x = unit("Conv2d_1a_3x3", hidden.double(), stride=2)
    x = chain(x, ("Conv2d_2a_3x3", none), ("Conv2d_2b_3x3", one))
    taps["64"] = x = F.max_pool2d(x, 3, 2)
    x = chain(x, ("Conv2d_3b_1x1", none), ("Conv2d_4a_3x3", none))
    taps["192"] = x = F.max_pool2d(x, 3, 2)
    for m in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = torch.cat(
            [
                unit(f"{m}.branch1x1", x),
                chain(x, (f"{m}.branch5x5_1", none), (f"{m}.branch5x5_2", two)),
                chain(
                    x,
                    (f"{m}.branch3x3dbl_1", none),
                    (f"{m}.branch3x3dbl_2", one),
                    (f"{m}.branch3x3dbl_3", one),
                ),
                unit(f"{m}.branch_pool", average(x)),
            ],
            dim=1,
        )
    doubled = chain(x, ("Mixed_6a.branch3x3dbl_1", none), ("Mixed_6a.branch3x3dbl_2", one))
    x = torch.cat(
        [
            unit("Mixed_6a.branch3x3", x, stride=2),
            unit("Mixed_6a.branch3x3dbl_3", doubled, stride=2),
            F.max_pool2d(x, 3, 2),
        ],
        dim=1,
    )
    for m in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = torch.cat(
            [
                unit(f"{m}.branch1x1", x),
                chain(x, (f"{m}.branch7x7_1", none), (f"{m}.branch7x7_2", row), (f"{m}.branch7x7_3", column)),
                chain(
                    x,
                    (f"{m}.branch7x7dbl_1", none),
                    (f"{m}.branch7x7dbl_2", column),
                    (f"{m}.branch7x7dbl_3", row),
                    (f"{m}.branch7x7dbl_4", column),
                    (f"{m}.branch7x7dbl_5", row),
                ),
                unit(f"{m}.branch_pool", average(x)),
            ],
            dim=1,
        )
    taps["768"] = x
    m = "Mixed_7a"
    long = chain(x, (f"{m}.branch7x7x3_1", none), (f"{m}.branch7x7x3_2", row), (f"{m}.branch7x7x3_3", column))
    x = torch.cat(
        [
            unit(f"{m}.branch3x3_2", unit(f"{m}.branch3x3_1", x), stride=2),
            unit(f"{m}.branch7x7x3_4", long, stride=2),
            F.max_pool2d(x, 3, 2),
        ],
        dim=1,
    )
    for m, pool in (("Mixed_7b", average), ("Mixed_7c", lambda x: F.max_pool2d(x, 3, 1, 1))):
        single = unit(f"{m}.branch3x3_1", x)
        double = chain(x, (f"{m}.branch3x3dbl_1", none), (f"{m}.branch3x3dbl_2", one))
        x = torch.cat(
            [
                unit(f"{m}.branch1x1", x),
                unit(f"{m}.branch3x3_2a", single, pad=(0, 1)),
                unit(f"{m}.branch3x3_2b", single, pad=(1, 0)),
                unit(f"{m}.branch3x3dbl_3a", double, pad=(0, 1)),
                unit(f"{m}.branch3x3dbl_3b", double, pad=(1, 0)),
                unit(f"{m}.branch_pool", pool(x)),
            ],
            dim=1,
        )
    taps["2048"] = x
    pooled = {name: tap.mean(dim=(2, 3)) for name, tap in taps.items()}
    pooled["logits_unbiased"] = pooled["2048"] @ state["fc.weight"].double().T
    pooled["logits"] = pooled["logits_unbiased"] + state["fc.bias"].double()
    return pooled


def test_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = FidInception()
    # Torchvision documents 27,161,264 for Inception-v3, of which the auxiliary classifier, absent here, has
    # 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769 * 1000; eight more classes have 2049 numbers each.
    auxiliary = 768 * 128 + 2 * 128 + 128 * 768 * 25 + 2 * 768 + 769 * 1000
    expected = 27_161_264 - auxiliary + 8 * 2049
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 23_850_960


def test_every_layer_equals_a_flat_float64_script(
    state: State, extractors: dict[str, InceptionExtractor], pixel_values: Tensor
) -> None:
    expected = reference(state, pixel_values[:1])
    assert set(expected) == set(TAPS)
    for tap in TAPS:
        features = extractors[tap].from_pixel_values(pixel_values[:1])
        assert features.shape == (1, 1008 if tap.startswith("logits") else int(tap))
        scale = float(expected[tap].abs().max())
        assert float((features - expected[tap]).abs().max()) < 1e-5 * scale, tap
        assert float(expected[tap].std()) > 0.01 * scale, tap  # the layer is alive


def test_folding_changes_only_rounding(state: State, pixel_values: Tensor) -> None:
    network = FidInception()
    network.load_state_dict(state, strict=False)
    network.eval().requires_grad_(requires_grad=False)
    before = network(pixel_values)
    network.fold()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network(pixel_values), before, rtol=1e-4, atol=1e-5)


def test_feature_of_an_image_does_not_depend_on_its_batch(
    extractors: dict[str, InceptionExtractor], pixel_values: Tensor
) -> None:
    extractor = extractors["768"]
    together = extractor.from_pixel_values(pixel_values)
    alone = torch.cat([extractor.from_pixel_values(one[None]) for one in pixel_values])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_logits_follow_from_stored_features(
    extractors: dict[str, InceptionExtractor], pixel_values: Tensor
) -> None:
    pooled = extractors["2048"]
    features = pooled.from_pixel_values(pixel_values[:1])
    for tap in ("logits", "logits_unbiased"):
        direct = extractors[tap].from_pixel_values(pixel_values[:1])
        torch.testing.assert_close(pooled.logits(features, biased=tap == "logits"), direct)
    with pytest.raises(ValueError, match=r"must be \[B, 2048\].*got \(1, 768\)"):
        pooled.logits(torch.zeros(1, 768))


def test_images_go_through_the_resize_of_tensorflow_1(extractors: dict[str, InceptionExtractor]) -> None:
    extractor = extractors["64"]
    assert extractor.preprocessing.name == "bilinear-tf1 299x299, (value - 128) / 128"
    images = torch.randint(0, 256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(0))
    by_hand = extractor.from_pixel_values((images.float() - 128) / 128)
    torch.testing.assert_close(extractor(images.to(torch.uint8)), by_hand)


def test_other_resize_and_precision_are_another_named_space(
    weights_file: Path, extractors: dict[str, InceptionExtractor], pixel_values: Tensor
) -> None:
    clean = load_extractor("inception:64:bicubic-antialias", weights_file=weights_file)
    assert clean.preprocessing.name == "bicubic-antialias 299x299, (value - 128) / 128"
    fast = load_extractor("inception:64:bfloat16", weights_file=weights_file)
    exact = extractors["64"]
    assert fast.id == "inception:64:bfloat16" != exact.id
    # Eight bits of mantissa, through three layers.
    difference = (fast.from_pixel_values(pixel_values) - exact.from_pixel_values(pixel_values)).abs().max()
    assert 1e-5 < float(difference) < 0.05


def expected_names() -> set[str]:
    """List the tensors of the published file, written out from its block names."""
    five = "branch1x1 branch5x5_1 branch5x5_2 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3 branch_pool"
    six = "branch1x1 branch_pool " + " ".join(
        [*(f"branch7x7_{i}" for i in (1, 2, 3)), *(f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5))]
    )
    seven = (
        "branch1x1 branch3x3_1 branch3x3_2a branch3x3_2b branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3a "
        "branch3x3dbl_3b branch_pool"
    )
    blocks = {f"Mixed_5{letter}": five for letter in "bcd"}
    blocks |= {"Mixed_6a": "branch3x3 branch3x3dbl_1 branch3x3dbl_2 branch3x3dbl_3"}
    blocks |= {f"Mixed_6{letter}": six for letter in "bcde"}
    blocks |= {
        "Mixed_7a": "branch3x3_1 branch3x3_2 branch7x7x3_1 branch7x7x3_2 branch7x7x3_3 branch7x7x3_4",
        "Mixed_7b": seven,
        "Mixed_7c": seven,
    }
    units = [f"{block}.{unit}" for block, names in blocks.items() for unit in names.split()]
    units += [f"Conv2d_{name}" for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")]
    parts = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
    return {f"{unit}.{part}" for unit in units for part in parts} | {"fc.weight", "fc.bias"}


def test_names_are_those_of_the_published_file(state: State) -> None:
    assert set(state) == expected_names()
    assert state["fc.weight"].shape == (1008, 2048)


def test_counters_of_batches_are_optional_and_change_nothing(state: State) -> None:
    counted = {**state, "Conv2d_1a_3x3.bn.num_batches_tracked": torch.tensor(7)}
    assert frozen_tensors(counted).keys() == state.keys()
    assert misfits(frozen_tensors(counted)) == ()


def test_unpublished_weights_load_with_a_warning(
    weights_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        extractor = InceptionExtractor("64", weights_file)
    assert not extractor.verified
    assert extractor.cautions == (caplog.messages[0].removeprefix(f"{weights_file}: "),)
    assert f"are not the published file (sha256 {PUBLISHED_SHA256})" in extractor.cautions[0]
    assert extractor.revision is None


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (
            without("Mixed_7c.branch_pool.conv.weight"),
            ("Mixed_7c.branch_pool.conv.weight is missing",),
        ),
        (
            lambda state: {**state, "AuxLogits.fc.bias": torch.zeros(1)},
            ("AuxLogits.fc.bias is not of this network",),
        ),
        (
            lambda state: {**state, "fc.weight": torch.zeros(1000, 2048)},
            ("fc.weight is (1000, 2048), expected (1008, 2048)",),
        ),
        (lambda state: state, ()),
    ],
    ids=["missing", "foreign", "shape", "right"],
)
def test_tensors_that_do_not_fit_are_named(
    state: State, change: Callable[[State], State], problems: tuple[str, ...]
) -> None:
    assert misfits(change(state)) == problems


def test_another_network_is_refused_by_its_first_tensors(tmp_path: Path) -> None:
    write_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    found = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    with pytest.raises(
        ValueError,
        match=rf"w\.safetensors: not the FID Inception network: Conv2d_1a_3x3\.conv\.weight is missing; .* and "
        rf"470 more; found sha256 {found}, expected .* \(sha256 {PUBLISHED_SHA256}\)",
    ):
        read_inception_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_file_names_both_hashes_and_the_ways_out(
    weights_file: Path, tmp_path: Path, suffix: str
) -> None:
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(weights_file.read_bytes()[:100_000])
    with pytest.raises(ValueError, match="is damaged or no weight file") as caught:
        InceptionExtractor("2048", cut)
    text = str(caught.value)
    assert PUBLISHED_SHA256 in text
    assert "found sha256" in text
    for way in ("weights_file", WEIGHTS_VARIABLE, "hf:OWNER/REPO/FILE@REVISION", "efficientnet-lite0"):
        assert way in text


def test_no_file_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(MissingWeightsError, match=r"no weights of the FID Inception network.*6726825d"):
        load_extractor("inception:2048")
    with pytest.raises(MissingWeightsError, match=r"gone\.pth: no such weight file"):
        load_extractor("inception:2048", weights_file=tmp_path / "gone.pth")


def test_environment_variable_names_the_file(
    weights_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(weights_file))
    assert find_inception_weights() == weights_file
    assert find_inception_weights(weights_file) == weights_file
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(tmp_path / "gone.pth"))
    assert find_inception_weights(weights_file) == weights_file


def test_file_in_the_local_hub_cache_is_found_and_never_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    commit = "0" * 40
    repo = tmp_path / "models--someone--fid"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / "inception.safetensors").write_bytes(b"x")
    found = find_inception_weights("hf:someone/fid/inception.safetensors")
    assert found == repo / "snapshots" / commit / "inception.safetensors"
    assert find_inception_weights(Path(f"hf:someone/fid/inception.safetensors@{commit}")) == found
    assert commit_of_snapshot(found) == commit
    assert commit_of_snapshot(tmp_path / "snapshots" / "main" / "inception.safetensors") is None
    with pytest.raises(
        MissingWeightsError, match=r"hf:someone/fid/other\.pth: not in the local Hugging Face"
    ):
        find_inception_weights("hf:someone/fid/other.pth")
    with pytest.raises(ValueError, match="expected hf:OWNER/REPO/FILE"):
        find_inception_weights("hf:someone")


def test_unknown_layer_lists_the_known_ones(weights_file: Path) -> None:
    with pytest.raises(ValueError, match="no Inception layer '512'; expected one of 64, 192, 768, 2048"):
        InceptionExtractor("512", weights_file)  # type: ignore[arg-type]


def test_equals_torch_fidelity_where_it_is_installed(
    state: State, weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(torch, "load", lambda *_, **__: state)
    network = theirs.FeatureExtractorInceptionV3("i", list(TAPS), feature_extractor_weights_path="w")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 120, 200), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    for tap, expected in zip(TAPS, network(images), strict=True):
        torch.testing.assert_close(
            InceptionExtractor(tap, weights_file)(images), expected, rtol=1e-4, atol=1e-4
        )
