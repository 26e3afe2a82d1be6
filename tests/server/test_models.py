"""Queue, loading on demand, idle models, seats, metrics: a live server whose engines are scripts or real sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

import edgephi
from edgephi import BundleError
from edgephi.runtime.server.bundles import Bundle
from edgephi.runtime.server.jobs import Engine
from edgephi.runtime.server.models import load_engine
from edgephi.runtime.server.seats import Seats
from edgephi.runtime.server.settings import Limits, Loading, Settings

from .conftest import QUICK, Live, Script, last, script, serving, spoken, wait_until

ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}
CHAT = "/v1/chat/completions"

Start = Callable[..., Live]


def _ask(live: Live, results: list[Any], **options: Any) -> threading.Thread:
    """Ask in another thread; what came back is added to `results`."""

    def ask() -> None:
        results.append((options.get("user"), live.post(CHAT, {**ASKED, "model": "tiny", **options})))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def _held() -> Script:
    return script(*spoken("a", "b"), last(), gate=threading.Event())


def test_a_full_queue_says_when_to_ask_again(start: Start) -> None:
    engine = _held()
    live = start(engine, places=2)
    worker = live.models.find("tiny").worker
    results: list[Any] = []
    threads = [_ask(live, results, user="first")]
    wait_until(lambda: worker.busy)
    threads += [_ask(live, results, user=name) for name in ("second", "third")]
    wait_until(lambda: worker.waiting == 2)
    refused = live.post(CHAT, {**ASKED, "user": "fourth"})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    with pytest.raises(openai.RateLimitError):
        live.client().chat.completions.create(**ASKED, model="tiny")
    assert live.get("/health").json()["models"]["tiny"]["waiting"] == 2
    assert 'edgephi_requests_waiting{model="tiny"} 2.0' in live.get("/metrics").text
    assert engine.gate is not None
    engine.gate.set()
    for thread in threads:
        thread.join()
    assert [response.status_code for _, response in results] == [200] * 3


def test_one_client_leaves_places_to_others_and_waits_for_its_turn(start: Start) -> None:
    engine = _held()
    live = start(engine, places=8)
    worker = live.models.find("tiny").worker
    results: list[Any] = []
    threads = [_ask(live, results, user="busy", seed=0)]
    wait_until(lambda: worker.busy)
    for number in range(1, 5):
        threads.append(_ask(live, results, user="busy", seed=number))
        wait_until(lambda expected=number: worker.waiting == expected)  # type: ignore[misc]
    assert live.post(CHAT, {**ASKED, "user": "busy"}).status_code == 429
    threads.append(_ask(live, results, user="other", seed=9))
    wait_until(lambda: worker.waiting == 5)
    assert engine.gate is not None
    engine.gate.set()
    for thread in threads:
        thread.join()
    order = [options["seed"] for _, options in engine.asked]
    assert order == [0, 1, 9, 2, 3, 4]


def test_who_leaves_while_waiting_is_not_answered(start: Start) -> None:
    engine = _held()
    live = start(engine)
    worker = live.models.find("tiny").worker
    results: list[Any] = []
    first = _ask(live, results, user="first")
    wait_until(lambda: worker.busy)
    with pytest.raises(openai.APITimeoutError):
        live.client(timeout=0.3).chat.completions.create(**ASKED, model="tiny")
    wait_until(lambda: worker.waiting == 0)
    assert engine.gate is not None
    engine.gate.set()
    first.join()
    assert len(engine.asked) == 1


def test_a_stream_that_waits_for_its_turn_shows_that_it_lives(start: Start) -> None:
    engine = _held()
    live = start(engine, ping_seconds=0.05)
    results: list[Any] = []
    first = _ask(live, results)
    wait_until(lambda: live.models.find("tiny").worker.busy)
    with live.client().chat.completions.with_streaming_response.create(**ASKED, model="tiny", stream=True) as response:
        lines = response.iter_lines()
        assert any(line.startswith(": ") for line in lines), "no sign of life"
        assert engine.gate is not None and not engine.gate.is_set()
        engine.gate.set()
        assert "data: [DONE]" in list(lines)
    first.join()


def test_the_end_of_the_server_ends_a_stream_and_refuses_who_waits(start: Start) -> None:
    engine = _held()
    live = start(engine, grace_seconds=0.2)
    worker = live.models.find("tiny").worker
    stream = live.client().chat.completions.create(**ASKED, model="tiny", stream=True)
    assert next(iter(stream)).choices
    wait_until(lambda: worker.busy)
    results: list[Any] = []
    waiting = _ask(live, results)
    wait_until(lambda: worker.waiting == 1)
    live.server.should_exit = True
    with pytest.raises(openai.APIError, match="shuts down"):
        list(stream)
    waiting.join()
    assert [response.status_code for _, response in results] == [503]
    assert engine.cancelled.is_set()


def test_a_model_is_loaded_when_it_is_asked_for_and_goes_when_it_is_idle(start: Start) -> None:
    live = start(idle_seconds=0.3)
    model = live.models.find("tiny")
    assert model.worker.state == "unloaded"
    for _ in range(2):
        assert live.post(CHAT, ASKED).status_code == 200
        assert model.worker.state in ("loaded", "unloaded")
        wait_until(lambda: model.worker.state == "unloaded")
    assert live.get("/v1/models/tiny").json()["state"] == "unloaded"


def test_models_are_told_apart_by_name(bundle: Path, tiny_bundle: Callable[..., Path]) -> None:
    bundles = {"tiny": bundle, "org/other": tiny_bundle("mini-untied")}
    with serving(Settings(bundles, limits=QUICK, loading=Loading(threads=1)), load_engine) as live:
        client = live.client()
        assert [model.id for model in client.models.list()] == list(bundles)
        assert client.models.retrieve("org/other").id == "org/other"
        texts = {
            name: client.chat.completions.create(model=name, temperature=0, **ASKED).choices[0].message.content
            for name in bundles
        }
        assert texts["tiny"] != texts["org/other"]
        assert live.post(CHAT, ASKED).json()["error"]["param"] == "model"
        entry = live.get("/v1/models/tiny").json()
        assert entry["architecture"]["input_modalities"] == ["text"]
        assert entry["context_length"] == 16384
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nobody")


def test_devices_of_encoders_are_for_bundles_that_have_them(
    bundle: Path, tiny_multimodal_bundle: Callable[..., Path]
) -> None:
    loading = Loading(threads=1, vision_device="cpu", speech_device="cpu")
    for folder, encoders in ((bundle, set()), (tiny_multimodal_bundle(), {"vision", "speech"})):
        session = load_engine(Bundle.open("tiny", folder, loading))
        assert isinstance(session, edgephi.Session) and session.encoder_devices.keys() == encoders
        assert {reason for _, reason in session.encoder_devices.values()} <= {"asked for"}
        session.close()


def test_two_models_share_one_seat(bundle: Path) -> None:
    engines: dict[str, list[Script]] = {"one": [], "two": []}
    loaded = most = 0
    lock = threading.Lock()

    class Counted(Script):
        def close(self) -> None:
            nonlocal loaded
            with lock:
                loaded -= 1
            super().close()

    def load(asked: Bundle) -> Engine:
        nonlocal loaded, most
        with lock:
            loaded += 1
            most = max(most, loaded)
        engines[asked.name].append(Counted([*spoken(asked.name), last()]))
        return engines[asked.name][-1]

    limits = Limits(places=20, loaded=1, grace_seconds=1.0)
    with serving(Settings({"one": bundle, "two": bundle}, limits=limits), load) as live:
        results: list[Any] = []
        threads = [_ask(live, results, model=name, user=name) for name in ("one", "two") * 5]
        for thread in threads:
            thread.join()
    assert [(user, reply.json()["choices"][0]["message"]["content"]) for user, reply in results] == [
        (user, user) for user, _ in results
    ]
    assert (most, loaded) == (1, 0)
    assert [engine for made in engines.values() for engine in made if not engine.closed.is_set()] == []


def test_seats_are_given_in_the_order_of_asking_and_can_be_given_up() -> None:
    seats = Seats(1)
    assert seats.take(lambda: False)
    order: list[int] = []

    def wait(number: int) -> None:
        if seats.take(lambda: False):
            order.append(number)
            seats.give_back()

    assert not seats.take(lambda: True)
    threads = []
    for number in range(3):
        threads.append(threading.Thread(target=wait, args=(number,)))
        threads[-1].start()
        wait_until(lambda expected=number + 1: len(seats._line) == expected)  # type: ignore[misc]
    assert seats.wanted
    seats.give_back()
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2]


def test_a_model_that_cannot_be_loaded_is_an_error_of_its_own_every_time(bundle: Path) -> None:
    calls = 0

    def fail(asked: Bundle) -> Engine:
        nonlocal calls
        calls += 1
        if calls == 3:
            return script(*spoken("fine"), last())
        raise BundleError(f"{asked.folder}/text.onnx is damaged")

    with serving(Settings({"tiny": bundle}, limits=QUICK, preload=True), fail) as live:
        wait_until(lambda: calls == 1)
        response = live.post(CHAT, ASKED)
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "model_load_failed"
        assert str(bundle) not in response.text
        assert response.headers["x-should-retry"] == "false"
        assert live.post(CHAT, ASKED).status_code == 200


def test_metrics_count_what_happened(start: Start) -> None:
    live = start(script(*spoken("a"), last()))
    for _ in range(3):
        live.post(CHAT, ASKED)
    live.post(CHAT, {**ASKED, "n": 7})
    live.get("/nowhere/at/all")
    text = live.get("/metrics").text
    for line in (
        'edgephi_requests_total{route="/v1/chat/completions",status="200"} 3.0',
        'edgephi_requests_total{route="/v1/chat/completions",status="400"} 1.0',
        'edgephi_requests_total{route="other",status="404"} 1.0',
        'edgephi_answers_total{finish="stop",model="tiny"} 3.0',
        'edgephi_tokens_total{kind="prompt",model="tiny"} 21.0',
        'edgephi_tokens_total{kind="cached",model="tiny"} 9.0',
        'edgephi_tokens_total{kind="answer",model="tiny"} 15.0',
        'edgephi_model_loaded{model="tiny"} 1.0',
        'edgephi_time_to_first_token_seconds_count{model="tiny"} 3.0',
    ):
        assert line in text
    assert "hello" not in text


def test_health_tells_of_models(start: Start) -> None:
    live = start(script(*spoken("a"), last()))
    assert live.get("/health").json() == {
        "status": "ok",
        "models": {"tiny": {"state": "unloaded", "busy": False, "waiting": 0, "device": "cpu"}},
    }


def test_every_response_has_an_id(start: Start) -> None:
    live = start(script(*spoken("a"), last()))
    ids = {live.get("/health").headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3 and all(name.startswith("req_") for name in ids)


def test_clients_in_parallel_get_what_they_would_get_alone(live: Live) -> None:
    prompts = [f"{word} and so on" for word in ("red", "green", "blue", "white")]

    def asked(prompt: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"messages": messages, "temperature": 1.0, "seed": 7, "max_tokens": 12, "user": prompt}

    alone = [live.post(CHAT, asked(prompt)).json()["choices"] for prompt in prompts]
    results: list[Any] = []
    threads = [_ask(live, results, **asked(prompt)) for prompt in prompts]
    for thread in threads:
        thread.join()
    together = {user: response.json()["choices"] for user, response in results}
    assert [together[prompt] for prompt in prompts] == alone
