import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from medgen_cli.report import build_report
from medgen_cli.report.render import SECTIONS
from PIL import Image

XSS = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


class Elements(HTMLParser):
    """Collects every element of a page with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_same_run_gives_the_same_bytes_wherever_it_lies(finished_run: Path, tmp_path: Path) -> None:
    one = shutil.copytree(finished_run, tmp_path / "one")
    two = shutil.copytree(finished_run, tmp_path / "elsewhere" / "two")
    first, second = build_report(one), build_report(two)
    assert first.read_bytes() == second.read_bytes()
    assert (one / "report.json").read_bytes() == (two / "report.json").read_bytes()
    html = first.read_bytes()
    assert build_report(one).read_bytes() == html  # the first report changes nothing for the next


def test_what_a_run_records_while_it_reports_does_not_change_the_page(
    run_dir: Path, edit_json: Callable[[Path, Callable[[Any], None]], None]
) -> None:
    during = build_report(run_dir).read_bytes(), (run_dir / "report.json").read_bytes()

    def finish(record: Any) -> None:
        record["status"], record["exit_code"], record["finished_at"] = "complete", 0, "2026-01-02T00:00:00"
        record["stages"]["report"] = {
            "status": "complete",
            "seconds": 1.5,
            "outputs": {"report.html": "0" * 64},
        }

    edit_json(run_dir / "run.json", finish)
    assert (build_report(run_dir).read_bytes(), (run_dir / "report.json").read_bytes()) == during


def test_every_section_is_there_and_linked(report_html: str) -> None:
    page = Elements(report_html)
    ids = [attributes.get("id") for _, attributes in page.found]
    links = [attributes.get("href") for attributes in page.named("a")]
    for anchor, _ in SECTIONS:
        assert ids.count(anchor) == 1
        assert f"#{anchor}" in links
    assert "Not run" not in report_html


def test_sections_come_in_the_order_of_the_navigation(report_html: str) -> None:
    sections = [attributes["id"] for attributes in Elements(report_html).named("section")]
    assert sections == [anchor for anchor, _ in SECTIONS]


def test_every_picture_is_inside_the_page_and_described(report_html: str) -> None:
    pictures = Elements(report_html).named("img")
    assert len(pictures) > 60
    for picture in pictures:
        source = picture["src"] or ""
        match = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=]+)", source)
        assert match, source[:80]
        image = Image.open(io.BytesIO(base64.b64decode(match[2])))
        image.load()
        assert (str(image.width), str(image.height)) == (picture["width"], picture["height"])
        assert picture["alt"]


def test_the_page_asks_for_nothing_from_outside(report_html: str) -> None:
    page = Elements(report_html)
    assert not page.named("script")
    assert not page.named("link")
    assert not page.named("iframe")
    assert "http://" not in report_html
    assert "https://" not in report_html
    assert "url(" not in report_html
    assert "@import" not in report_html
    assert "default-src 'none'" in (page.named("meta")[1]["content"] or "")


def test_the_page_stays_small(report_html: str) -> None:
    assert len(report_html.encode()) < 3_000_000


def test_names_and_prompts_from_outside_are_text_not_markup(
    run_dir: Path,
    edit_json: Callable[[Path, Callable[[Any], None]], None],
    replace_records: Callable[..., Any],
) -> None:
    def poison(row: dict[str, Any]) -> None:
        row["label"] = XSS
        row["text"] = (XSS,)
        if row["generation"]:
            row["generation"]["prompt"] = XSS

    replace_records(run_dir / "synthetic" / "dataset", poison)
    replace_records(run_dir / "data" / "dataset", poison)
    captions_file = run_dir / "captions" / "captions.jsonl"
    rows = [
        {**json.loads(line), "text": XSS, "method": XSS} for line in captions_file.read_text().splitlines()
    ]
    captions_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_log_file = run_dir / "train" / "train_log.jsonl"
    train_log_file.write_text(train_log_file.read_text().replace('"denoiser"', json.dumps(XSS)))
    edit_json(run_dir / "run.json", lambda record: record.update(name=XSS, overrides=[XSS]))
    edit_json(run_dir / "scores" / "scores.json", lambda sheet: sheet["scores"][0].update(warnings=[XSS]))
    (run_dir / "recipe.yaml").write_text(f"name: {XSS}\n")
    (run_dir / "data" / "problems.jsonl").write_text(
        json.dumps({"file": XSS, "code": "x", "detail": XSS}) + "\n"
    )

    html = build_report(run_dir).read_text(encoding="utf-8")
    page = Elements(html)
    assert not page.named("script")
    assert all("onerror" not in attributes for _, attributes in page.found)
    assert html.count("&lt;script&gt;") > 20


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("data", "holds no images"),
        ("synthetic", "holds no synthetic images"),
        ("train", "holds no training log"),
        ("scores", "holds no scores"),
        ("classify", "holds no comparison of classifiers"),
        ("captions", "holds no captions"),
    ],
)
def test_a_stage_that_was_not_run_is_said_to_be_not_run(run_dir: Path, lost: str, said: str) -> None:
    shutil.rmtree(run_dir / lost)
    if lost == "data":
        shutil.rmtree(run_dir / "synthetic")
    assert f"Not run: this run folder {said}" in build_report(run_dir).read_text(encoding="utf-8")


def test_an_empty_run_folder_gives_an_honest_page(tmp_path: Path) -> None:
    html = build_report(tmp_path).read_text(encoding="utf-8")
    assert html.count("Not run") >= 12
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["scores"] is None
    assert [verdict["value"] for verdict in figures["verdicts"]] == [None] * 4


def test_a_reference_that_was_not_scored_leaves_the_ratio_open(run_dir: Path) -> None:
    (run_dir / "scores" / "scores_untrained.json").unlink()
    html = build_report(run_dir).read_text(encoding="utf-8")
    assert "the untrained model was not scored" in html
    verdicts = json.loads((run_dir / "report.json").read_text())["verdicts"]
    assert {verdict["key"]: verdict["value"] for verdict in verdicts}["frechet_untrained_ratio"] is None


def test_the_figures_at_the_head_are_those_of_the_files(run_dir: Path) -> None:
    build_report(run_dir)
    verdicts = {row["key"]: row for row in json.loads((run_dir / "report.json").read_text())["verdicts"]}
    scores = json.loads((run_dir / "scores" / "scores.json").read_text())["scores"]
    untrained = json.loads((run_dir / "scores" / "scores_untrained.json").read_text())["scores"]
    recognition = json.loads((run_dir / "classify" / "recognition.json").read_text())
    comparison = json.loads((run_dir / "classify" / "classification.json").read_text())
    assert verdicts["frechet"]["value"] == scores[0]["value"]
    assert verdicts["frechet"]["interval"] == scores[0]["interval"]
    ratio = untrained[0]["value"] / scores[0]["value"]
    assert verdicts["frechet_untrained_ratio"]["value"] == pytest.approx(ratio)
    for attribute, key in (("label", "recognised_class"), ("facts.quadrant", "recognised_quadrant")):
        assert verdicts[key]["value"] == recognition[attribute]["synthetic"]["accuracy"]["value"]
    synthetic_f1 = comparison["synthetic_only"]["weighted_f1"]
    assert verdicts["weighted_f1_synthetic_only"]["value"] == synthetic_f1["value"]
    assert (
        f"{comparison['real_only']['weighted_f1']['value']:#.3g}"
        in verdicts["weighted_f1_synthetic_only"]["note"]
    )


def test_a_long_prompt_is_folded_but_kept(run_dir: Path, replace_records: Callable[..., Any]) -> None:
    words = [f"word{number}" for number in range(90)]

    def lengthen(row: dict[str, Any]) -> None:
        row["generation"]["prompt"] = " ".join(words)

    replace_records(run_dir / "synthetic" / "dataset", lengthen)
    html = build_report(run_dir).read_text(encoding="utf-8")
    assert f"<details><summary>{' '.join(words[:18])} …</summary>{' '.join(words[18:])}</details>" in html
