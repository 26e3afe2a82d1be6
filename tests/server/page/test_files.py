"""How the files of the chat page are sent: under a strict policy, without a key, from links to the page alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx

from edgephi.runtime.server.page import PATHS
from edgephi.runtime.server.settings import Access

from ..conftest import Live, script


def test_every_file_is_sent_with_a_policy_and_without_a_key(start: Callable[..., Live]) -> None:
    live = start(script(), access=Access(keys=("a-secret-key",)))
    used = {"/"}
    for path in PATHS:
        response = live.get(path)
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        # The name of SVG's language is the only address.
        assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
        assert "innerHTML" not in response.text and "eval(" not in response.text
        used |= set(re.findall(r"/page/[\w.]+", response.text))
    assert used == set(PATHS), "every file is used, and everything that is used is there"


def test_a_link_on_another_site_may_lead_to_the_page_alone(start: Callable[..., Live]) -> None:
    live = start(script())
    follows = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert live.get("/", headers=follows).status_code == 200
    assert live.get("/v1/models", headers=follows).status_code == 403
    assert live.get("/", headers=follows | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert httpx.post(f"{live.url}/", headers=follows).status_code in (403, 405)
