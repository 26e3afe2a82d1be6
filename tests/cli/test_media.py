"""Pictures, recordings and the microphone: with one question on the command line, and in a conversation.

No machine that tests run on has a microphone: a module of sounddevice's name gives the samples.
"""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgephi
from edgephi import MissingDependency, RequestError
from edgephi.runtime.cli.microphone import record

Open = Callable[..., Any]
Program = Callable[..., Any]
PROMPT = "\n>>> "
FAKE = '''
class PortAudioError(Exception):
    pass

def query_devices(kind):
    return {"default_samplerate": 8000.0}

class RawInputStream:
    def __init__(self, samplerate, channels, dtype, callback):
        assert (channels, dtype) == (1, "int16")
        self.callback = callback
    def __enter__(self):
        self.callback(bytes(range(256)) * 40, 5120, None, 0)
    def __exit__(self, *error):
        pass
'''


@pytest.fixture(scope="module")
def eyes_and_ears(tiny_multimodal_bundle: Callable[..., Path]) -> Path:
    return tiny_multimodal_bundle()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "sign.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (448, 448, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "my question.wav"
    with wave.open(str(path), "wb") as writer:
        writer.setparams((1, 2, 8000, 0, "NONE", ""))
        writer.writeframes(np.random.default_rng(1).normal(0, 3000, 16_000).astype("<i2").tobytes())
    return path


