"""A conversation on a terminal: the program in a process and on a terminal of its own, driven by keys."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]
PROMPT = "\n>>> "


@pytest.fixture
def talk(terminal: Open, bundle: Path) -> Any:
    opened = terminal("run", bundle, "-n", "6")
    opened.wait_for("/help for help")
    opened.wait_for(">>> ")
    return opened


def _ask(talk: Any, text: str) -> str:
    talk.type(f"{text}\n")
    shown: str = talk.wait_for(PROMPT)
    return shown


def test_turns_add_up_and_the_cache_is_used(talk: Any) -> None:
    assert "answer 6 tokens" not in _ask(talk, "Hello")
    first = int(re.search(r"prompt (\d+) tokens", _ask(talk, "/stats"))[1])  # type: ignore[index]
    second = _ask(talk, "Hello again")
    prompt, cached = map(int, re.search(r"prompt (\d+) tokens, (\d+) cached", second).groups())  # type: ignore[union-attr]
    # The last token of a prompt is always computed; the answer before it may read back as other tokens.
    assert prompt > cached >= first - 1
    assert "(forgotten)" in _ask(talk, "/clear")
    alone = _ask(talk, "Hello again")
    assert int(re.search(r"prompt (\d+) tokens", alone)[1]) < prompt  # type: ignore[index]
    talk.type("/bye\n")
    assert talk.end() == 0


def test_ctrl_d_leaves(talk: Any) -> None:
    talk.type("\x04")
    assert talk.end() == 0


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation(talk: Any, endless: str) -> None:
    _ask(talk, "/set max_tokens 8000")
    talk.type(f"{endless}\n")
    talk.wait_for(f"{endless}\n")
    talk.wait_for_anything()
    talk.type("\x03")
    assert "(stopped)" in talk.wait_for(PROMPT)
    _ask(talk, "/set max_tokens 3")
    _ask(talk, "/stats")
    assert "answer 3 tokens" in _ask(talk, "And again")
    talk.type("half a line")
    talk.wait_for("half a line")
    talk.interrupt_until("(Ctrl-D or /bye leaves)")
    talk.wait_for(">>> ")
    talk.type("/bye\n")
    assert talk.end() == 0


def test_several_lines_between_quotes_are_one_question(talk: Any, tmp_path: Path) -> None:
    talk.type('"""one\n')
    talk.wait_for("... ")
    talk.type('two"""\n')
    talk.wait_for(PROMPT)
    _ask(talk, f"/save {tmp_path / 'talk.json'}")
    messages = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"]
    assert messages[0] == {"role": "user", "content": "one\ntwo"} and messages[1]["role"] == "assistant"


def test_settings_are_checked_when_they_are_made(talk: Any) -> None:
    assert "error: there is no setting 'heat'" in _ask(talk, "/set heat 1")
    assert "error: temperature is 'hot'; it must be a number" in _ask(talk, "/set temperature hot")
    assert "error: " in _ask(talk, "/set top_p 7")
    assert re.search(r"top_p +default", _ask(talk, "/set"))
    _ask(talk, "/set top-p 0.5")
    assert re.search(r"top_p +0\.5", _ask(talk, "/set"))
    _ask(talk, "/set top_p default")
    assert re.search(r"top_p +default", _ask(talk, "/set"))


def test_thinking_is_set_in_between_and_leaves_the_conversation(
    terminal: Open, thinking_bundle: Callable[..., Path]
) -> None:
    talk = terminal("run", thinking_bundle(), "-n", "20", "--stats", "--seed", "1")
    talk.wait_for(">>> ")
    assert "thinking: as the model likes, at most 6 tokens" in _ask(talk, "/think 6")
    assert "thinking: on, at most 6 tokens" in _ask(talk, "/think on")
    first = _ask(talk, "Hello")
    assert "answer 20 tokens, 6 of them thought" in first
    assert "thinking: on, at most 6 tokens, hidden" in _ask(talk, "/think hide")
    assert "thinking: off, at most 6 tokens, hidden" in _ask(talk, "/think off")
    assert "of them thought" not in _ask(talk, "Hello again")
    assert "none of on, off, auto" in _ask(talk, "/think maybe")
    talk.type("/bye\n")
    assert talk.end() == 0


def test_a_model_that_cannot_think_says_so(talk: Any) -> None:
    assert "was not trained to think" in _ask(talk, "/think on")
    assert "thinking: as the model likes" in _ask(talk, "/think")


def test_a_conversation_is_saved_taken_back_and_loaded(talk: Any, terminal: Open, bundle: Path, tmp_path: Path) -> None:
    saved, other = tmp_path / "talk.json", tmp_path / "other.txt"
    other.write_text("not a conversation", encoding="utf-8")
    assert "system: Be brief" in _ask(talk, "/system Be brief")
    _ask(talk, "Hello")
    assert "saved 2 messages" in _ask(talk, f"/save {saved}")
    assert "saved 2 messages" in _ask(talk, f"/save {saved}")
    assert "error: " in _ask(talk, f"/save {other}") and other.read_text(encoding="utf-8") == "not a conversation"
    assert [message["role"] for message in json.loads(saved.read_text(encoding="utf-8"))["messages"]] == [
        "system",
        "user",
        "assistant",
    ]
    _ask(talk, "/undo")
    assert "error: there is no question yet" in _ask(talk, "/retry")
    assert "loaded 2 messages" in _ask(talk, f"/load {saved}")
    assert "system: Be brief" in _ask(talk, "/system")
    assert "error" not in _ask(talk, "/retry")
    assert "error: " in _ask(talk, f"/load {other}") and "error: " in _ask(talk, "/load nowhere.json")


def test_unknown_commands_and_errors_keep_the_conversation(talk: Any) -> None:
    assert "error: there is no command /hlep; /help lists them" in _ask(talk, "/hlep")
    assert "error: " in _ask(talk, "word " * 20_000)  # beyond the context
    assert "error: this bundle takes text, no image" in _ask(talk, "/image sign.png")
    assert "Phi3ForCausalLM" in _ask(talk, "/show")
    assert "/retry" in _ask(talk, "/help") and "error" not in _ask(talk, " /etc is a folder")


def test_what_was_typed_is_kept_for_the_owner_only(talk: Any, terminal: Open, bundle: Path, tmp_path: Path) -> None:
    _ask(talk, "remember me")
    talk.type("/bye\n")
    assert talk.end() == 0
    history = tmp_path / "state" / "edgephi" / "history"
    assert "remember me" in history.read_text(encoding="utf-8") and stat.S_IMODE(history.stat().st_mode) == 0o600
    again = terminal("run", bundle, "--no-history", "-n", "3")
    again.wait_for(">>> ")
    _ask(again, "forget me")
    again.type("\x04")
    assert again.end() == 0
    assert "forget me" not in history.read_text(encoding="utf-8")


def test_a_conversation_takes_no_option_of_a_single_answer(terminal: Open, bundle: Path) -> None:
    opened = terminal("run", bundle, "--json")
    assert "error: a conversation takes none of --raw, --json" in opened.wait_for("\n")
    assert opened.end() == 2
