"""Scores of feature sets against the packages that are customary for them, on the same features in one run.

    OMP_NUM_THREADS=2 uv run python benchmarks/metrics.py [--quick] [--only NAME]

A line per task and package: CPU-seconds (of all threads), growth of resident memory at the peak in MiB, and the
relative error against float64 references; then the ratio of ours to the fastest peer beside its bar. Every
measurement has a process of its own, so no peak hides behind an earlier one. A peer that is not installed is
named and judged nowhere.
"""

import argparse
import importlib
import importlib.util
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from medgen_metrics.feature_statistics import RunningStatistics
from medgen_metrics.features.inception import InceptionExtractor
from medgen_metrics.features.inception_network import FidInception
from medgen_metrics.frechet import frechet_distance, frechet_distance_of_statistics, frechet_estimate
from medgen_metrics.kernel import kernel_distance
from medgen_metrics.prdc import prdc
from torch import Tensor

DIM = 2048
K = 5
BATCH = 500
MODULES = {
    "pytorch-fid": "pytorch_fid.fid_score",
    "clean-fid": "cleanfid.fid",
    "torch-fidelity": "torch_fidelity",
    "torchmetrics": "torchmetrics",
    "prdc": "prdc",
}
Tables = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """One row of the table of figures."""

    size: int
    quick_size: int
    ours: Callable[[int], Callable[[], float]]  # prepares, and returns what is timed
    peers: dict[str, Callable[[int], Callable[[], float]]]
    reference: Callable[[int], float] | None
    bar: float  # largest ratio of CPU-seconds, ours to the fastest peer's
    memory_bar: float = math.inf  # MiB


def features(num_images: int, seed: int, start: int = 0, dim: int = DIM) -> Tensor:
    """Draw float32 features, [N, D], with the falling spectrum of network features; seed 1 is a little off."""
    generator = torch.Generator().manual_seed(1_000_003 * seed + start)
    deviations = torch.arange(1, dim + 1) ** -0.6
    return (torch.randn(num_images, dim, generator=generator) + 0.1 * seed) * deviations + deviations


def tables(size: int) -> Tables:
    """Draw a real and a synthetic set."""
    return features(size, 0), features(size, 1)


