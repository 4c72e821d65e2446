import contextlib
import shutil
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import pytest
from medgen_review.server.security import MAX_BODY, LoginLimit, signature
from medgen_review.server.serving import AddressError, checked_access, serve
from medgen_review.store import RatingStore, RefusedError
from medgen_review.study import Study

EVERY_PAGE = ("/login", "/briefing", "/overview", "/page/1", "/finish", "/nowhere", "/static/studio.js")


def csrf_in(page: str) -> str:
    return page.split('data-csrf="')[1][:32]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_computer_alone_needs_nothing_more(host: Any) -> None:
    access = checked_access(host)
    assert not access.secure
    assert "http://localhost:8000" in access.origins(8000)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "rate.clinic.example", ""])
def test_an_address_that_others_reach_is_refused_unless_asked_for_and_encrypted(
    host: Any, tmp_path: Path
) -> None:
    with pytest.raises(AddressError, match=r"can be reached from other computers\. If that is meant"):
        checked_access(host)
    with pytest.raises(AddressError, match="would cross the network in the clear"):
        checked_access(host, allow_public=True)
    pem = tmp_path / "cert.pem"
    pem.touch()
    access = checked_access(
        host, allow_public=True, tls_cert=pem, tls_key=pem, hostnames=["Rate.Clinic.example"]
    )
    assert access.secure
    assert "https://rate.clinic.example:8443" in access.origins(8443)
    assert "https://rate.clinic.example" in access.origins(443)


def test_every_address_of_a_computer_needs_the_names_that_raters_type(tmp_path: Path) -> None:
    pem = tmp_path / "cert.pem"
    pem.touch()
    with pytest.raises(AddressError, match="give the names that raters type"):
        checked_access("0.0.0.0", allow_public=True, tls_cert=pem, tls_key=pem)


@pytest.mark.parametrize(
    "origin", ["http://a.example", "a.example", "https://a.example/path", "https://u@a.example"]
)
def test_a_proxy_is_known_by_its_https_address(origin: Any) -> None:
    with pytest.raises(AddressError, match="behind_proxy must be the address raters type"):
        checked_access(behind_proxy=origin)
    for typed in ("https://a.example/", "https://A.Example", "https://a.example:443"):
        assert checked_access(behind_proxy=typed).origins(8000) == ("https://a.example",)


