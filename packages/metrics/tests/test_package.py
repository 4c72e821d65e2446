import ast
import subprocess
import sys
from pathlib import Path

import medgen_metrics
import pytest

# Functions that bear the name of the module they live in.
NAMESAKES = ("frechet_limit", "inception_score", "prdc", "realism")


def run(program: str, *words: str) -> str:
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    return done.stdout


def test_every_public_name_resolves() -> None:
    for name in medgen_metrics.__all__:
        assert getattr(medgen_metrics, name) is not None
    assert dir(medgen_metrics) == sorted(medgen_metrics.__all__)


def test_names_for_type_checkers_are_those_at_run_time() -> None:
    source = Path(str(medgen_metrics.__file__)).read_text(encoding="utf-8")
    imports = [
        node
        for block in ast.parse(source).body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    ]
    for_types = {
        alias.name: str(node.module).removeprefix("medgen_metrics.")
        for node in imports
        for alias in node.names
    }
    assert for_types == medgen_metrics._MODULE_OF
    assert sorted(for_types) == sorted(medgen_metrics.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'medgen_metrics' has no attribute 'fid'"):
        medgen_metrics.fid  # type: ignore[attr-defined]  # noqa: B018


def test_function_is_found_before_and_after_its_namesake_module_is_imported() -> None:
    program = (
        "import importlib, sys, types, medgen_metrics\n"
        "if sys.argv[1] == 'module first':\n"
        "    for name in sys.argv[2:]: importlib.import_module(f'medgen_metrics.{name}')\n"
        "import medgen_metrics.evaluate\n"
        "for name in sys.argv[2:]:\n"
        "    found = getattr(medgen_metrics, name)\n"
        "    assert isinstance(found, types.FunctionType), (name, found)\n"
        "    assert found is getattr(sys.modules[f'medgen_metrics.{name}'], name)\n"
        "print('done')"
    )
    assert all(medgen_metrics._MODULE_OF[name] == name for name in NAMESAKES)
    for order in ("module first", "function first"):
        assert run(program, order, *NAMESAKES) == "done\n"


def test_importing_the_package_loads_no_torch() -> None:
    loaded = run("import sys, medgen_metrics; print(*[name for name in sys.modules if '.' not in name])")
    assert "medgen_metrics" in loaded.split()
    assert not {"torch", "numpy", "PIL", "safetensors"} & set(loaded.split())


def test_using_the_package_needs_neither_torchmetrics_nor_generator_libraries() -> None:
    program = (
        "import sys, medgen_metrics\n"
        "for name in medgen_metrics.__all__: getattr(medgen_metrics, name)\n"
        "print(*[name for name in sys.modules if '.' not in name])"
    )
    loaded = set(run(program).split())
    assert "torch" in loaded
    assert not {"torchmetrics", "torchvision", "scipy", "sklearn", "diffusers", "transformers"} & loaded
