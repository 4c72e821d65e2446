"""What several test files of the rating studio need."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import psycopg.sql
import pytest
from fastapi.testclient import TestClient
from medgen_review.rating_files import RatingRow
from medgen_review.rubric import ASPECTS
from medgen_review.server.app import create_app
from medgen_review.server.images import PreparedImages
from medgen_review.server.security import LoginLimit
from medgen_review.store import RatingStore
from medgen_review.study import REAL, Design, ImageSet, Study, StudyImage, StudyPrompt, digest_of
from PIL import Image


@pytest.fixture
def rating_rows() -> Callable[..., list[RatingRow]]:
    """Ratings of a simulated study: models differ by `steps` points, raters by leniency, all by noise."""

    def draw(
        *,
        num_raters: int = 3,
        num_prompts: int = 6,
        steps: Sequence[float] = (0.0, 1.5, 3.0),
        aspects: Sequence[str] = ("realism", "diversity"),
        num_repeats: int = 0,
        num_attention: int = 0,
        ranks: bool = True,
        noise: float = 1.0,
        seed: int = 0,
    ) -> list[RatingRow]:
        generator = np.random.default_rng(seed)
        models = [f"model-{index}" for index in range(len(steps))]
        rows = []
        for rater in range(num_raters):
            leniency = generator.normal(0, 0.5)
            pages = [(prompt, 0) for prompt in range(num_prompts)] + [(p, 1) for p in range(num_repeats)]
            for page, (prompt, repeat) in enumerate(pages):
                order = generator.permutation(len(models))
                base = {
                    "study": "0" * 64,
                    "rater": f"rater-{rater}",
                    "page": page,
                    "prompt_id": f"p{prompt:02}",
                    "prompt_kind": "rephrased" if prompt % 2 else "original",
                    "highest": 10,
                    "at": "2026-01-01T00:00:00Z",
                }
                quality = np.asarray(steps) + generator.normal(0, noise, len(models))
                for position, model in enumerate(order):
                    shown = {**base, "model": models[model], "letter": "ABCDEFGH"[position]}
                    shown |= {"position": position, "repeat": repeat}
                    for aspect in aspects:
                        value = round(4 + leniency + quality[model] + generator.normal(0, noise / 2))
                        value = min(max(value, 0), 10)
                        rows.append(RatingRow(kind="rating", aspect=aspect, value=value, **shown))
                    if ranks:
                        rank = 2 + int((quality > quality[model]).sum())  # the real images are always first
                        rows.append(RatingRow(kind="rank", value=rank, **shown))
                if ranks:
                    real = {**base, "model": "real", "letter": "", "position": -1, "repeat": repeat}
                    rows.append(RatingRow(kind="rank", value=1, **real))
            for number in range(num_attention):
                asked = {**base, "page": len(pages) + number, "model": models[0], "letter": "A"}
                asked |= {"position": 0, "kind": "attention", "aspect": aspects[0], "expected": 7}
                rows.append(RatingRow(value=7 if number else 7 - (rater == 1), **asked))
        return rows

    return draw


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    """Return studies without image files, for what only needs their names and numbers."""

    def make(
        *,
        num_prompts: int = 4,
        num_models: int = 3,
        images_per_set: int = 2,
        seed: int = 0,
        models: Sequence[str] = (),
        prompts: Sequence[str] = (),
        **design: Any,
    ) -> Study:
        names = tuple(models) or tuple(f"model-{index}" for index in range(num_models))
        texts = tuple(prompts) or tuple(f"prompt {index}" for index in range(num_prompts))
        ids = [f"p{index:03}" for index in range(len(texts))]

        def image_set(prompt_id: str, model: str, what: str = "") -> ImageSet:
            files = [f"{what}{model}/{prompt_id}-{index}.png" for index in range(images_per_set)]
            return ImageSet(
                prompt_id=prompt_id,
                model=model,
                images=tuple(
                    StudyImage(file=file, sha256=hashlib.sha256(file.encode()).hexdigest()) for file in files
                ),
            )

        rated = (*names, *([REAL] if design.get("hidden_real") else []))
        study = Study(
            title="A study",
            briefing=("Look.",),
            seed=seed,
            models=names,
            aspects=ASPECTS,
            prompts=tuple(StudyPrompt(prompt_id=i, text=text) for i, text in zip(ids, texts, strict=True)),
            references=tuple(image_set(i, REAL, "reference-") for i in ids),
            sets=tuple(image_set(i, model) for i in ids for model in rated),
            design=Design(**design),
            digest="0" * 64,
        )
        return study.model_copy(update={"digest": digest_of(study.model_dump(mode="json"))})

    return make


@pytest.fixture(scope="session")
def write_study(make_study: Callable[..., Study]) -> Callable[..., Study]:
    """Write a study with real image files, `study.json` in the folder; `changed` replaces fields of the study."""

    def write(folder: Path, *, side: int = 48, changed: dict[str, Any] | None = None, **asked: Any) -> Study:
        study = make_study(image_side=side, **asked)
        generator = np.random.default_rng(5)
        drawn = {}
        for each in (*study.references, *study.sets):
            images = []
            for image in each.images:
                file = folder / "images" / image.file
                file.parent.mkdir(parents=True, exist_ok=True)
                coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((side, side)).save(file)
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                images.append(StudyImage(file=f"images/{image.file}", sha256=digest))
            drawn[id(each)] = each.model_copy(update={"images": tuple(images)})
        study = study.model_copy(
            update={
                "references": tuple(drawn[id(each)] for each in study.references),
                "sets": tuple(drawn[id(each)] for each in study.sets),
                **(changed or {}),
            }
        )
        study = study.model_copy(update={"digest": digest_of(study.model_dump(mode="json"))})
        (folder / "study.json").write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
        return study

    return write


@dataclass
class StudioAtWork:
    """A studio in this process, with a client that behaves like a browser at its address."""

    study: Study
    store: RatingStore
    folder: Path

    origin = "http://127.0.0.1:8000"

    def browser(
        self, code: str = "", *, secure: bool = False, limit: LoginLimit | None = None, **options: Any
    ) -> TestClient:
        """Return a client, logged in where a code is given."""
        images = PreparedImages.prepare(self.study, self.folder, self.folder / "shown-images")
        origin = self.origin.replace("http:", "https:") if secure else self.origin
        app = create_app(self.store, images, origins=[origin], secure=secure, limit=limit)
        client = TestClient(app, base_url=origin, headers={"Origin": origin}, **options)
        if code:
            assert client.post("/login", data={"code": code}, follow_redirects=False).status_code == 303
        return client


@pytest.fixture
def studio(tmp_path: Path, write_study: Callable[..., Study]) -> Iterator[Callable[..., StudioAtWork]]:
    """Return a maker of studios in this process."""
    with contextlib.ExitStack() as stack:

        def open_studio(name: str = "study", **asked: Any) -> StudioAtWork:
            folder = tmp_path / name
            folder.mkdir()
            study = write_study(folder, **{"num_prompts": 2, **asked})
            store = stack.enter_context(RatingStore.open(folder / "ratings.sqlite", study))
            return StudioAtWork(study, store, folder)

        yield open_studio


@pytest.fixture(scope="session")
def studio_of() -> type[StudioAtWork]:
    """Return the maker of a studio from a study, its store and its folder."""
    return StudioAtWork


SERVER = """
import sys
from pathlib import Path
from medgen_review.server.serving import serve
serve(Path(sys.argv[1]), port=int(sys.argv[2]), on_ready=lambda address: print(address, flush=True))
"""


class ServerProcess:
    """The real server in a process of its own, to be killed and started again at the same address."""

    def __init__(self, study_file: Path) -> None:
        self.study_file = study_file
        self.address = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; returns once it takes connections."""
        port = self.address.rpartition(":")[2] or "0"
        command: list[str] = [sys.executable, "-c", SERVER, str(self.study_file), port]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address, "the server did not start"

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="session")
def server_process() -> Iterator[Callable[[Path], ServerProcess]]:
    """Return a maker of running servers; all are ended at the end."""
    started: list[ServerProcess] = []

    def start(study_file: Path) -> ServerProcess:
        server = ServerProcess(study_file)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """Start a PostgreSQL server in a temporary folder, on a Unix socket only; yield the URL of its databases."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not binaries:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    # Not under pytest's own folder, which the server's user may not enter.
    folder = Path(tempfile.mkdtemp(prefix="medgen-pg-"))
    as_user: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        as_user |= {"user": "postgres", "group": "postgres", "extra_groups": []}
    try:
        options = ["-D", "data", "-U", "rater", "-A", "trust", "-E", "UTF8", "-N", "--locale=C"]
        subprocess.run([binaries[-1].with_name("initdb"), *options], check=True, timeout=60, **as_user)
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", str(folder)]
        with subprocess.Popen([binaries[-1], "-D", "data", *settings], **as_user) as server:
            try:
                yield from _ready(server, folder)
            finally:
                server.send_signal(signal.SIGINT)
                server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(server: subprocess.Popen[bytes], folder: Path) -> Iterator[str]:
    url = f"postgresql:///{{}}?host={folder}&user=rater"
    for _ in range(300):
        try:
            psycopg.connect(url.format("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            assert server.poll() is None, "the server ended by itself"
            time.sleep(0.1)
        else:
            yield url
            return
    raise AssertionError("the server was not ready after 30 s")


@pytest.fixture
def new_postgresql(postgresql_server: str) -> str:
    """Return the URL of a new, empty PostgreSQL database."""
    name = f"study_{secrets.token_hex(6)}"
    with psycopg.connect(postgresql_server.format("postgres"), autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
    return postgresql_server.format(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Yield the URL of a new database, of each kind in turn."""
    if request.param == "postgresql":
        yield request.getfixturevalue("new_postgresql")
        return
    # In memory where the system has such a folder: thousands of flushes to a slow disk would test the disk.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="medgen-", dir=memory if memory.is_dir() else None) as folder:
        yield f"sqlite:///{folder}/ratings.sqlite"


