"""What a run records about the machine and the code: versions, git commit, device, peak memory."""

import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from medgen_cli.errors import UsageError

OUR_PACKAGES = (
    "medgen",
    "medgen-data",
    "medgen-captioning",
    "medgen-models",
    "medgen-training",
    "medgen-metrics",
    "medgen-classify",
    "medgen-review",
)
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow", "pydantic", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions of Python, of our packages, and of the libraries that shape a result."""
    found = {"python": sys.version.split()[0]}
    for package in (*OUR_PACKAGES, *_LIBRARIES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """Return the commit of the code, with "-dirty" if tracked files differ; None outside a checkout."""
    source_dir = Path(__file__).parent
    # A copy installed inside somebody else's repository must not claim that repository's commit.
    if _git(source_dir, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = _git(source_dir, "rev-parse", "HEAD")
    changed = _git(source_dir, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def choose_device(wanted: str) -> str:
    """Return the device to use: "auto" takes a GPU where there is one.

    Raises:
        UsageError: If the wanted device is not there.
    """
    import torch

    has_mps = torch.backends.mps.is_available()
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        kind = torch.device(wanted).type
    except RuntimeError:
        raise UsageError(f"--device {wanted}: no such device; use auto, cpu, cuda or cuda:N") from None
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": has_mps}
    if not available.get(kind, False):
        raise UsageError(f"--device {wanted}: not available on this machine; use --device cpu")
    return wanted


def peak_memory() -> dict[str, int | None]:
    """Return the peaks of resident and of GPU memory of this process, in bytes, as run.json names them."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    uses_gpu = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    on_gpu = torch.cuda.max_memory_allocated() if torch is not None and uses_gpu else None
    return {"peak_memory_bytes": resident, "peak_gpu_memory_bytes": on_gpu}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
