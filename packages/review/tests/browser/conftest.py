"""Debian's chromium on the real server; where it is absent these tests are skipped and say so."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from medgen_review.store import RatingStore
from medgen_review.study import Study
from playwright.sync_api import Browser, BrowserContext, Dialog, Locator, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One rater at one computer: a page of the browser, and what a rater does there."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        context.set_default_timeout(8000)
        self.context = context
        self.address = address
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.listen(self.page)

    def listen(self, page: Page) -> None:
        """Note what the browser complains of: scripts that fail, what the policy stopped, dialogs."""
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dismiss)
        page.on(
            "console",
            lambda message: (
                self.complaints.append(message.text) if "Security Policy" in message.text else None
            ),
        )

    def _dismiss(self, dialog: Dialog) -> None:
        self.complaints.append(dialog.message)
        dialog.dismiss()

    def log_in(self, code: str) -> None:
        """Type the code."""
        self.page.goto(self.address)
        self.page.get_by_label("Your personal code").fill(code)
        self.page.get_by_role("button", name="Log in").click()
        expect(self.page.get_by_role("button", name="Log out")).to_be_visible()

    def value(self, slug: str, value: int) -> Locator:
        """Return the button of a value."""
        return self.page.locator(f"#v-{slug}-{value}")

    def expect_saved(self, slug: str) -> None:
        """Wait until the page says that a value is saved."""
        expect(self.page.locator(f"#state-{slug} .words")).to_have_text("Saved")


class Clinic:
    """A study served by the real server, its raters, and their browsers."""

    def __init__(self, folder: Path, study: Study, server: Any, browser: Browser) -> None:
        self.folder = folder
        self.study = study
        self.server = server
        self.browser = browser
        self.contexts: list[BrowserContext] = []

    def enrol(self, name: str) -> str:
        """Enrol a rater while the server runs, and return the code."""
        with RatingStore.open(self.folder / "ratings.sqlite", self.study) as store:
            return store.enrol(name).token

    def given(self, number: int = 0) -> dict[tuple[int, str, str], int | None]:
        """Return what the database holds of a rater."""
        with RatingStore.open(self.folder / "ratings.sqlite", self.study) as store:
            store.verify()
            return {
                (place.page, place.letter, place.field): value.value
                for place, value in store.values(number).items()
            }

    def visit(self, **options: Any) -> Visit:
        """Sit down at another computer."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.contexts.append(context)
        return Visit(context, self.server.address)


@pytest.fixture
def clinic(
    tmp_path: Path,
    write_study: Callable[..., Study],
    server_process: Callable[[Path], Any],
    chromium: Browser,
) -> Iterator[Callable[..., Clinic]]:
    """Return a maker of studies being served."""
    made: list[Clinic] = []

    def open_clinic(study: Study | None = None, **asked: Any) -> Clinic:
        study = study or write_study(tmp_path, **{"num_prompts": 2, **asked})
        made.append(Clinic(tmp_path, study, server_process(tmp_path / "study.json"), chromium))
        return made[-1]

    yield open_clinic
    for each in made:
        for context in each.contexts:
            context.close()
        each.server.kill()
