import base64
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from medgen_captioning.caption_cache import CaptionCache
from medgen_captioning.config import ServerConfig
from medgen_captioning.egress import check_egress
from medgen_captioning.server import ServerError, ServerModel, server_writer
from medgen_captioning.tiny.server import FAULTS, Fault, TinyServer, tiny_server
from medgen_data.images import encode_png
from medgen_data.problems import DataError
from pydantic import ValidationError

PNG = encode_png(np.zeros((8, 8, 3), dtype=np.uint8))
PROMPT = "An X image of y. Start with 'An X image of y' and ensure the description does not exceed 9 words."


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CaptionCache]:
    with CaptionCache(tmp_path / "cache.sqlite") as opened:
        yield opened


def model(server: TinyServer, cache: CaptionCache, **settings: Any) -> ServerModel:
    quick = {"timeout_s": 0.5, "backoff_s": 0.01, **settings}
    return ServerModel(ServerConfig(base_url=server.base_url, model="tiny", **quick), cache, api_key=None)


def ask(of: ServerModel, key: str = "k", **more: Any) -> str:
    return of.ask(PROMPT, key=key, seed=3, png=PNG, **more)


def test_a_request_carries_prompt_pixels_seed_and_settings(cache: CaptionCache) -> None:
    with tiny_server(keep_bodies=True) as server:
        asked = model(server, cache, top_k=50, max_new_tokens=77)
        assert ask(asked).startswith("An X image of y, with a")
        body = server.bodies[0]
        assert (body["model"], body["seed"], body["temperature"], body["top_p"], body["top_k"]) == (
            "tiny", 3, 0.8, 0.9, 50,
        )  # fmt: skip
        assert body["max_tokens"] == 77
        image, text = body["messages"][0]["content"]
        assert base64.b64decode(image["image_url"]["url"].removeprefix("data:image/png;base64,")) == PNG
        assert text == {"type": "text", "text": PROMPT}
        assert server.headers[0]["idempotency-key"] == "k"


def test_settings_that_are_none_are_not_sent(cache: CaptionCache) -> None:
    with tiny_server(keep_bodies=True) as server:
        asked = model(server, cache, temperature=None, top_p=None, length_field="max_completion_tokens")
        ask(asked)
        assert set(server.bodies[0]) == {"model", "messages", "seed", "max_completion_tokens"}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_tried_again(cache: CaptionCache, fault: Fault) -> None:
    with tiny_server(fault=lambda number: fault if number < 2 else None) as server:
        asked = model(server, cache)
        assert ask(asked).startswith("An X image of y")
        assert server.num_requests == 3
        spent = cache.spending(asked.writer.identity)
        assert (spent.num_requests, spent.num_open, spent.prompt_tokens) == (3, 0, 100)
        assert cache.text("k") is not None


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ("rate-limit", "status-429", r"429 .*slow down.*\(3 tries\)"),
        ("overloaded", "status-500", r"500 .*internal error.*\(3 tries\)"),
        ("hang", "time-out", r"no answer within 0\.5 s \(3 tries\)"),
        ("cut", "no-connection", r"\(3 tries\)"),
        ("wrong-json", "wrong-json", r"is not JSON.*\(3 tries\)"),
    ],
)
def test_what_does_not_pass_is_given_up_with_its_reason(
    cache: CaptionCache, fault: Fault, code: str, reason: str
) -> None:
    with tiny_server(fault=lambda _: fault) as server:
        with pytest.raises(ServerError, match=reason) as caught:
            ask(model(server, cache, max_tries=3))
        assert (caught.value.code, caught.value.stops, server.num_requests) == (code, False, 3)
        assert cache.num_answers() == 0


@pytest.mark.parametrize(
    ("fault", "code", "reason", "stops"),
    [
        ("wrong-key", "refused-key", "401 .*check the key in OPENAI_API_KEY", True),
        ("redirect", "redirect", "redirects to http://localhost:.*give the final address", True),
        ("bad-request", "status-400", "takes no images.*is 'tiny' a vision model", False),
    ],
)
def test_what_another_try_cannot_mend_is_not_tried_again(
    cache: CaptionCache, fault: Fault, code: str, reason: str, stops: bool
) -> None:
    with tiny_server(fault=lambda _: fault) as server:
        with pytest.raises(ServerError, match=reason) as caught:
            ask(model(server, cache))
        assert (caught.value.code, caught.value.stops, server.num_requests) == (code, stops, 1)


def test_three_images_in_a_row_without_answer_mean_that_the_server_is_down(cache: CaptionCache) -> None:
    with tiny_server() as server:
        asked = model(server, cache, max_tries=2)
        ask(asked)
    for number in range(3):
        with pytest.raises(ServerError, match=r"\(2 tries\)") as caught:
            ask(asked, key=f"k{number}")
        assert (caught.value.code, caught.value.stops) == ("no-connection", number == 2)
    assert "is the server up?" in str(caught.value)


def test_retry_after_is_waited_for_and_too_long_a_wait_ends_the_run(cache: CaptionCache) -> None:
    with tiny_server(fault=lambda number: "rate-limit" if number < 1 else None, retry_after="1") as server:
        start = time.monotonic()
        ask(model(server, cache))
        assert 1 <= time.monotonic() - start < 5
    with tiny_server(fault=lambda _: "rate-limit", retry_after="3600") as server:
        with pytest.raises(ServerError, match="asks to wait 3600 s, more than max_wait_s 60") as caught:
            ask(model(server, cache), key="other")
        assert (caught.value.stops, server.num_requests) == (True, 1)


