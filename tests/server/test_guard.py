"""Who may ask: host names, origins, keys, addresses."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from edgephi import RequestError
from edgephi.runtime.server.models import load_engine
from edgephi.runtime.server.settings import Access, Settings

from .conftest import QUICK, Live, last, script, serving, spoken

KEYS = ("first-secret-key", "second-secret-key")


@pytest.fixture(scope="module")
def locked(bundle: Path) -> Iterator[Live]:
    access = Access(keys=KEYS, names=("phi.lan",), origins=("https://page.example",))
    with serving(Settings({"tiny": bundle}, access, QUICK), load_engine) as live:
        yield live


def _status(live: Live, host: str | None, *further: str) -> int:
    """The answer to GET /v1/models with these Host headers."""
    connection = http.client.HTTPConnection(live.url.removeprefix("http://"), timeout=10)
    try:
        connection.putrequest("GET", "/v1/models", skip_host=True)
        for value in (host, *further):
            if value is not None:
                connection.putheader("Host", value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8484", "localhost", "LOCALHOST:1", "[::1]:8484", "[::1]"])
def test_names_of_this_machine_are_answered(live: Live, host: str) -> None:
    assert _status(live, host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "localhost.", "evil.localhost", "",
        "192.168.0.1", "0.0.0.0", "user@localhost", "localhost/path", "localhost:port", "[::1", "2130706433", "127.1",
    ],
)
def test_other_names_are_refused(live: Live, host: str) -> None:
    assert _status(live, host) in (400, 403)


def test_no_host_and_two_hosts_are_refused(live: Live) -> None:
    assert _status(live, None) in (400, 403)
    assert _status(live, "localhost", "evil.example") in (400, 403)


def test_a_refusal_has_openai_s_shape(live: Live) -> None:
    response = live.get("/v1/models", headers={"host": "evil.example"})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "host_not_allowed"


def test_names_can_be_added(locked: Live) -> None:
    key = {"authorization": f"Bearer {KEYS[0]}"}
    assert locked.get("/v1/models", headers={"host": "phi.lan:80", **key}).status_code == 200
    assert locked.get("/v1/models", headers={"host": "x.phi.lan", **key}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_origins_are_refused(live: Live, headers: dict[str, str]) -> None:
    response = live.post("/v1/chat/completions", {}, headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_pages_of_our_own_are_answered(live: Live) -> None:
    headers = {"origin": live.url, "sec-fetch-site": "same-origin"}
    assert live.get("/v1/models", headers=headers).status_code == 200


def test_nobody_is_told_that_other_origins_may_ask(live: Live) -> None:
    response = live.get("/v1/models")
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_an_origin_that_was_allowed_is_told_so(locked: Live) -> None:
    import httpx

    asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
    response = httpx.options(f"{locked.url}/v1/chat/completions", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://page.example"
    other = httpx.options(f"{locked.url}/v1/chat/completions", headers={**asked, "origin": "https://evil.example"})
    assert other.status_code == 403


def test_every_route_but_health_and_the_page_needs_a_key(locked: Live) -> None:
    paths = [
        "/v1/models", "/v1/models/tiny", "/metrics", "/v1/chat/completions", "/v1/completions", "/v1/responses",
        "/v1/audio/transcriptions", "/v1/audio/translations", "/openapi.json", "/page/", "/docs", "/health/",
    ]
    for path in paths:
        for response in (locked.get(path), locked.post(path, {})):
            assert response.status_code == 401, path
            assert response.json()["error"]["code"] == "invalid_api_key"
    health = locked.get("/health")
    assert health.status_code == 200 and health.json() == {"status": "ok"}


def test_any_of_the_keys_opens_by_both_headers(locked: Live) -> None:
    for key in KEYS:
        assert [model.id for model in locked.client(api_key=key).models.list()] == ["tiny"]
        assert locked.get("/v1/models", headers={"x-api-key": key}).status_code == 200
        assert "models" in locked.get("/health", headers={"x-api-key": key}).json()


@pytest.mark.parametrize("key", ["x", "wrong", KEYS[0][:-1], KEYS[0] + "x", KEYS[0].upper(), "schlüssel"])
def test_a_wrong_key_opens_nothing(locked: Live, key: str) -> None:
    headers = {"authorization": f"Bearer {key}".encode("latin-1")}
    assert locked.get("/v1/models", headers=headers).status_code == 401


def test_the_client_raises_its_own_error_for_a_wrong_key(locked: Live) -> None:
    with pytest.raises(openai.AuthenticationError):
        locked.client(api_key="wrong").models.list()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "10.0.0.1", "phi.lan"])
def test_other_machines_are_served_with_a_key_alone(host: str) -> None:
    with pytest.raises(RequestError, match="EDGEPHI_API_KEY"):
        Access(host)
    assert Access(host, KEYS).host == host


@pytest.mark.parametrize("key", ["short", "with space in it", "schlüssel-lang-genug", "x" * 600])
def test_a_key_that_clients_could_not_send_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match="API key"):
        Access(keys=(key,))


def test_settings_do_not_show_keys() -> None:
    assert KEYS[0] not in repr(Access(keys=KEYS))


def test_listening_everywhere_any_number_is_ours_and_no_foreign_name(start: Callable[..., Live]) -> None:
    live = start(script(*spoken("a"), last()), access=Access("0.0.0.0", KEYS))
    key = {"x-api-key": KEYS[0]}
    assert live.get("/v1/models", headers={"host": "192.168.7.9:8484", **key}).status_code == 200
    assert live.get("/v1/models", headers={"host": "evil.example", **key}).status_code == 403
