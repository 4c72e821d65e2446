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
        self.number = 0

    def enrol(self, name: str) -> str:
        """Enrol a rater while the server runs, and return the code."""
        with RatingStore.open(self.folder / "ratings.sqlite", self.study) as store:
            self.number = len(store.raters())
            return store.enrol(f"{name} {self.number}").token

    def given(self) -> dict[tuple[int, str, str], int | None]:
        """Return what the database holds of the last rater that was enrolled."""
        with RatingStore.open(self.folder / "ratings.sqlite", self.study) as store:
            store.verify()
            values = store.values(self.number)
            return {(place.page, place.letter, place.field): value.value for place, value in values.items()}

    def visit(self, **options: Any) -> Visit:
        """Sit down at another computer."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.contexts.append(context)
        return Visit(context, self.server.address)


@pytest.fixture(scope="session")
def clinics(
    tmp_path_factory: pytest.TempPathFactory,
    write_study: Callable[..., Study],
    server_process: Callable[[Path], Any],
    chromium: Browser,
) -> Callable[..., Clinic]:
    """Return a maker of studies being served; who asks for the same study again gets the same server."""
    running: dict[str, Clinic] = {}

    def open_clinic(write: Callable[..., Study] = write_study, *texts: Any, **asked: Any) -> Clinic:
        key = f"{write} {texts} {asked}"
        if key not in running:
            folder = tmp_path_factory.mktemp("clinic")
            study = write(folder, *texts, **asked)
            running[key] = Clinic(folder, study, server_process(folder / "study.json"), chromium)
        return running[key]

    return open_clinic


@pytest.fixture
def clinic(clinics: Callable[..., Clinic]) -> Iterator[Callable[..., Clinic]]:
    """Return a maker of studies being served; what raters opened in their browsers is closed after the test."""
    used: list[Clinic] = []

    def open_clinic(*texts: Any, **asked: Any) -> Clinic:
        used.append(clinics(*texts, **asked) if texts else clinics(**{"num_prompts": 2, **asked}))
        return used[-1]

    yield open_clinic
    for each in used:
        while each.contexts:
            each.contexts.pop().close()