@pytest.fixture
def talk(terminal: Open, eyes_and_ears: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "sounddevice.py").write_text(FAKE, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fakes"))
    opened = terminal("run", eyes_and_ears, "-n", "4")
    opened.wait_for(">>> ")
    return opened


def ask(talk: Any, text: str) -> str:
    talk.type(f"{text}\n")
    shown: str = talk.wait_for(PROMPT)
    return shown


def saved(talk: Any, path: Path) -> list[dict[str, Any]]:
    ask(talk, f"/save {path}")
    messages: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["messages"]
    return messages


@pytest.mark.parametrize("order", [("-i", "-a"), ("-a", "-i")])
def test_media_of_the_command_line_reach_the_session(
    order: tuple[str, str], eyes_and_ears: Path, picture: Path, recording: Path, program: Program
) -> None:
    paths = {"-i": picture, "-a": recording}
    media = [word for option in order for word in (option, paths[option])]
    done = program("run", eyes_and_ears, "What is it?", *media, "-i", picture, "-n", "6", "--json")
    content: list[dict[str, str]] = [
        {"type": "image", "image": str(picture)}, {"type": "image", "image": str(picture)},
        {"type": "audio", "audio": str(recording)}, {"type": "text", "text": "What is it?"},
    ]
    with edgephi.load(eyes_and_ears) as phi:
        reply = phi.chat([{"role": "user", "content": content}], max_tokens=6)
    shown = json.loads(done.out)
    assert done.code == 0 and shown["token_ids"] == list(reply.token_ids)
    assert shown["usage"]["prompt_tokens"] == reply.usage.prompt_tokens > 2 * 545 + 25


def test_a_spoken_question_needs_no_text(eyes_and_ears: Path, recording: Path, program: Program) -> None:
    done = program("run", eyes_and_ears, "-a", recording, "-n", "4", "--json")
    with edgephi.load(eyes_and_ears) as phi:
        content = [{"type": "audio", "audio": str(recording)}]
        reply = phi.chat([{"role": "user", "content": content}], max_tokens=4)
    assert json.loads(done.out)["token_ids"] == list(reply.token_ids)


def test_encoders_can_have_devices_of_their_own(eyes_and_ears: Path, picture: Path, program: Program) -> None:
    asked = ("run", eyes_and_ears, "What?", "-i", picture, "-n", "2")
    done = program(*asked, "--vision-device", "cpu", "--stats", "--json")
    assert json.loads(done.out)["usage"]["encoder_devices"] == {"vision": "cpu"} and ", vision on cpu, " in done.err
    refused = program(*asked, "--vision-device", "qnn")
    assert refused.code == 1 and refused.out == "" and refused.err.count("\n") == 1
    assert "pictures: device 'qnn' cannot run this bundle: it needs graphs with " in refused.err
    assert "export the checkpoint with --device qnn" in refused.err


def test_media_that_cannot_be_read_are_one_line(eyes_and_ears: Path, recording: Path, program: Program) -> None:
    for option, path, complaint in (("-i", recording, "my question.wav"), ("-a", "nowhere.wav", "nowhere.wav")):
        done = program("run", eyes_and_ears, "Hi", option, path)
        assert done.code == 1 and done.out == "" and complaint in done.err and done.err.count("\n") == 1
    assert "prompt is empty" in program("run", eyes_and_ears, "", "-i", recording).err


def test_media_go_with_the_next_question_only(talk: Any, picture: Path, recording: Path, tmp_path: Path) -> None:
    ask(talk, "/stats")
    first = ask(talk, f'/audio "{recording}"')
    assert re.search(r"\(attached my question\.wav, 25 tokens; now ask or press Enter", first)
    assert "(attached sign.png, 545 tokens; now ask)" in ask(talk, f"/image {picture}")
    counts = [int(re.search(r"prompt (\d+) tokens", ask(talk, text))[1]) for text in ("What is it?", "More")]  # type: ignore[index]
    assert 570 < counts[0] < counts[1] < counts[0] + 40
    messages = saved(talk, tmp_path / "talk.json")
    assert messages[0]["content"] == [
        {"type": "image", "image": str(picture)}, {"type": "audio", "audio": str(recording)},
        {"type": "text", "text": "What is it?"},
    ]
    assert messages[2]["content"] == "More"
    assert "error" not in ask(talk, "/retry") and "loaded 4 messages" in ask(talk, f"/load {tmp_path / 'talk.json'}")
    assert "error" not in ask(talk, "And now?")


def test_a_wrong_path_keeps_the_conversation(talk: Any, picture: Path, recording: Path, tmp_path: Path) -> None:
    ask(talk, "/stats")
    assert re.search(r"error: .*nowhere\.png", ask(talk, "/image nowhere.png"))
    wrong = ask(talk, f"/image {recording}")
    assert "error: image" in wrong and "messages[" not in wrong
    assert "error: " in ask(talk, "/audio") and "error: " in ask(talk, f"/audio {tmp_path}")
    assert int(re.search(r"prompt (\d+) tokens", ask(talk, "Hello"))[1]) < 30  # type: ignore[index]
    ask(talk, f"/image {picture}")
    assert "(took away 1)" in ask(talk, "/detach")
    assert int(re.search(r"prompt (\d+) tokens", ask(talk, "Hello"))[1]) < 60  # type: ignore[index]
    for number in range(31):  # more than the context holds
        assert "(attached sign.png, 545 tokens" in ask(talk, f"/image {picture}"), number
    overflow = ask(talk, "What are they?")
    assert "error: " in overflow and "(still attached: 31; /detach takes that away)" in overflow
    assert "(forgotten)" in ask(talk, "/clear") and "error" not in ask(talk, "Hello")


def test_media_of_the_command_line_go_with_the_first_question(
    terminal: Open, eyes_and_ears: Path, picture: Path
) -> None:
    opened = terminal("run", eyes_and_ears, "-n", "3", "-i", picture, "--stats")
    assert "attached sign.png" in opened.wait_for(">>> ")
    assert int(re.search(r"prompt (\d+) tokens", ask(opened, "What is it?"))[1]) > 545  # type: ignore[index]


def test_a_question_is_spoken(talk: Any, tmp_path: Path) -> None:
    talk.type("/mic\n")
    talk.wait_for("recording; Enter ends it")
    talk.type("\n")
    assert re.search(r"attached 0\.6 s of speech, \d+ tokens", talk.wait_for(PROMPT))
    ask(talk, "")
    (part,) = saved(talk, tmp_path / "talk.json")[0]["content"]
    head, _, data = part["audio"].partition(",")
    assert part["type"] == "audio" and head == "data:audio/wav;base64"
    with wave.open(io.BytesIO(base64.b64decode(data))) as reader:
        assert reader.getparams()[:4] == (1, 2, 8000, 5120) and reader.readframes(5120) == bytes(range(256)) * 40
    assert "attached 0.6 s of speech" in ask(talk, "/mic 0.05")
    # Not without seconds: Python's input() may sleep through a Ctrl-C of the very moment in which it begins.
    talk.type("/mic 5\n")
    talk.wait_for("recording for 5 s")
    talk.type("\x03")
    assert "(stopped)" in talk.wait_for(PROMPT)
    assert "(took away 1)" in ask(talk, "/detach")
    for wrong in ("0", "-1", "soon", "nan", "601"):
        assert "error: /mic got" in ask(talk, f"/mic {wrong}")


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("sounddevice")
    exec(FAKE, module.__dict__)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def test_a_recording_is_what_came_while_it_waited(sounddevice: Any) -> None:
    ended: list[str] = []
    speech = record(lambda: ended.append("waited"))
    assert ended == ["waited"] and speech.seconds == 0.64 and not speech.gaps and not speech.silent


@pytest.mark.parametrize(("samples", "status", "gaps", "silent"), [
    ([0, 3, -3, 0], 0, False, True), ([0, 5, 0, 0], 0, False, False), ([0, 0, -4, 0], 1, True, False),
])
def test_gaps_and_silence_are_told(
    samples: list[int], status: int, gaps: bool, silent: bool, sounddevice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.array(samples, "<i2").tobytes()
    enter = lambda stream: stream.callback(data, len(samples), None, status)  # noqa: E731
    monkeypatch.setattr(sounddevice.RawInputStream, "__enter__", enter)
    speech = record(lambda: None)
    assert (speech.gaps, speech.silent) == (gaps, silent)


def test_a_microphone_that_is_not_there_is_an_error(sounddevice: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounddevice.RawInputStream, "__enter__", lambda stream: None)
    with pytest.raises(RequestError, match="nothing came from the microphone"):
        record(lambda: None)

    def absent(kind: str) -> None:
        raise sounddevice.PortAudioError("Error querying device -1")

    monkeypatch.setattr(sounddevice, "query_devices", absent)
    with pytest.raises(RequestError, match=r"no microphone can be opened .*device -1"):
        record(lambda: None)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingDependency, match=r'pip install "edgephi\[microphone\]"'):
        record(lambda: None)

    def without_port_audio(name: str) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("edgephi.runtime.cli.microphone.importlib", SimpleNamespace(import_module=without_port_audio))
    with pytest.raises(MissingDependency, match="PortAudio"):
        record(lambda: None)


def test_a_bundle_for_text_takes_no_media(terminal: Open, bundle: Path) -> None:
    opened = terminal("run", bundle, "-n", "3")
    opened.wait_for(">>> ")
    for command, kind in (("/image x.png", "image"), ("/audio x.wav", "audio"), ("/mic", "audio")):
        assert f"error: this bundle takes text, no {kind}" in ask(opened, command)