def batches(size: int, seed: int) -> Iterator[Tensor]:
    """Yield a set in batches; a pool of them, so that drawing numbers is not what is timed."""
    pool = [features(BATCH, seed, start) for start in range(4)]
    for index in range(size // BATCH):
        # Another order of rows and another scale: no two batches are equal.
        yield pool[index % 4].roll(index, dims=0) * (1 + 1e-3 * index)


# Frechet distance -----------------------------------------------------------------------------------------


def moments_to_distance(peer: str) -> Callable[..., float]:
    """Return the peer's function of two means and covariances."""
    if peer == "torchmetrics":
        compute = importlib.import_module("torchmetrics.image.fid")._compute_fid
        return lambda *moments: float(compute(*moments))
    if peer == "torch-fidelity":
        compute = importlib.import_module("torch_fidelity.metric_fid").fid_statistics_to_metric

        def distance(m1: Any, s1: Any, m2: Any, s2: Any) -> float:
            result = compute({"mu": m1, "sigma": s1}, {"mu": m2, "sigma": s2}, False)
            return float(result["frechet_inception_distance"])

        return distance
    module = importlib.import_module(MODULES[peer])
    name = "calculate_frechet_distance" if peer == "pytorch-fid" else "frechet_distance"
    return lambda *moments: float(getattr(module, name)(*moments))


def frechet_peer(peer: str) -> Callable[[int], Callable[[], float]]:
    """Moments as the peer takes them, then its distance."""

    def prepare(size: int) -> Callable[[], float]:
        distance, sets = moments_to_distance(peer), tables(size)

        def run() -> float:
            moments: list[Any] = []
            for table in sets:
                if peer == "torchmetrics":  # sums of products in float64, as its update does
                    rows = table.double()
                    mean = rows.mean(dim=0)
                    products = rows.T @ rows - len(rows) * torch.outer(mean, mean)
                    moments += [mean, products / (len(rows) - 1)]
                else:
                    moments += [np.mean(table.numpy(), axis=0), np.cov(table.numpy(), rowvar=False)]
            return distance(*moments)

        return run

    return prepare


def frechet_ours(size: int) -> Callable[[], float]:
    """The value alone."""
    sets = tables(size)
    return lambda: frechet_distance(*sets)


def frechet_reference(size: int) -> float:
    """Singular values of the product of two float64 factors, by numpy."""
    factors, means = [], []
    for table in tables(size):
        rows = table.double().numpy()
        means.append(rows.mean(axis=0))
        centred = (rows - means[-1]) / math.sqrt(size - 1)
        factors.append(centred if size <= DIM else np.linalg.cholesky(centred.T @ centred).T)
    nuclear = np.linalg.svd(factors[0] @ factors[1].T, compute_uv=False).sum()
    traces = sum(np.square(factor).sum() for factor in factors)
    return float(np.square(means[0] - means[1]).sum() + traces - 2 * nuclear)


def streamed_ours(size: int) -> Callable[[], float]:
    """Two streams; no table is kept."""

    def fitted(seed: int) -> Any:
        running = RunningStatistics(DIM)
        for batch in batches(size, seed):
            running.update(batch)
        return running.statistics()

    return lambda: frechet_distance_of_statistics(fitted(0), fitted(1))


def streamed_peer(peer: str) -> Callable[[int], Callable[[], float]]:
    """Torchmetrics adds up products of a batch; the others keep the table that np.cov needs."""

    def prepare(size: int) -> Callable[[], float]:
        distance = moments_to_distance(peer)

        def run() -> float:
            moments: list[Any] = []
            for seed in (0, 1):
                if peer == "torchmetrics":
                    total = torch.zeros(DIM, dtype=torch.float64)
                    products = torch.zeros(DIM, DIM, dtype=torch.float64)
                    for batch in batches(size, seed):
                        rows = batch.double()
                        total += rows.sum(dim=0)
                        products += rows.T @ rows
                    mean = total / size
                    moments += [mean, (products - size * torch.outer(mean, mean)) / (size - 1)]
                else:
                    table = np.concatenate([batch.numpy() for batch in batches(size, seed)])
                    moments += [np.mean(table, axis=0), np.cov(table, rowvar=False)]
            return distance(*moments)

        return run

    return prepare


# KID, precision and recall --------------------------------------------------------------------------------


def kid_ours(size: int) -> Callable[[], float]:
    """All pairs, with standard error."""
    sets = tables(size)
    return lambda: kernel_distance(*sets).value


def kid_peer(peer: str) -> Callable[[int], Callable[[], float]]:
    """100 subsets of 1,000, or of half the set if it has fewer than 2,000."""

    def prepare(size: int) -> Callable[[], float]:
        real, synthetic = tables(size)
        subset = min(1000, size // 2)
        if peer == "clean-fid":
            clean = importlib.import_module("cleanfid.fid").kernel_distance
            return lambda: float(
                clean(real.numpy(), synthetic.numpy(), num_subsets=100, max_subset_size=subset)
            )
        if peer == "torch-fidelity":
            fidelity = importlib.import_module("torch_fidelity.metric_kid").kid_features_to_metric
            settings = {"kid_subsets": 100, "kid_subset_size": subset, "verbose": False}
            return lambda: float(fidelity(synthetic, real, **settings)["kernel_inception_distance_mean"])
        poly_mmd = importlib.import_module("torchmetrics.image.kid").poly_mmd

        def run() -> float:
            generator = torch.Generator().manual_seed(0)
            values = []
            for _ in range(100):
                rows = [torch.randperm(size, generator=generator)[:subset] for _ in range(2)]
                values.append(float(poly_mmd(real[rows[0]], synthetic[rows[1]])))
            return float(np.mean(values))

        return run

    return prepare


def kid_reference(size: int) -> float:
    """The definition on full float64 tables."""
    x, y = (table.double().numpy() for table in tables(size))
    sums = []
    for a, b in ((x, x), (y, y), (x, y)):
        kernel = (a @ b.T / DIM + 1) ** 3
        sums.append(kernel.sum() - (np.trace(kernel) if a is b else 0.0))
    return float((sums[0] + sums[1]) / (size * (size - 1)) - 2 * sums[2] / size**2)


def prdc_ours(size: int) -> Callable[[], float]:
    """All four and F1, with intervals."""
    sets = tables(size)
    return lambda: prdc(*sets, k=K, seed=0).precision.value


def prdc_peer(peer: str) -> Callable[[int], Callable[[], float]]:
    """Prdc computes all four, torch-fidelity precision and recall."""

    def prepare(size: int) -> Callable[[], float]:
        real, synthetic = tables(size)
        if peer == "prdc":
            compute = importlib.import_module("prdc").compute_prdc
            return lambda: float(compute(real.numpy(), synthetic.numpy(), nearest_k=K)["precision"])
        fidelity = importlib.import_module("torch_fidelity.metric_prc").prc_features_to_metric
        settings = {"prc_neighborhood": K, "prc_batch_size": 10_000, "verbose": False}
        return lambda: float(fidelity(real, synthetic, **settings)["precision"])

    return prepare


def naive_two(size: int) -> Callable[[], float]:
    """Precision and recall as everybody writes them: three full float32 tables."""
    real, synthetic = tables(size)

    def run() -> float:
        radii = [torch.cdist(each, each).kthvalue(K + 1, dim=1).values for each in (real, synthetic)]
        cross = torch.cdist(real, synthetic)
        recall = (cross <= radii[1]).any(dim=1).double().mean()
        precision = (cross <= radii[0][:, None]).any(dim=0).double().mean()
        return float(precision + 0 * recall)

    return run


def precision_reference(size: int) -> float:
    """Precision from full float64 tables."""
    real, synthetic = (table.double().numpy() for table in tables(size))

    def squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
        return np.asarray(norms - 2 * a @ b.T)

    own = squared(real, real)
    np.fill_diagonal(own, np.inf)
    radii = np.partition(own, K - 1, axis=1)[:, K - 1]
    return float((squared(real, synthetic) <= radii[:, None]).any(axis=0).mean())


# Single figures -------------------------------------------------------------------------------------------


def print_one_prompt() -> None:
    """Time and error of the Frechet distance of 10 against 50 images, 768 features."""
    mpmath = importlib.import_module("mpmath")

    real, synthetic = features(50, 0, dim=768), features(10, 1, dim=768)
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        value = frechet_distance(real, synthetic)
        seconds.append(time.perf_counter() - start)
    with mpmath.workdps(50):
        means, rows = [], []
        for table in (mpmath.matrix(each.tolist()) for each in (synthetic, real)):
            means.append([mpmath.fsum(table[:, j]) / table.rows for j in range(table.cols)])
            scale = mpmath.sqrt(table.rows - 1)
            rows.append(
                [[(table[i, j] - means[-1][j]) / scale for j in range(table.cols)] for i in range(table.rows)]
            )
        product = mpmath.matrix([[mpmath.fdot(a, b) for b in rows[1]] for a in rows[0]])
        eigenvalues = mpmath.eigsy(product * product.T, eigvals_only=True)
        exact = mpmath.fsum((a - b) ** 2 for a, b in zip(*means, strict=True))
        exact += mpmath.fsum(number**2 for table in rows for row in table for number in row)
        exact -= 2 * mpmath.fsum(mpmath.sqrt(abs(each)) for each in eigenvalues)
        error = float(abs(value / exact - 1))
    print(f"one-prompt: {1e3 * min(seconds):.2f} ms (bar 10), error {error:.1e} against 50 digits (bar 1e-9)")


def print_coverage(num_repeats: int) -> None:
    """How often 95% intervals hold the expected score of sets of this size."""
    size, dim = 150, 16
    scores: dict[str, Callable[[Tensor, Tensor], Any]] = {
        "frechet": frechet_estimate,
        "kid": kernel_distance,
        "precision": lambda real, synthetic: prdc(real, synthetic, k=3, seed=0).precision,
    }
    estimates: dict[str, list[Any]] = {name: [] for name in scores}
    # The truth is the mean over other sets, three times as many: else it would lean on what it judges.
    for repeat in range(4 * num_repeats):
        generator = torch.Generator().manual_seed(repeat)
        real, synthetic = torch.randn(2, size, dim, generator=generator, dtype=torch.float64)
        for name, score in scores.items():
            estimates[name].append(score(real, 0.9 * synthetic + 0.2))
    for name, drawn in estimates.items():
        truth = np.mean([each.value for each in drawn[num_repeats:]])
        held = sum(each.interval[0] <= truth <= each.interval[1] for each in drawn[:num_repeats])
        print(f"coverage {name}: {100 * held / num_repeats:.1f}% of {num_repeats} (bar 88 to 99)")


def print_inception(num_images: int) -> None:
    """Images per second of the Inception network at 299 px, random weights, ours and torch-fidelity's."""
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        weights_file = Path(folder) / "inception.pth"
        torch.save(FidInception().state_dict(), weights_file)  # the only form the peer reads
        ours = InceptionExtractor("2048", weights_file)
        half = InceptionExtractor("2048", weights_file, precision="bfloat16")
        fidelity = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        peer = fidelity.FeatureExtractorInceptionV3(
            "inception", ["2048"], feature_extractor_weights_path=str(weights_file)
        )
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_images, 3, 299, 299), generator=generator, dtype=torch.uint8)
    rates, features = {}, {}
    runs: dict[str, Callable[[Tensor], Tensor]] = {
        "ours": ours,
        "torch-fidelity": lambda batch: peer(batch)[0],
        "ours, bfloat16": half,
    }
    for name, run in runs.items():
        with torch.inference_mode():
            run(images[:8])  # not timed: kernels are chosen
            start = time.perf_counter()
            features[name] = torch.cat([run(batch) for batch in torch.split(images, 32)])
        rates[name] = num_images / (time.perf_counter() - start)
    reference = features["torch-fidelity"]
    for name, rate in rates.items():
        error = float((features[name] - reference).abs().max() / reference.abs().max())
        print(f"inception {name}: {rate:.1f} images/s, features off by {error:.1e}", flush=True)
    print(f"inception: ours / torch-fidelity = {rates['ours'] / rates['torch-fidelity']:.2f} (bar 1.3)")


