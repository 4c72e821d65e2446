"""A run folder like one that `medgen run` leaves: real phantoms, real PNG files, figures computed from them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medgen_data.atomic import write_bytes_atomic, write_json_atomic, write_jsonl_atomic, write_text_atomic
from medgen_data.image_folder import ImageDataset, read_image_folder, write_card_and_rows
from medgen_data.images import encode_png
from medgen_data.phantoms import draw_facts, phantom_seed, phantom_texts, render_phantom
from medgen_data.records import Generation, ImageRecord
from PIL import Image

MODEL_SHA256 = hashlib.sha256(b"model").hexdigest()


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which every stage was done; copy it before changing it."""
    run_dir = tmp_path_factory.mktemp("runs") / "demo"
    real = _write_phantoms(run_dir / "data" / "dataset", num_images=96, seed=0)
    synthetic = _write_phantoms(run_dir / "synthetic" / "dataset", num_images=64, seed=1, noise=12.0)
    _write_phantoms(run_dir / "synthetic" / "untrained", num_images=16, seed=2, noise=90.0)
    _write_captions(run_dir, real)
    _write_training(run_dir, real)
    _write_scores(run_dir, num_real=20, num_synthetic=64)
    _write_classifiers(run_dir, real, synthetic)
    _write_problems(run_dir)
    _write_run_record(run_dir)
    return run_dir


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[Any], None]], None]:
    """Change a JSON file in place."""

    def edit(json_file: Path, change: Callable[[Any], None]) -> None:
        value = json.loads(json_file.read_text())
        change(value)
        json_file.write_text(json.dumps(value))

    return edit


@pytest.fixture
def replace_records() -> Callable[[Path, Callable[[dict[str, Any]], None]], ImageDataset]:
    """Change every row of a data set and write its card anew."""

    def replace(dataset_dir: Path, change: Callable[[dict[str, Any]], None]) -> ImageDataset:
        dataset = read_image_folder(dataset_dir)
        rows = [record.model_dump() for record in dataset.records]
        for row in rows:
            change(row)
        generated = any(row["generation"] for row in rows)
        return _finish(dataset_dir, [ImageRecord(**row) for row in rows], synthetic=generated)

    return replace