def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="TLS needs both files"):
        checked_access(tls_cert=tmp_path / "cert.pem")
    with pytest.raises(AddressError, match="there is no such file"):
        checked_access(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")


def test_a_taken_port_is_said_and_nothing_is_served(
    write_study: Callable[..., Study], tmp_path: Path, server_process: Callable[[Path], Any]
) -> None:
    write_study(tmp_path, num_prompts=1)
    server = server_process(tmp_path / "study.json")
    with pytest.raises(AddressError, match="is the study served already"):
        serve(tmp_path / "study.json", port=int(server.address.rpartition(":")[2]))
    server.kill()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_with_tls_files_the_studio_answers_by_https_alone(
    write_study: Callable[..., Study], tmp_path: Path
) -> None:
    write_study(tmp_path, num_prompts=1)
    pem = [str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")]
    options = [
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    alternative = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", *options, *alternative, "-keyout", pem[0], "-out", pem[1]]
    subprocess.run(make, check=True, capture_output=True)
    server = (
        "import sys; from pathlib import Path; from medgen_review.server.serving import serve\n"
        "study, key, cert = map(Path, sys.argv[1:])\n"
        "serve(study, port=0, tls_key=key, tls_cert=cert, on_ready=lambda address: print(address, flush=True))"
    )
    command: list[str] = [sys.executable, "-c", server, str(tmp_path / "study.json"), *pem]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=pem[1])
        with httpx2.Client(verify=context, base_url=address) as client:
            answer = client.get("/login")
            assert answer.status_code == 200
            assert "strict-transport-security" in answer.headers
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(address.replace("https", "http"))
        process.kill()


def test_a_changed_image_stops_the_start(write_study: Callable[..., Study], tmp_path: Path) -> None:
    study = write_study(tmp_path, num_prompts=1)
    (tmp_path / study.sets[0].images[0].file).write_bytes(b"another")
    with pytest.raises(ValueError, match="was changed after the study was made"):
        serve(tmp_path / "study.json", port=0)


def test_every_answer_carries_the_policy_and_is_kept_by_no_cache(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    for address in EVERY_PAGE:
        headers = client.get(address).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
            "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert headers["cache-control"] in {"no-store", "no-cache"}
        assert "server" not in headers


def test_no_page_holds_script_or_style_of_its_own_or_of_another_host(studio: Callable[..., Any]) -> None:
    at_work = studio(num_attention=1)
    client = at_work.browser(at_work.store.enrol("Ada").token)
    for address in (*EVERY_PAGE[:-1], "/page/2", "/page/3"):
        text = client.get(address).text
        for attributes in tags_of(text):
            assert not {name for name in attributes if name.startswith(("on", "style", "hx-on"))}
            for name in ("src", "href", "action", "data-answer"):
                assert str(attributes.get(name, "/")).startswith(("/", "#"))
                assert not str(attributes.get(name, "/")).startswith("//")
        assert text.count("<script") == text.count("<script src=")
        assert "<style" not in text


def test_a_foreign_name_for_this_address_is_refused(studio: Callable[..., Any]) -> None:
    client = studio().browser()
    for host in ("evil.example", "127.0.0.1", "127.0.0.1:8001", "127.0.0.1:8000.evil.example", ""):
        assert client.get("/login", headers={"Host": host}).status_code == 421, host


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "http://127.0.0.1:8001", "https://127.0.0.1:8000"]
)
def test_a_post_from_another_site_is_refused(studio: Callable[..., Any], origin: Any) -> None:
    at_work = studio()
    client = at_work.browser(at_work.store.enrol("Ada").token)
    csrf = csrf_in(client.get("/briefing").text)
    answer = client.post("/logout", data={"csrf": csrf}, headers={"Origin": origin})
    assert answer.status_code == 403
    del client.headers["Origin"]
    assert client.post("/logout", data={"csrf": csrf}).status_code == 403


def test_a_form_without_the_raters_own_token_is_refused(studio: Callable[..., Any]) -> None:
    at_work = studio()
    ada, eve = (at_work.browser(at_work.store.enrol(name).token) for name in ("Ada", "Eve"))
    form = {"action": "a" * 16, "slug": "1-A-0", "value": "3", "seen": "0"}
    for csrf in ("", "0" * 32, csrf_in(eve.get("/briefing").text), "ü" * 32):
        for address in ("/page/1/answer", "/page/1", "/finish", "/logout"):
            answer = ada.post(address, data={**form, "csrf": csrf})
            assert answer.status_code == 403
            assert "This form is out of date" in answer.text
    assert not at_work.store.values(0)


def test_cookies_are_for_tls_alone_where_the_studio_is(studio: Callable[..., Any]) -> None:
    at_work = studio()
    code = at_work.store.enrol("Ada").token
    answer = at_work.browser(secure=True).post("/login", data={"code": code}, follow_redirects=False)
    assert answer.headers["set-cookie"].startswith("__Host-review-")
    assert "Secure" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_tokens_differ_by_purpose_code_and_study() -> None:
    tokens = {
        signature(secret, purpose, code)
        for secret in (bytes(32), bytes(31) + b"1")
        for purpose in ("form", "browser")
        for code in ("A", "B")
    }
    assert len(tokens) == 8


def test_a_body_beyond_the_limit_is_refused_however_it_is_sent(studio: Callable[..., Any]) -> None:
    client = studio().browser()
    large = b"code=" + b"x" * MAX_BODY
    assert client.post("/login", content=large).status_code == 413

    def in_pieces() -> Any:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    assert client.post("/login", content=in_pieces()).status_code == 413
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert client.post("/login", content=b"--x--", headers=kind).status_code == 422
    many = "&".join(f"f{number}=1" for number in range(3000))
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/login", content=many, headers=kind).status_code == 400


def test_attempts_to_log_in_are_limited_and_forgiven_after_a_while() -> None:
    now = 0.0
    limit = LoginLimit(attempts=3, within_s=60, clock=lambda: now)
    for _ in range(3):
        assert limit.wait_s("eve") == 0
        limit.failed("eve")
        now += 1
    assert limit.wait_s("eve") == 57
    assert limit.wait_s("ada") == 0
    now = 60.0
    assert limit.wait_s("eve") == 0
    for number in range(10_000):
        limit.failed(str(number))
    assert len(limit._failures) <= 4096


def test_after_ten_wrong_codes_even_the_right_one_has_to_wait(studio: Callable[..., Any]) -> None:
    at_work = studio()
    client = at_work.browser()
    answers = [client.post("/login", data={"code": f"wrong {number}"}).status_code for number in range(11)]
    assert answers == [401] * 10 + [429]
    answer = client.post("/login", data={"code": at_work.store.enrol("Ada").token})
    assert "Please wait 5 minutes" in answer.text


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: Any, attrs: Any) -> None:
        self.tags.append({"": tag, **dict(attrs)})