# The run --------------------------------------------------------------------------------------------------

FID_PEERS = ("pytorch-fid", "clean-fid", "torch-fidelity", "torchmetrics")
FRECHET_PEERS = {peer: frechet_peer(peer) for peer in FID_PEERS}
KID_PEERS = {peer: kid_peer(peer) for peer in FID_PEERS[1:]}
TASKS = {
    "frechet-2000": Task(2000, 600, frechet_ours, FRECHET_PEERS, frechet_reference, 1 / 2),
    "frechet-5000": Task(5000, 2500, frechet_ours, FRECHET_PEERS, frechet_reference, 1 / 2),
    "frechet-stream": Task(
        50_000, 3000, streamed_ours, {p: streamed_peer(p) for p in FID_PEERS}, None, 1 / 1.3, 250
    ),
    "kid-2000": Task(2000, 500, kid_ours, KID_PEERS, kid_reference, 1 / 8),
    "kid-5000": Task(5000, 800, kid_ours, KID_PEERS, kid_reference, 1 / 2.5),
    "prdc-2000": Task(2000, 400, prdc_ours, {"naive two": naive_two}, precision_reference, math.inf),
    "prdc-10000": Task(
        10_000,
        1000,
        prdc_ours,
        {"prdc": prdc_peer("prdc"), "torch-fidelity": prdc_peer("torch-fidelity"), "naive two": naive_two},
        None,
        1.0,
        300,
    ),
}


