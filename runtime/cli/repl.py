"""A conversation on a terminal: turns, commands that begin with a slash, a history of what was typed.

Boundary: keeps the messages and the settings; answers are made and shown by answering.py. The session recognises what
a conversation shares with the turn before and does not compute it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ..errors import EdgePhiError, RequestError
from ..tools import ToolCall, answer_message
from .answering import Finished, Shown, answer, harmless, note, note_end, statistics
from .attachments import Attachments
from .settings import Settings
from .show import facts, has_template

if TYPE_CHECKING:
    from ..session import Session

HISTORY_LINES = 1000
QUOTES = '"""'
HELP = f"""\
/clear              forget the conversation
/undo               forget the last question and its answer
/retry              answer the last question again
/image FILE         show a picture with the next question
/audio FILE         play a recording with the next question
/mic [SECONDS]      speak into the microphone: the question, or what goes with it
/detach             take away what goes with the next question
/system [TEXT]      show or set the instructions; the conversation starts anew
/set [NAME VALUE]   show or change a setting: temperature, top_p, max_tokens, seed, stop, ...
/think [HOW]        think before answers: on, off, auto, or at most as many tokens; hide or show thoughts
/show               what this bundle is
/stats              say what each answer cost, or stop saying it
/save FILE          write the conversation to a file
/load FILE          go on with a conversation from a file
/help               this list
/bye                leave, as Ctrl-D does
{QUOTES}                 begins and ends a text of several lines
Ctrl-C              stops an answer"""


