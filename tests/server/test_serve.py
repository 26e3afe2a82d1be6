"""The verb: what it refuses, what it says, and how it ends with streams open."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from edgephi.__main__ import main

from .conftest import PATIENCE

KEY = "a-secret-key"


@contextmanager
def _serve(*arguments: str | Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program in another process, and the base URL that it told."""
    command = [sys.executable, "-m", "edgephi", "serve", "--port", "0", "--json", "-t", "1", *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            assert process.stdout is not None
            told = process.stdout.readline()
            yield process, json.loads(told)["url"] if told else ""
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """(arguments) → exit code and stderr of a server that does not start."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["serve", *map(str, arguments)])
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return run


def test_sigterm_ends_open_streams_with_an_error_and_the_program_well(bundle: Path) -> None:
    with _serve(bundle, "--quiet", "--keep-alive", "-1") as (process, url):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
        # Sixty answers as long as the context allows: longer than the server's patience.
        stream = client.completions.create(
            model=bundle.name, prompt=["hello"] * 60, max_tokens=12000, stream=True, temperature=1.0
        )
        assert next(iter(stream)).choices
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="shut"):
            for _ in stream:
                pass
        client.close()
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors


def test_ctrl_c_ends_it_too(bundle: Path) -> None:
    with _serve(f"phi={bundle}") as (process, url):
        assert httpx.get(f"{url}/models").json()["data"][0]["id"] == "phi"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert "Traceback" not in errors
        assert f"OPENAI_BASE_URL={url}" in errors
        assert f"chat page: {url.removesuffix('v1')}\n" in errors


def test_a_key_is_asked_for_and_never_shown(bundle: Path) -> None:
    with _serve(bundle, EDGEPHI_API_KEY=KEY) as (process, url):
        assert httpx.get(f"{url}/models").status_code == 401
        headers = {"authorization": f"Bearer {KEY}"}
        assert httpx.get(f"{url}/models", headers=headers).status_code == 200
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=PATIENCE)
        assert KEY not in output + errors


def test_other_machines_are_not_served_without_a_key(
    bundle: Path, refusal: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGEPHI_API_KEY", raising=False)
    code, errors = refusal(bundle, "--host", "0.0.0.0")
    assert code == 1
    assert "EDGEPHI_API_KEY" in errors and errors.count("\n") == 1


def test_a_port_in_use_is_one_line(bundle: Path, refusal: Callable[..., tuple[int, str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, errors = refusal(bundle, "--port", str(port))
    assert code == 1
    assert str(port) in errors and errors.count("\n") == 1


def test_a_folder_that_is_no_bundle_is_one_line(tmp_path: Path, refusal: Callable[..., tuple[int, str]]) -> None:
    code, errors = refusal(tmp_path)
    assert code == 1
    assert "no bundle" in errors and errors.count("\n") == 1


def test_two_bundles_of_one_name_are_refused(bundle: Path, refusal: Callable[..., tuple[int, str]]) -> None:
    code, errors = refusal(bundle, bundle)
    assert code == 1
    assert "NAME=FOLDER" in errors


def test_hosts_of_media_are_read_before_anything_is_served(
    bundle: Path, refusal: Callable[..., tuple[int, str]]
) -> None:
    code, errors = refusal(bundle, "--allow-media-from", "https://pictures.example/*")
    assert code == 1
    assert "names no host to fetch media from" in errors and errors.count("\n") == 1
    with _serve(bundle, "--quiet", "--allow-media-from", "pictures.example") as (process, url):
        part = {"type": "image_url", "image_url": {"url": "https://other.example/a.png"}}
        asked = {"messages": [{"role": "user", "content": [part]}]}
        # This bundle takes no pictures, which is said first: what a server of one that does says is in test_remote.py.
        assert "takes text only" in httpx.post(f"{url}/chat/completions", json=asked).json()["error"]["message"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_key_file_without_keys_is_refused(
    bundle: Path, tmp_path: Path, refusal: Callable[..., tuple[int, str]]
) -> None:
    file = tmp_path / "keys"
    file.write_text("\n \n")
    code, errors = refusal(bundle, "--api-key-file", file)
    assert code == 1 and "no API key" in errors


def test_a_device_for_encoders_that_no_bundle_has_is_refused(
    bundle: Path, refusal: Callable[..., tuple[int, str]]
) -> None:
    code, errors = refusal(bundle, "--speech-device", "cpu")
    assert code == 1 and "leave out --speech-device" in errors and errors.count("\n") == 1


def test_help_names_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "serve" in capsys.readouterr().out