def memory_mib(field: str) -> float:
    """Read VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return math.nan


def measure(task: Task, package: str, size: int) -> None:
    """Print one measurement as JSON; the process does nothing else."""
    run = (task.ours if package == "ours" else task.peers[package])(size)
    torch.linalg.eigvalsh(torch.eye(8, dtype=torch.float64))  # libraries load before the clock starts
    # Preparation may have peaked higher than what it left.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, start = memory_mib("VmRSS"), resource.getrusage(resource.RUSAGE_SELF)
    value = run()
    end = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    print(json.dumps({"value": value, "cpu_s": cpu_s, "mib": memory_mib("VmHWM") - before}))


def measured(name: str, package: str, size: int) -> dict[str, float] | str:
    """Measure in a process of its own; return the reason where that fails."""
    if package in MODULES:
        try:
            found = importlib.util.find_spec(MODULES[package])
        except ModuleNotFoundError:
            found = None
        if found is None:
            return "not installed"
    command = [sys.executable, __file__, "--measure", name, package, str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    return dict(json.loads(done.stdout.splitlines()[-1]))


def print_task(name: str, task: Task, size: int) -> None:
    """Measure ours and every peer, and print them with their ratio."""
    reference = task.reference(size) if task.reference else None
    fastest, ours = math.inf, math.nan
    for package in ("ours", *task.peers):
        result = measured(name, package, size)
        if isinstance(result, str):
            print(f"{name} N={size} {package:>15}: {result}", flush=True)
            continue
        error = "" if reference is None else f", error {result['value'] / reference - 1:+.1e}"
        print(
            f"{name} N={size} {package:>15}: {result['cpu_s']:7.2f} CPU-s, {result['mib']:6.0f} MiB, "
            f"value {result['value']:.6g}{error}",
            flush=True,
        )
        if package == "ours":
            ours = result["cpu_s"]
            if task.memory_bar < math.inf:
                print(f"{name}: memory {result['mib']:.0f} MiB (bar {task.memory_bar:.0f})")
        else:
            fastest = min(fastest, result["cpu_s"])
    if fastest < math.inf:
        print(f"{name}: ours / fastest peer = {ours / fastest:.3f} (bar {task.bar:.3f})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*TASKS, "inception", "one-prompt", "coverage"]
    parser.add_argument("--quick", action="store_true", help="small sets: shows that it runs, not how fast")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--measure", nargs=3, metavar=("NAME", "PACKAGE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, package, size = options.measure
        measure(TASKS[name], package, int(size))
        return
    print(f"torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads", flush=True)
    for name in options.only or names:
        if name == "one-prompt":
            print_one_prompt()
        elif name == "inception":
            print_inception(32 if options.quick else 256)
        elif name == "coverage":
            print_coverage(20 if options.quick else 200)
        else:
            print_task(name, TASKS[name], TASKS[name].quick_size if options.quick else TASKS[name].size)


if __name__ == "__main__":
    main()