class Repl:
    """One conversation; `talk` returns when the user leaves."""

    def __init__(
        self, session: Session, bundle: Path, settings: Settings, *, system: str | None, statistics: bool, history: bool
    ) -> None:
        self._session = session
        self._bundle = bundle
        self._settings = settings
        self._system = system
        self._statistics = statistics
        self._last: Finished | None = None
        self._turns: list[dict[str, Any]] = []
        self._attachments = Attachments(session)
        self._history = History.open() if history else None
        self._commands: dict[str, Callable[[str], bool]] = {
            "/clear": self._clear,
            "/undo": self._undo,
            "/retry": self._retry,
            "/system": self._set_system,
            "/set": self._set,
            "/think": self._think,
            "/image": self._attach_image,
            "/audio": self._attach_audio,
            "/mic": self._attach_speech,
            "/detach": self._detach,
            "/show": self._show,
            "/stats": self._toggle_statistics,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
            "/?": self._help,
            "/bye": self._leave,
            "/exit": self._leave,
            "/quit": self._leave,
        }

    def talk(self) -> None:
        """Take turns until the user leaves."""
        context, device = self._session.context, self._session.device
        note(f"{self._bundle.name}: up to {context} tokens on {device}. /help for help, /bye to leave.")
        try:
            going_on = True
            while going_on:
                # A Ctrl-C too many, while the one before is being answered, is not meant to leave.
                with contextlib.suppress(KeyboardInterrupt):
                    going_on = self._turn()
        finally:
            if self._history is not None:
                self._history.save()

    def _turn(self) -> bool:
        """One question or command; False to leave."""
        try:
            text = _ask()
        except EOFError:
            click.echo()
            return False
        except KeyboardInterrupt:
            click.echo()
            note("(Ctrl-D or /bye leaves)")
            return True
        if not text.strip() and not self._attachments.ask:
            return True
        try:
            if text.startswith("/"):
                return self._command(text)
            self._answer(self._attachments.content(text))
            self._attachments.clear()
        except EdgePhiError as error:
            click.echo(f"error: {' '.join(str(error).split())}", err=True)
            if not text.startswith("/") and len(self._attachments):
                note(f"(still attached: {len(self._attachments)}; /detach takes that away)")
        except KeyboardInterrupt:  # before an answer began, or a second time while it was being stopped
            click.echo()
            note("(stopped)")
        return True

    def _command(self, line: str) -> bool:
        name, _, rest = line.strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            raise RequestError(
                f"there is no command {name}; /help lists them. A question may begin with a space instead"
            )
        return command(rest.strip())

    def _answer(self, content: object) -> None:
        """Answer a question; the conversation grows only if something was said. What tools return is asked for."""
        before = len(self._turns)
        self._turns.append({"role": "user", "content": content})
        try:
            while (calls := self._say()) and (results := _results(calls)):
                self._turns += results
        except BaseException:
            del self._turns[before:]
            raise
        if self._turns[-1]["role"] != "assistant":
            del self._turns[before:]

    def _say(self) -> Sequence[ToolCall]:
        """One answer to the conversation so far; the tools that it calls."""
        shown = Shown(thoughts=not self._settings.hide_thinking)
        finished = answer(self._session, self._messages(), self._settings, show=shown)
        self._last = finished
        note_end(finished)
        if self._statistics:
            note(statistics(finished))
        if not (finished.text or finished.tool_calls) and finished.interrupted:
            return ()
        self._turns.append(answer_message(finished.text, finished.tool_calls))
        return finished.tool_calls

    def _messages(self) -> list[dict[str, Any]]:
        return self._turns if self._system is None else [{"role": "system", "content": self._system}, *self._turns]

    def attach(self, kind: str, path: Path) -> None:
        """Attach a picture or a recording to the next question. Raises RequestError, MediaError."""
        self._attachments.add_file(kind, path)

    def _attach_image(self, rest: str) -> bool:
        self.attach("image", _path(rest))
        return True

    def _attach_audio(self, rest: str) -> bool:
        self.attach("audio", _path(rest))
        return True

    def _attach_speech(self, rest: str) -> bool:
        self._attachments.add_speech(rest)
        return True

    def _detach(self, rest: str) -> bool:
        note(f"(took away {len(self._attachments)})")
        self._attachments.clear()
        return True

    def _clear(self, rest: str) -> bool:
        self._turns = []
        self._attachments.clear()
        self._session.clear()
        note("(forgotten)")
        return True

    def _undo(self, rest: str) -> bool:
        if not self._turns:
            raise RequestError("there is no question yet to take back")
        del self._turns[self._last_question() :]
        return True

    def _retry(self, rest: str) -> bool:
        if not self._turns:
            raise RequestError("there is no question yet to answer again")
        before, last = self._turns, self._last_question()
        self._turns = before[:last]
        try:
            self._answer(before[last]["content"])
        except BaseException:
            self._turns = before
            raise
        return True

    def _last_question(self) -> int:
        return max(index for index, message in enumerate(self._turns) if message["role"] == "user")

    def _set_system(self, rest: str) -> bool:
        if rest:
            self._system, self._turns = (None if rest in ("none", "default") else rest), []
        note(f"system: {self._system or 'none'}")
        return True

    def _set(self, rest: str) -> bool:
        name, _, value = rest.partition(" ")
        if not name:
            note("\n".join(self._settings.lines()))
            return True
        if not value:
            raise RequestError("give a name and a value, as in '/set temperature 0.7', or 'default' for the value")
        self._use(self._settings.changed(name, value.strip()))
        return True

    def _think(self, rest: str) -> bool:
        if rest:
            self._use(self._settings.with_thinking(rest))
        note(self._settings.thinking())
        return True

    def _use(self, changed: Settings) -> None:
        # Made but not begun: the session checks the values, and nothing is computed.
        self._session.stream("?", **changed.options())
        self._settings = changed

    def _toggle_statistics(self, rest: str) -> bool:
        self._statistics = not self._statistics
        note(f"statistics are {'on' if self._statistics else 'off'}")
        if self._statistics and self._last is not None:
            note(statistics(self._last))
        return True

    def _save(self, rest: str) -> bool:
        path = _path(rest)
        if path.exists():
            _read_conversation(path)  # only a conversation may be written over
        path.write_text(
            json.dumps({"messages": self._messages()}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
        note(f"saved {len(self._turns)} messages to {path}")
        return True

    def _load(self, rest: str) -> bool:
        messages = _read_conversation(_path(rest))
        system = messages[0]["content"] if messages and messages[0]["role"] == "system" else None
        self._system, self._turns = system, messages[system is not None :]
        note(f"loaded {len(self._turns)} messages")
        return True

    def _show(self, rest: str) -> bool:
        for name, text in facts(self._session.manifest, has_template=has_template(self._bundle)):
            note(f"{name:14}{text}")
        return True

    def _help(self, rest: str) -> bool:
        click.echo(HELP)
        return True

    def _leave(self, rest: str) -> bool:
        return False


class History:
    """What was typed before, for the arrow keys; a file that only its owner can read."""

    def __init__(self, readline: ModuleType, path: Path) -> None:
        self._readline = readline
        self._path = path

    @classmethod
    def open(cls) -> History | None:
        """Load the history; None where Python has no readline (Windows) or nobody types."""
        if not sys.stdin.isatty():
            return None
        try:
            import readline
        except ImportError:
            return None
        import platformdirs

        path = Path(platformdirs.user_state_dir("edgephi", appauthor=False)) / "history"
        readline.set_history_length(HISTORY_LINES)
        readline.set_auto_history(True)
        try:
            readline.read_history_file(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            note(f"(the history in {path} cannot be read: {error.strerror})")
        return cls(readline, path)

    def save(self) -> None:
        """Write it back; a file that cannot be written is said and no reason to fail."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
            self._readline.write_history_file(self._path)
        except OSError as error:
            note(f"(the history in {self._path} cannot be written: {error.strerror})")


def _ask() -> str:
    """One input of the user. Raises EOFError at its end."""
    text = input(">>> ")
    if not text.lstrip().startswith(QUOTES):
        return text
    text = text.lstrip().removeprefix(QUOTES)
    while not text.rstrip().endswith(QUOTES):
        text += "\n" + input("... ")
    return text.rstrip().removesuffix(QUOTES)


def _results(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """What the tools return, as the user types it; nothing once a line is empty."""
    results = []
    for call in calls:
        arguments = ", ".join(f"{name}={json.dumps(value)}" for name, value in call.arguments.items())
        text = input(harmless(f"{call.name}({arguments}) returns: "))
        if not text.strip():
            note("(no result)")
            return []
        results.append({"role": "tool", "content": text})
    return results


def _path(text: str) -> Path:
    if not text:
        raise RequestError("give the name of a file, as in '/save talk.json'")
    return Path(text.strip("\"'")).expanduser()


def _message(item: dict[str, Any]) -> dict[str, Any]:
    calls = {"tool_calls": item["tool_calls"]} if item.get("tool_calls") else {}
    return {"role": str(item["role"]), "content": item["content"], **calls}


def _read_conversation(path: Path) -> list[dict[str, Any]]:
    """The messages of a saved conversation. Raises RequestError."""
    try:
        raw = json.loads(path.read_bytes())
        messages = [_message(item) for item in raw["messages"]]
    except OSError as error:
        raise RequestError(f"{path} cannot be read ({error.strerror}); give a file that /save wrote") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RequestError(f"{path} is no saved conversation; give a file that /save wrote") from error
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    # results of tools and the answer to them belong to the answer that called them
    talk = [role for index, role in enumerate(turns) if role != "tool" and turns[index - 1 : index] != ["tool"]]
    if talk != ["user", "assistant"] * (len(talk) // 2) or turns[-1:] == ["tool"]:
        raise RequestError(f"{path} does not alternate between user and assistant; give a file that /save wrote")
    return messages
