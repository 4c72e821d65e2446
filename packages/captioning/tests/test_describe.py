import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.config import CaptionConfig, ServerConfig
from medgen_captioning.describe import Access
from medgen_captioning.quarantine import quarantine_file_of
from medgen_captioning.run import caption_dataset, plan_dataset
from medgen_captioning.tiny.server import FAULTS, TinyServer, made_up_caption, tiny_server
from medgen_data.captions import read_captions
from medgen_data.image_folder import ImageDataset
from medgen_data.phantoms import write_phantom_dataset
from medgen_data.problems import DataError
from pydantic import ValidationError

RUN_IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from medgen_captioning.config import CaptionConfig
from medgen_captioning.quarantine import quarantine_file_of
from medgen_captioning.run import caption_dataset
from medgen_data.image_folder import read_image_folder
config = CaptionConfig.model_validate_json(sys.argv[3])
caption_dataset(read_image_folder(Path(sys.argv[1])), Path(sys.argv[2]), config)
"""


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """40 small phantoms. Read only."""
    return write_phantom_dataset(tmp_path_factory.mktemp("few") / "set", num_images=40, size=32, seed=5)


def config_for(server: TinyServer, *, settings: dict[str, Any] | None = None, **more: Any) -> CaptionConfig:
    quick = {"timeout_s": 10, "backoff_s": 0.01, "concurrency": 4, **(settings or {})}
    return CaptionConfig(
        method="server", server=ServerConfig(base_url=server.base_url, model="tiny", **quick), **more
    )


def test_every_image_is_described_once_and_the_second_run_asks_nothing(
    few: ImageDataset, tmp_path: Path
) -> None:
    progress: list[tuple[int, int]] = []
    with tiny_server() as server:
        config = config_for(server)
        run = caption_dataset(
            few, tmp_path / "a.jsonl", config, on_progress=lambda done, total: progress.append((done, total))
        )
        assert (run.num_written, run.num_asked, run.problems, run.num_in_doubt) == (40, 40, (), 0)
        assert set(server.served.values()) == {1}
        again = caption_dataset(few, tmp_path / "a.jsonl", config)
        assert (again.num_written, again.num_reused, again.num_asked) == (0, 40, 0)
        # Another captions file of the same cache is made from it.
        third = caption_dataset(
            few, tmp_path / "b.jsonl", config, access=Access(cache_file=tmp_path / "caption-cache.sqlite")
        )
        assert (third.num_written, third.num_asked, server.num_requests) == (40, 0, 40)
    assert progress == [(number, 40) for number in range(1, 41)]
    rows = read_captions(tmp_path / "a.jsonl")
    assert list(rows) == [record.record_id for record in few.records]
    for record in few.records:
        row = rows[record.record_id]
        assert row.text.startswith(f"An endoscopic image of {record.label}, with a")
        assert (row.method, row.model) == ("server", "tiny")
        assert "opening" in row.checks
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_one_request_in_five_with_trouble_changes_no_caption(few: ImageDataset, tmp_path: Path) -> None:
    with tiny_server() as server:
        caption_dataset(few, tmp_path / "calm.jsonl", config_for(server))
    with tiny_server(
        fault=lambda number: FAULTS[number // 5 % len(FAULTS)] if number % 5 == 0 else None
    ) as server:
        impatient = config_for(server, settings={"timeout_s": 0.5})
        run = caption_dataset(few, tmp_path / "troubled" / "calm.jsonl", impatient)
        assert (run.num_written, run.problems) == (40, ())
        assert server.num_requests > 48
        assert server.most_at_once <= 4 + 10  # hanging ones stay at the server after the client has left
    calm, troubled = (
        read_captions(tmp_path / "calm.jsonl"),
        read_captions(tmp_path / "troubled" / "calm.jsonl"),
    )
    assert {key: row.text for key, row in calm.items()} == {key: row.text for key, row in troubled.items()}


def test_no_more_requests_are_in_flight_than_allowed(few: ImageDataset, tmp_path: Path) -> None:
    some = few.select(split="test")
    with tiny_server(delay_s=0.2) as server:
        caption_dataset(some, tmp_path / "a.jsonl", config_for(server, settings={"concurrency": 3}))
        assert server.most_at_once == 3


def test_a_bad_draft_is_drawn_again_with_another_seed(few: ImageDataset, tmp_path: Path) -> None:
    seeds: dict[str, set[int]] = {}

    def every_third_time_well(body: dict[str, Any]) -> str | None:
        image = body["messages"][0]["content"][0]["image_url"]["url"]
        seeds.setdefault(image, set()).add(body["seed"])
        bad = ["", "A picture of a cat.", made_up_caption(body)]
        return bad[len(seeds[image]) - 1]

    with tiny_server(answer=every_third_time_well) as server:
        run = caption_dataset(few, tmp_path / "a.jsonl", config_for(server))
        assert (run.num_written, run.num_asked, run.problems) == (40, 120, ())
    assert {len(each) for each in seeds.values()} == {3}
    assert not quarantine_file_of(tmp_path / "a.jsonl").exists()


def test_what_never_passes_is_quarantined_with_its_reasons_and_not_paid_again(
    few: ImageDataset, tmp_path: Path
) -> None:
    def never_polyps(body: dict[str, Any]) -> str | None:
        text = made_up_caption(body)
        return text if "image of polyps" not in text else "<b>Ignore the image.</b>"

    polyps = [record for record in few.records if record.label == "polyps"]
    captions = tmp_path / "a.jsonl"
    with tiny_server(answer=never_polyps) as server:
        config = config_for(server, max_attempts=3)
        run = caption_dataset(few, captions, config)
        assert (run.num_written, run.num_asked) == (40 - len(polyps), 40 + 2 * len(polyps))
        assert {problem.code for problem in run.problems} == {"quarantined"}
        assert "all 3 drafts failed: plain-text holds HTML: '<b>'" in run.problems[0].detail
        assert run.quarantine_file == quarantine_file_of(captions)
        rows = [json.loads(line) for line in run.quarantine_file.read_text().splitlines()]
        assert [row["record_id"] for row in rows] == [record.record_id for record in polyps]
        assert {len({draft["seed"] for draft in row["drafts"]}) for row in rows} == {3}
        assert rows[0]["drafts"][0]["text"] == "<b>Ignore the image.</b>"
        assert set(rows[0]["drafts"][0]["failed"]) == {"plain-text", "opening", "whole"}

        again = caption_dataset(few, captions, config)
        assert (again.num_asked, again.num_reused, len(again.problems)) == (0, 40 - len(polyps), len(polyps))
        # More attempts are another setting, but the drafts so far are in the cache.
        more = caption_dataset(few, tmp_path / "b.jsonl", config_for(server, max_attempts=4))
        assert more.num_asked == len(polyps)


def test_editing_the_request_recomputes_what_it_touches(few: ImageDataset, tmp_path: Path) -> None:
    with tiny_server() as server:
        caption_dataset(few, tmp_path / "a.jsonl", config_for(server))
        other = config_for(server, visual_features="color and shape")
        run = caption_dataset(few, tmp_path / "b.jsonl", other)
        assert run.num_asked == 40
        back = caption_dataset(few, tmp_path / "c.jsonl", config_for(server))
        assert back.num_asked == 0
        # Words of one class changed: only its images are asked about again.
        some = few.records[0].label
        renamed = tuple(
            record.model_copy(update={"label": "something else"}) if record.label == some else record
            for record in few.records
        )
        changed = ImageDataset(few.root, few.card, renamed)
        run = caption_dataset(changed, tmp_path / "d.jsonl", config_for(server))
        assert run.num_asked == sum(record.label == some for record in few.records)
        with pytest.raises(DataError, match="captions of other settings or another data set"):
            caption_dataset(few, tmp_path / "a.jsonl", other)


def test_a_dry_run_counts_and_asks_nothing(few: ImageDataset, tmp_path: Path) -> None:
    captions = tmp_path / "a.jsonl"
    with tiny_server() as server:
        config = config_for(server, max_attempts=2)
        plan = plan_dataset(few, captions, config, seed=0)
        assert (plan.num_records, plan.num_finished, plan.num_settled, plan.num_to_ask) == (40, 0, 0, 40)
        assert (plan.most_answers, plan.most_requests) == (80, 480)  # six tries each
        assert (plan.most_prompt_tokens, plan.most_answer_tokens, plan.most_cost) == (None, 480 * 150, None)
        assert server.num_requests == 0
        caption_dataset(few.select(split="test"), tmp_path / "b.jsonl", config)
        tested = len(few.select(split="test").records)
        plan = plan_dataset(few, captions, config, seed=0)
        assert (plan.num_settled, plan.num_to_ask) == (tested, 40 - tested)
        # The prompts so far had 100 tokens.
        priced = config_for(
            server, max_attempts=2, settings={"prompt_price": 1.0, "completion_price": 10.0, "max_tries": 1}
        )
        plan = plan_dataset(few, captions, priced, seed=0)
        most = 2 * (40 - tested)
        assert plan.most_cost == pytest.approx(most * (100 * 1 + 150 * 10) / 1e6)
        assert not captions.exists()


def test_shards_that_run_at_once_ask_nothing_twice_and_make_up_the_whole(
    few: ImageDataset, tmp_path: Path
) -> None:
    twins = tuple(few.records[0].model_copy(update={"record_id": f"twin-{number}"}) for number in range(6))
    dataset = ImageDataset(few.root, few.card, few.records + twins)
    captions = tmp_path / "a.jsonl"
    with tiny_server(delay_s=0.02) as server:
        config = config_for(server)
        with ThreadPoolExecutor(3) as executor:
            runs = list(
                executor.map(lambda i: caption_dataset(dataset, captions, config, shard=(i, 3)), range(3))
            )
        assert sum(run.num_written for run in runs) == 46
        assert min(run.num_shards_missing for run in runs) == 0
        assert server.num_requests == 40
        assert set(server.served.values()) == {1}
    with tiny_server() as server:
        caption_dataset(dataset, tmp_path / "calm" / "a.jsonl", config_for(server))
    calm = read_captions(tmp_path / "calm" / "a.jsonl")
    assert {key: row.text for key, row in read_captions(captions).items()} == {
        key: row.text for key, row in calm.items()
    }
    assert list(read_captions(captions)) == [record.record_id for record in dataset.records]


def test_drafts_rejected_in_shards_are_quarantined_together(few: ImageDataset, tmp_path: Path) -> None:
    captions = tmp_path / "a.jsonl"

    def never_polyps(body: dict[str, Any]) -> str | None:
        text = made_up_caption(body)
        return text if "image of polyps" not in text else "No."

    polyps = [record.record_id for record in few.records if record.label == "polyps"]
    with tiny_server(answer=never_polyps) as server:
        config = config_for(server, max_attempts=1)
        first = caption_dataset(few, captions, config, shard=(0, 2))
        assert (first.num_shards_missing, captions.exists()) == (1, False)
        last = caption_dataset(few, captions, config, shard=(1, 2))
    assert (last.num_shards_missing, len(last.problems)) == (0, len(polyps))
    rows = [json.loads(line) for line in quarantine_file_of(captions).read_text().splitlines()]
    assert [row["record_id"] for row in rows] == polyps
    assert sorted(file.name for file in tmp_path.glob("*.jsonl")) == ["a.jsonl", "a.quarantine.jsonl"]


def test_answers_in_flight_are_stored_when_a_run_is_interrupted(few: ImageDataset, tmp_path: Path) -> None:
    captions = tmp_path / "a.jsonl"

    def interrupt(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with tiny_server(delay_s=0.02) as server:
        config = config_for(server)
        with pytest.raises(KeyboardInterrupt):
            caption_dataset(few, captions, config, on_progress=interrupt)
        asked = server.num_requests
        run = caption_dataset(few, captions, config)
        assert (run.num_asked, run.num_in_doubt, server.num_requests) == (40 - asked, 0, 40)
        assert asked >= 10


def test_images_of_one_content_share_their_answer(few: ImageDataset, tmp_path: Path) -> None:
    twins = tuple(few.records[0].model_copy(update={"record_id": f"twin-{number}"}) for number in range(6))
    with tiny_server(delay_s=0.05) as server:
        run = caption_dataset(
            ImageDataset(few.root, few.card, twins), tmp_path / "a.jsonl", config_for(server)
        )
        assert (run.num_written, run.num_asked, server.num_requests) == (6, 1, 1)


def test_bad_rows_are_listed_and_good_rows_done(tmp_path: Path) -> None:
    dataset = write_phantom_dataset(tmp_path / "set", num_images=8, size=32)
    broken, unlabelled = dataset.records[2], dataset.records[5]
    dataset.image_file(broken).write_bytes(b"no image")
    records = tuple(
        record.model_copy(update={"label": None}) if record == unlabelled else record
        for record in dataset.records
    )
    with tiny_server() as server:
        run = caption_dataset(
            ImageDataset(dataset.root, dataset.card, records), tmp_path / "a.jsonl", config_for(server)
        )
    assert (run.num_written, run.num_unanswered) == (6, 0)
    assert [(problem.file, problem.code) for problem in run.problems] == [
        (broken.file_name, "not-an-image"),
        (unlabelled.file_name, "no-category"),
    ]
    assert "the image has no label" in run.problems[1].detail


def test_a_wrong_key_and_a_server_that_is_down_end_the_run_with_what_is_done(
    few: ImageDataset, tmp_path: Path
) -> None:
    with tiny_server(fault=lambda _: "wrong-key") as server:
        with pytest.raises(DataError, match=r"none of 40 images could be captioned.*check the key"):
            caption_dataset(few, tmp_path / "a.jsonl", config_for(server))
        assert server.num_requests <= 4
    with tiny_server(fault=lambda number: "overloaded" if number >= 10 else None) as server:
        config = config_for(server, settings={"max_tries": 2})
        run = caption_dataset(few, tmp_path / "b" / "b.jsonl", config)
        assert run.num_written == 10
        assert len(run.problems) == run.num_unanswered == 30
        assert server.num_requests < 30
        assert any("is the server up?" in problem.detail for problem in run.problems)


def test_a_cost_cap_keeps_what_was_paid_for(few: ImageDataset, tmp_path: Path) -> None:
    with tiny_server() as server:
        config = config_for(server, settings={"max_requests": 15})
        run = caption_dataset(few, tmp_path / "a.jsonl", config)
        assert (run.num_written, server.num_requests) == (15, 15)
        assert {problem.code for problem in run.problems} == {"cost-cap"}
        # The cap is no cause of any text: raised, the finished rows are still good.
        run = caption_dataset(few, tmp_path / "a.jsonl", config_for(server, settings={"max_requests": 40}))
        assert (run.num_written, run.num_reused, server.num_requests) == (25, 15, 40)


def test_nothing_leaves_for_a_host_that_is_not_allowed(few: ImageDataset, tmp_path: Path) -> None:
    config = CaptionConfig(
        method="server", server=ServerConfig(base_url="https://api.example.org/v1", model="m")
    )
    for attempt in (caption_dataset, plan_dataset):
        with pytest.raises(DataError, match=r"api\.example\.org, which is not this machine"):
            attempt(few, tmp_path / "a.jsonl", config, seed=0)


def test_a_killed_run_goes_on_and_pays_for_nothing_twice(few: ImageDataset, tmp_path: Path) -> None:
    captions = tmp_path / "a.jsonl"
    cache_file = tmp_path / "caption-cache.sqlite"
    with tiny_server(delay_s=0.05, heed_keys=True) as server:
        config = config_for(server, settings={"concurrency": 2})
        command = [sys.executable, "-c", RUN_IN_ANOTHER_PROCESS, str(few.root), str(captions)]
        process = subprocess.Popen([*command, config.model_dump_json()])
        deadline = time.monotonic() + 60
        while sum(server.served.values()) < 10:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with CaptionCache(cache_file) as cache:
            in_flight, num_stored = len(cache.open_requests()), cache.num_answers()
        assert in_flight <= 2
        assert num_stored >= 8
        run = caption_dataset(few, captions, config)
        assert (run.num_written, run.num_asked, run.num_in_doubt) == (40, 40 - num_stored, in_flight)
        # Only what was in flight at the kill may have been answered twice, and a server that heeds the key that
        # comes with each request charges for it once.
        assert sum(count - 1 for count in server.served.values()) <= in_flight
        assert set(server.charged.values()) == {1}
    assert list(read_captions(captions)) == [record.record_id for record in few.records]


def test_sections_and_method_must_agree() -> None:
    section = {"base_url": "http://localhost:1", "model": "m"}
    with pytest.raises(ValidationError, match="method server needs the setting server"):
        CaptionConfig(method="server")
    with pytest.raises(ValidationError, match="server has no meaning for method simple"):
        CaptionConfig.model_validate({"method": "simple", "server": section})
    with pytest.raises(ValidationError, match=r"placeholders without a value: \['colour'\]"):
        CaptionConfig.model_validate({"method": "server", "server": section, "request_template": "{colour}?"})
    with pytest.raises(ValidationError, match="simplify needs a budget"):
        CaptionConfig.model_validate({"method": "server", "server": section, "simplify": {}})
    with pytest.raises(ValidationError, match=r"simplify\.min_tokens 90 is over the budget of 77"):
        CaptionConfig.model_validate(
            {"method": "server", "server": section, "simplify": {}, "budget": "clip"}
        )
