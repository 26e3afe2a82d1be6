"""Adapters as models of their own: "bundle:adapter", all of them answered by the one session of the bundle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import edgephi
from edgephi.runtime.errors import RequestError
from edgephi.runtime.server.metrics import Metrics
from edgephi.runtime.server.models import Models, load_engine
from edgephi.runtime.server.settings import Loading, Settings

from .conftest import QUICK, Live, serving

NAMES = {"tiny": None, "tiny:one": "one", "tiny:two": "two"}
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hello there"}], "temperature": 0, "max_tokens": 16}


@pytest.fixture(scope="module")
def tuned(adapted_bundle: Path) -> Iterator[Live]:
    settings = Settings({"tiny": adapted_bundle}, limits=QUICK, loading=Loading(threads=1, context=4096))
    with serving(settings, load_engine) as made:
        yield made


@pytest.fixture(scope="module")
def alone(adapted_bundle: Path) -> dict[str, str]:
    """What each says without a server."""
    with edgephi.load(adapted_bundle, threads=1, context=4096) as phi:
        said = {
            model: phi.chat(ASKED["messages"], temperature=0, max_tokens=16, adapter=name).text
            for model, name in NAMES.items()
        }
    assert len(set(said.values())) == 3
    return said


def test_they_are_listed_with_the_bundle_that_they_belong_to(tuned: Live) -> None:
    client = tuned.client()
    assert [model.id for model in client.models.list()] == list(NAMES)
    assert client.models.retrieve("tiny:one").id == "tiny:one"
    assert tuned.get("/v1/models/tiny:one").json()["parent"] == "tiny"
    assert "parent" not in tuned.get("/v1/models/tiny").json()
    assert list(tuned.get("/health").json()["models"]) == ["tiny"]
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("tiny:three")


def test_clients_in_parallel_get_the_adapter_that_they_ask_for(tuned: Live, alone: dict[str, str]) -> None:
    wrong: list[str] = []

    def ask(model: str) -> None:
        made = tuned.client().chat.completions.create(model=model, user=model, **ASKED)
        if (made.model, made.choices[0].message.content) != (model, alone[model]):
            wrong.append(model)

    for _ in range(2):
        threads = [threading.Thread(target=ask, args=(model,)) for model in NAMES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    prints = {tuned.client().chat.completions.create(model=model, **ASKED).system_fingerprint for model in NAMES}
    assert len(prints) == 3


def test_every_way_to_ask_knows_them(tuned: Live, alone: dict[str, str], adapted_bundle: Path) -> None:
    client = tuned.client()
    assert tuned.post("/v1/chat/completions", ASKED).json()["model"] == "tiny"  # the only bundle
    reply = client.responses.create(model="tiny:two", input="hello there", temperature=0, max_output_tokens=16)
    assert reply.output_text == alone["tiny:two"]
    with edgephi.load(adapted_bundle, threads=1, context=4096) as phi:
        raw = phi.generate([70, 71, 72], temperature=0, max_tokens=8, adapter="one").text
    made = client.completions.create(model="tiny:one", prompt=[70, 71, 72], temperature=0, max_tokens=8)
    assert made.choices[0].text == raw


def test_an_adapter_may_stand_beside_the_model(tuned: Live, alone: dict[str, str]) -> None:
    for model in (None, "tiny", "tiny:two"):
        made = tuned.post("/v1/chat/completions", {**ASKED, "model": model, "adapter": "two"}).json()
        assert made["model"] == "tiny:two" and made["choices"][0]["message"]["content"] == alone["tiny:two"]
    made = tuned.post("/v1/completions", {"prompt": "x", "model": "tiny", "adapter": "one", "max_tokens": 1}).json()
    assert made["model"] == "tiny:one"
    refused = tuned.post("/v1/chat/completions", {**ASKED, "model": "tiny:two", "adapter": "one"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "adapter"
    unknown = tuned.post("/v1/chat/completions", {**ASKED, "model": "tiny", "adapter": "three"})
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "adapter_not_found"
    assert "its adapters: one, two" in unknown.json()["error"]["message"]


def test_a_name_that_means_two_models_is_refused(adapted_bundle: Path) -> None:
    settings = Settings({"tiny": adapted_bundle, "tiny:one": adapted_bundle})
    with pytest.raises(RequestError, match="both called 'tiny:one'"):
        Models.open(settings, Metrics(), load_engine)