def tags_of(text: str) -> list[dict[str, str | None]]:
    parser = _Tags()
    parser.feed(text)
    return parser.tags


def shape_of(text: str) -> list[tuple[str, ...]]:
    return [(str(tag[""]), *sorted(tag)) for tag in tags_of(text)]


@pytest.mark.parametrize("part", range(10))
def test_500_hostile_texts_become_text_and_never_a_tag_or_an_attribute(
    hostile_study: Callable[..., Study], tmp_path: Path, xss_payloads: list[str], studio_of: Any, part: int
) -> None:
    payloads = xss_payloads[part::10]
    study = hostile_study(tmp_path, payloads)
    with RatingStore.open(tmp_path / "hostile.sqlite", study) as store:
        code = ""
        for payload in payloads:
            with contextlib.suppress(
                RefusedError
            ):  # a name must be printable, and unique in its first 90 characters
                code = store.enrol(payload[:90]).token
        client = studio_of(study, store, tmp_path).browser(code, raise_server_exceptions=False)
        # The button to the previous page is `disabled` and `hidden` on the first.
        shapes = {
            tuple(
                tuple(name for name in tag if name not in {"disabled", "hidden"})
                for tag in shape_of(page.text)
            )
            for page in (client.get(f"/page/{number}") for number in range(1, 51))
        }
        assert len(shapes) == 1
        (shape,) = shapes
        foreign = {"svg", "iframe", "object", "style", "math", "base", "details", "textarea", "body"}
        assert [tag[0] for tag in shape if tag[0] in foreign] == ["body"]
        for address in ("/overview", "/briefing", "/finish", "/login"):
            tags = [tag[0] for tag in shape_of(client.get(address).text)]
            assert [tag for tag in tags if tag in foreign] == ["body"]
            assert "img" not in tags
        for payload in payloads:
            answer = client.post("/page/1/answer", data={"csrf": payload, "slug": payload})
            assert payload not in answer.text
            tags = [tag[0] for tag in shape_of(client.get(f"/page/{payload}").text)]
            assert not set(tags) & (foreign - {"body"})


def test_500_sql_payloads_in_every_field_change_nothing(
    studio: Callable[..., Any], sql_payloads: list[str]
) -> None:
    at_work = studio(num_prompts=1)
    code = at_work.store.enrol("Ada").token
    client = at_work.browser(code, limit=LoginLimit(attempts=10**9), follow_redirects=False)
    csrf = csrf_in(client.get("/briefing").text)
    at_work.store.record(0, 0, "A", at_work.study.aspects[0].key, 5, action_id="the only value")
    before = dump(at_work.folder / "ratings.sqlite")
    form = {"csrf": csrf, "action": "a" * 16, "slug": "1-A-0", "value": "6", "seen": "1"}
    assert len(set(sql_payloads)) == 500
    for number, payload in enumerate(sql_payloads):
        assert client.post("/login", data={"code": payload}).status_code == 401
        for field in ("slug", "value"):
            answer = client.post("/page/1/answer", data={**form, field: payload})
            assert answer.status_code in {403, 422}, (field, payload)
        # As the id of an action any text is one; the value stands already, so nothing is to be written.
        assert client.post("/page/1/answer", data={**form, "value": "5", "action": payload}).status_code in {
            200,
            422,
        }
        assert client.get(f"/image/{payload.replace('/', '%2F')}").status_code == 404
        if number % 10 == 0:
            assert client.post("/page/1/answer", data={**form, "seen": payload}).status_code == 422
            cookie = f"surround={payload.encode('ascii', 'ignore').decode()}"
            assert client.get("/login", headers={"Cookie": cookie}).status_code == 200
    assert dump(at_work.folder / "ratings.sqlite") == before
    at_work.store.verify()


def dump(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()