@pytest.fixture(scope="session")
def xss_payloads() -> list[str]:
    """500 texts that would run script in a page that does not escape; all of them ask for `/hit` or call `hit`."""
    deeds = [
        "alert('hit')",
        "fetch('/hit')",
        "document.body.append(new Image().src='/hit')",
        "top.hit=1",
        "hit`1`",
    ]
    shapes = [
        "<script>{0}</script>",
        "<img src=/hit onerror={0}>",
        '"><svg onload={0}>',
        "'><details open ontoggle={0}>",
        "</textarea><iframe srcdoc='<script>{0}</script>'></iframe>",
        "</title><body onpageshow={0}>",
        "<a href=javascript:{0} id=hit>hit</a>",
        "<form action=javascript:{0}><button autofocus onfocus={0}>",
        '" onmouseover="{0}" autofocus onfocus="{0}" x="',
        "<style>@import '/hit';</style><link rel=stylesheet href=/hit onerror={0}>",
        "--><object data=/hit onerror={0}></object><!--",
        "<math><mtext><table><mglyph><style><img src=/hit onerror={0}>",
        "{{{{ {0} }}}}{{% import os %}}${{{0}}}<%= {0} %>",
        "<div hx-get=/hit hx-trigger=load hx-on:htmx:load={0}>",
        "<base href=//hit/><meta http-equiv=refresh content='0;url=/hit'>{0}",
    ]
    dresses: list[Callable[[str], str]] = [
        str,
        str.upper,
        lambda t: t.replace("<", "<\u200b<"),
        lambda t: f"polyp {t} polyp",
        lambda t: t.replace("=", " = "),
        lambda t: f"%3C&lt;&#60;\\u003c{t}",
        lambda t: t * 2,
    ]
    texts = [dress(shape.format(deed)) for dress in dresses for deed in deeds for shape in shapes]
    unique = list(dict.fromkeys(texts))[:500]
    assert len(unique) == 500
    return unique


