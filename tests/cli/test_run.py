"""`edgephi run` with a prompt: what the session says goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edgephi

Program = Callable[..., Any]
SHORT = ("-n", "12")


@pytest.fixture(scope="module")
def session(bundle: Path) -> Iterator[edgephi.Session]:
    with edgephi.load(bundle) as opened:
        yield opened


def _line(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


def test_the_answer_is_the_sessions(bundle: Path, session: edgephi.Session, program: Program) -> None:
    done = program("run", bundle, "Hello", "there", *SHORT)
    assert done.code == 0
    assert done.out == _line(session.generate("Hello there", max_tokens=12).text)
    assert "cut after 12 tokens" in done.err and "error" not in done.err


def test_system_sampling_and_stop_reach_the_session(bundle: Path, session: edgephi.Session, program: Program) -> None:
    messages = [{"role": "system", "content": "Be"}, {"role": "user", "content": "Hello"}]
    expected = session.chat(
        messages,
        max_tokens=12,
        temperature=1.5,
        top_p=0.9,
        top_k=20,
        min_p=0.01,
        seed=7,
        repetition_penalty=1.1,
        stop=("q",),
    ).text
    done = program(
        "run",
        bundle,
        "Hello",
        *SHORT,
        "--system",
        "Be",
        "--temp",
        "1.5",
        "--top-p",
        "0.9",
        "--top-k",
        "20",
        "--min-p",
        "0.01",
        "--seed",
        "7",
        "--repetition-penalty",
        "1.1",
        "--stop",
        "q",
    )
    assert done.code == 0 and done.out == _line(expected)


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        ((), b"From a pipe\n", "From a pipe"),
        (("-",), b"\xef\xbb\xbfFrom a pipe\r\n", "From a pipe"),
        (("Summarize:",), b"a report\nof two lines\n", "Summarize:\n\na report\nof two lines"),
        (("Just this",), b" \n", "Just this"),
    ],
)
def test_stdin_is_the_prompt_or_goes_below_it(
    words: tuple[str, ...], stdin: bytes, prompt: str, bundle: Path, session: edgephi.Session, program: Program
) -> None:
    done = program("run", bundle, *words, *SHORT, "--json", stdin=stdin)
    reply = session.generate(prompt, max_tokens=12)
    assert json.loads(done.out)["token_ids"] == list(reply.token_ids)
    assert json.loads(done.out)["usage"]["prompt_tokens"] == reply.usage.prompt_tokens


def test_json_is_one_object(bundle: Path, session: edgephi.Session, program: Program) -> None:
    done = program("run", bundle, "Hello", *SHORT, "--json")
    shown = json.loads(done.out)
    reply = session.generate("Hello", max_tokens=12)
    assert shown["text"] == reply.text and shown["finish_reason"] == "length" and shown["bundle"] == str(bundle)
    assert shown["usage"]["completion_tokens"] == 12 and shown["tool_calls"] == [] and shown["thinking"] == ""
    assert done.out.count("\n") == 1


def test_stream_json_is_one_object_a_piece(bundle: Path, session: edgephi.Session, program: Program) -> None:
    pieces = [json.loads(line) for line in program("run", bundle, "Hello", *SHORT, "--stream-json").out.splitlines()]
    reply = session.generate("Hello", max_tokens=12)
    assert "".join(piece["text"] for piece in pieces) == reply.text
    assert [piece["token_id"] for piece in pieces if "token_id" in piece] == list(reply.token_ids)
    assert pieces[-1]["finish_reason"] == "length" and pieces[-1]["usage"]["completion_tokens"] == 12
    assert not any("usage" in piece for piece in pieces[:-1])


def test_thinking_is_asked_for_bounded_and_hidden(thinking_bundle: Callable[..., Path], program: Program) -> None:
    folder = thinking_bundle()
    options = ("Hello", "-n", "20")
    with edgephi.load(folder, threads=2) as session:
        reply = session.generate("Hello", think=True, think_budget=6, max_tokens=20)
        skipped = session.generate("Hello", think=False, max_tokens=20)
    assert reply.thinking and reply.text and reply.usage.thinking_tokens == 6
    done = program("run", folder, *options, "--think", "--think-budget", "6")
    assert done.out == _line(reply.text) and done.err.count("\n") == 1  # no terminal: the cut is noted, no thought
    shown = json.loads(program("run", folder, *options, "--think", "--think-budget", "6", "--json").out)
    assert (shown["thinking"], shown["text"]) == (reply.thinking, reply.text)
    assert (shown["usage"]["thinking_tokens"], shown["usage"]["completion_tokens"]) == (6, 20)
    assert shown["token_ids"] == list(reply.token_ids)
    hidden = json.loads(program("run", folder, *options, "--think", "--think-budget", "6", "--hide-thinking",
                                "--json").out)
    assert "thinking" not in hidden and hidden["text"] == reply.text and hidden["usage"]["thinking_tokens"] == 6
    lines = program("run", folder, *options, "--think", "--think-budget", "6", "--hide-thinking", "--stream-json").out
    assert {json.loads(line)["kind"] for line in lines.splitlines()} == {"answer"}
    assert json.loads(program("run", folder, *options, "--no-think", "--json").out)["text"] == skipped.text


def test_statistics_go_to_stderr(bundle: Path, program: Program) -> None:
    done = program("run", bundle, "Hello", *SHORT, "--stats")
    for part in ("prompt ", "tokens/s", "first token", "answer 12 tokens", "peak memory", "cpu"):
        assert part in done.err and part not in done.out


def test_raw_continues_the_prompt_with_its_control_tokens(
    bundle: Path, session: edgephi.Session, program: Program
) -> None:
    prompt = "<|user|>Hello<|end|><|assistant|>"
    raw = json.loads(program("run", bundle, prompt, *SHORT, "--raw", "--json").out)
    assert raw["token_ids"] == list(session.generate("Hello", max_tokens=12).token_ids)
    typed = json.loads(program("run", bundle, prompt, *SHORT, "--json").out)
    assert typed["usage"]["prompt_tokens"] > raw["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "complaint"),
    [
        (("Hi", "--json", "--stream-json"), b"", 2, "exclude each other"),
        (("Hi", "--raw", "--system", "x"), b"", 2, "--raw takes the prompt as it stands"),
        (("",), b"", 1, "is empty"),
        ((), b"", 1, "the prompt is empty"),
        (("-",), b"a\xff", 1, "stdin is not UTF-8 text (byte 0xff at 1)"),
        (("Hi", "-i", "sign.png"), b"", 1, "takes text only"),
        (("Hi", "-a", "talk.wav"), b"", 1, "takes text only"),
        (("Hi", "--temperature", "nan"), b"", 1, "temperature"),
        (("Hi", "--top-p", "2"), b"", 1, "top_p"),
        (("Hi", "-n", "0"), b"", 1, "max_tokens"),
        (("Hi", "--context", "4"), b"", 1, "context"),
        (("Hi", "--device", "toaster"), b"", 1, "device 'toaster' is not known"),
        (("Hi", "--threads", "0"), b"", 1, "threads"),
        (("Hi", "--think"), b"", 1, "was not trained to think"),
        (("Hi", "--think-budget", "-1"), b"", 1, "think_budget"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: tuple[str, ...], stdin: bytes, code: int, complaint: str, bundle: Path, program: Program
) -> None:
    done = program("run", bundle, *arguments, stdin=stdin)
    assert done.code == code and done.out == ""
    assert done.err.startswith("error: ") and complaint in done.err and done.err.count("\n") == 1


def test_ctrl_c_ends_an_answer_with_code_130(bundle: Path, endless: str) -> None:
    command = [sys.executable, "-m", "edgephi", "run", str(bundle), endless, "--stream-json", "-n", "8000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == b""
    assert json.loads(out.splitlines()[-1])["finish_reason"] == "cancelled"