def _write_phantoms(
    dataset_dir: Path, *, num_images: int, seed: int, noise: float | None = None
) -> ImageDataset:
    records = []
    for index in range(num_images):
        facts = draw_facts(index, seed)
        pixels = render_phantom(facts, size=64, seed=phantom_seed(index, seed))
        generator = np.random.default_rng((seed, index))
        if noise is not None:
            pixels = np.clip(pixels + generator.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)
        name = f"{'phantom' if noise is None else 'synthetic'}-{index:05d}"
        write_bytes_atomic(dataset_dir / "images" / f"{name}.png", encode_png(pixels), durable=False)
        texts = phantom_texts(facts)
        generation = Generation(
            prompt=texts[0],
            seed=index,
            model_sha256=MODEL_SHA256,
            num_inference_steps=20,
            guidance_scale=3.0,
            solver="dpm-solver++",
        )
        records.append(
            ImageRecord(
                file_name=f"images/{name}.png",
                record_id=name,
                label=facts.label,
                split=("test" if index // 4 % 5 == 0 else "train") if noise is None else None,
                text=texts if noise is None else texts[:1],
                facts=facts.to_row(),
                generation=None if noise is None else generation,
            )
        )
    return _finish(dataset_dir, records, synthetic=noise is not None)


def _finish(dataset_dir: Path, records: list[ImageRecord], *, synthetic: bool) -> ImageDataset:
    return write_card_and_rows(
        dataset_dir,
        records=records,
        name="demo-synthetic" if synthetic else "phantoms",
        modality="endoscopic",
        source="msdm-tiny trained on phantoms" if synthetic else "rendered by medgen_data.phantoms",
        licence="CC0-1.0",
        synthetic=True,  # phantoms are drawn too
        split_seed=None if synthetic else 0,
    )


def _write_captions(run_dir: Path, real: ImageDataset) -> None:
    rows = [
        {
            "record_id": record.record_id,
            "text": f"An endoscopic image of {record.label}. {record.text[0]}",
            "method": "measured",
            "model": None,
            "revision": "1",
            "seed": 0,
            "checks": ["label-named", "at-most-100-words"],
        }
        for record in real.records
    ]
    write_jsonl_atomic(run_dir / "captions" / "captions.jsonl", rows)


def _write_training(run_dir: Path, real: ImageDataset) -> None:
    generator = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for stage, num_steps, floor in (("autoencoder", 300, 0.004), ("denoiser", 800, 0.05)):
        for step in range(2, num_steps + 1, 2):
            loss = (floor + 0.9 * np.exp(-step / 40)) * generator.lognormal(0, 0.2)
            rows.append(
                {"stage": stage, "step": step, "loss": float(loss), "lr": 1e-3, "images_per_s": 120.0}
            )
        if stage == "autoencoder":
            rows.append({"stage": "cache", "step": 76, "images_per_s": 400.0})
    write_jsonl_atomic(run_dir / "train" / "train_log.jsonl", rows)
    sheet = Image.new("RGB", (3 * 378, 136), "white")
    for column, record in enumerate(real.records[:3]):
        sheet.paste(Image.open(real.image_file(record)).resize((128, 128)), (column * 378, 0))
    sheet.save(run_dir / "train" / "contact_sheet.png")


def _write_scores(run_dir: Path, *, num_real: int, num_synthetic: int) -> None:
    for name, scale in (("scores.json", 1.0), ("scores_untrained.json", 9.0)):
        values = {"frechet": 14.2 * scale, "kid": 0.021 * scale, "precision": 0.81, "recall": 0.64}
        scores = [
            {
                "name": score,
                "value": value,
                "standard_error": 0.06 * value,
                "interval": [0.88 * value, 1.12 * value],
                "num_real": num_real,
                "num_synthetic": num_synthetic,
                "extractor": {"id": "efficientnet-lite0", "sha256": MODEL_SHA256},
                "preprocessing": "bicubic 224, ImageNet mean and standard deviation",
                "seed": 0,
                "warnings": ["20 real images are few: the Fréchet distance is biased upwards"],
            }
            for score, value in values.items()
        ]
        sheet = {"scores": scores, "real_fingerprint": MODEL_SHA256, "synthetic_fingerprint": MODEL_SHA256}
        write_json_atomic(run_dir / "scores" / name, sheet)


def _write_classifiers(run_dir: Path, real: ImageDataset, synthetic: ImageDataset) -> None:
    test_set = real.select(split="test")
    recognition = {
        name: {
            "real_test": _evaluation([truth(record) for record in test_set.records], error_rate=0.02, seed=4),
            "synthetic": _evaluation(
                [truth(record) for record in synthetic.records], error_rate=0.05, seed=5
            ),
        }
        for name, truth in (
            ("label", lambda record: str(record.label)),
            ("facts.quadrant", lambda record: str(record.facts["quadrant"])),
        )
    }
    write_json_atomic(run_dir / "classify" / "recognition.json", recognition)
    labels = [str(record.label) for record in test_set.records]
    comparison = {
        "real_only": _evaluation(labels, error_rate=0.02, seed=6),
        "synthetic_only": _evaluation(labels, error_rate=0.25, seed=7),
        "difference": {
            name: {"value": -0.05, "interval": [-0.2, 0.1]}
            for name in ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy", "auc")
        },
    }
    write_json_atomic(run_dir / "classify" / "classification.json", comparison)


def _evaluation(labels: list[str], *, error_rate: float, seed: int) -> dict[str, Any]:
    """Figures of predictions that are wrong at a given rate."""
    generator = np.random.default_rng(seed)
    classes = sorted(set(labels))
    truth = np.array([classes.index(label) for label in labels])
    wrong = generator.random(len(truth)) < error_rate
    predicted = np.where(wrong, (truth + 1) % len(classes), truth)
    confusion = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(confusion, (truth, predicted), 1)
    correct, support, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    f1 = 2 * correct / np.maximum(support + called, 1)
    return {
        "classes": classes,
        "num_test_images": len(labels),
        "accuracy": _figure(correct.sum() / len(labels)),
        "weighted_f1": _figure((support * f1).sum() / len(labels)),
        "balanced_accuracy": _figure((correct / support).mean()),
        "auc": _figure(1 - error_rate / 2),
        "confusion_matrix": confusion.tolist(),
        "per_class": [
            {
                "class": name,
                "support": int(support[place]),
                "precision": _figure(correct[place] / max(called[place], 1)),
                "recall": _figure(correct[place] / support[place]),
                "f1": _figure(f1[place]),
            }
            for place, name in enumerate(classes)
        ],
        "warnings": [],
    }


def _figure(value: float) -> dict[str, Any]:
    return {"value": float(value), "interval": [max(0.0, float(value) - 0.06), min(1.0, float(value) + 0.04)]}


def _write_problems(run_dir: Path) -> None:
    rows = [
        {
            "file": "scan-17.png",
            "row": 17,
            "field": None,
            "code": "truncated",
            "detail": "the file ends early",
        },
        {"file": "scan-40.png", "row": 40, "field": "file_name", "code": "missing", "detail": "no such file"},
    ]
    write_jsonl_atomic(run_dir / "data" / "problems.jsonl", rows)


def _write_run_record(run_dir: Path) -> None:
    stages = {
        name: {
            "status": "complete",
            "key": MODEL_SHA256,
            "started_at": "2026-01-01T00:00:00",
            "seconds": 12.3,
        }
        for name in ("captions", "train", "synthetic", "scores", "classify")
    }
    stages = {"data": {**stages["train"], "status": "partial", "num_problems": 2}, **stages}
    stages["train"] = {**stages["train"], "outputs": {"train/model/model_index.json": MODEL_SHA256}}
    record = {
        "format": 1,
        "name": "demo",
        "status": "running",
        "recipe": {"name": "demo", "seed": 0},
        "overrides": ["sample.num_images=64"],
        "device": "cpu",
        "versions": {"medgen": "0.1.0", "torch": "2.15.0"},
        "git_commit": "0123456789abcdef",
        "inputs": {},
        "stages": stages,
        "started_at": "2026-01-01T00:00:00",
    }
    write_json_atomic(run_dir / "run.json", record)
    write_text_atomic(run_dir / "recipe.yaml", "name: demo\nseed: 0\n")


@pytest.fixture(scope="session")
def report_html(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the finished run."""
    from medgen_cli.report import build_report

    copy = shutil.copytree(finished_run, tmp_path_factory.mktemp("built") / "run")
    return build_report(copy).read_text(encoding="utf-8")
