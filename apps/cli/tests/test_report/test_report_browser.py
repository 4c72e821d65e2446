"""The page in a real browser; skipped where none is installed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OFFLINE = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: install Debian's chromium")
@pytest.mark.parametrize(("width", "height"), [(1280, 1600), (500, 1600)])
def test_a_browser_draws_the_page_without_complaint(
    report_html: str, tmp_path: Path, width: int, height: int
) -> None:
    page_file, screenshot_file = tmp_path / "report.html", tmp_path / "page.png"
    page_file.write_text(report_html, encoding="utf-8")
    ran = subprocess.run(
        [
            str(CHROMIUM),
            *OFFLINE,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},{height}",
            f"--screenshot={screenshot_file}",
            page_file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert screenshot_file.is_file(), ran.stderr[-2000:]
    assert "CONSOLE" not in ran.stderr
    pixels = np.asarray(Image.open(screenshot_file).convert("RGB")).astype(int)
    assert pixels.shape == (height, width, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500  # text and photographs, not a blank page
    assert (np.abs(pixels - pixels[-1, 0]).sum(axis=2) > 30).mean() > 0.05
    # Nothing sticks out to the right: the last columns are paper.
    assert len(np.unique(pixels[:, -3:].reshape(-1, 3), axis=0)) == 1