def test_a_cap_on_requests_counts_failed_ones_and_holds_over_runs(cache: CaptionCache) -> None:
    with tiny_server(fault=lambda number: "overloaded" if number == 0 else None) as server:
        ask(model(server, cache, max_requests=3), key="a")
        again = model(server, cache, max_requests=3)
        ask(again, key="b")
        with pytest.raises(ServerError, match=r"max_requests 3 is reached.*3 requests, 200 prompt") as caught:
            ask(again, key="c")
        assert (caught.value.stops, server.num_requests) == (True, 3)


def test_caps_on_tokens_and_cost_are_kept_before_asking(cache: CaptionCache) -> None:
    with tiny_server() as server:
        # An answer may come to 50 tokens, a prompt has 100: two requests fit into 300, a third does not.
        asked = model(server, cache, max_total_tokens=300, max_new_tokens=50)
        ask(asked, key="a")
        ask(asked, key="b")
        with pytest.raises(ServerError, match="max_total_tokens 300"):
            ask(asked, key="c")
        dear = model(
            server, cache, max_cost=0.9, prompt_price=1000, completion_price=10000, max_new_tokens=50
        )
        with pytest.raises(ServerError, match=r"max_cost 0\.9"):
            ask(dear, key="c")
        assert server.num_requests == 2


def test_a_cap_on_tokens_holds_for_many_at_once_before_the_size_of_a_prompt_is_known(
    cache: CaptionCache,
) -> None:
    def attempt(number: int) -> str:
        try:
            return ask(asked, key=f"k{number}")
        except ServerError as error:
            return error.code

    with tiny_server(delay_s=0.05) as server:
        asked = model(server, cache, max_total_tokens=310, max_new_tokens=50, timeout_s=5)
        with ThreadPoolExecutor(8) as executor:
            outcomes = list(executor.map(attempt, range(8)))
        spent = cache.spending(asked.writer.identity)
        assert spent.prompt_tokens + spent.completion_tokens <= 310
        assert outcomes.count("cost-cap") == 8 - server.num_requests == 6


def test_requests_of_another_process_and_of_a_killed_run_count_against_a_cap(cache: CaptionCache) -> None:
    with tiny_server() as server:
        asked = model(server, cache, max_total_tokens=500, max_new_tokens=50)
        ask(asked, key="a")
        for key in ("b", "c"):  # begun elsewhere, and never ended
            cache.begin_request(key, asked.writer.identity)
        with pytest.raises(ServerError, match="max_total_tokens 500"):
            ask(asked, key="d")


def test_an_answer_that_another_process_stored_meanwhile_is_not_asked_for(cache: CaptionCache) -> None:
    with tiny_server() as server:
        first = ask(model(server, cache))
        assert ask(model(server, cache)) == first
        assert server.num_requests == 1


def test_a_cap_on_tokens_needs_a_server_that_counts_them(cache: CaptionCache) -> None:
    with tiny_server(tell_usage=False) as server:
        ask(model(server, cache), key="a")
        with pytest.raises(ServerError, match=r"does not say how many tokens.*set max_requests"):
            ask(model(server, cache, max_total_tokens=10_000), key="b")
        assert cache.text("b") is not None


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.example.org/v1", "http://localhost.example.org/v1", "http://127.0.0.1.example.org/v1",
        "http://0.0.0.0:8000/v1", "http://192.168.1.5:8000/v1", "https://api.example.org.evil.org/v1",
    ],
)  # fmt: skip
def test_images_stay_on_this_machine_unless_the_very_host_is_allowed(base_url: str) -> None:
    for allowed in ((), ("example.org",), ("api.example.com", "evil.org")):
        with pytest.raises(DataError, match=r"is not this machine; .*--allow-egress"):
            check_egress(base_url, allowed)


def test_loopback_needs_no_leave_and_an_allowed_host_is_compared_whole() -> None:
    for base_url in ("http://localhost:1/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1"):
        assert check_egress(base_url, ()) in ("localhost", "127.0.0.1", "::1")
    assert check_egress("https://API.example.org/v1", ["api.example.org"]) == "api.example.org"
    with pytest.raises(DataError, match="without a user"):
        check_egress("http://127.0.0.1@api.example.org/v1", ["127.0.0.1"])


def test_a_remote_server_needs_a_key(cache: CaptionCache) -> None:
    config = ServerConfig(base_url="https://api.example.org/v1", model="m", api_key_env="MY_KEY")
    with pytest.raises(DataError, match="environment variable MY_KEY is not set"):
        ServerModel(config, cache, api_key=None, allow_egress=["api.example.org"])


def test_proxies_of_the_environment_do_not_see_what_is_meant_for_this_machine(
    cache: CaptionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tiny_server() as proxy, tiny_server() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        ask(model(server, cache))
        assert (server.num_requests, proxy.num_requests) == (1, 0)


def test_the_identity_of_a_server_names_address_model_and_revision() -> None:
    config = ServerConfig(base_url="http://localhost:1/v1/", model="m", revision="r2")
    writer = server_writer(config)
    assert (writer.name, writer.identity, writer.draws) == ("m", "server http://localhost:1/v1 m r2", True)
    assert not server_writer(config.model_copy(update={"temperature": 0.0})).draws
    assert server_writer(config.model_copy(update={"concurrency": 1, "max_requests": 5})) == writer


def test_settings_of_a_server_are_checked() -> None:
    with pytest.raises(ValidationError, match="max_cost needs prompt_price and completion_price"):
        ServerConfig(base_url="http://localhost:1", model="m", max_cost=1)
    with pytest.raises(ValidationError, match="base_url"):
        ServerConfig(base_url="file:///etc/passwd", model="m")