@pytest.fixture(scope="session")
def sql_payloads() -> list[str]:
    """500 texts that would change or show a database to which they were pasted."""
    quotes = ["'", '"', "`", "\\'", "%27", "')", "\u02bc", "0", "1)", "';"]
    deeds = [
        " OR 1=1",
        " OR 'a'='a",
        "; DROP TABLE review_values",
        "; DELETE FROM review_events",
        "; UPDATE review_raters SET finished_at=1",
        " UNION SELECT token_sha256,name,3,4,5,6,7 FROM review_raters",
        "; INSERT INTO review_values VALUES (0,0,'A','realism',9,9,'')",
        " AND randomblob(1000)",
        "; ATTACH DATABASE 'x' AS x",
        "; SELECT pg_sleep(9)",
    ]
    ends = ["--", " -- -", "#", "/*", ";"]
    return [f"{quote}{deed}{end}" for quote in quotes for deed in deeds for end in ends]


@pytest.fixture(scope="session")
def hostile_study(write_study: Callable[..., Study]) -> Callable[..., Study]:
    """Write a study whose every text is one of the payloads: a page per payload, one image per set."""

    def write(folder: Path, payloads: Sequence[str]) -> Study:
        base = write_study(folder, num_prompts=1, num_models=1, images_per_set=1)
        images = base.sets[0].images
        models = tuple(payloads[:2])
        ids = [f"p{index:03}" for index in range(len(payloads))]
        changed = {
            "title": payloads[0],
            "briefing": tuple(payloads),
            "models": models,
            "aspects": tuple(
                aspect.model_copy(
                    update=dict.fromkeys(("name", "question", "lowest_anchor", "highest_anchor"), payload)
                )
                for aspect, payload in zip(base.aspects[:2], payloads, strict=False)
            ),
            "prompts": tuple(
                StudyPrompt(prompt_id=i, text=text) for i, text in zip(ids, payloads, strict=True)
            ),
            "references": tuple(ImageSet(prompt_id=i, model=REAL, images=images) for i in ids),
            "sets": tuple(ImageSet(prompt_id=i, model=model, images=images) for i in ids for model in models),
        }
        study = base.model_copy(update=changed)
        study = study.model_copy(update={"digest": digest_of(study.model_dump(mode="json"))})
        (folder / "study.json").write_text(json.dumps(study.model_dump(mode="json")), encoding="utf-8")
        return study

    return write
